package kindling.internal

/** What the label column holds, as the native library will read it. */
private[kindling] sealed trait LabelLayout

private[kindling] object LabelLayout {

  /** There is no label column. */
  case object None extends LabelLayout

  /** As many numbers as the output has. */
  final case class Numbers(dtype: DType, width: Int) extends LabelLayout

  /**
   * Classes: an index for each of `positions`, or a probability for each class of each position. `soft` is unset for a loss that
   * takes no probabilities.
   */
  final case class Classes(
      classes: Option[Long],
      positions: Int,
      ignored: Option[Long],
      soft: Option[DType],
      softWidth: Int
  ) extends LabelLayout

  /** Up to `time` classes, padded with `padding`. */
  final case class Sequence(time: Int, padding: Long) extends LabelLayout
}

/** An output of the program that becomes a column as it is: its position and how many numbers a row has. */
private[kindling] final case class OtherOutput(index: Int, column: String, width: Int)

/**
 * What a program gives for a row under a loss: `width` numbers of the prediction, `probabilities` of them beside it, and the label
 * it is judged by. `inputs` are the positions of the program's inputs that the prediction and the `others` need.
 */
private[kindling] final case class OutputLayout(
    width: Int,
    probabilities: Int,
    binary: Boolean,
    label: LabelLayout,
    inputs: Seq[Int],
    others: Seq[OtherOutput] = Nil
)

