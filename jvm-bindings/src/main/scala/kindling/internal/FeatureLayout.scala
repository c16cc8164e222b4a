package kindling.internal

import org.apache.spark.sql.types.{StructField, StructType}

/** How the values of one native column come out of a DataFrame. */
private[kindling] sealed trait Filling extends Serializable {

  /** The DataFrame columns it reads, in order. */
  def columns: Seq[StructField]
}

private[kindling] object Filling {

  /** One number per column, side by side; of the strings among them, what `vocabularies` says. */
  final case class Scalars(columns: Seq[StructField], vocabularies: Seq[Vocabulary] = Nil) extends Filling {

    /** How each of the columns is read. */
    def types: Seq[NumberType] =
      columns.map(field => NumberType.of(field.dataType, vocabularies.find(_.column == field.name)))
  }

  /** One column of arrays of numbers. */
  final case class Array(column: StructField) extends Filling {
    def columns: Seq[StructField] = Seq(column)
  }

  /** One column of Spark ML vectors. */
  final case class Vector(column: StructField) extends Filling {
    def columns: Seq[StructField] = Seq(column)
  }

  /**
   * A class index: one number that must be whole and, when the program says how many classes there are, below that. `ignored` is
   * taken beside them. A string is the class that the vocabulary says.
   */
  final case class ClassIndex(
      column: StructField,
      classes: Option[Long],
      ignored: Option[Long] = None,
      vocabulary: Option[Vocabulary] = None
  ) extends Filling {
    def columns: Seq[StructField] = Seq(column)

    def source: NumberType = NumberType.of(column.dataType, vocabulary)
  }

  /** One column of arrays of integers of any length up to the column's width; the rest becomes `padding`. */
  final case class Sequence(column: StructField, padding: Long) extends Filling {
    def columns: Seq[StructField] = Seq(column)
  }

  /** One column of pictures. */
  final case class Image(column: StructField, pixels: Pixels) extends Filling {
    def columns: Seq[StructField] = Seq(column)
  }

  /** What a row weighs: one number of at least 0. */
  final case class Weight(column: StructField) extends Filling {
    def columns: Seq[StructField] = Seq(column)
  }
}

/** What the values of a native column are for, by the native library's name. */
private[kindling] sealed abstract class Role(val name: String) extends Serializable

private[kindling] object Role {
  case object Input extends Role("input")
  case object Label extends Role("label")
  case object Weight extends Role("weight")
}

/** One block of rows in native memory: a program input, the label or the weight, `width` numbers of `dtype` per row. */
private[kindling] final case class NativeColumn(
    name: String,
    role: Role,
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

  /** The layout of a DataFrame to validate on, which must fill the same native columns. */
  def likewise(other: FeatureLayout): FeatureLayout = {
    columns.zip(other.columns).collectFirst {
      case (own, its) if (own.dtype, own.width) != ((its.dtype, its.width)) =>
        throw new IllegalArgumentException(
          s"${own.name} holds ${own.width} ${own.dtype} per row in the data, but ${its.width} ${its.dtype} in the DataFrame to " +
            "validate on: give both the same types"
        )
    }
    other
  }
}

