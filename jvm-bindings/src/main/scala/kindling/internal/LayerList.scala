package kindling.internal

import com.fasterxml.jackson.core.JsonProcessingException
import com.fasterxml.jackson.databind.node.{ArrayNode, ObjectNode}

/**
 * A network given as layers in JSON: a sequence, `{"layers": [{"type": "dense", "units": 10}, ...], "inputShape": [64], "seed": 0}`
 * or just the array, or a graph with named `inputs` and `outputs`. The layers themselves are checked by the native library; here the
 * two things that the JVM knows better are filled in: the shape of a sequence's row and the seed of the initial weights.
 */
private[kindling] final class LayerList private (root: ObjectNode) {

  /** Whether it names its inputs, each with its shape. */
  def isGraph: Boolean = root.has("inputs")

  def inputShape: Option[Seq[Long]] =
    Json.optional(root, "inputShape").map(shape => Json.elements(shape).map(_.asLong))

  /** The list with what it leaves open filled in; what it says itself stays. `shape` is a sequence's. */
  def complete(shape: => Seq[Long], seed: Long): Array[Byte] = {
    val filled = root.deepCopy()
    if (!isGraph) {
      val sizes = Json.array()
      shape.foreach(sizes.add)
      Json.set(filled, "inputShape", sizes)
    }
    if (Json.optional(filled, "seed").isEmpty) filled.put("seed", seed): Unit
    Json.bytes(filled)
  }
}

private[kindling] object LayerList {

  /** Throws `IllegalArgumentException` naming the parameter when the text is not such a list. */
  def parse(text: String): LayerList = {
    val node =
      try Json.parse(text)
      catch {
        case e: JsonProcessingException =>
          throw new IllegalArgumentException(s"layers is not JSON: ${e.getOriginalMessage}")
      }
    node match {
      case list: ArrayNode if !list.isEmpty =>
        val root = Json.obj()
        Json.set(root, "layers", list)
        new LayerList(root)
      case root: ObjectNode if root.path("layers").isArray && !root.path("layers").isEmpty => new LayerList(root)
      case _ =>
        throw new IllegalArgumentException(
          """layers must be JSON with at least one layer, such as {"layers": [{"type": "dense", "units": 10}]}"""
        )
    }
  }
}
