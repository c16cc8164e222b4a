package kindling.internal

import java.io.{ByteArrayOutputStream, PrintStream}
import java.util.concurrent.{CountDownLatch, TimeUnit}

import org.apache.spark.SparkConf
import org.scalatest.funsuite.AnyFunSuite

import scala.jdk.CollectionConverters._

/** The parts of a run that need neither Spark nor the native library. */
class TrainingRunPartsSuite extends AnyFunSuite {

  private def stored(partition: Int, process: String, place: Place, rows: Long = 10, bytes: Long = 100) =
    IngestOutcome.Stored(ShardReport(partition, process, partition + 1L, rows, 0, bytes), 0, place)

  private val (a, b) = (Place("1", "h1"), Place("2", "h2"))

  test("ranks are spread evenly over the executors that hold rows") {
    val shards = Seq(stored(0, "p1", a), stored(1, "p2", b), stored(2, "p3", Place("3", "h3"), rows = 0))
    assert(Placement.spread(shards, 4).ranks === Seq(a, a, b, b))
    assert(Placement.spread(shards, 3).ranks === Seq(a, a, b))
    val text = intercept[IllegalArgumentException](Placement.spread(shards, 1)).getMessage
    assert(text.contains("2 executors") && text.contains("set numWorkers to 2 or more"))
    assert(a.location === "executor_h1_1")
  }

  test("an executor that is lost with its rows is known by its place") {
    val placement = Placement.spread(Seq(stored(0, "p1", a), stored(1, "p2", b)), 4)
    assert(placement.lost(Set("1", "2", "3")).isEmpty)
    assert(placement.lost(Set("1", "3")) === Seq(b))
    assert(b.toString === "executor 2 on h2")
  }

  test("memory is estimated for the fullest executor and refused where it is enforced") {
    val program = ProgramDescription("pt2", Nil, Nil, 1, 1 << 20, 1 << 20, 4 << 20, None)
    val shards = Seq(stored(0, "p1", a, bytes = 1000L << 20), stored(1, "p2", b, bytes = 10))
    val estimate = MemoryEstimate.of(program, Optimizer.AdamW(0.1, 0, 0.9, 0.999, 1e-8), Placement(Seq(a, b)), shards)
    assert(estimate === MemoryEstimate(1000L << 20, 16L << 20, 1))
    val conf = new SparkConf(false).set("spark.executor.memory", "2g")
    val text = intercept[IllegalArgumentException](MemoryEstimate.check(estimate, "yarn", conf)).getMessage
    assert(text.contains("about 1016 MiB") && text.contains("overhead is 384 MiB") && text.contains(
      "spark.executor.memoryOverhead to 1528m"
    ))
    MemoryEstimate.check(estimate, "spark://h:7077", conf)
    MemoryEstimate.check(estimate, "local[2]", conf)
    MemoryEstimate.check(estimate, "k8s://h", conf.set("spark.executor.memoryOverhead", "2g"))
    assert(MemoryEstimate.overheadMiB(new SparkConf(false).set("spark.executor.memory", "100g")) === 10240)
  }

  test("ranks that cannot fit are refused before the rows are read, by the program's own element size") {
    val adamw = Optimizer.AdamW(0.1, 0, 0.9, 0.999, 1e-8)
    // 64 Mi weights of float64: 512 MiB, and as much for the gradient and for each of the two moments.
    val wide = ProgramDescription("pt2", Nil, Nil, 1, 64 << 20, 64 << 20, 512L << 20, None)
    val estimate = MemoryEstimate.ofRanks(wide, adamw, 3, 2)
    assert(estimate === MemoryEstimate(0, 2048L << 20, 2))
    val text = intercept[IllegalArgumentException](MemoryEstimate.require(
      estimate,
      "k8s://h",
      new SparkConf(false)
    )).getMessage
    assert(text.contains("0 MiB of rows, 2 ranks of 2048 MiB") && text.contains("memoryOverhead to 4608m"))
    // A large buffer does not make the few trained weights wide.
    val buffered = ProgramDescription("pt2", Nil, Nil, 1, 100, 100, 512L << 20, None)
    assert(MemoryEstimate.ofRanks(buffered, adamw, 1, 1).rankBytes === (512L << 20) + 100 * 8 * 3)
  }

  test("progress is one moving line for a terminal, and a line per epoch everywhere") {
    val progress =
      Json.parse("""{"type":"progress","epoch":0,"step":12,"steps":40,"loss":0.5,"rowsPerSecond":12345.0}""")
    val epoch = Json.parse(
      """{"type":"epoch","epoch":0,"loss":0.25,"accuracy":0.9,"validationLoss":null,"validationAccuracy":null,"rowsPerSecond":10}"""
    )
    def shown(mode: Progress.Mode): String = {
      val out = new ByteArrayOutputStream
      val display = new Progress(new PrintStream(out, true), mode, 5)
      display.progress(progress)
      display.epoch(epoch)
      display.close()
      out.toString
    }
    val live = shown(Progress.Live)
    assert(live.startsWith("\rkindling: epoch 1/5, step 12/40, loss 0.5000, 12,345 rows/s"))
    assert(live.endsWith("\rkindling: epoch 1/5: loss 0.2500, accuracy 0.9000, 10 rows/s\n"))
    assert(shown(Progress.Plain) === "kindling: epoch 1/5: loss 0.2500, accuracy 0.9000, 10 rows/s\n")
    assert(shown(Progress.Off).isEmpty)
  }

