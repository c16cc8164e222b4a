package kindling.internal

import java.util.Locale

import kindling.TorchEstimator
import org.apache.spark.ml.param._
import org.apache.spark.network.util.JavaUtils

import scala.annotation.tailrec
import scala.util.Try

/** The command line of `kindling.Train`, read once; a wrong flag is a [[TrainFlags.Problem]] with a sentence. */
private[kindling] final case class TrainFlags(
    data: String,
    model: String,
    validation: Option[String],
    output: Option[String],
    overwrite: Boolean,
    estimator: TorchEstimator
)

private[kindling] object TrainFlags {

  /** The command line is wrong. */
  final class Problem(message: String) extends Exception(message)

  def asksForHelp(args: Seq[String]): Boolean = args.exists(arg => arg == "--help" || arg == "-h")

  /** One flag: the parameter it sets, how it is written, and what it takes. */
  private final case class Flag(param: Param[Any], names: Seq[String], value: String, read: String => Any)

  /** Another, shorter name beside the parameter's own. */
  private val short = Map("maxEpochs" -> "epochs", "validationIndicatorCol" -> "validation-col")

  /** Parameters that `--model` sets. */
  private val ofModel = Set("model", "layers")

  private val defaults = new TorchEstimator()

  /** A flag for every parameter of the estimator: `learningRate` is `--learning-rate`. */
  private val flags: Seq[Flag] =
    defaults.params.toSeq.filterNot(param => ofModel(param.name)).map { param =>
      val own = param.name.replaceAll("([A-Z])", "-$1").toLowerCase(Locale.ROOT)
      val (value, read) = reader(param)
      Flag(param.asInstanceOf[Param[Any]], short.get(param.name).toSeq :+ own, value, read)
    }

  private def reader(param: Param[_]): (String, String => Any) = param match {
    case _: DoubleParam => ("X", double)
    case _: IntParam => ("N", int)
    case _ if param.name == "shardMemory" => ("SIZE", size)
    case _: LongParam => ("N", long)
    case _: BooleanParam => ("true|false", boolean)
    case _: StringArrayParam => ("A,B,...", parts(_).toArray[String])
    case _: DoubleArrayParam => ("X,Y,...", parts(_).map(double).toArray[Double])
    case _: IntArrayParam => ("N,M,...", parts(_).map(int).toArray[Int])
    case _ if param.name.endsWith("Col") => ("NAME", identity)
    case _ => ("TEXT", identity)
  }

  private def help(flag: Flag): String =
    flag.param.doc + defaults.getDefault(flag.param).filter(_ != "").fold("")(value => s" ($value)") +
      (if (flag.names.size > 1) s"; also --${flag.names.last}" else "")

  val usage: String = {
    val own = Seq(
      ("data", "PATH", "the Parquet data to train on (required)"),
      ("model", "PATH", "the network: a .pt2 archive, or a .json file with a layer list (required)"),
      ("validation", "PATH", "Parquet data to validate on"),
      ("output", "PATH", "where the trained model is saved"),
      ("overwrite", "", "replace what is at the output path")
    )
    val lines = (own ++ flags.map(f => (f.names.head, f.value, help(f)))).map { case (name, value, help) =>
      f"  ${s"--$name $value".trim}%-30s $help"
    }
    ("usage: spark-submit --class kindling.Train kindling.jar --data PATH --model PATH [flags]" +: lines).mkString("\n")
  }

  def parse(args: Seq[String]): TrainFlags = {
    val values = collect(args.toList, Map.empty)
    val known = flags.flatMap(_.names).toSet ++ Set("data", "model", "validation", "output", "overwrite")
    values.keys.find(!known(_)).foreach(name => throw new Problem(s"there is no flag --$name"))
    def required(name: String): String = values.getOrElse(name, throw new Problem(s"--$name is missing"))

    val data = required("data")
    val model = required("model")
    val estimator = new TorchEstimator()
    for (flag <- flags; name <- flag.names; value <- values.get(name))
      try estimator.set(estimator.getParam(flag.param.name), flag.read(value)): Unit
      catch { case e: IllegalArgumentException => throw new Problem(s"--$name: ${e.getMessage}") }
    flags.find(_.names.count(values.contains) > 1).foreach { flag =>
      throw new Problem(s"${flag.names.map("--" + _).mkString(" and ")} are one flag: give one of them")
    }
    TrainFlags(data, model, values.get("validation"), values.get("output"), values.contains("overwrite"), estimator)
  }

  @tailrec
  private def collect(args: List[String], found: Map[String, String]): Map[String, String] = args match {
    case Nil => found
    case "--overwrite" :: rest => collect(rest, found + ("overwrite" -> ""))
    case flag :: rest if flag.startsWith("--") =>
      val equals = flag.indexOf('=')
      val name = if (equals < 0) flag.drop(2) else flag.slice(2, equals)
      val (value, after) =
        if (equals >= 0) (flag.drop(equals + 1), rest)
        else
          rest match {
            case value :: after if !value.startsWith("--") => (value, after)
            case _ => throw new Problem(s"--$name needs a value")
          }
      if (found.contains(name)) throw new Problem(s"--$name is given twice")
      collect(after, found + (name -> value))
    case other :: _ => throw new Problem(s""""$other" is not a flag""")
  }

  private def number[T](value: String, kind: String)(read: String => Option[T]): T =
    read(value).getOrElse(throw new IllegalArgumentException(s""""$value" is not $kind"""))

  private def int(value: String): Int = number(value, "a whole number")(_.toIntOption)

  private def long(value: String): Long = number(value, "a whole number")(_.toLongOption)

  /** Bytes, or as Spark's settings have them. */
  private def size(value: String): Long =
    number(value, "a size such as 2g")(text => Try(JavaUtils.byteStringAsBytes(text)).toOption)

  private def parts(value: String): Seq[String] = value.split(',').toSeq.map(_.trim)

  private def boolean(value: String): Boolean = number(value, "true or false")(_.toBooleanOption)

  private def double(value: String): Double = number(value, "a number")(_.toDoubleOption)
}
