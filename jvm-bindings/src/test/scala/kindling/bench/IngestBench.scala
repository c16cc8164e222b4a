package kindling.bench

import java.nio.file.{Files, Path}
import java.util.Comparator
import java.util.concurrent.{LinkedBlockingQueue, TimeUnit}

import kindling.internal._
import org.apache.spark.executor.TaskMetrics
import org.apache.spark.ml.functions.array_to_vector
import org.apache.spark.ml.linalg.{Vector, Vectors}
import org.apache.spark.scheduler.{SparkListener, SparkListenerTaskEnd}
import org.apache.spark.sql.{functions => f, DataFrame, SparkSession}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.execution.arrow.ArrowWriter
import org.apache.spark.sql.types.StructType
import org.apache.spark.sql.vectorized.ColumnarBatch
import org.apache.spark.unsafe.Platform

import scala.collection.mutable

/**
 * `make bench-ingest`: what one core reads from Parquet into native memory, beside Spark's own ArrowWriter over the same rows.
 *
 * Both sides are a Spark job of one task in this process, from the scan to the last row, taking turns; what is compared are the
 * task's run time and the time its thread was on the processor, as Spark itself measures them. `memcpy` is a copy of as many bytes
 * in the same round. Ratios are taken within a round, and what is printed is their median:
 *
 * {{{
 *   ingest path=columnar MBps=… arrowwriter_ratio=… memcpy_ratio=… cpu_ratio=… … kept=…
 * }}}
 *
 * MBps counts the bytes that arrive (MB = 10^6^), `memcpy_ratio` is ours over memcpy's, and the other two are the ArrowWriter's time
 * over ours; `scan_ratio` is the ArrowWriter's time over that of our source alone, with nothing done to what it gives: the most that
 * `arrowwriter_ratio` could be. Paths: 64 columns of floats; an array<float> of 64; the columns again, of which one is computed, so that
 * Spark gives rows; the columns behind a filter; a Spark ML vector of 64; and for a fiftieth of the rows, a sparse vector of 10,000 of
 * which 50 are not zero, whose MBps are those of dense rows. Each has a label beside it. `kept` is the part of these bytes that is
 * kept.
 *
 * Options: `--rows N` (1000000), `--rounds N` (9), `--paths a,b`.
 */
object IngestBench {
  private val Width = 64
  private val SparseWidth = 10000
  private val SparseNumbers = 50
  private val BatchRows = 10000 // spark.sql.execution.arrow.maxRecordsPerBatch as it comes

  private final case class Options(rows: Long, rounds: Int, paths: Seq[String])

  /** What a task took, in seconds. */
  private final case class Took(run: Double, cpu: Double)

  private val Paths = Seq("columnar", "array", "rows", "filter", "vector", "sparse")

  def main(arguments: Array[String]): Unit = {
    val options = parse(arguments.toList, Options(1000000, 9, Paths))
    val spark = SparkSession
      .builder()
      .master("local[1]")
      .appName("kindling-bench-ingest")
      .config("spark.ui.enabled", "false")
      .config("spark.sql.files.maxPartitionBytes", "16g")
      .config("spark.sql.files.openCostInBytes", "16g")
      .getOrCreate()
    spark.sparkContext.setLogLevel("WARN")
    val folder = Files.createTempDirectory("kindling-bench-")
    try
      options.paths.foreach { path =>
        val (rows, width) =
          if (path == "sparse") (math.max(1L, options.rows / 50), SparseWidth) else (options.rows, Width)
        new IngestBench(spark, folder, rows, width, options.rounds).run(path)
      }
    finally {
      spark.stop()
      Files.walk(folder).sorted(Comparator.reverseOrder[Path]()).forEach(path => Files.delete(path))
    }
  }

  private def parse(arguments: List[String], options: Options): Options = arguments match {
    case "--rows" :: value :: rest => parse(rest, options.copy(rows = value.toLong))
    case "--rounds" :: value :: rest => parse(rest, options.copy(rounds = value.toInt))
    case "--paths" :: value :: rest =>
      val paths = value.split(',').toSeq
      paths
        .filterNot(Paths.contains)
        .foreach(p => throw new IllegalArgumentException(s"there is no path $p, but ${Paths.mkString(", ")}"))
      parse(rest, options.copy(paths = paths))
    case Nil => options
    case other => throw new IllegalArgumentException(s"unknown option ${other.mkString(" ")}")
  }

