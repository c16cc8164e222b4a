package kindling

import java.nio.file.{Files, Paths}

import kindling.internal.{Json, Native, RunsOver}
import org.apache.spark.ml.{Pipeline, PipelineModel}
import org.apache.spark.ml.attribute.{Attribute, AttributeGroup, NumericAttribute}
import org.apache.spark.ml.evaluation.MulticlassClassificationEvaluator
import org.apache.spark.ml.feature.VectorAssembler
import org.apache.spark.ml.linalg.{Vector, Vectors}
import org.apache.spark.sql.{functions => f, DataFrame, Row}
import org.apache.spark.sql.types._

import scala.jdk.CollectionConverters._

/** Training and prediction through Spark ML, in one process with two task slots. */
class TorchEstimatorSuite extends SparkSuite {

  private val network =
    """{"layers": [{"type": "dense", "units": 16, "activation": "relu"}, {"type": "dense", "units": 3}]}"""

  /** Three well separated blobs in four dimensions; a network that learns at all reaches an accuracy near 1. */
  private def blobs(rows: Int = 300, partitions: Int = 3): DataFrame = {
    val random = new scala.util.Random(5)
    val data = (0 until rows).map { i =>
      val label = i % 3
      val x = Seq.tabulate(4)(d => (if (d == label) 3f else 0f) + random.nextGaussian().toFloat * 0.3f)
      Row(x, label, i, i % 10 == 0)
    }
    val schema = StructType(
      Seq(
        StructField("features", ArrayType(FloatType, containsNull = false)),
        StructField("label", IntegerType),
        StructField("id", IntegerType),
        StructField("held", BooleanType)
      )
    )
    spark.createDataFrame(spark.sparkContext.parallelize(data, partitions), schema)
  }

  private def estimator: TorchEstimator =
    new TorchEstimator().setLayers(network).setLearningRate(0.05).setBatchSize(30).setMaxEpochs(4).setSeed(1)

  private def accuracy(predictions: DataFrame): Double =
    new MulticlassClassificationEvaluator().setMetricName("accuracy").evaluate(predictions.withColumn(
      "label",
      f.col("label").cast("double")
    ))

  for (workers <- Seq(1, 2)) nativeTest(s"$workers worker(s) learn, and the summary says what happened") {
    val data = blobs()
    val model = estimator.setNumWorkers(workers).setValidationFraction(0.2).fit(data)
    val summary = model.summary
    assert(summary.epochs.map(_.epoch) === Seq(0, 1, 2, 3))
    assert(summary.totalRows + summary.validationRows === 300)
    assert(summary.epochs.forall(_.rows == summary.totalRows))
    assert(summary.steps === 4 * ((summary.totalRows + 29) / 30))
    assert((summary.executors, summary.workers) === ((1, workers)))
    assert(summary.epochs.last.loss < summary.epochs.head.loss)
    assert(summary.epochs.last.validationAccuracy.exists(_ > 0.95))
    assert(summary.epochs.forall(epoch => epoch.learningRate == model.getLearningRate && epoch.skippedSteps == 0))
    assert(Seq("validationLoss", "learningRate", "skippedSteps").forall(summary.history.columns.contains))
    assert(summary.history.count() === 4)
    assert(summary.toString.linesIterator.size === 6)
    val predicted = model.transform(data)
    assert(predicted.columns === Array("features", "label", "id", "held", "prediction", "probability"))
    assert(accuracy(predicted) > 0.95)
    predicted.select("prediction", "probability").collect().foreach { row =>
      val (prediction, probability) = (row.getDouble(0), row.getAs[Vector](1))
      assert(probability.size === 3 && probability.argmax === prediction.toInt)
      assert(math.abs(probability.toArray.sum - 1) < 1e-6)
    }
  }

  nativeTest("fields of structs are named by their path, and a column of that name comes first") {
    val data = blobs()
    val nested = data.select(f.struct(f.col("features").as("f.x"), f.col("label").as("y")).as("in"), f.col("id"))
    val fields = estimator.setFeaturesCol("in.f.x").setLabelCol("in.y")
    val model = fields.fit(nested)
    val predicted = model.transform(nested)
    assert(predicted.columns === Array("in", "id", "prediction", "probability"))
    assert(fields.transformSchema(nested.schema).fieldNames === predicted.columns)
    val plain = estimator.fit(data)
    def predictions(frame: DataFrame) = frame.orderBy("id").select("prediction").collect().toSeq
    assert(predictions(predicted) === predictions(plain.transform(data)))
    // A column of nulls by the field's name: it is what is read.
    val named = nested.withColumn("in.f.x", f.lit(null).cast("array<float>"))
    assert(
      message[IllegalArgumentException](fields.fit(named)).contains("the column \"in.f.x\" has no row with a value")
    )
  }

