package kindling.internal

import java.util.concurrent.TimeUnit

import org.slf4j.LoggerFactory

import scala.collection.mutable
import scala.util.Try
import scala.util.control.NonFatal

/**
 * Opened models of this process, kept for a while after use: a job of many small partitions, or a stream of small batches, opens a
 * network once and not once per task. A model serves one thread at a time, so a task borrows one and gives it back. Tasks that run at
 * the same time have a model each, all over the weights of the first: while one is opened for its content, the others wait, and then
 * `share` it.
 *
 * Its lifetime is the process, because that is what tasks share. Idle models are closed after a minute by a daemon thread that
 * exists only while there are any.
 */
private[kindling] final class ModelPool(share: Long => Long, close: Long => Unit, idleMs: Long) {
  private val idle = mutable.ArrayBuffer.empty[ModelPool.Idle]
  // All that are open, idle or borrowed, in the order in which they came, by content.
  private val open = mutable.Map.empty[String, mutable.ArrayBuffer[Long]]
  private val opening = mutable.Set.empty[String]
  private var sweeper = Option.empty[Thread]

  /** A model of the content `id`: an idle one, one that shares another's weights, or the one that `first` opens. */
  def borrow(id: String)(first: => Long): ModelPool.Lease = new Borrowed(id, atHand(id).getOrElse(openFirst(id)(first)))

  /** For tests: how many idle models there are. */
  private[internal] def size: Int = synchronized(idle.size)

  /** None: there is none to be had, and the caller opens it. It waits for another caller's `openFirst`, which ends by itself. */
  private def atHand(id: String): Option[Long] = synchronized {
    while (opening(id)) wait(ModelPool.LookAgainMs)
    val at = idle.lastIndexWhere(_.id == id)
    if (at >= 0) Some(idle.remove(at).model)
    else
      open.get(id).map(_.head).map { other =>
        // Under the lock, so that the other is not closed meanwhile.
        val model = share(other)
        open(id) += model
        model
      }.orElse {
        opening += id
        None
      }
  }

  private def openFirst(id: String)(first: => Long): Long = {
    val opened = Try(first)
    synchronized {
      opened.foreach(open.getOrElseUpdate(id, mutable.ArrayBuffer.empty) += _)
      opening -= id
      notifyAll()
    }
    opened.get
  }

  /** For tests: how many models of this content are with tasks. */
  private[internal] def lent(id: String): Int = synchronized(open.get(id).fold(0)(_.size) - idle.count(_.id == id))

  private final class Borrowed(id: String, val model: Long) extends ModelPool.Lease {
    private var mine = true

    override def close(): Unit = if (take()) giveBack(id, model)

    override def discard(): Unit = if (take()) {
      forget(id, model)
      ModelPool.this.close(model)
    }

    private def take(): Boolean = synchronized {
      val was = mine
      mine = false
      was
    }
  }

  private def forget(id: String, model: Long): Unit = synchronized {
    open.get(id).foreach { models =>
      models -= model
      if (models.isEmpty) open -= id
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
        old.foreach(entry => forget(entry.id, entry.model))
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

  private final val LookAgainMs = 1000L

  val shared = new ModelPool(Native.modelShare, Native.modelClose, idleMs = 60000L)
}
