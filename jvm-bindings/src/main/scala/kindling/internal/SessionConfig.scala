package kindling.internal

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode

/** The configuration of a session as the native library reads it. Unknown keys are refused there, so nothing extra is sent. */
private[kindling] object SessionConfig {

  def json(plan: RankPlan, rank: Int, host: String): ObjectNode = {
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
      .put("device", "cpu")
      .put("rendezvousTimeoutMs", settings.rendezvousTimeoutMs)
      .put("collectiveTimeoutMs", settings.collectiveTimeoutMs)
    Json.set(root, "shards", Json.array(plan.shards.map(shard)))
    Json.set(root, "training", training(settings))
    root
  }

  private def shard(report: ShardReport): JsonNode = Json
    .obj()
    .put("partition", report.partition)
    .put("process", report.process)
    .put("key", report.key)
    .put("rows", report.rows)
    .put("validationRows", report.validationRows)

  private def training(settings: Settings): JsonNode = {
    val node = Json
      .obj()
      .put("loss", settings.loss)
      .put("batchSize", settings.batchSize)
      .put("maxEpochs", settings.maxEpochs)
      .put("seed", settings.seed)
      .put("shuffle", settings.shuffle)
      .put("progressIntervalMs", settings.progressIntervalMs)
      .put("recordRows", false)
    Json.set(node, "optimizer", optimizer(settings.optimizer))
    node
  }

  private def optimizer(optimizer: Optimizer): JsonNode = optimizer match {
    case Optimizer.AdamW(learningRate, weightDecay, beta1, beta2, epsilon) =>
      Json
        .obj()
        .put("name", "adamw")
        .put("learningRate", learningRate)
        .put("weightDecay", weightDecay)
        .put("beta1", beta1)
        .put("beta2", beta2)
        .put("epsilon", epsilon)
    case Optimizer.Sgd(learningRate, weightDecay, momentum) =>
      Json
        .obj()
        .put("name", "sgd")
        .put("learningRate", learningRate)
        .put("weightDecay", weightDecay)
        .put("momentum", momentum)
  }
}
