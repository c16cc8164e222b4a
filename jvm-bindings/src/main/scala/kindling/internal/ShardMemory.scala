package kindling.internal

import java.lang.management.ManagementFactory

import org.apache.spark.SparkConf
import org.apache.spark.ml.kindling.Cluster

import com.fasterxml.jackson.databind.JsonNode

/**
 * How much memory the rows of all runs may take in an executor process. Rows that come after go to files in Spark's local
 * directories. `bytes` is None where each executor decides by what its machine has; `onDisk` says whether files may be written.
 */
private[kindling] final case class ShardMemory(bytes: Option[Long], onDisk: Boolean) {

  /** As the native library reads it, in the executor that calls this. */
  def json(): JsonNode = {
    val node = Json.obj()
    if (onDisk) {
      node.put("memory", bytes.getOrElse(ShardMemory.ofMachine()))
      val directories = node.putArray("directories")
      Cluster.localDirectories().foreach(directories.add)
    }
    node
  }
}

private[kindling] object ShardMemory {
  private val MiB = 1L << 20

  /** What a JVM uses beside its heap, left out of what rows get. */
  private val Jvm = 256 * MiB

  /** Less would only make many small files. */
  private val Least = 64 * MiB

  /**
   * What the user says; without a word, what the container has beside its heap, its ranks and their batches (`batchBytes` each, or
   * half of it if they might take more) where one is enforced (YARN, Kubernetes), and a quarter of the machine elsewhere.
   */
  def of(
      asked: Option[Long],
      ranks: MemoryEstimate,
      master: String,
      conf: SparkConf,
      batchBytes: Long = 0
  ): ShardMemory =
    // Spark encrypts what it writes to these directories then; rows in plain text do not belong beside it.
    if (conf.getBoolean("spark.io.encryption.enabled", defaultValue = false)) {
      asked.foreach { bytes =>
        throw new IllegalArgumentException(
          s"shardMemory is $bytes and spark.io.encryption.enabled is true, but Kindling does not encrypt the rows that it writes to " +
            "local directories: leave shardMemory unset, and all rows stay in memory"
        )
      }
      ShardMemory(None, onDisk = false)
    } else {
      val contained =
        if (MemoryEstimate.enforced(master)) {
          val left = MemoryEstimate.overheadMiB(conf) * MiB - ranks.total - Jvm
          // A batchSize beyond all rows says nothing of what batches will take.
          Some(math.max(Least, left - math.min(batchBytes * ranks.ranks, left / 2)))
        } else None
      ShardMemory(asked.orElse(contained), onDisk = true)
    }

  /** A quarter of the memory of this machine, or of the container as far as the JVM knows of it. */
  private[internal] def ofMachine(): Long =
    ManagementFactory.getOperatingSystemMXBean match {
      case system: com.sun.management.OperatingSystemMXBean => math.max(Least, system.getTotalMemorySize / 4)
      case _ => 1024 * MiB
    }
}
