"""Lesson 6: a HuggingFace model, fine-tuned from two columns.

The columns are named as the arguments of the model's `forward`, so they feed those. The program that is trained returns
the logits, and the trained weights go back into the model by their own names.

A real job would start from `BertForSequenceClassification.from_pretrained(...)` and a tokenizer's ids. This one takes a
small configuration with random weights and a language of fifty words, in which some are kind and some are not.

    python 06_bert.py
"""

import numpy as np
import torch
from kindling import TorchEstimator, jar_path
from pyspark.sql import SparkSession
from transformers import BertConfig, BertForSequenceClassification

spark = SparkSession.builder.master("local[2]").config("spark.jars", jar_path()).getOrCreate()

LONGEST, KIND, UNKIND, OTHER = 12, range(3, 9), range(9, 15), range(15, 50)
chance = np.random.default_rng(1)


def sentence() -> tuple[list[int], list[int], int]:
    """Ids, padded with zeros to one length, the mask that says which are words, and whether the words are kind."""
    kind = int(chance.integers(2))
    words = [*chance.choice(KIND if kind else UNKIND, 2), *chance.choice(OTHER, chance.integers(2, LONGEST - 1))]
    ids = [int(word) for word in chance.permutation(words)]
    padding = [0] * (LONGEST - len(ids))
    return ids + padding, [1] * len(ids) + padding, kind


data = spark.createDataFrame([sentence() for _ in range(2000)], ["input_ids", "attention_mask", "label"])

config = BertConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    num_labels=2,
    max_position_embeddings=LONGEST,
)
bert = BertForSequenceClassification(config)

estimator = TorchEstimator(
    model=bert,
    inputCols=["input_ids", "attention_mask"],
    learningRate=2e-3,
    batchSize=64,
    maxEpochs=3,
    validationFraction=0.2,
    numWorkers=2,
    seed=1,
)
model = estimator.fit(data)
print(model.summary)

# The same weights in PyTorch give the same answers.
bert.load_state_dict(model.state_dict())
first = model.transform(data.limit(1)).head()
with torch.no_grad():
    ids, mask = torch.tensor([first.input_ids]), torch.tensor([first.attention_mask])
    probability = bert.eval()(input_ids=ids, attention_mask=mask).logits.softmax(1)[0]
torch.testing.assert_close(probability, torch.tensor(first.probability.toArray(), dtype=torch.float32))
print("HuggingFace agrees")
spark.stop()
