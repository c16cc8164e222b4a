package kindling.internal

import java.nio.file.Files

import kindling.{SparkSuite, TorchEstimator, TorchModel}
import org.apache.spark.ml.functions.array_to_vector
import org.apache.spark.ml.linalg.{Vector, Vectors}
import org.apache.spark.sql.{functions => f, DataFrame, Row}
import org.apache.spark.sql.execution.{ColumnarToRowExec, FileSourceScanExec, FilterExec, InputAdapter}
import org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanHelper
import org.apache.spark.sql.execution.columnar.InMemoryTableScanExec
import org.apache.spark.sql.kindling.{KindlingPredict, KindlingPredictExec}
import org.apache.spark.sql.types._

/** `transform` as a part of Spark's plans: what it reads, what it gives, and what Spark may do around it. */
class PredictionSuite extends SparkSuite with AdaptiveSparkPlanHelper {

  private val rowCount = 300

  private lazy val data: DataFrame = {
    val random = new scala.util.Random(7)
    val rows = (0 until rowCount).map { i =>
      Row(i, i % 3, Seq.tabulate(4)(d => (if (d == i % 3) 3f else 0f) + random.nextGaussian().toFloat), s"text $i")
    }
    val schema = StructType(
      Seq(
        StructField("id", IntegerType),
        StructField("label", IntegerType),
        StructField("features", ArrayType(FloatType, containsNull = false)),
        StructField("text", StringType)
      )
    )
    spark.createDataFrame(spark.sparkContext.parallelize(rows, 2), schema)
      .withColumn("vector", array_to_vector(f.col("features")))
      .select(f.col("*") +: (0 until 4).map(d => f.col("features")(d).as(s"x$d")): _*)
  }

  private lazy val parquet: DataFrame = {
    val path = Files.createTempDirectory("predicted-").resolve("data").toString
    data.coalesce(1).write.parquet(path)
    spark.read.parquet(path)
  }

  private def estimator(units: Int) =
    new TorchEstimator()
      .setLayers(
        s"""[{"type": "dense", "units": 16, "activation": "tanh"}, {"type": "batchNorm"}, {"type": "dense", "units": $units}]"""
      )
      .setBatchSize(50)
      .setMaxEpochs(2)
      .setSeed(3)

  private lazy val classifier: TorchModel = estimator(3).fit(data)

  private def model: TorchModel = classifier.copy(org.apache.spark.ml.param.ParamMap.empty)

  private def nodes(frame: DataFrame): Seq[KindlingPredictExec] =
    collect(frame.queryExecution.executedPlan) { case node: KindlingPredictExec => node }

  private def node(frame: DataFrame): KindlingPredictExec = nodes(frame) match {
    case Seq(one) => one
    case several => fail(s"there are ${several.size} nodes in ${frame.queryExecution.executedPlan}")
  }

  /** The same rows, in a plan without batches of columns: a condition that is not of a row alone is Spark's to meet. */
  private def byRows(frame: DataFrame): DataFrame = frame.where("monotonically_increasing_id() >= 0")

  private def predictions(model: TorchModel, frame: DataFrame): Map[Int, Seq[Double]] = {
    val columns = model.transform(frame).columns.intersect(Seq("prediction", "probability")).toSeq
    model.transform(frame).select(("id" +: columns).map(f.col): _*).collect().map { row =>
      row.getInt(0) -> row.toSeq.tail.flatMap {
        case vector: Vector => vector.toArray.toSeq
        case number => Seq(number.asInstanceOf[Double])
      }
    }.toMap
  }

  /** Sums over a batch of another size are added in another order, in float32; the numbers here are below 10. */
  private def assertClose(found: Map[Int, Seq[Double]], expected: Map[Int, Seq[Double]]): Unit = {
    assert(found.keySet === expected.keySet)
    found.foreach { case (id, numbers) =>
      assert(numbers.size === expected(id).size)
      numbers.zip(expected(id)).foreach { case (a, b) => assert(math.abs(a - b) < 1e-5, s"of row $id") }
    }
  }

