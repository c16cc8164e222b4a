package kindling

import java.io.{ByteArrayOutputStream, PrintStream}

import kindling.internal.TrainFlags
import org.scalatest.funsuite.AnyFunSuite

/** The command line, up to the point where Spark starts. */
class TrainSuite extends AnyFunSuite {

  private def run(args: String*): (Int, String, String) = {
    val (out, err) = (new ByteArrayOutputStream, new ByteArrayOutputStream)
    val code = Train.run(args, new PrintStream(out, true), new PrintStream(err, true))
    (code, out.toString, err.toString)
  }

  test("every flag reaches its parameter") {
    val line =
      "--data d --model m.pt2 --label-col y --input-cols a,b --epochs 3 --batch-size 64 --num-workers 2 --output o --learning-rate 0.1 " +
        "--optimizer sgd --loss mse --validation-fraction 0.25 --seed 7 --momentum 0.9 --weight-decay 0.5 --handle-invalid=skip --overwrite " +
        "--sync-batch-norm true --activation-checkpointing encoder.*,decoder"
    val flags = TrainFlags.parse(line.split(' ').toSeq)
    val e = flags.estimator
    assert((flags.data, flags.model, flags.output, flags.overwrite) === (("d", "m.pt2", Some("o"), true)))
    assert(e.getInputCols === Array("a", "b"))
    assert((e.getLabelCol, e.getMaxEpochs, e.getBatchSize, e.getNumWorkers, e.getSeed) === (("y", 3, 64, 2, 7L)))
    assert((e.getLearningRate, e.getOptimizer, e.getLoss, e.getValidationFraction) === ((0.1, "sgd", "mse", 0.25)))
    assert((e.getMomentum, e.getWeightDecay, e.getHandleInvalid) === ((0.9, 0.5, "skip")))
    assert((e.getSyncBatchNorm, e.getActivationCheckpointing) === ((true, "encoder.*,decoder")))
  }

  test("every parameter has a flag that takes its type") {
    def parsed(flags: String*) = TrainFlags.parse(Seq("--data", "d", "--model", "m.pt2") ++ flags).estimator
    val e =
      parsed("--beta1=0.5", "--lr-milestones", "3,9", "--class-weights", "1,0.5", "--swap", "true", "--blank", "2")
    assert((e.getBeta1, e.getSwap, e.getBlank) === ((0.5, true, 2)))
    assert(e.getLrMilestones === Array(3, 9) && e.getClassWeights === Array(1, 0.5))
    assert(parsed("--max-epochs", "4").getMaxEpochs === 4 && parsed(
      "--validation-col",
      "v"
    ).getValidationIndicatorCol === "v")
    val held =
      TrainFlags.parse(Seq("--data", "d", "--model", "m", "--validation", "v", "--metrics", "f1,auc", "--top-k", "3"))
    assert(held.validation === Some("v") && held.estimator.getMetrics === Array(
      "f1",
      "auc"
    ) && held.estimator.getTopK === 3)
    val words = TrainFlags.usage.linesIterator.map(_.trim.takeWhile(_ != ' ')).toSet
    val own = Set("model", "layers", "maxEpochs", "validationIndicatorCol")
    new TorchEstimator().params.map(_.name).filterNot(own).foreach { name =>
      assert(words("--" + name.replaceAll("([A-Z])", "-$1").toLowerCase), name)
    }
  }

  test("a wrong command line ends with exit code 2, a sentence and the usage") {
    Seq(
      Seq("--model", "m") -> "--data is missing",
      Seq("--data", "d") -> "--model is missing",
      Seq("--data", "d", "--model", "m", "--colour", "red") -> "there is no flag --colour",
      Seq("--data") -> "--data needs a value",
      Seq("--data", "d", "--data", "e") -> "--data is given twice",
      Seq("d") -> "\"d\" is not a flag",
      Seq(
        "--data",
        "d",
        "--model",
        "m",
        "--epochs",
        "1",
        "--max-epochs",
        "2"
      ) -> "--epochs and --max-epochs are one flag",
      Seq("--data", "d", "--model", "m", "--epochs", "many") -> "--epochs: \"many\" is not a whole number",
      Seq(
        "--data",
        "d",
        "--model",
        "m",
        "--sync-batch-norm",
        "yes"
      ) -> "--sync-batch-norm: \"yes\" is not true or false",
      Seq("--data", "d", "--model", "m", "--loss", "hing") -> "--loss: loss must be one of crossEntropy,"
    ).foreach { case (args, sentence) =>
      val (code, out, err) = run(args: _*)
      assert(code === 2 && out.isEmpty)
      assert(err.contains(sentence) && err.contains("usage: spark-submit"), err)
    }
  }

  test("help is asked for and not an error") {
    val (code, out, err) = run("--help")
    assert(code === 0 && err.isEmpty && out.contains("--num-workers N"))
  }
}
