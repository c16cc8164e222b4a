package org.apache.spark.ml.kindling

import java.nio.charset.StandardCharsets.UTF_8
import java.util.concurrent.{CountDownLatch, TimeUnit}

import kindling.SparkSuite
import org.apache.spark.{SparkException, TaskContext}
import org.apache.spark.scheduler.{SparkListener, SparkListenerTaskEnd}

import scala.collection.concurrent.TrieMap
import scala.concurrent.{Await, Future}
import scala.concurrent.ExecutionContext.Implicits.global
import scala.concurrent.duration._

class AllGatherSuite extends SparkSuite {
  private lazy val sc = spark.sparkContext

  private def opened(name: String, world: Int)(arrived: Int => Unit): AllGather = {
    assert(!sc.isStopped)
    AllGather.open(name, world)(arrived)
  }

  /** One rank of `world` in a task, which says its number; the answers come back. */
  private def gather(name: String, ranks: Seq[Int], limitMs: Long): Seq[Seq[String]] = {
    val rank = (context: TaskContext) => {
      val own = ranks(context.partitionId())
      AllGather
        .gather(name, own, s"I am $own".getBytes(UTF_8), context, limitMs, "theLimit")
        .map(new String(_, UTF_8))
    }
    sc.runJob(sc.parallelize(ranks, ranks.size), (context: TaskContext, _: Iterator[Int]) => rank(context)).toSeq
  }

  test("each rank is told what all have said, in the order of the ranks and not of their coming") {
    val arrived = TrieMap.empty[Int, Unit]
    val open = opened("in-order", 2)(rank => arrived(rank) = ())
    try {
      assert(gather("in-order", Seq(1, 0), 60000) === Seq.fill(2)(Seq("I am 0", "I am 1")))
      assert(arrived.keySet === Set(0, 1))
    } finally open.close()
  }

  test("the same ranks can gather again") {
    val open = opened("again", 2)(_ => ())
    try
      (1 to 5).foreach(_ => assert(gather("again", Seq(0, 1), 60000) === Seq.fill(2)(Seq("I am 0", "I am 1"))))
    finally open.close()
  }

  test("ranks whose others do not come give up, and say by which limit") {
    val open = opened("alone", 3)(_ => ())
    try {
      val failure = intercept[SparkException](gather("alone", Seq(0, 2), 300))
      assert(failure.getMessage.contains("theLimit"), failure.getMessage)
    } finally open.close()
  }

  test("a rank that waits ends when its job is cancelled") {
    val (here, ended) = (new CountDownLatch(1), new CountDownLatch(1))
    val listener = new SparkListener {
      override def onTaskEnd(end: SparkListenerTaskEnd): Unit = ended.countDown()
    }
    sc.addSparkListener(listener)
    val open = opened("cancelled", 2)(_ => here.countDown())
    try {
      val job = Future {
        sc.setJobGroup("waiting", "a rank waits", interruptOnCancel = false)
        gather("cancelled", Seq(0), 600000)
      }
      assert(here.await(30, TimeUnit.SECONDS))
      sc.cancelJobGroup("waiting")
      intercept[SparkException](Await.result(job, 30.seconds)): Unit
      assert(ended.await(30, TimeUnit.SECONDS), "the task goes on waiting")
    } finally {
      open.close()
      sc.removeSparkListener(listener)
    }
  }

  test("ranks whose driver knows of no gathering fail at once") {
    intercept[SparkException](gather("nowhere", Seq(0), 60000)): Unit
  }
}
