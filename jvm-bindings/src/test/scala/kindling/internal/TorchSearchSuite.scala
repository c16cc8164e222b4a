package kindling.internal

import java.nio.file.{Files, Path}

import org.scalatest.funsuite.AnyFunSuite

/** Where libtorch is looked for, and the sentences when it is not the one. */
class TorchSearchSuite extends AnyFunSuite {
  private val nothing = NativeLoading(None, None, "", Nil)

  private def folder(version: String, layout: String = "wheel"): Path = {
    val root = Files.createTempDirectory("torch-")
    Files.createFile(Files.createDirectory(root.resolve("lib")).resolve("libtorch_cpu.so"))
    layout match {
      case "wheel" =>
        Files.writeString(root.resolve("version.py"), s"__all__ = []\n__version__ = '$version'\ndebug = False\n")
      case "zip" => Files.writeString(root.resolve("build-version"), s"$version\n")
      case _ =>
    }
    root
  }

  private def find(loading: NativeLoading, env: Map[String, String] = Map.empty) = TorchSearch.find(loading, env)

  test("a wheel, an archive and their lib folders are accepted") {
    for (layout <- Seq("wheel", "zip")) {
      val root = folder("2.11.0+cpu", layout)
      for (given_ <- Seq(root, root.resolve("lib"))) {
        val found = find(nothing.copy(param = given_.toString))
        assert(found === Right(TorchFolder(root, root.resolve("lib"), "2.11.0+cpu")))
      }
    }
  }

  test("another version is refused before anything is loaded, with what to install") {
    for (version <- Seq("2.10.1", "2.12.0+cu130", "2.110.0", "1.2.11")) {
      val text = find(nothing.copy(libtorch = Some(folder(version).toString))).swap.getOrElse("")
      assert(text.contains(s"is libtorch $version, but Kindling needs 2.11: pip install torch==2.11.0"), text)
    }
  }

  test("a folder named by the configuration must fit and nothing else is tried") {
    val good = folder("2.11.0")
    val text = find(
      nothing.copy(libtorch = Some("/nowhere"), param = good.toString),
      Map("LIBTORCH" -> good.toString)
    ).swap.getOrElse("")
    assert(text.startsWith("spark.kindling.libtorch: /nowhere is not a folder; name a folder with libtorch 2.11"))
  }

  test("the environment comes before the parameter, which comes before Python") {
    val (first, second) = (folder("2.11.1"), folder("2.11.2"))
    assert(find(nothing.copy(param = second.toString), Map("LIBTORCH" -> first.toString)).map(_.root) === Right(first))
    assert(find(nothing.copy(param = second.toString), Map("LIBTORCH" -> "/nowhere")).map(_.root) === Right(second))
  }

  test("a Python environment is asked where its torch is") {
    val root = folder("2.11.0")
    val python = script(s"echo $root")
    assert(find(nothing.copy(pythons = Seq(python))).map(_.root) === Right(root))
  }

  test("a failure lists everything that was tried") {
    val loading = NativeLoading(None, None, folder("", "none").toString, Seq(script("exit 3"), "/no/such/python"))
    val env = Map("LIBTORCH" -> folder("2.9.0").toString, "PYSPARK_PYTHON" -> script("echo"))
    // Not the python3 of this machine, which may well have the right torch.
    val text = TorchSearch.find(loading, env, lastPython = "/no/such/python3").left.getOrElse(fail("it found one"))
    Seq(
      "pip install torch==2.11.0",
      "spark.kindling.libtorch: not set",
      "is libtorch 2.9.0",
      "does not say its version",
      "ended with exit code 3",
      "cannot be run",
      "it has none"
    ).foreach(part => assert(text.contains(part), part))
  }

  test("what the dynamic linker says becomes a sentence with a way out") {
    Seq(
      "libgomp.so.1: cannot open shared object file: No such file or directory" -> "install libgomp1",
      "failed to map segment from shared object" -> "without permission to execute",
      "/lib64/libc.so.6: version `GLIBC_2.34' not found" -> "too old",
      "ld-linux-x86-64.so.2: No such file" -> "musl",
      "Native Library x already loaded in another classloader" -> "class path of the JVM",
      "something else" -> "refused it (something else)"
    ).foreach { case (message, part) =>
      assert(NativeLibrary.explain("/x/libkindling.so", message).contains(part), message)
    }
  }

  test("a file that is no library ends in a sentence with its name") {
    val file = Files.writeString(Files.createTempDirectory("lib-").resolve("libkindling.so"), "no library")
    val text = intercept[NativeLoadException](NativeLibrary.open(file)).getMessage
    assert(text.startsWith(s"$file cannot be loaded"))
  }

  test("a platform without a native library is refused by name") {
    assert(intercept[NativeLoadException](NativeLibrary.checkPlatform("Mac OS X", "aarch64")).getMessage.contains(
      "Mac OS X on aarch64"
    ))
  }

  private def script(line: String): String = {
    val file = Files.writeString(Files.createTempDirectory("python-").resolve("python"), s"#!/bin/sh\n$line\n")
    assert(file.toFile.setExecutable(true))
    file.toString
  }
}
