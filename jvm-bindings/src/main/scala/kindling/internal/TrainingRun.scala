package kindling.internal

import java.security.SecureRandom

import kindling.{TrainingException, TrainingSummary}
import org.apache.spark.SparkContext
import org.apache.spark.ml.kindling.Cluster
import org.apache.spark.sql.Dataset
import org.slf4j.LoggerFactory

/** What a run leaves: the program, its trained weights (safetensors), the summary, and the vocabularies of indexed columns. */
private[kindling] final case class Trained(
    program: Program,
    weights: Array[Byte],
    summary: TrainingSummary,
    vocabularies: Seq[Vocabulary] = Nil
)

/**
 * One run on the driver, from the parameters to the trained weights:
 *
 *  1. everything that can be refused before data is touched is refused: parameters, program, columns, slots;
 *  1. vocabularies are fitted to the columns that are to be indexed, if there are any;
 *  1. the ingest job turns the data's partitions into native shards where they are read, and a second one those of the DataFrame to
 *     validate on, if there is one, unless another fit of the same call has done so ([[SharedIngest]]);
 *  1. ranks are placed on the executors that hold rows, and memory is compared with what executors may use;
 *  1. the training job, a barrier job of numWorkers tasks, trains ([[TrainingJob]]); what was lost with an executor before it began is
 *     read again;
 *  1. whatever happened, shards that no other fit of the call needs are released, by the ranks themselves or by [[ReleaseJob]].
 *
 * All jobs of a run carry one tag of its own, and the caller's job group stays as it is: who cancels the group, all jobs or the
 * tag ends the run. A thread that is interrupted in `fit` ends its run too, waiting or training.
 */
