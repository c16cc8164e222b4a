//! Initialisers: how a weight starts, by Keras' names and with Keras' distributions.
//!
//! A weight is described in Keras' shape, because that is what fans, orthogonality and the identity are defined on; its
//! values come out in ATen's. The draws depend on the seed and the weight's name only (see [`super::normal`]): the
//! golden numbers of the tests pin them.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::normal::Stream;
use super::settings::{elements, product};
use crate::error::Error;
use crate::tensor::Bytes;

/// How the values of a weight are drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Initializer {
    Constant(f64),
    Uniform { low: f64, high: f64 },
    Normal { mean: f64, deviation: f64, truncated: bool },
    Scaled { scale: f64, mode: Fan, distribution: Distribution },
    Orthogonal { gain: f64 },
    Identity { gain: f64 },
}

/// Which fan the variance is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum Fan {
    #[default]
    #[serde(rename = "fan_in")]
    In,
    #[serde(rename = "fan_out")]
    Out,
    #[serde(rename = "fan_avg")]
    Average,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Distribution {
    #[default]
    TruncatedNormal,
    UntruncatedNormal,
    Uniform,
}

impl Initializer {
    pub(super) const ZEROS: Self = Self::Constant(0.0);
    pub(super) const ONES: Self = Self::Constant(1.0);
    pub(super) const GLOROT_UNIFORM: Self =
        Self::Scaled { scale: 1.0, mode: Fan::Average, distribution: Distribution::Uniform };
    pub(super) const ORTHOGONAL: Self = Self::Orthogonal { gain: 1.0 };
    pub(super) const UNIFORM: Self = Self::Uniform { low: -0.05, high: 0.05 };

    pub(super) fn zeros() -> Self {
        Self::ZEROS
    }

    pub(super) fn ones() -> Self {
        Self::ONES
    }

    pub(super) fn glorot_uniform() -> Self {
        Self::GLOROT_UNIFORM
    }

    pub(super) fn orthogonal() -> Self {
        Self::ORTHOGONAL
    }

    pub(super) fn uniform() -> Self {
        Self::UNIFORM
    }
}

/// The settings that an initialiser written as an object may have; which of them belong to it depends on its name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    value: Option<f64>,
    mean: Option<f64>,
    stddev: Option<f64>,
    minval: Option<f64>,
    maxval: Option<f64>,
    scale: Option<f64>,
    mode: Option<Fan>,
    distribution: Option<Distribution>,
    gain: Option<f64>,
}

impl Settings {
    /// The names of those that were given.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("value", self.value.is_some()),
            ("mean", self.mean.is_some()),
            ("stddev", self.stddev.is_some()),
            ("minval", self.minval.is_some()),
            ("maxval", self.maxval.is_some()),
            ("scale", self.scale.is_some()),
            ("mode", self.mode.is_some()),
            ("distribution", self.distribution.is_some()),
            ("gain", self.gain.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
    }
}

const NAMES: &str = "zeros, ones, constant, random_normal, random_uniform, truncated_normal, variance_scaling, \
                     glorot_uniform, glorot_normal, he_uniform, he_normal, lecun_uniform, lecun_normal, orthogonal, identity";

