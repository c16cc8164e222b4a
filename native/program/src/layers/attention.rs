//! Multi-head attention, and the transformer block made of it.

use serde::Deserialize;

use super::activation::{Activation, floats};
use super::basic::{Linear, drop};
use super::build::{Build, Built, Rows};
use super::initial::Initializer;
use super::kinds::{AnyLayer, Join, Kind, Layer};
use super::normalization::Norm;
use super::settings::{Sizes, positive, rate, yes};
use crate::ir::Arg;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "multiHeadAttention",
        class: "MultiHeadAttention",
        read: |s| s.read::<MultiHeadAttention>().map(AnyLayer::join),
    },
    Kind {
        name: "transformerBlock",
        class: "TransformerBlock",
        read: |s| s.read::<TransformerBlock>().map(AnyLayer::layer),
    },
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MultiHeadAttention {
    num_heads: i64,
    key_dim: i64,
    /// As `keyDim`, if not given.
    #[serde(default)]
    value_dim: Option<i64>,
    #[serde(default)]
    dropout: f64,
    #[serde(default = "yes")]
    use_bias: bool,
    /// The width of the query, if not given.
    #[serde(default)]
    output_shape: Option<i64>,
    /// Whether a step sees itself and what comes before it only.
    #[serde(default)]
    use_causal_mask: bool,
    #[serde(default = "Initializer::glorot_uniform")]
    kernel_initializer: Initializer,
    #[serde(default = "Initializer::zeros")]
    bias_initializer: Initializer,
}

impl Join for MultiHeadAttention {
    fn takes(&self) -> std::ops::RangeInclusive<usize> {
        1..=3
    }

    /// Query, value and key, in Keras' order: one input is all three, two are query and value, which is the key too.
    fn build(&self, b: &mut Build, inputs: &[Rows]) -> Built {
        let (query, value, key) = match inputs {
            [query, value, key] => (query, value, key),
            [query, value] => (query, value, value),
            [all, ..] => (all, all, all),
            [] => return Err("it is given no input".into()),
        };
        positive("numHeads", self.num_heads)?;
        positive("keyDim", self.key_dim)?;
        let value_dim = self.value_dim.unwrap_or(self.key_dim);
        positive("valueDim", value_dim)?;
        rate("dropout", self.dropout)?;
        for rows in inputs {
            floats(rows)?;
        }
        let (&[steps, width], &[keys, _], &[values, _]) =
            (query.shape.as_slice(), key.shape.as_slice(), value.shape.as_slice())
        else {
            return Err("a row must be (steps, features)".into());
        };
        if keys != values {
            return Err(format!("the key has {keys} steps and the value {values}").into());
        }
        let width = self.output_shape.unwrap_or(width);
        positive("outputShape", width)?;

        let q = self.heads(b, query, "query", self.key_dim)?;
        let k = self.heads(b, key, "key", self.key_dim)?;
        let v = self.heads(b, value, "value", value_dim)?;
        let args = vec![
            ("query", Arg::Tensor(q.value)),
            ("key", Arg::Tensor(k.value)),
            ("value", Arg::Tensor(v.value)),
            ("dropout_p", Arg::Float(self.dropout)),
            ("is_causal", Arg::Bool(self.use_causal_mask)),
        ];
        let shape = vec![self.num_heads, steps, value_dim];
        let mixed = b.call("attention", "scaled_dot_product_attention", args, shape);
        let mixed = b.permute(&mixed, &[1, 0, 2]);
        let joined = self.num_heads.checked_mul(value_dim).ok_or("numHeads and valueDim are too large")?;
        let joined = b.reshape(&mixed, vec![steps, joined]);
        let kernel = vec![self.num_heads, value_dim, width];
        b.within("output", |b| self.linear().einsum(b, &joined, kernel, vec![width], &[2, 0, 1], width))
    }
}

