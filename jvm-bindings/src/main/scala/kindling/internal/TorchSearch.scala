package kindling.internal

import java.nio.charset.StandardCharsets.UTF_8
import java.util.concurrent.TimeUnit

import scala.util.control.NonFatal

/**
 * What a process needs to know to load the native libraries, gathered on the driver and sent with every task.
 *
 * @param library  `spark.kindling.native`: a libkindling.so to use in place of the jar's
 * @param libtorch `spark.kindling.libtorch`
 * @param param    the parameter `libtorch`, or empty
 * @param pythons  Python commands of the driver whose torch may be used, best first
 */
private[kindling] final case class NativeLoading(
    library: Option[String],
    libtorch: Option[String],
    param: String,
    pythons: Seq[String]
)

private[kindling] object NativeLoading {
  final val Library = "spark.kindling.native"
  final val Libtorch = "spark.kindling.libtorch"

  def of(conf: String => Option[String], param: String): NativeLoading = NativeLoading(
    library = conf(Library),
    libtorch = conf(Libtorch),
    param = param,
    pythons = conf("spark.pyspark.python").toSeq ++ sys.env.get("PYSPARK_PYTHON")
  )
}

/** Finds libtorch in this process's surroundings, from what was said most plainly to what can be guessed. */
private[kindling] object TorchSearch {
  private val PythonSeconds = 30L

  /**
   * The first folder that fits. A folder named by `spark.kindling.libtorch` must fit: using another one behind its back would hide
   * the mistake. The others may be of another machine (a parameter is filled in on the driver) and are passed over with a note.
   */
  def find(
      loading: NativeLoading,
      env: Map[String, String] = sys.env,
      lastPython: String = "python3"
  ): Either[String, TorchFolder] = {
    val tried = Seq.newBuilder[String]

    def check(origin: String, folder: String): Option[TorchFolder] = TorchFolder.inspect(folder) match {
      case Right(found) => Some(found)
      case Left(reason) =>
        tried += s"$origin: $folder $reason"
        None
    }

    def folder(origin: String, value: Option[String]): Option[TorchFolder] = value.filter(_.nonEmpty) match {
      case Some(path) => check(origin, path)
      case None =>
        tried += s"$origin: not set"
        None
    }

    def python(command: String): Option[TorchFolder] = askPython(command) match {
      case Right(path) => check(s"the torch of $command", path)
      case Left(reason) =>
        tried += s"the torch of $command: $reason"
        None
    }

    val fromConf = folder(NativeLoading.Libtorch, loading.libtorch)
    if (fromConf.isEmpty && loading.libtorch.exists(_.nonEmpty)) Left(
      s"${tried.result().head}; name a folder with libtorch ${TorchFolder.Required} there (${TorchFolder.Install})"
    )
    else
      fromConf
        .orElse(folder("LIBTORCH", env.get("LIBTORCH")))
        .orElse(folder("the parameter libtorch", Some(loading.param)))
        .orElse((loading.pythons ++ env.get("PYSPARK_PYTHON") :+ lastPython).distinct.to(LazyList).flatMap(
          python(_)
        ).headOption)
        .toRight(
          s"libtorch ${TorchFolder.Required} was not found; install it (${TorchFolder.Install}) or name its folder in " +
            s"${NativeLoading.Libtorch}. Tried: ${tried.result().mkString("; ")}"
        )
  }

  /** Where a Python keeps its torch. It is located and not imported: that would take seconds. */
  private def askPython(command: String): Either[String, String] =
    try {
      val script = "import importlib.util, os; s = importlib.util.find_spec('torch'); " +
        "print(os.path.dirname(s.origin) if s and s.origin else '')"
      val process = new ProcessBuilder(command, "-c", script).redirectError(ProcessBuilder.Redirect.DISCARD).start()
      try {
        process.getOutputStream.close()
        if (!process.waitFor(PythonSeconds, TimeUnit.SECONDS)) Left(s"no answer within $PythonSeconds s")
        else {
          val answer = new String(process.getInputStream.readAllBytes(), UTF_8).trim
          if (process.exitValue() != 0) Left(s"it ended with exit code ${process.exitValue()}")
          else if (answer.isEmpty) Left("it has none")
          else Right(answer)
        }
      } finally process.destroyForcibly(): Unit
    } catch {
      case e: InterruptedException =>
        Thread.currentThread().interrupt()
        Left(s"interrupted: ${e.getMessage}")
      case NonFatal(_) => Left("it cannot be run")
    }
}
