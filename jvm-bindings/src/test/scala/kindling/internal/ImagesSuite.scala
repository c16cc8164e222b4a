package kindling.internal

import java.awt.image.BufferedImage
import java.io.ByteArrayOutputStream
import java.nio.{ByteBuffer, ByteOrder}
import java.nio.file.Files
import javax.imageio.ImageIO

import kindling.{SparkSuite, TorchEstimator}
import org.apache.spark.sql.{functions => f, DataFrame, Row}
import org.apache.spark.sql.types._

/** Pictures as features: files in a binary column and Spark's image structs, in every shape and type of an input. */
class ImagesSuite extends SparkSuite {

  /** 4 rows of 6 pixels; no two have the same colour, and red, green and blue differ. */
  private def colour(x: Int, y: Int): (Int, Int, Int) = (10 * x + y, 100 + 7 * x + 3 * y, 255 - 9 * x - 20 * y)

  private def picture(width: Int = 6, height: Int = 4): BufferedImage = {
    val image = new BufferedImage(width, height, BufferedImage.TYPE_INT_RGB)
    for (x <- 0 until width; y <- 0 until height) {
      val (red, green, blue) = colour(x, y)
      image.setRGB(x, y, (red << 16) | (green << 8) | blue)
    }
    image
  }

  private def file(image: BufferedImage, format: String = "png"): Array[Byte] = {
    val bytes = new ByteArrayOutputStream()
    assert(ImageIO.write(image, format, bytes))
    bytes.toByteArray
  }

  private def binaries(files: Array[Byte]*): DataFrame = {
    val schema = StructType(Seq(StructField("id", IntegerType), StructField("picture", BinaryType)))
    val rows = files.zipWithIndex.map { case (bytes, i) => Row(i, bytes) }
    spark.createDataFrame(spark.sparkContext.parallelize(rows, 1), schema)
  }

  private def asImages(files: DataFrame): DataFrame = {
    val folder = Files.createTempDirectory("images-")
    files.collect().foreach { row =>
      if (!row.isNullAt(1)) Files.write(folder.resolve(s"${row.getInt(0)}.png"), row.getAs[Array[Byte]](1))
    }
    val images = spark.read.format("image").load(folder.toString).coalesce(1)
    images.select(
      f.regexp_extract(f.col("image.origin"), "([0-9]+).png", 1).cast("int").as("id"),
      f.col("image").as("picture")
    )
      .sort("id").coalesce(1)
  }

  private def read(frame: DataFrame, pixels: Pixels, dtype: DType, handle: HandleInvalid = HandleInvalid.Fail) = {
    NativeLibrary.load(NativeLoading.of(spark.conf.getOption, "")): Unit
    val width = pixels.height * pixels.width * pixels.channels
    val column = NativeColumn("x", Role.Input, dtype, width, Filling.Image(frame.schema("picture"), pixels))
    val layout = FeatureLayout(Seq(column), None)
    val rows = Ingest.rows(frame, layout).map(_.copy()).collect()
    ReadersSuite.outcome(layout, handle, Validation.None, 0) { (writer, split) =>
      new RowLoop(rows.iterator, writer, split)
    }
  }

  private def numbers(bytes: Array[Byte], dtype: DType): Seq[Double] = {
    val buffer = ByteBuffer.wrap(bytes).order(ByteOrder.nativeOrder())
    Seq.fill(bytes.length / dtype.size)(dtype match {
      case DType.UInt8 => (buffer.get() & 0xff).toDouble
      case DType.Float32 => buffer.getFloat.toDouble
      case DType.Float64 => buffer.getDouble
      case DType.Int32 => buffer.getInt.toDouble
      case DType.Int64 => buffer.getLong.toDouble
    })
  }

  nativeTest("a file and a struct give the same pixels, red first, in every order of sizes and every type") {
    val files = binaries(file(picture()))
    for {
      frame <- Seq(files, asImages(files))
      dtype <- DType.all :+ DType.UInt8
      unit <- if (dtype.isFloat) Seq(true, false) else Seq(false)
    } {
      val pixels = for (y <- 0 until 4; x <- 0 until 6; (r, g, b) = colour(x, y)) yield Seq(r, g, b)
      def expected(values: Seq[Int]) = values.map { value =>
        if (!unit) value.toDouble else if (dtype == DType.Float32) (value / 255f).toDouble else value / 255.0
      }
      val last = read(frame, Pixels(4, 6, 3, channelsFirst = false, unit), dtype)
      assert(numbers(last.columns.head, dtype) === expected(pixels.flatten))
      val first = read(frame, Pixels(4, 6, 3, channelsFirst = true, unit), dtype)
      assert(numbers(first.columns.head, dtype) === expected((0 until 3).flatMap(c => pixels.map(_(c)))))
    }
  }

  nativeTest("a picture of another size is resized, and one of one channel fits where three are wanted") {
    val grey = new BufferedImage(8, 2, BufferedImage.TYPE_BYTE_GRAY)
    for (x <- 0 until 8; y <- 0 until 2) grey.getRaster.setSample(x, y, 0, if (x < 4) 0 else 200)
    val files = binaries(file(grey))
    for (frame <- Seq(files, asImages(files))) {
      val found = read(frame, Pixels(2, 4, 3, channelsFirst = false, unit = false), DType.UInt8)
      // A triangle two pixels wide to each side, as the native library's own tests have it.
      assert(
        numbers(found.columns.head, DType.UInt8) === Seq.fill(2)(Seq(0, 25, 175, 200)).flatten.flatMap(Seq.fill(3)(_))
      )
    }
  }

