package kindling

import java.util.ServiceLoader

import kindling.internal.Settings
import org.apache.spark.ml.{Estimator, Transformer}
import org.apache.spark.ml.linalg.SQLDataTypes
import org.apache.spark.ml.param.Param
import org.apache.spark.sql.types._

import scala.jdk.CollectionConverters._

/** The public parameters: names and defaults that users and Python rely on, and the sentences of bad values. */
class TorchParamsSuite extends SparkSuite {

  test("names and defaults are those that are promised") {
    val e = new TorchEstimator()
    val found = e.params.map(p => p.name -> e.getDefault(p.asInstanceOf[Param[Any]])).toMap
    val expected = Map[String, Option[Any]](
      "model" -> None,
      "layers" -> None,
      "loss" -> Some("crossEntropy"),
      "optimizer" -> Some("adamw"),
      "learningRate" -> Some(1e-3),
      "momentum" -> Some(0.0),
      "weightDecay" -> None,
      "beta1" -> Some(0.9),
      "beta2" -> Some(0.999),
      "epsilon" -> Some(1e-8),
      "batchSize" -> Some(32),
      "maxEpochs" -> Some(1),
      "maxIter" -> None,
      "numWorkers" -> Some(1),
      "featuresCol" -> Some("features"),
      "inputCols" -> None,
      "inputShapes" -> None,
      "labelCol" -> Some("label"),
      "predictionCol" -> Some("prediction"),
      "probabilityCol" -> Some("probability"),
      "validationIndicatorCol" -> None,
      "validationFraction" -> Some(0.0),
      "seed" -> Some(0L),
      "shuffle" -> Some(true),
      "handleInvalid" -> Some("error"),
      "device" -> Some("auto"),
      "inferBatchSize" -> Some(1024),
      "rendezvousTimeout" -> Some(60.0),
      "collectiveTimeout" -> Some(300.0),
      "slotTimeout" -> Some(600.0),
      "progressInterval" -> Some(1.0),
      "libtorch" -> Some("")
    )
    assert(found === expected)
    assert(new TorchModel().params.map(_.name).toSet === expected.keySet)
    assert(e.params.forall(_.doc.nonEmpty))
  }

  test("a bad value is answered with the parameter's name and what is allowed") {
    val e = new TorchEstimator()
    Seq[(() => Any, String)](
      (() => e.setBatchSize(0), "batchSize must be a whole number above 0, but is 0"),
      (() => e.setMaxIter(-1), "maxIter must be a whole number above 0"),
      (() => e.setLearningRate(0), "learningRate must be a number above 0, but is 0.0"),
      (() => e.setLearningRate(Double.NaN), "learningRate must be a number above 0, but is NaN"),
      (() => e.setMomentum(1), "momentum must be a number in [0, 1), but is 1.0"),
      (() => e.setWeightDecay(-1), "weightDecay must be a number of at least 0"),
      (() => e.setLoss("hinge"), "loss must be one of crossEntropy, mse, but is \"hinge\""),
      (() => e.setOptimizer("adam"), "optimizer must be one of adamw, sgd"),
      (() => e.setDevice("cuda"), "device is cuda"),
      (() => e.setHandleInvalid("drop"), "handleInvalid must be one of error, skip, keep"),
      (() => e.setInputShapes("[[0]]"), "inputShapes"),
      (() => e.setInputShapes("64"), "inputShapes"),
      (() => e.setLayers("[}"), "layers is not JSON"),
      (() => e.setLayers("{}"), "layers must be JSON with at least one layer"),
      (() => e.setModel(" "), "model must be not empty")
    ).foreach { case (set, sentence) =>
      val text = message[IllegalArgumentException](set())
      assert(text.contains(sentence), text)
    }
  }

  test("a combination in which a value would be ignored is refused") {
    def refused(e: TorchEstimator): String = message[IllegalArgumentException](Settings.of(e))
    assert(refused(new TorchEstimator().setMaxIter(2).setMaxEpochs(3)).contains("another name for maxEpochs"))
    assert(refused(new TorchEstimator().setMomentum(0.9)).contains(
      "momentum is set, but it does nothing with the optimizer adamw"
    ))
    assert(refused(new TorchEstimator().setOptimizer("sgd").setBeta1(0.9)).contains("beta1"))
    assert(refused(new TorchEstimator().setLoss("mse").setProbabilityCol("p")).contains("probabilityCol"))
    assert(refused(new TorchEstimator().setFeaturesCol("f").setInputCols(Array("a"))).contains("both set"))
    assert(refused(new TorchEstimator().setValidationFraction(0.1).setValidationIndicatorCol("v")).contains("one way"))
  }

  test("maxIter is another name for maxEpochs") {
    assert(Settings.of(new TorchEstimator().setMaxIter(4)).maxEpochs === 4)
    assert(Settings.of(new TorchEstimator().setMaxEpochs(4)).maxEpochs === 4)
  }

  test("transformSchema adds the model's columns and checks the data's") {
    val e = new TorchEstimator()
    val schema = new StructType().add("features", SQLDataTypes.VectorType).add("label", DoubleType).add(
      "wide",
      ArrayType(FloatType)
    )
    val out = e.transformSchema(schema)
    assert(out("prediction").dataType === DoubleType && out("probability").dataType === SQLDataTypes.VectorType)
    val mse = new TorchEstimator().setLoss("mse").setLabelCol("wide").transformSchema(schema)
    assert(mse("prediction").dataType === SQLDataTypes.VectorType && !mse.fieldNames.contains("probability"))
    assert(new TorchEstimator().setProbabilityCol("").transformSchema(schema).fieldNames.last === "prediction")
    assert(message[IllegalArgumentException](new TorchEstimator().setFeaturesCol("x").transformSchema(schema)).contains(
      "no column \"x\""
    ))
    assert(message[IllegalArgumentException](
      new TorchEstimator().setPredictionCol("label").transformSchema(schema)
    ).contains("exists already"))
  }

  test("the stages are found as services, as Spark Connect looks for them") {
    assert(ServiceLoader.load(classOf[Estimator[_]]).asScala.exists(_.isInstanceOf[TorchEstimator]))
    assert(ServiceLoader.load(classOf[Transformer]).asScala.exists(_.isInstanceOf[TorchModel]))
  }

  test("an estimator is copied, saved and loaded with its parameters") {
    val e =
      new TorchEstimator().setBatchSize(7).setInputCols(Array("a", "b")).setLayers("""[{"type":"dense","units":2}]""")
    val copied = e.copy(org.apache.spark.ml.param.ParamMap(e.batchSize -> 8))
    assert(copied.getBatchSize === 8 && copied.uid === e.uid)
    val path = java.nio.file.Files.createTempDirectory("estimator-").resolve("e").toString
    spark.sparkContext
    e.save(path)
    val loaded = TorchEstimator.load(path)
    assert((loaded.uid, loaded.getBatchSize, loaded.getInputCols.toSeq, loaded.getLayers) === ((
      e.uid,
      7,
      Seq("a", "b"),
      e.getLayers
    )))
  }

  test("a model made by a constructor says that it holds no network") {
    assert(message[IllegalStateException](new TorchModel().summary).contains("holds no network"))
  }
}
