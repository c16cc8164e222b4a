package kindling

import kindling.internal.{
  ColumnTypes,
  DType,
  Images,
  Indexing,
  Loss,
  NestedFields,
  OutputColumns,
  PredictionWidth,
  Settings,
  SharedIngest,
  TorchParams,
  Trained,
  TrainingRun,
  ValidatorFits
}
import org.apache.spark.ml.Estimator
import org.apache.spark.ml.param.ParamMap
import org.apache.spark.ml.util.{DefaultParamsReadable, DefaultParamsWritable, Identifiable}
import org.apache.spark.sql.Dataset
import org.apache.spark.sql.types.StructType

/**
 * Trains a network on a DataFrame, one replica per worker inside Spark's executors, and gives a [[TorchModel]].
 *
 * The network is an exported program (`model`, a .pt2 archive) or a list of layers (`layers`). A run is described by its Params;
 * see `explainParams()`.
 *
 * {{{
 *   val estimator = new TorchEstimator()
 *     .setLayers("""{"layers": [{"type": "dense", "units": 32, "activation": "relu"}, {"type": "dense", "units": 3}]}""")
 *     .setBatchSize(256)
 *     .setMaxEpochs(5)
 *     .setNumWorkers(4)
 *   val model = estimator.fit(data)
 *   model.transform(data).select("prediction", "probability").show()
 * }}}
 */
