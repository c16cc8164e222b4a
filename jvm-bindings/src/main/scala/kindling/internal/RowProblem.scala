package kindling.internal

/**
 * A row that cannot be used, as one sentence. It is the user's data that is wrong: the run ends and no task is tried again.
 * It carries no stack trace, for the place in the data is what matters.
 */
private[kindling] final class RowProblem(sentence: String) extends RuntimeException(sentence, null, false, false) {

  /** The same with the place added. Rows count from 0 in their partition. */
  def at(partition: Int, row: Long): RowProblem = new RowProblem(s"row $row of partition $partition: $sentence")
}
