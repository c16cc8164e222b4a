package kindling.internal

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.JsonNodeFactory.{instance => nodes}

/**
 * `activationCheckpointing` as text, and as the native library takes it: a word, a number of segments or a list of module patterns.
 * A comma makes a list of it: `4` is a number, `4,` is the module 4. Which modules there are, only the program can say.
 */
private[kindling] object ActivationCheckpointing {
  val off = "none"
  private val words = Seq(off, "auto")

  def parse(text: String): JsonNode = {
    val value = text.trim
    if (words.contains(value)) nodes.textNode(value)
    else if (value.matches("[+-]?[0-9]+"))
      value.toIntOption.filter(_ >= 2).fold[JsonNode](refuse(text))(Json.number(_))
    else {
      val patterns = value.stripSuffix(",").split(",", -1).toSeq.map(_.trim)
      if (!patterns.forall(isPattern)) refuse(text)
      Json.array(patterns.map(nodes.textNode(_)))
    }
  }

  /** Not nothing, and no quotes or brackets: whoever writes a list in JSON should not look for a module of that name. */
  private def isPattern(text: String): Boolean = text.matches("""[^\s"'\[\]]+""")

  private def refuse(text: String): Nothing = throw new IllegalArgumentException(
    "activationCheckpointing must be none, auto, a whole number of at least 2, or module patterns with commas between them " +
      s"""such as encoder.layers.*, but is "$text""""
  )
}