  /** Batches that are filled and emptied, as Spark fills them for Python; nothing is sent anywhere. */
  private def arrowTask(schema: StructType): Iterator[InternalRow] => Long = { (rows: Iterator[InternalRow]) =>
    val writer = ArrowWriter.create(schema, "UTC")
    var written = 0L
    try
      while (rows.hasNext) {
        var inBatch = 0
        while (inBatch < BatchRows && rows.hasNext) {
          writer.write(rows.next())
          inBatch += 1
        }
        writer.finish()
        written += inBatch
        writer.reset()
      }
    finally writer.root.close()
    written
  }

  private val countRows: Iterator[InternalRow] => Long = { rows =>
    var count = 0L
    while (rows.hasNext) {
      rows.next(): Unit
      count += 1
    }
    count
  }

  private val countBatchRows: Iterator[ColumnarBatch] => Long = { batches =>
    var count = 0L
    while (batches.hasNext) count += batches.next().numRows
    count
  }

  private def sparse(id: Long): Vector = {
    val random = new scala.util.Random(id)
    val at = Iterator.continually(random.nextInt(SparseWidth)).distinct.take(SparseNumbers).toArray.sorted
    Vectors.sparse(SparseWidth, at, at.map(_ => random.nextDouble() + 1))
  }

  private def median(values: Seq[Double]): Double = {
    val sorted = values.sorted
    val middle = sorted.size / 2
    if (sorted.size % 2 == 1) sorted(middle) else (sorted(middle - 1) + sorted(middle)) / 2
  }
}

private final class IngestBench(spark: SparkSession, folder: Path, rows: Long, width: Int, rounds: Int) {
  import IngestBench._

  private val sc = spark.sparkContext
  private val ended = new LinkedBlockingQueue[TaskMetrics]()
  sc.addSparkListener(new SparkListener {
    override def onTaskEnd(end: SparkListenerTaskEnd): Unit = ended.put(end.taskMetrics)
  })
  private val loading = NativeLoading.of(sc.getConf.getOption, "")
  NativeLibrary.load(loading): Unit

  /** Bytes that the last ingest kept. */
  private var kept = 0L

  def run(path: String): Unit = {
    val data = frame(path)
    val layout = layoutOf(data.schema)
    val payload = rows * layout.rowBytes
    val memory = new Copies(payload)
    val sides = Seq[(String, () => Took)](
      "ours" -> (() => ours(data, layout)),
      "arrow" -> (() => arrowWriter(data, layout)),
      "scan" -> (() => scan(data, layout)),
      "memcpy" -> (() => memory.run())
    )
    // The first runs compile, and loops of a new path compile again.
    (1 to 5).foreach(_ => sides.foreach(_._2()))
    val took = mutable.Map.empty[String, mutable.ArrayBuffer[Took]]
    for (round <- 0 until rounds; (name, side) <- if (round % 2 == 0) sides else sides.reverse)
      took.getOrElseUpdate(name, mutable.ArrayBuffer.empty) += side()
    memory.free()
    def rate(name: String) = took(name).map(payload / 1e6 / _.run).toSeq
    def ratio(side: String, of: Took => Double) =
      median(took("arrow").zip(took(side)).map { case (arrow, other) => of(arrow) / of(other) }.toSeq)
    val memcpy = median(rate("ours").zip(rate("memcpy")).map { case (o, m) => o / m })
    println(
      f"ingest path=$path MBps=${median(rate("ours"))}%.0f arrowwriter_ratio=${ratio("ours", _.run)}%.2f " +
        f"memcpy_ratio=$memcpy%.3f cpu_ratio=${ratio("ours", _.cpu)}%.2f scan_ratio=${ratio("scan", _.run)}%.2f " +
        f"scan_cpu_ratio=${ratio("scan", _.cpu)}%.2f arrowwriter_MBps=${median(rate("arrow"))}%.0f " +
        f"memcpy_MBps=${median(rate("memcpy"))}%.0f kept=${kept.toDouble / payload}%.4f"
    )
  }

  private def frame(path: String): DataFrame = path match {
    case "columnar" => parquet("scalars")
    case "rows" => parquet("scalars").withColumn("c0", f.col("c0") * 2f)
    case "filter" => parquet("scalars").filter(f.col("c0") >= 0)
    case "array" => parquet("array")
    case "vector" => parquet("vector")
    case "sparse" => parquet("sparse")
  }

