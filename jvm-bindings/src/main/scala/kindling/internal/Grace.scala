package kindling.internal

import java.util.concurrent.{CountDownLatch, TimeUnit}

/**
 * The time that the other ranks have to end once one has failed. They are told of the failure and end within moments, but a machine
 * that has stopped does not: its task cannot be killed either, and Spark gives it up only after two minutes
 * (`spark.network.timeout`). So the run is cancelled, with what the ranks that came back have said.
 *
 * One daemon thread per attempt, which `close` ends and joins.
 */
private[kindling] final class Grace(run: String, cancel: String => Unit, limitMs: Long = Grace.LimitMs)
    extends AutoCloseable {
  private val failed = new CountDownLatch(1)
  private val ended = new CountDownLatch(1)
  @volatile private var over = false
  private val thread = new Thread(() => watch(), s"kindling-grace-$run")
  thread.setDaemon(true)
  thread.start()

  /** A rank came back with a failure. */
  def onFailed(): Unit = failed.countDown()

  /** Whether the run was cancelled, and by this. */
  def exceeded: Boolean = over

  private def watch(): Unit = {
    failed.await()
    if (!ended.await(limitMs, TimeUnit.MILLISECONDS)) {
      over = true
      cancel(s"a rank failed, and the others had not ended ${limitMs / 1000.0} s later")
    }
  }

  override def close(): Unit = {
    ended.countDown()
    failed.countDown()
    thread.join()
  }
}

private object Grace {
  // Far more than an abort takes, and little beside what Spark would take.
  final val LimitMs = 10000L
}
