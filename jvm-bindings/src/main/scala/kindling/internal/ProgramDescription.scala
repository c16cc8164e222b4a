package kindling.internal

import com.fasterxml.jackson.databind.JsonNode

/**
 * One tensor at the border of a program. `shape` holds None where the size is symbolic; dimension 0 is the batch. Of an output,
 * `inputs` are the positions of the inputs that it needs (all, if there are none) and `activation` what it ends in.
 */
private[kindling] final case class TensorSpec(
    name: String,
    dtype: String,
    shape: Seq[Option[Long]],
    inputs: Seq[Int] = Nil,
    activation: Option[String] = None
) {

  /** The shape of one row: everything behind the batch dimension. */
  def rowShape: Seq[Option[Long]] = shape.drop(1)

  /** Numbers per row, if every size is known. */
  def rowWidth: Option[Long] =
    if (rowShape.forall(_.isDefined)) Some(rowShape.flatten.product) else None

  def shapeText: String = shape.map(_.map(_.toString).getOrElse("?")).mkString("[", ", ", "]")

  def toJson: JsonNode = {
    val node = Json.obj().put("name", name).put("dtype", dtype)
    val sizes = node.putArray("shape")
    shape.foreach {
      case Some(size) => sizes.add(size)
      case None => sizes.addNull()
    }
    if (inputs.nonEmpty) {
      val needed = node.putArray("inputs")
      inputs.foreach(needed.add)
    }
    activation.foreach(node.put("activation", _))
    node
  }
}

/** What the native library says of a program (`programInspect`): enough to lay out columns and to estimate memory. */
private[kindling] final case class ProgramDescription(
    source: String,
    inputs: Seq[TensorSpec],
    outputs: Seq[TensorSpec],
    parameters: Long,
    elements: Long,
    trainableElements: Long,
    stateBytes: Long,
    finalActivation: Option[String]
) {

  /** The outputs for a message. */
  def outputNames: String = outputs.zipWithIndex
    .map { case (output, index) =>
      if (output.name.isEmpty || output.name == index.toString) index.toString else s"$index (${output.name})"
    }
    .mkString(", ")

  /** The same JSON that it was read from. */
  def toJson: JsonNode = {
    val node = Json
      .obj()
      .put("source", source)
      .put("parameters", parameters)
      .put("elements", elements)
      .put("trainableElements", trainableElements)
      .put("stateBytes", stateBytes)
      .put("finalActivation", finalActivation.orNull)
    Json.set(node, "inputs", Json.array(inputs.map(_.toJson)))
    Json.set(node, "outputs", Json.array(outputs.map(_.toJson)))
    node
  }
}

private[kindling] object ProgramDescription {

  def inspect(program: Array[Byte]): ProgramDescription = parse(Native.programInspect(program))

  def parse(json: Array[Byte]): ProgramDescription = {
    val node = Json.parse(json)
    ProgramDescription(
      source = Json.required(node, "source").asText,
      inputs = Json.elements(Json.required(node, "inputs")).map(tensor),
      outputs = Json.elements(Json.required(node, "outputs")).map(tensor),
      parameters = Json.required(node, "parameters").asLong,
      elements = Json.required(node, "elements").asLong,
      trainableElements = Json.required(node, "trainableElements").asLong,
      stateBytes = Json.required(node, "stateBytes").asLong,
      finalActivation = Json.optional(node, "finalActivation").map(_.asText)
    )
  }

  private def tensor(node: JsonNode): TensorSpec =
    TensorSpec(
      name = Json.optional(node, "name").map(_.asText).getOrElse(""),
      dtype = Json.required(node, "dtype").asText,
      shape = Json.elements(Json.required(node, "shape")).map(size => if (size.isNull) None else Some(size.asLong)),
      inputs = Json.optional(node, "inputs").fold(Seq.empty[Int])(Json.elements(_).map(_.asInt)),
      activation = Json.optional(node, "activation").map(_.asText)
    )
}
