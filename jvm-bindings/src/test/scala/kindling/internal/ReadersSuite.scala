package kindling.internal

import java.io.ByteArrayOutputStream
import java.nio.file.Files
import java.sql.{Date, Timestamp}

import kindling.SparkSuite
import org.apache.arrow.memory.RootAllocator
import org.apache.arrow.vector.{BigIntVector, BitVector, FieldVector, Float4Vector, IntVector}
import org.apache.spark.ml.linalg.{SQLDataTypes, Vectors}
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.{functions => f, DataFrame, Row}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.types._
import org.apache.spark.sql.vectorized.{ArrowColumnVector, ColumnarBatch}
import org.apache.spark.storage.StorageLevel
import org.apache.spark.unsafe.Platform

import scala.jdk.CollectionConverters._
import scala.util.Random

/** Every reader gives what the row reader gives: the same bytes in the same order, the same rows skipped, the same sentence. */
class ReadersSuite extends SparkSuite {
  import ReadersSuite._

  /** Numbers of a type: few different ones, so that Parquet encodes them by a dictionary, or many. */
  private def number(dataType: DataType, random: Random, few: Boolean): Any = {
    val i = if (few) random.nextInt(7) else random.nextInt()
    dataType match {
      case FloatType => i / 8f
      case DoubleType => i / 3.0
      case LongType => i.toLong * 1000003
      case IntegerType => i
      case ShortType => i.toShort
      case ByteType => i.toByte
      case BooleanType => i % 2 == 0
      case decimal: DecimalType => java.math.BigDecimal.valueOf((i % 100000).toLong, decimal.scale)
      case DateType => new Date(i.toLong * 1000)
      case TimestampType => new Timestamp(i.toLong * 1001)
      case StringType => words.values(math.floorMod(i, words.size))
      case other => throw new IllegalArgumentException(other.simpleString)
    }
  }

  /** Of columns of strings; the last of its values is one that no row has, and rows have one that it lacks. */
  private val words = Vocabulary("", Seq("", "b", "zw\u00f6lf", "a longer one than fits into a word", "b ", "B"))

  private val numberTypes = Seq[DataType](
    StringType,
    FloatType,
    DoubleType,
    LongType,
    IntegerType,
    ShortType,
    ByteType,
    BooleanType,
    DecimalType(7, 2),
    DecimalType(15, 3),
    DecimalType(30, 4),
    DateType
  )

