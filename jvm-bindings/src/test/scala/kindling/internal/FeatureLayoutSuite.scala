package kindling.internal

import org.apache.spark.ml.linalg.SQLDataTypes
import org.apache.spark.sql.types._
import org.scalatest.funsuite.AnyFunSuite

/** Which columns fill which program inputs, and the sentences of what does not fit. */
class FeatureLayoutSuite extends AnyFunSuite {
  private val vector = SQLDataTypes.VectorType

  private def schema(fields: (String, DataType)*): StructType = StructType(fields.map { case (n, t) =>
    StructField(n, t)
  })

  private def input(name: String, dtype: String, sizes: Int*): TensorSpec =
    tensor(name, dtype, sizes.map(s => Some(s.toLong)))

  private def tensor(name: String, dtype: String, row: Seq[Option[Long]]): TensorSpec =
    TensorSpec(name, dtype, None +: row)

  private def program(
      inputs: Seq[TensorSpec],
      output: TensorSpec = input("", "float32", 3),
      finalActivation: Option[String] = None
  ) =
    ProgramDescription("pt2", inputs, Seq(output), 2, 10, 10, 40, finalActivation)

  private def choice(columns: Seq[String], loss: String = "crossEntropy", shapes: Option[Seq[Seq[Long]]] = None) =
    FeatureLayout.Choice(columns, shapes, Loss(loss), "label", None, None, None)

  private def layout(s: StructType, p: ProgramDescription, c: FeatureLayout.Choice) = FeatureLayout.forTraining(s, p, c)

  private def refused(s: StructType, p: ProgramDescription, c: FeatureLayout.Choice): String =
    intercept[IllegalArgumentException](layout(s, p, c)).getMessage

  private val x4 = Seq(input("x", "float32", 4))
  private val label = "label" -> IntegerType

  test("one array column fills one input as wide as the program says") {
    val made = layout(schema("features" -> ArrayType(FloatType), label), program(x4), choice(Seq("features")))
    assert(made.columns.map(c => (c.name, c.dtype, c.width, c.role)) === Seq(
      ("x", DType.Float32, 4, Role.Input),
      ("label", DType.Int64, 1, Role.Label)
    ))
    assert(made.selected.fieldNames === Array("features", "label"))
    assert(made.rowBytes === 24)
  }

  test("several scalar columns are stacked into one input") {
    val made = layout(
      schema("a" -> DoubleType, "b" -> ByteType, "c" -> DecimalType(9, 2), "d" -> LongType, label),
      program(x4),
      choice(Seq("a", "b", "c", "d"))
    )
    assert(made.columns.head.filling.columns.map(_.name) === Seq("a", "b", "c", "d"))
  }

  test("several inputs take one column each, in order") {
    val two = program(Seq(input("x", "float32", 4), input("ids", "int64", 2)))
    val made = layout(schema("ids" -> ArrayType(IntegerType), "v" -> vector, label), two, choice(Seq("v", "ids")))
    assert(made.columns.map(c => (c.name, c.dtype, c.width)).take(2) === Seq(
      ("x", DType.Float32, 4),
      ("ids", DType.Int64, 2)
    ))
    val text = refused(schema("v" -> vector, label), two, choice(Seq("v")))
    assert(text.contains("2 inputs (x, ids)") && text.contains("inputCols"))
  }

  test("a column that does not exist is answered with those that do") {
    val text = refused(schema("Features" -> vector, label), program(x4), choice(Seq("features")))
    assert(text === """there is no column "features" (did you mean "Features"?): the columns are Features, label""")
  }

  test("a string column is answered with what to do first") {
    val text = refused(schema("city" -> StringType, label), program(x4), choice(Seq("city")))
    assert(text.contains("\"city\" is a string") && text.contains("indexCols"))
  }

  private def indexing(columns: String*)(fitted: Vocabulary*) = Indexing(columns, fitted)

  test("an indexed string fills any number, before its vocabulary is fitted and after") {
    val animals = Vocabulary("kind", Seq("cat", "dog", "emu"))
    for (dtype <- Seq("float32", "float64", "int64", "int32"); fitted <- Seq(Nil, Seq(animals))) {
      val made = layout(
        schema("size" -> ByteType, "kind" -> StringType, "label" -> StringType),
        program(Seq(input("x", dtype, 2))),
        choice(Seq("size", "kind")).copy(indexing =
          indexing("kind", "label")(fitted ++ fitted.map(_.copy(column = "label")): _*)
        )
      )
      assert(made.columns.map(_.dtype) === Seq(DType.named(dtype).get, DType.Int64))
      assert(made.columns.head.filling.asInstanceOf[Filling.Scalars].vocabularies === fitted)
    }
  }