  nativeTest("the number of workers and of partitions does not change what is learned") {
    // batchSize is the global batch, so the sums differ only in their order: 1e-3 is far above the rounding of 40 float32 steps.
    val (one, two) = (estimator.fit(blobs()), estimator.setNumWorkers(2).fit(blobs()))
    one.summary.epochs.zip(two.summary.epochs).foreach { case (a, b) => assert(math.abs(a.loss - b.loss) < 1e-3) }
  }

  nativeTest("a model is saved and loaded with its weights, parameters and summary") {
    val data = blobs()
    val model = estimator.fit(data)
    val path = Files.createTempDirectory("model-").resolve("m").toString
    model.save(path)
    assert(Files.exists(Paths.get(path, "weights.safetensors")) && Files.exists(Paths.get(path, "program.json")))
    val loaded = TorchModel.load(path)
    assert(loaded.summary === model.summary)
    assert((loaded.uid, loaded.getBatchSize) === ((model.uid, 30)))
    def all(m: TorchModel) = m.transform(data).orderBy("id").select("prediction", "probability").collect().toSeq
    assert(all(loaded) === all(model))
    assert(message[Exception](model.save(path)).contains("already exists"))
    model.write.overwrite().save(path)
    assert(message[IllegalArgumentException] {
      Files.delete(Paths.get(path, "weights.safetensors"))
      Files.deleteIfExists(Paths.get(path, ".weights.safetensors.crc"))
      TorchModel.load(path)
    }.contains("weights.safetensors is missing"))
  }

  nativeTest("it is a stage of a Pipeline like any other") {
    val wide = blobs().select((0 until 4).map(i => f.col("features")(i).as(s"x$i")) :+ f.col("label"): _*)
    val assembler = new VectorAssembler().setInputCols(Array("x0", "x1", "x2", "x3")).setOutputCol("features")
    val model = new Pipeline().setStages(Array(assembler, estimator)).fit(wide)
    assert(accuracy(model.transform(wide)) > 0.95)
    val path = Files.createTempDirectory("pipeline-").resolve("p").toString
    model.save(path)
    assert(accuracy(PipelineModel.load(path).transform(wide)) > 0.95)
    val columns = estimator.setInputCols(Array("x0", "x1", "x2", "x3")).fit(wide)
    assert(accuracy(columns.transform(wide)) > 0.95)
  }

  nativeTest("transform keeps the metadata of the columns it is given") {
    val metadata = new AttributeGroup(
      "features",
      (0 until 4).map(i => NumericAttribute.defaultAttr.withName(s"size of $i"): Attribute).toArray
    ).toMetadata()
    val data = blobs(30).select(f.col("features").as("features", metadata), f.col("label"), f.col("id").as("an.id"))
    val predicted = estimator.setMaxEpochs(1).fit(data).transform(data)
    assert(predicted.schema("features").metadata === metadata)
    assert(predicted.columns === Array("features", "label", "an.id", "prediction", "probability"))
    assert(predicted.count() === 30)
  }

  nativeTest("a run that is over is known as such to the next one's tasks, also when it went well") {
    val before = RunsOver.list
    estimator.setMaxEpochs(1).fit(blobs(30)): Unit
    assert(RunsOver.list.diff(before).map(_.stripSuffix("-rows")).distinct.size === 1)
  }

  nativeTest("mse predicts one number as Double and several as Vector") {
    val data =
      blobs(90).withColumn("y", f.col("label") * 2.0 + 1.0).withColumn("both", f.array(f.col("label"), -f.col("label")))
    def regression(units: Int, label: String) = estimator
      .setLayers(s"""[{"type": "dense", "units": 16, "activation": "tanh"}, {"type": "dense", "units": $units}]""")
      .setLoss("mse")
      .setLabelCol(label)
      .setMaxEpochs(30)
      .fit(data)
    val one = regression(1, "y").transform(data)
    assert(one.schema("prediction").dataType === DoubleType && !one.columns.contains("probability"))
    assert(one.select(f.avg(f.pow(f.col("prediction") - f.col("y"), 2))).head().getDouble(0) < 0.1)
    val two = regression(2, "both").transform(data).select("prediction", "both").collect()
    two.foreach(row => assert(row.getAs[Vector](0).size === 2))
  }

  nativeTest("a validation indicator keeps its rows out of training") {
    val summary = estimator.setValidationIndicatorCol("held").fit(blobs()).summary
    assert((summary.totalRows, summary.validationRows) === ((270, 30)))
  }

  nativeTest("uneven and empty partitions are trained on to the last row") {
    val data = blobs(101, 1).repartitionByRange(7, f.col("id")).where("id < 3 or id > 40")
    val summary = estimator.setNumWorkers(2).setBatchSize(16).fit(data).summary
    assert(summary.epochs.forall(_.rows == 63))
  }

