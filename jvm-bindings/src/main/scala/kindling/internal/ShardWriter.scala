package kindling.internal

import org.apache.spark.sql.catalyst.InternalRow

/** The two halves of a shard, with the numbers the native library knows them by. */
private[kindling] object Split {
  final val Train = 0
  final val Validation = 1
}

/**
 * What a sealed shard reports: where it is, which attempt at the partition made it, how many rows it holds, and a hash of them that
 * depends on every row and on their order. `bytes` is what the rows take as they are kept, which is less than the layout's width where
 * they are mostly zeros. `endpoint` (JSON) is where other processes fetch its rows, if anybody may need them.
 */
private[kindling] final case class ShardReport(
    partition: Int,
    attempt: Long,
    process: String,
    key: Long,
    rows: Long,
    validationRows: Long,
    bytes: Long,
    spilledBytes: Long,
    hash: String,
    endpoint: Option[String] = None
) {

  /** Bytes in memory; files hold padding beside the rows. */
  def residentBytes: Long = math.max(0L, bytes - spilledBytes)
}

private[kindling] object ShardReport {
  def parse(json: Array[Byte]): ShardReport = {
    val node = Json.parse(json)
    ShardReport(
      Json.required(node, "partition").asInt,
      Json.required(node, "attempt").asLong,
      Json.required(node, "process").asText,
      Json.required(node, "key").asLong,
      Json.required(node, "rows").asLong,
      Json.required(node, "validationRows").asLong,
      Json.required(node, "bytes").asLong,
      Json.required(node, "spilledBytes").asLong,
      Json.required(node, "hash").asText
    )
  }
}

/** Where a shard's memory comes from: the native library, or in tests memory of their own. */
private[kindling] trait ShardBlocks {

  /** Room for `rows` rows of a split; fills in where each column begins. */
  def reserve(split: Int, rows: Int, addresses: Array[Long]): Unit

  /** The first `rows` of the reserved rows are written. */
  def commit(split: Int, rows: Int): Unit

  def close(): ShardReport

  def discard(): Unit
}

private[kindling] final class NativeBlocks(key: Long) extends ShardBlocks {
  override def reserve(split: Int, rows: Int, addresses: Array[Long]): Unit =
    Native.shardReserve(key, split, rows, addresses)
  override def commit(split: Int, rows: Int): Unit = Native.shardCommit(key, split, rows)
  override def close(): ShardReport = ShardReport.parse(Native.shardClose(key))
  override def discard(): Unit = Native.shardDiscard(key)
}

/**
 * Fills one native shard with rows: reserve a block, write rows into it, commit it, next block.
 *
 * It owns the shard until [[seal]]: `close` before that drops what was written, after it does nothing. `discard`
 * drops the shard sealed or not, for a task that failed after all. `committed` is told how many rows each block has brought. Blocks
 * start small and double up to 4 MiB, so that many tiny partitions do not reserve much more than they hold, and large ones lie in
 * huge pages.
 */
private[kindling] final class ShardWriter(
    blocks: ShardBlocks,
    layout: FeatureLayout,
    reader: FeatureReader,
    committed: Int => Unit = _ => ()
) extends AutoCloseable {
  private val halves = Array(new Half(Split.Train), new Half(Split.Validation))
  private var owned = true

  /** Writes one row into a half; false if the reader drops the row. */
  def write(row: InternalRow, split: Int): Boolean = {
    val half = halves(split)
    val written = reader.write(row, half.addressesOfFreeSlot(), half.used)
    if (written) half.used += 1
    written
  }

  /** For a reader that writes several rows at once. */
  def half(split: Int): Half = halves(split)

  /** Commits what is open and seals the shard: from now on it is readable, and whoever releases its run frees it. */
  def seal(): ShardReport = {
    halves.foreach(_.commit())
    val report = blocks.close()
    owned = false
    report
  }

  override def close(): Unit = if (owned) discard()

  def discard(): Unit = {
    owned = false
    blocks.discard()
  }

  /** The rows of one split. Whoever writes rows into free slots, from `used` on, adds them to `used`. */
  final class Half private[ShardWriter] (split: Int) {

    /** Where the open block's columns begin. */
    val addresses = new Array[Long](layout.columns.size)
    private var reserved = 0
    private var next = ShardWriter.firstBlockRows(layout)
    var used = 0

    /** Free slots of the open block. */
    def room: Int = reserved - used

    /** The addresses, of a new block if the open one is full: there is room for a row now. */
    def addressesOfFreeSlot(): Array[Long] = {
      if (used == reserved) {
        commit()
        blocks.reserve(split, next, addresses)
        reserved = next
        next = math.min(next.toLong * 2, ShardWriter.maxBlockRows(layout)).toInt
      }
      addresses
    }

    private[ShardWriter] def commit(): Unit =
      if (reserved > 0) {
        val rows = used
        blocks.commit(split, rows)
        reserved = 0
        used = 0
        committed(rows)
      }
  }
}

private[kindling] object ShardWriter {
  private val FirstBlockBytes = 64L << 10
  private val MaxBlockBytes = 4L << 20

  def open(
      run: String,
      partition: Int,
      attempt: Long,
      layout: FeatureLayout,
      handleInvalid: HandleInvalid,
      memory: ShardMemory,
      committed: Int => Unit
  ): ShardWriter = {
    val columns = Json.array(layout.columns.map(ColumnSpec.json))
    val spec = Json.obj().put("run", run).put("partition", partition).put("attempt", attempt)
    Json.set(spec, "columns", columns)
    Json.set(spec, "budget", memory.json())
    val key = LocalRuns.open(run) { liveRuns =>
      val runs = spec.putArray("liveRuns")
      liveRuns.foreach(runs.add)
      Native.shardOpen(Json.bytes(spec))
    }
    new ShardWriter(new NativeBlocks(key), layout, new FeatureReader(layout, handleInvalid), committed)
  }

  private[internal] def firstBlockRows(layout: FeatureLayout): Int = rowsIn(FirstBlockBytes, layout)

  private[internal] def maxBlockRows(layout: FeatureLayout): Int = rowsIn(MaxBlockBytes, layout)

  /** In a block each column begins at a multiple of 64 bytes. */
  private def rowsIn(bytes: Long, layout: FeatureLayout): Int =
    math.max(1L, (bytes - 64L * layout.columns.size) / layout.rowBytes).toInt
}

/** How a native column is described to the native library. */
private[kindling] object ColumnSpec {
  def json(column: NativeColumn): com.fasterxml.jackson.databind.JsonNode =
    Json
      .obj()
      .put("name", column.name)
      .put("role", column.role.name)
      .put("dtype", column.dtype.name)
      .put("width", column.width)
}
