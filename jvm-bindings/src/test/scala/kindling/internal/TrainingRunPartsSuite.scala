package kindling.internal

import java.io.{ByteArrayOutputStream, PrintStream}
import java.util.concurrent.{CountDownLatch, FutureTask, TimeUnit}

import com.fasterxml.jackson.databind.node.ObjectNode
import kindling.TorchEstimator
import org.apache.spark.SparkConf
import org.apache.spark.sql.types.{ArrayType, FloatType, StructField}
import org.scalatest.funsuite.AnyFunSuite

import scala.collection.mutable
import scala.jdk.CollectionConverters._

/** The parts of a run that need neither Spark nor the native library. */
class TrainingRunPartsSuite extends AnyFunSuite {

  private def stored(
      partition: Int,
      process: String,
      place: Place,
      rows: Long = 10,
      bytes: Long = 100,
      spilled: Long = 0
  ) =
    IngestOutcome.Stored(ShardReport(partition, 0, process, partition + 1L, rows, 0, bytes, spilled, "00"), 0, place)

  private val (a, b) = (Place("1", "h1"), Place("2", "h2"))

  test("rows in files do not count as memory of an executor") {
    val program = ProgramDescription("pt2", Nil, Nil, 1, 1 << 20, 1 << 20, 4 << 20, None)
    val shards = Seq(stored(0, "p1", a, bytes = 900L << 20, spilled = 800L << 20))
    val adamw = Optimizer(Json.obj().put("name", "adamw"), stateCopies = 2)
    assert(MemoryEstimate.of(program, adamw, Placement(Seq(a), Seq(a)), shards, 0).shardBytes === (100L << 20))
  }

  test("an executor has room for the rows that its ranks fetch") {
    val program = ProgramDescription("pt2", Nil, Nil, 1, 1 << 20, 1 << 20, 4 << 20, None)
    val shards = Seq(stored(0, "p1", a, bytes = 100L << 20), stored(1, "p2", b, bytes = 250L << 20))
    val adamw = Optimizer(Json.obj().put("name", "adamw"), stateCopies = 2)
    // A row takes 17.5 MiB.
    def rows(fetched: Seq[Long], most: Option[Long], ranks: Place*) =
      MemoryEstimate.of(program, adamw, Placement(ranks, Seq(a, b)), shards, 0, 0, fetched, most).shardBytes
    assert(
      rows(Seq(10), None, a) === (275L << 20),
      "who gives rows away keeps them: what comes is added to what is there"
    )
    assert(rows(Seq(0, 10), None, a, b) === (425L << 20), "the fullest may be the one that needs more")
    assert(rows(Seq(4, 4, 4, 0), None, a, a, a, b) === (310L << 20), "ranks of one executor fetch for themselves")
    assert(rows(Seq(0, 10), Some(300L << 20), a, b) === (300L << 20), "what is more goes to files")
  }

  test("rows get what the user says, or what is left of an enforced container, or what the executor decides") {
    val conf = new SparkConf(false).set("spark.executor.memoryOverhead", "2g")
    val ranks = MemoryEstimate(0, 256L << 20, 2)
    assert(ShardMemory.of(Some(123L), ranks, "yarn", conf) === ShardMemory(Some(123L), onDisk = true))
    assert(ShardMemory.of(None, ranks, "yarn", conf) === ShardMemory(Some(1280L << 20), onDisk = true))
    assert(ShardMemory.of(None, ranks.copy(ranks = 8), "k8s://h", conf) === ShardMemory(Some(64L << 20), onDisk = true))
    assert(ShardMemory.of(None, ranks, "spark://h:7077", conf) === ShardMemory(None, onDisk = true))
    // Batches are left out, but for those that all rows may be too few for.
    assert(ShardMemory.of(None, ranks, "yarn", conf, 100L << 20) === ShardMemory(Some(1080L << 20), onDisk = true))
    assert(ShardMemory.of(None, ranks, "yarn", conf, 1L << 50) === ShardMemory(Some(640L << 20), onDisk = true))
    assert(ShardMemory.ofMachine() >= (64L << 20))
  }

