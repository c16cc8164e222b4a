package kindling.internal

import java.nio.{ByteBuffer, ByteOrder}
import java.nio.file.Files

import kindling.{SparkSuite, TorchEstimator, TorchModel}
import org.apache.spark.ml.{Pipeline, PipelineModel}
import org.apache.spark.ml.feature.StringIndexer
import org.apache.spark.sql.{functions => f, DataFrame}

/** Strings that become numbers: the numbers of Spark ML's StringIndexer, kept with the model, and back again. */
class VocabularySuite extends SparkSuite {

  /** 90 rows whose label follows from the two features; the label's values are 45, 30 and 15 times there. */
  private lazy val data: DataFrame = {
    val label = f.when(f.col("id") % 6 < 3, "dog").when(f.col("id") % 6 < 5, "cat").otherwise("emu")
    spark.range(0, 90, 1, 3).select(
      f.col("id"),
      label.as("animal"),
      f.concat(f.lit("of "), label).as("sort"),
      (f.col("id") % 2).as("odd")
    )
  }

  private def estimator = new TorchEstimator()
    .setLayers("""[{"type": "dense", "units": 24, "activation": "relu"}, {"type": "dense", "units": 3}]""")
    .setInputCols(Array("sort", "odd"))
    .setLabelCol("animal")
    .setIndexCols(Array("sort", "animal"))
    .setPredictedLabelCol("guess")
    .setLearningRate(0.05)
    .setMaxEpochs(40)

  test("the numbers are those of StringIndexer, whatever the order, and nulls are no values") {
    val nested = data.withColumn("a.b", f.when(f.col("id") > 3, f.col("animal")))
    Vocabulary.orders.foreach { order =>
      val fitted = Vocabulary.fit(nested, Seq("sort", "a.b"), order)
      val known = new StringIndexer().setInputCol("animal").setOutputCol("i").setStringOrderType(order).fit(data)
      assert(fitted.map(_.column) === Seq("sort", "a.b"))
      assert(fitted.last.values === known.labelsArray.head.toSeq, order)
      assert(fitted.head.values === known.labelsArray.head.map("of " + _).toSeq, order)
    }
  }

  nativeTest(
    "a classifier of strings by strings learns, tells strings, and keeps its vocabularies when saved in a pipeline"
  ) {
    val fitted = new Pipeline().setStages(Array(estimator)).fit(data)
    val path = Files.createTempDirectory("vocabulary-").resolve("model").toString
    fitted.write.save(path)
    val loaded = PipelineModel.load(path)
    val model = loaded.stages.head.asInstanceOf[TorchModel]
    assert(model.vocabulary("animal").toSeq === Seq("dog", "cat", "emu"))
    assert(message[IllegalArgumentException](model.vocabulary("odd")) ===
      """the column "odd" was not indexed: indexCols named sort, animal""")
    val stored = Files.createTempDirectory("vocabulary-").resolve("data").toString
    data.write.parquet(stored)
    // Rows, and batches of columns.
    for (frame <- Seq(data.drop("animal"), spark.read.parquet(stored).drop("animal"))) {
      val told = loaded.transform(frame).select("sort", "guess", "prediction").collect()
      assert(told.length === 90)
      told.foreach { row =>
        assert(row.getString(0) === "of " + row.getString(1))
        assert(model.vocabulary("animal")(row.getDouble(2).toInt) === row.getString(1))
      }
    }
    // The column of strings alone, and a schema that was promised.
    val only = model.copy(org.apache.spark.ml.param.ParamMap.empty).setPredictionCol("").setProbabilityCol("")
    assert(only.transform(data).columns.toSeq === data.columns.toSeq :+ "guess")
    assert(estimator.transformSchema(data.schema) === fitted.stages.head.transformSchema(data.schema))
  }

