package kindling.internal

import org.apache.spark.TaskContext

/**
 * Which device a task computes on. The choice is made on the driver and travels with the tasks; each of them turns it into a device
 * of its executor, `cpu` or `cuda:N`, where N is CUDA's number in that process.
 *
 * On a cluster GPUs come only from Spark: a task uses the one that Spark gave it. Spark gives none in local mode, where all ranks are
 * threads of one process and take the machine's GPUs in their order.
 */
private[kindling] sealed trait DeviceChoice extends Serializable {

  /** The device of a task. `index` numbers the tasks that run side by side. */
  def device(index: Int): String

  /** Whether the memory of a rank's tensors is that of a GPU, as far as the driver knows. */
  def onGpu: Boolean

  /** Refuses on the driver what no task could do. */
  def check(): Unit = ()
}

private[kindling] object Gpus {
  private final val Resource = "gpu"
  final val TaskAmount = s"spark.task.resource.$Resource.amount"

  /** The choice for `ranks` tasks, from the parameter `device`. */
  def choose(device: String, conf: String => Option[String], local: Boolean, ranks: Int): DeviceChoice = {
    val amount = conf(TaskAmount).map(_.toDouble).filter(_ > 0)
    device match {
      case "cpu" => Processor
      case _ if local => OfThisMachine(required = device == "cuda", ranks)
      case _ if amount.exists(_ > 1) =>
        refuse(s"$TaskAmount is ${conf(TaskAmount).mkString}, but a task computes on one GPU: set it to 1")
      case _ if amount.isDefined => OfTask
      case "cuda" =>
        refuse(
          s"device is cuda, but Spark gives its tasks no GPU: set $TaskAmount=1 and what goes with it " +
            "(spark.executor.resource.gpu.amount and its discoveryScript), or set device to cpu"
        )
      case _ => Processor
    }
  }

  private case object Processor extends DeviceChoice {
    override def device(index: Int): String = "cpu"
    override def onGpu: Boolean = false
  }

  /** The GPU that Spark gave the task. */
  private case object OfTask extends DeviceChoice {
    override def device(index: Int): String = {
      val addresses =
        Option(TaskContext.get()).flatMap(_.resources().get(Resource)).fold(Seq.empty[String])(_.addresses.toSeq)
      addresses.headOption.fold(refuse(s"Spark gave this task no GPU, although $TaskAmount is set"))(
        ordinal(_, sys.env.get("CUDA_VISIBLE_DEVICES"))
      )
    }
    override def onGpu: Boolean = true
  }

  /** GPUs of this machine, unless there are too few and they are not `required`. */
  private final case class OfThisMachine(required: Boolean, ranks: Int) extends DeviceChoice {
    override def device(index: Int): String = ofMachine(index, available.size, required, ranks)
    override def onGpu: Boolean = false
    override def check(): Unit = if (required) {
      val gpus = available
      val capabilities = Json.parse(Native.capabilities())
      if (gpus.isEmpty) refuse(Json.required(capabilities, "noGpu").asText)
      if (gpus.size < ranks)
        refuse(
          s"device is cuda and numWorkers is $ranks, but this machine has ${gpus.size} GPUs (${gpus.mkString(", ")}): lower " +
            "numWorkers, or set device to cpu"
        )
    }

    private def available: Seq[String] =
      Json.elements(Json.required(Json.parse(Native.capabilities()), "gpus")).map(_.asText)
  }

  private[internal] def ofMachine(index: Int, gpus: Int, required: Boolean, ranks: Int): String =
    if (gpus == 0) { if (required) "cuda:0" else "cpu" }
    else if (!required && gpus < ranks) "cpu"
    else s"cuda:${index % gpus}"

  /**
   * CUDA's number for a GPU that Spark names by its address, the number on the machine. With `visible` (CUDA_VISIBLE_DEVICES) CUDA
   * counts only what it lists, in its order.
   */
  private[internal] def ordinal(address: String, visible: Option[String]): String =
    visible.map(_.split(',').toSeq.map(_.trim).filter(_.nonEmpty)) match {
      case None if address.nonEmpty && address.forall(_.isDigit) => s"cuda:${address.toInt}"
      case None => refuse(
          s"""Spark calls this task's GPU "$address": its discovery script must give numbers, as nvidia-smi does"""
        )
      case Some(shown) if shown.contains(address) => s"cuda:${shown.indexOf(address)}"
      case Some(shown) =>
        refuse(
          s"Spark gave this task GPU $address, but CUDA_VISIBLE_DEVICES is ${shown.mkString(",")} and does not show it: leave it unset " +
            "in executors"
        )
    }

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
