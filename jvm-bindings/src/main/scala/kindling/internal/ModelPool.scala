package kindling.internal

import java.util.concurrent.TimeUnit

import org.slf4j.LoggerFactory

import scala.collection.mutable
import scala.util.control.NonFatal

/**
 * Opened models of this process, kept for a while after use: a job of many small partitions, or a stream of small batches, opens a
 * network once per slot and not once per task. A model serves one thread at a time, so a task borrows one and gives it back.
 *
 * Its lifetime is the process, because that is what tasks share. Idle models are closed after a minute by a daemon thread that
 * exists only while there are any.
 */
private[kindling] final class ModelPool(close: Long => Unit, idleMs: Long) {
  private val idle = mutable.ArrayBuffer.empty[ModelPool.Idle]
  private var sweeper = Option.empty[Thread]

  /** A model of the content `id`: an idle one, or the one that `open` gives. */
  def borrow(id: String)(open: => Long): ModelPool.Lease = {
    val found = synchronized {
      val at = idle.lastIndexWhere(_.id == id)
      if (at >= 0) Some(idle.remove(at).model) else None
    }
    new Borrowed(id, found.getOrElse(open))
  }

  /** For tests: how many idle models there are. */
  private[internal] def size: Int = synchronized(idle.size)

  private final class Borrowed(id: String, val model: Long) extends ModelPool.Lease {
    private var open = true

    override def close(): Unit = take().foreach(giveBack(id, _))

    override def discard(): Unit = take().foreach(ModelPool.this.close)

    private def take(): Option[Long] = {
      val mine = open
      open = false
      if (mine) Some(model) else None
    }
  }

  private def giveBack(id: String, model: Long): Unit = synchronized {
    idle += ModelPool.Idle(id, model, System.nanoTime())
    if (sweeper.isEmpty) {
      val thread = new Thread(() => sweep(), "kindling-idle-models")
      thread.setDaemon(true)
      sweeper = Some(thread)
      thread.start()
    }
  }

  private def sweep(): Unit = {
    var sweeping = true
    while (sweeping) {
      val expired = synchronized {
        val now = System.nanoTime()
        val limit = TimeUnit.MILLISECONDS.toNanos(idleMs)
        val old = idle.filter(now - _.since >= limit).toSeq
        idle --= old
        if (idle.isEmpty) {
          sweeping = false
          sweeper = None
        } else if (old.isEmpty) {
          val oldest = idle.map(_.since).min
          wait(math.max(1L, TimeUnit.NANOSECONDS.toMillis(limit - (now - oldest))))
        }
        old
      }
      expired.foreach { entry =>
        try close(entry.model)
        catch { case NonFatal(e) => ModelPool.log.warn("an idle model could not be closed", e) }
      }
    }
  }
}

private[kindling] object ModelPool {
  private val log = LoggerFactory.getLogger("kindling.ModelPool")

  private final case class Idle(id: String, model: Long, since: Long)

  /** A borrowed model. `close` gives it back, `discard` closes it for good; only the first of these calls counts. */
  trait Lease extends AutoCloseable {
    def model: Long
    def discard(): Unit
  }

  val shared = new ModelPool(Native.modelClose, idleMs = 60000L)
}
