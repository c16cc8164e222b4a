package kindling.internal

import kindling.TrainingException
import org.scalatest.funsuite.AnyFunSuite

/** Waiting for task slots, with a clock and a cluster made up here. */
class SlotsSuite extends AnyFunSuite {

  /** A cluster that changes with the time that passes in pauses. */
  private class Cluster(at: Long => SlotCount) {
    var millis = 0L
    def slots(expected: Option[Int] = None, local: Boolean = false): Slots =
      new Slots(() => at(millis), expected, local, () => millis * 1000000L, pause => millis += pause)
  }

  private def constant(total: Int, running: Int = 0, executors: Int = 2) =
    new Cluster(_ => SlotCount(total, running, executors))

  test("in local mode too many workers are refused at once, with the master to use") {
    val cluster = constant(2, executors = 1)
    val text = intercept[IllegalArgumentException](cluster.slots(local = true).requireTotal(3, 600000)).getMessage
    assert(text.contains("numWorkers is 3") && text.contains("2 task slots") && text.contains("local[3]"))
    assert(cluster.millis === 0)
  }

  test("a cluster that has stopped growing is refused within seconds") {
    val cluster = constant(2)
    val text = intercept[IllegalArgumentException](cluster.slots().requireTotal(3, 600000)).getMessage
    assert(text.contains("set numWorkers to 2 or fewer") && text.contains("spark.executor.cores"))
    assert(cluster.millis < 15000)
  }

  test("executors that are still to come are waited for, up to the timeout") {
    val coming = new Cluster(t => if (t < 40000) SlotCount(2, 0, 1) else SlotCount(4, 0, 2))
    coming.slots(expected = Some(2)).requireTotal(4, 600000)
    assert(coming.millis >= 40000)
    val never = constant(0, executors = 0)
    assert(intercept[IllegalArgumentException](never.slots().requireTotal(1, 60000)).getMessage.contains(
      "no executor has registered"
    ))
    assert(never.millis >= 60000)
  }

  test("busy slots are waited for and the wait ends with a sentence") {
    val busy = new Cluster(t => SlotCount(4, if (t < 5000) 4 else 1, 2))
    busy.slots().reserve(3, 600000).close()
    assert(busy.millis >= 5000)
    val text = intercept[IllegalStateException](constant(4, running = 3).slots().reserve(2, 10000)).getMessage
    assert(
      text.contains("2 free task slots") && text.contains("3 tasks run on 4 slots") && text.contains("slotTimeout")
    )
  }

  test("two runs do not take the same slots before their tasks run") {
    val cluster = constant(4)
    val first = cluster.slots().reserve(3, 1000)
    try intercept[IllegalStateException](cluster.slots().reserve(2, 1000)): Unit
    finally first.close()
    first.close()
    cluster.slots().reserve(4, 1000).close()
  }

  test("a claim counts beside the tasks that run, until its ranks are among them") {
    // Two tasks of another job run; a run has claimed the other two slots.
    val first = constant(4, running = 2).slots().reserve(2, 1000)
    try {
      val text = intercept[IllegalStateException](constant(4, running = 2).slots().reserve(1, 1000)).getMessage
      assert(text.contains("2 tasks run on 4 slots, and 2 slots wait for the ranks of other runs"))
    } finally first.close()
    // Its ranks have started, and the other job is done.
    constant(4, running = 2).slots().reserve(2, 1000).close()
  }

  test("an interrupted wait for slots ends at once as a cancelled run and claims nothing") {
    val busy = new Slots(() => SlotCount(2, 1, 1), None, local = true)
    Seq(() => busy.reserve(2, 600000).close(), () => constantly(1).requireTotal(2, 600000)).foreach { wait =>
      Thread.currentThread().interrupt()
      val start = System.nanoTime()
      val failure = intercept[TrainingException] {
        try wait()
        catch Failures.ofInterrupt
      }
      assert(failure.getMessage === "the run was cancelled" && failure.getCause.isInstanceOf[InterruptedException])
      assert(System.nanoTime() - start < 10L * 1000 * 1000 * 1000)
      assert(!Thread.interrupted())
    }
    constant(2).slots().reserve(2, 1000).close()
  }

  /** With the real clock and pause. */
  private def constantly(total: Int): Slots = new Slots(() => SlotCount(total, 0, 1), Some(2), local = false)
}
