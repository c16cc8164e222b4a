package kindling.internal

/** What becomes of nulls and NaN. */
private[kindling] sealed abstract class HandleInvalid(val name: String) extends Serializable

private[kindling] object HandleInvalid {
  case object Fail extends HandleInvalid("error")
  case object Skip extends HandleInvalid("skip")
  case object Keep extends HandleInvalid("keep")

  def named(name: String): HandleInvalid = Seq(Fail, Skip, Keep)
    .find(_.name == name)
    .getOrElse(throw new IllegalArgumentException(
      s"""handleInvalid must be one of error, skip, keep, but is "$name""""
    ))
}

/**
 * The parameters of one run, read once and judged together: after this, nothing asks the Params again. A combination in which a
 * value would be ignored is refused.
 */
private[kindling] final case class Settings(
    loss: String,
    optimizer: Optimizer,
    batchSize: Int,
    maxEpochs: Int,
    numWorkers: Int,
    seed: Long,
    shuffle: Boolean,
    validation: Validation,
    handleInvalid: HandleInvalid,
    rendezvousTimeoutMs: Long,
    collectiveTimeoutMs: Long,
    slotTimeoutMs: Long,
    progressIntervalMs: Long
)

/** How an optimizer is set; the native library takes it as it is. `stateCopies` counts its tensors per parameter. */
private[kindling] sealed trait Optimizer {
  def stateCopies: Int
}

private[kindling] object Optimizer {
  final case class AdamW(learningRate: Double, weightDecay: Double, beta1: Double, beta2: Double, epsilon: Double)
      extends Optimizer {
    def stateCopies: Int = 2
  }
  final case class Sgd(learningRate: Double, weightDecay: Double, momentum: Double) extends Optimizer {
    def stateCopies: Int = if (momentum == 0) 0 else 1
  }
}

/** Which rows validate. */
private[kindling] sealed trait Validation extends Serializable

private[kindling] object Validation {
  case object None extends Validation
  final case class Indicator(column: String) extends Validation
  final case class Fraction(fraction: Double) extends Validation
}

private[kindling] object Settings {

  def of(p: TorchParams): Settings = {
    import p._

    def onlyFor(owner: String, names: (String, Boolean)*): Unit =
      names.find(_._2).foreach { case (name, _) =>
        refuse(s"$name is set, but it does nothing with $owner: clear it")
      }

    if (isSet(maxIter) && isSet(maxEpochs) && getMaxIter != getOrDefault(maxEpochs))
      refuse(
        s"maxIter is $getMaxIter but maxEpochs is ${getOrDefault(maxEpochs)}: maxIter is another name for maxEpochs, set one of them"
      )
    if (isSet(inputCols) && isSet(featuresCol))
      refuse("featuresCol and inputCols are both set: use featuresCol for one column, inputCols for several")
    if (isSet(inputCols) && getInputCols.isEmpty) refuse("inputCols is empty: name at least one column")

    val chosen = getOptimizer match {
      case "sgd" =>
        onlyFor("the optimizer sgd", "beta1" -> isSet(beta1), "beta2" -> isSet(beta2), "epsilon" -> isSet(epsilon))
        Optimizer.Sgd(getLearningRate, get(weightDecay).getOrElse(0.0), getMomentum)
      case _ =>
        onlyFor("the optimizer adamw", "momentum" -> (getMomentum != 0))
        Optimizer.AdamW(getLearningRate, get(weightDecay).getOrElse(0.01), getBeta1, getBeta2, getEpsilon)
    }
    if (getLoss != "crossEntropy") onlyFor(s"the loss $getLoss", "probabilityCol" -> isSet(probabilityCol))

    Settings(
      loss = getLoss,
      optimizer = chosen,
      batchSize = getBatchSize,
      maxEpochs = getMaxEpochs,
      numWorkers = getNumWorkers,
      seed = getSeed,
      shuffle = getShuffle,
      validation = validationOf(p),
      handleInvalid = HandleInvalid.named(getHandleInvalid),
      rendezvousTimeoutMs = millis(getRendezvousTimeout),
      collectiveTimeoutMs = millis(getCollectiveTimeout),
      slotTimeoutMs = millis(getSlotTimeout),
      progressIntervalMs = millis(getProgressInterval)
    )
  }

  private def validationOf(p: TorchParams): Validation = {
    import p._
    val column = get(validationIndicatorCol).filter(_.nonEmpty)
    if (column.isDefined && getValidationFraction > 0)
      refuse("validationIndicatorCol and validationFraction are both set: choose the validation rows in one way")
    column match {
      case Some(name) => Validation.Indicator(name)
      case None if getValidationFraction > 0 => Validation.Fraction(getValidationFraction)
      case None => Validation.None
    }
  }

  private def millis(seconds: Double): Long = math.max(1L, math.min(seconds * 1000.0, Int.MaxValue.toDouble).toLong)

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
