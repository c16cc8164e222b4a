package kindling.internal

import org.apache.spark.SparkContext
import org.apache.spark.ml.kindling.Cluster

/** Where a task ran: for messages and for sending ranks back to the data. */
private[kindling] final case class Place(executor: String, host: String) {
  override def toString: String = if (executor == "driver") s"the driver on $host" else s"executor $executor on $host"

  /** As a task's preferred location: this very executor (org.apache.spark.scheduler.TaskLocation). */
  def location: String = s"executor_${host}_$executor"
}

private[kindling] object Place {

  /** Those of one host together, and executors by their number. */
  implicit val byHost: Ordering[Place] = Ordering.by(place => (place.host, place.executor.length, place.executor))

  /** Of every registered executor. */
  def all(sc: SparkContext): Seq[Place] = Cluster.executors(sc).map { case (id, host) => Place(id, host) }

  /** That of the running task. */
  def here(): Place = Place(Cluster.executorId(), Cluster.host())
}
