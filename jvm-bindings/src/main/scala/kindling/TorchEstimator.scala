package kindling

import kindling.internal.{ColumnTypes, DType, OutputColumns, Settings, TorchParams, TrainingRun}
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
    val trained = new TrainingRun(this, dataset).fit()
    copyValues(new TorchModel(uid).attach(trained)).setParent(this)
  }

  /**
   * Checks the columns as far as the schema alone allows and adds those of the model: the program itself is read in `fit`.
   */
  override def transformSchema(schema: StructType): StructType = {
    Settings.of(this): Unit
    // float64 takes every number, so this asks only for numbers; what the program needs exactly is checked in `fit`.
    val features = if (isSet(inputCols)) getInputCols.toSeq else Seq(getFeaturesCol)
    features.foreach(ColumnTypes.numbers(schema, _, DType.Float64, "the features"): Unit)
    get(validationIndicatorCol).filter(_.nonEmpty).foreach(ColumnTypes.boolean(
      schema,
      _,
      "validationIndicatorCol"
    ): Unit)
    val classifies = getLoss == "crossEntropy"
    val wide =
      if (classifies) {
        ColumnTypes.anyNumber(schema, getLabelCol, "the loss crossEntropy"): Unit
        false
      } else ColumnTypes.holdsSeveral(schema, getLabelCol, "the label")
    OutputColumns.of(this, classifies, wide).appendTo(schema)
  }

  override def copy(extra: ParamMap): TorchEstimator = defaultCopy(extra)

  def setModel(value: String): this.type = set(model, value)
  def setLayers(value: String): this.type = set(layers, value)
  def setInputShapes(value: String): this.type = set(inputShapes, value)
  def setFeaturesCol(value: String): this.type = set(featuresCol, value)
  def setInputCols(value: Array[String]): this.type = set(inputCols, value)
  def setLabelCol(value: String): this.type = set(labelCol, value)
  def setPredictionCol(value: String): this.type = set(predictionCol, value)
  def setProbabilityCol(value: String): this.type = set(probabilityCol, value)
  def setValidationIndicatorCol(value: String): this.type = set(validationIndicatorCol, value)
  def setValidationFraction(value: Double): this.type = set(validationFraction, value)
  def setLoss(value: String): this.type = set(loss, value)
  def setOptimizer(value: String): this.type = set(optimizer, value)
  def setLearningRate(value: Double): this.type = set(learningRate, value)
  def setMomentum(value: Double): this.type = set(momentum, value)
  def setWeightDecay(value: Double): this.type = set(weightDecay, value)
  def setBeta1(value: Double): this.type = set(beta1, value)
  def setBeta2(value: Double): this.type = set(beta2, value)
  def setEpsilon(value: Double): this.type = set(epsilon, value)
  def setBatchSize(value: Int): this.type = set(batchSize, value)
  def setMaxEpochs(value: Int): this.type = set(maxEpochs, value)
  def setMaxIter(value: Int): this.type = set(maxIter, value)
  def setNumWorkers(value: Int): this.type = set(numWorkers, value)
  def setSeed(value: Long): this.type = set(seed, value)
  def setShuffle(value: Boolean): this.type = set(shuffle, value)
  def setHandleInvalid(value: String): this.type = set(handleInvalid, value)
  def setDevice(value: String): this.type = set(device, value)
  def setLibtorch(value: String): this.type = set(libtorch, value)
  def setInferBatchSize(value: Int): this.type = set(inferBatchSize, value)
  def setRendezvousTimeout(value: Double): this.type = set(rendezvousTimeout, value)
  def setCollectiveTimeout(value: Double): this.type = set(collectiveTimeout, value)
  def setSlotTimeout(value: Double): this.type = set(slotTimeout, value)
  def setProgressInterval(value: Double): this.type = set(progressInterval, value)
}

object TorchEstimator extends DefaultParamsReadable[TorchEstimator] {
  override def load(path: String): TorchEstimator = super.load(path)
}
