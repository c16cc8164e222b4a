package kindling.internal

import java.util.{Collections, WeakHashMap}

import org.apache.spark.SparkContext
import org.apache.spark.scheduler.{SparkListener, SparkListenerUnpersistRDD}
import org.apache.spark.sql.Dataset
import org.apache.spark.storage.StorageLevel

import scala.jdk.CollectionConverters._

/**
 * The fits that Spark's CrossValidator and TrainValidationSplit make of one fold, so that they read it once.
 *
 * A validator calls `fit` once per param map, possibly from several threads, and says nothing of their end but by what it does to
 * the fold: it caches it before and takes it out of the cache afterwards. Both are looked for here, beside the validator's name on
 * the stack. When a fit fails, the validator fails too and leaves the fold in the cache; the rows are dropped with the failure then.
 */
private[kindling] object ValidatorFits {
  private val Validators = "org.apache.spark.ml.tuning."
  private val Futures = "scala.concurrent."

  // For the process, as a fold is known by nothing but its Dataset. Weak, for it is the validator's.
  private val folds = new WeakHashMap[Dataset[_], SharedIngest]
  private val heard = Collections.newSetFromMap(new WeakHashMap[SparkContext, java.lang.Boolean])

  /** Runs `fit`, with the rows that the fits of its fold share if a validator calls. */
  def around[T](data: Dataset[_])(fit: Option[SharedIngest] => T): T =
    if (!fromValidator || data.storageLevel == StorageLevel.NONE) fit(None)
    else {
      val ingests = of(data)
      // Closed after a failure; what still comes of that fold reads for itself.
      try fit(Some(ingests).filter(_.isOpen))
      catch {
        case e: Throwable =>
          ingests.close()
          throw e
      }
    }

  /** Whether it is a fit of a fold: validators make them in a future, and the last one, on all data, themselves. */
  private def fromValidator: Boolean = {
    val frames = StackWalker.getInstance().walk[List[String]](_.iterator.asScala.map(_.getClassName).toList)
    val outside = frames.dropWhile(!_.startsWith(Validators)).dropWhile(_.startsWith(Validators))
    // Scala's adapter of a function that gives a Double may be in between.
    outside.dropWhile(_.startsWith("scala.runtime.")).headOption.exists(_.startsWith(Futures))
  }

  private def of(data: Dataset[_]): SharedIngest = synchronized {
    val sc = data.sparkSession.sparkContext
    if (heard.add(sc)) sc.addSparkListener(new SparkListener {
      override def onUnpersistRDD(event: SparkListenerUnpersistRDD): Unit = closeUncached()
    })
    folds.computeIfAbsent(data, _ => new SharedIngest(wait = false))
  }

  private def closeUncached(): Unit = synchronized {
    folds.asScala.toSeq.filter(_._1.storageLevel == StorageLevel.NONE).foreach { case (data, ingests) =>
      folds.remove(data): Unit
      ingests.close()
    }
  }
}