private[kindling] final class TrainingRun(
    params: TorchParams,
    data: Dataset[_],
    validation: Option[Dataset[_]] = None,
    shared: Option[SharedIngest] = None
) {
  private val sc: SparkContext = data.sparkSession.sparkContext
  private val run = TrainingRun.randomHex(16)
  private val tag = s"kindling-$run"
  private val ingests = shared.getOrElse(new SharedIngest)

  def fit(): Trained =
    try ingests.during(train())
    catch Failures.ofInterrupt
    finally if (shared.isEmpty) ingests.close()

  private def train(): Trained = {
    val start = System.nanoTime()
    val settings = Settings.of(params, validation.isDefined)
    (data +: validation.toSeq).foreach(TrainingRun.requireEnd)
    TrainingRun.checkCluster(sc)
    val network = NetworkSettings.of(sc.getConf)
    val device = Gpus.choose(settings.device, sc.getConf.getOption, sc.isLocal, settings.numWorkers)
    val loading = NativeLoading.of(sc.getConf.getOption, params.getLibtorch)
    try NativeLibrary.load(loading): Unit
    catch Failures.ofLoading
    device.check()
    tagged {
      val program = ProgramSource.resolve(params, data, sc.hadoopConfiguration)
      def laidOut(indexing: Indexing) = {
        val choice = FeatureLayout.Choice.of(params, indexing)
        val layout = FeatureLayout.forTraining(data.schema, program.description, choice)
        val held = validation.map { frame =>
          frame -> layout.likewise(FeatureLayout.forTraining(frame.schema, program.description, choice))
        }
        (layout, held)
      }
      // Columns that do not fit are refused before the data is read for the vocabularies.
      laidOut(Indexing.of(params)): Unit
      TrainingRun.checkResultSize(sc, program.description)
      val outlined = TrainingRun.trained(program, settings)
      // What is trained lies on the GPU, beside what the host holds of the program.
      val trained = if (device.onGpu) outlined.copy(trainableElements = 0) else outlined
      val slots = Slots.of(sc)
      slots.requireTotal(settings.numWorkers, settings.slotTimeoutMs)
      // Reading the data may take long, so ranks that cannot fit even without it are refused before.
      val ranks =
        MemoryEstimate.ofRanks(trained, settings.optimizer, settings.numWorkers, TrainingRun.executors(sc))
      MemoryEstimate.require(ranks, sc.master, sc.getConf)
      val vocabularies = indexed()
      val (layout, held) = laidOut(Indexing.of(vocabularies))
      val most = BatchMemory.most(settings, layout)
      val memory = ShardMemory.of(settings.shardMemory, ranks, sc.master, sc.getConf, most)
      releasing {
        val wanted = IngestKey.of(settings, data -> layout, held, loading)
        // In local mode there is one process, and nobody to fetch from it.
        def read() = {
          val secret = TrainingRun.randomHex(32)
          val serving = if (sc.isLocal) None else Some(Serving(secret, network.encrypted))
          ingest(settings, layout, held, loading, memory, secret, serving)
        }
        val (stored, result) = restoring(slots, settings) {
          val rows = ingests.rows(wanted)(read())(restore)
          val stored = rows.stored
          val placement = Placement.spread(stored, settings.numWorkers)
          MemoryEstimate.check(
            MemoryEstimate.of(
              trained,
              settings.optimizer,
              placement,
              stored,
              TrainingRun.sharedBytesPerPeer() * network.socketsPerLink,
              BatchMemory.of(
                settings,
                layout,
                stored.map(_.report.rows).sum,
                stored.map(_.report.validationRows).sum
              ),
              TrainingRun.fetched(placement, stored),
              rows.memory.bytes
            ),
            sc.master,
            sc.getConf
          )
          val plan = new RankPlan(
            run,
            0,
            settings.numWorkers,
            TrainingRun.randomHex(32),
            sc.getConf.getInt("spark.task.cpus", 1),
            device,
            settings,
            stored.map(_.report),
            tag,
            loading,
            network,
            rows.layout.columns,
            rows.memory,
            RankPlan.Rows(rows.run, rows.secret, stay = shared.isDefined)
          )
          val result = new TrainingJob(sc, plan, program, placement, slots, tag).run()
          if (shared.isEmpty) rows.freedBy(placement.ranks)
          (stored, result)
        }
        Trained(program, result.weights, summary(settings, stored, result, start), vocabularies)
      }
    }
  }

  /** The vocabularies of the columns that are to be indexed. */
  private def indexed(): Seq[Vocabulary] = {
    sc.setLocalProperty(TrainingRun.Description, s"Kindling $run: index strings")
    try Vocabulary.fit(data, Indexing.of(params).columns, params.getStringOrderType)
    catch Failures.ofIngest
  }

  /** Runs `training`, once more when rows were lost with their executor before a rank had begun. */
  private def restoring[T](slots: Slots, settings: Settings)(training: => T): T = {
    def attempt(left: Int): T =
      try training
      catch {
        case lost: RowsLost if left > 0 =>
          TrainingRun.log.warn(s"run $run: ${lost.getMessage}; they are read again")
          // An executor that takes its place may still be coming up.
          slots.requireTotal(settings.numWorkers, settings.slotTimeoutMs)
          attempt(left - 1)
        case lost: RowsLost =>
          throw new TrainingException(s"${lost.getMessage}, for the ${TrainingRun.Rereads + 1}th time: run fit again")
      }
    attempt(TrainingRun.Rereads)
  }

  private def cancel(): Unit = sc.cancelJobsWithTag(tag)

  private def restore(rows: HeldRows): Unit =
    try {
      rows.restore(() => cancel())
      TrainingRun.log.info(s"run $run trains on the rows ${rows.run}, which are there")
    } catch Failures.ofIngest

  private def ingest(
      settings: Settings,
      layout: FeatureLayout,
      held: Option[(Dataset[_], FeatureLayout)],
      loading: NativeLoading,
      memory: ShardMemory,
      secret: String,
      serving: Option[Serving]
  ): HeldRows = {
    val name = HeldRows.name(run)
    def frame(what: String, data: Dataset[_], layout: FeatureLayout, split: Validation) = HeldRows.Frame(
      what,
      first =>
        new Ingest(
          name,
          layout,
          settings.handleInvalid,
          split,
          settings.seed,
          loading,
          RunsOver.list,
          memory,
          serving,
          first,
          settings.repartition
        ),
      _.read(data, _, () => cancel())
    )
    val frames = frame("the data", data, layout, settings.validation) +: held.toSeq.map { case (data, layout) =>
      frame("the validation data", data, layout, Validation.All)
    }
    val rows =
      try HeldRows.read(sc, name, secret, layout, memory, frames)
      catch Failures.ofIngest
    try requireRows(rows.stored)
    catch {
      case e: Throwable =>
        rows.release()
        throw e
    }
    rows
  }

  private def requireRows(stored: Seq[IngestOutcome.Stored]): Unit = {
    val (rows, validationRows) = (stored.map(_.report.rows).sum, stored.map(_.report.validationRows).sum)
    val skipped = stored.map(_.skipped).sum
    if (rows == 0)
      throw new IllegalArgumentException(
        s"there is no row to train on: ${rows + validationRows + skipped} rows were read, of which $validationRows validate and " +
          s"$skipped were skipped"
      )
    TrainingRun.log.info(
      s"run $run read $rows rows and $validationRows validation rows into ${stored.size} shards, $skipped skipped; " +
        s"${stored.map(_.report.spilledBytes).sum >> 20} of ${stored.map(_.report.bytes).sum >> 20} MiB are in files, for shardMemory"
    )
    if (skipped > 0) TrainingRun.log.warn(s"$skipped rows with a null or NaN were skipped (handleInvalid=skip)")
  }

  private def summary(
      settings: Settings,
      stored: Seq[IngestOutcome.Stored],
      result: TrainingResult,
      start: Long
  ): TrainingSummary = {
    val report = Json.parse(result.report)
    TrainingSummary(
      epochs = Json.elements(Json.required(report, "epochs")).map(TrainingSummary.epoch),
      totalRows = stored.map(_.report.rows).sum,
      validationRows = stored.map(_.report.validationRows).sum,
      skippedRows = stored.map(_.skipped).sum,
      steps = Json.required(report, "steps").asLong,
      seconds = (System.nanoTime() - start) / 1e9,
      trainingSeconds = Json.required(report, "seconds").asDouble,
      communicationSeconds = Json.optional(report, "communicationSeconds").fold(0.0)(_.asDouble),
      dataWaitSeconds = Json.required(report, "dataWaitSeconds").asDouble,
      movedRows = result.movedRows,
      movedBytes = result.movedBytes,
      executors = result.processes,
      workers = settings.numWorkers,
      bestEpoch = Json.optional(report, "bestEpoch").map(_.asInt),
      stoppedEarly = Json.required(report, "stoppedEarly").asBoolean
    )
  }

  /**
   * On failure: end what still runs, then free what is left of the run in the executors. The first failure is the one that leaves.
   *
   * After a success the ranks have freed the rows beside them; what else is left (empty shards) is dropped by the next ingest there.
   */
  private def releasing[T](body: => T): T = {
    var done = false
    try {
      val result = body
      done = true
      result
    } finally {
      val rows = HeldRows.name(run)
      val own = if (shared.exists(_.keeps(rows))) Seq(run) else Seq(run, rows)
      own.foreach(RunsOver.add)
      if (!done && !sc.isStopped) {
        cancel()
        // An interrupted thread could wait for nothing, so the flag is set aside for the clean-up.
        val interrupted = Thread.interrupted()
        try {
          ReleaseJob.run(sc, own)
          if (shared.isEmpty) ingests.abandon()
        } finally if (interrupted) Thread.currentThread().interrupt()
      }
    }
  }

  private def tagged[T](body: => T): T =
    Cluster.withOwnProperties(sc) {
      sc.addJobTag(tag)
      body
    }
}

