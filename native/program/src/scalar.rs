//! Arithmetic on numbers beside the tensors: what `_operator.mul(s, 2)` or `torch.sym_float(s)` in an exported graph means.
//!
//! The results are Python's: a truth value counts as 0 or 1, an integer meets a float as a float, division rounds towards
//! minus infinity and a remainder has the divisor's sign. Whatever Python's integers could hold and 64 bits cannot is an
//! error, never a wrapped number, and what Python raises (a division by zero, a root of a negative number) is one too.

use std::cmp::Ordering;
use std::fmt;

use crate::error::Error;

/// A number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar {
    /// An integer.
    Int(i64),
    /// A float, of double precision as Python's.
    Float(f64),
    /// A truth value.
    Bool(bool),
}

impl Scalar {
    /// The integer that it is; a truth value counts as 0 or 1.
    #[must_use]
    pub fn int(self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(value),
            Self::Bool(truth) => Some(i64::from(truth)),
            Self::Float(_) => None,
        }
    }

    /// The number as a float, rounded as Python's `float` rounds.
    #[must_use]
    pub fn float(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
            Self::Bool(truth) => f64::from(u8::from(truth)),
        }
    }

    /// Whether Python takes it for true: anything but zero.
    #[must_use]
    pub fn truth(self) -> bool {
        match self {
            Self::Int(value) => value != 0,
            Self::Float(value) => value != 0.0,
            Self::Bool(truth) => truth,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Bool(truth) => write!(f, "{truth}"),
        }
    }
}

macro_rules! operations {
    ($($op:ident $arity:literal $names:tt #[$doc:meta])*) => {
        /// An operation on numbers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ScalarOp {
            $(#[$doc] $op,)*
        }

        impl ScalarOp {
            const ALL: &[Self] = &[$(Self::$op,)*];

            /// Every name that exported programs call it by.
            const fn names(self) -> &'static [&'static str] {
                match self {
                    $(Self::$op => &$names,)*
                }
            }

            /// How many arguments it takes.
            #[must_use]
            pub const fn arity(self) -> usize {
                match self {
                    $(Self::$op => $arity,)*
                }
            }
        }
    };
}

operations! {
    Add 2 ["_operator.add"] #[doc = "`a + b`"]
    Sub 2 ["_operator.sub"] #[doc = "`a - b`"]
    Mul 2 ["_operator.mul"] #[doc = "`a * b`"]
    TrueDiv 2 ["_operator.truediv"] #[doc = "`a / b`, a float"]
    FloorDiv 2 ["_operator.floordiv"] #[doc = "`a // b`"]
    Mod 2 ["_operator.mod"] #[doc = "`a % b`"]
    Pow 2 ["_operator.pow"] #[doc = "`a ** b`, a float for integers if `b` is negative"]
    Neg 1 ["_operator.neg"] #[doc = "`-a`"]
    Pos 1 ["_operator.pos"] #[doc = "`+a`"]
    And 2 ["_operator.and_"] #[doc = "`a & b`: of truth values whether both are true, of integers bit by bit"]
    Or 2 ["_operator.or_"] #[doc = "`a | b`: of truth values whether one is true, of integers bit by bit"]
    ShiftLeft 2 ["_operator.lshift"] #[doc = "`a << b`"]
    ShiftRight 2 ["_operator.rshift"] #[doc = "`a >> b`"]
    Eq 2 ["_operator.eq"] #[doc = "`a == b`"]
    Ne 2 ["_operator.ne"] #[doc = "`a != b`"]
    Lt 2 ["_operator.lt"] #[doc = "`a < b`"]
    Le 2 ["_operator.le"] #[doc = "`a <= b`"]
    Gt 2 ["_operator.gt"] #[doc = "`a > b`"]
    Ge 2 ["_operator.ge"] #[doc = "`a >= b`"]
    Max 2 ["torch.sym_max"] #[doc = "`max(a, b)`, a float if one of them is"]
    Min 2 ["torch.sym_min"] #[doc = "`min(a, b)`, a float if one of them is"]
    Not 1 ["torch.sym_not", "_operator.not_"] #[doc = "`not a`"]
    ToInt 1 ["torch.sym_int"] #[doc = "`int(a)`: towards zero"]
    ToFloat 1 ["torch.sym_float"] #[doc = "`float(a)`"]
    IfElse 3 ["torch.sym_ite"] #[doc = "`b if a else c`"]
    Sqrt 1 ["torch._sym_sqrt", "torch.sym_sqrt", "math.sqrt"] #[doc = "the square root, a float"]
    Trunc 1 ["math.trunc"] #[doc = "towards zero, an integer"]
    Floor 1 ["math.floor"] #[doc = "towards minus infinity, an integer"]
    Ceil 1 ["math.ceil"] #[doc = "towards plus infinity, an integer"]
}

