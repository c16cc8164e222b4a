//! Layers that join several values.

use std::ops::RangeInclusive;

use serde::Deserialize;

use super::activation::{Plain, floats, scalar};
use super::build::{Build, Built, Rows, broadcast, dim_of};
use super::kinds::{AnyLayer, Join, Kind};
use super::settings::{Sizes, last_axis, row_axis};
use crate::ir::Arg;

macro_rules! elementwise {
    ($name:literal, $class:literal, $merge:expr) => {
        Kind { name: $name, class: $class, read: |s| s.read::<Plain>().map(|_| AnyLayer::join($merge)) }
    };
}

pub(super) const KINDS: &[Kind] = &[
    elementwise!("add", "Add", Elementwise::Add),
    elementwise!("subtract", "Subtract", Elementwise::Subtract),
    elementwise!("multiply", "Multiply", Elementwise::Multiply),
    elementwise!("average", "Average", Elementwise::Average),
    elementwise!("maximum", "Maximum", Elementwise::Maximum),
    elementwise!("minimum", "Minimum", Elementwise::Minimum),
    Kind { name: "concatenate", class: "Concatenate", read: |s| s.read::<Concatenate>().map(AnyLayer::join) },
    Kind { name: "dot", class: "Dot", read: |s| s.read::<Dot>().map(AnyLayer::join) },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elementwise {
    Add,
    Subtract,
    Multiply,
    Average,
    Maximum,
    Minimum,
}

impl Join for Elementwise {
    fn takes(&self) -> RangeInclusive<usize> {
        if *self == Self::Subtract { 2..=2 } else { 2..=usize::MAX }
    }

    fn build(&self, b: &mut Build, inputs: &[Rows]) -> Built {
        let (step, op) = match self {
            Self::Add | Self::Average => ("add", "add.Tensor"),
            Self::Subtract => ("sub", "sub.Tensor"),
            Self::Multiply => ("mul", "mul.Tensor"),
            Self::Maximum => ("max", "maximum"),
            Self::Minimum => ("min", "minimum"),
        };
        for rows in inputs {
            floats(rows)?;
        }
        let (first, rest) = inputs.split_first().ok_or("it is given no input")?;
        let mut joined = first.clone();
        for next in rest {
            let shape = broadcast(&joined.shape, &next.shape);
            let shape = shape.ok_or("the shapes differ: every size must be the same, or 1 to be stretched")?;
            let args = vec![("self", Arg::Tensor(joined.value)), ("other", Arg::Tensor(next.value))];
            joined = b.call(step, op, args, shape);
        }
        if *self == Self::Average {
            joined = scalar(b, &joined, "div", "div.Scalar", inputs.len() as f64);
        }
        Ok(joined)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Concatenate {
    #[serde(default = "last_axis")]
    axis: i64,
}

impl Join for Concatenate {
    fn takes(&self) -> RangeInclusive<usize> {
        1..=usize::MAX
    }

    fn build(&self, b: &mut Build, inputs: &[Rows]) -> Built {
        let (first, rest) = inputs.split_first().ok_or("it is given no input")?;
        let axis = row_axis("axis", self.axis, first.shape.len())?;
        let mut shape = first.shape.clone();
        for next in rest {
            if next.dtype != first.dtype {
                return Err(format!("it joins {} and {}: make the inputs one type", first.dtype, next.dtype).into());
            }
            let others = |shape: &[i64]| {
                shape.iter().copied().enumerate().filter(|(index, _)| *index != axis).collect::<Vec<_>>()
            };
            if next.shape.len() != first.shape.len() || others(&next.shape) != others(&first.shape) {
                return Err(format!("the shapes differ along other axes than {}", axis + 1).into());
            }
            if let (Some(size), Some(more)) = (shape.get_mut(axis), next.shape.get(axis)) {
                *size = size.checked_add(*more).ok_or("the result is too large")?;
            }
        }
        let tensors = inputs.iter().map(|rows| rows.value).collect();
        let args = vec![("tensors", Arg::Tensors(tensors)), ("dim", Arg::Int(dim_of(axis)))];
        Ok(b.call_typed("", "cat", args, shape, first.dtype))
    }
}

/// The sum of products along one axis of each of two inputs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dot {
    axes: Sizes,
}

impl Join for Dot {
    fn takes(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn build(&self, b: &mut Build, inputs: &[Rows]) -> Built {
        let [x, y] = inputs else { return Err("it takes two inputs".into()) };
        floats(x)?;
        floats(y)?;
        let axes = self.axes.of_rank("axes", 2)?;
        let axis = |axis: Option<&i64>, rows: &Rows| row_axis("axes", axis.copied().unwrap_or(-1), rows.shape.len());
        let (along_x, along_y) = (axis(axes.first(), x)?, axis(axes.get(1), y)?);
        let size = |rows: &Rows, axis: usize| rows.shape.get(axis).copied().unwrap_or(0);
        let sizes = (size(x, along_x), size(y, along_y));
        if sizes.0 != sizes.1 {
            return Err(format!("the axes to sum over have {} and {} elements", sizes.0, sizes.1).into());
        }
        // One letter per axis; the summed one has the same letter on both sides.
        let mut letters = 'b'..='w';
        let mut sides = Vec::new();
        let (mut result, mut shape) = (String::new(), Vec::new());
        for (rows, along) in [(x, along_x), (y, along_y)] {
            let mut side = String::from("a");
            for (index, &size) in rows.shape.iter().enumerate() {
                if index == along {
                    side.push('z');
                    continue;
                }
                let letter = letters.next().ok_or("it has too many dimensions")?;
                side.push(letter);
                result.push(letter);
                shape.push(size);
            }
            sides.push(side);
        }
        let equation = format!("{}->a{result}", sides.join(","));
        let args = vec![("equation", Arg::Str(equation)), ("tensors", Arg::Tensors(vec![x.value, y.value]))];
        let dot = b.call("", "einsum", args, shape);
        // Keras gives a row of one where a number would be left.
        Ok(if dot.shape.is_empty() { b.reshape(&dot, vec![1]) } else { dot })
    }
}
