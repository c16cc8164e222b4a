//! Sizes in the schema's words: a number, or an expression that sympy reads.
//!
//! Torch wants to know what an expression was worth in the example that the program was exported with; there was none,
//! so every symbol is taken to have been [`EXAMPLE`].

use serde_json::{Value as Json, json};

use crate::error::Error;
use crate::scalar::{Scalar, ScalarOp};

/// What every symbol is worth. Not 0 or 1, which torch takes for constants.
const EXAMPLE: i64 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Size {
    Number(i64),
    Expression { text: String, example: i64 },
}

impl Size {
    pub(super) fn symbol(name: &str) -> Self {
        Self::Expression { text: format!("Symbol('{name}', positive=True, integer=True)"), example: EXAMPLE }
    }

    /// The result of an operation on sizes.
    pub(super) fn apply(op: ScalarOp, args: &[Self]) -> Result<Self, Error> {
        let unwritable = || Error::Unwritable { problem: format!("{} of sizes gives no size", op.name()) };
        let example = op.apply(&args.iter().map(|arg| Scalar::Int(arg.example())).collect::<Vec<_>>())?;
        let Scalar::Int(example) = example else { return Err(unwritable()) };
        if args.iter().all(|arg| matches!(arg, Self::Number(_))) {
            return Ok(Self::Number(example));
        }
        let texts: Vec<String> = args.iter().map(|arg| format!("({})", arg.text())).collect();
        let text = match op {
            ScalarOp::Add => texts.join("+"),
            ScalarOp::Sub => texts.join("-"),
            ScalarOp::Mul => texts.join("*"),
            ScalarOp::Neg => format!("-{}", texts.concat()),
            ScalarOp::FloorDiv => format!("FloorDiv({})", texts.join(", ")),
            ScalarOp::Mod => format!("PythonMod({})", texts.join(", ")),
            ScalarOp::Pow => format!("PowByNatural({})", texts.join(", ")),
            ScalarOp::Max => format!("Max({})", texts.join(", ")),
            ScalarOp::Min => format!("Min({})", texts.join(", ")),
            _ => return Err(unwritable()),
        };
        Ok(Self::Expression { text, example })
    }

    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Expression { text, .. } => text.clone(),
        }
    }

    fn example(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            Self::Expression { example, .. } => *example,
        }
    }

    pub(super) fn json(&self) -> Json {
        match self {
            Self::Number(number) => json!({"as_int": number}),
            Self::Expression { text, example } => {
                json!({"as_expr": {"expr_str": text, "hint": {"as_int": example}}})
            }
        }
    }
}

/// The strides of a row-major tensor of these sizes.
pub(super) fn row_major(sizes: &[Size]) -> Result<Vec<Size>, Error> {
    let mut strides = Vec::with_capacity(sizes.len());
    let mut next = Size::Number(1);
    for size in sizes.iter().rev() {
        strides.push(next.clone());
        next = match (next, size) {
            (Size::Number(1), size) => size.clone(),
            (next, Size::Number(1)) => next,
            // The stride before a dimension without elements is never used; torch counts such a dimension as one.
            (next, Size::Number(0)) => next,
            (next, size) => Size::apply(ScalarOp::Mul, &[size.clone(), next])?,
        };
    }
    strides.reverse();
    Ok(strides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_worked_out_and_symbols_are_written_down() {
        let batch = Size::symbol("s0");
        let twice = Size::apply(ScalarOp::Mul, &[batch.clone(), Size::Number(2)]).unwrap();
        assert_eq!(
            twice.json(),
            json!({"as_expr": {"expr_str": "(Symbol('s0', positive=True, integer=True))*(2)", "hint": {"as_int": 8}}})
        );
        assert_eq!(Size::apply(ScalarOp::FloorDiv, &[Size::Number(7), Size::Number(2)]).unwrap(), Size::Number(3));
        assert!(Size::apply(ScalarOp::FloorDiv, &[batch, Size::Number(0)]).is_err());
    }

    #[test]
    fn strides_multiply_the_sizes_behind() {
        let batch = Size::symbol("s0");
        let numbers = [Size::Number(2), Size::Number(3), Size::Number(4)];
        assert_eq!(row_major(&numbers).unwrap(), [Size::Number(12), Size::Number(4), Size::Number(1)]);
        let behind = row_major(&[Size::Number(5), batch.clone(), Size::Number(1)]).unwrap();
        assert_eq!(behind, [batch, Size::Number(1), Size::Number(1)]);
    }
}