  test("spark.kindling.progress chooses, and auto looks for a terminal") {
    def conf(values: (String, String)*) = new SparkConf(false).setAll(values)
    assert(Progress.mode(conf(), terminal = true) === Progress.Live)
    assert(Progress.mode(conf(), terminal = false) === Progress.Plain)
    assert(Progress.mode(conf("spark.ui.showConsoleProgress" -> "false"), terminal = true) === Progress.Off)
    assert(Progress.mode(
      conf("spark.ui.showConsoleProgress" -> "false", "spark.kindling.progress" -> "plain"),
      terminal = true
    ) === Progress.Plain)
    assert(intercept[IllegalArgumentException](Progress.mode(
      conf("spark.kindling.progress" -> "loud"),
      terminal = true
    )).getMessage.contains("loud"))
  }

  test("a rank that never comes ends the run with its number") {
    val cancelled = new CountDownLatch(1)
    // A negative timeout takes the grace period back.
    val rendezvous = new Rendezvous("run", 3, 60000, -5000, _ => cancelled.countDown())
    try {
      rendezvous.onArrived(0)
      assert(cancelled.await(10, TimeUnit.SECONDS))
      assert(rendezvous.failure.exists(_.contains("did not start")))
    } finally rendezvous.close()
  }

  test("a job of which no rank starts ends with the name of the timeout, and is cancelled until it is gone") {
    val cancelled = new CountDownLatch(2)
    val rendezvous = new Rendezvous("run", 2, 1, 60000, _ => cancelled.countDown())
    try {
      assert(cancelled.await(10, TimeUnit.SECONDS))
      assert(rendezvous.failure.exists(text => text.startsWith("no rank started") && text.contains("slotTimeout")))
    } finally rendezvous.close()
  }

  test("a rank that starts but opens no session ends the run too") {
    val cancelled = new CountDownLatch(1)
    val rendezvous = new Rendezvous("run", 2, 60000, -5000, _ => cancelled.countDown())
    try {
      rendezvous.onStarted(1)
      assert(cancelled.await(10, TimeUnit.SECONDS))
      assert(rendezvous.failure.exists(_.contains("opened its session")))
    } finally rendezvous.close()
  }

  test("the slots are given up once, when the last rank has started") {
    var times = 0
    val rendezvous = new Rendezvous("run", 2, 60000, 60000, _ => fail("cancelled"), () => times += 1)
    rendezvous.onStarted(0)
    assert(times === 0)
    // The note that rank 1 started was lost.
    rendezvous.onArrived(1)
    Seq(0, 1).foreach(rendezvous.onConnected)
    rendezvous.close()
    assert(times === 1)
  }

  test("training is proof that all ranks have met, whichever of their notes were lost") {
    val rendezvous = new Rendezvous("proof", 3, 60000, 60000, _ => fail("cancelled"))
    val watch = Thread.getAllStackTraces.keySet.asScala.find(_.getName == "kindling-rendezvous-proof")
    rendezvous.onTraining()
    watch.foreach(_.join(10000))
    assert(watch.exists(!_.isAlive), "the ranks are still waited for")
    rendezvous.close()
    assert(rendezvous.failure.isEmpty)
  }

  test("ranks that all connect end the watch quietly") {
    val rendezvous = new Rendezvous("run", 2, 60000, 60000, _ => fail("cancelled"))
    Seq(0, 1).foreach(rendezvous.onArrived)
    Seq(0, 1, 1).foreach(rendezvous.onConnected)
    rendezvous.close()
    assert(rendezvous.failure.isEmpty)
  }

  test("a model is opened once for tasks that follow one another, and closed when idle") {
    val closed = new java.util.concurrent.LinkedBlockingQueue[Long]
    val pool = new ModelPool(closed.put(_), idleMs = 50)
    var opened = 0L
    def open: Long = { opened += 1; opened }
    val first = pool.borrow("x")(open)
    val second = pool.borrow("x")(open)
    assert(Seq(first.model, second.model) === Seq(1, 2))
    first.close()
    first.close()
    assert(pool.borrow("y")(open).model === 3)
    val again = pool.borrow("x")(open)
    assert(again.model === 1)
    again.discard()
    again.close()
    assert(closed.poll(10, TimeUnit.SECONDS) === 1)
    second.close()
    assert(closed.poll(10, TimeUnit.SECONDS) === 2)
    assert(pool.size === 0)
  }

  test("the host of an executor's address may be a name or an IPv6 address") {
    assert(Seq("h:1", "[::1]:7", "10.0.0.1:9").map(RankTask.hostOf) === Seq("h", "::1", "10.0.0.1"))
  }

  test("an unsupported Spark is refused with a sentence") {
    assert(intercept[IllegalStateException](SupportedSpark.check("4.0.0")).getMessage.contains("SPARK-52259"))
    Seq("3.5.1", "5.0.0").foreach { version =>
      val text = intercept[IllegalStateException](SupportedSpark.check(version)).getMessage
      assert(text.contains(s"4.0.1 to 4.3, but this is Spark $version"))
    }
    Seq("4.0.1", "4.1.0-SNAPSHOT", "4.3.0", "4.10.0").foreach(SupportedSpark.check)
  }

  test("Spark's message is shown without its stack traces") {
    val text = "Job aborted due to stage failure: Stage failed because barrier task 1 finished unsuccessfully.\n" +
      "ExecutorLostFailure (executor 1 exited) Reason: Command exited with code 137\n\tat a.b.c(d.scala:1)\nDriver stacktrace:\n\tat x"
    assert(Failures.sparkReason(new Exception(text)).endsWith(
      "finished unsuccessfully. ExecutorLostFailure (executor 1 exited) Reason: Command exited with code 137"
    ))
  }
}