fn named(name: &str, settings: &Settings) -> Result<Initializer, String> {
    let scaled = |scale, mode, distribution| (Initializer::Scaled { scale, mode, distribution }, &[][..]);
    let normal = |truncated| {
        let (mean, deviation) = (settings.mean.unwrap_or(0.0), settings.stddev.unwrap_or(0.05));
        (Initializer::Normal { mean, deviation, truncated }, &["mean", "stddev"][..])
    };
    let (fan_in, fan_avg) = (Fan::In, Fan::Average);
    let (uniform, truncated) = (Distribution::Uniform, Distribution::TruncatedNormal);
    // Each with the settings it takes. Keras knows every name in snake case and as its class.
    let (initializer, takes): (Initializer, &[&str]) = match name {
        "zeros" | "zero" | "Zeros" => (Initializer::ZEROS, &[]),
        "ones" | "one" | "Ones" => (Initializer::ONES, &[]),
        "constant" | "Constant" => (Initializer::Constant(settings.value.unwrap_or(0.0)), &["value"]),
        "random_normal" | "normal" | "RandomNormal" => normal(false),
        "truncated_normal" | "TruncatedNormal" => normal(true),
        "random_uniform" | "uniform" | "RandomUniform" => {
            let (low, high) = (settings.minval.unwrap_or(-0.05), settings.maxval.unwrap_or(0.05));
            (Initializer::Uniform { low, high }, &["minval", "maxval"])
        }
        "variance_scaling" | "VarianceScaling" => {
            let (mode, distribution) = (settings.mode.unwrap_or_default(), settings.distribution.unwrap_or_default());
            let scale = settings.scale.unwrap_or(1.0);
            (Initializer::Scaled { scale, mode, distribution }, &["scale", "mode", "distribution"])
        }
        "glorot_uniform" | "GlorotUniform" => scaled(1.0, fan_avg, uniform),
        "glorot_normal" | "GlorotNormal" => scaled(1.0, fan_avg, truncated),
        "he_uniform" | "HeUniform" => scaled(2.0, fan_in, uniform),
        "he_normal" | "HeNormal" => scaled(2.0, fan_in, truncated),
        "lecun_uniform" | "LecunUniform" => scaled(1.0, fan_in, uniform),
        "lecun_normal" | "LecunNormal" => scaled(1.0, fan_in, truncated),
        "orthogonal" | "Orthogonal" | "OrthogonalInitializer" => {
            (Initializer::Orthogonal { gain: settings.gain.unwrap_or(1.0) }, &["gain"])
        }
        "identity" | "Identity" | "IdentityInitializer" => {
            (Initializer::Identity { gain: settings.gain.unwrap_or(1.0) }, &["gain"])
        }
        _ => return Err(format!("there is no initializer {name:?}: it is one of {NAMES}")),
    };
    if let Some(stranger) = settings.given().find(|given| !takes.contains(given)) {
        let takes = if takes.is_empty() { "no settings".to_owned() } else { takes.join(", ") };
        return Err(format!("the initializer {name} has no setting {stranger}: it takes {takes}"));
    }
    match initializer {
        Initializer::Normal { deviation, .. } if deviation < 0.0 => {
            Err(format!("stddev of {name} is {deviation}, it must not be below 0"))
        }
        Initializer::Scaled { scale, .. } if scale <= 0.0 => {
            Err(format!("scale of {name} is {scale}, it must be above 0"))
        }
        Initializer::Uniform { low, high } if low > high => {
            Err(format!("minval of {name} is {low}, above its maxval {high}"))
        }
        known => Ok(known),
    }
}

impl<'de> Deserialize<'de> for Initializer {
    /// A name, or an object of a name and its settings: `{"name": "constant", "value": 0.1}`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(name) => named(&name, &Settings::default()),
            serde_json::Value::Object(mut object) => match object.remove("name") {
                Some(serde_json::Value::String(name)) => {
                    let settings = serde_json::from_value(object.into()).map_err(D::Error::custom)?;
                    named(&name, &settings)
                }
                _ => Err(r#"an initializer is a name, or an object such as {"name": "constant", "value": 0.1}"#.into()),
            },
            other => Err(format!("the initializer {other} is neither a name nor an object with a name")),
        }
        .map_err(D::Error::custom)
    }
}

/// The numbers of inputs and outputs that a weight connects.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fans {
    pub(super) input: i64,
    pub(super) output: i64,
}

impl Fans {
    /// Keras' rule for a weight of that shape in Keras.
    pub(super) fn of(keras: &[i64]) -> Result<Self, String> {
        Ok(match keras {
            [] => Self { input: 1, output: 1 },
            [size] => Self { input: *size, output: *size },
            [field @ .., input, output] => {
                let field = elements(field)?;
                Self { input: elements(&[field, *input])?, output: elements(&[field, *output])? }
            }
        })
    }
}

/// A weight's shape in Keras, and which of its axes are ATen's, in ATen's order.
#[derive(Debug, Clone)]
pub(super) struct Shape<'a> {
    pub(super) keras: Vec<i64>,
    pub(super) order: &'a [usize],
}

impl Shape<'_> {
    pub(super) fn sizes(&self) -> Vec<i64> {
        self.order.iter().filter_map(|&axis| self.keras.get(axis).copied()).collect()
    }
}

