package kindling.internal

import java.nio.charset.StandardCharsets.UTF_8

/**
 * The runs whose shards this process holds, and the ranks that read them. Rows that an ingest read are held under a name of their own
 * ([[HeldRows]]), which counts as a run here.
 *
 * Its lifetime is the process, because the native shard store's is. The store drops, whenever a shard is opened, the shards of
 * runs that are not named as live. That list is made here, from what this process has seen, and not on the driver: a task carries
 * its closure's age, and a list from then would drop the shards of a run that began since. The driver contributes only the runs
 * that are over, which stays true however old it is.
 */
private[kindling] object LocalRuns {
  private val seen = scala.collection.mutable.Set.empty[String]
  private val ranks = scala.collection.mutable.Map.empty[String, Int]

  /** Opens something for `run` while no other run can begin or end here. */
  def open[T](run: String)(body: Iterable[String] => T): T = synchronized {
    seen += run
    body(seen)
  }

  /** Forgets runs that are over, as the driver says, and drops their shards. */
  def forget(over: Iterable[String]): Unit = synchronized {
    over.filter(seen.remove).foreach(release)
  }

  /**
   * A rank of `run` starts to use this process's shards, or to fetch its own. Returns the runs that live here: what it fetches
   * must not end them.
   */
  def enter(run: String): Seq[String] = synchronized {
    seen += run
    ranks.update(run, ranks.getOrElse(run, 0) + 1)
    seen.toSeq
  }

  /** A rank is done; the last one of its run in this process drops its shards, and those of `rows` if nobody else needs them. */
  def leave(run: String, rows: Option[String]): Unit = synchronized {
    ranks.get(run) match {
      case Some(count) if count > 1 => ranks.update(run, count - 1)
      case _ =>
        ranks.remove(run): Unit
        forget(run +: rows.toSeq)
    }
  }

  /** Drops everything of a run here; how a failed or cancelled run is cleaned up. */
  def drop(run: String): Unit = forget(Seq(run))

  /** For tests: whether this process may still hold something of the run. */
  private[kindling] def holds(run: String): Boolean = synchronized(seen.contains(run) || ranks.contains(run))

  private def release(run: String): Unit = {
    val _ = Native.shardRelease(run.getBytes(UTF_8))
  }
}