  nativeTest("what is no picture is named with its row, skipped, and never kept") {
    val frame = binaries(file(picture()), "no picture".getBytes, null, file(picture(60, 40)).take(90), file(picture()))
    val pixels = Pixels(4, 6, 3, channelsFirst = true, unit = true)
    assert(read(frame, pixels, DType.Float32).problem ===
      Some("row 1 of partition 0: the column \"picture\": the picture is neither PNG nor JPEG (10 bytes): set handleInvalid to " +
        "\"skip\" to drop such rows, or mend them first"))
    val skipping = read(frame, pixels, DType.Float32, HandleInvalid.Skip)
    assert(skipping.rows.head === 2 && skipping.skipped === 3)
    assert(read(frame, pixels, DType.Float32, HandleInvalid.Keep).problem.exists(_.contains("keep cannot keep")))
    val invalid = asImages(frame.where("id in (0, 1)"))
    assert(invalid.count() === 2)
    assert(read(invalid, pixels, DType.Float32).problem.exists(_.contains("marked as one that Spark could not decode")))
    val deep = invalid.limit(1).withColumn("picture", f.col("picture").withField("mode", f.lit(21)))
    assert(read(deep, pixels, DType.Float32).problem.exists(_.contains("has the OpenCV type 21 and 3 channels")))
    val short = invalid.limit(1).withColumn("picture", f.col("picture").withField("data", f.lit(Array[Byte](1, 2, 3))))
    assert(read(short, pixels, DType.Float32).problem.exists(
      _.contains("holds 3 bytes, but 4 x 6 pixels of 3 channels are 72")
    ))
  }

  nativeTest("a network of layers learns from files and from structs, and predicts the same from both") {
    def flat(bright: Boolean): Array[Byte] = {
      val image = picture(12, 9)
      for (x <- 0 until 12; y <- 0 until 9) image.setRGB(x, y, if (bright) 0xf0e0d0 else 0x102030)
      file(image)
    }
    val files = binaries((0 until 24).map(i => flat(i % 2 == 1)): _*).withColumn("label", f.col("id") % 2)
    val images = asImages(files).withColumn("label", f.col("id") % 2)
    def estimator = new TorchEstimator()
      .setLayers(
        """{"layers": [{"type": "conv2d", "filters": 2, "kernelSize": 3}, {"type": "flatten"}, {"type": "dense", "units": 2}]}"""
      )
      .setInputShapes("[[6, 8, 3]]").setFeaturesCol("picture").setLearningRate(0.05).setMaxEpochs(15)
    val fitted = estimator.fit(files)
    val told = fitted.transform(images)
    assert(told.where("prediction = label").count() === 24)
    val folder = Files.createTempDirectory("images-").resolve("data").toString
    files.write.parquet(folder)
    // In batches of columns, whose pictures are read row by row.
    assert(fitted.transform(spark.read.parquet(folder)).where("prediction = label").count() === 24)
    assert(estimator.fit(images).summary.epochs.last.loss === fitted.summary.epochs.last.loss)
  }

  test("a shape says where its channels are, or is refused") {
    assert(Pixels.of(Seq(3, 20, 30), unit = true) === Some(Pixels(20, 30, 3, channelsFirst = true, unit = true)))
    assert(Pixels.of(Seq(20, 30, 1), unit = true) === Some(Pixels(20, 30, 1, channelsFirst = false, unit = true)))
    assert(Pixels.of(Seq(20, 30), unit = false) === Some(Pixels(20, 30, 1, channelsFirst = true, unit = false)))
    for (shape <- Seq(Seq(64L), Seq(3L, 5L, 4L), Seq(2L, 20L, 30L), Seq(1L, 1L, 20L, 30L)))
      assert(Pixels.of(shape, unit = true) === None, shape)
  }

  test("layouts with pictures: what fits, and the sentences of what does not") {
    val schema = StructType(Seq(
      StructField("picture", BinaryType),
      StructField("x", ArrayType(IntegerType)),
      StructField("label", IntegerType)
    ))
    def laidOut(dtype: String, shape: Seq[Long], column: String, range: Option[String] = None) =
      FeatureLayout.forTraining(
        schema,
        ProgramDescription(
          "pt2",
          Seq(TensorSpec("x", dtype, None +: shape.map(Some(_)))),
          Seq(TensorSpec("", "float32", Seq(None, Some(3)))),
          2,
          10,
          10,
          40,
          None
        ),
        FeatureLayout.Choice(Seq(column), None, Loss("crossEntropy"), "label", None, None, None, pixelRange = range)
      )
    assert(laidOut("uint8", Seq(3, 8, 8), "picture").columns.head.dtype === DType.UInt8)
    def refused(body: => Any) = message[IllegalArgumentException](body)
    assert(refused(laidOut("float32", Seq(64), "picture")).contains("takes rows of the shape [64]: pictures fill"))
    assert(refused(laidOut("uint8", Seq(3, 8, 8), "x")).contains("is uint8, which pictures fill and nothing else"))
    assert(
      refused(laidOut("int64", Seq(3, 8, 8), "picture", Some("unit"))).contains("takes pixels from 0 to 255: clear it")
    )
    val numbers = new TorchEstimator().setFeaturesCol("x").setPixelRange("byte")
    assert(refused(
      numbers.transformSchema(schema)
    ) === "pixelRange is set, but no column of the inputs holds pictures: clear it")
  }
}
