package kindling.internal

import kindling.SparkSuite
import org.apache.spark.ml.linalg.{SQLDataTypes, Vectors}
import org.apache.spark.sql.{DataFrame, Row}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.util.GenericArrayData
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.Platform

import scala.jdk.CollectionConverters._

/** What arrives in native memory from each kind of column, and what each bad row is answered with. */
class FeatureReaderSuite extends SparkSuite {

  private def frame(dataType: DataType, values: Any*): DataFrame =
    spark.createDataFrame(values.map(Row(_)).asJava, StructType(Seq(StructField("c", dataType))))

  private def column(data: DataFrame, dtype: DType, width: Int): FeatureLayout = {
    val filling = ColumnTypes.numbers(data.schema, "c", dtype, "the program input x")
    FeatureLayout(Seq(NativeColumn("x", Role.Input, dtype, width, filling)), None)
  }

  private def label(data: DataFrame, classes: Option[Long]): FeatureLayout =
    FeatureLayout(
      Seq(NativeColumn("label", Role.Label, DType.Int64, 1, Filling.ClassIndex(data.schema("c"), classes))),
      None
    )

  /** Reads all rows as one task would, and gives the numbers back as doubles. */
  private def read(data: DataFrame, layout: FeatureLayout, handle: HandleInvalid = HandleInvalid.Fail): Seq[Double] =
    readRows(Ingest.rows(data, layout).map(_.copy()).collect().toSeq, layout, handle)

  private def readRows(rows: Seq[InternalRow], layout: FeatureLayout, handle: HandleInvalid): Seq[Double] = {
    val reader = new FeatureReader(layout, handle)
    val native = layout.columns.head
    val address = Platform.allocateMemory(math.max(1L, native.rowBytes * rows.size))
    try {
      var slot = 0
      rows.foreach(row => if (reader.write(row, Array(address), slot)) slot += 1)
      (0 until slot * native.width).map { i =>
        native.dtype match {
          case DType.Float32 => Platform.getFloat(null, address + i * 4L).toDouble
          case DType.Float64 => Platform.getDouble(null, address + i * 8L)
          case DType.Int32 => Platform.getInt(null, address + i * 4L).toDouble
          case DType.Int64 => Platform.getLong(null, address + i * 8L).toDouble
          case DType.UInt8 => (Platform.getByte(null, address + i) & 0xff).toDouble
        }
      }
    } finally Platform.freeMemory(address)
  }

  private def problem(data: DataFrame, layout: FeatureLayout, handle: HandleInvalid = HandleInvalid.Fail): String =
    intercept[RowProblem](read(data, layout, handle)).getMessage

  private val numbers: Seq[(DataType, Seq[Any])] = Seq(
    FloatType -> Seq(1.5f, -2f),
    DoubleType -> Seq(1.5, -2.0),
    LongType -> Seq(3L, -2L),
    IntegerType -> Seq(3, -2),
    ShortType -> Seq(3.toShort, (-2).toShort),
    ByteType -> Seq(3.toByte, (-2).toByte),
    DecimalType(10, 2) -> Seq(new java.math.BigDecimal("1.50"), new java.math.BigDecimal("-2.00"))
  )

  private def expected(values: Seq[Any]): Seq[Double] = values.map(_.toString.toDouble)

  for ((dataType, values) <- numbers; target <- Seq[DType](DType.Float32, DType.Float64)) {
    test(s"${dataType.simpleString} numbers become $target") {
      val data = frame(dataType, values: _*)
      assert(read(data, column(data, target, 1)) === expected(values))
    }
    test(s"arrays of ${dataType.simpleString} become $target") {
      val data = frame(ArrayType(dataType), values, values.reverse)
      assert(read(data, column(data, target, 2)) === expected(values ++ values.reverse))
    }
  }

