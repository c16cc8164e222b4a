package kindling.internal

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{
  BoundReference,
  GenericInternalRow,
  JoinedRow,
  SpecificInternalRow,
  UnsafeArrayData,
  UnsafeProjection,
  UnsafeRow
}
import org.apache.spark.sql.kindling.{Prediction => SparkPrediction, Wiring}
import org.apache.spark.unsafe.Platform

/**
 * The rows of one partition with predictions added, a batch at a time, on Spark's own rows.
 *
 * Copies: a row's inputs once, into the model's room. Of its other bytes, the columns that go out: once while the batch fills (twice
 * where only some of a row's columns go out, for they are put together first), and once into the row that goes out. A prediction: once
 * out of the model, once into the form of a vector, once into the row that goes out. The row that goes out is the same object each
 * time, as Spark's operators agree.
 */
private[kindling] final class PredictedRows(
    task: PredictionTask,
    rows: Iterator[InternalRow],
    wiring: Wiring,
    report: SparkPrediction.Report
) extends Iterator[InternalRow] {
  private val run = new PredictionRun(task, wiring, report)
  private val kept = new KeptRows
  private var results = Array.empty[Array[Double]]
  private var place = 0

  private val passed = wiring.passed
  private val asItIs = passed.size == wiring.below.length
  private val choose = UnsafeProjection.create(passed.map(i => reference(i, i)))

  private val shown = new UnsafeRow(passed.size)
  private val added = new SpecificInternalRow(run.wanted.toIndexedSeq.map(_.dataType))
  private val setters = run.wanted.zipWithIndex.map { case (column, i) => setter(column, i) }
  private val joined = new JoinedRow(shown, added)
  private val join = UnsafeProjection.create(wiring.output.map { i =>
    if (i < wiring.below.length) reference(passed.indexOf(i), i)
    else {
      val position = wiring.predicted.indexOf(i - wiring.below.length)
      BoundReference(
        passed.size + position,
        run.wanted(position).dataType,
        nullable = run.wanted(position).words.isDefined
      )
    }
  })

  override def hasNext: Boolean = {
    while (place == kept.size && rows.hasNext) run.batch(predictBatch())
    val more = place < kept.size
    if (!more) run.end()
    more
  }

  override def next(): InternalRow =
    if (hasNext) {
      kept.show(place, shown)
      var i = 0
      while (i < setters.length) {
        setters(i).set(results(i), place)
        i += 1
      }
      place += 1
      join(joined)
    } else Iterator.empty.next()

  private def predictBatch(): Unit = {
    kept.clear()
    place = 0
    while (kept.size < task.batchSize && rows.hasNext) {
      val row = rows.next()
      if (run.fill(row, kept.size)) kept.add(chosen(row))
    }
    results = run.results(kept.size)
    run.predict(kept.size, results, 0)
  }

  private def chosen(whole: InternalRow): UnsafeRow = whole match {
    case unsafe: UnsafeRow if asItIs => unsafe
    case other => choose(other)
  }

  private def reference(at: Int, ordinal: Int): BoundReference =
    BoundReference(at, wiring.below(ordinal).dataType, wiring.below(ordinal).nullable)

  private def setter(column: PredictedColumn, ordinal: Int): PredictedRows.Setter =
    if (column.isVector) {
      val vector = new PredictedRows.DenseVector(column.width)
      added.update(ordinal, vector.row)
      (values, row) => vector.fill(values, row)
    } else if (column.words.isDefined) {
      val texts = column.texts
      (values, row) => {
        val index = values(row).toInt
        if (index < texts.length) added.update(ordinal, texts(index)) else added.setNullAt(ordinal)
      }
    } else (values, row) => added.setDouble(ordinal, values(row))
}

private object PredictedRows {

  private trait Setter {
    def set(values: Array[Double], row: Int): Unit
  }

  /** A Spark ML vector as it lies in a row, whose numbers can be replaced: all else of it is the same for every row. */
  private final class DenseVector(width: Int) {
    val row: UnsafeRow = {
      val parts = new GenericInternalRow(
        Array[Any](VectorWriter.Dense, null, null, UnsafeArrayData.fromPrimitiveArray(new Array[Double](width)))
      )
      UnsafeProjection.create(VectorWriter.layout)(parts).copy()
    }
    private val values = row.getArray(3)
    private val offset = values.getBaseOffset + UnsafeArrayData.calculateHeaderPortionInBytes(width)

    def fill(from: Array[Double], index: Int): Unit =
      Platform.copyMemory(
        from,
        Platform.DOUBLE_ARRAY_OFFSET + index.toLong * width * 8,
        values.getBaseObject,
        offset,
        width * 8L
      )
  }
}