  test("what cannot be indexed is refused by its name and type") {
    val index = choice(Seq("x")).copy(indexing = indexing("x")())
    assert(refused(schema("x" -> LongType, label), program(Seq(input("x", "int64", 1))), index) ===
      """indexCols names "x", which is a bigint: only strings are indexed, leave it out or cast it""")
    assert(
      refused(schema("x" -> ArrayType(StringType), label), program(x4), index).contains("only strings are indexed")
    )
    assert(refused(schema("x" -> vector, label), program(x4), index).contains("is a vector: only strings are indexed"))
  }

  test("a string label is a class: of losses with classes, and of no more than these have") {
    val four = Vocabulary("label", Seq("a", "b", "c", "d"))
    val data = schema("x" -> ArrayType(FloatType), "label" -> StringType)
    def of(loss: String) = choice(Seq("x"), loss).copy(indexing = indexing("label")(four))
    assert(refused(data, program(x4), of("crossEntropy")) ===
      """the label "label" has 4 values, but the loss crossEntropy has 3 classes in this program: give the network one output """ +
      "for each value, or drop rows")
    assert(layout(data, program(x4, input("", "float32", 4)), of("crossEntropy")).columns.size === 2)
    val yes = program(x4, input("", "float32", 1))
    assert(refused(data, yes, of("binaryCrossEntropy")).contains("has 2 classes"))
    assert(refused(data, yes, of("mse")).contains("the loss mse compares numbers: strings are classes"))
  }

  test("a width that does not fit names the input and both numbers") {
    val stacked = refused(schema("a" -> FloatType, "b" -> FloatType, label), program(x4), choice(Seq("a", "b")))
    assert(stacked.contains("inputCols names 2 columns") && stacked.contains("takes 4 numbers"))
    val single = refused(schema("a" -> FloatType, label), program(x4), choice(Seq("a")))
    assert(single.contains("\"a\" holds one number"))
  }

  test("a timestamp fills float64 alone") {
    val times = schema("at" -> TimestampType, label)
    def refuses(dtype: String) = refused(times, program(Seq(input("x", dtype, 1))), choice(Seq("at")))
    assert(refuses("float32").contains("in steps of 128 only, but the program input x is float32"))
    assert(refuses("int64").contains("fractions would be lost"))
    assert(layout(times, program(Seq(input("x", "float64", 1))), choice(Seq("at"))).columns.head.width === 1)
  }

  test("integers are not narrowed and fractions are not cut") {
    val int32 = program(Seq(input("ids", "int32", 1)))
    assert(refused(schema("id" -> LongType, label), int32, choice(Seq("id"))).contains("numbers could overflow"))
    assert(refused(schema("id" -> FloatType, label), int32, choice(Seq("id"))).contains("fractions would be lost"))
    val int64 = program(Seq(input("ids", "int64", 1)))
    assert(refused(schema("id" -> vector, label), int64, choice(Seq("id"))).contains("vector of doubles"))
    assert(layout(schema("id" -> LongType, label), int64, choice(Seq("id"))).columns.head.dtype === DType.Int64)
  }

  test("an input of a type that no column has is refused by name") {
    assert(refused(
      schema("m" -> IntegerType, label),
      program(Seq(input("mask", "bool", 1))),
      choice(Seq("m"))
    ).contains("mask is bool"))
  }

  test("an open size is filled in by inputShapes, and a contradiction is refused") {
    val open = program(Seq(tensor("x", "float32", Seq(None, Some(2L)))))
    val s = schema("features" -> ArrayType(FloatType), label)
    assert(refused(s, open, choice(Seq("features"))).contains("inputShapes"))
    assert(layout(s, open, choice(Seq("features"), shapes = Some(Seq(Seq(5L, 2L))))).columns.head.width === 10)
    val text = refused(s, open, choice(Seq("features"), shapes = Some(Seq(Seq(5L, 3L)))))
    assert(text.contains("[5, 3]") && text.contains("[?, ?, 2]"))
    assert(refused(s, open, choice(Seq("features"), shapes = Some(Seq(Seq(5L), Seq(1L))))).contains("2 shapes"))
  }

  test("crossEntropy refuses probabilities and outputs that are not classes") {
    val s = schema("features" -> vector, label)
    assert(refused(s, program(x4, finalActivation = Some("softmax")), choice(Seq("features"))).contains("takes logits"))
    assert(refused(s, program(x4, input("", "float32")), choice(Seq("features"))).contains("[batch, classes]"))
    assert(refused(s, program(x4, input("", "float32", 3, 3)), choice(Seq("features"))).contains("holds one number"))
    assert(refused(s, program(x4, input("", "int64", 3)), choice(Seq("features"))).contains("int64"))
    val open = refused(s, program(x4, tensor("", "float32", Seq(None))), choice(Seq("features")))
    assert(open.contains("[?, ?]") && open.contains("fixed number of classes"))
  }

