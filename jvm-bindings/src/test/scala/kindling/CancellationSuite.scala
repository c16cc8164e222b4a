package kindling

import java.nio.charset.StandardCharsets.UTF_8
import java.util.concurrent.{CountDownLatch, Executors, TimeUnit}

import kindling.internal.{HeldRows, LocalRuns, Native}
import org.apache.spark.scheduler.{SparkListener, SparkListenerJobStart, SparkListenerTaskEnd}
import org.apache.spark.sql.DataFrame

import scala.concurrent.{Await, ExecutionContext, Future, Promise}
import scala.concurrent.duration._
import scala.jdk.CollectionConverters._

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
    val ranks = new CountDownLatch(2)
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
      // Both ranks are in native code when their watchers watch.
      eventually("both ranks train")(watchers == 2)
      end(Await.result(caller.future, 1.second))
      val failure = Await.result(fit, 30.seconds).swap.getOrElse(fail("fit came to its end"))
      assert(ranks.await(30, TimeUnit.SECONDS), "the ranks' tasks did not end")
      assert(!LocalRuns.holds(run) && !LocalRuns.holds(HeldRows.name(run)), "the run still holds shards")
      assert(new String(Native.shardUsage(), UTF_8).contains(""""shards":0,"""))
      assert(watchers === 0)
      failure
    } finally {
      sc.removeSparkListener(listener)
      pool.shutdownNow(): Unit
    }
  }

  private def watchers: Int =
    Thread.getAllStackTraces.keySet.asScala.count(thread =>
      thread.isAlive && thread.getName.startsWith("kindling-watcher-")
    )

  private def eventually(what: String)(condition: => Boolean): Unit = {
    val deadline = System.nanoTime() + 60.seconds.toNanos
    while (!condition) {
      assert(System.nanoTime() < deadline, s"60 s passed before $what")
      Thread.onSpinWait()
    }
  }

  nativeTest("cancelling all jobs ends fit with one exception and frees everything") {
    val failure = ended(endless)(_ => spark.sparkContext.cancelAllJobs())
    assert(failure.isInstanceOf[TrainingException] && failure.getMessage === "the run was cancelled")
  }

  nativeTest("interrupting the thread in fit ends the ranks too") {
    val failure = ended(endless)(_.interrupt())
    assert(failure.isInstanceOf[TrainingException] && failure.getMessage === "the run was cancelled")
    assert(failure.getCause.isInstanceOf[InterruptedException])
  }

  nativeTest("interrupting the thread in fit ends its wait for task slots") {
    import CancellationSuite._
    val sc = spark.sparkContext
    val pool = Executors.newFixedThreadPool(2)
    implicit val context: ExecutionContext = ExecutionContext.fromExecutor(pool)
    try {
      // One of the two slots is taken by another job until the end of the test.
      val other = Future(sc.parallelize(Seq(1), 1).foreach { _ => holds.countDown(); release.await() })
      assert(holds.await(60, TimeUnit.SECONDS))
      val caller = Promise[Thread]()
      val fit = Future {
        caller.success(Thread.currentThread())
        try Right(endless.fit(data.coalesce(1)))
        catch { case e: Throwable => Left(e) }
      }
      val thread = Await.result(caller.future, 60.seconds)
      eventually("fit waits for slots")(thread.getStackTrace.exists(frame =>
        frame.getClassName == "kindling.internal.Slots" && frame.getMethodName == "reserve"
      ))
      thread.interrupt()
      val failure = Await.result(fit, 30.seconds).swap.getOrElse(fail("fit came to its end"))
      assert(failure.isInstanceOf[TrainingException] && failure.getMessage === "the run was cancelled")
      release.countDown()
      Await.result(other, 30.seconds)
    } finally {
      release.countDown()
      pool.shutdownNow(): Unit
    }
  }

  nativeTest("after a cancelled run the next one trains") {
    val model = endless.setMaxEpochs(1).fit(data)
    assert(model.summary.workers === 2)
  }
}

/** What a task and its test share; in local mode they are in one process. */
private object CancellationSuite {
  val holds = new CountDownLatch(1)
  val release = new CountDownLatch(1)
}
