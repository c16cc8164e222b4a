package kindling.internal

import org.scalatest.funsuite.AnyFunSuite

/** What the driver fills into a layer list, and what it leaves alone. */
class LayerListSuite extends AnyFunSuite {
  private val layers = """[{"type": "dense", "units": 2}]"""

  private def completed(text: String, shape: => Seq[Long] = Seq(4L)): String =
    Json.text(Json.parse(LayerList.parse(text).complete(shape, 7)))

  private def same(text: String): String = Json.text(Json.parse(text))

  test("a bare array becomes a sequence with the shape of its rows and the seed") {
    assert(completed(layers) === same(s"""{"layers": $layers, "inputShape": [4], "seed": 7}"""))
  }

  test("a seed and a data format that the list gives stay") {
    val text = s"""{"layers": $layers, "seed": 3, "dataFormat": "channels_first"}"""
    assert(completed(text) === same(
      s"""{"layers": $layers, "seed": 3, "dataFormat": "channels_first", "inputShape": [4]}"""
    ))
  }

  test("a graph says its shapes itself, so that the data is not asked") {
    val graph = """{"inputs": [{"name": "a", "shape": [3]}], "layers":
      [{"name": "y", "type": "dense", "units": 2, "inputs": ["a"]}], "outputs": ["y"]"""
    assert(LayerList.parse(graph + "}").isGraph)
    assert(completed(graph + "}", fail("the data was asked")) === same(graph + """, "seed": 7}"""))
  }

  test("what holds no layer is refused with an example") {
    for (text <- Seq("[]", "{}", "3", """{"layers": []}""")) {
      val message = intercept[IllegalArgumentException](LayerList.parse(text)).getMessage
      assert(message.contains("at least one layer"), text)
    }
  }
}
