package kindling.internal

import java.util.concurrent.TimeoutException

import org.apache.spark.SparkContext
import org.slf4j.LoggerFactory

import scala.concurrent.Await
import scala.concurrent.duration._
import scala.util.control.NonFatal

/**
 * Frees what runs that are over left in the executors: one small task per executor, best effort and bounded in time. An
 * executor that is busy or gone is not waited for: the next ingest there drops the shards ([[RunsOver]]).
 */
private[kindling] object ReleaseJob {
  private val log = LoggerFactory.getLogger("kindling.ReleaseJob")
  private val Limit = 10.seconds

  def run(sc: SparkContext, runs: Seq[String], wait: Boolean = true): Unit =
    try
      if (sc.isLocal) LocalRuns.forget(runs)
      else if (!sc.isStopped) {
        val executors = new PlacedRDD(sc, Place.all(sc))
        val job = sc.submitJob(
          executors,
          (_: Iterator[Int]) => LocalRuns.forget(runs),
          executors.partitions.indices,
          (_: Int, _: Unit) => (),
          ()
        )
        try if (wait) Await.result(job, Limit): Unit
        catch {
          case e: TimeoutException =>
            job.cancel()
            log.info(s"the release of ${runs.mkString(", ")} was not done within $Limit: the next run does it", e)
        }
      }
    catch {
      // The run's own failure is what the user must see.
      case NonFatal(e) => log.info(s"the release of ${runs.mkString(", ")} failed: the next run does it", e)
    }
}
