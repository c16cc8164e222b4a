package kindling.internal

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode

/** The configuration of a session as the native library reads it. Unknown keys are refused there, so nothing extra is sent. */
private[kindling] object SessionConfig {

  def json(plan: RankPlan, rank: Int, host: String, device: String, liveRuns: Seq[String]): ObjectNode = {
    val settings = plan.settings
    val root = Json
      .obj()
      .put("run", plan.run)
      .put("attempt", plan.attempt)
      .put("rank", rank)
      .put("world", plan.world)
      .put("secret", plan.secret)
      .put("host", host)
      .put("threads", plan.threads)
      .put("device", device)
      .put("rendezvousTimeoutMs", settings.rendezvousTimeoutMs)
      .put("collectiveTimeoutMs", settings.collectiveTimeoutMs)
      .put("heartbeatMs", settings.heartbeatMs)
      .put("stallWarningMs", settings.stallWarningMs)
      .put("encrypted", plan.network.encrypted)
      .put("socketsPerLink", plan.network.socketsPerLink)
    plan.network.recordFolder.foreach(root.put("recordFolder", _))
    Json.set(root, "shards", Json.array(plan.shards.map(shard)))
    Json.set(root, "heldFor", Json.obj().put("run", plan.rows.run).put("secret", plan.rows.secret))
    Json.set(root, "columns", Json.array(plan.columns.map(ColumnSpec.json)))
    Json.set(root, "budget", plan.memory.json())
    val runs = root.putArray("liveRuns")
    liveRuns.foreach(runs.add)
    Json.set(root, "training", training(settings))
    root
  }

  def shard(report: ShardReport): JsonNode = {
    val node = Json
      .obj()
      .put("partition", report.partition)
      .put("process", report.process)
      .put("key", report.key)
      .put("rows", report.rows)
      .put("validationRows", report.validationRows)
    report.endpoint.foreach(endpoint => Json.set(node, "endpoint", Json.parse(endpoint)))
    node
  }

  /** How to train: a part of the configuration that needs no data. */
  def training(settings: Settings): JsonNode = {
    val node = Json
      .obj()
      .put("batchSize", settings.batchSize)
      .put("maxEpochs", settings.maxEpochs)
      .put("seed", settings.seed)
      .put("shuffle", settings.shuffle)
      .put("progressIntervalMs", settings.progressIntervalMs)
      .put("recordRows", false)
    settings.predictionOutput.foreach(node.put("predictionOutput", _))
    Json.set(node, "loss", settings.loss.json)
    Json.set(node, "optimizer", settings.optimizer.json)
    settings.step.into(node)
    settings.measures.into(node)
    node
  }
}
