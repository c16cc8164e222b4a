package kindling.internal

import com.fasterxml.jackson.core.JsonProcessingException

/** The parameter `inputShapes`: the shape of one row for each program input, as JSON, such as `[[64], [5]]`. */
private[kindling] object InputShapes {

  /** Throws `IllegalArgumentException` naming the parameter when the text is something else. */
  def parse(text: String): Seq[Seq[Long]] = {
    val node =
      try Json.parse(text)
      catch {
        case e: JsonProcessingException => refuse(text, e.getOriginalMessage)
      }
    if (!node.isArray || node.isEmpty) refuse(text, "it is not a list of shapes")
    Json.elements(node).map { shape =>
      if (!shape.isArray) refuse(text, s"${Json.text(shape)} is not a list of sizes")
      Json.elements(shape).map { size =>
        if (!size.isIntegralNumber || !size.canConvertToInt || size.asInt < 1)
          refuse(text, s"the size ${Json.text(size)} is not a positive whole number")
        size.asLong
      }
    }
  }

  private def refuse(text: String, reason: String): Nothing =
    throw new IllegalArgumentException(
      s"inputShapes must be JSON with the shape of one row for each program input, such as [[64], [5]], but $text was given: $reason"
    )
}
