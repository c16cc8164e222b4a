package kindling.internal

import java.io.IOException
import java.nio.file.{Files, Path, Paths, StandardCopyOption}

import org.slf4j.LoggerFactory

/**
 * Loads libc10, libtorch_cpu and libkindling, in this order and by absolute path, so that no LD_LIBRARY_PATH is needed.
 *
 * Once per process, because the dynamic linker's memory is the process's: the first call decides where from, later calls return
 * at once. A failed call changes nothing and the next one tries again. Every failure is one sentence that says what to do.
 */
private[kindling] object NativeLibrary {
  private val log = LoggerFactory.getLogger("kindling.NativeLibrary")
  private val Resource = "/kindling/native/linux-x86_64/libkindling.so"

  @volatile private var loaded: Option[TorchFolder] = None

  /** The libtorch in use, loaded now if it was not. */
  def load(loading: NativeLoading): TorchFolder = loaded.getOrElse(synchronized(loaded.getOrElse(loadOnce(loading))))

  private def loadOnce(loading: NativeLoading): TorchFolder = {
    checkPlatform(sys.props("os.name"), sys.props("os.arch"))
    val torch = TorchSearch.find(loading).fold(reason => throw new NativeLoadException(reason), identity)
    open(torch.lib.resolve("libc10.so"))
    open(torch.lib.resolve("libtorch_cpu.so"))
    loading.library.filter(_.nonEmpty) match {
      case Some(path) =>
        val file = Paths.get(path).toAbsolutePath
        if (!Files.isRegularFile(file))
          throw new NativeLoadException(s"${NativeLoading.Library} names $file, which is not a file")
        open(file)
      case None => openFromJar()
    }
    Native.start(Json.bytes(Json.obj().put("logLevel", "warn")))
    log.info("libkindling is loaded with libtorch {} from {}", torch.version, torch.root: Any)
    loaded = Some(torch)
    torch
  }

  private[internal] def checkPlatform(os: String, architecture: String): Unit =
    if (os != "Linux" || !Set("amd64", "x86_64").contains(architecture))
      throw new NativeLoadException(s"Kindling runs on Linux on x86-64, but this is $os on $architecture")

  /** The file is gone right after loading, when the mapping keeps it alive: nothing is left behind even by a killed process. */
  private def openFromJar(): Unit = {
    val stream = getClass.getResourceAsStream(Resource)
    if (stream == null)
      throw new NativeLoadException(
        s"this kindling.jar was built without the native library ($Resource is missing): build it with -Dkindling.native=<libkindling.so> " +
          s"or name the library in ${NativeLoading.Library}"
      )
    try {
      // Private to this user (rwx------): nobody can put another library in its place.
      val folder = Files.createTempDirectory("kindling-native-")
      val file = folder.resolve("libkindling.so")
      try {
        Files.copy(stream, file, StandardCopyOption.REPLACE_EXISTING): Unit
        open(file)
      } finally {
        Files.deleteIfExists(file): Unit
        Files.deleteIfExists(folder): Unit
      }
    } catch {
      case e: IOException =>
        throw new NativeLoadException(
          s"the native library cannot be unpacked into ${sys.props("java.io.tmpdir")} (${e.getMessage}): " +
            s"set java.io.tmpdir to a writable folder, or ${NativeLoading.Library} to the unpacked library",
          e
        )
    } finally stream.close()
  }

  private[internal] def open(file: Path): Unit =
    try System.load(file.toString)
    catch {
      case e: UnsatisfiedLinkError =>
        throw new NativeLoadException(explain(file.toString, String.valueOf(e.getMessage)), e)
    }

  /**
   * The dynamic linker says what went wrong only in text. What is not recognised is passed on as it is.
   */
  private[internal] def explain(file: String, message: String): String = {
    val reason =
      if (message.contains("already loaded in another classloader"))
        "it was already loaded by another class loader of this process: put kindling.jar on the class path of the JVM " +
          "(spark.jars or --jars at the start), not into a session"
      else if (message.contains("failed to map segment") || message.contains("Operation not permitted"))
        s"its folder is mounted without permission to execute: set java.io.tmpdir to another folder, or ${NativeLoading.Library} to a library elsewhere"
      else if (message.contains("libgomp"))
        "the OpenMP runtime is missing: install libgomp1 (Debian, Ubuntu) or libgomp (Fedora, RHEL)"
      else if (
        message.contains("ld-linux-x86-64") || message.contains("Error relocating") || message.contains("ld-musl")
      )
        "it needs glibc, but this system uses musl: use an image based on Debian, Ubuntu or the like"
      else if (message.contains("GLIBC_") || message.contains("GLIBCXX_"))
        "this system's C or C++ library is too old for it: use a newer image"
      else "the dynamic linker refused it"
    s"$file cannot be loaded: $reason ($message)"
  }
}

/** The native libraries cannot be loaded in this process; the message says what was tried and what to do. */
private[kindling] final class NativeLoadException(message: String, cause: Throwable)
    extends RuntimeException(message, cause) {
  def this(message: String) = this(message, null)
}
