package kindling.internal

import com.fasterxml.jackson.core.JsonProcessingException
import com.fasterxml.jackson.databind.JsonNode

/** Parameter groups in JSON. Their form is checked here, before anything runs; what their patterns match, by the native library. */
private[kindling] object ParameterGroups {
  private val keys = Seq("pattern", "maxDimensions", "learningRate", "weightDecay", "frozen")

  def parse(json: String): JsonNode = {
    val groups =
      try Json.parse(json)
      catch { case e: JsonProcessingException => refuse(s"is not JSON: ${e.getOriginalMessage}") }
    if (!groups.isArray) refuse("must be a JSON list of groups")
    Json.elements(groups).foreach(check)
    groups
  }

  private def check(group: JsonNode): Unit = {
    if (!group.isObject || !Json.optional(group, "pattern").exists(_.isTextual))
      refuse(s"""has a group without a "pattern": ${Json.text(group)}""")
    group.fieldNames.forEachRemaining(key =>
      if (!keys.contains(key)) refuse(s"has a group with the key $key; there are ${keys.mkString(", ")}")
    )
  }

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(s"parameterGroups $sentence")
}
