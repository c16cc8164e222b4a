package kindling

import org.apache.spark.ml.linalg.Vector
import org.apache.spark.sql.{functions => f, DataFrame, Row}
import org.apache.spark.sql.types._

/** Losses and weights of rows through Spark ML: what they mean to a user, not their numbers, which native tests compare. */
class LossSuite extends SparkSuite {

  private val network =
    """{"layers": [{"type": "dense", "units": 8, "activation": "tanh"}, {"type": "dense", "units": 1}]}"""

  /** Rows whose sum decides the label; `w` counts them 0 to 3 times. */
  private def rows(count: Int = 120, partitions: Int = 3): DataFrame = {
    val random = new scala.util.Random(3)
    val data = (0 until count).map { i =>
      val x = Seq.fill(3)(random.nextGaussian().toFloat)
      Row(x, if (x.sum > 0) 1.0 else 0.0, i % 4, x.sum.toDouble)
    }
    val schema = StructType(
      Seq(
        StructField("features", ArrayType(FloatType, containsNull = false)),
        StructField("label", DoubleType),
        StructField("w", IntegerType),
        StructField("sum", DoubleType)
      )
    )
    spark.createDataFrame(spark.sparkContext.parallelize(data, partitions), schema)
  }

  private def estimator(loss: String): TorchEstimator =
    new TorchEstimator().setLayers(network).setLoss(loss).setLearningRate(0.05).setBatchSize(1000).setMaxEpochs(4)

  for (workers <- Seq(1, 2))
    nativeTest(s"a row of weight three is the same as three rows, with $workers worker(s)") {
      val data = rows()
      val copies = data.withColumn("copy", f.explode(f.array_repeat(f.lit(1), f.col("w").cast("int")))).drop("copy")
      val weighted = estimator("huber").setLabelCol("sum").setWeightCol("w").setNumWorkers(workers).fit(data)
      val repeated = estimator("huber").setLabelCol("sum").setNumWorkers(workers).fit(copies)
      weighted.summary.epochs.zip(repeated.summary.epochs).foreach { case (a, b) =>
        // The whole data is one batch; float32 sums in another order.
        assert(math.abs(a.loss - b.loss) < 1e-5, s"${a.loss} ${b.loss}")
      }
      val unweighted = estimator("huber").setLabelCol("sum").setNumWorkers(workers).fit(data)
      assert(math.abs(unweighted.summary.epochs.last.loss - weighted.summary.epochs.last.loss) > 1e-4)
    }

  nativeTest("a weight that no mean can have is named with its row") {
    val bad = rows(partitions = 1).withColumn("w", f.when(f.col("w") === 3, -0.5).otherwise(1.0))
    val text = message[IllegalArgumentException](estimator("mse").setLabelCol("sum").setWeightCol("w").fit(bad))
    assert(text.contains("row 3 of partition 0") && text.contains("the weight in the column \"w\" is -0.5"), text)
    val nan = rows().withColumn("w", f.when(f.col("w") === 3, Double.NaN).otherwise(1.0))
    assert(message[IllegalArgumentException](estimator("mse").setLabelCol("sum").setWeightCol("w").fit(nan)).contains(
      "\"w\" is NaN"
    ))
  }

  nativeTest("transformSchema tells the type of the prediction that transform gives, one-hot integers included") {
    val oneHot = rows().withColumn("label", f.array(f.lit(1) - f.col("label").cast("int"), f.col("label").cast("int")))
    val classes = estimator("crossEntropy").setLayers(network.replace("\"units\": 1", "\"units\": 2")).setMaxEpochs(1)
    val model = classes.setInputShapes("[[3]]").fit(oneHot)
    assert(classes.transformSchema(oneHot.schema)("prediction") === model.transform(oneHot).schema("prediction"))
    assert(model.transform(oneHot).schema("prediction").dataType === DoubleType)
    // A class for each of two positions: the same labels, and a prediction of two numbers.
    val positions = classes.setLayers(
      """{"layers": [{"type": "dense", "units": 6}, {"type": "reshape", "targetShape": [3, 2]}], "inputShape": [3]}"""
    )
    val wide = positions.fit(oneHot)
    assert(positions.transformSchema(oneHot.schema)("prediction") === wide.transform(oneHot).schema("prediction"))
    assert(wide.transform(oneHot).schema("prediction").dataType !== DoubleType)
  }

