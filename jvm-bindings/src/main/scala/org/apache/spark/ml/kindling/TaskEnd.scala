package org.apache.spark.ml.kindling

import org.apache.spark.{SparkEnv, TaskContext}
import org.apache.spark.executor.CommitDeniedException

/** What Spark keeps to itself (`private[spark]`) about how tasks end. */
object TaskEnd {

  /** Ends a task that has been killed. Spark only marks it, so loops of our own have to look. */
  def ifKilled(context: TaskContext): Unit = context.killTaskIfInterrupted()

  /**
   * Asks the driver whether this attempt at its task may keep what it made. Of several attempts one is told so, unless that one then
   * fails: it is how Spark's own writers of files leave one file per task. An attempt that may not ends here, which Spark does not
   * count as a failure.
   */
  def requirePermission(context: TaskContext): Unit = {
    val (stage, partition, attempt) = (context.stageId(), context.partitionId(), context.attemptNumber())
    val permitted =
      SparkEnv.get.outputCommitCoordinator.canCommit(stage, context.stageAttemptNumber(), partition, attempt)
    if (!permitted)
      throw new CommitDeniedException(
        s"another attempt at partition $partition keeps its rows, or the job is over",
        stage,
        partition,
        attempt
      )
  }
}
