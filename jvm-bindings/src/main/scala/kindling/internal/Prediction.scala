package kindling.internal

import java.security.MessageDigest

import org.apache.spark.broadcast.Broadcast
import org.apache.spark.sql.{DataFrame, Encoders, Row}
import org.apache.spark.sql.types.{Metadata, StructType}

/** Everything `transform` needs, settled on the driver; the DataFrame that it gives does the work when it is used. */
private[kindling] final class Prediction(
    network: Trained,
    layout: FeatureLayout,
    columns: OutputColumns,
    output: OutputLayout,
    handleInvalid: HandleInvalid,
    loss: String,
    batchSize: Int,
    threads: Int,
    loading: NativeLoading
) {

  /**
   * Rows through `mapPartitions`, which also works on a stream. The network travels by broadcast, which the DataFrame's plan keeps
   * alive as long as it is itself.
   */
  def apply(data: DataFrame, schema: StructType): DataFrame = {
    val program = data.sparkSession.sparkContext.broadcast((network.program.bytes, network.weights))
    val task = new PredictionTask(
      program,
      contentId,
      Json.bytes(config),
      data.schema,
      layout,
      columns,
      output,
      handleInvalid,
      batchSize,
      loading
    )
    described(data.mapPartitions((rows: Iterator[Row]) => task.run(rows))(Encoders.row(schema)), schema)
  }

  /** With the columns' metadata (names of features, of classes), which an encoder does not keep. */
  private def described(predicted: DataFrame, schema: StructType): DataFrame =
    if (schema.forall(_.metadata == Metadata.empty)) predicted
    else predicted.select(schema.map(field => Ingest.column(field.name).as(field.name, field.metadata)): _*)

  private def config = {
    val root = Json.obj().put("threads", threads).put("device", "cpu").put("loss", loss)
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
    network: Broadcast[(Array[Byte], Array[Byte])],
    val contentId: String,
    config: Array[Byte],
    val schema: StructType,
    val layout: FeatureLayout,
    val columns: OutputColumns,
    val output: OutputLayout,
    val handleInvalid: HandleInvalid,
    val batchSize: Int,
    loading: NativeLoading
) extends Serializable {

  def run(rows: Iterator[Row]): Iterator[Row] = if (rows.hasNext) new PredictedRows(this, rows) else Iterator.empty

  def borrow(): ModelPool.Lease = {
    NativeLibrary.load(loading): Unit
    ModelPool.shared.borrow(contentId) {
      val (program, weights) = network.value
      Native.modelOpen(config, program, weights)
    }
  }
}