class TorchEstimator(override val uid: String)
    extends Estimator[TorchModel]
    with TorchParams
    with DefaultParamsWritable {

  def this() = this(Identifiable.randomUID("TorchEstimator"))

  /**
   * Trains. Throws `IllegalArgumentException` for a parameter, column or row that cannot be used, and [[TrainingException]] for a
   * run that failed; nothing is left behind in the executors either way.
   */
  override def fit(dataset: Dataset[_]): TorchModel = {
    transformSchema(dataset.schema, logging = true): Unit
    val trained = shared.filter(_.isOpen) match {
      case None => ValidatorFits.around(dataset)(train(dataset, _))
      case ingests => train(dataset, ingests)
    }
    copyValues(new TorchModel(uid).attach(trained)).setParent(this)
  }

  private def train(dataset: Dataset[_], ingests: Option[SharedIngest]): Trained =
    new TrainingRun(this, beside(dataset), validationData.map(beside), ingests).fit()

  /** One model for each of the param maps, one after the other. The data is read once for all that want the same rows of it. */
  override def fit(dataset: Dataset[_], paramMaps: Seq[ParamMap]): Seq[TorchModel] = {
    val sharing = copy(ParamMap.empty)
    val ingests = sharing.shareIngest()
    try paramMaps.map(sharing.fit(dataset, _))
    finally ingests.close()
  }

  /** The rows of the call of several fits to which the fits of this estimator and its copies belong. */
  @transient private var shared: Option[SharedIngest] = None

  /** From now on fits share what they read, until the result is closed. Python's `fitMultiple` calls this, too. */
  private[kindling] def shareIngest(): SharedIngest = {
    val ingests = new SharedIngest
    shared = Some(ingests)
    ingests
  }

  /** With the fields that the parameters name by their path as columns of their own. */
  private def beside(dataset: Dataset[_]): Dataset[_] = NestedFields.beside(dataset, NestedFields.all(this))

  /** The same, validating on all rows of `validation` after each epoch. It has the columns of `dataset`. */
  def fit(dataset: Dataset[_], validation: Dataset[_]): TorchModel =
    copy(ParamMap.empty).setValidationData(validation).fit(dataset).setParent(this)

  /** The rows to validate on, if they are a DataFrame of their own. */
  @transient private var validationData: Option[Dataset[_]] = None

  /**
   * Validates on all rows of this DataFrame, which has the columns of the one that trains; `null` takes it away. It is no parameter
   * and is not saved with the estimator. In a `Pipeline` it must already be what the stages before this one make of it.
   */
  def setValidationData(value: Dataset[_]): this.type = {
    validationData = Option(value)
    this
  }

  /**
   * Checks the columns as far as the schema alone allows and adds those of the model. Where the label does not say whether a
   * prediction is one number or several, the program is read for it.
   */
  override def transformSchema(schema: StructType): StructType = {
    Settings.of(this, validationData.isDefined): Unit
    val columns = NestedFields.beside(schema, NestedFields.all(this))
    // float64 takes every number, so this asks only for numbers; what the program needs exactly is checked in `fit`.
    val features = if (isSet(inputCols)) getInputCols.toSeq else Seq(getFeaturesCol)
    val pictures = features.filter(name => Images.serves(ColumnTypes.column(columns, name).dataType))
    if (isSet(pixelRange) && pictures.isEmpty)
      throw new IllegalArgumentException("pixelRange is set, but no column of the inputs holds pictures: clear it")
    features.diff(pictures).foreach { name =>
      ColumnTypes.numbers(columns, name, DType.Float64, "the features", Indexing.of(this)): Unit
    }
    get(validationIndicatorCol).filter(_.nonEmpty).foreach(ColumnTypes.boolean(
      columns,
      _,
      "validationIndicatorCol"
    ): Unit)
    get(weightCol).filter(_.nonEmpty).foreach(ColumnTypes.anyNumber(columns, _, "weightCol", indexable = false): Unit)
    val judgedBy = Loss.of(this)
    val wide = PredictionWidth.several(this, judgedBy, columns)
    OutputColumns.of(this, judgedBy, wide, PredictionWidth.others(this, judgedBy, columns)).appendTo(schema)
  }

  override def copy(extra: ParamMap): TorchEstimator = {
    val copied = defaultCopy[TorchEstimator](extra)
    copied.validationData = validationData
    copied.shared = shared
    copied
  }

  def setModel(value: String): this.type = set(model, value)
  def setLayers(value: String): this.type = set(layers, value)
  def setInputShapes(value: String): this.type = set(inputShapes, value)
  def setFeaturesCol(value: String): this.type = set(featuresCol, value)
  def setInputCols(value: Array[String]): this.type = set(inputCols, value)
  def setIndexCols(value: Array[String]): this.type = set(indexCols, value)
  def setStringOrderType(value: String): this.type = set(stringOrderType, value)
  def setPixelRange(value: String): this.type = set(pixelRange, value)
  def setLabelCol(value: String): this.type = set(labelCol, value)
  def setPredictionCol(value: String): this.type = set(predictionCol, value)
  def setProbabilityCol(value: String): this.type = set(probabilityCol, value)
  def setOutputCols(value: Array[String]): this.type = set(outputCols, value)
  def setPredictedLabelCol(value: String): this.type = set(predictedLabelCol, value)
  def setValidationIndicatorCol(value: String): this.type = set(validationIndicatorCol, value)
  def setValidationFraction(value: Double): this.type = set(validationFraction, value)
  def setMetrics(value: Array[String]): this.type = set(metrics, value)
  def setTopK(value: Int): this.type = set(topK, value)
  def setEarlyStoppingPatience(value: Int): this.type = set(earlyStoppingPatience, value)
  def setEarlyStoppingMetric(value: String): this.type = set(earlyStoppingMetric, value)
  def setEarlyStoppingMinDelta(value: Double): this.type = set(earlyStoppingMinDelta, value)
  def setRestoreBestWeights(value: Boolean): this.type = set(restoreBestWeights, value)
  def setLoss(value: String): this.type = set(loss, value)
  def setPredictionOutput(value: String): this.type = set(predictionOutput, value)
  def setLabelSmoothing(value: Double): this.type = set(labelSmoothing, value)
  def setClassWeights(value: Array[Double]): this.type = set(classWeights, value)
  def setIgnoreIndex(value: Int): this.type = set(ignoreIndex, value)
  def setPosWeight(value: Array[Double]): this.type = set(posWeight, value)
  def setDelta(value: Double): this.type = set(delta, value)
  def setBeta(value: Double): this.type = set(beta, value)
  def setMargin(value: Double): this.type = set(margin, value)
  def setNormDegree(value: Double): this.type = set(normDegree, value)
  def setSwap(value: Boolean): this.type = set(swap, value)
  def setLogInput(value: Boolean): this.type = set(logInput, value)
  def setFull(value: Boolean): this.type = set(full, value)
  def setLogTarget(value: Boolean): this.type = set(logTarget, value)
  def setBlank(value: Int): this.type = set(blank, value)
  def setZeroInfinity(value: Boolean): this.type = set(zeroInfinity, value)
  def setWeightCol(value: String): this.type = set(weightCol, value)
  def setOptimizer(value: String): this.type = set(optimizer, value)
  def setLearningRate(value: Double): this.type = set(learningRate, value)
  def setMomentum(value: Double): this.type = set(momentum, value)
  def setWeightDecay(value: Double): this.type = set(weightDecay, value)
  def setBeta1(value: Double): this.type = set(beta1, value)
  def setBeta2(value: Double): this.type = set(beta2, value)
  def setEpsilon(value: Double): this.type = set(epsilon, value)
  def setDampening(value: Double): this.type = set(dampening, value)
  def setNesterov(value: Boolean): this.type = set(nesterov, value)
  def setAmsgrad(value: Boolean): this.type = set(amsgrad, value)
  def setLearningRateDecay(value: Double): this.type = set(learningRateDecay, value)
  def setInitialAccumulator(value: Double): this.type = set(initialAccumulator, value)
  def setAlpha(value: Double): this.type = set(alpha, value)
  def setCentered(value: Boolean): this.type = set(centered, value)
  def setTrustCoefficient(value: Double): this.type = set(trustCoefficient, value)
  def setBeta2Decay(value: Double): this.type = set(beta2Decay, value)
  def setEpsilon1(value: Double): this.type = set(epsilon1, value)
  def setEpsilon2(value: Double): this.type = set(epsilon2, value)
  def setClipThreshold(value: Double): this.type = set(clipThreshold, value)
  def setParameterGroups(value: String): this.type = set(parameterGroups, value)
  def setLrSchedule(value: String): this.type = set(lrSchedule, value)
  def setWarmupSteps(value: Int): this.type = set(warmupSteps, value)
  def setWarmupFraction(value: Double): this.type = set(warmupFraction, value)
  def setWarmupStart(value: Double): this.type = set(warmupStart, value)
  def setLrDecaySteps(value: Int): this.type = set(lrDecaySteps, value)
  def setLrGamma(value: Double): this.type = set(lrGamma, value)
  def setLrMilestones(value: Array[Int]): this.type = set(lrMilestones, value)
  def setLrMin(value: Double): this.type = set(lrMin, value)
  def setLrCycleFactor(value: Int): this.type = set(lrCycleFactor, value)
  def setLrStartFactor(value: Double): this.type = set(lrStartFactor, value)
  def setLrEndFactor(value: Double): this.type = set(lrEndFactor, value)
  def setLrPower(value: Double): this.type = set(lrPower, value)
  def setLrPeakFraction(value: Double): this.type = set(lrPeakFraction, value)
  def setLrDivFactor(value: Double): this.type = set(lrDivFactor, value)
  def setLrFinalDivFactor(value: Double): this.type = set(lrFinalDivFactor, value)
  def setLrAnneal(value: String): this.type = set(lrAnneal, value)
  def setLrPatience(value: Int): this.type = set(lrPatience, value)
  def setLrMetric(value: String): this.type = set(lrMetric, value)
  def setLrThreshold(value: Double): this.type = set(lrThreshold, value)
  def setLrThresholdMode(value: String): this.type = set(lrThresholdMode, value)
  def setLrCooldown(value: Int): this.type = set(lrCooldown, value)
  def setGradientClipNorm(value: Double): this.type = set(gradientClipNorm, value)
  def setGradientClipValue(value: Double): this.type = set(gradientClipValue, value)
  def setGradientAccumulationSteps(value: Int): this.type = set(gradientAccumulationSteps, value)
  def setEmaDecay(value: Double): this.type = set(emaDecay, value)
  def setPrecision(value: String): this.type = set(precision, value)
  def setSyncBatchNorm(value: Boolean): this.type = set(syncBatchNorm, value)
  def setActivationCheckpointing(value: String): this.type = set(activationCheckpointing, value)
  def setBatchSize(value: Int): this.type = set(batchSize, value)
  def setMaxEpochs(value: Int): this.type = set(maxEpochs, value)
  def setMaxIter(value: Int): this.type = set(maxIter, value)
  def setNumWorkers(value: Int): this.type = set(numWorkers, value)
  def setSeed(value: Long): this.type = set(seed, value)
  def setShuffle(value: Boolean): this.type = set(shuffle, value)
  def setHandleInvalid(value: String): this.type = set(handleInvalid, value)
  def setShardMemory(value: Long): this.type = set(shardMemory, value)
  def setForceRepartition(value: Boolean): this.type = set(forceRepartition, value)
  def setDevice(value: String): this.type = set(device, value)
  def setLibtorch(value: String): this.type = set(libtorch, value)
  def setInferBatchSize(value: Int): this.type = set(inferBatchSize, value)
  def setRendezvousTimeout(value: Double): this.type = set(rendezvousTimeout, value)
  def setCollectiveTimeout(value: Double): this.type = set(collectiveTimeout, value)
  def setHeartbeatInterval(value: Double): this.type = set(heartbeatInterval, value)
  def setStallWarning(value: Double): this.type = set(stallWarning, value)
  def setSlotTimeout(value: Double): this.type = set(slotTimeout, value)
  def setProgressInterval(value: Double): this.type = set(progressInterval, value)
}

object TorchEstimator extends DefaultParamsReadable[TorchEstimator] {
  override def load(path: String): TorchEstimator = super.load(path)
}
