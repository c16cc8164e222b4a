package kindling.internal

import org.apache.spark.sql.catalyst.expressions.UnsafeRow
import org.apache.spark.unsafe.Platform

import scala.collection.mutable

/**
 * The bytes of a batch's rows until its predictions are there: one copy, into chunks that the next batch uses again. A chunk is a
 * megabyte, or as large as the row that it was made for, so that no array has to grow.
 */
private[kindling] final class KeptRows {
  private val chunks = mutable.ArrayBuffer.empty[Array[Byte]]
  private var chunk = 0
  private var used = 0
  private var count = 0
  // For each row: its chunk, where it starts in it, and its length.
  private var places = new Array[Int](3 * 1024)

  def size: Int = count

  def clear(): Unit = {
    chunk = 0
    used = 0
    count = 0
  }

  def add(row: UnsafeRow): Unit = {
    val length = row.getSizeInBytes
    makeRoom(length)
    Platform.copyMemory(
      row.getBaseObject,
      row.getBaseOffset,
      chunks(chunk),
      Platform.BYTE_ARRAY_OFFSET + used.toLong,
      length.toLong
    )
    if (places.length < 3 * (count + 1)) places = java.util.Arrays.copyOf(places, 2 * places.length)
    places(3 * count) = chunk
    places(3 * count + 1) = used
    places(3 * count + 2) = length
    used += length
    count += 1
  }

  /** Lets `row` show row `i`; it holds until the next `clear`. */
  def show(i: Int, row: UnsafeRow): Unit =
    row.pointTo(chunks(places(3 * i)), Platform.BYTE_ARRAY_OFFSET + places(3 * i + 1).toLong, places(3 * i + 2))

  private def makeRoom(length: Int): Unit =
    if (chunks.isEmpty) chunks += new Array[Byte](math.max(length, KeptRows.ChunkBytes))
    else if (chunks(chunk).length - used < length) {
      chunk += 1
      used = 0
      if (chunk == chunks.size) chunks += new Array[Byte](math.max(length, KeptRows.ChunkBytes))
      else if (chunks(chunk).length < length) chunks(chunk) = new Array[Byte](length)
    }
}

private object KeptRows {
  private final val ChunkBytes = 1 << 20
}
