package kindling.internal

import org.apache.spark.SparkConf

/**
 * What the settings of the Spark session say about how the ranks of a run talk to each other: read once on the driver, so that all
 * ranks do the same. `recordFolder` is a folder on each executor.
 */
private[kindling] final case class NetworkSettings(
    encrypted: Boolean,
    recordFolder: Option[String],
    socketsPerLink: Int
)

private[kindling] object NetworkSettings {
  final val Encryption = "spark.kindling.encryption"
  final val RecordFolder = "spark.kindling.recordFolder"
  final val SocketsPerLink = "spark.kindling.socketsPerLink"

  /** Each of them encrypts what Spark itself sends over the network. `spark.io.encryption.enabled` is about its files. */
  private val SparksOwn = Seq("spark.network.crypto.enabled", "spark.ssl.enabled", "spark.ssl.rpc.enabled")

  def of(conf: SparkConf): NetworkSettings =
    NetworkSettings(encrypted(conf), conf.getOption(RecordFolder).filter(_.nonEmpty), socketsPerLink(conf))

  private def socketsPerLink(conf: SparkConf): Int = {
    val text = conf.get(SocketsPerLink, "1")
    text.toIntOption
      .filter(sockets => sockets >= 1 && sockets <= 64)
      .getOrElse(throw new IllegalArgumentException(
        s"""$SocketsPerLink must be a whole number from 1 to 64, but is "$text""""
      ))
  }

  private def encrypted(conf: SparkConf): Boolean = conf.get(Encryption, "auto") match {
    case "true" => true
    case "false" => false
    case "auto" => SparksOwn.exists(conf.getBoolean(_, defaultValue = false))
    case other => throw new IllegalArgumentException(s"""$Encryption must be auto, true or false, but is "$other"""")
  }
}
