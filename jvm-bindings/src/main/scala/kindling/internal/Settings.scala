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
    loss: Loss,
    predictionOutput: Option[String],
    optimizer: Optimizer,
    step: StepSettings,
    batchSize: Int,
    maxEpochs: Int,
    numWorkers: Int,
    device: String,
    seed: Long,
    shuffle: Boolean,
    validation: Validation,
    measures: ValidationSettings,
    handleInvalid: HandleInvalid,
    shardMemory: Option[Long],
    repartition: Option[Int],
    rendezvousTimeoutMs: Long,
    collectiveTimeoutMs: Long,
    heartbeatMs: Long,
    stallWarningMs: Long,
    slotTimeoutMs: Long,
    progressIntervalMs: Long
)

/** Which rows validate. */
private[kindling] sealed trait Validation extends Serializable

private[kindling] object Validation {
  case object None extends Validation
  final case class Indicator(column: String) extends Validation
  final case class Fraction(fraction: Double) extends Validation

  /** The rows of a DataFrame of their own. */
  case object Frame extends Validation

  /** Every row of the data that is read. */
  case object All extends Validation
}

private[kindling] object Settings {

  /** `frame`: whether there is a DataFrame to validate on. */
  def of(p: TorchParams, frame: Boolean = false): Settings = {
    import p._

    if (isSet(maxIter) && isSet(maxEpochs) && getMaxIter != getOrDefault(maxEpochs))
      refuse(
        s"maxIter is $getMaxIter but maxEpochs is ${getOrDefault(maxEpochs)}: maxIter is another name for maxEpochs, set one of them"
      )
    if (isSet(inputCols) && isSet(featuresCol))
      refuse("featuresCol and inputCols are both set: use featuresCol for one column, inputCols for several")
    val validation = validationOf(p, frame)
    if (isSet(inputCols) && getInputCols.isEmpty) refuse("inputCols is empty: name at least one column")
    Indexing.check(p)

    Settings(
      loss = Loss.of(p),
      predictionOutput = get(predictionOutput),
      optimizer = Optimizer.of(p),
      step = StepSettings.of(p),
      batchSize = getBatchSize,
      maxEpochs = getMaxEpochs,
      numWorkers = getNumWorkers,
      device = getDevice,
      seed = getSeed,
      shuffle = getShuffle,
      validation = validation,
      measures = ValidationSettings.of(p, validation != Validation.None),
      handleInvalid = HandleInvalid.named(getHandleInvalid),
      shardMemory = get(shardMemory),
      repartition = if (getForceRepartition) Some(getNumWorkers) else None,
      rendezvousTimeoutMs = millis(getRendezvousTimeout),
      collectiveTimeoutMs = millis(getCollectiveTimeout),
      heartbeatMs = millis(getHeartbeatInterval),
      stallWarningMs = millis(getStallWarning),
      slotTimeoutMs = millis(getSlotTimeout),
      progressIntervalMs = millis(getProgressInterval)
    )
  }

  private def validationOf(p: TorchParams, frame: Boolean): Validation = {
    import p._
    val column = get(validationIndicatorCol).filter(_.nonEmpty)
    if (column.isDefined && getValidationFraction > 0)
      refuse("validationIndicatorCol and validationFraction are both set: choose the validation rows in one way")
    if (frame) Seq(
      "validationIndicatorCol" -> column.isDefined,
      "validationFraction" -> (getValidationFraction > 0)
    ).collectFirst { case (name, true) =>
      refuse(s"$name is set, but there is a DataFrame to validate on: choose the validation rows in one way")
    }
    column match {
      case _ if frame => Validation.Frame
      case Some(name) => Validation.Indicator(name)
      case None if getValidationFraction > 0 => Validation.Fraction(getValidationFraction)
      case None => Validation.None
    }
  }

  private def millis(seconds: Double): Long = math.max(1L, math.min(seconds * 1000.0, Int.MaxValue.toDouble).toLong)

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
