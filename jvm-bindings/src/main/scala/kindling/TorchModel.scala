package kindling

import kindling.internal.{
  FeatureLayout,
  Gpus,
  HandleInvalid,
  Indexing,
  Loss,
  ModelExport,
  ModelFiles,
  NativeLoading,
  NestedFields,
  OutputColumns,
  OutputLayout,
  Prediction,
  TorchParams,
  Trained
}
import org.apache.spark.ml.Model
import org.apache.spark.ml.param.ParamMap
import org.apache.spark.ml.util.{Identifiable, MLReadable, MLReader, MLWritable, MLWriter}
import org.apache.spark.sql.{DataFrame, Dataset}
import org.apache.spark.sql.types.StructType

/**
 * A trained network as a Spark ML model.
 *
 * `transform` adds `predictionCol` (the class or number as Double, several numbers as a Vector) and after crossEntropy and the
 * binary cross entropies `probabilityCol` (a Vector). It reads only the inputs that the prediction needs. It is lazy, keeps the schema of what it gets, and works on streaming DataFrames.
 *
 * A model comes from [[TorchEstimator.fit]] or from [[TorchModel.load]]; one made by a constructor holds no network.
 */
class TorchModel(override val uid: String) extends Model[TorchModel] with TorchParams with MLWritable {

  def this() = this(Identifiable.randomUID("TorchModel"))

  @transient private var trained: Option[Trained] = None

  private[kindling] def attach(trained: Trained): TorchModel = {
    this.trained = Some(trained)
    this
  }

  private[kindling] def network: Trained =
    trained.getOrElse(throw new IllegalStateException("this TorchModel holds no network: it comes from fit or load"))

  /** What the training did. */
  def summary: TrainingSummary = network.summary

  /** The values of an indexed column: value i is the number i. Throws `IllegalArgumentException` for a column that was not indexed. */
  def vocabulary(column: String): Array[String] =
    network.vocabularies.find(_.column == column).map(_.values.toArray).getOrElse(
      throw new IllegalArgumentException(
        s"""the column "$column" was not indexed: indexCols named ${network.vocabularies.map(_.column).mkString(
            ", "
          )}"""
      )
    )

  /** Weights and buffers as a safetensors file, by the names of the program. */
  def weights: Array[Byte] = network.weights.clone()

  /**
   * Writes the network with its trained weights as a `.pt2` archive, which `torch.export.load` reads and which can be trained again
   * here, to a path of any file system that Hadoop knows.
   *
   * @param mode
   *   `training`: as it was trained, dropout and the statistics of batch norm included; `evaluation`: as `transform` runs it
   */
  def exportProgram(path: String, mode: String = "training", overwrite: Boolean = false): Unit =
    ModelExport.program(network, getLibtorch, path, mode, overwrite)

  /** Writes weights and buffers by name as a safetensors file, to a path of any file system that Hadoop knows. */
  def exportWeights(path: String, overwrite: Boolean = false): Unit =
    ModelExport.weights(network, path, overwrite)

  override def transform(dataset: Dataset[_]): DataFrame = {
    transformSchema(dataset.schema, logging = true): Unit
    val inputs = NestedFields.inputs(this)
    NestedFields.without(predict(NestedFields.beside(dataset, inputs)), dataset.schema, inputs)
  }

  private def predict(data: DataFrame): DataFrame = {
    val schema = data.schema
    val sc = data.sparkSession.sparkContext
    val prediction = new Prediction(
      uid,
      network,
      layout(schema),
      OutputColumns.of(this, judgedBy, output),
      output,
      network.vocabularies.find(_.column == getLabelCol),
      HandleInvalid.named(getHandleInvalid),
      judgedBy,
      get(predictionOutput),
      getInferBatchSize,
      sc.getConf.getInt("spark.task.cpus", 1),
      Gpus.choose(getDevice, sc.getConf.getOption, sc.isLocal, ranks = 1),
      NativeLoading.of(sc.getConf.getOption, getLibtorch)
    )
    prediction(data)
  }

  override def transformSchema(schema: StructType): StructType = {
    val columns = NestedFields.beside(schema, NestedFields.inputs(this))
    layout(columns): Unit
    OutputColumns.of(this, judgedBy, output).appendTo(schema)
  }

  private def layout(columns: StructType): FeatureLayout = FeatureLayout.forPrediction(
    columns,
    network.program.description,
    FeatureLayout.Choice.of(this, Indexing.of(network.vocabularies))
  )

  private def judgedBy: Loss = Loss.of(this)

  private def output: OutputLayout = FeatureLayout.Choice.of(this).output(network.program.description)

  override def copy(extra: ParamMap): TorchModel = {
    val copied = new TorchModel(uid)
    trained.foreach(copied.attach)
    copyValues(copied, extra).setParent(parent)
  }

  override def write: MLWriter = new ModelFiles.Writer(this)

  /**
   * The bytes this model holds, for Spark Connect's limit. Spark 4.1 brought it into `Model`, where it is overridden by name and
   * type; `override` would not compile against 4.0.
   */
  def estimatedSize: Long = trained.fold(0L)(t => t.program.bytes.length.toLong + t.weights.length)

  def setFeaturesCol(value: String): this.type = set(featuresCol, value)
  def setInputCols(value: Array[String]): this.type = set(inputCols, value)
  def setPredictionCol(value: String): this.type = set(predictionCol, value)
  def setProbabilityCol(value: String): this.type = set(probabilityCol, value)
  def setOutputCols(value: Array[String]): this.type = set(outputCols, value)
  def setPredictedLabelCol(value: String): this.type = set(predictedLabelCol, value)
  def setHandleInvalid(value: String): this.type = set(handleInvalid, value)
  def setInferBatchSize(value: Int): this.type = set(inferBatchSize, value)
  def setDevice(value: String): this.type = set(device, value)
  def setLibtorch(value: String): this.type = set(libtorch, value)

  override def toString: String =
    trained.fold(s"TorchModel: uid=$uid")(t =>
      s"TorchModel: uid=$uid, ${t.program.description.elements} weights\n${t.summary}"
    )
}

object TorchModel extends MLReadable[TorchModel] {
  override def read: MLReader[TorchModel] = new ModelFiles.Reader
  override def load(path: String): TorchModel = super.load(path)
}