  for ((dataType, values) <- numbers if Set[DataType](LongType, IntegerType, ShortType, ByteType)(dataType))
    test(s"${dataType.simpleString} numbers and arrays become int64") {
      val data = frame(dataType, values: _*)
      assert(read(data, column(data, DType.Int64, 1)) === expected(values))
      val arrays = frame(ArrayType(dataType, containsNull = false), values)
      assert(read(arrays, column(arrays, DType.Int64, 2)) === expected(values))
    }

  test("integers become int32, copied or converted") {
    val copied = frame(ArrayType(IntegerType), Seq(7, -8))
    assert(read(copied, column(copied, DType.Int32, 2)) === Seq(7.0, -8.0))
    val converted = frame(ArrayType(ShortType), Seq(7.toShort, (-8).toShort))
    assert(read(converted, column(converted, DType.Int32, 2)) === Seq(7.0, -8.0))
  }

  test("booleans become 0 and 1, dates days and timestamps seconds since 1970, as Spark casts them") {
    val schema = StructType(
      Seq(
        StructField("b", BooleanType),
        StructField("d", DateType),
        StructField("t", TimestampType),
        StructField("n", TimestampNTZType)
      )
    )
    val at = java.time.Instant.parse("2024-02-29T12:34:56.789012Z")
    val before = java.time.Instant.parse("1969-12-31T23:59:59.500Z")
    val utc = java.time.ZoneOffset.UTC
    val data = spark.createDataFrame(
      Seq(at, before).map { t =>
        val local = java.time.LocalDateTime.ofInstant(t, utc)
        Row(t == at, java.sql.Date.valueOf(local.toLocalDate), java.sql.Timestamp.from(t), local)
      }.asJava,
      schema
    )
    def layout(names: String*) = FeatureLayout(
      Seq(
        NativeColumn(
          "x",
          Role.Input,
          DType.Float64,
          names.size,
          Filling.Scalars(names.map(ColumnTypes.scalar(
            data.schema,
            _,
            DType.Float64,
            "the program input x",
            Indexing.none
          )))
        )
      ),
      None
    )
    assert(read(data, layout("b", "d", "t", "n")) === Seq(1, 19782, 1709210096.789012, 1709210096.789012, 0, -1, -0.5,
      -0.5))
    assert(read(data, layout("t")) === data.selectExpr("cast(t as double)").collect().map(_.getDouble(0)).toSeq)
    val days = frame(ArrayType(DateType), Seq(java.sql.Date.valueOf("1970-01-03")))
    assert(read(days, column(days, DType.Int64, 1)) === Seq(2.0))
    val flags = frame(ArrayType(BooleanType), Seq(true, false))
    for (target <- DType.all) assert(read(flags, column(flags, target, 2)) === Seq(1.0, 0.0))
  }

  test("an array too long for one word of null bits is copied from behind its header") {
    val values = (0 until 200).map(_.toFloat)
    val data = frame(ArrayType(FloatType), values, values.reverse)
    assert(read(data, column(data, DType.Float32, 200)) === (values ++ values.reverse).map(_.toDouble))
    val holed = frame(ArrayType(FloatType), values.map(v => if (v == 130f) null else v))
    assert(problem(holed, column(holed, DType.Float32, 200)).startsWith("element 130 of the column \"c\" is null"))
  }

  test("dense and sparse vectors become floats") {
    val data = frame(
      SQLDataTypes.VectorType,
      Vectors.dense(1, 2.5, -3),
      Vectors.sparse(3, Array(1), Array(4.5)),
      Vectors.sparse(3, Array(), Array())
    )
    for (target <- Seq[DType](DType.Float32, DType.Float64))
      assert(read(data, column(data, target, 3)) === Seq(1.0, 2.5, -3.0, 0.0, 4.5, 0.0, 0.0, 0.0, 0.0))
  }

  test("an array that is not in Spark's binary form is read number by number") {
    val data = frame(ArrayType(FloatType), Seq(1f, 2f))
    val row = InternalRow(new GenericArrayData(Array[Any](1.5f, 2.5f)))
    assert(readRows(Seq(row), column(data, DType.Float32, 2), HandleInvalid.Fail) === Seq(1.5, 2.5))
  }