  nativeTest("what cannot train the network is refused before the data is read") {
    val read = spark.sparkContext.longAccumulator
    val touch = f.udf { (x: Double) => read.add(1); x }
    val data = rows().withColumn("label", touch(f.col("sum")))
    val frozen =
      estimator("mse").setInputShapes("[[3]]").setParameterGroups("""[{"pattern": "nothing", "frozen": true}]""")
    val text = message[IllegalArgumentException](frozen.fit(data))
    assert(text.contains("the parameter group \"nothing\" matches no parameter") && read.value === 0, text)
    val floor = estimator("mse").setInputShapes("[[3]]").setLrSchedule("cosine").setLrMin(0.01)
      .setParameterGroups("""[{"pattern": "*", "maxDimensions": 1, "learningRate": 0.001}]""")
    val rate = message[IllegalArgumentException](floor.fit(data))
    assert(rate.contains("lowest rate is 0.01") && read.value === 0, rate)
  }

  nativeTest("what a frozen group keeps still needs no memory for training") {
    val program = internal.Program(
      internal.LayerList.parse(network).complete(Seq(3), 0),
      internal.ProgramDescription.inspect(internal.LayerList.parse(network).complete(Seq(3), 0))
    )
    val all = internal.TrainingRun.trained(program, internal.Settings.of(estimator("mse")))
    assert(all.trainableElements === program.description.trainableElements)
    val frozen = estimator("mse").setParameterGroups("""[{"pattern": "*", "maxDimensions": 1, "frozen": true}]""")
    // Of 3 * 8 + 8 and 8 * 1 + 1, the biases.
    assert(internal.TrainingRun.trained(program, internal.Settings.of(frozen)).trainableElements === 32)
  }

  nativeTest("binary cross entropy predicts yes or no, and Spark ML's pair of probabilities") {
    val model = estimator("binaryCrossEntropyWithLogits").setMaxEpochs(30).setPosWeight(Array(1.5)).fit(rows())
    assert(model.summary.epochs.last.accuracy.exists(_ > 0.9))
    model.transform(rows()).select("prediction", "probability").collect().foreach { row =>
      val (answer, probability) = (row.getDouble(0), row.getAs[Vector](1))
      assert(probability.size === 2 && math.abs(probability(0) + probability(1) - 1) < 1e-12)
      assert(answer === (if (probability(1) > 0.5) 1.0 else 0.0))
    }
  }

  nativeTest("labels that a loss does not take are named before training") {
    val text = message[Exception](estimator("binaryCrossEntropyWithLogits").setLabelCol("sum").fit(rows()))
    assert(text.contains("in partition") && text.contains("from 0 to 1"), text)
    val signs = message[Exception](estimator("hinge").setLabelCol("sum").fit(rows()))
    assert(signs.contains("labels are 1, and -1 or 0"), signs)
  }

  nativeTest("probabilities of classes are labels of cross entropy, and say the same as the class that is certain") {
    val classes =
      """{"layers": [{"type": "dense", "units": 2}]}"""
    val soft = rows().withColumn("soft", f.array(f.lit(1.0) - f.col("label"), f.col("label")))
    def fit(label: String): Seq[Double] = estimator("crossEntropy").setLayers(classes).setLabelCol(label).fit(
      soft
    ).summary.epochs.map(_.loss)
    fit("soft").zip(fit("label")).foreach { case (a, b) => assert(math.abs(a - b) < 1e-6) }
    val text = message[IllegalArgumentException](
      estimator("crossEntropy").setLayers(classes).setLabelCol("soft").setIgnoreIndex(-1).fit(soft)
    )
    assert(text.contains("ignoreIndex"), text)
  }

  nativeTest("an ignored label is no row of the mean, and class weights are one per class") {
    val classes = """{"layers": [{"type": "dense", "units": 2}]}"""
    val data = rows().withColumn("label", f.when(f.col("w") === 0, -7).otherwise(f.col("label").cast("int")))
    val e = estimator("crossEntropy").setLayers(classes).setClassWeights(Array(0.5, 2.0))
    val ignoring = e.copy(org.apache.spark.ml.param.ParamMap.empty).setIgnoreIndex(-7).fit(data)
    val without = e.fit(data.where("w != 0"))
    ignoring.summary.epochs.zip(without.summary.epochs).foreach { case (a, b) =>
      assert(math.abs(a.loss - b.loss) < 1e-5 && a.accuracy.zip(b.accuracy).forall { case (x, y) =>
        math.abs(x - y) < 1e-9
      })
    }
    assert(message[IllegalArgumentException](e.copy(org.apache.spark.ml.param.ParamMap.empty).setClassWeights(
      Array(1.0)
    ).fit(data)).contains("classWeights has 1 weights, but the program has 2 classes"))
  }
}