  /** A schema, data of it, and how a program takes it; all by chance. `holes` is how often a value is null or NaN. */
  private def generated(seed: Long, holes: Double): (DataFrame, FeatureLayout) = {
    val random = new Random(seed)
    def oneOf[T](values: Seq[T]) = values(random.nextInt(values.size))
    val scalars = Seq.fill(1 + random.nextInt(9))(oneOf(numberTypes))
    val element = oneOf(numberTypes.filter(_ != StringType))
    val width = 1 + random.nextInt(70)
    val fields = scalars.zipWithIndex.map { case (dataType, i) => StructField(s"c$i", dataType) } ++ Seq(
      StructField("array", ArrayType(element)),
      StructField("vector", SQLDataTypes.VectorType),
      StructField("label", oneOf(Seq(IntegerType, DoubleType, LongType, ByteType, StringType))),
      StructField("weight", oneOf(Seq(FloatType, DoubleType, IntegerType))),
      StructField("validates", BooleanType)
    )
    val few = fields.map(_ => random.nextBoolean())
    def hole() = random.nextDouble() < holes
    def value(dataType: DataType, few: Boolean): Any = dataType match {
      case _ if hole() => if (random.nextBoolean()) null else nan(dataType)
      case _: ArrayType =>
        (0 until width).map(_ => if (random.nextDouble() < holes / width) null else number(element, random, few))
      case SQLDataTypes.VectorType if random.nextBoolean() => Vectors.dense(Array.fill(width)(random.nextGaussian()))
      case SQLDataTypes.VectorType =>
        val at = (0 until width).filter(_ => random.nextInt(4) == 0).toArray
        Vectors.sparse(width, at, at.map(_ => random.nextGaussian()))
      case number => this.number(number, random, few)
    }
    val rows = Seq.fill(400 + random.nextInt(400)) {
      Row.fromSeq(fields.zip(few).map {
        case (StructField("label", dataType, _, _), _) =>
          val label = random.nextInt(5)
          if (hole()) nan(dataType)
          else
            dataType match {
              case IntegerType => label
              case DoubleType => label.toDouble
              case LongType => label.toLong
              case StringType => words.values(label)
              case _ => label.toByte
            }
        case (StructField("weight", dataType, _, _), _) =>
          val weight = random.nextInt(9)
          if (hole()) null
          else
            dataType match {
              case FloatType => weight / 4f
              case DoubleType => weight / 4.0
              case _ => weight
            }
        case (StructField("validates", _, _, _), _) => random.nextBoolean()
        case (field, few) => value(field.dataType, few)
      })
    }
    val data = spark.createDataFrame(rows.asJava, StructType(fields)).repartition(3)
    val integers = (dataType: DataType) =>
      dataType match {
        case LongType | IntegerType | ShortType | ByteType | StringType => true
        case _ => false
      }
    val scalarFields = fields.take(scalars.size)
    val vocabularies = scalarFields.filter(_.dataType == StringType).map(field => words.copy(column = field.name))
    val together = oneOf(Seq[DType](DType.Float32, DType.Float64) ++ (if (scalars.forall(integers)) Seq(DType.Int64)
                                                                      else Nil))
    val arrays =
      oneOf(Seq[DType](DType.Float32, DType.Float64) ++ (if (integers(element)) Seq(DType.Int64) else Nil))
    val layout = FeatureLayout(
      Seq(
        NativeColumn(
          "x",
          Role.Input,
          together,
          scalars.size,
          Filling.Scalars(random.shuffle(scalarFields), vocabularies)
        ),
        NativeColumn("a", Role.Input, arrays, width, Filling.Array(data.schema("array"))),
        NativeColumn(
          "v",
          Role.Input,
          oneOf(Seq(DType.Float32, DType.Float64)),
          width,
          Filling.Vector(data.schema("vector"))
        ),
        NativeColumn(
          "label",
          Role.Label,
          DType.Int64,
          1,
          Filling.ClassIndex(
            data.schema("label"),
            Some(5L),
            // What stands for an unseen string must not be taken for it.
            ignored = Some(-1L),
            vocabulary = if (data.schema("label").dataType == StringType) Some(words.copy(column = "label")) else None
          )
        ),
        NativeColumn("weight", Role.Weight, DType.Float64, 1, Filling.Weight(data.schema("weight")))
      ),
      Some(data.schema("validates"))
    )
    (data, layout)
  }

  private def nan(dataType: DataType): Any = dataType match {
    case FloatType => Float.NaN
    case DoubleType => Double.NaN
    case StringType => "unseen"
    case _ => null
  }

  private def stored[T](data: DataFrame, format: String = "parquet")(body: DataFrame => T): T = {
    val folder = Files.createTempDirectory("kindling-readers-")
    val file = folder.resolve("data")
    try {
      data.write.format(format).save(file.toString)
      body(spark.read.format(format).load(file.toString))
    } finally {
      Files.walk(file).sorted(java.util.Comparator.reverseOrder()).forEach(path => Files.delete(path))
      Files.delete(folder)
    }
  }

  private def withConf[T](key: String, value: String)(body: => T): T = {
    val before = spark.conf.getOption(key)
    spark.conf.set(key, value)
    try body
    finally before.fold(spark.conf.unset(key))(spark.conf.set(key, _))
  }

  /** Reads the data by the reader that its plan allows and by rows, under each policy and split, and compares. */
  private def compare(data: DataFrame, layout: FeatureLayout, clue: String): Unit =
    for {
      handle <- Seq(HandleInvalid.Fail, HandleInvalid.Skip, HandleInvalid.Keep)
      validation <- Seq(Validation.None, Validation.Fraction(0.3), Validation.Indicator("validates"))
    } {
      val (chosen, expected) = both(data, layout, handle, validation)
      assert(chosen.size === expected.size, clue)
      chosen.zip(expected).zipWithIndex.foreach { case ((ours, rows), partition) =>
        val where = s"$clue, $handle, $validation, partition $partition"
        assert(ours.problem === rows.problem, where)
        // A shard that ends in an error is dropped.
        if (rows.problem.isEmpty) {
          assert(ours.skipped === rows.skipped, where)
          assert(ours.rows === rows.rows, where)
          ours.columns.zip(rows.columns).zipWithIndex.foreach { case ((column, other), i) =>
            assert(java.util.Arrays.equals(column, other), s"$where, column $i")
          }
        }
      }
    }