  private def withConf[T](settings: (String, String)*)(body: => T): T = {
    val before = settings.map { case (key, _) => key -> spark.conf.getOption(key) }
    settings.foreach { case (key, value) => spark.conf.set(key, value) }
    try body
    finally before.foreach { case (key, value) => value.fold(spark.conf.unset(key))(spark.conf.set(key, _)) }
  }

  nativeTest("rows and batches of columns, of every kind of feature and of prediction, give what single rows give") {
    val regression = data.withColumn("label", f.array(f.col("x0"), -f.col("x1")))
    val scalars = Array("x0", "x1", "x2", "x3")
    val models = Seq(
      estimator(3).fit(data),
      estimator(3).setFeaturesCol("vector").fit(data),
      estimator(3).setInputCols(scalars).fit(data),
      estimator(2).setLoss("mse").fit(regression),
      estimator(1).setLoss("mse").fit(data),
      estimator(1).setLoss("binaryCrossEntropyWithLogits").fit(data.withColumn("label", f.col("id") % 2)),
      estimator(3).setProbabilityCol("").fit(data)
    )
    withConf("spark.sql.codegen.factoryMode" -> "CODEGEN_ONLY", "spark.sql.codegen.fallback" -> "false") {
      models.foreach { model =>
        assert(
          node(model.transform(parquet)).supportsColumnar && !node(model.transform(byRows(parquet))).supportsColumnar
        )
        val single = predictions(model.setInferBatchSize(1), byRows(parquet))
        assert(single.size === rowCount)
        val whole = predictions(model.setInferBatchSize(1000), parquet)
        assertClose(whole, single)
        assert(predictions(model, byRows(parquet)) === whole, "the same rows in the same batch")
        for (frame <- Seq(parquet, data)) assertClose(predictions(model.setInferBatchSize(7), frame), single)
        withConf(
          "spark.sql.parquet.columnarReaderBatchSize" -> "64",
          "spark.sql.columnVector.offheap.enabled" -> "true"
        ) {
          assertClose(predictions(model.setInferBatchSize(50), parquet), single)
        }
      }
    }
  }

  nativeTest("all columns go through as they are, and the plan's own types and names stay") {
    val frame = parquet.withColumnRenamed("text", "a.text")
    for (input <- Seq(frame, byRows(frame))) {
      val predicted = model.transform(input)
      assert(StructType(predicted.schema.take(frame.schema.size)) === input.schema)
      val found = predicted.drop("prediction", "probability").orderBy("id").collect().toSeq
      assert(found === frame.orderBy("id").collect().toSeq)
      val first = predicted.orderBy("id").head()
      assert(first.getAs[Vector]("vector").isInstanceOf[org.apache.spark.ml.linalg.DenseVector])
    }
    assert(
      message[IllegalArgumentException](model.setPredictionCol("text").transform(parquet)).contains("exists already")
    )
  }

  nativeTest("a scan reads only what the prediction and the query need") {
    def scanned(frame: DataFrame) =
      collect(frame.queryExecution.executedPlan) { case scan: FileSourceScanExec =>
        scan.requiredSchema.fieldNames.toSet
      }
    val predicted = model.transform(parquet)
    assert(scanned(predicted.select("id", "prediction")) === Seq(Set("id", "features")))
    assert(scanned(predicted.groupBy("prediction").count()) === Seq(Set("features")))
    assert(scanned(predicted.where("prediction > 1").select("text")) === Seq(Set("text", "features")))
    assert(scanned(predicted.join(data.select("id"), "id").select("probability")) === Seq(Set("id", "features")))
    // Of the columns below only those go out that somebody wants.
    val narrow = predicted.select("probability", "id")
    assert(node(narrow).output.map(_.name) === Seq("probability", "id"))
    assert(node(predicted.where("prediction > 1").selectExpr("id + 1")).output.map(_.name) === Seq("id", "prediction"))
    assert(narrow.queryExecution.executedPlan.exists {
      case ColumnarToRowExec(InputAdapter(_: KindlingPredictExec)) => true
      case _ => false
    })
  }

