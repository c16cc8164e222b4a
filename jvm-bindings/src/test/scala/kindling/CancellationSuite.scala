package kindling

import java.util.concurrent.{Executors, TimeUnit}

import kindling.internal.LocalRuns
import org.apache.spark.scheduler.{SparkListener, SparkListenerJobStart, SparkListenerTaskEnd}
import org.apache.spark.sql.DataFrame

import scala.concurrent.{Await, ExecutionContext, Future, Promise}
import scala.concurrent.duration._

/** A run that is ended from outside gives everything back: slots, sessions and shards. */
class CancellationSuite extends SparkSuite {

  /** So many epochs that no test waits for their end. */
  private def endless: TorchEstimator = new TorchEstimator()
    .setLayers("""[{"type": "dense", "units": 8, "activation": "relu"}, {"type": "dense", "units": 2}]""")
    .setMaxEpochs(1000000)
    .setNumWorkers(2)

  private def data: DataFrame =
    spark.range(0, 400, 1, 2).selectExpr("array(float(id), 1f) as features", "int(id % 2) as label")

  /** Starts `fit`, waits until it trains, ends it, and checks that nothing is left. */
  private def ended(estimator: TorchEstimator)(end: Thread => Unit): Throwable = {
    val sc = spark.sparkContext
    val training = Promise[String]()
    val ranks = new java.util.concurrent.CountDownLatch(2)
    val listener = new SparkListener {
      override def onJobStart(start: SparkListenerJobStart): Unit =
        Option(start.properties.getProperty("spark.job.description")).filter(_.endsWith(": train")).foreach { text =>
          training.trySuccess(text.stripPrefix("Kindling ").stripSuffix(": train")): Unit
        }
      override def onTaskEnd(end: SparkListenerTaskEnd): Unit = if (training.isCompleted) ranks.countDown()
    }
    sc.addSparkListener(listener)
    val pool = Executors.newSingleThreadExecutor()
    try {
      val caller = Promise[Thread]()
      val fit = Future {
        caller.success(Thread.currentThread())
        // Not Try: it lets an InterruptedException through.
        try Right(estimator.fit(data))
        catch { case e: Throwable => Left(e) }
      }(ExecutionContext.fromExecutor(pool))
      val run = Await.result(training.future, 60.seconds)
      end(Await.result(caller.future, 1.second))
      val failure = Await.result(fit, 30.seconds).swap.getOrElse(fail("fit came to its end"))
      assert(ranks.await(30, TimeUnit.SECONDS), "the ranks' tasks did not end")
      assert(!LocalRuns.holds(run), "the run still holds shards")
      failure
    } finally {
      sc.removeSparkListener(listener)
      pool.shutdownNow(): Unit
    }
  }

  nativeTest("cancelling all jobs ends fit with one exception and frees everything") {
    val failure = ended(endless)(_ => spark.sparkContext.cancelAllJobs())
    assert(failure.isInstanceOf[TrainingException] && failure.getMessage === "the run was cancelled")
  }

  nativeTest("interrupting the thread in fit ends the ranks too") {
    assert(ended(endless)(_.interrupt()).isInstanceOf[InterruptedException])
  }

  nativeTest("after a cancelled run the next one trains") {
    val model = endless.setMaxEpochs(1).fit(data)
    assert(model.summary.workers === 2)
  }
}
