package org.apache.spark.ml.kindling

import kindling.SparkSuite
import org.apache.spark.{SparkEnv, TaskContext}

/** In Spark's package, as the coordinator is. */
class TaskEndSuite extends SparkSuite {

  test("of several attempts at a task one may keep its rows, and the others end in a way that Spark does not count") {
    val kept = spark.sparkContext.parallelize(0 until 2, 2).mapPartitionsWithIndex { (partition, _) =>
      val context = TaskContext.get()
      // As a copy of the first task would on another executor.
      if (partition == 0)
        SparkEnv.get.outputCommitCoordinator.canCommit(context.stageId(), context.stageAttemptNumber(), 0, 1): Unit
      val ended =
        try {
          TaskEnd.requirePermission(context)
          "kept"
        } catch { case e: Exception => e.getClass.getSimpleName }
      Iterator.single(ended)
    }
    assert(kept.collect().toSeq === Seq("CommitDeniedException", "kept"))
  }
}