  test("what is kept without a number gets the one behind the last, null or unseen") {
    val frame = data.limit(1).select(f.explode(f.array(f.lit("b"), f.lit("zebra"), f.lit(null), f.lit("a"))).as("x"))
    val words = Vocabulary("x", Seq("a", "b"))
    for (dtype <- DType.all) {
      val column = NativeColumn("x", Role.Input, dtype, 1, Filling.Scalars(Seq(frame.schema("x")), Seq(words)))
      val layout = FeatureLayout(Seq(column), None)
      val rows = frame.queryExecution.executedPlan.executeCollect()
      def read(handle: HandleInvalid) = ReadersSuite.outcome(layout, handle, Validation.None, 0) { (writer, split) =>
        new RowLoop(rows.iterator, writer, split)
      }
      val bytes = ByteBuffer.wrap(read(HandleInvalid.Keep).columns.head).order(ByteOrder.nativeOrder())
      val numbers = Seq.fill(4)(dtype match {
        case DType.Float32 => bytes.getFloat.toDouble
        case DType.Float64 => bytes.getDouble
        case DType.Int32 => bytes.getInt.toDouble
        case DType.Int64 => bytes.getLong.toDouble
        case DType.UInt8 => fail("strings are no pixels")
      })
      assert(numbers === Seq(1.0, 2.0, 2.0, 0.0))
      val skipping = read(HandleInvalid.Skip)
      assert(skipping.rows.head === 2 && skipping.skipped === 2)
      assert(read(HandleInvalid.Fail).problem.exists(_.contains("row 1 of partition 0: the column \"x\" is \"zebra\"")))
    }
  }

  nativeTest("a string that fit did not see ends transform with its row, or is skipped, or predicted all the same") {
    val model = estimator.setMaxEpochs(1).fit(data)
    val strange = data.withColumn("sort", f.when(f.col("id") === 7, "of gnu").otherwise(f.col("sort"))).coalesce(1)
    val text = message[Exception](model.transform(strange).collect())
    assert(text.contains(
      """row 7 of partition 0: the column "sort" is "of gnu", which is none of the 3 values that fit saw"""
    ))
    assert(model.setHandleInvalid("skip").transform(strange).count() === 89)
    assert(model.setHandleInvalid("keep").transform(strange).count() === 90)
  }

  nativeTest("a class behind the label's values has no string") {
    val two = data.where("animal != 'emu'")
    val model = estimator.setMaxEpochs(1).fit(two)
    assert(model.vocabulary("animal").toSeq === Seq("dog", "cat"))
    val all = model.transform(two).select("prediction", "guess").collect()
    all.foreach(row => assert(row.isNullAt(1) === (row.getDouble(0) >= 2)))
  }

  test("settings that index nothing, or what is not read, are refused by name") {
    def refused(estimator: TorchEstimator) = message[IllegalArgumentException](estimator.transformSchema(data.schema))
    assert(refused(estimator.setIndexCols(Array("sort", "animal", "id"))) ===
      """indexCols names "id", which is neither a column of the inputs nor the label: leave it out""")
    assert(refused(estimator.setIndexCols(Array("sort", "sort"))).contains("is given twice in indexCols"))
    assert(refused(estimator.setIndexCols(Array("sort"))).contains(
      """predictedLabelCol is set, but the label "animal" is not indexed"""
    ))
    val numbers = new TorchEstimator().setFeaturesCol("odd").setLabelCol("odd").setStringOrderType("alphabetAsc")
    assert(refused(numbers).contains("stringOrderType is set, but no column is indexed"))
    assert(refused(
      estimator.setPredictedLabelCol("prediction")
    ) === "predictionCol and predictedLabelCol are both \"prediction\"")
    assert(message[IllegalArgumentException](estimator.setStringOrderType("bySize")).contains(
      "stringOrderType must be one of"
    ))
    assert(message[IllegalArgumentException](estimator.setIndexCols(Array(""))).contains("indexCols must be"))
  }
}
