package kindling

import java.nio.charset.StandardCharsets.UTF_8
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.atomic.AtomicInteger

import kindling.internal.{Json, Native}
import org.apache.spark.SparkException
import org.apache.spark.ml.Pipeline
import org.apache.spark.ml.evaluation.MulticlassClassificationEvaluator
import org.apache.spark.ml.param.ParamMap
import org.apache.spark.ml.tuning.{CrossValidator, ParamGridBuilder, TrainValidationSplit}
import org.apache.spark.scheduler.{SparkListener, SparkListenerJobStart}
import org.apache.spark.sql.{DataFrame, Row}
import org.apache.spark.sql.types._

import scala.concurrent.duration._

/** Several fits of one call read their data once, and leave nothing behind. */
class SharedIngestSuite extends SparkSuite {
  import SharedIngestSuite._

  private def estimator: TorchEstimator = new TorchEstimator()
    .setLayers("""[{"type": "dense", "units": 8, "activation": "relu"}, {"type": "dense", "units": 2}]""")
    .setInputShapes("[[2]]") // else each fit computes a row to see its width
    .setBatchSize(25)
    .setSeed(1)

  /** Counts in `computed` how often its 200 rows were computed. */
  private def data(partitions: Int = 3): DataFrame = {
    val rows = spark.sparkContext.parallelize(0 until 200, partitions).map { i =>
      computed.incrementAndGet(): Unit
      Row(Seq(i / 200f, (i % 7) / 7f), i % 2, i % 5 == 0)
    }
    val schema = StructType(Seq(
      StructField("features", ArrayType(FloatType, containsNull = false)),
      StructField("label", IntegerType),
      StructField("held", BooleanType)
    ))
    spark.createDataFrame(rows, schema)
  }

  /** What the native store of this process holds. */
  private def shards: Int = Json.required(Json.parse(new String(Native.shardUsage(), UTF_8)), "shards").asInt

  private def eventually(what: String)(condition: => Boolean): Unit = {
    val deadline = System.nanoTime() + 30.seconds.toNanos
    while (!condition) {
      assert(System.nanoTime() < deadline, s"30 s passed before $what")
      Thread.sleep(10)
    }
  }

  /** How many ingest jobs `body` started. Jobs are known in their order, so one of the test's own marks the end. */
  private def ingests(body: => Unit): Int = {
    val sc = spark.sparkContext
    val jobs = new LinkedBlockingQueue[String]
    val listener = new SparkListener {
      override def onJobStart(start: SparkListenerJobStart): Unit =
        jobs.add(Option(start.properties.getProperty("spark.job.description")).getOrElse("")): Unit
    }
    sc.addSparkListener(listener)
    try {
      body
      sc.setJobDescription("the end")
      sc.parallelize(Seq(1), 1).count(): Unit
      sc.setJobDescription(null)
      Iterator.continually(jobs.poll(30, java.util.concurrent.TimeUnit.SECONDS)).takeWhile(_ != "the end")
        .count(_.endsWith(": read the data"))
    } finally sc.removeSparkListener(listener)
  }

  nativeTest("param maps that change nothing of the rows train on the same ones, as if each had read them") {
    val est = estimator
    val maps = Seq(
      ParamMap(est.learningRate -> 0.1),
      ParamMap(est.learningRate -> 0.01, est.batchSize -> 50),
      ParamMap(est.seed -> 7L),
      ParamMap(est.validationFraction -> 0.25),
      ParamMap(est.validationFraction -> 0.25, est.seed -> 7L),
      ParamMap(est.validationIndicatorCol -> "held")
    )
    val frame = data()
    computed.set(0)
    val models = est.fit(frame, maps)
    assert(computed.get === 4 * 200, "the first three, and each way to validate")
    assert(shards === 0)
    def losses(model: TorchModel) = model.summary.epochs.map(_.loss)
    models.zip(maps).foreach { case (model, map) => assert(losses(model) === losses(est.fit(frame, map))) }
    assert(computed.get === 10 * 200, "a call of its own reads for itself")
    assert(models.map(_.summary.validationRows > 0) === Seq(false, false, false, true, true, true))
    assert(
      models.head.hasParent && models.head.parent.asInstanceOf[TorchEstimator].fit(frame).summary.totalRows === 200
    )
  }

