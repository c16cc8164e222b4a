package kindling.internal

import java.nio.file.Files

import kindling.{SparkSuite, TorchEstimator}
import org.apache.spark.ml.linalg.{SQLDataTypes, Vector, Vectors}
import org.apache.spark.sql.{functions => f, DataFrame, Row}
import org.apache.spark.sql.types.{IntegerType, StructField, StructType}

/** Wide rows that are mostly zeros: kept as what is not zero, whatever column they come from, and trained on as they are. */
class SparseRowsSuite extends SparkSuite {
  import SparseRowsSuite._

  /** 600 sparse vectors of 10 to 12 numbers each. */
  private lazy val vectors: DataFrame = {
    val rows = spark.sparkContext.parallelize(0 until Rows, 3).map { i =>
      val at = (0 until Width by 500).map(k => (k + (i * 37 + k / 7) % 500) -> math.sin(i * 0.7 + k)).filter(_._2 != 0)
      val more = if (i % 2 == 0) Seq(Width - 1 -> 0.0, Width - 2 -> -0.0) else Nil
      Row(Vectors.sparse(Width, (at ++ more).toMap.toSeq), i % 3)
    }
    spark.createDataFrame(
      rows,
      StructType(Seq(StructField("features", SQLDataTypes.VectorType), StructField("label", IntegerType)))
    )
  }

  private lazy val dense: DataFrame =
    vectors.withColumn("features", f.udf((vector: Vector) => vector.toDense: Vector).apply(f.col("features")))

  /** Not by `vector_to_array`, which makes 0.0 of -0.0. */
  private lazy val arrays: DataFrame =
    vectors.withColumn("features", f.udf((vector: Vector) => vector.toArray.map(_.toFloat)).apply(f.col("features")))

  /** The same rows, read by columns. */
  private lazy val scanned: DataFrame = {
    val folder = Files.createTempDirectory("kindling-sparse-")
    vectors.write.mode("overwrite").parquet(folder.toString)
    spark.read.parquet(folder.toString)
  }

  private def estimator: TorchEstimator = new TorchEstimator()
    .setLayers("""{"layers": [{"type": "dense", "units": 8, "activation": "relu"}, {"type": "dense", "units": 3}]}""")
    .setInputShapes(s"[[$Width]]")
    .setBatchSize(50)
    .setMaxEpochs(2)
    .setSeed(3)

  private def ingested(data: DataFrame): Seq[ShardReport] = {
    val params = estimator
    val loading = NativeLoading.of(spark.sparkContext.getConf.getOption, params.getLibtorch)
    NativeLibrary.load(loading): Unit
    val program = ProgramSource.resolve(params, data, spark.sparkContext.hadoopConfiguration)
    val layout = FeatureLayout.forTraining(data.schema, program.description, FeatureLayout.Choice.of(params))
    val memory = ShardMemory(None, onDisk = false)
    val ingest = new Ingest("sparse", layout, HandleInvalid.Fail, Validation.None, 0, loading, Nil, memory, None)
    try IngestSuite.read(ingest, data).map(_.report)
    finally LocalRuns.drop("sparse")
  }

  nativeTest("wide rows with few numbers take little memory, whatever column they come from, and are the same rows") {
    val reports = Seq(vectors, dense, arrays).map(ingested)
    reports.foreach { shards =>
      assert(shards.map(_.rows).sum === Rows)
      // Of 20,000 bytes a row, at most 12 positions and values and an offset, and the label; a few offsets more.
      assert(shards.map(_.bytes).sum <= Rows * (12 * 8 + 4 + 8) + 400)
      assert(shards.map(_.hash) === reports.head.map(_.hash))
    }
    val byColumns = ingested(scanned)
    assert(byColumns.map(_.bytes).sum <= Rows * (12 * 8 + 4 + 8) + 400)
    assert(byColumns.map(_.rows).sum === Rows)
  }

  nativeTest(
    "sparse vectors, dense ones, and arrays of the same numbers train to the same losses and predict the same"
  ) {
    val models = Seq(vectors, dense, arrays).map(estimator.fit(_))
    val losses = models.map(_.summary.epochs.map(_.loss))
    assert(losses(0) === losses(1) && losses(0) === losses(2))
    assert(losses(0).forall(loss => !loss.isNaN) && losses(0).head > losses(0).last)
    val predicted = Seq(vectors, dense).map(models.head.transform(_).select("prediction").collect().toSeq)
    assert(predicted(0) === predicted(1))
  }
}

private object SparseRowsSuite {
  private val Rows = 600
  private val Width = 5000
}
