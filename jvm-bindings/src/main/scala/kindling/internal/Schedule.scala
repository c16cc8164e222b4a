package kindling.internal

import com.fasterxml.jackson.databind.JsonNode

/** The learning rate schedule, from the flat names of the parameters to the native library's. */
private[kindling] object Schedule {

  /** The parameters that each schedule has, besides the warm-up. */
  private val settings: Seq[(String, Set[String])] = Seq(
    "constant" -> Set(),
    "step" -> Set("lrDecaySteps", "lrGamma"),
    "multistep" -> Set("lrMilestones", "lrGamma"),
    "exponential" -> Set("lrGamma"),
    "cosine" -> Set("lrDecaySteps", "lrMin"),
    "cosineRestarts" -> Set("lrDecaySteps", "lrMin", "lrCycleFactor"),
    "linear" -> Set("lrDecaySteps", "lrStartFactor", "lrEndFactor"),
    "polynomial" -> Set("lrDecaySteps", "lrPower"),
    "oneCycle" -> Set("lrDecaySteps", "lrPeakFraction", "lrDivFactor", "lrFinalDivFactor", "lrAnneal"),
    "reduceOnPlateau" -> Set(
      "lrGamma",
      "lrMin",
      "lrPatience",
      "lrMetric",
      "lrThreshold",
      "lrThresholdMode",
      "lrCooldown"
    )
  )

  private val required = Map(
    "step" -> "lrDecaySteps",
    "multistep" -> "lrMilestones",
    "exponential" -> "lrGamma",
    "cosineRestarts" -> "lrDecaySteps"
  )

  private val native = Map(
    "lrDecaySteps" -> "steps",
    "lrGamma" -> "gamma",
    "lrMilestones" -> "milestones",
    "lrMin" -> "minimum",
    "lrCycleFactor" -> "cycleFactor",
    "lrStartFactor" -> "startFactor",
    "lrEndFactor" -> "endFactor",
    "lrPower" -> "power",
    "lrPeakFraction" -> "peakFraction",
    "lrDivFactor" -> "divFactor",
    "lrFinalDivFactor" -> "finalDivFactor",
    "lrAnneal" -> "anneal",
    "lrPatience" -> "patience",
    "lrMetric" -> "metric",
    "lrThreshold" -> "threshold",
    "lrThresholdMode" -> "thresholdMode",
    "lrCooldown" -> "cooldown"
  )

  val names: Seq[String] = settings.map(_._1)

  /** The schedule that the parameters ask for; a setting of another one is refused by name. */
  def of(p: TorchParams): JsonNode = {
    import p._
    val name = getLrSchedule
    val known = settings.toMap.apply(name)
    val milestones =
      get(lrMilestones).map(steps => Json.array(steps.toSeq.map(step => Json.parse(step.toString))): JsonNode)
    val numbers =
      Seq(
        lrGamma,
        lrMin,
        lrStartFactor,
        lrEndFactor,
        lrPower,
        lrPeakFraction,
        lrDivFactor,
        lrFinalDivFactor,
        lrThreshold
      )
    val asked =
      Given.numbers(p, numbers) ++ Given.counts(p, Seq(lrDecaySteps, lrCycleFactor, lrPatience, lrCooldown)) ++
        Given.texts(p, Seq(lrAnneal, lrMetric, lrThresholdMode)) :+ ("lrMilestones" -> milestones)
    asked.collectFirst {
      case (setting, Some(_)) if !known(setting) =>
        throw new IllegalArgumentException(s"$setting is set, but it does nothing with the lrSchedule $name: clear it")
    }
    required.get(name).filter(setting => !asked.exists { case (n, value) => n == setting && value.isDefined }).foreach {
      setting => throw new IllegalArgumentException(s"the lrSchedule $name needs $setting")
    }
    if (name == "reduceOnPlateau" && get(lrGamma).exists(_ >= 1))
      throw new IllegalArgumentException(
        s"lrGamma is $getLrGamma, but reduceOnPlateau lowers the rate by it: set it below 1"
      )
    if (get(lrMin).exists(_ > getLearningRate))
      throw new IllegalArgumentException(
        s"lrMin is $getLrMin, above the learningRate $getLearningRate that the rate falls from: set it lower"
      )
    if (isSet(warmupSteps) && isSet(warmupFraction))
      throw new IllegalArgumentException("warmupSteps and warmupFraction are both set: set one of them")
    if (isSet(warmupStart) && !isSet(warmupSteps) && !isSet(warmupFraction))
      throw new IllegalArgumentException("warmupStart is set without warmupSteps or warmupFraction: clear it")
    val node = Json.obj().put("name", name)
    (asked.map { case (setting, value) => native(setting) -> value } ++
      Given.numbers(p, Seq(warmupFraction, warmupStart)) ++ Given.counts(p, Seq(warmupSteps))).foreach {
      case (setting, Some(value)) => Json.set(node, setting, value)
      case _ =>
    }
    node
  }
}
