"""Write down what Keras computes for every layer of a layer list, and for nets made of them.

A case is a network of `kindling.layers`. The same network is built in Keras from the same settings, each under Keras'
name for it (`kernelSize` is `kernel_size`), so that a default which differs shows. Its weights are random, and go to
Kindling's names through `state_from_keras`. Everything is in `layers.safetensors`, under `<case>/`:

    x0, x1, ...         the inputs: six rows, or what the case says
    w.<name>            the weights, by their names in Kindling's `state_dict`
    y0.eval, ...        the outputs in evaluation
    y0.train, ...       the outputs in training, unless something random happens there
    c0, ...             what the training outputs are multiplied by before they are summed: the sum is differentiated
    g.<name>, gx0, ...  its gradients with respect to the weights and the inputs that are floats
    after.<name>        running means after that one call

The file's metadata holds the network of each case as JSON (`case.<case>`), the same with every default written out
(`explicit.<case>`: a default that differs between the two languages shows), and the versions of Keras and torch.

    python make_layers_golden.py            write the file beside this script
    python make_layers_golden.py --check    compute again and compare with the file instead (no writing)
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ["KERAS_BACKEND"] = "torch"

import keras
import kindling.layers as kl
import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

FILE = Path(__file__).resolve().parent / "layers.safetensors"
# float32 kernels may sum in another order on another processor.
TOLERANCE = 1e-5
ROWS = 6

Network = kl.Sequential | kl.Model


def snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)


def keras_layer(layer: kl.Layer) -> Any:
    """Keras' layer of the same class with the same settings, as something to call."""
    given = dict(layer._given())
    causal = given.pop("useCausalMask", False)
    if isinstance(layer, kl.TransformerBlock):
        return transformer_block(layer)
    if isinstance(layer, kl.Bidirectional):
        given["layer"] = keras_layer(layer.layer)
    if isinstance(layer, kl.AveragePooling1D | kl.AveragePooling2D | kl.AveragePooling3D):
        given.setdefault("poolSize", layer.poolSize)  # the one default that Keras does not have
    settings = {snake(name): setting(value) for name, value in given.items()}
    if isinstance(layer, kl.Tanh | kl.Sigmoid | kl.GELU):  # Keras has these as functions only
        name = snake(type(layer).__name__.lower())
        return keras.layers.Activation(lambda x: getattr(keras.activations, name)(x, **settings))
    made = getattr(keras.layers, type(layer).__name__)(**settings)
    if isinstance(layer, kl.MultiHeadAttention):
        return Attention(made, causal)
    return made


def setting(value: Any) -> Any:
    """An initialiser that is an object is written differently in Keras."""
    if isinstance(value, dict):
        config = {name: one for name, one in value.items() if name != "name"}
        return {"class_name": value["name"], "config": config}
    return value


@dataclass
class Attention:
    """Keras takes the causal mask in the call."""

    layer: Any
    causal: bool

    def __call__(self, query: Any, value: Any = None, key: Any = None) -> Any:
        value = query if value is None else value
        return self.layer(query, value, key, use_causal_mask=self.causal)


