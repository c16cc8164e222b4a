package kindling.internal

import java.util.concurrent.{CountDownLatch, TimeUnit}

/**
 * Watches on the driver that all ranks meet. Ranks wait for one that never comes, and a barrier job whose slots
 * others took waits without an end; here every step has a deadline, after which the run is cancelled with the reason:
 *
 *  1. a rank starts, within `slotTimeoutMs` of the attempt;
 *  1. a rank has opened its session, within `timeoutMs` of that;
 *  1. all ranks have connected, within `timeoutMs` of that, or the missing ones are named.
 *
 * Ranks report each step, but a report may get lost, so a later step is taken as proof of those before it. `started` is called when
 * all ranks run. One daemon thread per attempt, which `close` ends and joins.
 */
private[kindling] final class Rendezvous(
    run: String,
    world: Int,
    slotTimeoutMs: Long,
    timeoutMs: Long,
    cancel: String => Unit,
    started: () => Unit = () => ()
) extends AutoCloseable {
  import Rendezvous._

  private val running = scala.collection.mutable.Set.empty[Int]
  private val arrived = scala.collection.mutable.Set.empty[Int]
  private val connected = scala.collection.mutable.Set.empty[Int]
  private val firstRuns = new CountDownLatch(1)
  private val firstArrived = new CountDownLatch(1)
  private val met = new CountDownLatch(world)
  private val ended = new CountDownLatch(1)
  @volatile private var reason = Option.empty[String]
  private val thread = new Thread(() => watch(), s"kindling-rendezvous-$run")
  thread.setDaemon(true)
  thread.start()

  /** The rank's task runs. */
  def onStarted(rank: Int): Unit = synchronized {
    if (running.add(rank) && running.size == world) started()
    firstRuns.countDown()
  }

  /** The rank has a session and waits for the others. */
  def onArrived(rank: Int): Unit = synchronized {
    arrived += rank
    firstArrived.countDown()
    onStarted(rank)
  }

  def onConnected(rank: Int): Unit = onConnected(Seq(rank))

  /** A step was trained, which takes all ranks. */
  def onTraining(): Unit = onConnected(0 until world)

  /** Later steps first, here as above: the watch must not see an early one and miss the proof of the next. */
  private def onConnected(ranks: Seq[Int]): Unit = synchronized {
    ranks.filter(connected.add).foreach(_ => met.countDown())
    ranks.foreach(onArrived)
  }

  /** Why the run was cancelled, if it was this that did it. */
  def failure: Option[String] = reason

  private def watch(): Unit =
    // The ranks' own deadline is timeoutMs, for connecting; it should speak first, because it knows more.
    if (!within(firstRuns, slotTimeoutMs)) end(neverStarted)
    else if (!within(firstArrived, timeoutMs + GraceMs)) end(neverOpened)
    else if (!within(met, timeoutMs + GraceMs)) end(neverMet)

  private def within(step: CountDownLatch, limitMs: Long): Boolean = step.await(limitMs, TimeUnit.MILLISECONDS)

  private def neverStarted: String =
    s"no rank started within ${seconds(slotTimeoutMs)} (slotTimeout) of the start of the training job, which needs $world task slots " +
      "at once: other jobs took them, or an executor was lost; run fit when fewer tasks run, or set a larger slotTimeout"

  private def neverOpened: String =
    s"no rank had opened its session within ${seconds(timeoutMs)} of its start (rendezvousTimeout)"

  private def neverMet: String = synchronized {
    val missing = (0 until world).filterNot(arrived)
    val late = if (missing.nonEmpty) missing else (0 until world).filterNot(connected)
    s"rank${if (late.size > 1) "s" else ""} ${late.mkString(", ")} did not ${if (missing.nonEmpty) "start"
      else "connect"} within ${seconds(timeoutMs)} of the first rank (rendezvousTimeout)"
  }

  private def seconds(millis: Long): String = s"${millis / 1000.0} s"

  private def end(sentence: String): Unit = if (ended.getCount > 0) {
    reason = Some(sentence)
    cancel(sentence)
    // Spark does not find a barrier job that it holds back for lack of slots, and submits it later: cancelling is repeated.
    while (!ended.await(RepeatMs, TimeUnit.MILLISECONDS)) cancel(sentence)
  }

  override def close(): Unit = {
    ended.countDown()
    firstRuns.countDown()
    firstArrived.countDown()
    while (met.getCount > 0) met.countDown()
    thread.join()
  }
}

private object Rendezvous {
  final val GraceMs = 5000L
  final val RepeatMs = 1000L
}
