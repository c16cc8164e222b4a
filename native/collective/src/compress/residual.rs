//! What a compression loses, and when it comes back.
//!
//! One compression changes an element of a block by at most max |v| / 254 (8-bit, and a rounding), or replaces it by
//! ± mean |v| (1-bit). The result of one all-reduce has one such error from each rank and one from the sum. Over the
//! steps they do not add up: with residuals R, the sum over all steps of what came out is the sum of what went in,
//! less the R of the last step.
//!
//! The residual is therefore kept without rounding, as an unevaluated sum of two f32, high + low, formed by Knuth's
//! TwoSum. A difference in one f32 would do for 8 bits, where v and its code are close (Sterbenz), but not for one bit:
//! a v of 1e-10 beside a scale of 1 would vanish from v - 1. In exact arithmetic, with v = input + old residual:
//!
//! - *Exact from a zero residual*: output + high + low == input, whatever the magnitudes: TwoSum has no error, also not
//!   among the subnormals, where every sum of f32 below the normal range is exact.
//! - *Exact from any residual* while the numbers in play (input, residual, output, their sums) are multiples of a unit
//!   g and at most 2^46 g: then every error term is a multiple of g, and so is the sum of two of them, at most 2^24 g.
//!   That is an f32, so the one addition besides TwoSum does not round.
//! - *Otherwise* that addition rounds, twice in a step, by 2^-24 of two error terms that are each 2^-24 of a number in
//!   play: together 2^-46 of the largest at most. Two f32 could not always hold all: 1e30 + 1 + 1e-30 needs three.
//!
//! All this needs subnormal numbers: a thread that flushes them to zero loses what is below 1.2e-38.

use crate::error::Error;

/// Numbers that are yet to be sent: element i is `high[i] + low[i]`, not added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Residual {
    /// The larger part.
    pub high: Vec<f32>,
    /// What the larger part could not hold.
    pub low: Vec<f32>,
}

/// All that one rank of a group keeps between two steps: part of its checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Residuals {
    /// Of this rank's own numbers: all elements.
    pub worker: Residual,
    /// Of the sum that this rank forms: its chunk. Empty until the first all-reduce.
    pub server: Residual,
    /// The rank and the size of the group that `server` belongs to; none until the first all-reduce.
    pub place: Option<(usize, usize)>,
}

impl Residual {
    pub(super) fn zero(elements: usize) -> Residual {
        Residual { high: vec![0.0; elements], low: vec![0.0; elements] }
    }

    pub(super) fn check(&self, what: &str, elements: usize) -> Result<(), Error> {
        let (high, low) = (self.high.len(), self.low.len());
        if (high, low) != (elements, elements) {
            return Err(Error::invalid(format!(
                "the {what} residual must have {elements} elements, not {high} + {low}"
            )));
        }
        match self.high.iter().chain(&self.low).position(|value| !value.is_finite()) {
            Some(at) => Err(Error::invalid(format!("element {} of the {what} residual is not finite", at % elements))),
            None => Ok(()),
        }
    }
}

/// a + b exactly, as the rounded sum and what it lost (Knuth, TAOCP 2, 4.2.2, theorem B).
#[inline(always)]
fn two_sum(a: f32, b: f32) -> (f32, f32) {
    let sum = a + b;
    let of_b = sum - a;
    (sum, (a - (sum - of_b)) + (b - of_b))
}

/// value + (high + low) as the f32 to be compressed and what that lost.
#[inline(always)]
pub(super) fn compensate(value: f32, high: f32, low: f32) -> (f32, f32) {
    let (sum, lost) = two_sum(value, high);
    two_sum(sum, lost + low)
}

/// (sum + rest) - output as a residual.
#[inline(always)]
pub(super) fn remain(sum: f32, rest: f32, output: f32) -> (f32, f32) {
    let (difference, lost) = two_sum(sum, -output);
    two_sum(difference, lost + rest)
}
