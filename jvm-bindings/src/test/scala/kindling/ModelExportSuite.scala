package kindling

import java.nio.file.{Files, Path}

import org.apache.spark.ml.linalg.Vector
import org.apache.spark.sql.{functions => f, DataFrame}

/** What leaves a fitted model comes back as the same model. That PyTorch takes it is tested from Python. */
class ModelExportSuite extends SparkSuite {

  private def data: DataFrame =
    spark.range(90).select(
      f.array((0 until 4).map(d => f.sin(f.col("id") * (d + 1)).cast("float")): _*).as("features"),
      (f.col("id") % 3).cast("int").as("label")
    )

  private val layers =
    """{"layers": [{"type": "dense", "units": 8, "activation": "relu"}, {"type": "batchNorm"}, {"type": "dropout", "rate": 0.5}, {"type": "dense", "units": 3}]}"""

  private lazy val model = new TorchEstimator().setLayers(layers).setBatchSize(30).setMaxEpochs(2).setSeed(1).fit(data)

  private def probabilities(model: TorchModel): Seq[Vector] =
    model.transform(data).select("probability").collect().toSeq.map(_.getAs[Vector](0))

  private def again(path: Path): TorchModel =
    new TorchEstimator().setModel(path.toUri.toString).setLearningRate(1e-30).setBatchSize(90).fit(data)

  nativeTest("an exported layer list is trained on, and predicts what the model predicts") {
    val folder = Files.createTempDirectory("export")
    val path = folder.resolve("net.pt2")
    model.exportProgram(path.toUri.toString, mode = "evaluation")
    // In evaluation nothing is dropped and no statistic moves, so a step too small to be one leaves the model as it was.
    assert(probabilities(again(path)) === probabilities(model))
    model.exportProgram(path.toUri.toString, overwrite = true)
    assert(probabilities(again(path)) !== probabilities(model))
  }

  nativeTest("an exported archive is an archive again, with the same names") {
    val folder = Files.createTempDirectory("export")
    model.exportProgram(folder.resolve("one.pt2").toUri.toString)
    val second = again(folder.resolve("one.pt2"))
    second.exportProgram(folder.resolve("two.pt2").toUri.toString)
    assert(Files.size(folder.resolve("two.pt2")) === Files.size(folder.resolve("one.pt2")))
    second.exportWeights(folder.resolve("two.safetensors").toUri.toString)
    assert(Files.readAllBytes(folder.resolve("two.safetensors")) === second.weights)
  }

  nativeTest("what stands there stays, unless overwrite is said") {
    val folder = Files.createTempDirectory("export")
    val path = folder.resolve("weights.safetensors").toUri.toString
    model.exportWeights(path)
    val taken = intercept[IllegalArgumentException](model.exportWeights(path))
    assert(taken.getMessage.contains("exists already"))
    model.exportWeights(path, overwrite = true)
    val onFolder = intercept[IllegalArgumentException](model.exportProgram(folder.toUri.toString, overwrite = true))
    assert(onFolder.getMessage.contains("is a folder"))
  }

  nativeTest("an unknown mode and an empty path are refused") {
    val mode = intercept[IllegalArgumentException](model.exportProgram("/nowhere/net.pt2", mode = "predict"))
    assert(mode.getMessage.contains("training, evaluation"))
    assert(intercept[IllegalArgumentException](model.exportWeights("")).getMessage.contains("empty"))
  }
}