def transformer_block(block: kl.TransformerBlock) -> Any:
    """The composition that the documentation names, of Keras' own layers."""

    def call(x: Any) -> Any:
        width = x.shape[-1]
        attention = keras.layers.MultiHeadAttention(block.numHeads, width // block.numHeads, dropout=block.dropout)
        norms = [keras.layers.LayerNormalization(epsilon=block.layerNormEpsilon) for _ in range(2)]
        dense = [keras.layers.Dense(block.intermediateDim, block.activation), keras.layers.Dense(width)]
        drop = keras.layers.Dropout(block.dropout)

        def attend(x: Any) -> Any:
            return drop(attention(x, x, use_causal_mask=block.useCausalMask))

        def feed(x: Any) -> Any:
            return drop(dense[1](dense[0](x)))

        for part, norm in zip((attend, feed), norms, strict=True):
            x = x + part(norm(x)) if block.normalizeFirst else norm(x + part(x))
        return x

    return call


def keras_model(net: Network) -> Any:
    if isinstance(net, kl.Sequential):
        shape = net.inputShape
        entry = keras.Input(shape, dtype="int64" if isinstance(net.layers[0], kl.Embedding) else "float32")
        x = entry
        for layer in net.layers:
            x = keras_layer(layer)(x)
        return keras.Model(entry, x)
    values: dict[int, Any] = {id(one): keras.Input(one.shape, dtype=one.dtype) for one in net.inputs}
    layers: dict[int, Any] = {}
    for call in net._calls:
        if call.layer is not None and id(call.layer) not in layers:
            layers[id(call.layer)] = keras_layer(call.layer)
        given = [values[id(one)] for one in call.inputs]
        joins = len(given) > 1 and not isinstance(call.layer, kl.MultiHeadAttention)
        values[id(call)] = layers[id(call.layer)](given) if joins else layers[id(call.layer)](*given)
    return keras.Model([values[id(one)] for one in net.inputs], [values[id(one)] for one in net.outputs])


def one(shape: tuple[int, ...], *layers: Any, dataFormat: str | None = None) -> kl.Sequential:
    return kl.Sequential(layers, inputShape=shape, dataFormat=dataFormat)


def siamese() -> kl.Model:
    """One embedding and one dense layer, each used twice, and the product of what they give."""
    a, b = kl.Input((4,), name="a", dtype="int64"), kl.Input((4,), name="b", dtype="int64")
    embed, dense = kl.Embedding(20, 6), kl.Dense(5, activation="tanh")
    left, right = (dense(kl.GlobalAveragePooling1D()(embed(x))) for x in (a, b))
    return kl.Model([a, b], kl.Dense(1)(kl.Concatenate()([kl.Multiply()([left, right]), kl.Dot(1)([left, right])])))


def residual() -> kl.Model:
    """A small residual net with batch norm, as one writes it in Keras."""
    image = kl.Input((8, 8, 3), name="image")
    x = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(4, 3, padding="same", useBias=False)(image)))
    y = kl.BatchNormalization()(kl.Conv2D(8, 3, strides=2, padding="same", useBias=False)(x))
    short = kl.BatchNormalization()(kl.Conv2D(8, 1, strides=2, useBias=False)(x))
    x = kl.ReLU()(kl.Add()([y, short]))
    return kl.Model(image, kl.Dense(3)(kl.GlobalAveragePooling2D()(x)))


def recommender() -> kl.Model:
    """Two ids and some numbers, two outputs: branches of different lengths, so that Keras' order of layers shows."""
    user, item = kl.Input((), name="user", dtype="int64"), kl.Input((), name="item", dtype="int64")
    context = kl.Input((3,), name="context")
    deep = kl.Concatenate()(
        [kl.Embedding(9, 4)(user), kl.Embedding(7, 4)(item), kl.Dense(4, activation="relu")(context)]
    )
    deep = kl.LayerNormalization()(kl.Dense(6, activation="gelu")(deep))
    wide = kl.Dense(2, activation="selu")(context)
    return kl.Model([user, item, context], [kl.Dense(1)(kl.Concatenate()([deep, wide])), kl.Dense(2)(deep)])


def cross_attention() -> kl.Model:
    query, value, key = kl.Input((3, 6), name="q"), kl.Input((5, 4), name="v"), kl.Input((5, 2), name="k")
    y = kl.MultiHeadAttention(2, 3, valueDim=5)(query, value, key)
    z = kl.MultiHeadAttention(3, 2, useBias=False, outputShape=4)(query, value)
    return kl.Model([query, value, key], [y, z])


def autoencoder() -> kl.Model:
    image = kl.Input((8, 8, 1), name="image")
    x = kl.MaxPooling2D(2)(kl.Conv2D(4, 3, padding="same", activation="relu")(image))
    x = kl.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")(x)
    x = kl.UpSampling2D(2)(kl.AveragePooling2D(2)(x))
    return kl.Model(image, kl.Conv2D(1, 3, padding="same", activation="sigmoid")(x))


