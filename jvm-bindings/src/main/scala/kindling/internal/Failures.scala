package kindling.internal

import kindling.TrainingException
import org.apache.spark.{SparkException, SparkThrowable}

import scala.util.control.NonFatal

/**
 * Turns what went wrong in a job into the one exception that the caller sees: the root cause's sentence, as an
 * `IllegalArgumentException` where an argument or the data is at fault, else as a [[TrainingException]].
 */
private[kindling] object Failures {
  private val BarrierReason = "Most recent failure reason: "

  def ofRank(failure: RankOutcome.Failed, job: Option[Throwable]): RuntimeException = failure.kind match {
    case FailureKind.Argument => new IllegalArgumentException(failure.sentence, job.orNull)
    case FailureKind.Other =>
      new TrainingException(s"rank ${failure.rank} on ${failure.place} failed: ${failure.sentence}", job.orNull)
  }

  /** The training job itself failed: it was cancelled, or Spark lost a task. `echo` is what a rank said about a lost peer. */
  def ofTrainingJob(e: Throwable, echo: Option[RankOutcome.Failed]): RuntimeException =
    if (isCancelled(e)) new TrainingException("the run was cancelled", e)
    else {
      // A rank names the lost peer, Spark says why it is gone: both together are the story.
      val seen = echo.fold("")(failure => s"rank ${failure.rank} on ${failure.place} saw: ${failure.sentence}; ")
      new TrainingException(s"the training job failed: ${seen}Spark says: ${sparkReason(e)}", e)
    }

  /** For what fails on the driver itself before any job. */
  def ofLoading: PartialFunction[Throwable, Nothing] = { case e: NativeLoadException =>
    throw new TrainingException(RankTask.sentence(e), e)
  }

  /**
   * For a thread interrupted in `fit`: to its caller a cancelled run is the same however it was cancelled. The exception takes the
   * flag's place, which stays cleared as after any InterruptedException: threads of a pool (py4j's) must not carry it into the next
   * call.
   */
  def ofInterrupt: PartialFunction[Throwable, Nothing] = { case e: InterruptedException =>
    throw new TrainingException("the run was cancelled", e)
  }

  /** For the ingest job: what is not an argument's fault is wrapped once. */
  def ofIngest: PartialFunction[Throwable, Nothing] = {
    // Spark's own, such as that of a string that is cast to a number, tells of the data's plan and not of an argument.
    case e: IllegalArgumentException if !e.isInstanceOf[SparkThrowable] => throw e
    case e: SparkException if isCancelled(e) => throw new TrainingException("the run was cancelled", e)
    case NonFatal(e) =>
      val root = causes(e).last
      root match {
        case _: NativeLoadException | _: NativeException | _: TrainingException =>
          throw new TrainingException(s"reading the data failed: ${RankTask.sentence(root)}", e)
        case _ => throw new TrainingException(s"reading the data failed: ${sparkReason(root)}", e)
      }
  }

  private def isCancelled(e: Throwable): Boolean = causes(e).exists {
    case spark: SparkException => spark.getCondition == "SPARK_JOB_CANCELLED"
    case _ => false
  }

  private def causes(e: Throwable): Seq[Throwable] = Iterator.iterate(e)(_.getCause).takeWhile(_ != null).take(20).toSeq

  /** Spark's message without the stack traces and queries it carries: for people, nothing is decided by it. */
  private[internal] def sparkReason(e: Throwable): String = {
    val text = RankTask.sentence(e)
    // What is before it is the same for every lost task of a barrier job.
    val start = text.indexOf(BarrierReason)
    val reason = if (start < 0) text else text.substring(start + BarrierReason.length)
    // Of Python's traceback the line that says what happened is the first that is not indented.
    val python = reason.linesIterator.dropWhile(!_.startsWith("Traceback ")).drop(1)
    python.find(line => line.nonEmpty && !line.head.isWhitespace).getOrElse {
      val ends = Seq("at ", "Driver stacktrace", "== ")
      val lines = reason.linesIterator.map(_.trim).filter(_.nonEmpty)
      lines.takeWhile(line => !ends.exists(line.startsWith)).take(3).mkString(" ")
    }
  }
}
