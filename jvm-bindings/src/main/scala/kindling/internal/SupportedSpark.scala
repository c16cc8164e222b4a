package kindling.internal

import org.apache.spark.SPARK_VERSION

/**
 * Refuses a Spark that cannot work, with a sentence. It is mixed in before anything with a Param in it: in Spark 4.0.0 Param has
 * another constructor than before and after (SPARK-52259), so that the first Param would end in a NoSuchMethodError.
 */
private[kindling] trait SupportedSpark {
  SupportedSpark.check(SPARK_VERSION)
}

private[kindling] object SupportedSpark {
  def check(version: String): Unit = {
    if (version == "4.0.0")
      throw new IllegalStateException(
        "Kindling cannot run on Spark 4.0.0, whose Param class is incompatible (SPARK-52259): use 4.0.5 or later"
      )
    if (!version.startsWith("4."))
      throw new IllegalStateException(s"Kindling runs on Spark 4.0.5 to 4.3, but this is Spark $version")
  }
}