  nativeTest("a call whose fit fails leaves nothing, and what it had read is read again by the next") {
    val est = estimator
    val wrong = Seq(ParamMap.empty, ParamMap(est.numWorkers -> 9))
    assert(message[IllegalArgumentException](est.fit(data(), wrong)).contains("numWorkers is 9"))
    assert(shards === 0)
    val nulls = data().selectExpr("features", "if(rand(3) < 2, null, label) as label")
    assert(message[IllegalArgumentException](est.fit(nulls, Seq(ParamMap.empty))).contains("is null"))
    assert(shards === 0)
  }

  for (parallelism <- Seq(1, 2))
    nativeTest(s"CrossValidator reads each fold once, with a parallelism of $parallelism") {
      val est = estimator
      val grid = new ParamGridBuilder().addGrid(est.learningRate, Array(0.1, 0.01, 0.001)).build()
      val validator = new CrossValidator()
        .setEstimator(est)
        .setEvaluator(new MulticlassClassificationEvaluator)
        .setEstimatorParamMaps(grid)
        .setNumFolds(2)
        .setParallelism(parallelism)
      val frame = data().withColumn("label", org.apache.spark.sql.functions.col("label").cast("double")).cache()
      try {
        assert(ingests(validator.fit(frame): Unit) === 3, "two folds, and the best on all rows")
        eventually("the rows of the folds were dropped")(shards == 0)
      } finally frame.unpersist(): Unit
    }

  nativeTest(
    "TrainValidationSplit reads once, also for a pipeline of this stage alone, and what fails leaves nothing"
  ) {
    val est = estimator
    val grid = new ParamGridBuilder().addGrid(est.learningRate, Array(0.1, 0.01)).build()
    def split(maps: Array[ParamMap]) = new TrainValidationSplit()
      .setEstimator(new Pipeline().setStages(Array(est)))
      .setEvaluator(new MulticlassClassificationEvaluator)
      .setEstimatorParamMaps(maps)
    val frame = data().withColumn("label", org.apache.spark.sql.functions.col("label").cast("double"))
    assert(ingests(split(grid).fit(frame): Unit) === 2)
    eventually("the rows were dropped")(shards == 0)
    val wrong = grid :+ ParamMap(est.numWorkers -> 9)
    assert(intercept[SparkException](split(wrong).fit(frame)).getCause.getMessage.contains("numWorkers is 9"))
    eventually("the rows were dropped")(shards == 0)
  }

  nativeTest("forceRepartition deals the rows out to as many partitions as workers") {
    val frame = data(partitions = 1)
    val tasks = new AtomicInteger
    val listener = new SparkListener {
      override def onJobStart(start: SparkListenerJobStart): Unit =
        if (start.properties.getProperty("spark.job.description", "").endsWith(": read the data"))
          tasks.set(start.stageInfos.maxBy(_.stageId).numTasks)
    }
    spark.sparkContext.addSparkListener(listener)
    try {
      val model = estimator.setNumWorkers(2).setForceRepartition(true).fit(frame)
      assert(model.summary.totalRows === 200)
      eventually("the job was heard of")(tasks.get == 2)
      estimator.setNumWorkers(2).fit(frame): Unit
      eventually("the job was heard of")(tasks.get == 1)
    } finally spark.sparkContext.removeSparkListener(listener)
    assert(shards === 0)
  }
}

/** What tasks and tests share; in local mode they are in one process. */
private object SharedIngestSuite {
  val computed = new AtomicInteger
}