  nativeTest("a condition on other columns is met before the prediction, and one on the prediction after it") {
    val filtered =
      model.transform(parquet).where("id < 10 and prediction >= 0 and text != 'text 3'").select("id", "prediction")
    assert(filtered.collect().map(_.getInt(0)).sorted.toSeq === (0 until 10).filter(_ != 3))
    val scans = collect(filtered.queryExecution.executedPlan) { case scan: FileSourceScanExec =>
      scan.simpleString(1000)
    }
    assert(scans.exists(_.contains("LessThan(id,10)")), scans)
    assert(node(filtered).metrics("numOutputRows").value === 9)
  }

  nativeTest("a filter of a scan is met on batches of columns, with the rows and numbers that it has on rows") {
    val struct = parquet.withColumn("pair", f.struct(f.col("id"), f.col("text")))
    val path = Files.createTempDirectory("filtered-").resolve("data").toString
    struct.write.parquet(path)
    val frame = spark.read.parquet(path)
    val models = Seq(
      model.setInferBatchSize(7),
      model.setInferBatchSize(64),
      estimator(3).setInputCols(Array("x0", "x1", "x2", "x3")).fit(data).setInferBatchSize(50),
      estimator(3).setFeaturesCol("vector").fit(data)
    )
    val conditions = Seq(
      "id % 2 = 0",
      "id % 7 < 3 and text != 'text 9'",
      "id >= 290",
      "id = 150",
      "cast(id as string) != 'none'",
      "length(text) = 7 or x0 > 1",
      "text = 'none of them' or size(features) = 9"
    )
    def rows(found: DataFrame) = found.orderBy("id").collect().toSeq
    for ((batchSize, offHeap) <- Seq(("4096", "false"), ("37", "true"))) withConf(
      "spark.sql.parquet.columnarReaderBatchSize" -> batchSize,
      "spark.sql.columnVector.offheap.enabled" -> offHeap
    ) {
      for (model <- models; condition <- conditions) {
        val chosen = model.transform(frame.where(condition))
        assert(node(chosen).supportsColumnar && node(chosen).condition.nonEmpty, condition)
        assert(collect(chosen.queryExecution.executedPlan) { case filter: FilterExec => filter }.isEmpty)
        assertClose(predictions(model, frame.where(condition)), predictions(model, byRows(frame).where(condition)))
        val passed = frame.columns.filter(_ != "vector").map(f.col).toSeq
        assert(rows(chosen.select(passed: _*)) === rows(frame.where(condition).select(passed: _*)), condition)
        assert(chosen.count() === frame.where(condition).count())
      }
    }
    // What is above is met there, and what is not of a row alone is left to Spark.
    val above = models.head.transform(frame.where("id < 100")).where("prediction = 1")
    assert(
      rows(above.select("id")) === rows(models.head.transform(frame).where("id < 100 and prediction = 1").select("id"))
    )
    assert(!node(models.head.transform(frame.where("rand(3) < 0.5"))).supportsColumnar)
    assert(
      !node(models.head.transform(frame.where("id < (select 20)"))).condition.exists(_.toString.contains("subquery"))
    )
  }

  nativeTest("rows that a filter leaves out are not judged, and those that it lets through are numbered alike") {
    val path = Files.createTempDirectory("filtered-").resolve("data").toString
    data.coalesce(1).withColumn("features", f.when(f.col("id") =!= 123, f.col("features"))).write.parquet(path)
    val holed = spark.read.parquet(path)
    val without = model.transform(holed.where("id != 123"))
    assert(node(without).condition.nonEmpty && without.select("prediction").collect().length === rowCount - 1)
    val odd = Seq(holed, byRows(holed)).map { frame =>
      rootMessage(model.setInferBatchSize(20).transform(frame.where("id % 2 = 1")).collect())
    }
    assert(
      odd.distinct.size === 1 && odd.head.startsWith("row 61 of partition 0: the column \"features\" is null"),
      odd
    )
  }