  test("a label of one class per position is integers, and fractions are probabilities") {
    val tokens = program(x4, input("", "float32", 3, 5))
    val s = schema("features" -> vector, "ids" -> ArrayType(IntegerType), "soft" -> ArrayType(DoubleType))
    def label(column: String) = layout(s, tokens, choice(Seq("features")).copy(labelCol = column)).columns.last
    assert((label("ids").dtype, label("ids").width) === ((DType.Int64, 5)))
    assert((label("soft").dtype, label("soft").width) === ((DType.Float32, 15)))
  }

  test("a weight is one number beside the label, and a loss without labels reads none") {
    val s = schema("features" -> vector, label, "w" -> IntegerType)
    val made = layout(s, program(x4), choice(Seq("features")).copy(weightCol = Some("w")))
    assert(made.columns.map(c => (c.role, c.dtype)).drop(1) === Seq(
      (Role.Label, DType.Int64),
      (Role.Weight, DType.Float64)
    ))
    val three = ProgramDescription("pt2", x4, Seq.fill(3)(input("", "float32", 2)), 2, 10, 10, 40, None)
    assert(layout(schema("features" -> vector), three, choice(Seq("features"), "triplet")).columns.map(_.role) === Seq(
      Role.Input
    ))
    assert(refused(s, program(x4), choice(Seq("features"), "triplet")).contains("judges 3 outputs"))
  }

  test("a program that returns its loss predicts from the other output and from the inputs that it needs") {
    val outputs = Seq(
      TensorSpec("loss", "float32", Nil, Seq(0, 1)),
      TensorSpec("hidden", "float32", Seq(None, Some(8L)), Seq(0)),
      TensorSpec("logits", "float32", Seq(None, Some(3L)), Seq(0))
    )
    val inputs = Seq(input("x", "float32", 4), input("labels", "int64"))
    val own = ProgramDescription("pt2", inputs, outputs, 2, 10, 10, 40, None)
    val asked = choice(Seq("features", "label"), "model")
    assert(layout(schema("features" -> vector, label), own, asked).columns.map(_.name) === Seq("x", "labels"))
    assert(FeatureLayout.forPrediction(schema("features" -> vector), own, asked).columns.map(_.name) === Seq("x"))
    assert(OutputLayout.of(own, Loss("model"), None).width === 3)
    assert(OutputLayout.of(own, Loss("model"), Some("hidden")).width === 8)
    assert(OutputLayout.of(own, Loss("model"), Some("1")).width === 8)
    val text = intercept[IllegalArgumentException](OutputLayout.of(own, Loss("model"), Some("logit"))).getMessage
    assert(text.contains("0 (loss), 1 (hidden), 2 (logits)"), text)
    val number = intercept[IllegalArgumentException](OutputLayout.of(own, Loss("model"), Some("0"))).getMessage
    assert(number.contains("predictionOutput is \"0\", which is one number for the whole batch"), number)
    val fixed = own.copy(outputs = own.outputs :+ TensorSpec("table", "float32", Seq(Some(7), Some(3))))
    val text3 = intercept[IllegalArgumentException](OutputLayout.of(fixed, Loss("mse"), Some("table"))).getMessage
    assert(text3.contains("whose first size does not follow the batch"), text3)
  }

  test("an mse label is as wide as the output") {
    val one = program(x4, input("", "float64", 1))
    val two = program(x4, input("", "float32", 2))
    val s = schema("features" -> vector, "label" -> FloatType, "labels" -> ArrayType(FloatType))
    val made = layout(s, one, choice(Seq("features"), "mse"))
    assert(made.columns.last.dtype === DType.Float64 && made.columns.last.width === 1)
    assert(refused(s, two, choice(Seq("features"), "mse")).contains("holds one number, but the program gives 2"))
    val wide = layout(s, two, choice(Seq("features"), "mse").copy(labelCol = "labels"))
    assert(wide.columns.last.width === 2)
    assert(
      refused(s, one, choice(Seq("features"), "mse").copy(labelCol = "labels")).contains("several numbers per row")
    )
  }

  test("the validation indicator must be boolean") {
    val s = schema("features" -> vector, label, "val" -> IntegerType)
    val text = refused(s, program(x4), choice(Seq("features")).copy(indicatorCol = Some("val")))
    assert(text.contains("validationIndicatorCol must be a boolean column"))
  }
}