private[kindling] object OutputLayout {

  /**
   * Refuses a program whose outputs the loss cannot judge, or cannot be columns. `chosen` is the parameter predictionOutput, `columns`
   * is outputCols.
   */
  def of(
      program: ProgramDescription,
      loss: Loss,
      chosen: Option[String],
      columns: Option[Seq[String]] = None
  ): OutputLayout = {
    val judged = ofPrediction(program, loss, chosen)
    val others = columns.fold(Seq.empty[OtherOutput])(othersOf(program, _))
    val needed = others.flatMap(other => needs(program, program.outputs(other.index)))
    judged.copy(others = others, inputs = (judged.inputs ++ needed).distinct.sorted)
  }

  private def othersOf(program: ProgramDescription, columns: Seq[String]): Seq[OtherOutput] = {
    val outputs = program.outputs
    if (columns.size != outputs.size)
      refuse(
        s"outputCols names ${columns.size} columns, but the program has ${outputs.size} outputs (${program.outputNames}): give one " +
          "for each, and an empty name for what is not wanted"
      )
    columns.zip(outputs).zipWithIndex.collect {
      case ((column, output), index) if column.nonEmpty =>
        def no(why: String) =
          refuse(s"""outputCols names "$column" for the program's output $index, $why: give it an empty name""")
        if (output.shape.isEmpty) no("which is one number for the whole batch")
        if (program.inputs.forall(_.shape.headOption.contains(None)) && output.shape.head.isDefined)
          no(s"whose shape ${output.shapeText} has no row for each row of the batch")
        val sizes =
          output.rowShape.map(_.getOrElse(no(s"whose shape ${output.shapeText} has an open size behind the batch")))
        OtherOutput(index, column, FeatureLayout.checkedWidth(s"the program's output $index", sizes))
    }
  }

  private def needs(program: ProgramDescription, output: TensorSpec): Seq[Int] =
    if (output.inputs.isEmpty) program.inputs.indices else output.inputs

  private def ofPrediction(program: ProgramDescription, loss: Loss, chosen: Option[String]): OutputLayout = {
    if (program.outputs.size < loss.outputs)
      refuse(s"the loss ${loss.name} judges ${loss.outputs} outputs, but the program has ${program.outputs.size}")
    val predicted = prediction(program, loss, chosen)
    val output = program.outputs(predicted)
    requireRows(program, output, chosen)
    val judged = if (loss.outputs > 1) program.outputs.head else output
    if (loss.name != "model") checkType(judged, loss)
    val activation = judged.activation.orElse(program.finalActivation.filter(_ => program.outputs.head eq judged))
    activation.foreach(refuseActivation(loss, _))
    val inputs = needs(program, output)
    loss.name match {
      case "crossEntropy" | "categoricalHinge" => ofClasses(loss, output, inputs)
      case _ =>
        val width = FeatureLayout.checkedWidth("the program's output", sizes(output, loss))
        val probabilities = if (loss.binary) width else 0
        OutputLayout(width, probabilities, loss.binary, label(loss, judged), inputs)
    }
  }

  private def prediction(program: ProgramDescription, loss: Loss, chosen: Option[String]): Int = {
    val outputs = program.outputs
    def named(name: String): Option[Int] = Some(outputs.indexWhere(_.name == name)).filter(_ >= 0)
    lazy val own = named("loss").getOrElse {
      val scalar = outputs.indexWhere(_.shape.isEmpty)
      if (scalar < 0)
        refuse(
          "the loss is model, but none of the program's outputs is named loss or is a single number: " +
            s"its outputs are ${program.outputNames}"
        )
      scalar
    }
    chosen match {
      case Some(name) =>
        named(name)
          .orElse(name.toIntOption.filter(outputs.indices.contains))
          .getOrElse(
            refuse(
              s"""predictionOutput is "$name", but the program's outputs are ${program.outputNames}: choose one of them"""
            )
          )
      case None if loss.name == "model" =>
        named("logits").orElse(outputs.indices.find(_ != own)).getOrElse(
          refuse("the program returns its loss and nothing else: let it return the prediction too")
        )
      case None => named("logits").getOrElse(0)
    }
  }

  /** What predicts must have a row for each row of the batch. */
  private def requireRows(program: ProgramDescription, output: TensorSpec, chosen: Option[String]): Unit = {
    val subject = chosen.fold(s"the program's output ${output.name}")(name => s"""predictionOutput is "$name", which""")
    val advice = s"choose the predictionOutput among ${program.outputNames}"
    if (output.shape.isEmpty)
      refuse(s"$subject is one number for the whole batch and predicts nothing of a row: $advice")
    // A batch dimension that varies in every input varies in whatever has a row for each of its rows.
    if (program.inputs.forall(_.shape.headOption.contains(None)) && output.shape.head.isDefined)
      refuse(
        s"$subject has the shape ${output.shapeText}, whose first size does not follow the batch, so it predicts nothing of a row: " +
          advice
      )
  }

  private def checkType(output: TensorSpec, loss: Loss): Unit =
    if (!Set("float32", "float64", "float16", "bfloat16")(output.dtype))
      refuse(s"the program's output is ${output.dtype}, but the loss ${loss.name} needs float32 or float64")

  private def refuseActivation(loss: Loss, activation: String): Unit = {
    val probabilities = activation == "softmax" || activation == "sigmoid"
    val advice = loss.name match {
      case "crossEntropy" => "takes logits and applies softmax itself: " +
          s"leave the final $activation out, transform still gives probabilities"
      case "binaryCrossEntropyWithLogits" => "takes logits: " +
          s"leave the final $activation out, or use binaryCrossEntropy"
      case "kl" => "takes log-probabilities: let it end in log_softmax"
      case "ctc" => s"takes logits or log-probabilities: leave the final $activation out"
      case _ => ""
    }
    if (probabilities && advice.nonEmpty) refuse(s"the network ends in $activation, but ${loss.name} $advice")
  }

  private def ofClasses(loss: Loss, output: TensorSpec, inputs: Seq[Int]): OutputLayout = {
    if (output.shape.size < 2)
      refuse(
        s"${loss.name} needs an output of the shape [batch, classes] or [batch, classes, ...], but the program's output has " +
          s"the shape ${output.shapeText}"
      )
    val classes = output.rowShape.head.getOrElse(
      refuse(
        s"the program's output has the shape ${output.shapeText}: ${loss.name} needs a fixed number of classes, " +
          "export the program with only the batch dimension dynamic"
      )
    )
    if (classes < 2)
      refuse(
        s"${loss.name} needs at least 2 classes, but the program's output has the shape ${output.shapeText}: $classes per row"
      )
    val positions = FeatureLayout.checkedWidth("the program's output", sizes(output, loss).drop(1))
    val width = FeatureLayout.checkedWidth("the program's output", sizes(output, loss))
    loss.setting("classWeights").foreach { weights =>
      if (weights.size != classes)
        refuse(s"classWeights has ${weights.size} weights, but the program has $classes classes: give one for each")
    }
    val soft = Some(dtype(output)).filter(_ => loss.name == "crossEntropy" && loss.ignored.isEmpty)
    val label = LabelLayout.Classes(Some(classes), positions, loss.ignored, soft, width)
    OutputLayout(positions, if (loss.tellsProbabilities) width else 0, binary = false, label, inputs)
  }

  private def label(loss: Loss, judged: TensorSpec): LabelLayout = loss.label match {
    case Loss.Label.None => LabelLayout.None
    case Loss.Label.One => LabelLayout.Numbers(dtype(judged), 1)
    case Loss.Label.Sequence =>
      val shape = sizes(judged, loss)
      if (shape.size != 2)
        refuse(
          s"ctc needs an output of the shape [batch, time, classes], but the program's output has the shape ${judged.shapeText}"
        )
      LabelLayout.Sequence(FeatureLayout.checkedWidth("the time of the program's output", shape.take(1)), loss.blank)
    case _ =>
      LabelLayout.Numbers(dtype(judged), FeatureLayout.checkedWidth("the program's output", sizes(judged, loss)))
  }

  /** Half precision is judged in float32. */
  private def dtype(output: TensorSpec): DType = DType.named(output.dtype).getOrElse(DType.Float32)

  private def sizes(output: TensorSpec, loss: Loss): Seq[Long] =
    output.rowShape.map(
      _.getOrElse(
        refuse(
          s"the program's output has the shape ${output.shapeText}: ${loss.name} needs fixed sizes behind the batch"
        )
      )
    )

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
