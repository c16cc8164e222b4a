package kindling

import java.util.Locale

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode
import kindling.internal.{Json, Metric}
import org.apache.spark.sql.{DataFrame, Row, SparkSession}
import org.apache.spark.sql.types.{DoubleType, IntegerType, LongType, StructField, StructType}

import scala.jdk.CollectionConverters._

/**
 * One pass over the training rows.
 *
 * @param epoch      counted from 0
 * @param loss       mean training loss over the rows of the epoch, each taken at the step that used it
 * @param accuracy   share of rows classified right during the epoch; only for losses that classify
 * @param validation the metrics over the validation rows after the epoch, by name (`loss`, `auc`, ...); one that these rows do not
 *                   define, or that is not finite, is left out
 * @param learningRate the learning rate of the epoch's last step, before a parameter group's own
 * @param skippedSteps steps that were not taken, as gradients overflowed in fp16; their loss is left out
 * @param rows       rows trained on
 * @param seconds    wall time of the epoch
 */
final case class EpochMetrics(
    epoch: Int,
    loss: Double,
    accuracy: Option[Double],
    validation: Map[String, Double],
    learningRate: Double,
    skippedSteps: Long,
    rows: Long,
    seconds: Double,
    rowsPerSecond: Double
) {

  /** The objective over the validation rows. */
  def validationLoss: Option[Double] = validation.get("loss")

  /** The share of the validation labels answered right, by weight. */
  def validationAccuracy: Option[Double] = validation.get("accuracy")
}

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
 * @param dataWaitSeconds      time in which rank 0 waited for its rows to be gathered
 * @param movedRows            rows that workers fetched from other executors before the first step
 * @param movedBytes           bytes of those rows, as they are kept
 * @param executors            executor processes that trained
 * @param workers              ranks
 * @param bestEpoch            the epoch that validated best, counted from 0; only with early stopping or restoreBestWeights
 * @param stoppedEarly         whether training ended before maxEpochs, as it made no more progress
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
    dataWaitSeconds: Double,
    movedRows: Long,
    movedBytes: Long,
    executors: Int,
    workers: Int,
    bestEpoch: Option[Int],
    stoppedEarly: Boolean
) {

  /** Share of the training in which rank 0 waited for its rows: near 0 where rows are gathered as fast as they train. */
  def waitShare: Double = if (trainingSeconds > 0) dataWaitSeconds / trainingSeconds else 0

  /** Steps of all epochs that were not taken, as gradients overflowed in fp16. */
  def skippedSteps: Long = epochs.map(_.skippedSteps).sum

  /** Loss and accuracy, and what else was measured. */
  private def measured: Seq[String] =
    Metric.names.filter(name => name == "loss" || name == "accuracy" || epochs.exists(_.validation.contains(name)))

  /**
   * The history as a DataFrame with one row per epoch: metrics of the validation rows as validationLoss, validationAuc and so on.
   * Metrics that do not apply are null.
   */
  def history: DataFrame = {
    val rows = epochs.map { e =>
      Seq[Any](
        e.epoch,
        e.loss,
        e.accuracy.map(Double.box).orNull
      ) ++ measured.map(e.validation.get(_).map(Double.box).orNull) ++
        Seq[Any](e.learningRate, e.skippedSteps, e.rows, e.seconds, e.rowsPerSecond)
    }.map(Row.fromSeq)
    SparkSession.active.createDataFrame(rows.asJava, TrainingSummary.historySchema(measured))
  }

  /** A small table, one line per epoch. */
  override def toString: String = {
    val header = Seq("epoch", "loss", "accuracy") ++ measured.map(Metric.column) ++ Seq("learningRate", "rows/s")
    val lines = epochs.map { e =>
      Seq(
        (e.epoch + 1).toString,
        TrainingSummary.number(e.loss),
        e.accuracy.fold("-")(TrainingSummary.number)
      ) ++ measured.map(e.validation.get(_).fold("-")(TrainingSummary.number)) ++ Seq(
        String.format(Locale.ROOT, "%.3g", Double.box(e.learningRate)),
        String.format(Locale.ROOT, "%.0f", Double.box(e.rowsPerSecond))
      )
    }
    val widths = (header +: lines).transpose.map(_.map(_.length).max)
    val table = (header +: lines).map(_.zip(widths).map { case (cell, width) =>
      " " * (width - cell.length) + cell
    }.mkString("  "))
    val total = String.format(
      Locale.ROOT,
      "%d rows, %d steps%s, %.1f s (%.1f s training), %d workers on %d executors",
      Long.box(totalRows),
      Long.box(steps),
      if (skippedSteps > 0) s" ($skippedSteps skipped)" else "",
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
      .put("skippedSteps", skippedSteps)
      .put("seconds", seconds)
      .put("trainingSeconds", trainingSeconds)
      .put("communicationSeconds", communicationSeconds)
      .put("dataWaitSeconds", dataWaitSeconds)
      .put("movedRows", movedRows)
      .put("movedBytes", movedBytes)
      .put("executors", executors)
      .put("workers", workers)
      .put("stoppedEarly", stoppedEarly)
    bestEpoch.foreach(root.put("bestEpoch", _))
    Json.set(root, "epochs", Json.array(epochs.map(TrainingSummary.epochJson)))
    Json.text(root)
  }
}

object TrainingSummary {
  private def historySchema(measured: Seq[String]) = StructType(
    Seq(
      StructField("epoch", IntegerType, nullable = false),
      StructField("loss", DoubleType, nullable = false),
      StructField("accuracy", DoubleType)
    ) ++ measured.map(name => StructField(Metric.column(name), DoubleType)) ++ Seq(
      StructField("learningRate", DoubleType, nullable = false),
      StructField("skippedSteps", LongType, nullable = false),
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
      dataWaitSeconds = double(Json.required(node, "dataWaitSeconds")),
      movedRows = Json.required(node, "movedRows").asLong,
      movedBytes = Json.required(node, "movedBytes").asLong,
      executors = Json.required(node, "executors").asInt,
      workers = Json.required(node, "workers").asInt,
      bestEpoch = Json.optional(node, "bestEpoch").map(_.asInt),
      stoppedEarly = Json.required(node, "stoppedEarly").asBoolean
    )
  }

  /** An epoch as the native library reports it, and as it is saved. A loss that is not finite is null there: NaN here. */
  private[kindling] def epoch(node: JsonNode): EpochMetrics = EpochMetrics(
    epoch = Json.required(node, "epoch").asInt,
    loss = Json.optional(node, "loss").fold(Double.NaN)(double),
    accuracy = Json.optional(node, "accuracy").map(double),
    validation = Metric.names.flatMap(name => Json.optional(node, Metric.column(name)).map(name -> double(_))).toMap,
    learningRate = double(Json.required(node, "learningRate")),
    skippedSteps = Json.required(node, "skippedSteps").asLong,
    rows = Json.required(node, "rows").asLong,
    seconds = double(Json.required(node, "seconds")),
    rowsPerSecond = double(Json.required(node, "rowsPerSecond"))
  )

  private def epochJson(e: EpochMetrics): ObjectNode = {
    val node = Json
      .obj()
      .put("epoch", e.epoch)
      .put("learningRate", e.learningRate)
      .put("skippedSteps", e.skippedSteps)
      .put("rows", e.rows)
      .put("seconds", e.seconds)
      .put("rowsPerSecond", e.rowsPerSecond)
    if (!e.loss.isNaN && !e.loss.isInfinite) node.put("loss", e.loss): Unit
    e.accuracy.filter(_.isFinite).foreach(node.put("accuracy", _))
    e.validation.filter(_._2.isFinite).foreach { case (name, value) => node.put(Metric.column(name), value) }
    node
  }

  private def double(node: JsonNode): Double = if (node.isTextual) node.asText.toDouble else node.asDouble

  private def number(value: Double): String = String.format(Locale.ROOT, "%.4f", Double.box(value))
}
