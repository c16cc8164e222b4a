"""Keras models train through Spark and get their weights back; the assertions are in test_keras.py.

Every batch is the whole data, so that neither the order of the rows nor where Spark puts its tasks plays a part.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
from common import digits, report, session
from kindling import TorchEstimator
from torch.nn.functional import cross_entropy

spark = session()
data = digits(spark, 120).cache()
rows = data.orderBy("id").collect()
features = torch.tensor([row.features for row in rows])
labels = torch.tensor([row.label for row in rows])
EPOCHS, RATE = 5, 0.5


def predicted(model):
    found = model.transform(data).orderBy("id").select("probability").collect()
    return torch.tensor([row.probability.toArray().tolist() for row in found])


def answers(net):
    with torch.no_grad():
        return net(features, training=False).softmax(1).double()


# A functional model, on two workers, beside the same steps taken by PyTorch alone.
keras.utils.set_random_seed(1)
inputs = keras.Input((64,), name="pixels")
hidden = keras.layers.Dense(16, activation="tanh", name="hidden")(inputs)
joined = keras.layers.Concatenate(name="joined")([hidden, inputs])
net = keras.Model(inputs, keras.layers.Dense(10, name="classes")(joined))
start = [weight.copy() for weight in net.get_weights()]
estimator = TorchEstimator(model=net, optimizer="sgd", learningRate=RATE, batchSize=120, maxEpochs=EPOCHS, numWorkers=2)
fitted = estimator.fit(data)
untouched = all((one == other).all() for one, other in zip(start, net.get_weights(), strict=True))

alone = keras.models.clone_model(net)
alone.set_weights(start)
optimizer = torch.optim.SGD(list(alone.parameters()), lr=RATE)
losses = []
for _ in range(EPOCHS):
    optimizer.zero_grad()
    loss = cross_entropy(alone(features, training=True), labels)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

net.set_weights(fitted.kerasWeights(net))
report(
    "functional",
    losses=[abs(epoch["loss"] - loss) for epoch, loss in zip(fitted.summary.history, losses, strict=True)],
    learned=losses[0] - losses[-1],
    weights=max(
        abs(one - other).max().item() for one, other in zip(net.get_weights(), alone.get_weights(), strict=True)
    ),
    moved=max(abs(one - other).max().item() for one, other in zip(net.get_weights(), start, strict=True)),
    answers=(answers(net) - predicted(fitted)).abs().max().item(),
    untouched=untouched,
)

# A sequential model with statistics that training moves and noise that evaluation leaves out.
keras.utils.set_random_seed(2)
layers = [
    keras.Input((64,)),
    keras.layers.Dense(12, activation="relu", name="first"),
    keras.layers.BatchNormalization(name="norm"),
    keras.layers.Dropout(0.2, name="noise"),
    keras.layers.Dense(10, name="last"),
]
noisy = keras.Sequential(layers)
trained = TorchEstimator(model=noisy, learningRate=1e-2, batchSize=120, maxEpochs=EPOCHS).fit(data.coalesce(1))
before = answers(noisy)
noisy.set_weights(trained.kerasWeights(noisy))
report(
    "sequential",
    answers=(answers(noisy) - predicted(trained)).abs().max().item(),
    changed=(answers(noisy) - before).abs().max().item(),
    statistics=abs(noisy.get_layer("norm").get_weights()[2]).max().item(),
)
spark.stop()
