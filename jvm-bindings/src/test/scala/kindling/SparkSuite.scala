package kindling

import org.apache.spark.sql.SparkSession
import org.scalatest.funsuite.AnyFunSuite

/** The one Spark session of the test JVM, with two slots; Spark allows a single context per JVM. */
object SparkSuite {
  lazy val session: SparkSession = {
    val builder = SparkSession
      .builder()
      .master("local[2]")
      .appName("kindling-tests")
      .config("spark.ui.enabled", "false")
      .config("spark.sql.shuffle.partitions", "2")
      .config("spark.kindling.progress", "off")
    sys.env.get("KINDLING_NATIVE").foreach(builder.config("spark.kindling.native", _))
    val session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    session
  }
}

/** A suite that uses Spark; `nativeTest` marks what needs the native library. */
abstract class SparkSuite extends AnyFunSuite {
  protected lazy val spark: SparkSession = SparkSuite.session

  /** A test that needs libkindling and libtorch: without them it fails, for a silent skip would look like success. */
  protected def nativeTest(name: String)(body: => Any): Unit = test(name) {
    Seq("KINDLING_NATIVE", "LIBTORCH").foreach { variable =>
      // Not an assertion: its message would show the whole environment.
      if (sys.env.get(variable).isEmpty) fail(s"set $variable to run the tests that need the native library")
    }
    body: Unit
  }

  protected def message[T <: AnyRef: reflect.ClassTag](body: => Any): String =
    intercept[T](body) match { case e: Throwable => e.getMessage; case other => other.toString }
}