  nativeTest("transform works on a streaming DataFrame") {
    val data = blobs(60)
    val model = estimator.fit(data)
    val folder = Files.createTempDirectory("stream-").toString
    data.write.mode("overwrite").parquet(folder)
    val predicted = model.transform(spark.readStream.schema(data.schema).parquet(folder))
    assert(predicted.isStreaming)
    val query = predicted.writeStream.format("memory").queryName("predicted").start()
    try query.processAllAvailable()
    finally query.stop()
    assert(spark.table("predicted").count() === 60)
    assert(accuracy(spark.table("predicted")) > 0.9)
  }

  nativeTest("rows that cannot be used end fit and transform with their place") {
    val bad = blobs(30, 1).withColumn("label", f.when(f.col("id") === 7, -1).otherwise(f.col("label")))
    assert(
      message[IllegalArgumentException](estimator.fit(bad)) ===
        "row 7 of partition 0: the label in the column \"label\" is -1, but class indices are whole numbers from 0"
    )
    val model = estimator.fit(blobs(30))
    val holed = blobs(30, 1).withColumn("features", f.when(f.col("id") === 4, f.lit(null)).otherwise(f.col("features")))
    val text = rootMessage(model.transform(holed).collect())
    assert(text.startsWith("row 4 of partition 0: the column \"features\" is null"), text)
    assert(model.setHandleInvalid("skip").transform(holed).count() === 29)
    val summary = estimator.setHandleInvalid("skip").fit(holed).summary
    assert((summary.totalRows, summary.skippedRows) === ((29, 1)))
  }

  nativeTest("what cannot work is refused before training, in one sentence") {
    val data = blobs(30)
    assert(message[IllegalArgumentException](new TorchEstimator().fit(data)).contains("no network is given"))
    assert(message[IllegalArgumentException](estimator.setModel("/nowhere.pt2").fit(data)).contains("both set"))
    assert(message[IllegalArgumentException](new TorchEstimator().setModel("/nowhere.pt2").fit(data)).contains(
      "/nowhere.pt2 does not exist"
    ))
    val few = message[IllegalArgumentException](estimator.setNumWorkers(3).fit(data))
    assert(few.contains("numWorkers is 3, but the cluster has 2 task slots") && few.contains("local[3]"), few)
    val soft = """[{"type": "dense", "units": 3, "activation": "softmax"}]"""
    assert(message[IllegalArgumentException](estimator.setLayers(soft).fit(data)).contains("ends in softmax"))
    assert(message[IllegalArgumentException](estimator.fit(data.limit(0))).contains("nothing to train on"))
    assert(message[IllegalArgumentException](estimator.fit(data.where("id < 0").withColumn(
      "features",
      f.array(f.lit(1f))
    ))).contains("nothing to train on"))
    val large = data.withColumn("label", f.col("label") + 1)
    assert(message[IllegalArgumentException](estimator.fit(large)).contains("is 3, but the program has 3 classes"))
  }

  nativeTest("a GPU that the machine does not have is refused with the reason, by fit and by transform") {
    val data = blobs(30)
    val model = estimator.fit(data).setDevice("cuda")
    assume(Json.parse(Native.capabilities()).has("noGpu"), "there is a GPU here")
    val fitting = message[IllegalArgumentException](estimator.setDevice("cuda").fit(data))
    assert(fitting.startsWith("device is cuda:0, but ") && fitting.endsWith(", or set device to cpu"), fitting)
    val failure = intercept[Exception](model.transform(data).collect())
    val causes = Iterator.iterate[Throwable](failure)(_.getCause).takeWhile(_ != null)
    assert(causes.exists(cause => String.valueOf(cause.getMessage).contains(fitting)), failure)
  }

  nativeTest("a network is shaped by the first row's vector when the schema does not say it") {
    val rows = (0 until 20).map(i => Row(Vectors.dense(i % 2, 1 - i % 2), i % 2)).asJava
    val schema = StructType(Seq(
      StructField("features", org.apache.spark.ml.linalg.SQLDataTypes.VectorType),
      StructField("label", IntegerType)
    ))
    val model =
      new TorchEstimator().setLayers("""[{"type": "dense", "units": 2}]""").fit(spark.createDataFrame(rows, schema))
    assert(model.network.program.description.inputs.head.rowWidth === Some(2))
  }

  nativeTest("ranks that fail end the run with their own sentence, not with that of a lost peer") {
    // Batch norm cannot train on one row, and two ranks share a batch of two.
    val normed = """[{"type": "dense", "units": 4}, {"type": "batchNorm"}, {"type": "dense", "units": 3}]"""
    val small = estimator.setLayers(normed).setBatchSize(2).setNumWorkers(2)
    val told = message[IllegalArgumentException](small.fit(blobs(30)))
    assert(told.contains("a single row in step 0") && told.contains("batch norm"))
    assert(estimator.setNumWorkers(2).fit(blobs(30)).summary.workers === 2)
  }

  private def rootMessage(body: => Any): String =
    Iterator.iterate[Throwable](intercept[Exception](body))(_.getCause).takeWhile(_ != null).toSeq.last.getMessage
}
