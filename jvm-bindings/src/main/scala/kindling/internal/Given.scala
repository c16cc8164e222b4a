package kindling.internal

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.JsonNodeFactory.{instance => nodes}
import org.apache.spark.ml.param.{BooleanParam, DoubleParam, IntParam, Param, Params}

/** Parameters that the user has set, as JSON; those at their default say nothing. */
private[kindling] object Given {
  type Values = Seq[(String, Option[JsonNode])]

  def numbers(p: Params, params: Seq[DoubleParam]): Values =
    params.map(param => param.name -> (if (p.isSet(param)) p.get(param).map(nodes.numberNode(_: Double)) else None))

  def counts(p: Params, params: Seq[IntParam]): Values =
    params.map(param => param.name -> (if (p.isSet(param)) p.get(param).map(nodes.numberNode(_: Int)) else None))

  def texts(p: Params, params: Seq[Param[String]]): Values =
    params.map(param => param.name -> (if (p.isSet(param)) p.get(param).map(nodes.textNode) else None))

  def switches(p: Params, params: Seq[BooleanParam]): Values =
    params.map(param => param.name -> (if (p.isSet(param)) p.get(param).map(nodes.booleanNode(_)) else None))
}
