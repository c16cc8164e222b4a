package kindling.internal

import java.security.MessageDigest

import com.fasterxml.jackson.databind.node.ObjectNode
import org.apache.spark.TaskContext
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.sql.{DataFrame, Dataset}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.kindling.{PredictPlanning, Prediction => SparkPrediction, Wiring}
import org.apache.spark.sql.types.StructType
import org.apache.spark.sql.vectorized.ColumnarBatch

/** Everything `transform` needs, settled on the driver; the DataFrame that it gives does the work when it is used. */
private[kindling] final class Prediction(
    name: String,
    network: Trained,
    layout: FeatureLayout,
    columns: OutputColumns,
    output: OutputLayout,
    label: Option[Vocabulary],
    handleInvalid: HandleInvalid,
    loss: Loss,
    predictionOutput: Option[String],
    batchSize: Int,
    threads: Int,
    device: DeviceChoice,
    loading: NativeLoading
) {

  /** The network travels by broadcast, which the DataFrame's plan keeps alive as long as it is itself. */
  def apply(data: Dataset[_]): DataFrame = {
    val program = data.sparkSession.sparkContext.broadcast((network.program.bytes, network.weights))
    val task = new PredictionTask(
      name,
      program,
      contentId,
      Json.bytes(config),
      device,
      layout,
      PredictedColumn.of(columns, output, label),
      PredictedColumn.Own + output.others.size,
      handleInvalid,
      batchSize,
      loading
    )
    val inputs = layout.selected.fieldNames.toSeq.map(data.schema.fieldIndex)
    PredictPlanning.transform(data, task, inputs, StructType(columns.fields))
  }

  private def config = {
    val root = Json.obj().put("threads", threads)
    predictionOutput.foreach(root.put("predictionOutput", _))
    if (output.others.nonEmpty) {
      val positions = root.putArray("outputs")
      output.others.foreach(other => positions.add(other.index))
    }
    Json.set(root, "loss", loss.json)
    Json.set(root, "columns", Json.array(layout.columns.map(ColumnSpec.json)))
    root
  }

  /** Equal for models that may stand in for each other. */
  private def contentId: String = {
    val digest = MessageDigest.getInstance("SHA-256")
    Seq(network.program.bytes, network.weights, Json.bytes(config)).foreach { part =>
      digest.update(java.nio.ByteBuffer.allocate(4).putInt(part.length).array())
      digest.update(part)
    }
    digest.digest().map(byte => f"${byte & 0xff}%02x").mkString
  }
}

/** What a task of `transform` is told. */
private[kindling] final class PredictionTask(
    override val name: String,
    network: Broadcast[(Array[Byte], Array[Byte])],
    val contentId: String,
    config: Array[Byte],
    device: DeviceChoice,
    val layout: FeatureLayout,
    val columns: Seq[PredictedColumn],
    val results: Int,
    val handleInvalid: HandleInvalid,
    val batchSize: Int,
    loading: NativeLoading
) extends SparkPrediction {

  override def dropsRows: Boolean = handleInvalid == HandleInvalid.Skip

  override def takesBatches: Boolean = !dropsRows && columns.map(_.width.toLong).sum <= PredictionTask.WidestInBatches

  override def rows(
      rows: Iterator[InternalRow],
      wiring: Wiring,
      report: SparkPrediction.Report
  ): Iterator[InternalRow] =
    if (rows.hasNext) new PredictedRows(this, rows, wiring, report) else Iterator.empty

  override def batches(
      batches: Iterator[ColumnarBatch],
      wiring: Wiring,
      report: SparkPrediction.Report
  ): Iterator[ColumnarBatch] =
    if (batches.hasNext) new PredictedBatches(this, batches, wiring, report) else Iterator.empty

  def borrow(): ModelPool.Lease = {
    NativeLibrary.load(loading): Unit
    val here = device.device(Option(TaskContext.get()).fold(0)(_.partitionId()))
    // Weights are shared by the tasks of one device.
    ModelPool.shared.borrow(s"$contentId $here") {
      val (program, weights) = network.value
      Native.modelOpen(Json.bytes(Json.parse(config).asInstanceOf[ObjectNode].put("device", here)), program, weights)
    }
  }
}

private[kindling] object PredictionTask {

  /**
   * Results of more numbers per row go out as rows: a batch of columns has as many rows as the batch below, thousands, and all its
   * results are in memory at once. 1024 numbers are 32 MB for the 4096 rows of a Parquet batch.
   */
  private final val WidestInBatches = 1024
}
