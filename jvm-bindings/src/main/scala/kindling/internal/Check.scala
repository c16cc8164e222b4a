package kindling.internal

/**
 * Validators of parameters. Each one accepts a value or ends in one sentence that names the parameter, the value and what is
 * allowed; Spark's own message ("given invalid value") would leave the last out.
 */
private[kindling] object Check {

  def oneOf(name: String, allowed: String*): String => Boolean = value =>
    allowed.contains(value) || refuse(name, s""""$value"""", s"one of ${allowed.mkString(", ")}")

  def positive(name: String): Int => Boolean = value => value > 0 || refuse(name, value, "a whole number above 0")

  def positiveLong(name: String): Long => Boolean = value => value > 0 || refuse(name, value, "a whole number above 0")

  def above(name: String, bound: Double): Double => Boolean = value =>
    (value > bound && !value.isInfinite) || refuse(name, value, s"a number above ${short(bound)}")

  def atLeast(name: String, bound: Double): Double => Boolean = value =>
    (value >= bound && !value.isInfinite) || refuse(name, value, s"a number of at least ${short(bound)}")

  def atMost(name: String, bound: Double): Double => Boolean = value =>
    (value <= bound && !value.isInfinite) || refuse(name, value, s"a number of at most ${short(bound)}")

  /** In [low, high): what momenta, betas and fractions are. */
  def below(name: String, low: Double, high: Double): Double => Boolean = value =>
    (value >= low && value < high) || refuse(name, value, s"a number in [${short(low)}, ${short(high)})")

  /** In [low, high], both included. */
  def between(name: String, low: Double, high: Double): Double => Boolean = value =>
    (value >= low && value <= high) || refuse(name, value, s"a number in [${short(low)}, ${short(high)}]")

  def notNegative(name: String): Int => Boolean = value =>
    value >= 0 || refuse(name, value, "a whole number of at least 0")

  /** At least one number, each of at least `bound`. */
  def allAtLeast(name: String, bound: Double): Array[Double] => Boolean = values =>
    if (values.isEmpty) refuse(name, "empty", "at least one number") else values.forall(atLeast(name, bound))

  /** At least one whole number of at least 0, each larger than the one before. */
  def rising(name: String): Array[Int] => Boolean = values =>
    (values.nonEmpty && values.head >= 0 && values.zip(values.drop(1)).forall { case (one, next) => one < next }) ||
      refuse(name, values.mkString("[", ", ", "]"), "whole numbers of at least 0, each larger than the one before")

  /** At least one of the allowed names, each once. */
  def names(name: String, allowed: Seq[String]): Array[String] => Boolean = values =>
    (values.nonEmpty && values.forall(allowed.contains) && values.distinct.length == values.length) ||
      refuse(name, values.mkString("[", ", ", "]"), s"some of ${allowed.mkString(", ")}, each once")

  /** At least one name, none of them empty. */
  def named(name: String): Array[String] => Boolean = values =>
    (values.nonEmpty && values.forall(_.trim.nonEmpty)) ||
      refuse(name, values.mkString("[", ", ", "]"), "at least one name, none of them empty")

  /** Names of which some may be empty, but not all. */
  def someNamed(name: String): Array[String] => Boolean = values =>
    values.exists(_.trim.nonEmpty) || refuse(
      name,
      values.mkString("[", ", ", "]"),
      "names, of which one at least is not empty"
    )

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
