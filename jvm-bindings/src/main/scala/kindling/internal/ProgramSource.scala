package kindling.internal

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Path
import org.apache.spark.ml.attribute.AttributeGroup
import org.apache.spark.ml.linalg.{SQLDataTypes, Vector}
import org.apache.spark.sql.Dataset
import org.apache.spark.sql.types.{ArrayType, StructType}

import java.io.{FileNotFoundException, IOException}

/** The network to train: what the native library is given, and what it says of it. */
private[kindling] final case class Program(bytes: Array[Byte], description: ProgramDescription)

/** Turns the parameters `model` and `layers` into a program; a layer list gets the shape of its rows from the data. */
private[kindling] object ProgramSource {

  /** Exactly one of the two parameters must be set. Needs the native library. */
  def resolve(params: TorchParams, data: Dataset[_], hadoop: Configuration): Program = {
    val bytes = (params.get(params.model), params.get(params.layers)) match {
      case (Some(path), None) => read(path, hadoop)
      case (None, Some(json)) => LayerList.parse(json).complete(layerShape(params, json, data), params.getSeed)
      case (None, None) =>
        refuse("no network is given: set model to the path of a .pt2 archive, or layers to a layer list")
      case (Some(_), Some(_)) => refuse("model and layers are both set: a network comes from one of them")
    }
    Program(bytes, ProgramDescription.inspect(bytes))
  }

  /** A whole file through Hadoop; the sentence of a failure names the model. */
  private[kindling] def read(path: String, hadoop: Configuration): Array[Byte] =
    try {
      val file = new Path(path)
      val fs = file.getFileSystem(hadoop)
      val size = fs.getFileStatus(file).getLen
      if (size > Int.MaxValue - 64)
        refuse(s"the model $path has $size bytes, more than the 2 GiB that Spark can broadcast at once")
      val stream = fs.open(file)
      try stream.readAllBytes()
      finally stream.close()
    } catch {
      case _: FileNotFoundException => refuse(s"the model $path does not exist")
      case e: IOException => throw new IllegalArgumentException(s"the model $path cannot be read: ${e.getMessage}", e)
    }

  private def layerShape(params: TorchParams, json: String, data: Dataset[_]): Seq[Long] = {
    val own = LayerList.parse(json).inputShape
    val said = params.get(params.inputShapes).map(InputShapes.parse)
    said.foreach { shapes =>
      if (shapes.size != 1) refuse(s"inputShapes has ${shapes.size} shapes, but a layer list has one input")
    }
    (own, said.map(_.head)) match {
      case (Some(a), Some(b)) if a != b =>
        refuse(
          s"layers says inputShape ${a.mkString("[", ", ", "]")} but inputShapes says ${b.mkString("[", ", ", "]")}: leave one out"
        )
      case (Some(shape), _) => shape
      case (None, Some(shape)) => shape
      case (None, None) => Seq(widthOf(data, FeatureLayout.Choice.of(params).featuresCols))
    }
  }

  /** How many numbers the feature columns hold per row: known from the schema, or read from the first row. */
  private def widthOf(data: Dataset[_], columns: Seq[String]): Long =
    flatWidth(data.schema, columns).getOrElse(firstRow(data, columns.head))

  /** The same where the schema says it. */
  private[internal] def flatWidth(schema: StructType, columns: Seq[String]): Option[Long] = columns match {
    case Seq(name) =>
      val field = ColumnTypes.column(schema, name)
      field.dataType match {
        case SQLDataTypes.VectorType =>
          Some(AttributeGroup.fromStructField(field).size).filter(_ > 0).map(_.toLong)
        case ArrayType(_, _) => None
        case pictures if Images.serves(pictures) =>
          refuse(
            s"""the column "$name" holds pictures: say their size in inputShapes, such as [[32, 32, 3]], or in the layer list"""
          )
        case _ => Some(1L)
      }
    case several => Some(several.size.toLong)
  }

  private def firstRow(data: Dataset[_], name: String): Long = {
    val column = Ingest.column(name)
    data.select(column).where(column.isNotNull).head(1).headOption.map(_.get(0)) match {
      case Some(vector: Vector) => vector.size.toLong
      case Some(values: scala.collection.Seq[_]) => values.size.toLong
      case _ => refuse(s"""the column "$name" has no row with a value, so there is nothing to train on""")
    }
  }

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
