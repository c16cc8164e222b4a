// Lesson 4: the same from Scala, without Python anywhere. Lesson 1 has written the data.
//
//     spark-shell --master 'local-cluster[2,1,1024]' --jars kindling.jar -i 04_digits.scala

import kindling.TorchEstimator

val tmp = sys.env.getOrElse("TMPDIR", "/tmp") // as in lesson 1
val data = spark.read.parquet(s"file://$tmp/kindling-digits.parquet")
val network = """[{"type": "dense", "units": 128, "activation": "relu"}, {"type": "dense", "units": 10}]"""
val model = new TorchEstimator().setLayers(network).setMaxEpochs(5).setLearningRate(3e-3).setNumWorkers(2).fit(data.where("not heldOut"))

val tested = model.transform(data.where("heldOut"))
println(f"accuracy: ${tested.where("prediction = label").count.toDouble / tested.count}%.3f")
System.exit(0) // spark-shell would go on and ask for more
