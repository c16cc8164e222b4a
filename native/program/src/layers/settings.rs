//! Settings that many layers share, as the JSON writes them.

use std::fmt;

use serde::de::{Error as _, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// Where the channels of an image stand in a row's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DataFormat {
    /// (height, width, channels), Keras' default.
    #[default]
    ChannelsLast,
    /// (channels, height, width).
    ChannelsFirst,
}

/// What a window that sticks out of the image does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Padding {
    /// It is left out.
    #[default]
    Valid,
    /// The image is padded so that there are as many windows as steps fit into it.
    Same,
    /// The image is padded in front, so that no window sees what comes after it.
    Causal,
}

/// An integer for every axis alike, or a list of one per axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sizes {
    All(i64),
    Each(Vec<i64>),
}

impl Sizes {
    pub(super) fn one() -> Self {
        Self::All(1)
    }

    /// One number for each of `rank` axes, every one above 0.
    pub(super) fn positive(&self, name: &str, rank: usize) -> Result<Vec<i64>, String> {
        let sizes = self.of_rank(name, rank)?;
        sizes.iter().try_for_each(|&size| positive(name, size)).map(|()| sizes)
    }

    pub(super) fn of_rank(&self, name: &str, rank: usize) -> Result<Vec<i64>, String> {
        match self {
            Self::All(size) => Ok(vec![*size; rank]),
            Self::Each(sizes) if sizes.len() == rank => Ok(sizes.clone()),
            Self::Each(sizes) => Err(format!("{name} is {sizes:?}, it must be an integer or a list of {rank}")),
        }
    }
}

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizesVisitor;

        impl<'de> Visitor<'de> for SizesVisitor {
            type Value = Sizes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer or a list of them")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Sizes, E> {
                Ok(Sizes::All(value))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Sizes, E> {
                let size = i64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))?;
                Ok(Sizes::All(size))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Sizes, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = seq.next_element()? {
                    sizes.push(size);
                }
                Ok(Sizes::Each(sizes))
            }
        }

        deserializer.deserialize_any(SizesVisitor)
    }
}

/// What is added or cut before and after each axis, in any of Keras' three ways: one number, one per axis, or one pair
/// per axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Margins(serde_json::Value);

impl<'de> Deserialize<'de> for Margins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        match &value {
            serde_json::Value::Number(_) | serde_json::Value::Array(_) => Ok(Self(value)),
            _ => Err(D::Error::custom("expected an integer, a list of one per axis, or a list of one pair per axis")),
        }
    }
}

impl Margins {
    pub(super) fn all(size: i64) -> Self {
        Self(size.into())
    }

    /// A pair for each of `rank` axes, none below 0. With one axis a list of two is its pair.
    pub(super) fn pairs(&self, name: &str, rank: usize) -> Result<Vec<(i64, i64)>, String> {
        let read = |value: &serde_json::Value| value.as_i64().filter(|&size| size >= 0);
        let pair = |value: &serde_json::Value| match value.as_array().map(Vec::as_slice) {
            Some([before, after]) => Some((read(before)?, read(after)?)),
            Some(_) => None,
            None => read(value).map(|size| (size, size)),
        };
        let pairs = match &self.0 {
            serde_json::Value::Array(_) if rank == 1 && pair(&self.0).is_some() => pair(&self.0).map(|pair| vec![pair]),
            serde_json::Value::Array(each) if each.len() == rank => each.iter().map(pair).collect(),
            serde_json::Value::Array(_) => None,
            number => read(number).map(|size| vec![(size, size); rank]),
        };
        pairs.ok_or_else(|| {
            format!("{name} is {}, it must be an integer from 0, {rank} of them, or {rank} pairs of them", self.0)
        })
    }
}

/// The row's axis that Keras' `axis` means: it counts the batch as 0 and from the end below 0.
pub(super) fn row_axis(name: &str, axis: i64, rank: usize) -> Result<usize, String> {
    let dimensions = i64::try_from(rank).unwrap_or(i64::MAX).saturating_add(1);
    let counted = if axis < 0 { axis.saturating_add(dimensions) } else { axis };
    match usize::try_from(counted) {
        Ok(0) => Err(format!("{name} is {axis}, which is the batch; it must be one of a row's axes, 1 to {rank}")),
        Ok(index) if index <= rank => Ok(index - 1),
        _ => Err(format!("{name} is {axis}, and a row has the axes 1 to {rank}")),
    }
}

pub(super) fn positive(name: &str, number: i64) -> Result<(), String> {
    if number > 0 { Ok(()) } else { Err(format!("{name} is {number}, it must be above 0")) }
}

pub(super) fn positive_real(name: &str, number: f64) -> Result<(), String> {
    if number > 0.0 && number.is_finite() { Ok(()) } else { Err(format!("{name} is {number}, it must be above 0")) }
}

pub(super) fn rate(name: &str, rate: f64) -> Result<(), String> {
    if (0.0..1.0).contains(&rate) {
        Ok(())
    } else {
        Err(format!("{name} is {rate}, it must be at least 0 and below 1"))
    }
}

/// `None` beyond 64 bits.
pub(super) fn product(sizes: &[i64]) -> Option<i64> {
    sizes.iter().try_fold(1_i64, |product, &size| product.checked_mul(size))
}

/// As [`product`], with a sentence.
pub(super) fn elements(sizes: &[i64]) -> Result<i64, String> {
    product(sizes).ok_or_else(|| format!("{sizes:?} has more elements than 64 bits can count"))
}

pub(super) fn yes() -> bool {
    true
}

pub(super) fn last_axis() -> i64 {
    -1
}

pub(super) fn keras_epsilon() -> f64 {
    1e-3
}
