package kindling.internal

import kindling.TorchEstimator

import scala.annotation.tailrec

/** The command line of `kindling.Train`, read once; a wrong flag is a [[TrainFlags.Problem]] with a sentence. */
private[kindling] final case class TrainFlags(
    data: String,
    model: String,
    output: Option[String],
    overwrite: Boolean,
    estimator: TorchEstimator
)

private[kindling] object TrainFlags {

  /** The command line is wrong. */
  final class Problem(message: String) extends Exception(message)

  def asksForHelp(args: Seq[String]): Boolean = args.exists(arg => arg == "--help" || arg == "-h")

  /** One flag: how it is written, what it takes, what it is for, and what it does to the estimator. */
  private final case class Flag(name: String, value: String, help: String, apply: (TorchEstimator, String) => Unit)

  private val flags: Seq[Flag] = Seq(
    Flag("label-col", "NAME", "the label column (label)", (e, v) => e.setLabelCol(v)),
    Flag(
      "features-col",
      "NAME",
      "the column of features, an array or vector (features)",
      (e, v) => e.setFeaturesCol(v)
    ),
    Flag(
      "input-cols",
      "A,B,...",
      "several feature columns instead",
      (e, v) => e.setInputCols(v.split(',').map(_.trim))
    ),
    Flag(
      "input-shapes",
      "JSON",
      "the shape of a row of each input, such as [[1,28,28]]",
      (e, v) => e.setInputShapes(v)
    ),
    Flag("loss", "NAME", "crossEntropy or mse (crossEntropy)", (e, v) => e.setLoss(v)),
    Flag("optimizer", "NAME", "adamw or sgd (adamw)", (e, v) => e.setOptimizer(v)),
    Flag("learning-rate", "X", "the step size (0.001)", (e, v) => e.setLearningRate(double(v))),
    Flag("momentum", "X", "sgd's momentum (0)", (e, v) => e.setMomentum(double(v))),
    Flag("weight-decay", "X", "the weight decay (0.01 for adamw, 0 for sgd)", (e, v) => e.setWeightDecay(double(v))),
    Flag("epochs", "N", "passes over the data (1)", (e, v) => e.setMaxEpochs(int(v))),
    Flag("batch-size", "N", "rows per step over all workers (32)", (e, v) => e.setBatchSize(int(v))),
    Flag("num-workers", "N", "ranks, each one a Spark task (1)", (e, v) => e.setNumWorkers(int(v))),
    Flag(
      "validation-fraction",
      "X",
      "the share of rows that validate (0)",
      (e, v) => e.setValidationFraction(double(v))
    ),
    Flag(
      "validation-col",
      "NAME",
      "a boolean column that marks rows that validate",
      (e, v) => e.setValidationIndicatorCol(v)
    ),
    Flag("handle-invalid", "HOW", "error, skip or keep rows with null or NaN (error)", (e, v) => e.setHandleInvalid(v)),
    Flag("seed", "N", "the seed of initial weights, order and split (0)", (e, v) => e.setSeed(long(v))),
    Flag("libtorch", "FOLDER", "where libtorch is, if Spark's configuration does not say", (e, v) => e.setLibtorch(v))
  )

  val usage: String = {
    val own = Seq(
      ("data", "PATH", "the Parquet data to train on (required)"),
      ("model", "PATH", "the network: a .pt2 archive, or a .json file with a layer list (required)"),
      ("output", "PATH", "where the trained model is saved"),
      ("overwrite", "", "replace what is at the output path")
    )
    val lines = (own ++ flags.map(f => (f.name, f.value, f.help))).map { case (name, value, help) =>
      f"  ${s"--$name $value".trim}%-30s $help"
    }
    ("usage: spark-submit --class kindling.Train kindling.jar --data PATH --model PATH [flags]" +: lines).mkString("\n")
  }

  def parse(args: Seq[String]): TrainFlags = {
    val values = collect(args.toList, Map.empty)
    val known = flags.map(_.name).toSet ++ Set("data", "model", "output", "overwrite")
    values.keys.find(!known(_)).foreach(name => throw new Problem(s"there is no flag --$name"))
    def required(name: String): String = values.getOrElse(name, throw new Problem(s"--$name is missing"))

    val data = required("data")
    val model = required("model")
    val estimator = new TorchEstimator()
    flags.foreach { flag =>
      try values.get(flag.name).foreach(flag.apply(estimator, _))
      catch { case e: IllegalArgumentException => throw new Problem(s"--${flag.name}: ${e.getMessage}") }
    }
    TrainFlags(data, model, values.get("output"), values.contains("overwrite"), estimator)
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

  private def double(value: String): Double = number(value, "a number")(_.toDoubleOption)
}