  private def both(
      data: DataFrame,
      layout: FeatureLayout,
      handle: HandleInvalid,
      validation: Validation
  ): (Seq[Outcome], Seq[Outcome]) = {
    val chosen = RowSource.of(data, layout) match {
      case RowSource.Batches(rdd, ordinals, _, filter) => batches(rdd, layout, handle, validation, ordinals, filter)
      case RowSource.Rows(_, why) => fail(s"read row by row, because $why")
    }
    (chosen, rows(Ingest.rows(data, layout), layout, handle, validation))
  }

  for (seed <- 1 to 4; offHeap <- Seq(false, true))
    test(s"the scan of Parquet by columns gives the rows of the row reader, schema $seed, off heap $offHeap") {
      val (data, layout) = generated(seed.toLong, holes = 0.002)
      withConf("spark.sql.columnVector.offheap.enabled", offHeap.toString) {
        stored(data)(compare(_, layout, s"seed $seed"))
      }
    }

  test("the scan of ORC by columns gives the rows of the row reader") {
    val (data, layout) = generated(7L, holes = 0.002)
    // ORC knows no vectors of Spark ML.
    val columns = layout.columns.filterNot(_.filling.isInstanceOf[Filling.Vector])
    stored(data.drop("vector"), "orc")(compare(_, layout.copy(columns = columns), "orc"))
  }

  test("holes everywhere, and none at all") {
    for (holes <- Seq(0.3, 0.0)) {
      val (data, layout) = generated(99L, holes)
      stored(data)(compare(_, layout, s"holes $holes"))
    }
  }

  test("cached numbers are read by columns, and as rows once Spark computes something") {
    val data = spark.range(0, 5000, 1, 2).select((f.col("id") * 0.5).as("x"), (f.col("id") % 3).as("label"))
    val cached = data.persist(StorageLevel.MEMORY_ONLY)
    try {
      assert(cached.count() === 5000)
      val layout = small(cached.schema)
      val (ours, expected) = both(cached, layout, HandleInvalid.Fail, Validation.Fraction(0.2))
      assert(ours.map(_.rows) === expected.map(_.rows))
      assert(ours.map(_.columns.map(_.toSeq)) === expected.map(_.columns.map(_.toSeq)))
      RowSource.of(cached.sample(0.5, 3L), layout) match {
        case RowSource.Rows(_, why) => assert(why === "sample gives rows")
        case RowSource.Batches(_, _, from, _) => fail(s"by columns of $from")
      }
      RowSource.of(cached.withColumn("x", f.col("x") + 1), layout) match {
        case RowSource.Rows(_, why) => assert(why === "the plan computes columns, which gives rows")
        case RowSource.Batches(_, _, from, _) => fail(s"by columns of $from")
      }
    } finally cached.unpersist(true): Unit
  }

  /** Conditions that let through most rows, few, none, all, or runs of them. */
  private val conditions = Seq(
    "c0 is not null",
    "label = 2",
    "label < 0",
    "label >= 0 or label is null",
    "weight > 1 and (label <> 3 or validates)",
    "isnotnull(array) and size(array) > 0 and hash(weight) % 10 > 0"
  )

  for (offHeap <- Seq(false, true))
    test(s"a filter above the scan is evaluated on batches, and gives the rows of the row reader, off heap $offHeap") {
      for (seed <- Seq(11L, 12L); holes <- Seq(0.0, 0.01)) {
        val (data, layout) = generated(seed, holes)
        withConf("spark.sql.columnVector.offheap.enabled", offHeap.toString) {
          stored(data) { frame =>
            conditions.foreach(condition =>
              compare(frame.where(condition), layout, s"seed $seed, holes $holes, $condition")
            )
            // Two filters with a projection between, on a column that the layout does not read.
            val twice = frame.where("c0 is not null").withColumnRenamed("weight", "w").where("w > 0")
            compare(twice.withColumnRenamed("w", "weight"), layout, s"seed $seed, holes $holes, twice")
          }
        }
      }
    }

