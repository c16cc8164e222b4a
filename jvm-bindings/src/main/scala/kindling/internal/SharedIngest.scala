package kindling.internal

import java.util.concurrent.locks.ReentrantLock

import org.apache.spark.sql.{classic, Dataset}
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan

import scala.collection.mutable

/**
 * All that decides which rows an ingest leaves in the executors. Fits of one call that agree in it train on the same rows; what
 * another value changes is read anew. Plans are compared as Spark compares those of cached data.
 */
private[kindling] final case class IngestKey(
    data: LogicalPlan,
    layout: FeatureLayout,
    held: Option[(LogicalPlan, FeatureLayout)],
    handleInvalid: HandleInvalid,
    validation: Validation,
    seed: Option[Long],
    shardMemory: Option[Long],
    repartition: Option[Int],
    loading: NativeLoading
)

private[kindling] object IngestKey {
  def of(
      settings: Settings,
      data: (Dataset[_], FeatureLayout),
      held: Option[(Dataset[_], FeatureLayout)],
      loading: NativeLoading
  ): IngestKey = IngestKey(
    plan(data._1),
    data._2,
    held.map { case (frame, layout) => plan(frame) -> layout },
    settings.handleInvalid,
    settings.validation,
    // It draws the rows that validate, and nothing else of the ingest.
    Some(settings.seed).filter(_ => settings.validation.isInstanceOf[Validation.Fraction]),
    settings.shardMemory,
    settings.repartition,
    loading
  )

  private def plan(data: Dataset[_]): LogicalPlan = data match {
    case dataset: classic.Dataset[_] => dataset.queryExecution.analyzed.canonicalized
    case other => throw new IllegalArgumentException(
        s"Kindling trains on a DataFrame of the Spark server, not on a ${other.getClass.getName}"
      )
  }
}

/**
 * The rows that the fits of one call read, each kind once. They are dropped when this is closed and the last fit on them has ended.
 *
 * Fits may run side by side: readers of a shard do not disturb each other. Of those that want the same rows the first one reads, while
 * the others wait; if it fails, the next one tries. `wait` says whether closing waits until the rows are dropped.
 */
private[kindling] final class SharedIngest(wait: Boolean = true) extends AutoCloseable {
  private final class Entry {
    val lock = new ReentrantLock
    @volatile var rows = Option.empty[HeldRows]
  }

  private val entries = mutable.Map.empty[IngestKey, Entry]
  private var fits = 0
  private var closed = false

  /** What is taken here stays until `fit` has ended, closed or not. */
  def during[T](fit: => T): T = {
    synchronized {
      if (closed) throw new IllegalStateException("the call that this fit belongs to has ended")
      fits += 1
    }
    try fit
    finally {
      val last = synchronized {
        fits -= 1
        closed && fits == 0
      }
      if (last) release()
    }
  }

  /** The rows of that key: from `read`, or as they are here, after `restore`. */
  def rows(key: IngestKey)(read: => HeldRows)(restore: HeldRows => Unit): HeldRows = {
    val entry = synchronized(entries.getOrElseUpdate(key, new Entry))
    entry.lock.lockInterruptibly()
    try entry.rows match {
        case Some(rows) =>
          restore(rows)
          rows
        case None =>
          val rows = read
          entry.rows = Some(rows)
          rows
      }
    finally entry.lock.unlock()
  }

  def isOpen: Boolean = synchronized(!closed)

  /** Whether the rows of that name are kept here. */
  def keeps(run: String): Boolean = held.exists(_.run == run)

  override def close(): Unit = {
    val last = synchronized {
      val first = !closed
      closed = true
      first && fits == 0
    }
    if (last) release()
  }

  /** The rows were dropped otherwise, wherever they were. */
  def abandon(): Unit = held.foreach(rows => rows.freedBy(rows.stored.map(_.place)))

  private def held: Seq[HeldRows] = synchronized(entries.values.flatMap(_.rows).toSeq)

  private def release(): Unit = {
    val rows = held
    synchronized(entries.clear())
    rows.foreach(_.release(wait))
  }
}