ACTIVATIONS = [
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "hard_silu",
    "mish",
    "softplus",
    "softsign",
    "tanh",
    "hard_tanh",
    "tanh_shrink",
    "soft_shrink",
    "hard_shrink",
    "sigmoid",
    "hard_sigmoid",
    "log_sigmoid",
    "softmax",
    "log_softmax",
    "exponential",
    "linear",
]


def merges() -> kl.Model:
    a, b, c = (kl.Input((3, 4), name=name) for name in "abc")
    row = kl.Input((1, 4), name="row")
    outputs = [
        kl.Add()([a, b, c]),
        kl.Subtract()([a, b]),
        kl.Multiply()([a, row]),
        kl.Average()([a, b, c]),
        kl.Maximum()([a, b]),
        kl.Minimum()([a, b, c]),
        kl.Concatenate()([a, b]),
        kl.Concatenate(axis=1)([a, row, c]),
        kl.Dot((2, 2))([a, b]),
        kl.Dot((1, 1))([a, b]),
    ]
    return kl.Model([a, b, c, row], outputs)


FIRST = "channels_first"
CASES: dict[str, Network] = {
    "dense": one((4,), kl.Dense(3)),
    "dense_sequence": one((2, 4), kl.Dense(3, activation="tanh", useBias=False)),
    **{f"activation_{name}": one((2, 5), kl.Activation(name)) for name in ACTIVATIONS},
    "relu": one((9,), kl.ReLU(), kl.Dense(4), kl.ReLU(maxValue=0.5, negativeSlope=0.2, threshold=0.1)),
    "relu_slope": one((9,), kl.ReLU(negativeSlope=0.2), kl.ReLU(threshold=0.3)),
    "leaky": one((9,), kl.LeakyReLU(), kl.ELU(0.7), kl.GELU(), kl.GELU(approximate=True)),
    "prelu": one((3, 4, 2), kl.PReLU(), kl.PReLU(sharedAxes=(1, 2))),
    "softmax": one((3, 4), kl.Softmax(), kl.Softmax(axis=1), kl.Tanh(), kl.Sigmoid()),
    "embedding": one((4,), kl.Embedding(11, 3)),
    "rescaling": one((4,), kl.Rescaling(0.5, offset=-1.0), kl.Identity()),
    "dropout": one((4, 4, 2), kl.Dropout(0.3), kl.SpatialDropout2D(0.2), kl.AlphaDropout(0.1)),
    "conv1d": one((9, 3), kl.Conv1D(4, 3)),
    "conv1d_causal": one((9, 3), kl.Conv1D(4, 3, padding="causal", dilationRate=2, activation="relu")),
    "conv1d_same": one((9, 3), kl.Conv1D(4, 4, strides=2, padding="same")),
    "conv2d": one((7, 6, 3), kl.Conv2D(4, (3, 2), activation="relu")),
    "conv2d_same": one((7, 6, 4), kl.Conv2D(6, (4, 3), strides=(2, 3), padding="same", groups=2)),
    "conv2d_dilated": one((9, 9, 2), kl.Conv2D(3, 3, padding="same", dilationRate=(2, 3), useBias=False)),
    "conv2d_first": one((3, 7, 6), kl.Conv2D(4, 2, padding="same", dataFormat=FIRST)),
    "conv3d": one((4, 5, 6, 2), kl.Conv3D(3, (2, 3, 2), padding="same", strides=(1, 2, 1))),
    "depthwise1d": one((9, 3), kl.DepthwiseConv1D(3, padding="same", depthMultiplier=2)),
    "depthwise2d": one((7, 6, 3), kl.DepthwiseConv2D(3, strides=2, padding="same", depthMultiplier=2)),
    "separable1d": one((9, 3), kl.SeparableConv1D(4, 3, dilationRate=2)),
    "separable2d": one((7, 6, 3), kl.SeparableConv2D(4, 3, padding="same", depthMultiplier=2, activation="relu")),
    "transpose1d": one((5, 3), kl.Conv1DTranspose(4, 2, strides=3)),
    "transpose2d": one((4, 5, 3), kl.Conv2DTranspose(4, 3)),
    "transpose2d_same": one((4, 5, 3), kl.Conv2DTranspose(4, (3, 4), strides=2, padding="same")),
    "transpose2d_output": one((4, 4, 2), kl.Conv2DTranspose(3, 3, strides=2, padding="same", outputPadding=1)),
    "transpose2d_first": one((2, 4, 4), kl.Conv2DTranspose(3, 2, strides=3, padding="same", dataFormat=FIRST)),
    "transpose2d_dilated": one((4, 4, 2), kl.Conv2DTranspose(3, 3, dilationRate=2)),
    "transpose3d": one((3, 3, 2, 2), kl.Conv3DTranspose(2, 2, strides=2)),
    "pooling1d": one((9, 3), kl.MaxPooling1D(3, strides=2, padding="same"), kl.AveragePooling1D(2)),
    "max2d": one((7, 6, 3), kl.MaxPooling2D(), kl.MaxPooling2D((2, 1), strides=1, padding="same")),
    "average2d": one((7, 6, 3), kl.AveragePooling2D(3, strides=1, padding="same"), kl.AveragePooling2D((2, 3))),
    "average2d_uneven": one((7, 6, 3), kl.AveragePooling2D(2, padding="same")),
    "pooling3d": one((4, 6, 5, 2), kl.MaxPooling3D(2, padding="same"), kl.AveragePooling3D((1, 2, 2))),
    "pooling_first": one((3, 7, 6), kl.MaxPooling2D(2, dataFormat=FIRST), kl.GlobalAveragePooling2D(dataFormat=FIRST)),
    "global1d": one((5, 3), kl.GlobalMaxPooling1D()),
    "global2d": one((5, 4, 3), kl.GlobalMaxPooling2D(keepdims=True), kl.GlobalAveragePooling2D()),
    "global3d": one((2, 5, 4, 3), kl.GlobalAveragePooling3D(keepdims=True), kl.GlobalMaxPooling3D()),
    "batch_norm": one((5,), kl.BatchNormalization()),
    "batch_norm_images": one((3, 4, 2), kl.BatchNormalization(momentum=0.8, epsilon=1e-2)),
    "batch_norm_first": one((2, 3, 4), kl.BatchNormalization(axis=1, center=False)),
    "batch_norm_bare": one(
        (4, 5), kl.BatchNormalization(scale=False), kl.BatchNormalization(scale=False, center=False)
    ),
    "layer_norm": one((4, 5), kl.LayerNormalization(), kl.LayerNormalization((1, 2), center=False, epsilon=1e-5)),
    "layer_norm_shifted": one((4, 5), kl.LayerNormalization(scale=False)),
    "group_norm": one((4, 3, 6), kl.GroupNormalization(3), kl.GroupNormalization(-1, scale=False)),
    "group_norm_first": one((4, 3, 5), kl.GroupNormalization(2, axis=1)),
    "rms_norm": one((4, 5), kl.RMSNormalization()),
    "lstm": one((5, 3), kl.LSTM(4)),
    "lstm_sequence": one((5, 3), kl.LSTM(4, returnSequences=True, goBackwards=True), kl.LSTM(3, useBias=False)),
    "lstm_dropout": one((5, 3), kl.LSTM(4, dropout=0.4, returnSequences=True), kl.GRU(3, dropout=0.3)),
    "gru": one((5, 3), kl.GRU(4)),
    "gru_sequence": one((5, 3), kl.GRU(4, returnSequences=True, goBackwards=True), kl.GRU(3, useBias=False)),
    "rnn": one((5, 3), kl.SimpleRNN(4, returnSequences=True), kl.SimpleRNN(3, activation="relu", goBackwards=True)),
    "bidirectional_lstm": one((5, 3), kl.Bidirectional(kl.LSTM(4, returnSequences=True)), kl.Bidirectional(kl.GRU(2))),
    "bidirectional_sum": one((5, 3), kl.Bidirectional(kl.GRU(4, returnSequences=True), mergeMode="sum")),
    "bidirectional_mul": one((5, 3), kl.Bidirectional(kl.SimpleRNN(4), mergeMode="mul")),
    "bidirectional_ave": one((5, 3), kl.Bidirectional(kl.LSTM(4), mergeMode="ave")),
    "attention": one((5, 6), kl.MultiHeadAttention(2, 3)),
    "attention_causal": one((5, 6), kl.MultiHeadAttention(3, 2, valueDim=4, useCausalMask=True)),
    "attention_cross": cross_attention(),
    "transformer_last": one((5, 6), kl.TransformerBlock(2, 8)),
    "transformer_first": one((5, 6), kl.TransformerBlock(3, 8, activation="gelu", normalizeFirst=True)),
    "transformer_causal": one((5, 6), kl.TransformerBlock(2, 8, useCausalMask=True, dropout=0.1)),
    "reshaping": one((4, 6), kl.Reshape((2, 3, -1)), kl.Permute((3, 1, 2)), kl.Flatten(), kl.RepeatVector(3)),
    "flatten_first": one((2, 3, 4), kl.Flatten(dataFormat=FIRST)),
    "padding": one((3, 4, 2), kl.ZeroPadding2D(((1, 2), (0, 3))), kl.Cropping2D(((0, 1), (1, 1)))),
    "padding1d": one((5, 2), kl.ZeroPadding1D((1, 2)), kl.Cropping1D(1), kl.UpSampling1D(3)),
    "padding3d": one((2, 3, 4, 2), kl.ZeroPadding3D(1), kl.Cropping3D((1, 0, 1)), kl.UpSampling3D((1, 2, 1))),
    "upsampling": one((3, 4, 2), kl.UpSampling2D((2, 3)), kl.UpSampling2D(2, interpolation="bilinear")),
    "merges": merges(),
    "net_mlp": one((8,), kl.Dense(16, activation="relu"), kl.BatchNormalization(), kl.Dense(4)),
    "net_cnn": one(
        (9, 9, 1),
        kl.Conv2D(4, 3, activation="relu"),
        kl.MaxPooling2D(),
        kl.Conv2D(6, 2, padding="same"),
        kl.BatchNormalization(),
        kl.ReLU(),
        kl.Flatten(),
        kl.Dense(3),
    ),
    "net_text": one(
        (6,),
        kl.Embedding(15, 8),
        kl.Conv1D(6, 3, padding="same", activation="swish"),
        kl.Bidirectional(kl.LSTM(4)),
        kl.Dense(2),
    ),
    "net_transformer": one(
        (6,), kl.Embedding(15, 8), kl.TransformerBlock(2, 16), kl.GlobalAveragePooling1D(), kl.Dense(2)
    ),
    "net_siamese": siamese(),
    "net_residual": residual(),
    "net_recommender": recommender(),
    "net_autoencoder": autoencoder(),
}
# A mask is drawn in training.
RANDOM = {"dropout", "lstm_dropout", "transformer_causal"}


