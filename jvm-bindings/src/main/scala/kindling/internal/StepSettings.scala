package kindling.internal

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode

/** What shapes a step besides the optimizer: groups, schedule, bounds, accumulation, averages, precision and rewrites. */
private[kindling] final case class StepSettings(
    groups: Option[JsonNode],
    schedule: JsonNode,
    clipNorm: Option[Double],
    clipValue: Option[Double],
    accumulationSteps: Int,
    emaDecay: Option[Double],
    precision: String,
    syncBatchNorm: Boolean,
    activationCheckpointing: JsonNode
) {

  /** Puts them into the training configuration of a session. */
  def into(training: ObjectNode): Unit = {
    groups.foreach(Json.set(training, "groups", _))
    Json.set(training, "schedule", schedule)
    clipNorm.foreach(training.put("clipNorm", _))
    clipValue.foreach(training.put("clipValue", _))
    training.put("accumulationSteps", accumulationSteps)
    emaDecay.foreach(training.put("emaDecay", _))
    training.put("precision", precision)
    training.put("syncBatchNorm", syncBatchNorm)
    Json.set(training, "activationCheckpointing", activationCheckpointing)
  }
}

private[kindling] object StepSettings {
  def of(p: TorchParams): StepSettings = {
    import p._
    StepSettings(
      groups = get(parameterGroups).map(ParameterGroups.parse),
      schedule = Schedule.of(p),
      clipNorm = get(gradientClipNorm),
      clipValue = get(gradientClipValue),
      accumulationSteps = getGradientAccumulationSteps,
      emaDecay = get(emaDecay),
      precision = getPrecision,
      syncBatchNorm = getSyncBatchNorm,
      activationCheckpointing = ActivationCheckpointing.parse(getActivationCheckpointing)
    )
  }
}
