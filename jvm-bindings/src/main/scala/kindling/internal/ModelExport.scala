package kindling.internal

import java.io.{IOException, OutputStream}

import org.apache.hadoop.fs.{FileAlreadyExistsException, Path}
import org.apache.spark.sql.SparkSession

import scala.util.control.NonFatal

/** A trained network on its way to other programs: one file, through Hadoop's file systems. What fails leaves no half a file. */
private[kindling] object ModelExport {

  private val Modes = Seq("training", "evaluation")

  /** The `.pt2` archive, written piece by piece. Needs the native library. */
  def program(network: Trained, libtorch: String, path: String, mode: String, overwrite: Boolean): Unit = {
    if (!Modes.contains(mode)) refuse(s"""mode must be one of ${Modes.mkString(", ")}, but is "$mode"""")
    val config = Json.bytes(Json.obj().put("mode", mode))
    NativeLibrary.load(NativeLoading.of(SparkSession.active.sparkContext.getConf.getOption, libtorch)): Unit
    write(path, overwrite)(Native.programExport(config, network.program.bytes, network.weights, _))
  }

  /** The safetensors file. */
  def weights(network: Trained, path: String, overwrite: Boolean): Unit =
    write(path, overwrite)(_.write(network.weights))

  private def write(path: String, overwrite: Boolean)(content: OutputStream => Unit): Unit =
    try {
      if (path.isEmpty) refuse("the path to export to is empty")
      val file = new Path(path)
      val fs = file.getFileSystem(SparkSession.active.sparkContext.hadoopConfiguration)
      if (fs.exists(file)) {
        if (fs.getFileStatus(file).isDirectory) refuse(s"$path is a folder: give the path of a file in it")
        if (!overwrite) refuse(taken(path))
      }
      val stream = fs.create(file, overwrite)
      try
        try content(stream)
        finally stream.close()
      catch {
        case NonFatal(e) =>
          try fs.delete(file, false): Unit
          catch { case NonFatal(second) => e.addSuppressed(second) }
          throw e
      }
    } catch {
      case _: FileAlreadyExistsException => refuse(taken(path))
      case e: IOException => throw new IllegalArgumentException(s"$path cannot be written: ${e.getMessage}", e)
    }

  private def taken(path: String) = s"$path exists already: give another path, or overwrite = true"

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
