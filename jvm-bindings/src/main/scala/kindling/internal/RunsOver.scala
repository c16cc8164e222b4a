package kindling.internal

/**
 * Runs of this driver that ended, well or badly, so that executors may still hold shards of them. Every later ingest task is told, and drops
 * what it finds. Its lifetime is the process, as the executors outlive a run; it is bounded, for the ranks or the release job
 * normally do the work and this is the second line.
 */
private[kindling] object RunsOver {
  private val Bound = 256
  private val runs = scala.collection.mutable.LinkedHashSet.empty[String]

  def add(run: String): Unit = synchronized {
    runs.add(run): Unit
    if (runs.size > Bound) runs.remove(runs.head): Unit
  }

  def list: Seq[String] = synchronized(runs.toSeq)
}
