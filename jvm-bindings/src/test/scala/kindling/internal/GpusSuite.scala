package kindling.internal

import org.scalatest.funsuite.AnyFunSuite

/** Which task gets which GPU, where there is neither Spark nor a GPU. */
class GpusSuite extends AnyFunSuite {
  private def choose(device: String, amount: Option[String], local: Boolean = false) =
    Gpus.choose(device, Map(amount.map("spark.task.resource.gpu.amount" -> _).toSeq: _*).get, local, 2)

  private def refusal(body: => Any): String = intercept[IllegalArgumentException](body).getMessage

  test("on a cluster a task computes on the GPU that Spark gives it, if it gives one") {
    assert(choose("auto", None).device(1) === "cpu")
    assert(choose("auto", Some("0")).device(1) === "cpu")
    assert(choose("auto", Some("1")).onGpu)
    assert(choose("cuda", Some("0.5")).onGpu)
    assert(!choose("cpu", Some("1")).onGpu && choose("cpu", Some("1")).device(0) === "cpu")
  }

  test("cuda is never quietly the processor") {
    assert(refusal(choose("cuda", None)).contains(
      "device is cuda, but Spark gives its tasks no GPU: set spark.task.resource.gpu"
    ))
    assert(refusal(choose("auto", Some("1")).device(0)).contains("Spark gave this task no GPU"))
  }

  test("a task computes on one GPU") {
    assert(
      refusal(choose("auto", Some("2"))).contains("spark.task.resource.gpu.amount is 2, but a task computes on one GPU")
    )
  }

  test("in local mode ranks take the machine's GPUs in their order, or none of them does") {
    assert(Gpus.ofMachine(1, 2, required = false, ranks = 2) === "cuda:1")
    assert(Gpus.ofMachine(5, 2, required = false, ranks = 1) === "cuda:1", "tasks of transform share them")
    assert(Gpus.ofMachine(0, 1, required = false, ranks = 2) === "cpu")
    assert(Gpus.ofMachine(0, 0, required = false, ranks = 1) === "cpu")
    assert(
      Gpus.ofMachine(0, 0, required = true, ranks = 1) === "cuda:0",
      "which the native library refuses with the reason"
    )
  }

  test("CUDA counts the GPUs that are visible to it") {
    assert(Gpus.ordinal("3", None) === "cuda:3")
    assert(Gpus.ordinal("3", Some("1, 3")) === "cuda:1")
    assert(Gpus.ordinal("GPU-7", Some("GPU-5,GPU-7")) === "cuda:1")
  }

  test("a GPU that CUDA does not show, or that has no number, is refused by name") {
    assert(refusal(Gpus.ordinal("0", Some("1,3"))).contains("GPU 0, but CUDA_VISIBLE_DEVICES is 1,3"))
    assert(refusal(Gpus.ordinal("GPU-7", None)).contains("\"GPU-7\""))
  }
}
