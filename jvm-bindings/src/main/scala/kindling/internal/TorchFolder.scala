package kindling.internal

import java.nio.charset.StandardCharsets.UTF_8
import java.nio.file.{Files, InvalidPathException, Path, Paths}

import scala.util.control.NonFatal

/** A folder with libtorch of the version that Kindling is built for. `lib` holds the libraries. */
private[kindling] final case class TorchFolder(root: Path, lib: Path, version: String)

/**
 * Looks at a folder before anything of it is loaded: a libtorch of another version would load, and crash later.
 *
 * Two layouts exist: the Python package (`torch/version.py`, `torch/lib`) and the libtorch archive (`libtorch/build-version`,
 * `libtorch/lib`). Either the folder or its `lib` may be given.
 */
private[kindling] object TorchFolder {
  final val Required = "2.11"
  final val Install = "pip install torch==2.11.0"

  /** Left: why the folder cannot be used, as the end of a sentence that begins with its name. */
  def inspect(folder: String): Either[String, TorchFolder] =
    try {
      val path = Paths.get(folder).toAbsolutePath
      if (!Files.isDirectory(path)) Left("is not a folder")
      else
        Seq(path -> path.resolve("lib"), Option(path.getParent).getOrElse(path) -> path)
          .find { case (_, lib) => Files.isRegularFile(lib.resolve("libtorch_cpu.so")) } match {
          case Some((root, lib)) => checkVersion(root, lib)
          case None => Left("holds no lib/libtorch_cpu.so")
        }
    } catch {
      case e: InvalidPathException => Left(s"is not a path: ${e.getReason}")
      case NonFatal(e) => Left(s"cannot be read: ${e.getMessage}")
    }

  private def checkVersion(root: Path, lib: Path): Either[String, TorchFolder] = version(root) match {
    case None =>
      Left(s"does not say its version (neither version.py nor build-version); Kindling needs libtorch $Required")
    case Some(found) if !(found + ".").startsWith(Required + ".") =>
      Left(s"is libtorch $found, but Kindling needs $Required: $Install")
    case Some(found) => Right(TorchFolder(root, lib, found))
  }

  private val PythonVersion = """(?m)^__version__\s*(?::\s*\w+\s*)?=\s*['"]([^'"]+)['"]""".r

  private def version(root: Path): Option[String] = {
    def read(name: String): Option[String] =
      Some(root.resolve(name)).filter(Files.isRegularFile(_)).map(file => new String(Files.readAllBytes(file), UTF_8))
    read("version.py")
      .flatMap(text => PythonVersion.findFirstMatchIn(text).map(_.group(1)))
      .orElse(read("build-version").map(_.trim).filter(_.nonEmpty))
  }
}
