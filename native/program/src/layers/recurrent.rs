//! Recurrent layers over rows of (steps, features), run by ATen's fused operators.
//!
//! The gates stand in ATen's order: LSTM's input, forget, cell, output, which is Keras' too; GRU's reset, update, new,
//! where Keras has update first. Keras' LSTM and simple RNN have one bias where ATen has two: the second is a constant of
//! zeros, so that an optimizer moves one.

use serde::Deserialize;

use super::activation::{Activation, floats, scalar};
use super::build::{Build, Built, Rows, Weight};
use super::initial::Initializer;
use super::kinds::{AnyLayer, Kind, Layer, Settings};
use super::settings::{positive, rate, yes};
use crate::ir::Arg;

pub(super) const KINDS: &[Kind] = &[
    Kind { name: "lstm", class: "LSTM", read: |s| lstm(s).map(AnyLayer::layer) },
    Kind { name: "gru", class: "GRU", read: |s| gru(s).map(AnyLayer::layer) },
    Kind { name: "simpleRnn", class: "SimpleRNN", read: |s| simple(s).map(AnyLayer::layer) },
    Kind { name: "bidirectional", class: "Bidirectional", read: |s| bidirectional(s).map(AnyLayer::layer) },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    /// Whether the forget gate's bias starts at 1.
    Lstm {
        unit_forget_bias: bool,
    },
    Gru,
    Tanh,
    Relu,
}

impl Cell {
    fn gates(self) -> i64 {
        match self {
            Self::Lstm { .. } => 4,
            Self::Gru => 3,
            Self::Tanh | Self::Relu => 1,
        }
    }

    fn op(self) -> &'static str {
        match self {
            Self::Lstm { .. } => "lstm.input",
            Self::Gru => "gru.input",
            Self::Tanh => "rnn_tanh.input",
            Self::Relu => "rnn_relu.input",
        }
    }
}

