package kindling.internal

import java.io.PrintStream
import java.util.Locale

import com.fasterxml.jackson.databind.JsonNode
import org.apache.spark.{SparkConf, SparkContext}

/**
 * Shows a run on the driver's standard error: a line that moves where someone watches a terminal, a plain line now and then
 * elsewhere, and always one line per epoch. Before the training it shows how far the reading is, if that takes long.
 *
 * `spark.kindling.progress` chooses: `live`, `plain`, `off`, or `auto` (the default), which looks for a terminal and is `off` where
 * `spark.ui.showConsoleProgress` has been set to false.
 */
private[kindling] final class Progress(
    out: PrintStream,
    mode: Progress.Mode,
    epochs: Int,
    now: () => Long = () => System.nanoTime()
) extends AutoCloseable {
  import Progress._

  private var shown = 0
  private var lastPlain = now()

  /** How far the reading of the data is. */
  def reading(line: String): Unit = say(line)

  def progress(event: JsonNode): Unit =
    say(
      s"${epochText(event)}, step ${event.path("step").asLong}/${event.path("steps").asLong}, " +
        s"loss ${number(event.path("loss"))}, ${rate(event)}${waits(event)}"
    )

  private def say(line: => String): Unit = mode match {
    case Live => live(line)
    case Plain if now() - lastPlain >= PlainNanos =>
      lastPlain = now()
      out.println(s"kindling: $line")
    case _ =>
  }

  def epoch(event: JsonNode): Unit = if (mode != Off) {
    lastPlain = now()
    val parts = (Seq("loss" -> "loss", "accuracy" -> "accuracy") ++
      Metric.names.map(name => Metric.column(name) -> s"validation $name"))
      .collect { case (field, label) if event.path(field).isNumber => s"$label ${number(event.path(field))}" }
    clear()
    out.println(s"kindling: ${epochText(event)}: ${parts.mkString(", ")}, ${rate(event)}")
  }

  /** Takes the moving line away. */
  override def close(): Unit = clear()

  private def live(line: String): Unit = {
    val text = s"kindling: $line"
    out.print("\r" + text + " " * math.max(0, shown - text.length))
    out.flush()
    shown = text.length
  }

  private def clear(): Unit = if (shown > 0) {
    out.print("\r" + " " * shown + "\r")
    shown = 0
  }

  private def epochText(event: JsonNode): String = s"epoch ${event.path("epoch").asLong + 1}/$epochs"

  private def number(node: JsonNode): String = String.format(Locale.ROOT, "%.4f", Double.box(node.asDouble))

  private def rate(event: JsonNode): String =
    String.format(Locale.ROOT, "%,.0f rows/s", Double.box(event.path("rowsPerSecond").asDouble))

  /** Said where it is worth a look: the model trains faster than its rows come. */
  private def waits(event: JsonNode): String = {
    val percent = math.round(event.path("waitShare").asDouble * 100)
    if (percent >= 1) s", $percent % waiting for rows" else ""
  }
}

private[kindling] object Progress {
  sealed trait Mode
  case object Live extends Mode
  case object Plain extends Mode
  case object Off extends Mode

  final val Setting = "spark.kindling.progress"
  private val PlainNanos = 10L * 1000 * 1000 * 1000

  /** Of an ingest, which has no epochs. */
  def of(sc: SparkContext): Progress = new Progress(System.err, mode(sc.getConf, terminal), 0)

  /**
   * Whether someone watches. Since JDK 22 there is a console without a terminal, which has to be asked (`Console.isTerminal`, JDK
   * 22); when 22 is the oldest JDK supported, the reflection can go.
   */
  def terminal: Boolean = Option(System.console()).exists { console =>
    try classOf[java.io.Console].getMethod("isTerminal").invoke(console) == java.lang.Boolean.TRUE
    catch { case _: NoSuchMethodException => true }
  }

  def mode(conf: SparkConf, terminal: Boolean): Mode = conf.get(Setting, "auto") match {
    case "live" => Live
    case "plain" => Plain
    case "off" => Off
    case "auto" =>
      if (conf.getOption("spark.ui.showConsoleProgress").contains("false")) Off
      else if (terminal) Live
      else Plain
    case other => throw new IllegalArgumentException(s"""$Setting must be auto, live, plain or off, but is "$other"""")
  }
}