impl Initializer {
    /// Little-endian floats in ATen's order.
    pub(super) fn values(&self, seed: i64, name: &str, shape: &Shape<'_>, fans: Fans) -> Result<Bytes, Error> {
        let count = product(&shape.keras).unwrap_or(i64::MAX);
        let memory = || Error::Memory { name: name.to_owned(), elements: count };
        let length = usize::try_from(count).map_err(|_| memory())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length.checked_mul(size_of::<f32>()).ok_or_else(memory)?).map_err(|_| memory())?;
        let mut stream = Stream::new(seed, name);
        let mut push = |value: f64| bytes.extend_from_slice(&(value as f32).to_le_bytes());
        let independent: Box<dyn FnMut() -> f64> = match *self {
            Self::Constant(value) => Box::new(move || value),
            // Low and high are one number and its opposite nearly always: then this is a single multiplication.
            Self::Uniform { low, high } => {
                let (middle, half) = (f64::midpoint(low, high), (high - low) / 2.0);
                Box::new(move || middle + stream.symmetric() * half)
            }
            Self::Normal { mean, deviation, truncated } => {
                let mut draw = move || if truncated { stream.truncated() } else { stream.normal() };
                Box::new(move || mean + draw() * deviation)
            }
            Self::Scaled { scale, mode, distribution } => {
                let (input, output) = (fans.input as f64, fans.output as f64);
                let fan = match mode {
                    Fan::In => input,
                    Fan::Out => output,
                    Fan::Average => (input + output) / 2.0,
                };
                let variance = scale / fan.max(1.0);
                // A normal distribution cut at two deviations has this deviation itself.
                const CUT: f64 = 0.879_625_661_034_239_8;
                match distribution {
                    Distribution::Uniform => {
                        let limit = (3.0 * variance).sqrt();
                        Box::new(move || stream.symmetric() * limit)
                    }
                    Distribution::TruncatedNormal => {
                        let deviation = variance.sqrt() / CUT;
                        Box::new(move || stream.truncated() * deviation)
                    }
                    Distribution::UntruncatedNormal => {
                        let deviation = variance.sqrt();
                        Box::new(move || stream.normal() * deviation)
                    }
                }
            }
            Self::Orthogonal { gain } => {
                let matrix = orthogonal(&mut stream, matrix_of(&shape.keras), &memory)?;
                permuted(shape, |index| matrix.get(index).copied().unwrap_or(0.0) * gain, push);
                return Ok(Bytes::new(bytes));
            }
            Self::Identity { gain } => {
                let (_, columns) = matrix_of(&shape.keras);
                permuted(shape, |index| if index / columns == index % columns { gain } else { 0.0 }, push);
                return Ok(Bytes::new(bytes));
            }
        };
        std::iter::repeat_with(independent).take(length).for_each(&mut push);
        Ok(Bytes::new(bytes))
    }

    /// Whether a weight of that shape in Keras can start so.
    pub(super) fn check(&self, keras: &[i64]) -> Result<(), String> {
        match self {
            Self::Orthogonal { .. } if keras.len() < 2 => {
                Err("orthogonal is for weights of two dimensions or more".into())
            }
            Self::Identity { .. } if keras.len() != 2 => Err("identity is for weights of two dimensions".into()),
            _ => Ok(()),
        }
    }
}

/// Rows and columns of a weight seen as a matrix: all axes but the last, and the last.
fn matrix_of(keras: &[i64]) -> (usize, usize) {
    let size = |sizes: &[i64]| product(sizes).and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
    match keras.split_last() {
        Some((columns, rows)) => (size(rows), size(&[*columns]).max(1)),
        None => (1, 1),
    }
}

/// Hands on the elements of a row-major tensor of Keras' shape in ATen's order.
fn permuted(shape: &Shape<'_>, value: impl Fn(usize) -> f64, mut push: impl FnMut(f64)) {
    let mut strides = vec![1_usize; shape.keras.len()];
    for (axis, &size) in shape.keras.iter().enumerate().skip(1).rev() {
        let stride = strides.get(axis).copied().unwrap_or(1).saturating_mul(usize::try_from(size).unwrap_or(0));
        if let Some(before) = strides.get_mut(axis - 1) {
            *before = stride;
        }
    }
    let axes: Vec<(usize, usize)> = (shape.order.iter())
        .filter_map(|&axis| Some((usize::try_from(*shape.keras.get(axis)?).ok()?, *strides.get(axis)?)))
        .collect();
    let count = axes.iter().fold(1_usize, |count, (size, _)| count.saturating_mul(*size));
    for mut rest in 0..count {
        let mut index = 0;
        for &(size, stride) in axes.iter().rev() {
            index += rest % size * stride;
            rest /= size;
        }
        push(value(index));
    }
}