impl ScalarOp {
    /// Python's name, as exported programs write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.names().first().copied().unwrap_or_default()
    }

    pub(crate) fn from_target(target: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.names().contains(&target))
    }

    /// The result for these arguments.
    ///
    /// ```
    /// use kindling_program::{Scalar, ScalarOp};
    ///
    /// assert_eq!(ScalarOp::FloorDiv.apply(&[Scalar::Int(-7), Scalar::Int(2)])?, Scalar::Int(-4));
    /// assert_eq!(ScalarOp::TrueDiv.apply(&[Scalar::Int(1), Scalar::Int(4)])?, Scalar::Float(0.25));
    /// # Ok::<(), kindling_program::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Arithmetic`] for what Python raises (such as a division by zero), for an integer beyond 64 bits, and for
    /// the wrong number of arguments (which a [`crate::Program`] never has).
    pub fn apply(self, arguments: &[Scalar]) -> Result<Scalar, Error> {
        let result = match *arguments {
            [a] => self.unary(a),
            [a, b] => self.binary(a, b),
            [a, b, c] if self == Self::IfElse => Some(if a.truth() { b } else { c }),
            _ => None,
        };
        result.ok_or_else(|| Error::Arithmetic { op: self.name(), arguments: arguments.to_vec() })
    }

    fn unary(self, a: Scalar) -> Option<Scalar> {
        match (self, a) {
            (Self::Neg, Scalar::Float(a)) => Some(Scalar::Float(-a)),
            (Self::Neg, a) => a.int()?.checked_neg().map(Scalar::Int),
            (Self::Pos, Scalar::Float(a)) => Some(Scalar::Float(a)),
            (Self::Pos, a) => a.int().map(Scalar::Int),
            (Self::Not, a) => Some(Scalar::Bool(!a.truth())),
            (Self::ToFloat, a) => Some(Scalar::Float(a.float())),
            (Self::Sqrt, a) => Some(Scalar::Float(a.float().sqrt())).filter(|_| a.float() >= 0.0),
            (Self::ToInt | Self::Trunc, Scalar::Float(a)) => integer(a.trunc()),
            (Self::Floor, Scalar::Float(a)) => integer(a.floor()),
            (Self::Ceil, Scalar::Float(a)) => integer(a.ceil()),
            (Self::ToInt | Self::Trunc | Self::Floor | Self::Ceil, a) => a.int().map(Scalar::Int),
            _ => None,
        }
    }

    fn binary(self, a: Scalar, b: Scalar) -> Option<Scalar> {
        match self {
            Self::Eq => Some(Scalar::Bool(compare(a, b) == Some(Ordering::Equal))),
            Self::Ne => Some(Scalar::Bool(compare(a, b) != Some(Ordering::Equal))),
            Self::Lt => Some(Scalar::Bool(compare(a, b).is_some_and(Ordering::is_lt))),
            Self::Le => Some(Scalar::Bool(compare(a, b).is_some_and(Ordering::is_le))),
            Self::Gt => Some(Scalar::Bool(compare(a, b).is_some_and(Ordering::is_gt))),
            Self::Ge => Some(Scalar::Bool(compare(a, b).is_some_and(Ordering::is_ge))),
            Self::Max => Some(alike(if compare(b, a).is_some_and(Ordering::is_gt) { b } else { a }, a, b)),
            Self::Min => Some(alike(if compare(b, a).is_some_and(Ordering::is_lt) { b } else { a }, a, b)),
            Self::TrueDiv => Some(Scalar::Float(a.float() / b.float())).filter(|_| b.float() != 0.0),
            _ => match (a, b) {
                (Scalar::Bool(a), Scalar::Bool(b)) if self == Self::And => Some(Scalar::Bool(a && b)),
                (Scalar::Bool(a), Scalar::Bool(b)) if self == Self::Or => Some(Scalar::Bool(a || b)),
                (Scalar::Float(_), _) | (_, Scalar::Float(_)) => {
                    self.of_floats(a.float(), b.float()).map(Scalar::Float)
                }
                (a, b) => self.of_integers(a.int()?, b.int()?),
            },
        }
    }

    fn of_integers(self, a: i64, b: i64) -> Option<Scalar> {
        let result = match self {
            Self::Add => a.checked_add(b),
            Self::Sub => a.checked_sub(b),
            Self::Mul => a.checked_mul(b),
            Self::FloorDiv => floor_div(a, b),
            Self::Mod => floor_mod(a, b),
            Self::Pow if b < 0 => return power(a as f64, b as f64).map(Scalar::Float),
            Self::Pow => u32::try_from(b).ok().and_then(|exponent| a.checked_pow(exponent)),
            Self::And => Some(a & b),
            Self::Or => Some(a | b),
            Self::ShiftLeft => 1_i64.checked_shl(u32::try_from(b).ok()?).filter(|&by| by > 0)?.checked_mul(a),
            // Shifting by 63 or more leaves only the sign.
            Self::ShiftRight => u32::try_from(b).ok().map(|by| a >> by.min(63)),
            _ => None,
        };
        result.map(Scalar::Int)
    }

    fn of_floats(self, a: f64, b: f64) -> Option<f64> {
        match self {
            Self::Add => Some(a + b),
            Self::Sub => Some(a - b),
            Self::Mul => Some(a * b),
            Self::FloorDiv => float_floor_div(a, b).map(|(quotient, _)| quotient),
            Self::Mod => float_floor_div(a, b).map(|(_, remainder)| remainder),
            Self::Pow => power(a, b),
            _ => None,
        }
    }
}

