package kindling.internal

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode

/**
 * A loss and its settings as the native library takes them. Settings that are not given are not sent: their defaults, which are
 * PyTorch's, stand in one place, the native library.
 */
private[kindling] final case class Loss(name: String, settings: Seq[(String, JsonNode)] = Nil) {

  def json: ObjectNode = {
    val node = Json.obj().put("name", name)
    settings.foreach { case (key, value) => Json.set(node, key, value) }
    node
  }

  /** What it wants of the label column. */
  def label: Loss.Label = name match {
    case "crossEntropy" | "categoricalHinge" => Loss.Label.Class
    case "ctc" => Loss.Label.Sequence
    case "cosine" => Loss.Label.One
    case "triplet" | "model" => Loss.Label.None
    case _ => Loss.Label.LikeOutput
  }

  /** Whether `transform` tells probabilities: those of classes, or those of yes. */
  def tellsProbabilities: Boolean = name == "crossEntropy" || binary

  def binary: Boolean = name == "binaryCrossEntropy" || name == "binaryCrossEntropyWithLogits"

  /** How many outputs of the program it judges. */
  def outputs: Int = name match {
    case "cosine" | "marginRanking" => 2
    case "triplet" => 3
    case _ => 1
  }

  def setting(key: String): Option[JsonNode] = settings.collectFirst { case (`key`, value) => value }

  def ignored: Option[Long] = setting("ignoreIndex").map(_.asLong)

  def blank: Long = setting("blank").fold(0L)(_.asLong)
}

private[kindling] object Loss {

  sealed trait Label

  object Label {

    /** A class index, or probabilities of classes. */
    case object Class extends Label

    /** As many numbers as the output has. */
    case object LikeOutput extends Label

    /** One number, however wide the outputs are. */
    case object One extends Label

    /** An array of classes of any length up to the output's time. */
    case object Sequence extends Label

    /** No label: the column is not read. */
    case object None extends Label
  }

  val names: Seq[String] = Seq(
    "crossEntropy",
    "binaryCrossEntropy",
    "binaryCrossEntropyWithLogits",
    "mse",
    "mae",
    "huber",
    "smoothL1",
    "poisson",
    "kl",
    "cosine",
    "cosineSimilarity",
    "hinge",
    "squaredHinge",
    "categoricalHinge",
    "marginRanking",
    "triplet",
    "ctc",
    "model"
  )

  /** The losses that a setting is for. */
  val owners: Map[String, Seq[String]] = Map(
    "labelSmoothing" -> Seq("crossEntropy"),
    "classWeights" -> Seq("crossEntropy"),
    "ignoreIndex" -> Seq("crossEntropy", "ctc"),
    "posWeight" -> Seq("binaryCrossEntropyWithLogits"),
    "delta" -> Seq("huber"),
    "beta" -> Seq("smoothL1"),
    "logInput" -> Seq("poisson"),
    "full" -> Seq("poisson"),
    "logTarget" -> Seq("kl"),
    "margin" -> Seq("cosine", "marginRanking", "triplet"),
    "normDegree" -> Seq("triplet"),
    "swap" -> Seq("triplet"),
    "blank" -> Seq("ctc"),
    "zeroInfinity" -> Seq("ctc")
  )

  /** The loss that the parameters describe; a setting of another loss is refused by name. */
  def of(p: TorchParams): Loss = {
    import p._
    val chosen: Seq[(String, JsonNode)] = Seq(labelSmoothing, delta, beta, margin, normDegree).flatMap(param =>
      get(param).map(value => param.name -> Json.number(value))
    ) ++
      Seq(ignoreIndex, blank).flatMap(param => get(param).map(value => param.name -> Json.number(value))) ++
      Seq(logInput, full, logTarget, swap, zeroInfinity).flatMap(param =>
        get(param).map(value => param.name -> Json.bool(value))
      ) ++
      Seq(classWeights, posWeight).flatMap(param =>
        get(param).map(values => param.name -> Json.array(values.toSeq.map(Json.number(_: Double))))
      )
    chosen.foreach { case (key, _) =>
      if (!owners(key).contains(getLoss))
        refuse(
          s"$key is set, but it does nothing with the loss $getLoss: clear it, it belongs to ${owners(key).mkString(" and ")}"
        )
    }
    val loss = Loss(getLoss, chosen)
    if (isSet(labelCol) && loss.label == Label.None)
      refuse(s"labelCol is set, but the loss $getLoss reads no label: clear it${hint(getLoss)}")
    if (isSet(probabilityCol) && !loss.tellsProbabilities && getProbabilityCol.nonEmpty)
      refuse(s"probabilityCol is set, but it does nothing with the loss $getLoss: clear it")
    loss
  }

  private def hint(loss: String): String =
    if (loss == "model") ", and name the label among inputCols, where the program takes it" else ""

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
