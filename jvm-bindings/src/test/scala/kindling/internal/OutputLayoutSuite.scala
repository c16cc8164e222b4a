package kindling.internal

import org.apache.spark.ml.linalg.SQLDataTypes
import org.apache.spark.sql.types._
import kindling.TorchEstimator
import org.scalatest.funsuite.AnyFunSuite

/** Which outputs of a program become columns, and the sentences of what does not. */
class OutputLayoutSuite extends AnyFunSuite {

  private def spec(name: String, inputs: Seq[Int], sizes: Option[Long]*) = TensorSpec(name, "float32", sizes, inputs)

  private val inputs = Seq(spec("x", Nil, None, Some(4)), spec("y", Nil, None, Some(2)), spec("z", Nil, None, Some(2)))

  private def of(columns: Seq[String], outputs: TensorSpec*) =
    OutputLayout.of(ProgramDescription("pt2", inputs, outputs, 2, 10, 10, 40, None), Loss("mse"), None, Some(columns))

  private val logits = spec("logits", Seq(1), None, Some(3))
  private val hidden = spec("hidden", Seq(0), None, Some(2), Some(5))
  private val score = spec("score", Seq(1), None)

  test("outputs that are wanted are read with the inputs that they and the prediction need") {
    val found = of(Seq("", "h", "s"), logits, hidden, score)
    assert(found.others === Seq(OtherOutput(1, "h", 10), OtherOutput(2, "s", 1)))
    assert(found.inputs === Seq(0, 1) && found.width === 3)
    assert(of(Seq("l", "", ""), logits, hidden, score).inputs === Seq(1))
  }

  test("their columns come after the prediction's, vectors where a row has several numbers") {
    val params = new TorchEstimator().setLoss("mse")
    val output = of(Seq("", "h", "s"), logits, hidden, score)
    val columns = OutputColumns.of(params, Loss("mse"), output)
    assert(columns.fields.map(field => field.name -> field.dataType) ===
      Seq("prediction" -> SQLDataTypes.VectorType, "h" -> SQLDataTypes.VectorType, "s" -> DoubleType))
    assert(PredictedColumn.of(columns, output, None).map(column => (column.source, column.width)) === Seq(
      (0, 3),
      (2, 10),
      (3, 1)
    ))
    val taken =
      intercept[IllegalArgumentException](columns.appendTo(StructType(Seq(StructField("s", LongType))))).getMessage
    assert(taken.contains("the column \"s\" exists already"))
  }

  test("what is no column is refused with the output and why") {
    def refused(columns: Seq[String], outputs: TensorSpec*) =
      intercept[IllegalArgumentException](of(columns, outputs: _*)).getMessage
    assert(refused(Seq("a"), logits, hidden) ===
      "outputCols names 1 columns, but the program has 2 outputs (0 (logits), 1 (hidden)): give one for each, and an empty name " +
      "for what is not wanted")
    assert(
      refused(Seq("", "a"), logits, spec("loss", Nil)).contains("output 1, which is one number for the whole batch")
    )
    assert(
      refused(Seq("", "a"), logits, spec("t", Nil, Some(7), Some(2))).contains("has no row for each row of the batch")
    )
    assert(refused(Seq("", "a"), logits, spec("t", Nil, None, None)).contains("has an open size behind the batch"))
    assert(intercept[IllegalArgumentException](new TorchEstimator().setOutputCols(Array("", ""))).getMessage
      .contains("one at least is not empty"))
  }
}
