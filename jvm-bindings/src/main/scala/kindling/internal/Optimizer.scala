package kindling.internal

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode

/**
 * How an optimizer is set, as the native library takes it: what is left out has the optimizer's own default there. `stateCopies`
 * counts its tensors per parameter, averages and the best epoch's weights included.
 */
private[kindling] final case class Optimizer(settings: ObjectNode, stateCopies: Int) {
  def json: JsonNode = settings.deepCopy()
}

private[kindling] object Optimizer {

  /** The settings that each optimizer has, besides learningRate and weightDecay. */
  private val settings: Seq[(String, Set[String])] = Seq(
    "sgd" -> Set("momentum", "dampening", "nesterov"),
    "adam" -> Set("beta1", "beta2", "epsilon", "amsgrad"),
    "adamw" -> Set("beta1", "beta2", "epsilon", "amsgrad"),
    "adagrad" -> Set("epsilon", "learningRateDecay", "initialAccumulator"),
    "rmsprop" -> Set("alpha", "epsilon", "momentum", "centered"),
    "lamb" -> Set("beta1", "beta2", "epsilon"),
    "lars" -> Set("momentum", "trustCoefficient"),
    "lion" -> Set("beta1", "beta2"),
    "adafactor" -> Set("beta2Decay", "epsilon1", "epsilon2", "clipThreshold")
  )

  val names: Seq[String] = settings.map(_._1)

  /** The optimizer that the parameters ask for; a setting of another one is refused by name. */
  def of(p: TorchParams): Optimizer = {
    import p._
    val name = getOptimizer
    val known = settings.toMap.apply(name)
    val asked: Seq[(String, Option[JsonNode])] = Given.numbers(
      p,
      Seq(
        momentum,
        dampening,
        beta1,
        beta2,
        epsilon,
        learningRateDecay,
        initialAccumulator,
        alpha,
        trustCoefficient,
        beta2Decay,
        epsilon1,
        epsilon2,
        clipThreshold
      )
    ) ++ Given.switches(p, Seq(nesterov, amsgrad, centered))
    // A momentum of 0 and a switch that is off are what the others do anyway.
    def idle(setting: String, value: JsonNode) =
      (value.isBoolean && !value.asBoolean) || (Set("momentum", "dampening")(setting) && value.asDouble == 0)
    asked.collectFirst {
      case (setting, Some(value)) if !known(setting) && !idle(setting, value) =>
        throw new IllegalArgumentException(s"$setting is set, but it does nothing with the optimizer $name: clear it")
    }
    if (getNesterov && (name == "sgd") && (getMomentum == 0 || get(dampening).exists(_ != 0)))
      throw new IllegalArgumentException("nesterov needs a momentum above 0 and no dampening")
    if (get(dampening).exists(_ != 0) && getMomentum == 0)
      throw new IllegalArgumentException("dampening is set, but it does nothing without momentum: clear it")
    val node = Json.obj().put("name", name).put("learningRate", getLearningRate)
    get(weightDecay).foreach(node.put("weightDecay", _))
    asked.foreach {
      case (setting, Some(value)) if known(setting) => Json.set(node, setting, value)
      case _ =>
    }
    Optimizer(
      node,
      copies(name, getMomentum, getAmsgrad, getCentered) + (if (isSet(emaDecay)) 1 else 0) + (if (getRestoreBestWeights)
                                                                                                1
                                                                                              else 0)
    )
  }

  private def copies(name: String, momentum: Double, amsgrad: Boolean, centered: Boolean): Int = {
    def one(condition: Boolean) = if (condition) 1 else 0
    name match {
      case "sgd" => one(momentum != 0)
      case "adam" | "adamw" => 2 + one(amsgrad)
      case "rmsprop" => 1 + one(momentum != 0) + one(centered)
      case "lamb" => 2
      case "adafactor" => 0
      case _ => 1
    }
  }
}