/// A random matrix, row-major, whose rows or columns, whichever are fewer, are orthonormal: those of a matrix of normal
/// draws, made orthogonal one after the other, which is uniform over all such matrices.
fn orthogonal(
    stream: &mut Stream,
    (rows, columns): (usize, usize),
    memory: &impl Fn() -> Error,
) -> Result<Vec<f64>, Error> {
    let (length, count) = (rows.max(columns), rows.min(columns));
    let mut vectors: Vec<f64> = Vec::new();
    vectors.try_reserve_exact(rows.saturating_mul(columns)).map_err(|_| memory())?;
    for index in 0..count {
        let start = vectors.len();
        vectors.extend(std::iter::repeat_with(|| stream.normal()).take(length));
        let Some((before, vector)) = vectors.split_at_mut_checked(start) else { break };
        // Twice, as one pass leaves what rounding left (Kahan and Parlett: "twice is enough").
        for _ in 0..2 {
            for other in before.chunks_exact(length).take(index) {
                let along = dot(other, vector);
                vector.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
            }
        }
        let norm = dot(vector, vector).sqrt();
        vector.iter_mut().for_each(|value| *value /= norm);
    }
    if rows < columns {
        return Ok(vectors);
    }
    let at = |row: usize, column: usize| vectors.get(column * length + row).copied().unwrap_or(0.0);
    Ok((0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(r, c)| at(r, c)).collect())
}

