package kindling.internal

import java.nio.charset.StandardCharsets.UTF_8

import com.fasterxml.jackson.databind.{DeserializationFeature, JsonNode, ObjectMapper}
import com.fasterxml.jackson.databind.node.{ArrayNode, JsonNodeFactory, ObjectNode}

import scala.jdk.CollectionConverters._

/**
 * JSON as the native library speaks it: UTF-8 bytes of trees of plain Jackson nodes.
 *
 * Jackson's databind comes with every Spark; its Scala module and json4s change between Spark versions, so neither is used.
 */
private[kindling] object Json {
  private val mapper = new ObjectMapper().enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)

  def obj(): ObjectNode = JsonNodeFactory.instance.objectNode()

  def array(): ArrayNode = JsonNodeFactory.instance.arrayNode()

  def array(nodes: Iterable[JsonNode]): ArrayNode = array().addAll(nodes.toSeq.asJava)

  def number(value: Double): JsonNode = JsonNodeFactory.instance.numberNode(value)

  def number(value: Int): JsonNode = JsonNodeFactory.instance.numberNode(value)

  def bool(value: Boolean): JsonNode = JsonNodeFactory.instance.booleanNode(value)

  /** Puts a tree into a field. Jackson's own `set` has a result type that Scala would infer as Unit and cast to. */
  def set(node: ObjectNode, name: String, value: JsonNode): Unit = {
    val _ = node.set[ObjectNode](name, value)
  }

  /** Throws Jackson's own exception on text that is not JSON: callers say which text it was. */
  def parse(text: String): JsonNode = mapper.readTree(text)

  def parse(bytes: Array[Byte]): JsonNode = mapper.readTree(bytes)

  def text(node: JsonNode): String = mapper.writeValueAsString(node)

  def bytes(node: JsonNode): Array[Byte] = text(node).getBytes(UTF_8)

  def elements(node: JsonNode): Seq[JsonNode] = node.elements().asScala.toSeq

  /** A field that may be absent or null. */
  def optional(node: JsonNode, name: String): Option[JsonNode] =
    Option(node.get(name)).filterNot(_.isNull)

  /** A field that must be there: its absence is an error with the field's name, not a null further on. */
  def required(node: JsonNode, name: String): JsonNode =
    optional(node, name).getOrElse(throw new IllegalArgumentException(s"""the field "$name" is missing in ${text(
        node
      )}"""))
}
