package kindling.internal

import java.util.concurrent.{CountDownLatch, TimeUnit}

/**
 * Watches on the driver that all ranks meet. Spark's barrier waits a year for a rank that never comes; here, when a rank has not
 * connected `timeoutMs` after the first one arrived, the run is cancelled and the missing ranks are named. One daemon thread per
 * attempt, which `close` ends and joins.
 */
private[kindling] final class Rendezvous(run: String, world: Int, timeoutMs: Long, cancel: String => Unit)
    extends AutoCloseable {
  private val arrived = scala.collection.mutable.Set.empty[Int]
  private val connected = scala.collection.mutable.Set.empty[Int]
  private val first = new CountDownLatch(1)
  private val met = new CountDownLatch(world)
  @volatile private var closed = false
  @volatile private var reason = Option.empty[String]
  private val thread = new Thread(() => watch(), s"kindling-rendezvous-$run")
  thread.setDaemon(true)
  thread.start()

  def onArrived(rank: Int): Unit = synchronized {
    arrived += rank
    first.countDown()
  }

  def onConnected(rank: Int): Unit = synchronized {
    if (connected.add(rank)) met.countDown()
  }

  /** Why the run was cancelled, if it was this that did it. */
  def failure: Option[String] = reason

  private def watch(): Unit = {
    first.await()
    // The ranks' own deadline is timeoutMs, for connecting; it should speak first, because it knows more.
    if (!closed && !met.await(timeoutMs + Rendezvous.GraceMs, TimeUnit.MILLISECONDS) && !closed) {
      val sentence = synchronized {
        val missing = (0 until world).filterNot(arrived)
        val late = if (missing.nonEmpty) missing else (0 until world).filterNot(connected)
        s"rank${if (late.size > 1) "s" else ""} ${late.mkString(", ")} did not ${if (missing.nonEmpty) "start"
          else "connect"} within " +
          s"${timeoutMs / 1000.0} s of the first rank (rendezvousTimeout)"
      }
      reason = Some(sentence)
      cancel(sentence)
    }
  }

  override def close(): Unit = {
    closed = true
    first.countDown()
    while (met.getCount > 0) met.countDown()
    thread.join()
  }
}

private object Rendezvous {
  final val GraceMs = 5000L
}