impl MultiHeadAttention {
    fn linear(&self) -> Linear<'_> {
        Linear { use_bias: self.use_bias, kernel: &self.kernel_initializer, bias: &self.bias_initializer }
    }

    /// Projects the features and cuts them into heads: (heads, steps, size).
    fn heads(&self, b: &mut Build, x: &Rows, name: &str, size: i64) -> Built {
        let features = x.shape.last().copied().unwrap_or(0);
        let units = self.num_heads.checked_mul(size).ok_or("numHeads and the width of a head are too large")?;
        let (kernel, bias) = (vec![features, self.num_heads, size], vec![self.num_heads, size]);
        b.within(name, |b| {
            let y = self.linear().einsum(b, x, kernel, bias, &[1, 2, 0], units)?;
            let steps = y.shape.first().copied().unwrap_or(0);
            let cut = b.reshape(&y, vec![steps, self.num_heads, size]);
            Ok(b.permute(&cut, &[1, 0, 2]))
        })
    }
}

/// Attention and two dense layers, each added to what it was given and normalised: KerasHub's `TransformerEncoder`.
///
/// With the norm last, `x = norm(x + dropout(attention(x)))`, then `x = norm(x + dropout(dense(act(dense(x)))))`; with
/// `normalizeFirst`, `x = x + dropout(attention(norm(x)))`, then `x = x + dropout(dense(act(dense(norm(x)))))`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TransformerBlock {
    num_heads: i64,
    intermediate_dim: i64,
    #[serde(default)]
    dropout: f64,
    #[serde(default = "relu")]
    activation: Activation,
    #[serde(default = "block_epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default)]
    normalize_first: bool,
    #[serde(default)]
    use_causal_mask: bool,
    #[serde(default = "Initializer::glorot_uniform")]
    kernel_initializer: Initializer,
    #[serde(default = "Initializer::zeros")]
    bias_initializer: Initializer,
}

fn relu() -> Activation {
    Activation::Relu
}

fn block_epsilon() -> f64 {
    1e-5
}

impl Layer for TransformerBlock {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let &[_, features] = x.shape.as_slice() else {
            return Err("a row must be (steps, features)".into());
        };
        positive("numHeads", self.num_heads)?;
        positive("intermediateDim", self.intermediate_dim)?;
        if features % self.num_heads != 0 {
            return Err(format!("the features are {features}, which {} heads cannot share", self.num_heads).into());
        }
        let attention = MultiHeadAttention {
            num_heads: self.num_heads,
            key_dim: features / self.num_heads,
            value_dim: None,
            dropout: self.dropout,
            use_bias: true,
            output_shape: None,
            use_causal_mask: self.use_causal_mask,
            kernel_initializer: self.kernel_initializer.clone(),
            bias_initializer: self.bias_initializer.clone(),
        };
        let x = self
            .around(b, x, "attention", |b, x| b.within("attention", |b| attention.build(b, std::slice::from_ref(x))))?;
        self.around(b, &x, "feedforward", |b, x| {
            let linear = Linear { use_bias: true, kernel: &self.kernel_initializer, bias: &self.bias_initializer };
            let y = b.within("intermediate", |b| {
                let y = linear.build(b, x, self.intermediate_dim)?;
                Ok(self.activation.apply(b, &y))
            })?;
            b.within("output", |b| linear.build(b, &y, features))
        })
    }
}

impl TransformerBlock {
    /// Adds what `inner` makes of the rows to them, with the norm before or after.
    fn around(&self, b: &mut Build, x: &Rows, name: &str, inner: impl FnOnce(&mut Build, &Rows) -> Built) -> Built {
        let norm = Norm { epsilon: self.layer_norm_epsilon, gamma: &Initializer::ONES, beta: &Initializer::ZEROS };
        let norm = |b: &mut Build, x: &Rows| {
            b.within(&format!("{name}_norm"), |b| norm.build(b, x, &Sizes::All(-1), (true, true)))
        };
        let inside = if self.normalize_first { norm(b, x)? } else { x.clone() };
        let mut y = inner(b, &inside)?;
        if self.dropout > 0.0 {
            y = b.within(&format!("{name}_dropout"), |b| drop(b, &y, "dropout", self.dropout))?;
        }
        let args = vec![("self", Arg::Tensor(x.value)), ("other", Arg::Tensor(y.value))];
        let sum = b.call(&format!("{name}_add"), "add.Tensor", args, x.shape.clone());
        if self.normalize_first { Ok(sum) } else { norm(b, &sum) }
    }
}