private[kindling] object TrainingRun {
  private val log = LoggerFactory.getLogger("kindling.TrainingRun")

  /** How often rows that were lost before the training are read again. */
  private final val Rereads = 3

  /** What the web UI shows beside a job. */
  final val Description = "spark.job.description"

  private val random = new SecureRandom()

  def randomHex(bytes: Int): String = {
    val buffer = new Array[Byte](bytes)
    random.nextBytes(buffer)
    buffer.map(byte => f"${byte & 0xff}%02x").mkString
  }

  private def requireEnd(data: Dataset[_]): Unit =
    if (data.isStreaming)
      throw new IllegalArgumentException(
        "the DataFrame is a stream, which has no last row to train on: call fit on its batches (foreachBatch), or write it to files"
      )

  private def checkCluster(sc: SparkContext): Unit =
    if (!sc.isLocal && sc.getConf.getBoolean("spark.dynamicAllocation.enabled", defaultValue = false))
      throw new IllegalArgumentException(
        "spark.dynamicAllocation.enabled is true, but Spark runs no barrier job with dynamic allocation: set it to false"
      )

  /** How many there are, or will be when all have come up; where it matters (YARN, Kubernetes) Spark starts two by default. */
  private def executors(sc: SparkContext): Int =
    math.max(Cluster.executors(sc).size, sc.getConf.getInt("spark.executor.instances", 2))

  /** What a rank shares with each other one of its host; only the loaded library knows. */
  private def sharedBytesPerPeer(): Long =
    Json.required(Json.parse(Native.capabilities()), "sharedBytesPerPeer").asLong

  /** By rank, the rows that it would fetch where it was placed. */
  private def fetched(placement: Placement, stored: Seq[IngestOutcome.Stored]): Seq[Long] = {
    val process = stored.map(held => held.place -> held.report.process).toMap
    val placed = Json.obj()
    Json.set(placed, "shards", Json.array(stored.map(held => SessionConfig.shard(held.report))))
    val processes = placed.putArray("processes")
    placement.ranks.foreach(place => processes.add(process.getOrElse(place, place.executor)))
    Json.elements(Json.parse(Native.shardMoves(Json.bytes(placed)))).map(_.asLong)
  }

  /**
   * The program as the settings train it, frozen groups left out. Settings that cannot train it are refused: reading the data may take
   * long, and the ranks would say so only after it.
   */
  private[kindling] def trained(program: Program, settings: Settings): ProgramDescription = {
    val training = Json.bytes(SessionConfig.training(settings))
    val outline = Json.parse(Native.programCheck(program.bytes, training))
    program.description.copy(trainableElements = Json.required(outline, "trainedElements").asLong)
  }

  private def checkResultSize(sc: SparkContext, program: ProgramDescription): Unit = {
    val limit = sc.getConf.getSizeAsBytes("spark.driver.maxResultSize", "1g")
    if (limit > 0 && program.stateBytes > limit)
      throw new IllegalArgumentException(
        s"the network has ${program.stateBytes} bytes of weights, more than spark.driver.maxResultSize ($limit bytes) lets a task " +
          "bring back: raise it"
      )
  }
}
