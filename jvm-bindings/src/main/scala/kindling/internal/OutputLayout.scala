package kindling.internal

/** What a program gives for a row under a loss: `width` numbers of `dtype`, and how many classes if the loss has any. */
private[kindling] final case class OutputLayout(dtype: DType, width: Int, classes: Option[Long])

private[kindling] object OutputLayout {

  /** Refuses a program whose output the loss cannot judge. */
  def of(program: ProgramDescription, loss: String): OutputLayout = {
    val output = program.outputs match {
      case Seq(one) => one
      case several => refuse(s"the program has ${several.size} outputs, but Kindling trains a program with one")
    }
    val dtype = DType
      .named(output.dtype)
      .filter(_.isFloat)
      .getOrElse(refuse(s"the program's output is ${output.dtype}, but the loss $loss needs float32 or float64"))
    if (loss == "crossEntropy") {
      program.finalActivation.filter(name => name == "softmax" || name == "sigmoid").foreach { name =>
        refuse(
          s"the network ends in $name, but crossEntropy takes logits and applies softmax itself: " +
            s"leave the final $name out, transform still gives probabilities"
        )
      }
      if (output.shape.size != 2)
        refuse(
          s"crossEntropy needs an output of the shape [batch, classes], but the program's output has the shape ${output.shapeText}"
        )
      val classes = output.rowShape.head.getOrElse(
        refuse(
          s"the program's output has the shape ${output.shapeText}: crossEntropy needs a fixed number of classes, " +
            "export the program with only the batch dimension dynamic"
        )
      )
      if (classes < 2)
        refuse(
          s"crossEntropy needs at least 2 classes, but the program's output has the shape ${output.shapeText}: $classes per row"
        )
      OutputLayout(dtype, 1, Some(classes))
    } else {
      val shape = output.rowShape.map(
        _.getOrElse(
          refuse(s"the program's output has the shape ${output.shapeText}: $loss needs fixed sizes behind the batch")
        )
      )
      OutputLayout(dtype, FeatureLayout.checkedWidth("the program's output", shape), None)
    }
  }

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