  test("a filter by chance, by a subquery, or on what the plan computes is left to Spark") {
    stored(spark.range(100).select(f.col("id").as("x"), (f.col("id") % 2).as("label"))) { data =>
      data.createOrReplaceTempView("filtered")
      def why(frame: DataFrame) = RowSource.of(frame, small(data.schema)) match {
        case RowSource.Rows(_, why) => why
        case batches => fail(batches.text)
      }
      assert(why(data.where("rand(1) < 0.5")) === "filter gives rows")
      assert(why(spark.sql("select * from filtered where x > (select avg(x) from filtered)")) === "filter gives rows")
      assert(RowSource.of(data.where("x > 3"), small(data.schema)).text ===
        "by columns, in the batches of scan parquet, of which a filter chooses rows")
    }
  }

  test("columns that are renamed and reordered are still read by columns") {
    stored(spark.range(100).select(f.col("id").as("a"), (f.col("id") % 2).as("b"), f.lit(1).as("c"))) { data =>
      val renamed = data.select(f.col("b").as("label"), f.col("c"), f.col("a").as("x"))
      val (ours, expected) = both(renamed, small(renamed.schema), HandleInvalid.Fail, Validation.None)
      assert(ours.map(_.columns.map(_.toSeq)) === expected.map(_.columns.map(_.toSeq)))
    }
  }

  test("a shuffle is read row by row, cached rows behind a shuffle by columns") {
    val layout = small(StructType(Seq(StructField("x", LongType), StructField("label", LongType))))
    val data = spark.range(1000).select(f.col("id").as("x"), (f.col("id") % 2).as("label")).repartition(2)
    assert(RowSource.of(data, layout).isInstanceOf[RowSource.Rows])
    val cached = data.persist(StorageLevel.MEMORY_ONLY)
    try {
      val (ours, expected) = both(cached, layout, HandleInvalid.Fail, Validation.None)
      assert(ours.map(_.columns.map(_.toSeq)) === expected.map(_.columns.map(_.toSeq)))
    } finally cached.unpersist(true): Unit
  }

  test("a scan of more columns than Spark reads by columns says which setting to raise") {
    val many = spark.range(10).select((0 until 101).map(i => (f.col("id") + i).as(s"c$i")) :+ f.col("id"): _*)
    stored(many) { data =>
      val fields = data.schema.fields.toSeq.dropRight(1)
      val layout =
        FeatureLayout(Seq(NativeColumn("x", Role.Input, DType.Float32, 101, Filling.Scalars(fields))), None)
      val text = RowSource.of(data, layout).text
      assert(text === "row by row, because Spark scans 101 columns as rows: spark.sql.codegen.maxFields is 100")
    }
  }

  test("Arrow vectors are read from their buffers, or number by number") {
    val allocator = new RootAllocator()
    val floats = new Float4Vector("x", allocator)
    val ints = new IntVector("i", allocator)
    val longs = new BigIntVector("l", allocator)
    val bits = new BitVector("b", allocator)
    val vectors = Seq[FieldVector](floats, ints, longs, bits)
    try {
      vectors.foreach(_.setInitialCapacity(100))
      vectors.foreach(_.allocateNew())
      for (i <- 0 until 100) {
        if (i % 9 == 4) floats.setNull(i) else floats.set(i, if (i == 50) Float.NaN else i / 4f)
        ints.set(i, -i)
        longs.set(i, i.toLong % 3)
        bits.set(i, i % 2)
      }
      vectors.foreach(_.setValueCount(100))
      val batch = new ColumnarBatch(vectors.map(new ArrowColumnVector(_)).toArray, 100)
      val fields = Seq("x" -> FloatType, "i" -> IntegerType, "l" -> LongType, "b" -> BooleanType).map {
        case (name, dataType) => StructField(name, dataType)
      }
      val layout = FeatureLayout(
        Seq(
          NativeColumn("in", Role.Input, DType.Float32, 3, Filling.Scalars(Seq(fields(0), fields(3), fields(1)))),
          NativeColumn("label", Role.Label, DType.Int64, 1, Filling.ClassIndex(fields(2), Some(3L)))
        ),
        None
      )
      val order = layout.selected.fieldNames.map(name => fields.indexWhere(_.name == name))
      for (handle <- Seq(HandleInvalid.Fail, HandleInvalid.Skip, HandleInvalid.Keep)) {
        val ours = outcome(layout, handle, Validation.None, 0) { (writer, split) =>
          new BatchLoop(Iterator(batch), new BatchReader(layout, handle, order, writer, split))
        }
        val selected = new ColumnarBatch(order.map(batch.column), 100)
        val expected = outcome(layout, handle, Validation.None, 0) { (writer, split) =>
          new RowLoop(selected.rowIterator().asScala, writer, split)
        }
        assert(ours.problem === expected.problem)
        assert(ours.skipped === expected.skipped)
        assert(ours.columns.map(_.toSeq) === expected.columns.map(_.toSeq))
      }
    } finally {
      vectors.foreach(_.close())
      allocator.close()
    }
  }

