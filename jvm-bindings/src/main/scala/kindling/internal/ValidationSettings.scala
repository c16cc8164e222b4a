package kindling.internal

import com.fasterxml.jackson.databind.node.ObjectNode

/** What is measured over the validation rows, and what a run does with its best epoch. */
private[kindling] final case class ValidationSettings(
    metrics: Seq[String],
    topK: Option[Int],
    stopping: Option[ValidationSettings.Stopping],
    watchedByRate: Option[String] = None
) {

  /** Whether the answer to every validation row is kept until its epoch is judged. */
  def comparesScores: Boolean = (metrics ++ stopping.flatMap(_.metric) ++ watchedByRate).contains("auc")

  /** Puts them into the training configuration of a session. */
  def into(training: ObjectNode): Unit = {
    if (metrics.nonEmpty) {
      val list = training.putArray("metrics")
      metrics.foreach(list.add)
    }
    topK.foreach(training.put("topK", _))
    stopping.foreach { stopping =>
      val node = Json.obj().put("restoreBestWeights", stopping.restoreBestWeights)
      stopping.metric.foreach(node.put("metric", _))
      stopping.patience.foreach(node.put("patience", _))
      stopping.minDelta.foreach(node.put("minDelta", _))
      Json.set(training, "earlyStopping", node)
    }
  }
}

private[kindling] object ValidationSettings {

  /** What is unset has the native library's default. */
  final case class Stopping(
      metric: Option[String],
      patience: Option[Int],
      minDelta: Option[Double],
      restoreBestWeights: Boolean
  )

  /** `validates`: whether any rows do. */
  def of(p: TorchParams, validates: Boolean): ValidationSettings = {
    import p._
    val set = Seq(metrics, earlyStoppingPatience, earlyStoppingMetric, earlyStoppingMinDelta, lrMetric)
      .filter(param => isSet(param)).map(_.name) ++ Some("restoreBestWeights").filter(_ => getRestoreBestWeights)
    if (!validates) set.headOption.foreach { name =>
      refuse(
        s"$name is set, but no row validates: set validationFraction or validationIndicatorCol, or give a DataFrame to validate on"
      )
    }
    val stops = isSet(earlyStoppingPatience) || getRestoreBestWeights
    if (!stops) Seq(earlyStoppingMetric, earlyStoppingMinDelta).filter(param => isSet(param)).foreach { param =>
      refuse(
        s"${param.name} is set, but nothing follows from it: set earlyStoppingPatience or restoreBestWeights, or clear it"
      )
    }
    val asked = get(metrics).fold(Seq.empty[String])(_.toSeq)
    if (isSet(topK) && !(asked ++ get(earlyStoppingMetric) ++ get(lrMetric)).contains("topK"))
      refuse("topK is set, but the metric topK is not asked for: name it in metrics, or clear topK")
    val stopping =
      if (stops)
        Some(Stopping(
          get(earlyStoppingMetric),
          get(earlyStoppingPatience),
          get(earlyStoppingMinDelta),
          getRestoreBestWeights
        ))
      else None
    ValidationSettings(asked, get(topK), stopping, get(lrMetric))
  }

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
