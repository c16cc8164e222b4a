package kindling.internal

import org.apache.spark.sql.types.{StructField, StructType}

/** How the values of one native column come out of a DataFrame. */
private[kindling] sealed trait Filling extends Serializable {

  /** The DataFrame columns it reads, in order. */
  def columns: Seq[StructField]
}

private[kindling] object Filling {

  /** One number per column, side by side. */
  final case class Scalars(columns: Seq[StructField]) extends Filling

  /** One column of arrays of numbers. */
  final case class Array(column: StructField) extends Filling {
    def columns: Seq[StructField] = Seq(column)
  }

  /** One column of Spark ML vectors. */
  final case class Vector(column: StructField) extends Filling {
    def columns: Seq[StructField] = Seq(column)
  }

  /** A class index: one number that must be whole and, when the program says how many classes there are, below that. */
  final case class ClassIndex(column: StructField, classes: Option[Long]) extends Filling {
    def columns: Seq[StructField] = Seq(column)
  }
}

/** One block of rows in native memory: a program input or the label, `width` numbers of `dtype` per row. */
private[kindling] final case class NativeColumn(
    name: String,
    isLabel: Boolean,
    dtype: DType,
    width: Int,
    filling: Filling
) {
  def rowBytes: Long = dtype.size.toLong * width
}

/**
 * Which DataFrame columns fill which native columns. It is settled on the driver from the schema and the program, and everything
 * that can be refused without looking at rows is refused there.
 */
private[kindling] final case class FeatureLayout(columns: Seq[NativeColumn], indicator: Option[StructField]) {

  /** The DataFrame columns that are read, each once: what the data is projected to before it is read. */
  val selected: StructType = StructType((columns.flatMap(_.filling.columns) ++ indicator).distinctBy(_.name))

  def rowBytes: Long = columns.map(_.rowBytes).sum

  def withoutLabel: FeatureLayout = FeatureLayout(columns.filterNot(_.isLabel), None)
}