/// The larger or smaller of two numbers is a float if one of them is.
fn alike(chosen: Scalar, a: Scalar, b: Scalar) -> Scalar {
    match (a, b) {
        (Scalar::Float(_), _) | (_, Scalar::Float(_)) => Scalar::Float(chosen.float()),
        _ => chosen,
    }
}

/// Compares exactly, as Python does: an integer that a float cannot hold is not rounded first.
fn compare(a: Scalar, b: Scalar) -> Option<Ordering> {
    match (a, b) {
        (Scalar::Float(a), Scalar::Float(b)) => a.partial_cmp(&b),
        (Scalar::Float(a), b) => with_float(b.int()?, a).map(Ordering::reverse),
        (a, Scalar::Float(b)) => with_float(a.int()?, b),
        (a, b) => Some(a.int()?.cmp(&b.int()?)),
    }
}

fn with_float(a: i64, b: f64) -> Option<Ordering> {
    match (a as f64).partial_cmp(&b)? {
        // Equal after rounding: both are integers now, and 128 bits hold every 64-bit integer's rounding.
        Ordering::Equal => Some(i128::from(a).cmp(&(b as i128))),
        other => Some(other),
    }
}

/// A float without fraction as an integer.
fn integer(value: f64) -> Option<Scalar> {
    // 2^63 is the first float beyond; NaN is in no range.
    (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value).then_some(Scalar::Int(value as i64))
}