private[kindling] object FeatureLayout {

  /** What of the parameters decides the layout. `featuresCols` is one name, or those of inputCols. */
  final case class Choice(
      featuresCols: Seq[String],
      inputShapes: Option[Seq[Seq[Long]]],
      loss: Loss,
      labelCol: String,
      weightCol: Option[String],
      predictionOutput: Option[String],
      indicatorCol: Option[String],
      indexing: Indexing = Indexing.none,
      pixelRange: Option[String] = None,
      outputCols: Option[Seq[String]] = None
  ) {

    /** What the program gives under these parameters. */
    def output(program: ProgramDescription): OutputLayout = OutputLayout.of(program, loss, predictionOutput, outputCols)
  }

  object Choice {
    def of(p: TorchParams): Choice = of(p, Indexing.of(p))

    def of(p: TorchParams, indexing: Indexing): Choice = {
      import p._
      Choice(
        featuresCols = if (isSet(inputCols)) getInputCols.toSeq else Seq(getFeaturesCol),
        inputShapes = get(inputShapes).map(InputShapes.parse),
        loss = Loss.of(p),
        labelCol = getLabelCol,
        weightCol = get(weightCol).filter(_.nonEmpty),
        predictionOutput = get(predictionOutput),
        indicatorCol = get(validationIndicatorCol).filter(_.nonEmpty),
        indexing = indexing,
        pixelRange = get(pixelRange),
        outputCols = get(outputCols).map(_.toSeq)
      )
    }
  }

  /** The layout for training: inputs, label, weight and the validation indicator. */
  def forTraining(schema: StructType, program: ProgramDescription, choice: Choice): FeatureLayout = {
    val inputs = inputColumns(schema, program, choice, program.inputs.indices)
    val label = labelColumn(schema, choice.output(program).label, choice)
    val weight = choice.weightCol.map { name =>
      val field = ColumnTypes.anyNumber(schema, name, "weightCol", indexable = false)
      NativeColumn(name, Role.Weight, DType.Float64, 1, Filling.Weight(field))
    }
    FeatureLayout(
      inputs ++ label ++ weight,
      choice.indicatorCol.map(ColumnTypes.boolean(schema, _, "validationIndicatorCol"))
    )
  }

  /** The layout for prediction: the inputs alone, and of them those that the prediction needs. */
  def forPrediction(schema: StructType, program: ProgramDescription, choice: Choice): FeatureLayout = {
    val needed = choice.output(program).inputs
    FeatureLayout(inputColumns(schema, program, choice, needed), None)
  }

  /** `needed` are the positions of the inputs that are filled. inputCols may name columns for all inputs or for these. */
  private def inputColumns(
      schema: StructType,
      program: ProgramDescription,
      choice: Choice,
      needed: Seq[Int]
  ): Seq[NativeColumn] = {
    val all = choice.featuresCols.size == program.inputs.size && program.inputs.size > 1
    val names = if (all) needed.map(choice.featuresCols) else choice.featuresCols
    names.diff(names.distinct).headOption.foreach(name => refuse(s"""the column "$name" is given twice in inputCols"""))
    val inputs = needed.map(program.inputs)
    inputs.zip(rowShapes(program, choice.inputShapes, needed)) match {
      case Seq() => refuse("the program has no input that a column could fill")
      case Seq((input, shape)) => Seq(singleInput(schema, input, shape, names, choice))
      case several =>
        if (several.size != names.size)
          refuse(
            s"the program has ${several.size} inputs (${inputs.map(_.name).mkString(", ")}) but " +
              s"${names.size} columns are given (${names.mkString(", ")}): set inputCols to one column per input, in this order"
          )
        several.zip(names).map { case ((input, shape), name) =>
          singleInput(schema, input, shape, Seq(name), choice)
        }
    }
  }

  private def singleInput(
      schema: StructType,
      input: TensorSpec,
      shape: Seq[Long],
      names: Seq[String],
      choice: Choice
  ): NativeColumn = {
    import choice.indexing
    val dtype = DType
      .named(input.dtype)
      .getOrElse(
        refuse(
          s"the program input ${input.name} is ${input.dtype}, which no column can fill: columns become ${DType.all.mkString(", ")}"
        )
      )
    val width = checkedWidth(s"the program input ${input.name}", shape)
    val filling = names match {
      case Seq(name) if Images.serves(ColumnTypes.column(schema, name).dataType) =>
        image(ColumnTypes.column(schema, name), input, dtype, shape, choice)
      case _ if dtype == DType.UInt8 =>
        refuse(
          s"the program input ${input.name} is uint8, which pictures fill and nothing else: give a binary or image column, or " +
            "let the program take another type"
        )
      case Seq(name) => ColumnTypes.numbers(schema, name, dtype, s"the program input ${input.name}", indexing)
      case several =>
        Filling.Scalars(
          several.map(ColumnTypes.scalar(schema, _, dtype, s"the program input ${input.name}", indexing)),
          several.flatMap(indexing.of)
        )
    }
    filling match {
      case Filling.Scalars(columns, _) if columns.size != width =>
        val found = if (columns.size == 1) s"""the column "${columns.head.name}" holds one number"""
        else s"inputCols names ${columns.size} columns"
        refuse(
          s"$found, but the program input ${input.name} takes $width numbers per row (shape ${shape.mkString("[", ", ", "]")}): " +
            "give an array or vector column of that length, or as many columns in inputCols"
        )
      case _ =>
    }
    NativeColumn(input.name, Role.Input, dtype, width, filling)
  }

  private def image(
      field: StructField,
      input: TensorSpec,
      dtype: DType,
      shape: Seq[Long],
      choice: Choice
  ): Filling = {
    if (!dtype.isFloat) choice.pixelRange.filter(_ != "byte").foreach { range =>
      refuse(
        s"""pixelRange is "$range", but the program input ${input.name} is $dtype, which takes pixels from 0 to 255: clear it"""
      )
    }
    val unit = dtype.isFloat && !choice.pixelRange.contains("byte")
    Filling.Image(
      field,
      Pixels.of(shape, unit).getOrElse(
        refuse(
          s"""the column "${field.name}" holds pictures, but the program input ${input.name} takes rows of the shape """ +
            s"${shape.mkString("[", ", ", "]")}: pictures fill [channels, height, width], [height, width, channels] or " +
            "[height, width], with 1, 3 or 4 channels and another height and width, as the program or inputShapes says"
        )
      )
    )
  }

  /** The shape of a row of each input: the program's own, with inputShapes where the program leaves a size open. */
  private def rowShapes(
      program: ProgramDescription,
      said: Option[Seq[Seq[Long]]],
      needed: Seq[Int]
  ): Seq[Seq[Long]] = {
    said.foreach { shapes =>
      if (shapes.size != program.inputs.size)
        refuse(s"inputShapes has ${shapes.size} shapes, but the program has ${program.inputs.size} inputs")
    }
    needed.map { index =>
      val input = program.inputs(index)
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

  private def labelColumn(schema: StructType, label: LabelLayout, choice: Choice): Option[NativeColumn] = {
    val name = choice.labelCol
    def native(dtype: DType, width: Int, filling: Filling) =
      Some(NativeColumn("label", Role.Label, dtype, width, filling))
    label match {
      case LabelLayout.None => None
      case LabelLayout.Numbers(dtype, width) =>
        if (choice.indexing.covers(name)) requireYesOrNo(choice, width)
        native(
          dtype,
          width,
          asWide(ColumnTypes.numbers(schema, name, dtype, "the label", choice.indexing), name, width)
        )
      case LabelLayout.Sequence(time, padding) =>
        ColumnTypes.numbers(schema, name, DType.Int64, "the label of ctc") match {
          case Filling.Array(field) => native(DType.Int64, time, Filling.Sequence(field, padding))
          case _ => refuse(s"""the label column "$name" must hold an array of classes per row for ctc""")
        }
      case classes: LabelLayout.Classes =>
        val several = ColumnTypes.holdsSeveral(schema, name, "the label", choice.indexing)
        val integers = ColumnTypes.holdsIntegers(schema, name)
        if (several && (classes.positions == 1 || !integers)) {
          val dtype = classes.soft.getOrElse(
            refuse(
              s"""the label column "$name" holds several numbers per row, which the loss ${choice.loss.name}""" +
                s"${if (choice.loss.ignored.isDefined) " with ignoreIndex" else ""} does not take as probabilities of classes: " +
                "give the class"
            )
          )
          native(
            dtype,
            classes.softWidth,
            asWide(ColumnTypes.numbers(schema, name, dtype, "the label"), name, classes.softWidth)
          )
        } else if (classes.positions == 1) {
          val field =
            if (choice.indexing.covers(name)) ColumnTypes.indexed(schema, name)
            else ColumnTypes.anyNumber(schema, name, s"the loss ${choice.loss.name}")
          val vocabulary = choice.indexing.of(name)
          vocabulary.foreach(requireClasses(_, classes.classes.getOrElse(Long.MaxValue), choice))
          native(DType.Int64, 1, Filling.ClassIndex(field, classes.classes, classes.ignored, vocabulary))
        } else
          native(
            DType.Int64,
            classes.positions,
            asWide(ColumnTypes.numbers(schema, name, DType.Int64, "the label"), name, classes.positions)
          )
    }
  }

  /** Strings are classes: of a loss that compares numbers, they would be an order that nobody gave them. */
  private def requireYesOrNo(choice: Choice, width: Int): Unit = {
    if (!choice.loss.binary)
      refuse(
        s"""the label "${choice.labelCol}" is in indexCols, but the loss ${choice.loss.name} compares numbers: strings are classes, """ +
          "of crossEntropy, categoricalHinge and the binary cross entropies"
      )
    if (width == 1) choice.indexing.of(choice.labelCol).foreach(requireClasses(_, 2, choice))
  }

  private def requireClasses(vocabulary: Vocabulary, classes: Long, choice: Choice): Unit =
    if (vocabulary.size > classes)
      refuse(
        s"""the label "${vocabulary.column}" has ${vocabulary.size} values, but the loss ${choice.loss.name} has $classes """ +
          "classes in this program: give the network one output for each value, or drop rows"
      )

  private def asWide(filling: Filling, name: String, width: Int): Filling = {
    filling match {
      case Filling.Scalars(_, _) if width != 1 =>
        refuse(
          s"""the label column "$name" holds one number, but the program gives $width per row: """ +
            "use an array or vector column of that length"
        )
      case Filling.Array(_) | Filling.Vector(_) if width == 1 =>
        refuse(
          s"""the label column "$name" holds several numbers per row, but the program gives one: use a column of numbers"""
        )
      case _ =>
    }
    filling
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
