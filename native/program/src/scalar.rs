//! Integer arithmetic on sizes: what `_operator.mul(s, 2)` in an exported graph means.
//!
//! The results are Python's: division rounds towards minus infinity and a remainder has the divisor's sign. Whatever
//! Python's integers could hold and 64 bits cannot is an error, never a wrapped number.

use crate::error::Error;

/// An operation on integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScalarOp {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a // b`
    FloorDiv,
    /// `a % b`
    Mod,
    /// `a ** b`, for `b` not negative
    Pow,
    /// `-a`
    Neg,
    /// `max(a, b)`
    Max,
    /// `min(a, b)`
    Min,
}

impl ScalarOp {
    /// Python's name, as exported programs write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "_operator.add",
            Self::Sub => "_operator.sub",
            Self::Mul => "_operator.mul",
            Self::FloorDiv => "_operator.floordiv",
            Self::Mod => "_operator.mod",
            Self::Pow => "_operator.pow",
            Self::Neg => "_operator.neg",
            Self::Max => "torch.sym_max",
            Self::Min => "torch.sym_min",
        }
    }

    /// How many arguments it takes.
    #[must_use]
    pub const fn arity(self) -> usize {
        match self {
            Self::Neg => 1,
            _ => 2,
        }
    }

    pub(crate) fn from_target(target: &str) -> Option<Self> {
        const ALL: [ScalarOp; 9] = [
            ScalarOp::Add,
            ScalarOp::Sub,
            ScalarOp::Mul,
            ScalarOp::FloorDiv,
            ScalarOp::Mod,
            ScalarOp::Pow,
            ScalarOp::Neg,
            ScalarOp::Max,
            ScalarOp::Min,
        ];
        ALL.into_iter().find(|op| op.name() == target)
    }

    /// The result for these arguments.
    ///
    /// ```
    /// use kindling_program::ScalarOp;
    ///
    /// assert_eq!(ScalarOp::FloorDiv.apply(&[-7, 2])?, -4);
    /// assert_eq!(ScalarOp::Mod.apply(&[-7, 2])?, 1);
    /// # Ok::<(), kindling_program::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Arithmetic`] for a division by zero, an overflow, a negative exponent, or the wrong number of
    /// arguments (which a [`crate::Program`] never has).
    pub fn apply(self, arguments: &[i64]) -> Result<i64, Error> {
        let result = match (self, arguments) {
            (Self::Add, &[a, b]) => a.checked_add(b),
            (Self::Sub, &[a, b]) => a.checked_sub(b),
            (Self::Mul, &[a, b]) => a.checked_mul(b),
            (Self::FloorDiv, &[a, b]) => floor_div(a, b),
            (Self::Mod, &[a, b]) => floor_mod(a, b),
            (Self::Pow, &[a, b]) => u32::try_from(b).ok().and_then(|exponent| a.checked_pow(exponent)),
            (Self::Neg, &[a]) => a.checked_neg(),
            (Self::Max, &[a, b]) => Some(a.max(b)),
            (Self::Min, &[a, b]) => Some(a.min(b)),
            _ => None,
        };
        result.ok_or_else(|| Error::Arithmetic { op: self.name(), arguments: arguments.to_vec() })
    }
}

fn floor_div(a: i64, b: i64) -> Option<i64> {
    let quotient = a.checked_div(b)?;
    let exact = a.checked_rem(b)? == 0;
    if !exact && (a < 0) != (b < 0) { quotient.checked_sub(1) } else { Some(quotient) }
}

fn floor_mod(a: i64, b: i64) -> Option<i64> {
    // -1 divides everything; i64::MIN % -1 would overflow although its remainder is 0.
    if b == -1 {
        return Some(0);
    }
    let remainder = a.checked_rem(b)?;
    if remainder != 0 && (remainder < 0) != (b < 0) { remainder.checked_add(b) } else { Some(remainder) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_and_remainder_round_as_python_does() {
        for (a, b, quotient, remainder) in
            [(7, 2, 3, 1), (-7, 2, -4, 1), (7, -2, -4, -1), (-7, -2, 3, -1), (6, 3, 2, 0), (-6, 3, -2, 0)]
        {
            assert_eq!(ScalarOp::FloorDiv.apply(&[a, b]).unwrap(), quotient, "{a} // {b}");
            assert_eq!(ScalarOp::Mod.apply(&[a, b]).unwrap(), remainder, "{a} % {b}");
        }
    }

    #[test]
    fn the_other_operations_compute_what_their_names_say() {
        assert_eq!(ScalarOp::Add.apply(&[2, 3]).unwrap(), 5);
        assert_eq!(ScalarOp::Sub.apply(&[2, 3]).unwrap(), -1);
        assert_eq!(ScalarOp::Mul.apply(&[2, 3]).unwrap(), 6);
        assert_eq!(ScalarOp::Pow.apply(&[2, 3]).unwrap(), 8);
        assert_eq!(ScalarOp::Neg.apply(&[2]).unwrap(), -2);
        assert_eq!(ScalarOp::Max.apply(&[2, 3]).unwrap(), 3);
        assert_eq!(ScalarOp::Min.apply(&[2, 3]).unwrap(), 2);
        assert_eq!(ScalarOp::Mod.apply(&[i64::MIN, -1]).unwrap(), 0);
    }

    #[test]
    fn what_has_no_64_bit_result_is_an_error() {
        for (op, arguments) in [
            (ScalarOp::Add, vec![i64::MAX, 1]),
            (ScalarOp::FloorDiv, vec![1, 0]),
            (ScalarOp::FloorDiv, vec![i64::MIN, -1]),
            (ScalarOp::Mod, vec![1, 0]),
            (ScalarOp::Pow, vec![2, -1]),
            (ScalarOp::Pow, vec![10, 40]),
            (ScalarOp::Neg, vec![i64::MIN]),
            (ScalarOp::Neg, vec![1, 2]),
        ] {
            assert!(matches!(op.apply(&arguments), Err(Error::Arithmetic { .. })), "{op:?} {arguments:?}");
        }
    }
}