/// As Python's `**` on floats, which raises where the result is infinite or complex.
fn power(a: f64, b: f64) -> Option<f64> {
    let complex = a < 0.0 && b.is_finite() && b.fract() != 0.0;
    let result = a.powf(b);
    let raised = result.is_infinite() && a.is_finite() && b.is_finite();
    (!complex && !raised).then_some(result)
}

/// Quotient and remainder of floats, as CPython's `float_divmod` computes them.
fn float_floor_div(a: f64, b: f64) -> Option<(f64, f64)> {
    if b == 0.0 {
        return None;
    }
    let mut remainder = a % b;
    let mut quotient = (a - remainder) / b;
    if remainder == 0.0 {
        remainder = 0.0_f64.copysign(b);
    } else if (b < 0.0) != (remainder < 0.0) {
        remainder += b;
        quotient -= 1.0;
    }
    let whole = if quotient == 0.0 {
        0.0_f64.copysign(a / b)
    } else {
        let floor = quotient.floor();
        if quotient - floor > 0.5 { floor + 1.0 } else { floor }
    };
    Some((whole, remainder))
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
    use super::Scalar::{Bool, Float, Int};
    use super::*;

    fn is(op: ScalarOp, arguments: &[Scalar], expected: Scalar) {
        assert_eq!(op.apply(arguments).unwrap(), expected, "{op:?} {arguments:?}");
    }

    #[test]
    fn division_and_remainder_round_as_python_does() {
        for (a, b, quotient, remainder) in
            [(7, 2, 3, 1), (-7, 2, -4, 1), (7, -2, -4, -1), (-7, -2, 3, -1), (6, 3, 2, 0), (-6, 3, -2, 0)]
        {
            is(ScalarOp::FloorDiv, &[Int(a), Int(b)], Int(quotient));
            is(ScalarOp::Mod, &[Int(a), Int(b)], Int(remainder));
            is(ScalarOp::FloorDiv, &[Float(a as f64), Int(b)], Float(quotient as f64));
            is(ScalarOp::Mod, &[Int(a), Float(b as f64)], Float(remainder as f64));
        }
        // The quotient is rounded once, after the exact remainder: 1.0 // 0.1 is 9 in Python.
        is(ScalarOp::FloorDiv, &[Float(1.0), Float(0.1)], Float(9.0));
        is(ScalarOp::Mod, &[Int(i64::MIN), Int(-1)], Int(0));
    }

    #[test]
    fn integers_stay_integers_and_meet_floats_as_floats() {
        is(ScalarOp::Add, &[Int(2), Int(3)], Int(5));
        is(ScalarOp::Add, &[Bool(true), Bool(true)], Int(2));
        is(ScalarOp::Sub, &[Int(2), Float(0.5)], Float(1.5));
        is(ScalarOp::Mul, &[Float(0.5), Int(3)], Float(1.5));
        is(ScalarOp::TrueDiv, &[Int(1), Int(4)], Float(0.25));
        is(ScalarOp::Pow, &[Int(2), Int(3)], Int(8));
        is(ScalarOp::Pow, &[Int(2), Int(-1)], Float(0.5));
        is(ScalarOp::Pow, &[Int(4), Float(0.5)], Float(2.0));
        is(ScalarOp::Pow, &[Float(-2.0), Int(3)], Float(-8.0));
        is(ScalarOp::Neg, &[Bool(true)], Int(-1));
        is(ScalarOp::Pos, &[Bool(true)], Int(1));
        is(ScalarOp::Max, &[Int(2), Int(3)], Int(3));
        is(ScalarOp::Min, &[Int(2), Float(3.5)], Float(2.0));
        is(ScalarOp::ShiftLeft, &[Int(-3), Int(2)], Int(-12));
        is(ScalarOp::ShiftRight, &[Int(-3), Int(1)], Int(-2));
        is(ScalarOp::ShiftRight, &[Int(-3), Int(900)], Int(-1));
    }

    #[test]
    fn conversions_and_rounding_are_python_s() {
        is(ScalarOp::ToFloat, &[Int(3)], Float(3.0));
        is(ScalarOp::ToInt, &[Float(-2.7)], Int(-2));
        is(ScalarOp::Trunc, &[Float(2.7)], Int(2));
        is(ScalarOp::Floor, &[Float(-2.1)], Int(-3));
        is(ScalarOp::Ceil, &[Float(-2.1)], Int(-2));
        is(ScalarOp::Sqrt, &[Int(9)], Float(3.0));
        is(ScalarOp::IfElse, &[Bool(false), Int(1), Float(0.5)], Float(0.5));
    }

    #[test]
    fn truth_values_combine_and_numbers_compare_without_rounding() {
        is(ScalarOp::And, &[Bool(true), Bool(false)], Bool(false));
        is(ScalarOp::Or, &[Bool(true), Bool(false)], Bool(true));
        is(ScalarOp::And, &[Int(6), Int(3)], Int(2));
        is(ScalarOp::Or, &[Bool(true), Int(2)], Int(3));
        is(ScalarOp::Not, &[Int(0)], Bool(true));
        is(ScalarOp::Lt, &[Int(2), Float(2.5)], Bool(true));
        is(ScalarOp::Ge, &[Float(2.5), Int(2)], Bool(true));
        is(ScalarOp::Eq, &[Int(9_007_199_254_740_993), Float(9_007_199_254_740_992.0)], Bool(false));
        is(ScalarOp::Gt, &[Int(9_007_199_254_740_993), Float(9_007_199_254_740_992.0)], Bool(true));
        is(ScalarOp::Lt, &[Int(i64::MAX), Float(9_223_372_036_854_775_808.0)], Bool(true));
        is(ScalarOp::Ne, &[Float(f64::NAN), Float(f64::NAN)], Bool(true));
    }

    #[test]
    fn what_python_raises_and_what_64_bits_cannot_hold_is_an_error() {
        for (op, arguments) in [
            (ScalarOp::Add, vec![Int(i64::MAX), Int(1)]),
            (ScalarOp::FloorDiv, vec![Int(1), Int(0)]),
            (ScalarOp::FloorDiv, vec![Int(i64::MIN), Int(-1)]),
            (ScalarOp::FloorDiv, vec![Float(1.0), Float(0.0)]),
            (ScalarOp::TrueDiv, vec![Int(1), Int(0)]),
            (ScalarOp::Mod, vec![Int(1), Int(0)]),
            (ScalarOp::Pow, vec![Int(0), Int(-1)]),
            (ScalarOp::Pow, vec![Int(10), Int(40)]),
            (ScalarOp::Pow, vec![Float(-1.0), Float(0.5)]),
            (ScalarOp::Pow, vec![Float(10.0), Int(400)]),
            (ScalarOp::Sqrt, vec![Int(-1)]),
            (ScalarOp::Floor, vec![Float(f64::INFINITY)]),
            (ScalarOp::Trunc, vec![Float(1e19)]),
            (ScalarOp::ShiftLeft, vec![Int(1), Int(63)]),
            (ScalarOp::ShiftLeft, vec![Int(1), Int(-1)]),
            (ScalarOp::And, vec![Float(1.0), Int(1)]),
            (ScalarOp::Neg, vec![Int(i64::MIN)]),
            (ScalarOp::Neg, vec![Int(1), Int(2)]),
            (ScalarOp::Add, vec![Int(1)]),
            (ScalarOp::IfElse, vec![Bool(true), Int(1)]),
        ] {
            assert!(matches!(op.apply(&arguments), Err(Error::Arithmetic { .. })), "{op:?} {arguments:?}");
        }
    }
}
