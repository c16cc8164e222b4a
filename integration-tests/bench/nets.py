"""The nets of `make bench-programs`: each with its batches, from fixed seeds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

os.environ["KERAS_BACKEND"] = "torch"

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = 10


class ConvTransformer(nn.Module):
    """A convolution with batch norm beside two transformer layers over token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.emb = nn.Embedding(10, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.enc = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(8 * 64 + 16, CLASSES)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        h = torch.relu(self.bn(self.conv(x.view(-1, 1, 8, 8)))).flatten(1)
        out: Tensor = self.out(torch.cat([h, self.enc(self.emb(ids)).mean(1)], 1))
        return out


class Bert(nn.Module):
    """HuggingFace's classifier, by default two layers of 64."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            hidden_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=128,
            vocab_size=1000,
            num_labels=CLASSES,
            hidden_dropout_prob=0,
            attention_probs_dropout_prob=0,
        )
        self.m = BertForSequenceClassification(config)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.m(input_ids=ids, attention_mask=mask).logits
        return logits


class Keras(nn.Module):
    """A Keras 3 model on Keras' torch backend."""

    def __init__(self) -> None:
        super().__init__()
        import keras

        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense
        layers = [
            keras.layers.Input((64,)),
            dense(64, activation="relu"),
            keras.layers.BatchNormalization(),
            dense(CLASSES),
        ]
        self.k = keras.Sequential(layers)

    def forward(self, x: Tensor) -> Any:
        return self.k(x, training=True)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def resnet18() -> nn.Module:
    from torchvision.models import resnet18

    net: nn.Module = resnet18(num_classes=CLASSES)
    return net


@dataclass(frozen=True)
class Net:
    """A net, what its inputs look like for a number of rows, and how many steps make up a round."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    rows: int
    steps: int

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        net = self.make().train()
        list(
            net.parameters()
        )  # Keras registers its weights when they are first asked for; until then they are constants
        return net

    def batches(self, steps: int) -> dict[str, Tensor]:
        """A fresh batch for every step, stacked."""
        torch.manual_seed(1)
        flat = self.inputs(steps * self.rows)
        stacked = {f"x{i}": x.view(steps, self.rows, *x.shape[1:]) for i, x in enumerate(flat)}
        return {**stacked, "y": torch.randint(0, CLASSES, (steps, self.rows))}


NETS = {
    "mlp": Net(mlp, lambda n: (torch.randn(n, 64),), 32, 300),
    "convtransformer": Net(ConvTransformer, lambda n: (torch.randn(n, 64), torch.randint(0, 10, (n, 5))), 32, 40),
    "resnet18": Net(resnet18, lambda n: (torch.randn(n, 3, 64, 64),), 4, 4),
    "bert": Net(Bert, lambda n: (torch.randint(0, 1000, (n, 16)), torch.ones(n, 16, dtype=torch.long)), 4, 40),
    "keras": Net(Keras, lambda n: (torch.randn(n, 64),), 32, 200),
}
