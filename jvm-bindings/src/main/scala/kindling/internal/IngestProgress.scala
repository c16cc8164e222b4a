package kindling.internal

import java.nio.charset.StandardCharsets.UTF_8
import java.util.Locale

import org.apache.spark.TaskContext
import org.apache.spark.ml.kindling.{EventChannel, TaskEnd}
import org.slf4j.LoggerFactory

import scala.collection.mutable
import scala.util.control.NonFatal

/**
 * How far an ingest is, on the driver: in its log every ten seconds, and wherever [[Progress]] shows the training. A short ingest is
 * not worth a word. Tasks tell every two seconds how many rows they have, so a single long partition is seen to move, too.
 */
private[kindling] final class IngestProgress(
    what: String,
    shown: Progress,
    log: String => Unit = IngestProgress.log.info,
    now: () => Long = () => System.nanoTime()
) extends AutoCloseable {
  import IngestProgress._

  private val began = now()
  private var logged = began
  private var partitions = 0
  private var done = 0
  private var rows = 0L
  private var bytes = 0L

  /** Rows of partitions that are not done, and bytes they would take in full. Of several attempts at one, the furthest counts. */
  private val open = mutable.Map.empty[Int, (Long, Long)]
  private val finished = mutable.Set.empty[Int]

  /** So many partitions are read. */
  def begin(partitions: Int): Unit = synchronized(this.partitions += partitions)

  /** What a task tells ([[IngestTold]]); called on a thread of Spark's RPC. */
  def told(message: Array[Byte]): Unit =
    try {
      val event = Json.parse(new String(message, UTF_8))
      val partition = event.path("partition").asInt
      val so = (event.path("rows").asLong, event.path("bytes").asLong)
      synchronized {
        if (!finished(partition) && open.get(partition).forall(_._1 < so._1)) open.update(partition, so)
        show()
      }
    } catch { case NonFatal(e) => IngestProgress.log.debug("an event could not be read", e) }

  /** A partition is done. */
  def stored(report: ShardReport): Unit = synchronized {
    open.remove(report.partition): Unit
    if (finished.add(report.partition)) {
      done += 1
      rows += report.rows + report.validationRows
      bytes += report.bytes
    }
    show()
  }

  private def show(): Unit = {
    val (moment, seconds) = (now(), (now() - began) / 1e9)
    if (moment - began >= QuietNanos) {
      val reading = open.values.map(_._1).sum
      val soFar = rows + reading
      // Rows that are mostly zeros are kept in less than they would take, and how much is known of the partitions that are done.
      val size = if (rows > 0) math.round(bytes.toDouble / rows * soFar) else open.values.map(_._2).sum
      val line = String.format(
        Locale.ROOT,
        "reading %s: %d of %d partitions, %,d rows, %,d MiB, %,.0f rows/s",
        what,
        Int.box(done),
        Int.box(partitions),
        Long.box(soFar),
        Long.box(size >> 20),
        Double.box(soFar / seconds)
      )
      shown.reading(line)
      if (moment - logged >= LogNanos) {
        logged = moment
        log(line)
      }
    }
  }

  override def close(): Unit = shown.close()
}

private[kindling] object IngestProgress {
  private val log = LoggerFactory.getLogger("kindling.Ingest")
  private val Second = 1000L * 1000 * 1000
  private[internal] val QuietNanos = 3 * Second
  private[internal] val LogNanos = 10 * Second
}

/**
 * A task's side of [[IngestProgress]], called whenever rows have been kept. It also ends the task if it was killed: not every source of
 * rows looks for that.
 */
private[kindling] final class IngestTold(
    channel: String,
    partition: Int,
    rowBytes: Long,
    context: TaskContext,
    now: () => Long = () => System.nanoTime()
) extends (Int => Unit) {
  private var rows = 0L
  private var last = now()
  private lazy val send = EventChannel.sender(channel)

  override def apply(count: Int): Unit = {
    TaskEnd.ifKilled(context)
    rows += count
    val moment = now()
    if (moment - last >= IngestTold.IntervalNanos) {
      last = moment
      val event = Json.obj().put("partition", partition).put("rows", rows).put("bytes", rows * rowBytes)
      // It is for people: what gets lost must not end the task.
      try send(Json.bytes(event))
      catch { case NonFatal(e) => IngestTold.log.debug("an event was not sent", e) }
    }
  }
}

private object IngestTold {
  private val log = LoggerFactory.getLogger("kindling.Ingest")
  private val IntervalNanos = 2L * 1000 * 1000 * 1000
}
