package kindling.internal

import org.apache.spark.SparkContext
import org.apache.spark.ml.kindling.{Cluster, EventChannel}
import org.apache.spark.rdd.RDD

/**
 * What the ingest of one DataFrame left: a handle per partition, persisted where the rows are, so that Spark knows that these executors
 * are in use (dynamic allocation does not take them away); and `reading`, which makes the shards of partitions that are lost again.
 */
private[kindling] final case class Ingested(
    ingest: Ingest,
    reading: RDD[IngestOutcome],
    handles: Seq[RDD[IngestOutcome]],
    stored: Seq[IngestOutcome.Stored]
) {

  /**
   * Reads the partitions again that lay on executors which are lost. They must give the same rows: what else was computed from the
   * data would not fit them, so a row could come twice or never.
   */
  def restored(lost: Place => Boolean, progress: IngestProgress, cancel: () => Unit): Ingested = {
    val gone = stored.filter(held => held.holdsRows && lost(held.place))
    if (gone.isEmpty) this
    else {
      val again = ingest.read(reading, gone.map(_.report.partition - ingest.firstPartition), progress, cancel)
      val others = again.stored.map(held => held.report.partition -> held).toMap
      gone.foreach(held => others.get(held.report.partition).foreach(Ingested.requireSame(held, _)))
      copy(
        handles = handles ++ again.handles,
        stored = stored.map(held => others.getOrElse(held.report.partition, held))
      )
    }
  }
}

private[kindling] object Ingested {
  def requireSame(first: IngestOutcome.Stored, again: IngestOutcome.Stored): Unit = {
    def rows(stored: IngestOutcome.Stored) = stored.report.rows + stored.report.validationRows
    val difference =
      if (rows(first) != rows(again)) Some(s"${rows(again)} rows instead of ${rows(first)}")
      else if (first.report.hash != again.report.hash) Some("other values, or rows in another order")
      else None
    difference.foreach { what =>
      throw new IllegalArgumentException(
        s"partition ${first.report.partition} was read again, as ${first.place} was lost, and gave $what: the data is not the same " +
          "each time it is computed (a random or time-dependent function, a shuffle that keeps no order, a source that changed); " +
          "write it to files or checkpoint it, and train on that"
      )
    }
  }
}

/**
 * The rows that a run trains on, in the executors. They are held under a name of their own (`run`) and open to whoever has its secret,
 * so that several runs may train on them.
 */
private[kindling] final class HeldRows private (
    sc: SparkContext,
    val run: String,
    val secret: String,
    val layout: FeatureLayout,
    val memory: ShardMemory,
    first: Seq[Ingested]
) {
  @volatile private var frames = first
  @volatile private var freed = Set.empty[Place]

  /** In the order of their partitions, those of a DataFrame to validate on behind the others. */
  def stored: Seq[IngestOutcome.Stored] = frames.flatMap(_.stored)

  /** Reads again what executors held that are lost since. One thread at a time. */
  def restore(cancel: () => Unit): Unit = {
    val registered = Cluster.executors(sc).map(_._1).toSet
    val lost = (place: Place) => !registered(place.executor)
    if (stored.exists(held => held.holdsRows && lost(held.place)))
      HeldRows.reading(sc, run, "the lost rows again") { progress =>
        frames = frames.map(_.restored(lost, progress, cancel))
      }
  }

  /** Ranks have dropped the rows beside them; nobody has to be sent there. */
  def freedBy(places: Iterable[Place]): Unit = freed ++= places

  /** Drops the rows wherever they are, and waits for that unless it is told not to. */
  def release(wait: Boolean = true): Unit = {
    frames.flatMap(_.handles).foreach(_.unpersist(): Unit)
    RunsOver.add(run)
    if (stored.exists(held => held.holdsRows && !freed(held.place))) ReleaseJob.run(sc, Seq(run), wait)
  }
}

private[kindling] object HeldRows {

  /** One DataFrame to read, and how. */
  final case class Frame(what: String, ingest: Int => Ingest, read: (Ingest, IngestProgress) => Ingested)

  /** Reads the frames one after the other; their partitions are numbered on. */
  def read(
      sc: SparkContext,
      run: String,
      secret: String,
      layout: FeatureLayout,
      memory: ShardMemory,
      frames: Seq[Frame]
  ): HeldRows = {
    val read = frames.foldLeft(Seq.empty[Ingested]) { (before, frame) =>
      val ingest = frame.ingest(before.map(_.stored.size).sum)
      try before :+ reading(sc, run, frame.what)(frame.read(ingest, _))
      catch {
        case e: Throwable =>
          before.flatMap(_.handles).foreach(_.unpersist(): Unit)
          throw e
      }
    }
    new HeldRows(sc, run, secret, layout, memory, read)
  }

  private def reading[T](sc: SparkContext, run: String, what: String)(body: IngestProgress => T): T = {
    sc.setLocalProperty(TrainingRun.Description, s"Kindling ${run.stripSuffix(Suffix)}: read $what")
    scala.util.Using.Manager { use =>
      val progress = use(new IngestProgress(what, use(Progress.of(sc))))
      use(EventChannel.open(Ingest.channel(run))(progress.told)): Unit
      body(progress)
    }.get
  }

  /** What a run's name has behind it as the name of the rows that it read. */
  private final val Suffix = "-rows"

  def name(run: String): String = run + Suffix
}