  nativeTest("a limit is not exceeded by what is read, and leaves no model lent") {
    val seen = spark.sparkContext.longAccumulator
    val count = f.udf { (id: Int) => seen.add(1); id }.asNondeterministic()
    val counted = data.coalesce(1).withColumn("id", count(f.col("id")))
    val some = model.transform(counted).limit(5)
    assert(some.collect().length === 5 && seen.value === 5)
    val skipping = model.setHandleInvalid("skip").setInferBatchSize(20).transform(counted)
    seen.reset()
    assert(skipping.limit(5).collect().length === 5 && seen.value <= 40)
    assert(model.transform(parquet).take(3).length === 3 && model.transform(parquet).limit(0).count() === 0)
    Seq(some, skipping).foreach { frame =>
      val ids = frame.queryExecution.analyzed.collect { case KindlingPredict(task: PredictionTask, _, _, _) =>
        task.contentId
      }
      ids.foreach(id => assert(ModelPool.shared.lent(s"$id cpu") === 0))
      assert(ids.size === 1)
    }
  }

  nativeTest("rows are counted without being predicted, and are still judged") {
    val predicted = model.transform(parquet)
    val counts = predicted.groupBy().count()
    assert(counts.head().getLong(0) === rowCount)
    assert(node(counts).output.isEmpty && node(counts).metrics("numOutputRows").value === 0)
    val holed = parquet.withColumn("features", f.when(f.col("id") =!= 4, f.col("features")))
    assert(
      rootMessage(model.transform(holed).count()).startsWith("row 4 of partition 0: the column \"features\" is null")
    )
    assert(model.setHandleInvalid("skip").transform(holed).count() === rowCount - 1)
  }

  nativeTest("a row that cannot be used is named with its place in batches of columns and in rows alike") {
    val path = Files.createTempDirectory("holed-").resolve("data").toString
    data.coalesce(1).withColumn("features", f.when(f.col("id") =!= 123, f.col("features"))).write.parquet(path)
    val holed = spark.read.parquet(path)
    val small = model.setInferBatchSize(50)
    assert(node(small.transform(holed)).supportsColumnar)
    for (frame <- Seq(holed, byRows(holed)))
      assert(rootMessage(small.transform(frame).collect()).startsWith(
        "row 123 of partition 0: the column \"features\" is null"
      ))
    val skipped = small.copy(org.apache.spark.ml.param.ParamMap.empty).setHandleInvalid("skip").transform(holed)
    assert(!node(skipped).supportsColumnar)
    assertClose(
      skipped.select("id", "prediction").collect().map(r => r.getInt(0) -> Seq(r.getDouble(1))).toMap,
      predictions(small.setProbabilityCol(""), parquet.where("id != 123"))
    )
  }

  nativeTest("a predicted frame is joined with itself, united, intersected, cached and predicted again") {
    val predicted = model.transform(parquet)
    val joined = predicted.as("a").join(predicted.as("b"), f.col("a.id") === f.col("b.id"))
    assert(joined.where("a.prediction = b.prediction and a.probability = b.probability").count() === rowCount)
    assert(predicted.join(predicted, "id").count() === rowCount)
    val other = predicted.where("prediction = 1")
    val pairs = predicted.as("a").join(other.as("b"), f.expr("a.id = b.id + 1")).selectExpr("a.id", "b.prediction")
    assert(pairs.count() === other.where(s"id < ${rowCount - 1}").count())
    assert(predicted.union(predicted).groupBy("id", "prediction").count().where("count = 2").count() === rowCount)
    assert(predicted.select("id", "prediction").intersect(predicted.select("id", "prediction")).count() === rowCount)
    val again = model.setPredictionCol("second").setProbabilityCol("").transform(predicted)
    assert(nodes(again).size === 2 && again.where("second = prediction").count() === rowCount)
    assert(again.join(again, "id").count() === rowCount)
    predicted.createOrReplaceTempView("predicted_rows")
    val highest = "select id from predicted_rows where prediction = (select max(prediction) from predicted_rows)"
    assert(spark.sql(highest).count() === predicted.where("prediction = 2").count())
    val cached = predicted.select("id", "prediction").cache()
    try assert(cached.where("prediction >= 0").count() === rowCount && cached.count() === rowCount)
    finally cached.unpersist(): Unit
    assert(predicted.rdd.map(_.getAs[Vector]("probability").size).distinct().collect().toSeq === Seq(3))
    assert(predicted.repartition(5).select("prediction").toLocalIterator().next().getDouble(0) >= 0)
  }