  test("rows are not written to disk in plain text where Spark encrypts its own files") {
    val conf = new SparkConf(false).set("spark.io.encryption.enabled", "true")
    val ranks = MemoryEstimate(0, 0, 1)
    assert(Json.text(ShardMemory.of(None, ranks, "yarn", conf).json()) === "{}")
    val text = intercept[IllegalArgumentException](ShardMemory.of(Some(1L), ranks, "local", conf)).getMessage
    assert(text.contains("shardMemory is 1") && text.contains("leave shardMemory unset"))
  }

  test("ranks are spread evenly over the executors that hold rows") {
    val shards = Seq(stored(0, "p1", a), stored(1, "p2", b), stored(2, "p3", Place("3", "h3"), rows = 0))
    assert(Placement.spread(shards, 4).ranks === Seq(a, a, b, b))
    assert(Placement.spread(shards, 3).ranks === Seq(a, a, b))
    assert(a.location === "executor_h1_1")
  }

  test("fewer ranks than executors go where the most rows lie, and all executors with rows are holders") {
    val c = Place("3", "h3")
    val shards =
      Seq(stored(0, "p1", a, rows = 5), stored(1, "p2", b), stored(2, "p3", c, rows = 7), stored(3, "p1", a, rows = 4))
    assert(Placement.spread(shards, 1) === Placement(Seq(b), Seq(a, b, c)))
    assert(Placement.spread(shards, 2).ranks === Seq(a, b))
    assert(Placement.spread(shards, 1).lost(Set("2", "3")) === Seq(a))
  }

  test("ranks of one host are neighbours, whatever the numbers of its executors") {
    val places = Seq(Place("1", "h2"), Place("2", "h1"), Place("10", "h2"), Place("9", "h2"), Place("3", "h1"))
    val shards = places.zipWithIndex.map { case (place, i) => stored(i, s"p$i", place) }
    assert(Placement.spread(shards, 5).ranks === Seq(
      "2" -> "h1",
      "3" -> "h1",
      "1" -> "h2",
      "9" -> "h2",
      "10" -> "h2"
    ).map {
      case (executor, host) => Place(executor, host)
    })
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
    val estimate =
      MemoryEstimate.of(
        program,
        Optimizer(Json.obj().put("name", "adamw"), stateCopies = 2),
        Placement(Seq(a, b), Seq(a, b)),
        shards,
        1L << 30
      )
    assert(estimate === MemoryEstimate(1000L << 20, 16L << 20, 1, resultBytes = 4L << 20))
    val conf = new SparkConf(false).set("spark.executor.memory", "2g")
    val text = intercept[IllegalArgumentException](MemoryEstimate.check(estimate, "yarn", conf)).getMessage
    assert(text.contains("about 1020 MiB") && text.contains("overhead is 384 MiB") && text.contains(
      "spark.executor.memoryOverhead to 1532m"
    ))
    MemoryEstimate.check(estimate, "spark://h:7077", conf)
    MemoryEstimate.check(estimate, "local[2]", conf)
    MemoryEstimate.check(estimate, "k8s://h", conf.set("spark.executor.memoryOverhead", "2g"))
    assert(MemoryEstimate.overheadMiB(new SparkConf(false).set("spark.executor.memory", "100g")) === 10240)
  }