  test("several scalar columns lie side by side in a row") {
    val schema = StructType(Seq(StructField("a", FloatType), StructField("b", IntegerType)))
    val data = spark.createDataFrame(Seq(Row(1f, 2), Row(3f, 4)).asJava, schema)
    val fields = Seq("b", "a").map(data.schema(_))
    val layout = FeatureLayout(Seq(NativeColumn("x", Role.Input, DType.Float32, 2, Filling.Scalars(fields))), None)
    assert(read(data, layout) === Seq(2.0, 1.0, 4.0, 3.0))
  }

  test("a column whose name holds a dot and a backtick is found") {
    val schema = StructType(Seq(StructField("a.b`c", FloatType)))
    val data = spark.createDataFrame(Seq(Row(1f)).asJava, schema)
    val layout = FeatureLayout(
      Seq(NativeColumn("x", Role.Input, DType.Float32, 1, Filling.Scalars(data.schema.fields.toSeq))),
      None
    )
    assert(read(data, layout) === Seq(1.0))
  }

  // ---- nulls and NaN ----

  private val invalid: Seq[(String, () => DataFrame, String)] = Seq(
    ("a null number", () => frame(FloatType, 1f, null, 3f), "the column \"c\" is null"),
    ("a NaN", () => frame(DoubleType, 1.0, Double.NaN, 3.0), "the column \"c\" is NaN"),
    ("a null array", () => frame(ArrayType(FloatType), Seq(1f), null, Seq(3f)), "the column \"c\" is null"),
    (
      "a null element",
      () => frame(ArrayType(FloatType), Seq(1f), Seq(null), Seq(3f)),
      "element 0 of the column \"c\" is null"
    ),
    (
      "a null element to convert",
      () => frame(ArrayType(DoubleType), Seq(1.0), Seq(null), Seq(3.0)),
      "element 0 of the column \"c\" is null"
    ),
    (
      "a NaN in a copied array",
      () => frame(ArrayType(FloatType), Seq(1f), Seq(Float.NaN), Seq(3f)),
      "element 0 of the column \"c\" is NaN"
    ),
    (
      "a NaN in a converted array",
      () => frame(ArrayType(DoubleType), Seq(1.0), Seq(Double.NaN), Seq(3.0)),
      "element 0 of the column \"c\" is NaN"
    ),
    (
      "a null vector",
      () => frame(SQLDataTypes.VectorType, Vectors.dense(1), null, Vectors.dense(3)),
      "the column \"c\" is null"
    ),
    (
      "a NaN in a dense vector",
      () => frame(SQLDataTypes.VectorType, Vectors.dense(1), Vectors.dense(Double.NaN), Vectors.dense(3)),
      "the column \"c\" holds a NaN"
    ),
    (
      "a NaN in a sparse vector",
      () =>
        frame(
          SQLDataTypes.VectorType,
          Vectors.dense(1),
          Vectors.sparse(1, Array(0), Array(Double.NaN)),
          Vectors.dense(3)
        ),
      "the column \"c\" holds a NaN"
    )
  )

  for ((what, make, sentence) <- invalid) {
    test(s"$what is an error that says how to go on") {
      val data = make()
      val text = problem(data, column(data, DType.Float32, 1))
      assert(text.startsWith(sentence) && text.contains("handleInvalid"))
    }
    test(s"$what is skipped when asked") {
      val data = make()
      assert(read(data, column(data, DType.Float32, 1), HandleInvalid.Skip) === Seq(1.0, 3.0))
    }
  }

