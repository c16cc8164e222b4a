package kindling.internal

import org.apache.hadoop.conf.Configuration
import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.types.StructType

/**
 * Whether the model of an estimator will predict one number per row or several, which is the type of its column, told before
 * anything is trained.
 *
 * The label says it for most: who trains on one class, or on one number that the output is compared with, predicts one. For the
 * others the program is read, on the driver and each time.
 */
private[kindling] object PredictionWidth {

  def several(params: TorchParams, loss: Loss, schema: StructType): Boolean = {
    def labels = ColumnTypes.holdsSeveral(schema, params.getLabelCol, "the label", Indexing.of(params))
    loss.label match {
      case Loss.Label.Class if !labels => false
      case Loss.Label.LikeOutput if loss.outputs == 1 => labels
      case _ => described(params, schema) match {
          case Some(program) => OutputLayout.of(program, loss, params.get(params.predictionOutput)).width > 1
          // Without a network `fit` fails in a moment. A layer list over rows of unknown width keeps them flat unless it embeds them.
          case None => loss.label != Loss.Label.Class
        }
    }
  }

  /** The columns of outputCols, and whether they hold several numbers a row: vectors, where the program does not say yet. */
  def others(params: TorchParams, loss: Loss, schema: StructType): Seq[(String, Boolean)] =
    params.get(params.outputCols).map(_.toSeq).fold(Seq.empty[(String, Boolean)]) { columns =>
      described(params, schema) match {
        case Some(program) =>
          OutputLayout.of(program, loss, params.get(params.predictionOutput), Some(columns)).others
            .map(other => other.column -> (other.width > 1))
        case None => columns.filter(_.nonEmpty).map(_ -> true)
      }
    }

  /** What the program says of itself; none where there is none yet, or a layer list whose input the schema does not tell. */
  private def described(params: TorchParams, schema: StructType): Option[ProgramDescription] = {
    val session = SparkSession.getActiveSession.orElse(SparkSession.getDefaultSession)
    val bytes = (params.get(params.model), params.get(params.layers)) match {
      case (Some(path), None) =>
        val hadoop = session.fold(new Configuration())(_.sparkContext.hadoopConfiguration)
        Some(() => ProgramSource.read(path, hadoop))
      case (None, Some(json)) =>
        val list = LayerList.parse(json)
        val shape = list.inputShape.orElse(params.get(params.inputShapes).flatMap(InputShapes.parse(_).headOption))
          .orElse(ProgramSource.flatWidth(schema, FeatureLayout.Choice.of(params).featuresCols).map(Seq(_)))
        if (list.isGraph || shape.isDefined) Some(() => list.complete(shape.getOrElse(Nil), params.getSeed)) else None
      case _ => None
    }
    bytes.map { read =>
      val conf = session.map(_.sparkContext.getConf)
      try NativeLibrary.load(NativeLoading.of(key => conf.flatMap(_.getOption(key)), params.getLibtorch)): Unit
      catch Failures.ofLoading
      ProgramDescription.inspect(read())
    }
  }
}
