package kindling.internal

/** The metrics of validation by name, as the native library knows them. */
private[kindling] object Metric {
  val names: Seq[String] =
    Seq("loss", "accuracy", "topK", "precision", "recall", "f1", "auc", "mae", "rmse", "r2")

  /** The name in reports and histories, where it stands beside the figures of training. */
  def column(name: String): String = s"validation${name.capitalize}"
}
