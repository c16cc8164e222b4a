package kindling.internal

/**
 * How a rank ended. Failures are results and not exceptions: an exception would reach the driver as the text of Spark's own
 * message, a result keeps what it is.
 */
private[kindling] sealed trait RankOutcome extends Serializable {
  def rank: Int
  def place: Place
}

private[kindling] object RankOutcome {

  /** Trained to the end. Rank 0 brings the report and the weights. */
  final case class Finished(rank: Int, place: Place, process: String, report: Array[Byte], weights: Option[Array[Byte]])
      extends RankOutcome

  /** `secondary`: it failed only because another rank did. */
  final case class Failed(rank: Int, place: Place, sentence: String, kind: FailureKind, secondary: Boolean)
      extends RankOutcome
}

/** Whose fault a failure is, which decides the exception that the caller sees. */
private[kindling] sealed trait FailureKind extends Serializable

private[kindling] object FailureKind {
  case object Argument extends FailureKind
  case object Other extends FailureKind

  def of(e: Throwable): FailureKind = e match {
    case _: IllegalArgumentException => Argument
    case _ => Other
  }
}
