"""Train the models that people bring, in PyTorch and in Keras, and write down what Kindling must reproduce.

    python zoo.py FOLDER             write what is missing or out of date
    python zoo.py FOLDER --only NAME [NAME ...]

Every net is built from a small configuration with random weights (nothing is downloaded), exported by `kindling.export`
as a user would, and trained for ten steps on fresh batches by the library it comes from. Each becomes
`<name>_<dtype>.pt2` and `<name>_<dtype>.safetensors`, laid out as make_golden.py describes; `noise.loss` is how far, at
most, the losses up to a step move if PyTorch's fused optimizer trains instead. The files are some 400 MB: they are not
committed but made by `make zoo`, and made again when this script, the exporter or the pinned requirements change.

Dropout and stochastic depth are off where steps are compared: two generators never draw the same. The nets of `NOISY`
have them on: their output in evaluation is compared, where nothing is random.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_TORCH_DEVICE"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from make_golden import ADAMW, DTYPES, SGD, noise, optimizer
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    Inputs = dict[str, Tensor] | tuple[Tensor, ...]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STEPS, ROWS, CLASSES = 10, 8, 5
# Images that shrink to one pixel leave eight values to a batch norm, and SGD at its usual rate diverges on so few: ten
# steps made 2e8 of a small change in EfficientNet's weights, and the rounding of one kernel decided the last loss. With
# 64 pixels and a small rate they make less than ten of it.
SLOW = SGD | {"learningRate": 0.0005}


@dataclass(frozen=True)
class Case:
    """A net, what its batches look like, and how it learns."""

    name: str
    net: Callable[[], Any]
    inputs: Callable[[torch.dtype], Inputs]
    optimizer: dict[str, Any] = field(default_factory=lambda: ADAMW)
    loss: str = "crossEntropy"
    target: Callable[[Inputs], Tensor] = lambda _: torch.randint(0, CLASSES, (ROWS,))
    steps: int = STEPS
    # Keras' batch normalisation computes in float32 whatever the model's type: float64 is no sharper there.
    float32_inside: bool = False


# Batches -------------------------------------------------------------------------------------------------------------


def images(size: int) -> Callable[[torch.dtype], Inputs]:
    return lambda dtype: (torch.randn(ROWS, 3, size, size, dtype=dtype),)


def pixels_last(size: int) -> Callable[[torch.dtype], Inputs]:
    return lambda dtype: (torch.randn(ROWS, size, size, 3, dtype=dtype),)


def dense(*shape: int) -> Callable[[torch.dtype], Inputs]:
    return lambda dtype: (torch.randn(ROWS, *shape, dtype=dtype),)


def ids(length: int = 8, words: int = 50) -> Tensor:
    return torch.randint(1, words, (ROWS, length))


def tokens(_: torch.dtype) -> Inputs:
    """Ids and a mask: sentences of different lengths, padded with zeros behind."""
    mask = (torch.arange(8) < torch.randint(3, 9, (ROWS, 1))).long()
    return {"input_ids": ids() * mask, "attention_mask": mask}


def only_ids(_: torch.dtype) -> Inputs:
    return (ids(),)


# torchvision ---------------------------------------------------------------------------------------------------------


def resnet18() -> Any:
    from torchvision.models import resnet18

    return resnet18(num_classes=CLASSES)


def mobilenet_v3(dropout: float = 0.0) -> Any:
    from torchvision.models import mobilenet_v3_small

    return mobilenet_v3_small(num_classes=CLASSES, dropout=dropout)


def efficientnet_b0(dropout: float = 0.0, depth: float = 0.0) -> Any:
    from torchvision.models import efficientnet_b0

    net = efficientnet_b0(num_classes=CLASSES, dropout=dropout, stochastic_depth_prob=depth)
    # torchvision's first weights of the classifier suit 1000 classes: with five, the first loss is 6.6.
    net.classifier[1].reset_parameters()
    return net


def vit(dropout: float = 0.0) -> Any:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 2, 32, 64, dropout, dropout, num_classes=CLASSES)


def swin(dropout: float = 0.0, depth: float = 0.0) -> Any:
    from torchvision.models import SwinTransformer

    return SwinTransformer(
        [2, 2], 16, [2, 2], [2, 4], [4, 4], 2.0, dropout, dropout, stochastic_depth_prob=depth, num_classes=CLASSES
    )


# HuggingFace ---------------------------------------------------------------------------------------------------------

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": CLASSES}


def bert(dropout: float = 0.0) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**SMALL, **TOKENS, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    return BertForSequenceClassification(config)


def distilbert() -> Any:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    rates = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    config = DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=50, **TOKENS, **rates)
    return DistilBertForSequenceClassification(config)


def gpt2(dropout: float = 0.0) -> Any:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=16, **TOKENS, **rates)
    return GPT2ForSequenceClassification(config)


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    return LlamaForSequenceClassification(LlamaConfig(**SMALL, **TOKENS, num_key_value_heads=1))


class T5Encoder(nn.Module):
    """T5's encoder, its words averaged and classified."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        config = T5Config(
            d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, vocab_size=50, dropout_rate=0.0, **TOKENS
        )
        self.encoder, self.out = T5EncoderModel(config), nn.Linear(32, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        out: Tensor = self.out((words * attention_mask.unsqueeze(-1)).mean(1))
        return out


def wav2vec2() -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    rates = dict.fromkeys(
        (
            "hidden_dropout",
            "activation_dropout",
            "attention_dropout",
            "feat_proj_dropout",
            "final_dropout",
            "layerdrop",
        ),
        0.0,
    )
    config = Wav2Vec2Config(
        **SMALL,
        **TOKENS,
        **rates,
        conv_dim=(16, 16),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=16,
        apply_spec_augment=False,
    )
    return Wav2Vec2ForSequenceClassification(config)


# Keras ---------------------------------------------------------------------------------------------------------------


def keras_dense(dropout: float = 0.0) -> Any:
    from keras import Sequential, layers

    hidden = [layers.Dense(32, "relu"), layers.BatchNormalization(), layers.Dropout(dropout), layers.Dense(16, "gelu")]
    return Sequential([layers.Input((20,)), *hidden, layers.LayerNormalization(), layers.Dense(CLASSES)])


def keras_conv() -> Any:
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((12, 12, 3)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.DepthwiseConv2D(3),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(scale=False),
            layers.Activation("swish"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ]
    )


def keras_recurrent() -> Any:
    from keras import Input, Model, layers

    x = Input((6,), dtype="int32", name="words")
    h = layers.Embedding(50, 12)(x)
    h = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(h)
    h = layers.GRU(8)(h)
    return Model(x, layers.Dense(CLASSES)(h))


def keras_attention() -> Any:
    from keras import Input, Model, layers

    words, numbers = Input((8,), dtype="int32", name="words"), Input((6,), name="numbers")
    h = layers.Embedding(50, 16)(words)
    h = layers.LayerNormalization()(layers.Add()([h, layers.MultiHeadAttention(2, 8)(h, h)]))
    h = layers.LayerNormalization()(layers.Add()([h, layers.Dense(16)(layers.Dense(32, "relu")(h))]))
    h = layers.Concatenate()([layers.GlobalAveragePooling1D()(h), layers.Dense(8, "tanh")(numbers)])
    return Model([words, numbers], layers.Dense(CLASSES)(h))


# PyTorch -------------------------------------------------------------------------------------------------------------


class Lstm(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 12, 2, batch_first=True, bidirectional=True, dropout=dropout)
        self.out = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(x)
        out: Tensor = self.out(hidden[:, -1])
        return out


class Dlrm(nn.Module):
    """A recommender: numbers through a net, several categories through tables, all pairs of products, and a net."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        self.tables = nn.ModuleList(nn.Embedding(size, 8) for size in (40, 20, 30))
        self.bag = nn.EmbeddingBag(50, 8, mode="sum")
        self.top = nn.Sequential(nn.Linear(8 + 10, 16), nn.ReLU(), nn.Linear(16, CLASSES))
        self.register_buffer("pairs", torch.tril_indices(5, 5, -1), persistent=False)

    def forward(self, numbers: Tensor, user: Tensor, item: Tensor, shop: Tensor, history: Tensor) -> Tensor:
        x = self.bottom(numbers)
        looked_up = [table(one) for table, one in zip(self.tables, (user, item, shop), strict=True)]
        vectors = torch.stack([x, *looked_up, self.bag(history)], 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        pairs: Tensor = self.pairs  # type: ignore[assignment]
        out: Tensor = self.top(torch.cat([x, products[:, pairs[0], pairs[1]]], 1))
        return out


def clicks(dtype: torch.dtype) -> Inputs:
    one = [torch.randint(0, size, (ROWS,)) for size in (40, 20, 30)]
    return (torch.randn(ROWS, 6, dtype=dtype), *one, torch.randint(0, 50, (ROWS, 4)))


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(64, 8)
        )
        self.decode = nn.Sequential(
            nn.Linear(8, 64), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decode(self.encode(x.view(-1, 1, 8, 8)))
        return out


class TabularTransformer(nn.Module):
    """Every column a token: categories by tables, numbers by a weight and a bias each."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.table, self.offsets = nn.Embedding(24, 16), torch.tensor([0, 8, 16])
        self.weight, self.bias = nn.Parameter(torch.randn(5, 16)), nn.Parameter(torch.zeros(5, 16))
        self.first = nn.Parameter(torch.zeros(1, 1, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, CLASSES))

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        columns = [self.table(categories + self.offsets), numbers.unsqueeze(-1) * self.weight + self.bias]
        h = self.encoder(torch.cat([self.first.expand(len(numbers), -1, -1), *columns], 1))
        out: Tensor = self.out(h[:, 0])
        return out


def table(dtype: torch.dtype) -> Inputs:
    return torch.randint(0, 8, (ROWS, 3)), torch.randn(ROWS, 5, dtype=dtype)


ZOO = [
    Case("resnet18", resnet18, images(64), SLOW),
    Case("mobilenet_v3", mobilenet_v3, images(32), SLOW),
    Case("efficientnet_b0", efficientnet_b0, images(64), SLOW),
    Case("vit", vit, images(32)),
    Case("swin", swin, images(32)),
    Case("bert", bert, tokens),
    Case("distilbert", distilbert, tokens),
    Case("gpt2", gpt2, tokens),
    Case("llama", llama, tokens),
    Case("t5_encoder", T5Encoder, tokens),
    Case("wav2vec2", wav2vec2, lambda dtype: {"input_values": torch.randn(ROWS, 400, dtype=dtype)}),
    Case("keras_dense", keras_dense, dense(20), SGD, float32_inside=True),
    Case("keras_conv", keras_conv, pixels_last(12), SGD, float32_inside=True),
    Case("keras_recurrent", keras_recurrent, lambda _: {"words": ids(6)}),
    Case(
        "keras_attention",
        keras_attention,
        lambda dtype: {"words": ids(8), "numbers": torch.randn(ROWS, 6, dtype=dtype)},
    ),
    Case("lstm", Lstm, dense(7, 6)),
    Case("dlrm", Dlrm, clicks),
    Case("autoencoder", Autoencoder, dense(64), loss="mse", target=lambda inputs: listed(inputs)[0].clone()),
    Case("tabular_transformer", TabularTransformer, table),
]
NOISY = [
    Case("mobilenet_v3_noisy", lambda: mobilenet_v3(0.2), images(32), steps=0),
    Case("efficientnet_b0_noisy", lambda: efficientnet_b0(0.2, 0.2), images(32), steps=0),
    Case("vit_noisy", lambda: vit(0.1), images(32), steps=0),
    Case("swin_noisy", lambda: swin(0.1, 0.2), images(32), steps=0),
    Case("bert_noisy", lambda: bert(0.1), tokens, steps=0),
    Case("gpt2_noisy", lambda: gpt2(0.1), tokens, steps=0),
    Case("keras_dense_noisy", lambda: keras_dense(0.3), dense(20), steps=0, float32_inside=True),
    Case("lstm_noisy", lambda: Lstm(0.3), dense(7, 6), steps=0),
    Case("tabular_transformer_noisy", lambda: TabularTransformer(0.1), table, steps=0),
]


def listed(inputs: Inputs) -> list[Tensor]:
    return list(inputs.values()) if isinstance(inputs, dict) else list(inputs)


class Learner:
    """The net under its own library: PyTorch calls a module, Keras a model, in training or not."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.keras = case.name.startswith("keras")
        if self.keras:
            import keras

            keras.utils.clear_session()  # names count up, and are what the weights are called by
            keras.utils.set_random_seed(0)
            keras.config.set_floatx("float64" if dtype == torch.float64 else "float32")
        self.net = case.net()
        if not self.keras:
            self.net = self.net.to(dtype)

    def parameters(self) -> list[nn.Parameter]:
        if self.keras:
            return [variable.value for variable in self.net.trainable_variables]
        return list(self.net.parameters())

    def __call__(self, inputs: Inputs, training: bool) -> Tensor:
        if self.keras:
            values = listed(inputs)
            out: Tensor = self.net(values if len(values) > 1 else values[0], training=training)
            return out
        net = self.net.train(training)
        returned = net(**inputs) if isinstance(inputs, dict) else net(*inputs)
        logits: Tensor = getattr(returned, "logits", returned)
        return logits

    def state(self) -> dict[str, Tensor]:
        """Cloned, as a file may not hold one memory under two names."""
        if self.keras:
            named = {variable.path: variable.value for variable in self.net.variables}
        else:
            named = self.net.state_dict()
        return {name: value.detach().clone().contiguous() for name, value in named.items()}


def train(case: Case, dtype: torch.dtype, fused: bool) -> dict[str, Tensor]:
    learner = Learner(case, dtype)
    criterion = nn.functional.cross_entropy if case.loss == "crossEntropy" else nn.functional.mse_loss
    # `optimizer` asks for a module; a Keras model has more parameters than it trains.
    steps = optimizer(nn.ParameterList(learner.parameters()), case.optimizer, fused)
    record: dict[str, Tensor] = {}
    losses: list[float] = []
    torch.manual_seed(1)
    for step in range(case.steps):
        inputs = case.inputs(dtype)
        target = case.target(inputs)
        record |= {f"x{i}.{step}": x for i, x in enumerate(listed(inputs))} | {f"y.{step}": target}
        steps.zero_grad()
        loss = criterion(learner(inputs, training=True), target)
        losses.append(loss.item())
        loss.backward()  # type: ignore[no-untyped-call]
        steps.step()
    record["loss"] = torch.tensor(losses, dtype=torch.float64)
    inputs = case.inputs(dtype)
    with torch.no_grad():
        record |= {f"x{i}.eval": x for i, x in enumerate(listed(inputs))} | {"eval": learner(inputs, training=False)}
    return record | {f"final.{name}": value for name, value in learner.state().items()}


def write(case: Case, tag: str, folder: Path) -> None:
    from kindling import export

    dtype = DTYPES[tag]
    learner = Learner(case, dtype)
    torch.manual_seed(2)
    export(learner.net, case.inputs(dtype), folder / f"{case.name}_{tag}.pt2")
    record = train(case, dtype, fused=False)
    fused = train(case, dtype, fused=True)
    moved = (record["loss"] - fused["loss"]).abs()
    record |= noise(record, fused) | {"noise.loss": moved.cummax(0).values if case.steps else moved}
    metadata = {
        "program": f"{case.name}_{tag}.pt2",
        "loss": case.loss,
        "optimizer": json.dumps(case.optimizer),
        "precision": "f32" if case.float32_inside else tag,
        "torch": torch.__version__.partition("+")[0],
    }
    # Inputs may share memory with each other (a mask times ids does not, a slice would).
    save_file(
        {name: value.contiguous() for name, value in record.items()},
        folder / f"{case.name}_{tag}.safetensors",
        metadata,
    )


def identity() -> str:
    """Of everything that decides what the files hold."""
    files = [HERE / "zoo.py", HERE / "make_golden.py", ROOT / "python/requirements-dev.txt"]
    files += [ROOT / "python/src/kindling" / name for name in ("export.py", "keras_models.py", "keras_net.py")]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--only", nargs="+", help="make these again, and nothing else", metavar="NAME")
    options = parser.parse_args()
    mark: Path = options.folder / "complete"
    if options.only is None and mark.exists() and mark.read_text() == identity():
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start = time.monotonic()
    for case in [*ZOO, *NOISY]:
        if options.only is None or case.name in options.only:
            for tag in DTYPES:
                write(case, tag, options.folder)
            print(f"zoo: {case.name} after {time.monotonic() - start:.0f} s", flush=True)
    if options.only is None:
        mark.write_text(identity())
    return 0


if __name__ == "__main__":
    sys.exit(main())
