package org.apache.spark.ml.kindling

import org.apache.spark.ml.param.Params
import org.apache.spark.ml.util.{DefaultParamsReader, DefaultParamsWriter}
import org.apache.spark.sql.SparkSession

/** Saves and loads a stage's Params in the way Spark ML's own stages do (`private[ml]`). */
object Metadata {

  /**
   * Whether the save or load under way on this thread is one to the driver's own disk and not to Hadoop's default file system.
   *
   * Spark Connect does that since 4.1 to move idle models out of memory; it says so in a thread-local that 4.0, against which this is
   * compiled, does not have. When 4.1 is the oldest Spark supported, the reflection can go.
   */
  def isLocal: Boolean = localMode.exists(_.get() == java.lang.Boolean.TRUE)

  private lazy val localMode: Option[ThreadLocal[_]] =
    try {
      val owner = Class.forName("org.apache.spark.ml.util.ReadWriteUtils$", true, classOf[Params].getClassLoader)
      owner.getMethod("localSavingModeState").invoke(owner.getField("MODULE$").get(null)) match {
        case state: ThreadLocal[_] => Some(state)
        case _ => None
      }
    } catch { case _: ReflectiveOperationException => None }

  def save(stage: Params, path: String, session: SparkSession): Unit =
    DefaultParamsWriter.saveMetadata(stage, path, session)

  /** Makes the stage with the saved uid and sets its Params. */
  def load[T <: Params](path: String, session: SparkSession, className: String)(make: String => T): T = {
    val metadata = DefaultParamsReader.loadMetadata(path, session, className)
    val stage = make(metadata.uid)
    metadata.getAndSetParams(stage)
    stage
  }
}
