package kindling

import java.util.Locale

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode
import kindling.internal.Json
import org.apache.spark.sql.{DataFrame, Row, SparkSession}
import org.apache.spark.sql.types.{DoubleType, IntegerType, LongType, StructField, StructType}

import scala.jdk.CollectionConverters._

/**
 * One pass over the training rows.
 *
 * @param epoch              counted from 0
 * @param loss               mean training loss over the rows of the epoch, each taken at the step that used it
 * @param accuracy           share of rows classified right during the epoch; only for crossEntropy
 * @param validationLoss     mean loss over the validation rows after the epoch; only with validation rows
 * @param validationAccuracy likewise
 * @param rows               rows trained on
 * @param seconds            wall time of the epoch
 */
final case class EpochMetrics(
    epoch: Int,
    loss: Double,
    accuracy: Option[Double],
    validationLoss: Option[Double],
    validationAccuracy: Option[Double],
    rows: Long,
    seconds: Double,
    rowsPerSecond: Double
)

/**
 * What a run did: its history, and the numbers of the run as a whole. It is saved and loaded with the model.
 *
 * @param epochs               one entry per epoch, in order
 * @param totalRows            rows of the data that train, in one epoch
 * @param validationRows       rows of the data that validate
 * @param skippedRows          rows that `handleInvalid=skip` dropped
 * @param steps                optimizer steps
 * @param seconds              wall time of `fit`, reading included
 * @param trainingSeconds      wall time of the training alone
 * @param communicationSeconds time in which rank 0 waited for other ranks
 * @param executors            executor processes that trained
 * @param workers              ranks
 */
final case class TrainingSummary(
    epochs: Seq[EpochMetrics],
    totalRows: Long,
    validationRows: Long,
    skippedRows: Long,
    steps: Long,
    seconds: Double,
    trainingSeconds: Double,
    communicationSeconds: Double,
    executors: Int,
    workers: Int
) {

  /** The history as a DataFrame with one row per epoch; metrics that do not apply are null. */
  def history: DataFrame = {
    val rows = epochs.map { e =>
      Row(
        e.epoch,
        e.loss,
        e.accuracy.map(Double.box).orNull,
        e.validationLoss.map(Double.box).orNull,
        e.validationAccuracy.map(Double.box).orNull,
        e.rows,
        e.seconds,
        e.rowsPerSecond
      )
    }
    SparkSession.active.createDataFrame(rows.asJava, TrainingSummary.historySchema)
  }

  /** A small table, one line per epoch. */
  override def toString: String = {
    val header = Seq("epoch", "loss", "accuracy", "validationLoss", "validationAccuracy", "rows/s")
    val lines = epochs.map { e =>
      Seq(
        (e.epoch + 1).toString,
        TrainingSummary.number(e.loss),
        e.accuracy.fold("-")(TrainingSummary.number),
        e.validationLoss.fold("-")(TrainingSummary.number),
        e.validationAccuracy.fold("-")(TrainingSummary.number),
        String.format(Locale.ROOT, "%.0f", Double.box(e.rowsPerSecond))
      )
    }
    val widths = (header +: lines).transpose.map(_.map(_.length).max)
    val table = (header +: lines).map(_.zip(widths).map { case (cell, width) =>
      " " * (width - cell.length) + cell
    }.mkString("  "))
    val total = String.format(
      Locale.ROOT,
      "%d rows, %d steps, %.1f s (%.1f s training), %d workers on %d executors",
      Long.box(totalRows),
      Long.box(steps),
      Double.box(seconds),
      Double.box(trainingSeconds),
      Int.box(workers),
      Int.box(executors)
    )
    (table :+ total).mkString("\n")
  }

  private[kindling] def toJson: String = {
    val root = Json
      .obj()
      .put("totalRows", totalRows)
      .put("validationRows", validationRows)
      .put("skippedRows", skippedRows)
      .put("steps", steps)
      .put("seconds", seconds)
      .put("trainingSeconds", trainingSeconds)
      .put("communicationSeconds", communicationSeconds)
      .put("executors", executors)
      .put("workers", workers)
    Json.set(root, "epochs", Json.array(epochs.map(TrainingSummary.epochJson)))
    Json.text(root)
  }
}

object TrainingSummary {
  private val historySchema = StructType(
    Seq(
      StructField("epoch", IntegerType, nullable = false),
      StructField("loss", DoubleType, nullable = false),
      StructField("accuracy", DoubleType),
      StructField("validationLoss", DoubleType),
      StructField("validationAccuracy", DoubleType),
      StructField("rows", LongType, nullable = false),
      StructField("seconds", DoubleType, nullable = false),
      StructField("rowsPerSecond", DoubleType, nullable = false)
    )
  )

  private[kindling] def parse(json: String): TrainingSummary = {
    val node = Json.parse(json)
    TrainingSummary(
      epochs = Json.elements(Json.required(node, "epochs")).map(epoch),
      totalRows = Json.required(node, "totalRows").asLong,
      validationRows = Json.required(node, "validationRows").asLong,
      skippedRows = Json.required(node, "skippedRows").asLong,
      steps = Json.required(node, "steps").asLong,
      seconds = double(Json.required(node, "seconds")),
      trainingSeconds = double(Json.required(node, "trainingSeconds")),
      communicationSeconds = double(Json.required(node, "communicationSeconds")),
      executors = Json.required(node, "executors").asInt,
      workers = Json.required(node, "workers").asInt
    )
  }

  /** An epoch as the native library reports it, and as it is saved. A loss that is not finite is null there: NaN here. */
  private[kindling] def epoch(node: JsonNode): EpochMetrics = EpochMetrics(
    epoch = Json.required(node, "epoch").asInt,
    loss = Json.optional(node, "loss").fold(Double.NaN)(double),
    accuracy = Json.optional(node, "accuracy").map(double),
    validationLoss = Json.optional(node, "validationLoss").map(double),
    validationAccuracy = Json.optional(node, "validationAccuracy").map(double),
    rows = Json.required(node, "rows").asLong,
    seconds = double(Json.required(node, "seconds")),
    rowsPerSecond = double(Json.required(node, "rowsPerSecond"))
  )

  private def epochJson(e: EpochMetrics): ObjectNode = {
    val node = Json.obj().put("epoch", e.epoch).put("rows", e.rows).put("seconds", e.seconds).put(
      "rowsPerSecond",
      e.rowsPerSecond
    )
    if (!e.loss.isNaN && !e.loss.isInfinite) node.put("loss", e.loss): Unit
    Seq(
      "accuracy" -> e.accuracy,
      "validationLoss" -> e.validationLoss,
      "validationAccuracy" -> e.validationAccuracy
    ).foreach {
      case (name, Some(value)) if !value.isNaN && !value.isInfinite => node.put(name, value): Unit
      case _ =>
    }
    node
  }

  private def double(node: JsonNode): Double = if (node.isTextual) node.asText.toDouble else node.asDouble

  private def number(value: Double): String = String.format(Locale.ROOT, "%.4f", Double.box(value))
}