  test("batches count as long as the rows make them, and what auc keeps of every validation row") {
    val column = NativeColumn("x", Role.Input, DType.Float32, 24, Filling.Array(StructField("x", ArrayType(FloatType))))
    val label = NativeColumn("label", Role.Label, DType.Float32, 1, Filling.Scalars(Seq(StructField("y", FloatType))))
    val layout = FeatureLayout(Seq(column, label), None)
    val estimator = new TorchEstimator().setBatchSize(1000).setNumWorkers(4).setLoss("binaryCrossEntropyWithLogits")
    def bytes(rows: Long, validationRows: Long = 0) =
      BatchMemory.of(Settings.of(estimator, frame = validationRows > 0), layout, rows, validationRows)
    // Three batches of a quarter and perhaps one row more, 100 bytes a row.
    assert(bytes(1000000) === 3 * 251 * 100)
    assert(bytes(100) === 3 * 26 * 100, "there are no more rows than that")
    assert(BatchMemory.most(Settings.of(estimator), layout) === bytes(1000000))
    estimator.setGradientAccumulationSteps(10)
    assert(bytes(1000000) === 3 * 26 * 100)
    assert(bytes(1000000, 40000) === 3 * 26 * 100, "no other metric keeps answers")
    val kept = 16L * (3 * 40000 + 2 * 10000)
    estimator.setMetrics(Array("auc"))
    assert(bytes(1000000, 40000) === 3 * 26 * 100 + kept)
    estimator.clear(estimator.metrics).setEarlyStoppingPatience(2).setEarlyStoppingMetric("auc"): Unit
    assert(bytes(1000000, 40000) === 3 * 26 * 100 + kept)
  }

  test("ranks of one host but several executors count the memory that they share") {
    val program = ProgramDescription("pt2", Nil, Nil, 1, 1 << 20, 1 << 20, 4 << 20, None)
    val (c, d) = (Place("3", "h1"), Place("4", "h4"))
    val adamw = Optimizer(Json.obj().put("name", "adamw"), stateCopies = 2)
    def estimate(places: Place*): MemoryEstimate = {
      val shards = places.distinct.zipWithIndex.map { case (place, i) => stored(i, s"p$i", place, bytes = 0) }
      MemoryEstimate.of(program, adamw, Placement(places, places.distinct), shards, 8L << 20)
    }
    // Executor 1 has two ranks, and each of them two peers on h1.
    val shared = estimate(a, a, c, d)
    assert(shared === MemoryEstimate(0, 16L << 20, 2, 16L << 20, resultBytes = 4L << 20))
    assert(shared.total === (68L << 20))
    val text = intercept[IllegalArgumentException](MemoryEstimate.require(
      shared.copy(shardBytes = 1L << 30),
      "yarn",
      new SparkConf(false)
    )).getMessage
    assert(text.contains("2 ranks of 16 MiB, 16 MiB each that they share with the other ranks of their host"), text)
    assert(estimate(a, a, a).sharedBytes === 0, "all ranks are in one process")
    assert(estimate(a, b).sharedBytes === 0, "each is alone on its host")
    assert(estimate(a, a, b).sharedBytes === (8L << 20), "two of one process share too, where others are elsewhere")
  }

