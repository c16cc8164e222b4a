package kindling.internal

/**
 * Validators of parameters. Each one accepts a value or ends in one sentence that names the parameter, the value and what is
 * allowed; Spark's own message ("given invalid value") would leave the last out.
 */
private[kindling] object Check {

  def oneOf(name: String, allowed: String*): String => Boolean = value =>
    allowed.contains(value) || refuse(name, s""""$value"""", s"one of ${allowed.mkString(", ")}")

  def positive(name: String): Int => Boolean = value => value > 0 || refuse(name, value, "a whole number above 0")

  def above(name: String, bound: Double): Double => Boolean = value =>
    (value > bound && !value.isInfinite) || refuse(name, value, s"a number above ${short(bound)}")

  def atLeast(name: String, bound: Double): Double => Boolean = value =>
    (value >= bound && !value.isInfinite) || refuse(name, value, s"a number of at least ${short(bound)}")

  /** In [low, high): what momenta, betas and fractions are. */
  def below(name: String, low: Double, high: Double): Double => Boolean = value =>
    (value >= low && value < high) || refuse(name, value, s"a number in [${short(low)}, ${short(high)})")

  def notEmpty(name: String): String => Boolean = value => value.trim.nonEmpty || refuse(name, "empty", "not empty")

  /** For parameters with a parser: its sentence is the message. */
  def parses(parse: String => Any): String => Boolean = value => {
    val _ = parse(value)
    true
  }

  private def short(bound: Double): String = if (bound.isWhole) bound.toLong.toString else bound.toString

  private def refuse(name: String, value: Any, allowed: String): Nothing =
    throw new IllegalArgumentException(s"$name must be $allowed, but is $value")
}