def ids(net: Network, index: int) -> int | None:
    """How many ids an input may hold; None if it holds floats."""
    if isinstance(net, kl.Sequential):
        return net.layers[0].inputDim if isinstance(net.layers[0], kl.Embedding) else None
    if net.inputs[index].dtype == "float32":
        return None
    embeddings = [call.layer for call in net._calls if net.inputs[index] in call.inputs]
    return min(layer.inputDim for layer in embeddings if isinstance(layer, kl.Embedding))


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def compute(name: str, net: Network) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(abs(hash_of(name)))
    keras.utils.set_random_seed(0)
    model = keras_model(net)
    for weight in model.weights:
        low, high = (0.5, 1.5) if weight.path.endswith("variance") or weight.path.endswith("gamma") else (-0.7, 0.7)
        weight.assign(random.uniform(low, high, weight.shape).astype(np.float32))
    record = {f"w.{key}": value for key, value in net.state_from_keras(model.get_weights()).items()}

    inputs = []
    for index, entry in enumerate(model.inputs):
        most, shape = ids(net, index), (ROWS, *entry.shape[1:])
        x = random.normal(size=shape).astype(np.float32) if most is None else random.integers(0, most, shape)
        record[f"x{index}"] = x
        inputs.append(torch.tensor(x, requires_grad=most is None))

    def call(training: bool) -> list[torch.Tensor]:
        return as_list(model(inputs if len(inputs) > 1 else inputs[0], training=training))

    record |= {f"y{i}.eval": y.detach().numpy() for i, y in enumerate(call(training=False))}
    if name in RANDOM:
        return record
    outputs = call(training=True)
    total = torch.zeros(())
    for index, y in enumerate(outputs):
        factor = random.normal(size=tuple(y.shape)).astype(np.float32)
        record |= {f"y{index}.train": y.detach().numpy(), f"c{index}": factor}
        total = total + (y * torch.tensor(factor)).sum()
    for weight in model.weights:
        weight.value.grad = None
    total.backward()  # type: ignore[no-untyped-call]
    gradients = [np.zeros(w.shape, np.float32) if w.value.grad is None else w.value.grad.numpy() for w in model.weights]
    trained = {trained_name(key) for key in record if key.startswith("w.")}
    record |= {f"g.{key}": value for key, value in net.state_from_keras(gradients).items() if key in trained}
    record |= {f"gx{i}": x.grad.numpy() for i, x in enumerate(inputs) if x.grad is not None}
    after = net.state_from_keras(model.get_weights())
    return record | {f"after.{key}": value for key, value in after.items() if key.endswith("running_mean")}


