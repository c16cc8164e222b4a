package kindling.internal

import java.nio.charset.StandardCharsets.UTF_8
import java.util.concurrent.{CountDownLatch, TimeUnit}

import org.apache.spark.TaskContext

/**
 * Turns the kill of a task into the abort of its session. The task's thread is inside native code and Spark does not interrupt it;
 * it only marks the context, so someone has to look. One daemon thread per session, which `close` ends and joins.
 */
private[kindling] final class Watcher(session: Long, rank: Int, context: TaskContext) extends AutoCloseable {
  private val done = new CountDownLatch(1)
  // The context is handed over: TaskContext.get() would be null on this thread.
  private val thread = new Thread(() => watch(), s"kindling-watcher-$session")
  thread.setDaemon(true)
  thread.start()

  private def watch(): Unit = {
    var watching = true
    while (watching && !done.await(Watcher.PollMs, TimeUnit.MILLISECONDS))
      if (context.isInterrupted()) {
        watching = false
        Native.sessionAbort(session, s"the task of rank $rank was cancelled".getBytes(UTF_8))
      }
  }

  override def close(): Unit = {
    done.countDown()
    thread.join()
  }
}

private object Watcher {
  final val PollMs = 50L
}