  test("keep makes a null number NaN and lets NaN stay") {
    val scalar = frame(FloatType, 1f, null, Float.NaN)
    assert(read(scalar, column(scalar, DType.Float32, 1), HandleInvalid.Keep).map(_.isNaN) === Seq(false, true, true))
    val array = frame(ArrayType(DoubleType), Seq(1.0, Double.NaN))
    assert(read(array, column(array, DType.Float32, 2), HandleInvalid.Keep).map(_.isNaN) === Seq(false, true))
    for (target <- Seq(DType.Float32, DType.Float64)) {
      val holes = frame(ArrayType(FloatType), Seq[Any](1f, null, 3f), Seq[Any](null, 5f, Float.NaN))
      val kept = read(holes, column(holes, target, 3), HandleInvalid.Keep)
      assert(kept.map(_.isNaN) === Seq(false, true, false, true, false, true))
      assert(kept.filterNot(_.isNaN) === Seq(1.0, 3.0, 5.0))
    }
    val vector = frame(SQLDataTypes.VectorType, Vectors.sparse(2, Array(1), Array(Double.NaN)))
    assert(read(vector, column(vector, DType.Float64, 2), HandleInvalid.Keep).map(_.isNaN) === Seq(false, true))
  }

  test("keep cannot keep a null that has no NaN") {
    val int = frame(IntegerType, 1, null)
    assert(problem(int, column(int, DType.Int64, 1), HandleInvalid.Keep).contains("int64 has no NaN"))
    val array = frame(ArrayType(FloatType), null)
    assert(problem(array, column(array, DType.Float32, 1), HandleInvalid.Keep).contains("cannot keep"))
    val element = frame(ArrayType(LongType), Seq[Any](1L, null))
    assert(problem(element, column(element, DType.Int64, 2), HandleInvalid.Keep).startsWith("element 1 of the column"))
    val vector = frame(SQLDataTypes.VectorType, null)
    assert(problem(vector, column(vector, DType.Float32, 1), HandleInvalid.Keep).contains("cannot keep"))
  }

  // ---- lengths ----

  test("a row of another length names the column, what it has and what is needed, even when skipping") {
    val array = frame(ArrayType(FloatType), Seq(1f, 2f), Seq(1f))
    assert(problem(
      array,
      column(array, DType.Float32, 2),
      HandleInvalid.Skip
    ) === "the column \"c\" has 1 numbers, but 2 are needed")
    val dense = frame(SQLDataTypes.VectorType, Vectors.dense(1, 2, 3))
    assert(problem(dense, column(dense, DType.Float32, 2)).contains("has 3 numbers, but 2 are needed"))
    val sparse = frame(SQLDataTypes.VectorType, Vectors.sparse(5, Array(0), Array(1.0)))
    assert(problem(sparse, column(sparse, DType.Float32, 2)).contains("has 5 numbers, but 2 are needed"))
  }

  // ---- labels ----

  test("whole labels of every number type become int64") {
    for (
      (dataType, value) <- Seq[(DataType, Any)](
        DoubleType -> 2.0,
        FloatType -> 2f,
        LongType -> 2L,
        IntegerType -> 2,
        DecimalType(4, 1) -> new java.math.BigDecimal("2.0")
      )
    ) {
      val data = frame(dataType, value)
      assert(read(data, label(data, Some(3))) === Seq(2.0))
    }
  }

  test("a label that is no class index names its value") {
    for (
      (dataType, value, text) <-
        Seq[(DataType, Any, String)]((DoubleType, 1.5, "1.5"), (IntegerType, -1, "-1"), (DoubleType, 1e300, "1.0E300"))
    ) {
      val data = frame(dataType, value)
      assert(problem(data, label(data, None)).contains(
        s"""the label in the column "c" is $text, but class indices are whole"""
      ))
    }
    val large = frame(IntegerType, 3)
    assert(problem(large, label(large, Some(3))).contains("is 3, but the program has 3 classes, so labels are 0 to 2"))
  }

  test("a null or NaN label is never kept") {
    for (data <- Seq(frame(IntegerType, null, 1), frame(DoubleType, Double.NaN, 1.0))) {
      assert(problem(data, label(data, None), HandleInvalid.Keep).contains("keeps features only"))
      assert(read(data, label(data, None), HandleInvalid.Skip) === Seq(1.0))
    }
  }
}
