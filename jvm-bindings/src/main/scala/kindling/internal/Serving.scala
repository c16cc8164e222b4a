package kindling.internal

import java.nio.charset.StandardCharsets.UTF_8

import org.apache.spark.ml.kindling.Cluster

/** How the processes that hold a run's rows serve them to ranks that run elsewhere. The secret travels in task data only. */
private[kindling] final case class Serving(secret: String, encrypted: Boolean) {

  /** Serves the run's shards of this process, which has one, and says where. */
  def endpoint(run: String): String = {
    val config =
      Json.obj().put("run", run).put("secret", secret).put("host", Cluster.host()).put("encrypted", encrypted)
    new String(Native.shardServe(Json.bytes(config)), UTF_8)
  }

  override def toString: String = "Serving(...)"
}
