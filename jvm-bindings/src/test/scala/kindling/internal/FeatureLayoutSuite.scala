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
    FeatureLayout.Choice(columns, shapes, loss, "label", None)

  private def layout(s: StructType, p: ProgramDescription, c: FeatureLayout.Choice) = FeatureLayout.forTraining(s, p, c)

  private def refused(s: StructType, p: ProgramDescription, c: FeatureLayout.Choice): String =
    intercept[IllegalArgumentException](layout(s, p, c)).getMessage

  private val x4 = Seq(input("x", "float32", 4))
  private val label = "label" -> IntegerType

  test("one array column fills one input as wide as the program says") {
    val made = layout(schema("features" -> ArrayType(FloatType), label), program(x4), choice(Seq("features")))
    assert(made.columns.map(c => (c.name, c.dtype, c.width, c.isLabel)) === Seq(
      ("x", DType.Float32, 4, false),
      ("label", DType.Int64, 1, true)
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
    assert(text.contains("\"city\" is a string") && text.contains("StringIndexer"))
  }

  test("a width that does not fit names the input and both numbers") {
    val stacked = refused(schema("a" -> FloatType, "b" -> FloatType, label), program(x4), choice(Seq("a", "b")))
    assert(stacked.contains("inputCols names 2 columns") && stacked.contains("takes 4 numbers"))
    val single = refused(schema("a" -> FloatType, label), program(x4), choice(Seq("a")))
    assert(single.contains("\"a\" holds one number"))
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
    assert(refused(s, program(x4, input("", "float32", 3, 3)), choice(Seq("features"))).contains("[batch, classes]"))
    assert(refused(s, program(x4, input("", "int64", 3)), choice(Seq("features"))).contains("int64"))
    val open = refused(s, program(x4, tensor("", "float32", Seq(None))), choice(Seq("features")))
    assert(open.contains("[?, ?]") && open.contains("fixed number of classes"))
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