def explicit(net: Network) -> str:
    """The network's JSON with every setting that has a value."""

    def config(layer: kl.Layer) -> dict[str, Any]:
        own = [one.name for one in fields(layer) if one.name not in {"name", "trainable"}]
        values = {name: getattr(layer, name) for name in own if getattr(layer, name) is not None}
        return {"type": layer.type} | {k: config(v) if isinstance(v, kl.Layer) else v for k, v in values.items()}

    with patch.object(kl.Layer, "config", config):
        return net.to_json()


def trained_name(key: str) -> str:
    """The weight's name; empty if it is a buffer."""
    name = key.removeprefix("w.")
    return "" if name.rpartition(".")[2] in {"running_mean", "running_var", "num_batches_tracked"} else name


def hash_of(name: str) -> int:
    """The same number in every process, unlike `hash`."""
    return int.from_bytes(name.encode(), "little") % (1 << 61)


def difference(record: dict[str, np.ndarray[Any, Any]]) -> float:
    """The largest difference to the file, relative above 1; infinite when names, shapes or types differ."""
    with safe_open(FILE, "numpy") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if stored.keys() != record.keys():
        return float("inf")
    worst = 0.0
    for name, value in record.items():
        if stored[name].shape != value.shape or stored[name].dtype != value.dtype:
            return float("inf")
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        worst = max(worst, float(np.abs(stored[name] - value).max(initial=0)) / scale)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    record = {f"{name}/{key}": value for name, net in CASES.items() for key, value in compute(name, net).items()}
    if check:
        worst = difference(record)
        print(f"{FILE.name}: differs by {worst:.1e}")
        return 1 if worst > TOLERANCE else 0
    versions = {"keras": keras.__version__, "torch": torch.__version__.partition("+")[0]}
    networks = {f"case.{name}": net.to_json() for name, net in CASES.items()}
    networks |= {f"explicit.{name}": explicit(net) for name, net in CASES.items()}
    save_file({name: np.asarray(value, order="C") for name, value in record.items()}, FILE, networks | versions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
