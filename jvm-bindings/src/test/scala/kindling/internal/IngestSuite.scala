package kindling.internal

import java.io.{ByteArrayOutputStream, PrintStream}

import org.apache.spark.sql.DataFrame
import org.scalatest.funsuite.AnyFunSuite

/** The ingest job's parts that need no native library. */
class IngestSuite extends AnyFunSuite {

  private def stored(partition: Int, rows: Long, hash: String) = IngestOutcome.Stored(
    ShardReport(partition, 0, "p", 1, rows, 0, rows << 20, 0, hash),
    0,
    Place("3", "h1")
  )

  test("a partition that is read again must have as many rows as before, and the same ones") {
    Ingested.requireSame(stored(7, 10, "0f"), stored(7, 10, "0f"))
    def refused(again: IngestOutcome.Stored): String =
      intercept[IllegalArgumentException](Ingested.requireSame(stored(7, 10, "0f"), again)).getMessage
    val fewer = refused(stored(7, 9, "0e"))
    assert(fewer.startsWith(
      "partition 7 was read again, as executor 3 on h1 was lost, and gave 9 rows instead of 10"
    ))
    assert(refused(stored(7, 10, "0e")).contains("gave other values, or rows in another order"))
  }

  test("a long ingest tells how far it is, and a short one nothing") {
    val out = new ByteArrayOutputStream
    val logged = scala.collection.mutable.ArrayBuffer.empty[String]
    var seconds = 0L
    val progress = new IngestProgress(
      "the data",
      new Progress(new PrintStream(out), Progress.Live, 0),
      logged += _,
      () => seconds * 1000 * 1000 * 1000
    )
    def told(partition: Int, rows: Long): Unit =
      progress.told(s"""{"partition":$partition,"rows":$rows,"bytes":${rows << 20}}""".getBytes)
    progress.begin(3)
    seconds = 2
    told(0, 100)
    progress.stored(stored(1, 50, "0f").report)
    assert(out.toString.isEmpty && logged.isEmpty)
    seconds = 4
    told(0, 190)
    assert(out.toString.contains("kindling: reading the data: 1 of 3 partitions, 240 rows, 240 MiB, 60 rows/s"))
    assert(logged.isEmpty)
    seconds = 10
    // A second attempt that is behind the first, and a partition that is done, change nothing.
    told(0, 10)
    told(1, 20)
    assert(logged.toSeq === Seq("reading the data: 1 of 3 partitions, 240 rows, 240 MiB, 24 rows/s"))
    progress.told("no event".getBytes)
    progress.close()
  }

  test("rows that are being read count as much as those that are kept take") {
    val logged = scala.collection.mutable.ArrayBuffer.empty[String]
    var seconds = 0L
    val silent = new Progress(new PrintStream(new ByteArrayOutputStream), Progress.Off, 0)
    val progress = new IngestProgress("the data", silent, logged += _, () => seconds * 1000 * 1000 * 1000)
    progress.begin(2)
    seconds = 10
    progress.told(s"""{"partition":0,"rows":100,"bytes":${100L << 20}}""".getBytes)
    seconds = 20
    progress.stored(IngestOutcome.Stored(
      ShardReport(1, 0, "p", 1, 50, 0, 10L << 20, 0, "0f"),
      0,
      Place("3", "h1")
    ).report)
    assert(logged.map(_.split(", ")(2)).toSeq === Seq("100 MiB", "30 MiB"))
    progress.close()
  }
}

private[kindling] object IngestSuite {

  /** What an ingest stores of `data`. */
  def read(ingest: Ingest, data: DataFrame): Seq[IngestOutcome.Stored] = {
    val off = new Progress(System.err, Progress.Off, 0)
    ingest.read(data, new IngestProgress("the data", off), () => ()).stored
  }
}
