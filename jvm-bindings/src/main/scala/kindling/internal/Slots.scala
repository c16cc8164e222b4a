package kindling.internal

import org.apache.spark.SparkContext
import org.apache.spark.ml.kindling.Cluster
import org.slf4j.LoggerFactory

import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.{AtomicBoolean, AtomicInteger}

/** What can be known of the cluster's task slots at a moment. */
private[kindling] final case class SlotCount(total: Int, running: Int, executors: Int)

/**
 * Waits until a barrier job of n ranks can start.
 *
 * Spark would wait too, but silently, in steps of 15 seconds, and for ten minutes even when there can never be enough. Here a
 * hopeless wish fails in seconds and a wait says on what it waits.
 */
private[kindling] final class Slots(
    count: () => SlotCount,
    expectedExecutors: Option[Int],
    local: Boolean,
    now: () => Long = () => System.nanoTime(),
    pause: Long => Unit = millis => TimeUnit.MILLISECONDS.sleep(millis)
) {
  import Slots._

  /**
   * Fails unless the cluster has `ranks` slots at all. Executors may still be coming up: while fewer than configured are there, or
   * new ones have come within the last seconds, it waits.
   */
  def requireTotal(ranks: Int, timeoutMs: Long): Unit = {
    val start = now()
    var last = count()
    var lastGrowth = start
    while (last.total < ranks) {
      val waited = millisSince(start)
      val hopeless = local || (last.executors > 0 && !moreExpected(last) && millisSince(lastGrowth) > RegistrationMs)
      if (hopeless || waited > timeoutMs) throw new IllegalArgumentException(tooFew(ranks, last))
      logEvery(
        start,
        s"waiting for $ranks task slots: ${last.executors} executors have registered, with ${last.total} slots"
      )
      pause(PollMs)
      val next = count()
      if (next.total > last.total) lastGrowth = now()
      last = next
    }
  }

  /** Waits until `ranks` slots are free and claims them; the caller gives the claim back through the result. */
  def reserve(ranks: Int, timeoutMs: Long): Reservation = {
    val start = now()
    var taken = tryTake(ranks)
    while (!taken) {
      val last = count()
      if (last.total < ranks) throw new IllegalArgumentException(tooFew(ranks, last))
      if (millisSince(start) > timeoutMs)
        throw new IllegalStateException(
          s"$ranks free task slots were not to be had within ${timeoutMs / 1000} s (slotTimeout): ${last.running} tasks run on " +
            s"${last.total} slots${claimed()}"
        )
      logEvery(
        start,
        s"waiting for $ranks free task slots: ${last.running} tasks run on ${last.total} slots${claimed()}"
      )
      pause(PollMs)
      taken = tryTake(ranks)
    }
    new Reservation(ranks)
  }

  /**
   * Runs that start side by side (CrossValidator) must not both see the same free slots, so a claim counts beside what runs, until
   * its ranks are among the running tasks themselves. For a moment they count twice: too few slots are seen then, never too many.
   */
  private def tryTake(ranks: Int): Boolean = Slots.synchronized {
    // Before the count: ranks that start in between are then in both. The other way round they could be in neither.
    val others = claims.get()
    val last = count()
    val free = last.total - last.running - others
    if (free >= ranks) claims.addAndGet(ranks): Unit
    free >= ranks
  }

  private def claimed(): String = {
    val others = claims.get()
    if (others > 0) s", and $others slots wait for the ranks of other runs" else ""
  }

  private def moreExpected(last: SlotCount): Boolean = expectedExecutors.exists(_ > last.executors)

  private def tooFew(ranks: Int, last: SlotCount): String = {
    val advice =
      if (local)
        s"""start Spark with master "local[$ranks]" or more, or set numWorkers to ${math.max(last.total, 1)} or fewer"""
      else if (last.total > 0)
        s"set numWorkers to ${last.total} or fewer, or give Spark more executors or cores (spark.executor.instances, spark.executor.cores, spark.task.cpus)"
      else "no executor has registered: check spark.executor.instances and the cluster's resources"
    s"numWorkers is $ranks, but the cluster has ${last.total} task slots on ${last.executors} executors: $advice"
  }

  private var lastLog = 0L

  private def logEvery(start: Long, line: => String): Unit =
    if (millisSince(start) > LogMs && (lastLog == 0L || millisSince(lastLog) > LogMs)) {
      lastLog = now()
      log.warn(line)
    }

  private def millisSince(moment: Long): Long = TimeUnit.NANOSECONDS.toMillis(now() - moment)
}

private[kindling] object Slots {
  private val log = LoggerFactory.getLogger("kindling.Slots")
  private val PollMs = 100L
  private val LogMs = 3000L
  private val RegistrationMs = 10000L

  // Slots of ranks that are still to start. For the process, because all runs of the driver's one SparkContext share the slots.
  // Only who holds the object's lock adds to it; a claim ends without the lock, as that happens on a thread of Spark's RPC.
  private val claims = new AtomicInteger(0)

  /** The claim of a run on slots in which its ranks do not run yet. */
  final class Reservation private[Slots] (ranks: Int) extends AutoCloseable {
    private val open = new AtomicBoolean(true)

    /** Ends the claim: the ranks run, so that Spark counts them, or they never will. Any thread, any number of times. */
    override def close(): Unit = if (open.compareAndSet(true, false)) claims.addAndGet(-ranks): Unit
  }

  def of(sc: SparkContext): Slots = new Slots(
    () => SlotCount(Cluster.totalSlots(sc), Cluster.runningTasks(sc), Cluster.executors(sc).size),
    sc.getConf.getOption("spark.executor.instances").map(_.toInt),
    sc.isLocal
  )
}
