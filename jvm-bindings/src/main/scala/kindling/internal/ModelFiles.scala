package kindling.internal

import java.io.FileNotFoundException
import java.nio.charset.StandardCharsets.UTF_8

import kindling.{TorchModel, TrainingSummary}
import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.Path
import org.apache.spark.ml.kindling.Metadata
import org.apache.spark.ml.util.{MLReader, MLWriter}

/**
 * A model on disk: Spark ML's `metadata`, and beside it
 *
 *  - `program.pt2` or `program.json`: the program as it was trained;
 *  - `weights.safetensors`: the trained weights and buffers by name;
 *  - `description.json`: what the program takes and gives, so that loading needs no native library;
 *  - `vocabularies.json`: what the strings of indexed columns stand for;
 *  - `summary.json`: the history.
 *
 * All of it goes through Hadoop's file systems.
 */
private[kindling] object ModelFiles {
  private val Weights = "weights.safetensors"
  private val Description = "description.json"
  private val Vocabularies = "vocabularies.json"
  private val Summary = "summary.json"

  final class Writer(model: TorchModel) extends MLWriter {
    override protected def saveImpl(path: String): Unit = {
      val network = model.network
      Metadata.save(model, path, sparkSession)
      val hadoop = sparkSession.sparkContext.hadoopConfiguration
      write(path, programName(network.program.description.source), network.program.bytes, hadoop)
      write(path, Weights, network.weights, hadoop)
      write(path, Description, Json.bytes(network.program.description.toJson), hadoop)
      write(path, Vocabularies, Json.bytes(Json.array(network.vocabularies.map(_.toJson))), hadoop)
      write(path, Summary, network.summary.toJson.getBytes(UTF_8), hadoop)
    }
  }

  final class Reader extends MLReader[TorchModel] {
    override def load(path: String): TorchModel = {
      val model = Metadata.load(path, sparkSession, classOf[TorchModel].getName)(new TorchModel(_))
      val hadoop = sparkSession.sparkContext.hadoopConfiguration
      val description = ProgramDescription.parse(read(path, Description, hadoop))
      val program = Program(read(path, programName(description.source), hadoop), description)
      val summary = TrainingSummary.parse(new String(read(path, Summary, hadoop), UTF_8))
      val vocabularies = Json.elements(Json.parse(read(path, Vocabularies, hadoop))).map(Vocabulary.parse)
      model.attach(Trained(program, read(path, Weights, hadoop), summary, vocabularies))
    }
  }

  private def programName(source: String): String = if (source == "pt2") "program.pt2" else "program.json"

  private def fileIn(folder: String, name: String): Path =
    new Path(if (Metadata.isLocal) new Path("file", null, folder) else new Path(folder), name)

  private def write(folder: String, name: String, bytes: Array[Byte], hadoop: Configuration): Unit = {
    val file = fileIn(folder, name)
    val stream = file.getFileSystem(hadoop).create(file, false)
    try stream.write(bytes)
    finally stream.close()
  }

  private def read(folder: String, name: String, hadoop: Configuration): Array[Byte] = {
    val file = fileIn(folder, name)
    try {
      val stream = file.getFileSystem(hadoop).open(file)
      try stream.readAllBytes()
      finally stream.close()
    } catch {
      case e: FileNotFoundException =>
        throw new IllegalArgumentException(s"$folder holds no whole TorchModel: $name is missing", e)
    }
  }
}
