//! The JSON of a layer list. Unknown types and keys are refused; every key left out has Keras' default.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::Error;

/// A layer list whose JSON is valid; whether the layers fit each other is another question.
#[derive(Debug)]
pub(super) struct LayerList {
    pub(super) layers: Vec<LayerSpec>,
    pub(super) input_shape: Vec<i64>,
    pub(super) seed: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawLayerList {
    // Parsed one by one, so that a message can say which layer it is about.
    layers: Vec<serde_json::Value>,
    input_shape: Vec<i64>,
    #[serde(default)]
    seed: i64,
}

impl LayerList {
    pub(super) fn parse(json: &[u8]) -> Result<Self, Error> {
        let RawLayerList { layers, input_shape, seed } =
            serde_json::from_slice(json).map_err(|source| Error::LayerList { source })?;
        let layer = |(index, json)| serde_json::from_value(json).map_err(|source| Error::LayerJson { index, source });
        Ok(Self { layers: layers.into_iter().enumerate().map(layer).collect::<Result<_, _>>()?, input_shape, seed })
    }
}

/// One layer. Variants without settings have braces so that serde refuses unknown keys there too.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(super) enum LayerSpec {
    Dense {
        units: i64,
        #[serde(default)]
        activation: Activation,
        #[serde(default = "yes")]
        use_bias: bool,
    },
    Conv2d {
        filters: i64,
        kernel_size: Pair,
        #[serde(default = "Pair::one")]
        strides: Pair,
        #[serde(default)]
        padding: Padding,
        #[serde(default)]
        activation: Activation,
        #[serde(default = "yes")]
        use_bias: bool,
    },
    Relu {},
    Gelu {},
    Tanh {},
    Sigmoid {},
    Softmax {},
    Dropout {
        rate: f64,
    },
    BatchNorm {
        #[serde(default = "keras_momentum")]
        momentum: f64,
        #[serde(default = "keras_epsilon")]
        epsilon: f64,
    },
    LayerNorm {
        #[serde(default = "keras_epsilon")]
        epsilon: f64,
    },
    Embedding {
        input_dim: i64,
        output_dim: i64,
    },
    Flatten {},
    Reshape {
        target_shape: Vec<i64>,
    },
}

impl LayerSpec {
    /// The type as the JSON writes it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Dense { .. } => "dense",
            Self::Conv2d { .. } => "conv2d",
            Self::Relu {} => "relu",
            Self::Gelu {} => "gelu",
            Self::Tanh {} => "tanh",
            Self::Sigmoid {} => "sigmoid",
            Self::Softmax {} => "softmax",
            Self::Dropout { .. } => "dropout",
            Self::BatchNorm { .. } => "batchNorm",
            Self::LayerNorm { .. } => "layerNorm",
            Self::Embedding { .. } => "embedding",
            Self::Flatten {} => "flatten",
            Self::Reshape { .. } => "reshape",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Activation {
    #[default]
    Linear,
    Relu,
    Gelu,
    Tanh,
    Sigmoid,
    Softmax,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Padding {
    #[default]
    Valid,
    Same,
}

/// Height and width: one number for both, or a list of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair(pub(super) [i64; 2]);

impl Pair {
    fn one() -> Self {
        Self([1, 1])
    }
}

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairVisitor;

        impl<'de> Visitor<'de> for PairVisitor {
            type Value = Pair;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer or a list of two")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Pair, E> {
                Ok(Pair([value, value]))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Pair, E> {
                let value = i64::try_from(value)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(value), &self))?;
                Ok(Pair([value, value]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pair, A::Error> {
                let (first, second) = (seq.next_element()?, seq.next_element()?);
                match (first, second, seq.next_element::<i64>()?) {
                    (Some(first), Some(second), None) => Ok(Pair([first, second])),
                    _ => Err(serde::de::Error::custom("expected an integer or a list of two")),
                }
            }
        }

        deserializer.deserialize_any(PairVisitor)
    }
}

fn yes() -> bool {
    true
}

fn keras_momentum() -> f64 {
    0.99
}

fn keras_epsilon() -> f64 {
    1e-3
}
