package kindling

/**
 * The one exception in which a training run's failure reaches the caller.
 *
 * Its message is the root cause's sentence: which rank, host and executor failed and why. A bad parameter, column or row is an
 * `IllegalArgumentException` instead; what Spark itself threw, if anything, is kept as the cause.
 */
final class TrainingException(message: String, cause: Throwable) extends RuntimeException(message, cause) {
  def this(message: String) = this(message, null)
}