  private def parquet(form: String): DataFrame = {
    val file = folder.resolve(form).toString
    if (!Files.exists(folder.resolve(form))) {
      val numbers = (0 until width).map(i => f.rand(i.toLong).cast("float"))
      val features = form match {
        case "scalars" => numbers.zipWithIndex.map { case (number, i) => number.as(s"c$i") }
        case "array" => Seq(f.array(numbers: _*).as("features"))
        case "vector" => Seq(array_to_vector(f.array(numbers: _*)).as("features"))
        case "sparse" => Seq(f.udf(IngestBench.sparse _).apply(f.col("id")).as("features"))
      }
      val label = (f.col("id") % 10).cast("int").as("label")
      spark.range(0, rows, 1, 1).select(features :+ label: _*).write.parquet(file)
    }
    spark.read.parquet(file)
  }

  private def layoutOf(schema: StructType): FeatureLayout = {
    val filling =
      if (schema.fieldNames.contains("features"))
        ColumnTypes.numbers(schema, "features", DType.Float32, "the program input x")
      else Filling.Scalars(schema.fields.toSeq.dropRight(1))
    FeatureLayout(
      Seq(
        NativeColumn("x", Role.Input, DType.Float32, width, filling),
        NativeColumn("label", Role.Label, DType.Int64, 1, Filling.ClassIndex(schema("label"), Some(10L)))
      ),
      None
    )
  }

  private def ours(data: DataFrame, layout: FeatureLayout): Took = {
    val run = java.util.UUID.randomUUID().toString
    val ingest =
      new Ingest(
        run,
        layout,
        HandleInvalid.Fail,
        Validation.None,
        1L,
        loading,
        Nil,
        ShardMemory(None, onDisk = false),
        None
      )
    val took = measured {
      val reports = ingest.read(data, new IngestProgress("the data", Progress.of(sc)), () => ()).stored.map(_.report)
      val stored = reports.map(_.rows).sum
      kept = reports.map(_.bytes).sum
      require(stored == rows, s"$stored of $rows rows arrived")
    }
    LocalRuns.drop(run)
    took
  }

  private def arrowWriter(data: DataFrame, layout: FeatureLayout): Took = measured {
    val written = sc.runJob(Ingest.rows(data, layout), arrowTask(layout.selected)).sum
    require(written == rows, s"$written of $rows rows were written")
  }

  /** What our side reads, and nothing done with it: the most that a ratio could be. */
  private def scan(data: DataFrame, layout: FeatureLayout): Took = measured {
    val found = RowSource.of(data, layout) match {
      case RowSource.Rows(source, _) => sc.runJob(source, countRows).sum
      case RowSource.Batches(source, _, _, _) => sc.runJob(source, countBatchRows).sum
    }
    require(found == rows, s"$found of $rows rows were scanned")
  }

  /** What the one task of the job in `body` took. */
  private def measured(body: => Unit): Took = {
    ended.clear()
    body
    val metrics = Option(ended.poll(60, TimeUnit.SECONDS))
      .getOrElse(throw new IllegalStateException("Spark reported no end of the task within 60 seconds"))
    require(ended.isEmpty, "the job had more than one task")
    Took(metrics.executorRunTime / 1e3, metrics.executorCpuTime / 1e9)
  }

  /** Copies as many bytes as the rows have, in pieces of a block, from memory to memory. */
  private final class Copies(payload: Long) {
    private val piece = 4L << 20
    private val pieces = math.max(1L, payload / piece)
    private val from = Platform.allocateMemory(pieces * piece)
    private val to = Platform.allocateMemory(pieces * piece)
    Platform.setMemory(from, 1.toByte, pieces * piece)
    Platform.setMemory(to, 0.toByte, pieces * piece)

    def run(): Took = {
      val start = System.nanoTime()
      var i = 0L
      while (i < pieces) {
        Platform.copyMemory(null, from + i * piece, null, to + i * piece, piece)
        i += 1
      }
      val seconds = (System.nanoTime() - start) / 1e9 * payload / (pieces * piece)
      Took(seconds, seconds)
    }

    def free(): Unit = {
      Platform.freeMemory(from)
      Platform.freeMemory(to)
    }
  }
}