  test("ranks that cannot fit are refused before the rows are read, by the program's own element size") {
    val adamw = Optimizer(Json.obj().put("name", "adamw"), stateCopies = 2)
    // 64 Mi weights of float64: 512 MiB, and as much for the gradient and for each of the two moments.
    val wide = ProgramDescription("pt2", Nil, Nil, 1, 64 << 20, 64 << 20, 512L << 20, None)
    val estimate = MemoryEstimate.ofRanks(wide, adamw, 3, 2)
    assert(estimate === MemoryEstimate(0, 2048L << 20, 2, resultBytes = 512L << 20))
    val text = intercept[IllegalArgumentException](MemoryEstimate.require(
      estimate,
      "k8s://h",
      new SparkConf(false)
    )).getMessage
    assert(text.contains("0 MiB of rows, 2 ranks of 2048 MiB") && text.contains("memoryOverhead to 5120m"))
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
    def liveOf(waitShare: Double): String = {
      val out = new ByteArrayOutputStream
      new Progress(new PrintStream(out, true), Progress.Live, 5).progress(progress.deepCopy[ObjectNode]().put(
        "waitShare",
        waitShare
      ))
      out.toString
    }
    assert(liveOf(0.034).endsWith("12,345 rows/s, 3 % waiting for rows"))
    assert(liveOf(0.004).endsWith("12,345 rows/s"))
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

  test("spark.kindling.encryption chooses, and auto follows Spark's own traffic") {
    def encrypted(values: (String, String)*): Boolean =
      NetworkSettings.of(new SparkConf(false).setAll(values)).encrypted
    assert(!encrypted())
    Seq("spark.network.crypto.enabled", "spark.ssl.enabled", "spark.ssl.rpc.enabled").foreach { own =>
      assert(encrypted(own -> "true"), own)
      assert(!encrypted(own -> "true", "spark.kindling.encryption" -> "false"), own)
      assert(!encrypted(own -> "false"), own)
    }
    assert(!encrypted("spark.io.encryption.enabled" -> "true"), "that is about files")
    assert(encrypted("spark.kindling.encryption" -> "true"))
    assert(intercept[IllegalArgumentException](encrypted("spark.kindling.encryption" -> "yes")).getMessage ===
      "spark.kindling.encryption must be auto, true or false, but is \"yes\"")
  }

  test("a session is told how its rank talks to the others, and where to write its record only if somewhere") {
    def config(values: (String, String)*) = {
      val network = NetworkSettings.of(new SparkConf(false).setAll(values))
      val settings = Settings.of(new kindling.TorchEstimator().setHeartbeatInterval(0.25).setStallWarning(7)
        .setSyncBatchNorm(true).setActivationCheckpointing("4"))
      val shard = ShardReport(3, 0, "p1", 7, 5, 0, 20, 0, "0f", Some("""{"host":"h1","port":1}"""))
      val columns = Seq(NativeColumn("x", Role.Input, DType.Float32, 1, Filling.Scalars(Nil)))
      val loading = NativeLoading(None, None, "", Nil)
      val memory = ShardMemory(None, onDisk = false)
      val device = Gpus.choose("cpu", _ => None, local = true, ranks = 2)
      val plan =
        new RankPlan(
          "run",
          1,
          2,
          "00",
          1,
          device,
          settings,
          Seq(shard),
          "c",
          loading,
          network,
          columns,
          memory,
          RankPlan.Rows("run-rows", "ff", stay = false)
        )
      SessionConfig.json(plan, 1, "h1", "cuda:1", Seq("run", "other"))
    }
    val plain = config()
    assert((plain.get("heartbeatMs").asLong, plain.get("stallWarningMs").asLong) === ((250L, 7000L)))
    assert(plain.get("collectiveTimeoutMs").asLong === 1800000L)
    assert(plain.get("shards").get(0).get("endpoint").get("port").asInt === 1 && plain.get("columns").size === 1)
    assert(plain.get("heldFor").toString === """{"run":"run-rows","secret":"ff"}""")
    assert(plain.get("liveRuns").toString === """["run","other"]""")
    assert(plain.get("encrypted").isBoolean && !plain.get("encrypted").asBoolean && !plain.has("recordFolder"))
    assert(plain.get("socketsPerLink").asInt === 1 && plain.get("device").asText === "cuda:1")
    val training = plain.get("training")
    assert(training.get("syncBatchNorm").asBoolean && training.get("activationCheckpointing").isInt)
    val told = config(
      "spark.kindling.encryption" -> "true",
      "spark.kindling.recordFolder" -> "/var/tmp/records",
      "spark.kindling.socketsPerLink" -> "4"
    )
    assert(told.get("encrypted").asBoolean && told.get("recordFolder").asText === "/var/tmp/records")
    assert(told.get("socketsPerLink").asInt === 4)
    Seq("0", "65", "many").foreach { text =>
      assert(intercept[IllegalArgumentException](config("spark.kindling.socketsPerLink" -> text)).getMessage ===
        "spark.kindling.socketsPerLink must be a whole number from 1 to 64, but is \"" + text + "\"")
    }
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

  test("ranks that do not end after another's failure are given up, and those that do are not") {
    val cancelled = new CountDownLatch(1)
    val late = new Grace("run", _ => cancelled.countDown(), limitMs = 1)
    try {
      late.onFailed()
      late.onFailed()
      assert(cancelled.await(10, TimeUnit.SECONDS) && late.exceeded)
    } finally late.close()
    val inTime = new Grace("run", _ => fail("cancelled"), limitMs = 60000)
    inTime.onFailed()
    inTime.close()
    assert(!inTime.exceeded)
    val fine = new Grace("run", _ => fail("cancelled"), limitMs = 0)
    fine.close()
    assert(!fine.exceeded, "no rank failed")
  }

  test("a model is opened once, shared by tasks at the same time, and kept for those that follow") {
    val closed = mutable.ArrayBuffer.empty[Long]
    val shared = mutable.ArrayBuffer.empty[(Long, Long)]
    var keys = 0L
    def key(): Long = { keys += 1; keys }
    def share(of: Long): Long = {
      shared += ((of, key()))
      keys
    }
    val pool = new ModelPool(share, closed += _, idleMs = 600000)
    val first = pool.borrow("x")(key())
    val second = pool.borrow("x")(fail("opened twice"))
    assert(Seq(first.model, second.model) === Seq(1, 2) && shared.toSeq === Seq((1L, 2L)))
    first.close()
    first.close()
    assert(pool.size === 1)
    assert(pool.borrow("y")(key()).model === 3)
    val again = pool.borrow("x")(fail("opened twice"))
    assert(again.model === 1)
    again.discard()
    again.close()
    assert(closed.toSeq === Seq(1) && pool.size === 0)
    assert(pool.borrow("x")(fail("opened twice")).model === 4 && shared.last === ((2L, 4L)))
  }

  test("a model that nobody borrows for a while is closed, and opened anew for who wants it then") {
    val closed = new java.util.concurrent.LinkedBlockingQueue[Long]
    val pool = new ModelPool(_ => fail("shared"), closed.put(_), idleMs = 1)
    pool.borrow("x")(1).close()
    assert(closed.poll(10, TimeUnit.SECONDS) === 1)
    assert(pool.size === 0 && pool.borrow("x")(2).model === 2)
  }

  test("tasks that start together wait for the one that opens their model, also when it fails") {
    val pool = new ModelPool(_ => 2, _ => (), idleMs = 60000)
    val (opening, go) = (new CountDownLatch(1), new CountDownLatch(1))
    val failing = new FutureTask[Long](() =>
      pool.borrow("x") {
        opening.countDown()
        assert(go.await(10, TimeUnit.SECONDS))
        throw new IllegalArgumentException("cannot be opened")
      }.model
    )
    val next = new FutureTask[Long](() => pool.borrow("x")(1).model)
    val threads = Seq(failing, next).map(new Thread(_))
    threads.head.start()
    assert(opening.await(10, TimeUnit.SECONDS))
    threads(1).start()
    go.countDown()
    assert(next.get(10, TimeUnit.SECONDS) === 1)
    assert(intercept[java.util.concurrent.ExecutionException](failing.get(10, TimeUnit.SECONDS)).getCause.getMessage ===
      "cannot be opened")
    assert(pool.borrow("x")(fail("opened twice")).model === 2)
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
    val cast =
      "[CAST_INVALID_INPUT] The value 'x' cannot be cast. SQLSTATE: 22018\n== SQL (line 1) ==\ncast(a as int)\n^^^"
    assert(
      Failures.sparkReason(new Exception(cast)) === "[CAST_INVALID_INPUT] The value 'x' cannot be cast. SQLSTATE: 22018"
    )
    val python =
      "Job aborted: Task 0 failed\nTraceback (most recent call last):\n  File \"a.py\", line 1, in f\n    1 // 0\n" +
        "ZeroDivisionError: division by zero\n\n\tat org.apache.spark.api.python.BasePythonRunner"
    assert(Failures.sparkReason(new Exception(python)) === "ZeroDivisionError: division by zero")
  }
}
