package kindling.internal

import java.util.concurrent.atomic.AtomicBoolean

import org.apache.spark.SPARK_VERSION
import org.slf4j.LoggerFactory

/**
 * Refuses a Spark that cannot work, with a sentence. It is mixed in before anything with a Param in it: in Spark 4.0.0 Param has
 * another constructor than before and after (SPARK-52259), so that the first Param would end in a NoSuchMethodError.
 */
private[kindling] trait SupportedSpark {
  SupportedSpark.check(SPARK_VERSION)
}

private[kindling] object SupportedSpark {
  private val log = LoggerFactory.getLogger("kindling.SupportedSpark")
  private val NewestMinor = 3
  private val Version = """4\.(\d+)\.(\d+).*""".r
  // For the process, as Spark's version is: one warning is enough, and every stage comes by here.
  private val warned = new AtomicBoolean(false)

  /** Fails below 4.0.1 and outside Spark 4; a Spark 4 that is newer than those tested may work, so it only gets a warning. */
  def check(version: String): Unit = version match {
    case Version("0", "0") =>
      throw new IllegalStateException(
        "Kindling cannot run on Spark 4.0.0, whose Param class is incompatible (SPARK-52259): use Spark 4.0.1 to 4.3"
      )
    case Version(minor, _) =>
      if (isUntested(minor) && warned.compareAndSet(false, true))
        log.warn(s"Kindling is tested with Spark 4.0.1 to 4.$NewestMinor, but this is Spark $version")
    case _ =>
      throw new IllegalStateException(s"Kindling runs on Spark 4.0.1 to 4.$NewestMinor, but this is Spark $version")
  }

  private def isUntested(minor: String): Boolean = minor.toIntOption.forall(_ > NewestMinor)
}