  nativeTest("batches of columns come from a cache, too, and a typed Dataset is predicted for") {
    import spark.implicits._
    val columns = Array("x0", "x1", "x2", "x3")
    val model = estimator(3).setInputCols(columns).fit(data)
    val cached = data.select("id", "x0", "x1", "x2", "x3").cache()
    try {
      val predicted = model.transform(cached)
      assert(collect(predicted.queryExecution.executedPlan) { case scan: InMemoryTableScanExec => scan }.size === 1)
      assert(node(predicted).supportsColumnar)
      assertClose(predictions(model, cached), predictions(model, byRows(data)))
    } finally cached.unpersist(): Unit
    val typed = data.select("id", "features").as[(Int, Seq[Float])].filter(_._1 < 20)
    assert(classifier.transform(typed).count() === 20)
    assert(
      classifier.transform(data.where("id < 0")).collect().isEmpty && classifier.transform(parquet.limit(0)).isEmpty
    )
  }

  nativeTest("a sparse vector's prediction goes through another stage that reads it") {
    val frame = data.withColumn(
      "vector",
      f.udf((v: Vector) => Vectors.sparse(4, v.toArray.zipWithIndex.map(_.swap).toSeq)).apply(f.col("vector"))
    )
    val sparse = estimator(3).setFeaturesCol("vector").fit(data)
    assertClose(predictions(sparse, frame), predictions(sparse, data))
  }

  nativeTest("a stream is predicted behind a watermark and before an aggregation") {
    val folder = Files.createTempDirectory("stream-").resolve("data").toString
    data.withColumn("time", f.timestamp_seconds(f.col("id"))).repartition(3).write.parquet(folder)
    val source =
      spark.readStream.schema(spark.read.parquet(folder).schema).option("maxFilesPerTrigger", "1").parquet(folder)
    val predicted = model.transform(source.withWatermark("time", "1 hour"))
    assert(predicted.isStreaming && predicted.schema("time").metadata.contains("spark.watermarkDelayMs"))
    def run(frame: DataFrame, name: String, mode: String): DataFrame = {
      val query = frame.writeStream.format("memory").queryName(name).outputMode(mode).start()
      try query.processAllAvailable()
      finally query.stop()
      spark.table(name)
    }
    val counts = predicted.groupBy(f.window(f.col("time"), "100 seconds"), f.col("prediction")).count()
    assert(run(counts, "counts", "complete").agg(f.sum("count")).head().getLong(0) === rowCount)
    val after = model.transform(source).withWatermark("time", "1 hour").select("id", "prediction")
    assertClose(
      run(after, "appended", "append").collect().map(r => r.getInt(0) -> Seq(r.getDouble(1))).toMap,
      predictions(model.setProbabilityCol(""), parquet)
    )
    var batched = 0L
    val query = source.writeStream.foreachBatch((frame: DataFrame, _: Long) =>
      batched += classifier.transform(frame).where("prediction >= 0").count()
    ).start()
    try query.processAllAvailable()
    finally query.stop()
    assert(batched === rowCount)
  }

  nativeTest("the plan tells of the prediction in a few words") {
    val predicted = model.transform(parquet).select("id", "prediction")
    val text = predicted.queryExecution.toString
    assert(text.contains(s"KindlingPredict ${classifier.uid}, [features#") && text.length < 10000, text)
    assert(predicted.queryExecution.executedPlan.find(_.nodeName == "KindlingPredict").nonEmpty)
    assert(predicted.queryExecution.analyzed.toJSON.length < 100000)
    val again = model.transform(parquet)
    assert(predicted.queryExecution.analyzed.canonicalized === predicted.queryExecution.analyzed.clone().canonicalized)
    assert(predicted.schema === again.select("id", "prediction").schema)
    assert(spark.experimental.extraStrategies.count(_.getClass.getName.contains("kindling")) === 1)
  }

  private def rootMessage(body: => Any): String =
    Iterator.iterate[Throwable](intercept[Exception](body))(_.getCause).takeWhile(_ != null).toSeq.last.getMessage
}
