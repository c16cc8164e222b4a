package kindling

import java.io.PrintStream
import java.nio.charset.StandardCharsets.UTF_8

import kindling.internal.{ProgramSource, RankTask, TrainFlags}
import org.apache.spark.sql.SparkSession

import scala.util.control.NonFatal

/**
 * Training from the command line:
 *
 * {{{
 *   spark-submit --class kindling.Train kindling.jar --data train.parquet --model net.pt2 --epochs 5 --num-workers 4 --output model
 * }}}
 *
 * Progress goes to standard error, the final table to standard output. The exit code is 0 for a trained (and, with `--output`,
 * saved) model, 1 for a failure, 2 for a wrong command line.
 */
object Train {

  def main(args: Array[String]): Unit = {
    val code = run(args.toSeq, System.out, System.err)
    // Returning would let spark-submit exit with 0.
    if (code != 0) System.exit(code)
  }

  private[kindling] def run(args: Seq[String], out: PrintStream, err: PrintStream): Int =
    try if (TrainFlags.asksForHelp(args)) {
        out.println(TrainFlags.usage)
        0
      } else {
        val flags = TrainFlags.parse(args)
        val session = SparkSession.builder().appName("kindling").getOrCreate()
        try train(session, flags, out)
        finally session.stop()
        0
      }
    catch {
      case problem: TrainFlags.Problem =>
        err.println(s"kindling: ${problem.getMessage}")
        err.println(TrainFlags.usage)
        2
      case NonFatal(e) =>
        err.println(s"kindling: ${RankTask.sentence(e)}")
        1
    }

  private def train(session: SparkSession, flags: TrainFlags, out: PrintStream): Unit = {
    val hadoop = session.sparkContext.hadoopConfiguration
    val estimator =
      if (flags.model.endsWith(".json"))
        flags.estimator.setLayers(new String(ProgramSource.read(flags.model, hadoop), UTF_8))
      else flags.estimator.setModel(flags.model)
    flags.validation.foreach(path => estimator.setValidationData(session.read.parquet(path)))
    val model = estimator.fit(session.read.parquet(flags.data))
    out.println(model.summary)
    flags.output.foreach { path =>
      val writer = model.write
      if (flags.overwrite) writer.overwrite().save(path) else writer.save(path)
      out.println(s"saved to $path")
    }
  }
}
