package kindling.internal

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.Platform

/**
 * How the pixels of a picture fill a row of a program's input.
 *
 * @param channelsFirst
 *   whether the channels are the first size of the shape ([channels, height, width]) or the last
 * @param unit
 *   whether pixels go from 0 to 1 instead of from 0 to 255
 */
private[kindling] final case class Pixels(height: Int, width: Int, channels: Int, channelsFirst: Boolean, unit: Boolean)

private[kindling] object Pixels {
  private val Channels = Set(1L, 3L, 4L)

  /** What the shape of a row says; none if it is no picture's. */
  def of(shape: Seq[Long], unit: Boolean): Option[Pixels] = shape match {
    case Seq(height, width) => Some(Pixels(height.toInt, width.toInt, 1, channelsFirst = true, unit))
    case Seq(first, middle, last) =>
      (Channels(first), Channels(last)) match {
        case (true, false) => Some(Pixels(middle.toInt, last.toInt, first.toInt, channelsFirst = true, unit))
        case (false, true) => Some(Pixels(first.toInt, middle.toInt, last.toInt, channelsFirst = false, unit))
        case _ => None
      }
    case _ => None
  }
}

private[kindling] object Images {

  /** Spark's image data source; what it says of nulls is of no matter. */
  private val fields = Seq[(String, DataType)](
    "origin" -> StringType,
    "height" -> IntegerType,
    "width" -> IntegerType,
    "nChannels" -> IntegerType,
    "mode" -> IntegerType,
    "data" -> BinaryType
  )

  def isStruct(dataType: DataType): Boolean = dataType match {
    case struct: StructType => struct.map(field => field.name -> field.dataType) == fields
    case _ => false
  }

  /** Whether a column can hold pictures. */
  def serves(dataType: DataType): Boolean = dataType == BinaryType || isStruct(dataType)
}

/**
 * One column of pictures: files of PNG or JPEG in a binary column, or the decoded pixels in a struct of Spark's image data source. They
 * are decoded and resized by the native library, which gives bytes, red first.
 *
 * A picture that cannot be used is as invalid as a null: `handleInvalid` says what becomes of its row, and keep cannot keep it.
 */
private final class ImageWriter(
    name: String,
    ordinal: Int,
    isStruct: Boolean,
    pixels: Pixels,
    target: DType,
    keep: Boolean
) extends ColumnWriter {
  import pixels._

  override def write(row: InternalRow, address: Long): Boolean =
    if (row.isNullAt(ordinal)) invalid(ColumnWriter.isNull(name))
    else
      try {
        put(picture(row), address)
        true
      } catch { case problem: IllegalArgumentException => invalid(sentence(problem)) }

  private def invalid(sentence: String): Boolean = {
    if (keep) throw new RowProblem(s"$sentence, which handleInvalid=keep cannot keep")
    false
  }

  private def sentence(problem: IllegalArgumentException): String = s"""the column "$name": ${problem.getMessage}"""

  override def problem(row: InternalRow): String =
    if (row.isNullAt(ordinal)) ColumnWriter.isNull(name)
    else
      try {
        val _ = picture(row)
        s"""the column "$name" holds no picture"""
      } catch { case problem: IllegalArgumentException => sentence(problem) }

  private def picture(row: InternalRow): Array[Byte] =
    if (isStruct) decoded(row.getStruct(ordinal, ImageWriter.Fields))
    else Native.imageDecode(row.getBinary(ordinal), height, width, channels)

  private def decoded(image: InternalRow): Array[Byte] = {
    def number(field: Int) = if (image.isNullAt(field)) -1 else image.getInt(field)
    val (mode, depth) = (number(ImageWriter.Mode), number(ImageWriter.Depth))
    // Spark's source marks a file that it could not decode so.
    if (mode < 0 || image.isNullAt(ImageWriter.Data))
      throw new IllegalArgumentException("the picture is marked as one that Spark could not decode")
    if (!ImageWriter.modes.get(mode).contains(depth))
      throw new IllegalArgumentException(
        s"the picture has the OpenCV type $mode and $depth channels: types 0 (1 channel), 16 (3) and 24 (4) are read"
      )
    val data = image.getBinary(ImageWriter.Data)
    if (depth > 1) ImageWriter.swapRedAndBlue(data, depth)
    Native.imageResize(
      data,
      Array(number(ImageWriter.Height), number(ImageWriter.Width), depth),
      height,
      width,
      channels
    )
  }

  private def put(bytes: Array[Byte], address: Long): Unit = {
    val size = target.size.toLong
    val plane = height * width
    var i = 0
    while (i < plane) {
      var channel = 0
      while (channel < channels) {
        val place = if (channelsFirst) channel * plane + i else i * channels + channel
        val at = address + place * size
        val value = bytes(i * channels + channel) & 0xff
        target match {
          case DType.Float32 => Platform.putFloat(null, at, if (unit) value / 255f else value.toFloat)
          case DType.Float64 => Platform.putDouble(null, at, if (unit) value / 255.0 else value.toDouble)
          case other => Store.whole(value.toLong, other, at)
        }
        channel += 1
      }
      i += 1
    }
  }
}

private object ImageWriter {
  final val Fields = 6
  final val Height = 1
  final val Width = 2
  final val Depth = 3
  final val Mode = 4
  final val Data = 5

  /** Channels by OpenCV's type: 8 bits each. */
  val modes: Map[Int, Int] = Map(0 -> 1, 16 -> 3, 24 -> 4)

  /** Spark's images have blue first. The array is the row's own copy. */
  def swapRedAndBlue(data: Array[Byte], depth: Int): Unit = {
    var i = 0
    while (i + depth <= data.length) {
      val blue = data(i)
      data(i) = data(i + 2)
      data(i + 2) = blue
      i += depth
    }
  }
}
