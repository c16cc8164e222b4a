package kindling.internal

import java.util.HashMap

import com.fasterxml.jackson.databind.JsonNode
import org.apache.spark.ml.feature.StringIndexer
import org.apache.spark.sql.Dataset
import org.apache.spark.unsafe.types.UTF8String

/**
 * The values of a string column, each of which stands for its place among them: what Spark ML's `StringIndexer` fits.
 *
 * Equal is what has the same bytes. A string that is not among the values, or null, has no number; where it is kept all the same, all
 * such strings share the number behind the last one, as with `StringIndexer`.
 */
private[kindling] final case class Vocabulary(column: String, values: Seq[String]) {

  @transient private lazy val numbers: HashMap[UTF8String, Integer] = {
    val map = new HashMap[UTF8String, Integer](values.size * 2)
    values.zipWithIndex.foreach { case (value, i) => map.put(UTF8String.fromString(value), i) }
    map
  }

  def size: Int = values.size

  /** The number of a string, or [[Vocabulary.Unseen]]. */
  def index(value: UTF8String): Int = {
    val found = numbers.get(value)
    if (found == null) Vocabulary.Unseen else found.intValue
  }

  def toJson: JsonNode = {
    val node = Json.obj().put("column", column)
    val array = node.putArray("values")
    values.foreach(array.add)
    node
  }

  override def toString: String = s"Vocabulary($column, $size values)"
}

private[kindling] object Vocabulary {
  final val Unseen = -1

  val orders: Seq[String] = Seq("frequencyDesc", "frequencyAsc", "alphabetDesc", "alphabetAsc")

  def parse(node: JsonNode): Vocabulary =
    Vocabulary(
      Json.required(node, "column").asText,
      Json.elements(Json.required(node, "values")).map(_.asText)
    )

  /** One pass over the data for all columns, by Spark ML itself. Nulls are no values. */
  def fit(data: Dataset[_], columns: Seq[String], order: String): Seq[Vocabulary] =
    if (columns.isEmpty) Nil
    else {
      // Under names of its own, for a name may hold a dot.
      val names = columns.indices.map(i => s"c$i").toArray
      val chosen = data.select(columns.zip(names).map { case (column, name) => Ingest.column(column).as(name) }: _*)
      val fitted = new StringIndexer()
        .setInputCols(names)
        .setOutputCols(names.map(_ + "-index"))
        .setStringOrderType(order)
        // Of what `fit` meets, only nulls are invalid, and the readers judge them.
        .setHandleInvalid("skip")
        .fit(chosen)
      columns.zip(fitted.labelsArray).map { case (column, values) => Vocabulary(column, values.toSeq) }
    }
}

/** Which string columns are numbers by a vocabulary. Before the vocabularies are fitted, `fitted` is empty. */
private[kindling] final case class Indexing(columns: Seq[String], fitted: Seq[Vocabulary]) {

  def covers(name: String): Boolean = columns.contains(name)

  def of(name: String): Option[Vocabulary] = fitted.find(_.column == name)
}

private[kindling] object Indexing {
  val none: Indexing = Indexing(Nil, Nil)

  /** For an estimator: none of its vocabularies is fitted yet. */
  def of(p: TorchParams): Indexing = Indexing(p.get(p.indexCols).fold(Seq.empty[String])(_.toSeq), Nil)

  def of(fitted: Seq[Vocabulary]): Indexing = Indexing(fitted.map(_.column), fitted)

  /** What the parameters can be told without data. */
  def check(p: TorchParams): Unit = {
    import p._
    val columns = of(p).columns
    columns.diff(columns.distinct).headOption.foreach(name =>
      refuse(s"""the column "$name" is given twice in indexCols""")
    )
    val read = NestedFields.inputs(p) ++ Some(getLabelCol).filter(_ => Loss.of(p).label != Loss.Label.None)
    columns.find(!read.contains(_)).foreach { name =>
      refuse(s"""indexCols names "$name", which is neither a column of the inputs nor the label: leave it out""")
    }
    if (columns.isEmpty && isSet(stringOrderType))
      refuse("stringOrderType is set, but no column is indexed: name string columns in indexCols, or clear it")
    if (predictedLabel(p).isDefined && !columns.contains(getLabelCol))
      refuse(
        s"""predictedLabelCol is set, but the label "$getLabelCol" is not indexed: name it in indexCols, or clear predictedLabelCol"""
      )
  }

  /** The column for the label that is predicted, if one is wanted. */
  def predictedLabel(p: TorchParams): Option[String] = p.get(p.predictedLabelCol).filter(_.nonEmpty)

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
