package kindling

import java.nio.file.Files

import org.apache.spark.ml.param.ParamMap
import org.apache.spark.sql.{functions => f, DataFrame, Row}
import org.apache.spark.sql.types._

/** Validation through Spark ML: which rows, what is measured of them, and the end of a run that follows from it. */
class ValidationSuite extends SparkSuite {

  private val network =
    """{"layers": [{"type": "dense", "units": 8, "activation": "tanh"}, {"type": "dense", "units": 2}]}"""

  /** Rows whose sum decides the label, most of the time: enough to learn, and never all of it. */
  private lazy val rows: DataFrame = {
    val random = new scala.util.Random(5)
    val data = (0 until 90).map { i =>
      val x = Seq.fill(3)(random.nextGaussian().toFloat)
      Row(i, x, if (x.sum > 0 ^ random.nextInt(5) == 0) 1 else 0, i % 3 == 0)
    }
    val schema = StructType(
      Seq(
        StructField("id", IntegerType),
        StructField("features", ArrayType(FloatType, containsNull = false)),
        StructField("label", IntegerType),
        StructField("held", BooleanType)
      )
    )
    spark.createDataFrame(spark.sparkContext.parallelize(data, 3), schema)
  }

  private def trains = rows.where("not held")
  private def validates = rows.where("held")

  private def estimator: TorchEstimator =
    new TorchEstimator().setLayers(network).setLearningRate(0.05).setBatchSize(1000).setMaxEpochs(4)

  for (workers <- Seq(1, 2))
    nativeTest(s"a second DataFrame validates as marked rows do, with $workers worker(s)") {
      val all = estimator.setMetrics(Array("accuracy", "auc", "f1")).setNumWorkers(workers)
      val marked = all.copy(ParamMap.empty).setValidationIndicatorCol("held").fit(rows).summary
      val framed = all.fit(trains, validates).summary
      assert((framed.totalRows, framed.validationRows) === ((marked.totalRows, marked.validationRows)))
      framed.epochs.zip(marked.epochs).foreach { case (one, other) =>
        assert(one.validation.keySet === Set("loss", "accuracy", "auc", "f1"))
        one.validation.foreach { case (name, value) =>
          // The whole data is one batch, whose rows are summed in another order.
          assert(math.abs(value - other.validation(name)) < 1e-4, name)
        }
      }
      assert(framed.history.columns.toSeq.slice(3, 7) ===
        Seq("validationLoss", "validationAccuracy", "validationF1", "validationAuc"))
      assert(framed.toString.contains("validationAuc"))
    }

  nativeTest("the setter does the same, and goes with every copy that fit makes") {
    val e = estimator.setValidationData(validates)
    val summaries = e.fit(trains, Seq(ParamMap(e.maxEpochs -> 1), ParamMap(e.maxEpochs -> 2))).map(_.summary)
    assert(summaries.map(_.validationRows) === Seq(30, 30) && summaries.map(_.epochs.size) === Seq(1, 2))
    assert(e.setValidationData(null).fit(trains).summary.validationRows === 0)
  }

  nativeTest("a run ends without progress, has the best weights, and remembers it when it is loaded") {
    val e = estimator.setMaxEpochs(60).setEarlyStoppingPatience(3).setEarlyStoppingMetric("accuracy")
    val model = e.setEarlyStoppingMinDelta(0.001).setRestoreBestWeights(true).fit(trains, validates)
    val summary = model.summary
    val best = summary.bestEpoch.get
    assert(summary.stoppedEarly && summary.epochs.size === best + 4)
    // Who validates the fitted model finds the best epoch's accuracy.
    val right = model.transform(validates).where("prediction = label").count() / 30.0
    assert(math.abs(right - summary.epochs(best).validationAccuracy.get) < 1e-9)
    val path = Files.createTempDirectory("validation-").resolve("model").toString
    model.save(path)
    assert(TorchModel.load(path).summary === summary)
  }

  nativeTest("what makes no sense is refused before the data is read") {
    val read = spark.sparkContext.longAccumulator
    val touch = f.udf { (x: Int) => read.add(1); x }
    val data = trains.withColumn("label", touch(f.col("label")))
    def refused(e: TorchEstimator): String = message[IllegalArgumentException](e.fit(data, validates))
    val mae = refused(estimator.setInputShapes("[[3]]").setMetrics(Array("mae")))
    assert(
      mae.contains("the metric mae makes no sense for the loss crossEntropy: leave it out, there are loss, accuracy")
    )
    val top = refused(estimator.setInputShapes("[[3]]").setMetrics(Array("topK")))
    assert(top.contains("set topK to 2 or less"), top)
    val other = estimator.setInputShapes("[[3]]")
    val column = message[IllegalArgumentException](other.fit(data, validates.drop("label")))
    assert(column.contains("there is no column \"label\""), column)
    assert(read.value === 0)
  }

  nativeTest("a row of the second DataFrame that cannot be used is named as one of it") {
    val bad = validates.coalesce(1).withColumn("label", f.when(f.col("id") === 3, 7).otherwise(f.col("label")))
    val text = message[IllegalArgumentException](estimator.fit(trains, bad))
    assert(text.contains("the validation DataFrame, row 1 of partition 0: "), text)
  }
}
