package kindling.internal

import org.apache.spark.ml.kindling.Cluster

/** Where a task ran: for messages and for sending ranks back to the data. */
private[kindling] final case class Place(executor: String, host: String) {
  override def toString: String = if (executor == "driver") s"the driver on $host" else s"executor $executor on $host"

  /** As a task's preferred location: this very executor (org.apache.spark.scheduler.TaskLocation). */
  def location: String = s"executor_${host}_$executor"
}

private[kindling] object Place {

  /** That of the running task. */
  def here(): Place = Place(Cluster.executorId(), Cluster.host())
}
