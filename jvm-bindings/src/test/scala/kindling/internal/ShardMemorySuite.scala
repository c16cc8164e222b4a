package kindling.internal

import kindling.{SparkSuite, TorchEstimator}
import org.apache.spark.ml.kindling.Cluster
import org.apache.spark.sql.{functions => f, DataFrame}

/** Rows beyond `shardMemory`, from the parameter to the files. */
class ShardMemorySuite extends SparkSuite {

  private lazy val data: DataFrame = spark
    .range(0, 3000, 1, 3)
    .select(
      f.array((0 until 4).map(i => (f.sin(f.col("id") * (i + 1)) + 1).cast("float")): _*).as("features"),
      (f.col("id") % 3).cast("int").as("label")
    )

  private def estimator: TorchEstimator = new TorchEstimator()
    .setLayers("""{"layers": [{"type": "dense", "units": 8, "activation": "relu"}, {"type": "dense", "units": 3}]}""")
    .setBatchSize(100)
    .setMaxEpochs(2)
    .setSeed(3)

  private def ingested(run: String, memory: ShardMemory): Seq[ShardReport] = {
    val params = estimator
    val loading = NativeLoading.of(spark.sparkContext.getConf.getOption, params.getLibtorch)
    NativeLibrary.load(loading): Unit
    val program = ProgramSource.resolve(params, data, spark.sparkContext.hadoopConfiguration)
    val layout = FeatureLayout.forTraining(data.schema, program.description, FeatureLayout.Choice.of(params))
    val ingest = new Ingest(run, layout, HandleInvalid.Fail, Validation.None, 0, loading, Nil, memory, None)
    try IngestSuite.read(ingest, data).map(_.report)
    finally LocalRuns.drop(run)
  }

  nativeTest("what has no room goes to Spark's local directories, and the rows are the same") {
    val inMemory = ingested("memory", ShardMemory(None, onDisk = false))
    val onDisk = ingested("disk", ShardMemory(Some(1L), onDisk = true))
    assert(inMemory.map(_.spilledBytes) === Seq(0, 0, 0))
    assert(onDisk.forall(report => report.spilledBytes >= report.bytes && report.residentBytes == 0))
    assert(onDisk.map(_.rows) === Seq(1000, 1000, 1000))
    assert(onDisk.map(_.hash) === inMemory.map(_.hash) && onDisk.map(_.hash).distinct.size === 3)
    assert(Cluster.localDirectories().forall(path => !new java.io.File(path).list().exists(_.startsWith("kindling"))))
  }

  nativeTest("a run whose rows are all in files trains to the same losses") {
    val losses = Seq(estimator, estimator.setShardMemory(1)).map(_.fit(data).summary.epochs.map(_.loss))
    assert(losses(0) === losses(1))
  }
}
