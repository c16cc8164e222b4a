package org.apache.spark.ml.kindling

import org.apache.spark.{SparkContext, SparkEnv}
import org.apache.spark.rdd.RDD
import org.apache.spark.scheduler.TaskSchedulerImpl
import org.apache.spark.util.Utils

/**
 * What Spark keeps to itself (`private[spark]`) about executors and task slots, and Kindling needs. Nothing here decides anything.
 */
object Cluster {

  /** Task slots of all registered executors under the default resource profile. */
  def totalSlots(sc: SparkContext): Int = sc.maxNumConcurrentTasks(sc.resourceProfileManager.defaultResourceProfile)

  /** Tasks that run now, of any job. */
  def runningTasks(sc: SparkContext): Int = sc.taskScheduler match {
    case scheduler: TaskSchedulerImpl => scheduler.runningTasksByExecutors.values.sum
    case _ => 0
  }

  /** Id and host of every registered executor; in local mode that is the driver, else the driver is left out. */
  def executors(sc: SparkContext): Seq[(String, String)] =
    sc.env.blockManager.master.getMemoryStatus.keys.toSeq
      .filter(id => sc.isLocal || !id.isDriver)
      .map(id => (id.executorId, id.host))

  /**
   * Runs `body` with local properties of this thread alone (job tags and descriptions are some), and puts back what was there.
   * PySpark gives all threads of a pool the same object, so that the tag of one fit would be on the jobs of another.
   */
  def withOwnProperties[T](sc: SparkContext)(body: => T): T = {
    val shared = sc.getLocalProperties
    sc.setLocalProperties(Utils.cloneProperties(shared))
    try body
    finally sc.setLocalProperties(shared)
  }

  /** Whether Spark knows a place for a partition: where its input lies, or where it is cached. */
  def hasPreferredLocations(rdd: RDD[_], partition: Int): Boolean =
    rdd.sparkContext.getPreferredLocs(rdd, partition).nonEmpty

  /** The executor in which the caller runs. */
  def executorId(): String = SparkEnv.get.executorId

  /** The directories on local disks in which the caller's executor keeps its blocks; Spark removes them with the application. */
  def localDirectories(): Seq[String] =
    SparkEnv.get.blockManager.diskBlockManager.localDirs.toSeq.map(_.getAbsolutePath)

  /** The name under which Spark knows this executor's host. */
  def host(): String = SparkEnv.get.blockManager.blockManagerId.host
}
