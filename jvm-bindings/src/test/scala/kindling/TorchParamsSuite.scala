package kindling

import java.nio.charset.StandardCharsets.UTF_8
import java.nio.file.{Files, Paths}
import java.util.ServiceLoader

import kindling.internal.{Json, Settings}
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
      "predictionOutput" -> None,
      "labelSmoothing" -> None,
      "classWeights" -> None,
      "ignoreIndex" -> None,
      "posWeight" -> None,
      "delta" -> None,
      "beta" -> None,
      "margin" -> None,
      "normDegree" -> None,
      "swap" -> None,
      "logInput" -> None,
      "full" -> None,
      "logTarget" -> None,
      "blank" -> None,
      "zeroInfinity" -> None,
      "weightCol" -> None,
      "optimizer" -> Some("adamw"),
      "learningRate" -> Some(1e-3),
      "momentum" -> Some(0.0),
      "dampening" -> None,
      "nesterov" -> Some(false),
      "amsgrad" -> Some(false),
      "learningRateDecay" -> None,
      "initialAccumulator" -> None,
      "alpha" -> None,
      "centered" -> Some(false),
      "trustCoefficient" -> None,
      "beta2Decay" -> None,
      "epsilon1" -> None,
      "epsilon2" -> None,
      "clipThreshold" -> None,
      "parameterGroups" -> None,
      "lrSchedule" -> Some("constant"),
      "warmupSteps" -> None,
      "warmupFraction" -> None,
      "warmupStart" -> None,
      "lrDecaySteps" -> None,
      "lrGamma" -> None,
      "lrMilestones" -> None,
      "lrMin" -> None,
      "lrCycleFactor" -> None,
      "lrStartFactor" -> None,
      "lrEndFactor" -> None,
      "lrPower" -> None,
      "lrPeakFraction" -> None,
      "lrDivFactor" -> None,
      "lrFinalDivFactor" -> None,
      "lrAnneal" -> None,
      "lrPatience" -> None,
      "lrMetric" -> None,
      "lrThreshold" -> None,
      "lrThresholdMode" -> None,
      "lrCooldown" -> None,
      "gradientClipNorm" -> None,
      "gradientClipValue" -> None,
      "gradientAccumulationSteps" -> Some(1),
      "emaDecay" -> None,
      "precision" -> Some("fp32"),
      "syncBatchNorm" -> Some(false),
      "activationCheckpointing" -> Some("none"),
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
      "indexCols" -> None,
      "stringOrderType" -> Some("frequencyDesc"),
      "predictedLabelCol" -> None,
      "pixelRange" -> None,
      "outputCols" -> None,
      "predictionCol" -> Some("prediction"),
      "probabilityCol" -> Some("probability"),
      "validationIndicatorCol" -> None,
      "validationFraction" -> Some(0.0),
      "metrics" -> None,
      "topK" -> None,
      "earlyStoppingPatience" -> None,
      "earlyStoppingMetric" -> None,
      "earlyStoppingMinDelta" -> None,
      "restoreBestWeights" -> Some(false),
      "seed" -> Some(0L),
      "shuffle" -> Some(true),
      "handleInvalid" -> Some("error"),
      "shardMemory" -> None,
      "forceRepartition" -> Some(false),
      "device" -> Some("auto"),
      "inferBatchSize" -> Some(1024),
      "rendezvousTimeout" -> Some(60.0),
      "collectiveTimeout" -> Some(1800.0),
      "heartbeatInterval" -> Some(5.0),
      "stallWarning" -> Some(60.0),
      "slotTimeout" -> Some(600.0),
      "progressInterval" -> Some(1.0),
      "libtorch" -> Some("")
    )
    assert(found === expected)
    assert(new TorchModel().params.map(_.name).toSet === expected.keySet)
    assert(e.params.forall(_.doc.nonEmpty))
  }

  test("docs/params.md names the parameters and their defaults, these and no others") {
    val table = new String(Files.readAllBytes(Paths.get("..", "docs", "params.md")), UTF_8)
    val documented = table.linesIterator.filter(_.startsWith("| `")).flatMap { line =>
      val cells = line.split('|').map(_.trim)
      val names = cells(1).split(",").map(_.trim.stripPrefix("`").stripSuffix("`"))
      val defaults = cells(2).split(",").map(_.trim.stripPrefix("`").stripSuffix("`"))
      names.zipWithIndex.map { case (name, index) => name -> defaults(math.min(index, defaults.length - 1)) }
    }.filterNot(_._1.startsWith("spark.")).toSeq
    val e = new TorchEstimator()
    assert(documented.map(_._1).sorted === e.params.map(_.name).toSeq.sorted)
    documented.foreach { case (name, text) =>
      val written = text match {
        case "" | "unset" => None
        case "empty" => Some("")
        case number if number.toDoubleOption.isDefined => number.toDoubleOption
        case word => Some(word)
      }
      val found = e.getDefault(e.getParam(name)).map {
        case number: Number => number.doubleValue
        case other => other.toString
      }
      assert(found === written, name)
    }
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
      (() => e.setLoss("hing"), "loss must be one of crossEntropy, binaryCrossEntropy,"),
      (() => e.setLabelSmoothing(1.5), "labelSmoothing must be a number in [0, 1], but is 1.5"),
      (() => e.setClassWeights(Array(1.0, -1.0)), "classWeights must be a number of at least 0, but is -1.0"),
      (() => e.setPosWeight(Array()), "posWeight must be at least one number"),
      (() => e.setDelta(0), "delta must be a number above 0"),
      (() => e.setBlank(-1), "blank must be a whole number of at least 0"),
      (() => e.setOptimizer("adamax"), "optimizer must be one of sgd, adam, adamw"),
      (() => e.setLrSchedule("cosinus"), "lrSchedule must be one of constant, step"),
      (
        () => e.setLrMilestones(Array(3, 3)),
        "lrMilestones must be whole numbers of at least 0, each larger than the one"
      ),
      (() => e.setLrMilestones(Array()), "before, but is []"),
      (() => e.setMetrics(Array("f2")), "metrics must be some of loss, accuracy, topK"),
      (() => e.setMetrics(Array("f1", "f1")), "each once, but is [f1, f1]"),
      (() => e.setEarlyStoppingPatience(0), "earlyStoppingPatience must be a whole number above 0"),
      (() => e.setEarlyStoppingMetric("time"), "earlyStoppingMetric must be one of loss, accuracy"),
      (() => e.setLrDivFactor(0.5), "lrDivFactor must be a number of at least 1"),
      (() => e.setBeta2Decay(0.1), "beta2Decay must be a number of at most 0, but is 0.1"),
      (() => e.setPrecision("fp8"), "precision must be one of fp32, bf16, fp16"),
      (() => e.setParameterGroups("[{}]"), "parameterGroups has a group without a \"pattern\""),
      (() => e.setParameterGroups("""[{"pattern": "*", "lr": 1}]"""), "the key lr"),
      (() => e.setEmaDecay(1), "emaDecay must be a number in [0, 1)"),
      (() => e.setActivationCheckpointing("1"), "a whole number of at least 2, or module patterns"),
      (() => e.setActivationCheckpointing("-3"), "activationCheckpointing must be none, auto, a whole number"),
      (() => e.setActivationCheckpointing(" "), "such as encoder.layers.*, but is \" \""),
      (() => e.setActivationCheckpointing(","), "but is \",\""),
      (() => e.setActivationCheckpointing("a,,b"), "but is \"a,,b\""),
      (() => e.setActivationCheckpointing("""["a"]"""), "with commas between them"),
      (() => e.setDevice("gpu"), "device must be one of auto, cpu, cuda"),
      (() => e.setHandleInvalid("drop"), "handleInvalid must be one of error, skip, keep"),
      (() => e.setHeartbeatInterval(0.04), "heartbeatInterval must be a number of at least 0.05, but is 0.04"),
      (() => e.setStallWarning(0), "stallWarning must be a number above 0, but is 0.0"),
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
    assert(refused(new TorchEstimator().setOptimizer("sgd").setBeta1(0)).contains("beta1"))
    assert(refused(new TorchEstimator().setOptimizer("lion").setEpsilon(1)).contains("epsilon"))
    assert(refused(new TorchEstimator().setNesterov(true)).contains("nesterov"))
    assert(refused(new TorchEstimator().setOptimizer("sgd").setNesterov(true)).contains("momentum above 0"))
    assert(refused(new TorchEstimator().setLrGamma(0.5)).contains(
      "lrGamma is set, but it does nothing with the lrSchedule constant"
    ))
    assert(refused(new TorchEstimator().setLrSchedule("step")).contains("needs lrDecaySteps"))
    assert(refused(new TorchEstimator().setWarmupStart(0.1)).contains("warmupStart"))
    assert(refused(new TorchEstimator().setLrSchedule("reduceOnPlateau").setLrGamma(1)) ===
      "lrGamma is 1.0, but reduceOnPlateau lowers the rate by it: set it below 1")
    assert(
      refused(new TorchEstimator().setLrSchedule("cosine").setLrMin(1)).contains("lrMin is 1.0, above the learningRate")
    )
    assert(refused(new TorchEstimator().setLrAnneal("linear")).contains("lrAnneal is set, but it does nothing with"))
    assert(
      refused(new TorchEstimator().setEpsilon2(1)).contains("epsilon2 is set, but it does nothing with the optimizer")
    )
    assert(refused(new TorchEstimator().setLoss("mse").setProbabilityCol("p")).contains("probabilityCol"))
    Seq[(TorchEstimator => Any, String)](
      (_.setDelta(1), "delta is set, but it does nothing with the loss crossEntropy: clear it, it belongs to huber"),
      (_.setLoss("mse").setClassWeights(Array(1.0)), "classWeights is set"),
      (_.setLoss("huber").setMargin(1), "it belongs to cosine and marginRanking and triplet"),
      (_.setLoss("triplet").setLabelCol("l"), "reads no label"),
      (_.setLoss("model").setLabelCol("l"), "name the label among inputCols")
    ).foreach { case (set, sentence) =>
      val e = new TorchEstimator()
      set(e): Unit
      assert(refused(e).contains(sentence), refused(e))
    }
    def validating = new TorchEstimator().setValidationFraction(0.1)
    assert(refused(new TorchEstimator().setMetrics(Array("f1"))).contains("metrics is set, but no row validates"))
    assert(refused(new TorchEstimator().setRestoreBestWeights(true)).contains("restoreBestWeights is set, but no row"))
    assert(
      refused(validating.setEarlyStoppingMinDelta(0.1)).contains("earlyStoppingMinDelta is set, but nothing follows")
    )
    assert(refused(validating.setTopK(3)).contains("the metric topK is not asked for"))
    assert(refused(validating.setLrMetric("loss")).contains("lrMetric is set, but it does nothing with the lrSchedule"))
    Seq(validating, new TorchEstimator().setValidationIndicatorCol("v")).foreach { e =>
      val text = message[IllegalArgumentException](Settings.of(e, frame = true))
      assert(text.contains("is set, but there is a DataFrame to validate on"), text)
    }
    assert(refused(new TorchEstimator().setFeaturesCol("f").setInputCols(Array("a"))).contains("both set"))
    assert(refused(new TorchEstimator().setValidationFraction(0.1).setValidationIndicatorCol("v")).contains("one way"))
  }

  test("what is set of optimizer and schedule goes to the native library under its names, and nothing else") {
    val e = new TorchEstimator().setOptimizer("rmsprop").setMomentum(0.5).setCentered(true).setLearningRate(0.1)
    e.setLrSchedule("multistep").setLrMilestones(Array(3, 9)).setWarmupSteps(2).setGradientClipNorm(1).setEmaDecay(0.9)
    e.setParameterGroups("""[{"pattern": "*", "maxDimensions": 1, "weightDecay": 0}]""").setPrecision("bf16")
    val settings = Settings.of(e)
    assert(
      Json.text(settings.optimizer.json) === """{"name":"rmsprop","learningRate":0.1,"momentum":0.5,"centered":true}"""
    )
    assert(settings.optimizer.stateCopies === 4)
    val other = new TorchEstimator().setOptimizer("adafactor").setBeta2Decay(-0.5).setEpsilon1(1e-3).setEpsilon2(0.5)
    other.setLrSchedule("oneCycle").setLrDivFactor(10).setLrFinalDivFactor(100).setLrAnneal("linear")
    assert(
      Json.text(Settings.of(other).optimizer.json) ===
        """{"name":"adafactor","learningRate":0.001,"beta2Decay":-0.5,"epsilon1":0.001,"epsilon2":0.5}"""
    )
    assert(
      Json.text(Settings.of(other).step.schedule) ===
        """{"name":"oneCycle","divFactor":10.0,"finalDivFactor":100.0,"anneal":"linear"}"""
    )
    val plateau = new TorchEstimator().setLrSchedule("reduceOnPlateau").setLrThreshold(0.5).setLrThresholdMode("abs")
    assert(
      Json.text(Settings.of(plateau.setLrCooldown(2)).step.schedule) ===
        """{"name":"reduceOnPlateau","threshold":0.5,"cooldown":2,"thresholdMode":"abs"}"""
    )
    val training = Json.obj()
    settings.step.into(training)
    assert(
      Json.text(training) === """{"groups":[{"pattern":"*","maxDimensions":1,"weightDecay":0}],""" +
        """"schedule":{"name":"multistep","milestones":[3,9],"warmupSteps":2},"clipNorm":1.0,"accumulationSteps":1,""" +
        """"emaDecay":0.9,"precision":"bf16","syncBatchNorm":false,"activationCheckpointing":"none"}"""
    )
    e.setSyncBatchNorm(true).setActivationCheckpointing("auto").setGradientAccumulationSteps(4)
    Settings.of(e).step.into(training)
    val together = Seq("precision", "syncBatchNorm", "activationCheckpointing", "accumulationSteps")
    assert(together.map(training.get(_).asText) === Seq("bf16", "true", "auto", "4"))
  }

  test("what is measured and what follows from it goes to the native library, and nothing that is unset") {
    def sent(e: TorchEstimator): String = {
      val training = Json.obj()
      Settings.of(e.setValidationFraction(0.1)).measures.into(training)
      Json.text(training)
    }
    assert(sent(new TorchEstimator()) === "{}")
    val all = new TorchEstimator().setMetrics(Array("f1", "topK")).setTopK(3).setEarlyStoppingPatience(2)
    all.setEarlyStoppingMetric("f1").setEarlyStoppingMinDelta(0.5).setRestoreBestWeights(true)
    assert(sent(all) === """{"metrics":["f1","topK"],"topK":3,"earlyStopping":""" +
      """{"restoreBestWeights":true,"metric":"f1","patience":2,"minDelta":0.5}}""")
    assert(Settings.of(all).optimizer.stateCopies === 3)
    val plateau =
      new TorchEstimator().setLrSchedule("reduceOnPlateau").setLrMetric("accuracy").setValidationFraction(0.1)
    assert(Json.text(Settings.of(plateau).step.schedule) === """{"name":"reduceOnPlateau","metric":"accuracy"}""")
  }

  test("activationCheckpointing is a word, a number or, with a comma or another text, a list of module patterns") {
    Seq(
      "none" -> "\"none\"",
      "auto" -> "\"auto\"",
      "4" -> "4",
      " 12 " -> "12",
      "encoder.layers.*" -> """["encoder.layers.*"]""",
      "encoder.*, 2.5" -> """["encoder.*","2.5"]""",
      "4," -> """["4"]""",
      "auto,none" -> """["auto","none"]"""
    ).foreach { case (text, json) =>
      val training = Json.obj()
      Settings.of(
        new TorchEstimator().setActivationCheckpointing(text).setSyncBatchNorm(true)
      ).step.into(training)
      assert(training.get("syncBatchNorm").asBoolean)
      assert(Json.text(training.get("activationCheckpointing")) === json)
    }
  }

  test("maxIter is another name for maxEpochs") {
    assert(Settings.of(new TorchEstimator().setMaxIter(4)).maxEpochs === 4)
    assert(Settings.of(new TorchEstimator().setMaxEpochs(4)).maxEpochs === 4)
  }

  test("seconds become the milliseconds that the native library takes") {
    val settings = Settings.of(new TorchEstimator().setHeartbeatInterval(0.05).setStallWarning(1.5))
    assert((settings.heartbeatMs, settings.stallWarningMs, settings.collectiveTimeoutMs) === ((50L, 1500L, 1800000L)))
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