/// Eight running sums, so that the processor adds them side by side, in an order that is the same everywhere.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(initializer: &Initializer, seed: i64, name: &str, keras: &[i64]) -> Vec<f32> {
        let order: Vec<usize> = (0..keras.len()).collect();
        let shape = Shape { keras: keras.to_vec(), order: &order };
        let bytes = initializer.values(seed, name, &shape, Fans::of(keras).unwrap()).unwrap();
        bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap())).collect()
    }

    fn parse(json: &str) -> Result<Initializer, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn streams_depend_on_seed_and_name_and_on_nothing_else() {
        let draw = |seed, name| draw(&Initializer::UNIFORM, seed, name, &[4]);
        assert_eq!(draw(0, "0.weight"), draw(0, "0.weight"));
        assert_ne!(draw(0, "0.weight"), draw(1, "0.weight"));
        assert_ne!(draw(0, "0.weight"), draw(0, "1.weight"));
        assert_ne!(draw(0, "0.weight"), draw(-1, "0.weight"));
    }

    #[test]
    fn every_name_has_the_mean_deviation_and_limits_of_keras() {
        // 200 inputs and 400 outputs; the standard error of a deviation is 0.25 % of it, of a mean 0.35 % of the deviation.
        let (input, output) = (200.0_f64, 400.0_f64);
        let average = (input + output) / 2.0;
        let cut = 2.0 / 0.879_625_661_034_239_8;
        for (json, mean, deviation, limit) in [
            (r#""glorot_uniform""#, 0.0, (1.0 / average).sqrt(), (3.0 / average).sqrt()),
            (r#""GlorotNormal""#, 0.0, (1.0 / average).sqrt(), cut * (1.0 / average).sqrt()),
            (r#""he_uniform""#, 0.0, (2.0 / input).sqrt(), (6.0 / input).sqrt()),
            (r#""he_normal""#, 0.0, (2.0 / input).sqrt(), cut * (2.0 / input).sqrt()),
            (r#""lecun_uniform""#, 0.0, (1.0 / input).sqrt(), (3.0 / input).sqrt()),
            (r#""lecun_normal""#, 0.0, (1.0 / input).sqrt(), cut * (1.0 / input).sqrt()),
            (r#""random_normal""#, 0.0, 0.05, 0.3),
            (r#"{"name": "random_normal", "mean": 2.0, "stddev": 0.5}"#, 2.0, 0.5, 5.0),
            (r#""truncated_normal""#, 0.0, 0.05 * 0.879_625_661, 0.1),
            (r#""uniform""#, 0.0, 0.1 / 12.0_f64.sqrt(), 0.05),
            (r#"{"name": "random_uniform", "minval": 1.0, "maxval": 3.0}"#, 2.0, 2.0 / 12.0_f64.sqrt(), 3.0),
            (r#""orthogonal""#, 0.0, (1.0 / output).sqrt(), 0.3),
            (
                r#"{"name": "variance_scaling", "scale": 3.0, "mode": "fan_out", "distribution": "uniform"}"#,
                0.0,
                (3.0 / output).sqrt(),
                (9.0 / output).sqrt(),
            ),
            (r#"{"name": "variance_scaling", "distribution": "untruncated_normal"}"#, 0.0, (1.0 / input).sqrt(), 0.5),
        ] {
            let values = draw(&parse(json).unwrap(), 3, "w", &[200, 400]);
            let found = values.iter().map(|&value| f64::from(value)).sum::<f64>() / 8e4;
            let square = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / 8e4;
            assert!((found - mean).abs() < 0.02 * deviation, "{json}: mean {found}");
            assert!((square.sqrt() / deviation - 1.0).abs() < 0.01, "{json}: deviation {}", square.sqrt());
            assert!(values.iter().all(|&value| f64::from(value).abs() <= limit * (1.0 + 1e-6)), "{json}");
        }
    }

    #[test]
    fn constants_are_what_they_say() {
        for (json, expected) in [
            (r#""zeros""#, 0.0),
            (r#""Ones""#, 1.0),
            (r#"{"name": "constant", "value": 0.25}"#, 0.25),
            (r#""constant""#, 0.0),
        ] {
            assert_eq!(draw(&parse(json).unwrap(), 0, "w", &[3]), [expected; 3], "{json}");
        }
        let identity = parse(r#"{"name": "identity", "gain": 2.0}"#).unwrap();
        assert_eq!(draw(&identity, 0, "w", &[2, 3]), [2.0, 0.0, 0.0, 0.0, 2.0, 0.0]);
    }

    #[test]
    fn the_rows_or_columns_of_an_orthogonal_matrix_are_orthonormal() {
        for (keras, rows, columns) in [(&[6, 6][..], 6, 6), (&[4, 16], 4, 16), (&[9, 5], 9, 5), (&[3, 4, 5], 12, 5)] {
            let values = draw(&Initializer::Orthogonal { gain: 2.0 }, 5, "w", keras);
            let at = |row: usize, column: usize| values[row * columns + column];
            let count = rows.min(columns);
            for (a, b) in (0..count).flat_map(|a| (0..count).map(move |b| (a, b))) {
                let product: f32 = if rows < columns {
                    (0..columns).map(|column| at(a, column) * at(b, column)).sum()
                } else {
                    (0..rows).map(|row| at(row, a) * at(row, b)).sum()
                };
                let expected = if a == b { 4.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-5, "{keras:?} {a} {b}: {product}");
            }
        }
    }

    #[test]
    fn a_matrix_that_atens_turns_round_is_the_same_matrix() {
        let draw = |order: &[usize]| {
            let shape = Shape { keras: vec![2, 6], order };
            let fans = Fans { input: 2, output: 6 };
            let bytes = Initializer::ORTHOGONAL.values(0, "w", &shape, fans).unwrap();
            let floats = bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap()));
            (shape.sizes(), floats.collect::<Vec<f32>>())
        };
        let (straight, turned) = (draw(&[0, 1]), draw(&[1, 0]));
        assert_eq!((straight.0, turned.0), (vec![2, 6], vec![6, 2]));
        for (row, column) in (0..2).flat_map(|row| (0..6).map(move |column| (row, column))) {
            assert_eq!(straight.1[row * 6 + column], turned.1[column * 2 + row]);
        }
    }

    #[test]
    fn unknown_names_and_settings_are_refused_with_what_there_is() {
        for (json, expected) in [
            (r#""glorot""#, "there is no initializer \"glorot\": it is one of zeros"),
            (r#"{"name": "constant", "gain": 1.0}"#, "constant has no setting gain: it takes value"),
            (r#"{"name": "zeros", "value": 1.0}"#, "zeros has no setting value: it takes no settings"),
            (r#"{"name": "orthogonal", "seed": 1}"#, "unknown field `seed`"),
            (r#"{"value": 1.0}"#, "an initializer is a name, or an object"),
            ("3", "neither a name nor an object"),
            (r#"{"name": "random_normal", "stddev": -1.0}"#, "stddev of random_normal is -1"),
            (r#"{"name": "variance_scaling", "scale": 0.0}"#, "scale of variance_scaling is 0"),
            (r#"{"name": "uniform", "minval": 1.0}"#, "minval of uniform is 1, above its maxval"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error() {
        let shape = Shape { keras: vec![i64::MAX / 8], order: &[0] };
        let error = Initializer::ZEROS.values(0, "w", &shape, Fans { input: 1, output: 1 }).unwrap_err();
        assert!(matches!(error, Error::Memory { .. }), "{error}");
    }
}