private[kindling] object FeatureLayout {

  /** What of the parameters decides the layout. `featuresCols` is one name, or those of inputCols. */
  final case class Choice(
      featuresCols: Seq[String],
      inputShapes: Option[Seq[Seq[Long]]],
      loss: String,
      labelCol: String,
      indicatorCol: Option[String]
  )

  object Choice {
    def of(p: TorchParams): Choice = {
      import p._
      Choice(
        featuresCols = if (isSet(inputCols)) getInputCols.toSeq else Seq(getFeaturesCol),
        inputShapes = get(inputShapes).map(InputShapes.parse),
        loss = getLoss,
        labelCol = getLabelCol,
        indicatorCol = get(validationIndicatorCol).filter(_.nonEmpty)
      )
    }
  }

  /** The layout for training: inputs, label and the validation indicator. */
  def forTraining(schema: StructType, program: ProgramDescription, choice: Choice): FeatureLayout = {
    val inputs = inputColumns(schema, program, choice)
    val label = labelColumn(schema, OutputLayout.of(program, choice.loss), choice)
    FeatureLayout(inputs :+ label, choice.indicatorCol.map(ColumnTypes.boolean(schema, _, "validationIndicatorCol")))
  }

  /** The layout for prediction: the inputs alone. */
  def forPrediction(schema: StructType, program: ProgramDescription, choice: Choice): FeatureLayout =
    FeatureLayout(inputColumns(schema, program, choice), None)

  private def inputColumns(schema: StructType, program: ProgramDescription, choice: Choice): Seq[NativeColumn] = {
    val names = choice.featuresCols
    names.diff(names.distinct).headOption.foreach(name => refuse(s"""the column "$name" is given twice in inputCols"""))
    val shapes = rowShapes(program, choice.inputShapes)
    program.inputs.zip(shapes) match {
      case Seq() => refuse("the program has no input that a column could fill")
      case Seq((input, shape)) => Seq(singleInput(schema, input, shape, names))
      case several =>
        if (several.size != names.size)
          refuse(
            s"the program has ${several.size} inputs (${program.inputs.map(_.name).mkString(", ")}) but " +
              s"${names.size} columns are given (${names.mkString(", ")}): set inputCols to one column per input, in this order"
          )
        several.zip(names).map { case ((input, shape), name) => singleInput(schema, input, shape, Seq(name)) }
    }
  }

  private def singleInput(schema: StructType, input: TensorSpec, shape: Seq[Long], names: Seq[String]): NativeColumn = {
    val dtype = DType
      .named(input.dtype)
      .getOrElse(
        refuse(
          s"the program input ${input.name} is ${input.dtype}, which no column can fill: columns become ${DType.all.mkString(", ")}"
        )
      )
    val width = checkedWidth(s"the program input ${input.name}", shape)
    val filling = names match {
      case Seq(name) => ColumnTypes.numbers(schema, name, dtype, s"the program input ${input.name}")
      case several =>
        Filling.Scalars(several.map(ColumnTypes.scalar(schema, _, dtype, s"the program input ${input.name}")))
    }
    filling match {
      case Filling.Scalars(columns) if columns.size != width =>
        val found = if (columns.size == 1) s"""the column "${columns.head.name}" holds one number"""
        else s"inputCols names ${columns.size} columns"
        refuse(
          s"$found, but the program input ${input.name} takes $width numbers per row (shape ${shape.mkString("[", ", ", "]")}): " +
            "give an array or vector column of that length, or as many columns in inputCols"
        )
      case _ =>
    }
    NativeColumn(input.name, isLabel = false, dtype, width, filling)
  }

  /** The shape of a row of each input: the program's own, with inputShapes where the program leaves a size open. */
  private def rowShapes(program: ProgramDescription, said: Option[Seq[Seq[Long]]]): Seq[Seq[Long]] = {
    said.foreach { shapes =>
      if (shapes.size != program.inputs.size)
        refuse(s"inputShapes has ${shapes.size} shapes, but the program has ${program.inputs.size} inputs")
    }
    program.inputs.zipWithIndex.map { case (input, index) =>
      said.map(_(index)) match {
        case Some(shape) =>
          val fits = shape.size == input.rowShape.size &&
            shape.zip(input.rowShape).forall { case (size, expected) => expected.forall(_ == size) }
          if (!fits)
            refuse(
              s"inputShapes gives ${shape.mkString("[", ", ", "]")} for the program input ${input.name}, whose shape with the " +
                s"batch in front is ${input.shapeText}"
            )
          shape
        case None =>
          input.rowShape.map(
            _.getOrElse(
              refuse(
                s"the program input ${input.name} has the shape ${input.shapeText}, where ? is open: say the shape of a row in inputShapes"
              )
            )
          )
      }
    }
  }

  private def labelColumn(schema: StructType, output: OutputLayout, choice: Choice): NativeColumn =
    if (choice.loss == "crossEntropy") {
      val field = ColumnTypes.anyNumber(schema, choice.labelCol, "the loss crossEntropy")
      NativeColumn("label", isLabel = true, DType.Int64, 1, Filling.ClassIndex(field, output.classes))
    } else {
      val filling = ColumnTypes.numbers(schema, choice.labelCol, output.dtype, "the label")
      filling match {
        case Filling.Scalars(_) if output.width != 1 =>
          refuse(
            s"""the label column "${choice.labelCol}" holds one number, but the program gives ${output.width} per row: """ +
              "use an array or vector column of that length"
          )
        case Filling.Array(_) | Filling.Vector(_) if output.width == 1 =>
          refuse(
            s"""the label column "${choice.labelCol}" holds several numbers per row, but the program gives one: use a column of numbers"""
          )
        case _ =>
      }
      NativeColumn("label", isLabel = true, output.dtype, output.width, filling)
    }

  private[internal] def checkedWidth(owner: String, shape: Seq[Long]): Int = {
    val width = shape.foldLeft(BigInt(1))(_ * _)
    if (width < 1) refuse(s"$owner has no numbers in a row (shape ${shape.mkString("[", ", ", "]")})")
    // One row must fit into a block that is addressed by Int.
    if (width > (1 << 27)) refuse(s"$owner takes $width numbers per row, more than ${1 << 27}")
    width.toInt
  }

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