/// A layer of one cell, and how it is run.
#[derive(Debug)]
struct Recurrent {
    cell: Cell,
    units: i64,
    use_bias: bool,
    kernel: Initializer,
    recurrent: Initializer,
    bias: Initializer,
    dropout: f64,
    return_sequences: bool,
    go_backwards: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LstmSettings {
    units: i64,
    #[serde(default = "tanh")]
    activation: Activation,
    #[serde(default = "sigmoid")]
    recurrent_activation: Activation,
    #[serde(default = "yes")]
    use_bias: bool,
    #[serde(default = "Initializer::glorot_uniform")]
    kernel_initializer: Initializer,
    #[serde(default = "Initializer::orthogonal")]
    recurrent_initializer: Initializer,
    #[serde(default = "Initializer::zeros")]
    bias_initializer: Initializer,
    #[serde(default = "yes")]
    unit_forget_bias: bool,
    #[serde(default)]
    dropout: f64,
    #[serde(default)]
    return_sequences: bool,
    #[serde(default)]
    go_backwards: bool,
}

fn tanh() -> Activation {
    Activation::Tanh
}

fn sigmoid() -> Activation {
    Activation::Sigmoid
}

fn fixed(name: &str, activation: Activation, expected: Activation) -> Result<(), String> {
    if activation == expected { Ok(()) } else { Err(format!("{name} cannot be changed: leave it out")) }
}

fn lstm(settings: Settings) -> Result<Recurrent, String> {
    let s: LstmSettings = settings.read()?;
    fixed("activation", s.activation, tanh())?;
    fixed("recurrentActivation", s.recurrent_activation, sigmoid())?;
    Ok(Recurrent {
        cell: Cell::Lstm { unit_forget_bias: s.unit_forget_bias },
        units: s.units,
        use_bias: s.use_bias,
        kernel: s.kernel_initializer,
        recurrent: s.recurrent_initializer,
        bias: s.bias_initializer,
        dropout: s.dropout,
        return_sequences: s.return_sequences,
        go_backwards: s.go_backwards,
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GruSettings {
    units: i64,
    #[serde(default = "tanh")]
    activation: Activation,
    #[serde(default = "sigmoid")]
    recurrent_activation: Activation,
    #[serde(default = "yes")]
    use_bias: bool,
    #[serde(default = "Initializer::glorot_uniform")]
    kernel_initializer: Initializer,
    #[serde(default = "Initializer::orthogonal")]
    recurrent_initializer: Initializer,
    #[serde(default = "Initializer::zeros")]
    bias_initializer: Initializer,
    #[serde(default = "yes")]
    reset_after: bool,
    #[serde(default)]
    dropout: f64,
    #[serde(default)]
    return_sequences: bool,
    #[serde(default)]
    go_backwards: bool,
}

fn gru(settings: Settings) -> Result<Recurrent, String> {
    let s: GruSettings = settings.read()?;
    fixed("activation", s.activation, tanh())?;
    fixed("recurrentActivation", s.recurrent_activation, sigmoid())?;
    if !s.reset_after {
        return Err("resetAfter is false, and ATen's gru resets after the product only: leave it out".into());
    }
    Ok(Recurrent {
        cell: Cell::Gru,
        units: s.units,
        use_bias: s.use_bias,
        kernel: s.kernel_initializer,
        recurrent: s.recurrent_initializer,
        bias: s.bias_initializer,
        dropout: s.dropout,
        return_sequences: s.return_sequences,
        go_backwards: s.go_backwards,
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SimpleSettings {
    units: i64,
    #[serde(default = "tanh")]
    activation: Activation,
    #[serde(default = "yes")]
    use_bias: bool,
    #[serde(default = "Initializer::glorot_uniform")]
    kernel_initializer: Initializer,
    #[serde(default = "Initializer::orthogonal")]
    recurrent_initializer: Initializer,
    #[serde(default = "Initializer::zeros")]
    bias_initializer: Initializer,
    #[serde(default)]
    dropout: f64,
    #[serde(default)]
    return_sequences: bool,
    #[serde(default)]
    go_backwards: bool,
}

fn simple(settings: Settings) -> Result<Recurrent, String> {
    let s: SimpleSettings = settings.read()?;
    let cell = match s.activation {
        Activation::Tanh => Cell::Tanh,
        Activation::Relu => Cell::Relu,
        _ => return Err("activation must be tanh or relu".into()),
    };
    Ok(Recurrent {
        cell,
        units: s.units,
        use_bias: s.use_bias,
        kernel: s.kernel_initializer,
        recurrent: s.recurrent_initializer,
        bias: s.bias_initializer,
        dropout: s.dropout,
        return_sequences: s.return_sequences,
        go_backwards: s.go_backwards,
    })
}

impl Layer for Recurrent {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        self.run(b, x, self.go_backwards)
    }
}

impl Recurrent {
    fn run(&self, b: &mut Build, x: &Rows, backwards: bool) -> Built {
        floats(x)?;
        positive("units", self.units)?;
        rate("dropout", self.dropout)?;
        let &[steps, features] = x.shape.as_slice() else {
            return Err("a row must be (steps, features)".into());
        };
        let gates = self.cell.gates().checked_mul(self.units).ok_or("units is too large")?;
        let mut params = vec![
            b.parameter(&Weight::kernel("weight_ih", vec![features, gates], &[1, 0], &self.kernel))?,
            b.parameter(&Weight::kernel("weight_hh", vec![self.units, gates], &[1, 0], &self.recurrent))?,
        ];
        if self.use_bias {
            params.push(self.first_bias(b, gates)?);
            params.push(match self.cell {
                // Keras' bias of a GRU has two rows.
                Cell::Gru => b.parameter(&Weight::vector("bias_hh", gates, &self.bias))?,
                _ => Arg::Tensor(b.constant(&Weight::vector("bias_hh", gates, &Initializer::ZEROS))?),
            });
        }
        let params = params.iter().filter_map(|param| match param {
            Arg::Tensor(value) => Some(*value),
            _ => None,
        });
        let params = Arg::Tensors(params.collect());

        let mut x = x.clone();
        if self.dropout > 0.0 {
            x = self.drop_features(b, &x);
        }
        if backwards {
            x = flip(b, &x);
        }
        let state = b.zeros(&x, Some(1), vec![self.units]);
        let (hidden, states): (Arg, &[&str]) = match self.cell {
            Cell::Lstm { .. } => (Arg::Tensors(vec![state, state]), &["hidden", "cell"]),
            _ => (Arg::Tensor(state), &["hidden"]),
        };
        let args = vec![
            ("input", Arg::Tensor(x.value)),
            ("hx", hidden),
            ("params", params),
            ("has_biases", Arg::Bool(self.use_bias)),
            ("num_layers", Arg::Int(1)),
            ("dropout", Arg::Float(0.0)),
            ("train", Arg::Bool(true)),
            ("bidirectional", Arg::Bool(false)),
            ("batch_first", Arg::Bool(true)),
        ];
        let y = b.call_recurrent(self.cell.op(), args, vec![steps, self.units], states, self.units);
        if self.return_sequences {
            return Ok(y);
        }
        let args = vec![("self", Arg::Tensor(y.value)), ("dim", Arg::Int(1)), ("index", Arg::Int(-1))];
        Ok(b.call("last", "select.int", args, vec![self.units]))
    }

    fn first_bias(&self, b: &mut Build, gates: i64) -> Built<Arg> {
        let bias = Weight::vector("bias_ih", gates, &self.bias);
        let units = usize::try_from(self.units).unwrap_or(usize::MAX);
        match self.cell {
            Cell::Lstm { unit_forget_bias: true } => b.parameter(&bias.ones(units..units.saturating_mul(2))),
            _ => b.parameter(&bias),
        }
    }

    /// Keras draws one mask per row and feature, which all steps share.
    fn drop_features(&self, b: &mut Build, x: &Rows) -> Rows {
        let turned = b.permute(x, &[1, 0]);
        let args =
            vec![("input", Arg::Tensor(turned.value)), ("p", Arg::Float(self.dropout)), ("train", Arg::Bool(true))];
        let dropped = b.call("dropout", "feature_dropout", args, turned.shape.clone());
        b.permute(&dropped, &[1, 0])
    }
}

/// The steps the other way round.
fn flip(b: &mut Build, x: &Rows) -> Rows {
    let args = vec![("self", Arg::Tensor(x.value)), ("dims", Arg::Ints(vec![1]))];
    b.call("flip", "flip", args, x.shape.clone())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Merge {
    #[default]
    Concat,
    Sum,
    Mul,
    Ave,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BidirectionalSettings {
    layer: serde_json::Value,
    #[serde(default)]
    merge_mode: Merge,
}

/// Two copies of a recurrent layer, of which one sees the steps in reverse.
#[derive(Debug)]
struct Bidirectional {
    layer: Recurrent,
    merge: Merge,
}

fn bidirectional(settings: Settings) -> Result<Bidirectional, String> {
    let s: BidirectionalSettings = settings.read()?;
    let wrong = || r#"layer must be a recurrent layer such as {"type": "lstm", "units": 8}"#.to_owned();
    let serde_json::Value::Object(mut object) = s.layer else { return Err(wrong()) };
    let Some(serde_json::Value::String(kind)) = object.remove("type") else { return Err(wrong()) };
    let settings = Settings(object);
    let layer = match Kind::named(&kind).map_err(|_| wrong())?.class {
        "LSTM" => lstm(settings),
        "GRU" => gru(settings),
        "SimpleRNN" => simple(settings),
        _ => return Err(wrong()),
    };
    let layer = layer.map_err(|problem| format!("its layer ({kind}): {problem}"))?;
    if layer.go_backwards {
        return Err("its layer has goBackwards: one of the two copies goes backwards already".into());
    }
    Ok(Bidirectional { layer, merge: s.merge_mode })
}

impl Layer for Bidirectional {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let layer = &self.layer;
        let ahead = b.within("forward_layer", |b| layer.run(b, x, false))?;
        let back = b.within("backward_layer", |b| {
            let y = layer.run(b, x, true)?;
            // Back in the order in which the other copy sees the steps.
            Ok(if layer.return_sequences { flip(b, &y) } else { y })
        })?;
        let mut shape = ahead.shape.clone();
        let other = |y: &Rows| vec![("self", Arg::Tensor(ahead.value)), ("other", Arg::Tensor(y.value))];
        Ok(match self.merge {
            Merge::Concat => {
                if let Some(features) = shape.last_mut() {
                    *features = features.checked_mul(2).ok_or("units is too large")?;
                }
                let args = vec![("tensors", Arg::Tensors(vec![ahead.value, back.value])), ("dim", Arg::Int(-1))];
                b.call("concat", "cat", args, shape)
            }
            Merge::Sum => b.call("sum", "add.Tensor", other(&back), shape),
            Merge::Mul => b.call("mul", "mul.Tensor", other(&back), shape),
            Merge::Ave => {
                let sum = b.call("sum", "add.Tensor", other(&back), shape);
                scalar(b, &sum, "ave", "div.Scalar", 2.0)
            }
        })
    }
}