  private def small(schema: StructType) = FeatureLayout(
    Seq(
      NativeColumn("in", Role.Input, DType.Float32, 1, Filling.Scalars(Seq(schema("x")))),
      NativeColumn("label", Role.Label, DType.Int64, 1, Filling.ClassIndex(schema("label"), Some(3L)))
    ),
    None
  )
}

/** Readers in tasks, into memory that is no shard. */
object ReadersSuite {

  /** What a partition's reader left: the bytes of each column of the training rows, then of the validation rows. */
  private[internal] final case class Outcome(
      columns: Seq[Array[Byte]],
      rows: Seq[Int],
      skipped: Long,
      problem: Option[String]
  )

  private def batches(
      rdd: RDD[ColumnarBatch],
      layout: FeatureLayout,
      handle: HandleInvalid,
      validation: Validation,
      ordinals: Array[Int],
      filter: Option[BatchFilter]
  ): Seq[Outcome] = rdd
    .mapPartitionsWithIndex { (partition, batches) =>
      Iterator(outcome(layout, handle, validation, partition) { (writer, split) =>
        new BatchLoop(batches, new BatchReader(layout, handle, ordinals, writer, split, filter.map(_.open(partition))))
      })
    }
    .collect()
    .toSeq

  private def rows(
      rdd: RDD[InternalRow],
      layout: FeatureLayout,
      handle: HandleInvalid,
      validation: Validation
  ): Seq[Outcome] = rdd
    .mapPartitionsWithIndex { (partition, rows) =>
      Iterator(outcome(layout, handle, validation, partition)((writer, split) => new RowLoop(rows, writer, split)))
    }
    .collect()
    .toSeq

  private[internal] def outcome(layout: FeatureLayout, handle: HandleInvalid, validation: Validation, partition: Int)(
      open: (ShardWriter, ValidationSplit) => PartitionLoop
  ): Outcome = {
    val blocks = new HeldBlocks(layout)
    val writer = new ShardWriter(blocks, layout, new FeatureReader(layout, handle))
    val loop = open(writer, ValidationSplit.of(validation, layout, 5L, partition))
    try {
      loop.run()
      writer.seal(): Unit
      Outcome(blocks.columns, blocks.rows.toSeq, loop.skipped, None)
    } catch {
      case problem: RowProblem => Outcome(Nil, Nil, 0, Some(problem.at(partition, loop.index).getMessage))
    } finally writer.close()
  }

  /** Blocks of plain memory, filled with rubbish before a reader gets them, and copied out when they are committed. */
  private final class HeldBlocks(layout: FeatureLayout) extends ShardBlocks {
    private val open = Array.fill(2)(Array.empty[Long])
    private val bytes = Seq.fill(2 * layout.columns.size)(new ByteArrayOutputStream())
    val rows: Array[Int] = Array(0, 0)

    def columns: Seq[Array[Byte]] = bytes.map(_.toByteArray)

    override def reserve(split: Int, rows: Int, addresses: Array[Long]): Unit = {
      assert(open(split).isEmpty)
      layout.columns.zipWithIndex.foreach { case (column, i) =>
        addresses(i) = Platform.allocateMemory(column.rowBytes * rows)
        Platform.setMemory(null, addresses(i), column.rowBytes * rows, 0x5a)
      }
      open(split) = addresses.clone()
    }

    override def commit(split: Int, rows: Int): Unit = {
      layout.columns.zipWithIndex.foreach { case (column, i) =>
        val written = new Array[Byte]((column.rowBytes * rows).toInt)
        Platform.copyMemory(null, open(split)(i), written, Platform.BYTE_ARRAY_OFFSET, written.length.toLong)
        bytes(split * layout.columns.size + i).write(written)
      }
      this.rows(split) += rows
      free(split)
    }

    override def close(): ShardReport = ShardReport(0, 0, "", 0, rows(0).toLong, rows(1).toLong, 0, 0, "")

    override def discard(): Unit = open.indices.foreach(free)

    private def free(split: Int): Unit = {
      open(split).foreach(Platform.freeMemory)
      open(split) = Array.empty
    }
  }
}
