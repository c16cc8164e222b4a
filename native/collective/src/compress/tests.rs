//! One compression and what it keeps, against exact sums. Groups of ranks are in `tests/compress.rs`.

#![allow(clippy::needless_range_loop, reason = "several sequences are indexed alike")]

use super::block::Scratch;
use super::codec::{BLOCK, Fill};
use super::*;
use crate::abort::Aborter;
use crate::connect::{Listener, Options, connect};
use crate::secret::Secret;
use proptest::prelude::*;
use std::sync::Arc;

const CODECS: [Codec; 2] = [Codec::Int8, Codec::OneBit];

/// Any number that is a sum of f32, in fixed point: limb i counts units of 2^(32 i - 149).
#[derive(Clone)]
struct Exact([i64; 11]);

impl Exact {
    fn sum(terms: &[f32]) -> Exact {
        let mut limbs = [0; 11];
        for term in terms {
            let bits = term.to_bits();
            let exponent = ((bits >> 23) & 0xFF) as usize;
            let implicit = if exponent == 0 { 0 } else { 1 << 23 };
            let mantissa = u64::from((bits & 0x7F_FFFF) | implicit) << ((exponent.max(1) - 1) % 32);
            let sign = if term.is_sign_negative() { -1 } else { 1 };
            let limb = (exponent.max(1) - 1) / 32;
            limbs[limb] += sign * (mantissa & 0xFFFF_FFFF) as i64;
            limbs[limb + 1] += sign * (mantissa >> 32) as i64;
        }
        for limb in 0..10 {
            limbs[limb + 1] += limbs[limb] >> 32;
            limbs[limb] &= 0xFFFF_FFFF;
        }
        Exact(limbs)
    }

    fn is_zero(&self) -> bool {
        self.0 == [0; 11]
    }

    /// Good to 50 bits; the sign is in the topmost limb.
    fn approximate(&self) -> f64 {
        self.0.iter().enumerate().map(|(limb, count)| *count as f64 * 2f64.powi(32 * limb as i32 - 149)).sum()
    }
}
struct Compressed {
    output: Vec<f32>,
    residual: Residual,
}

/// One compression of one block with the residual before it; none if it was refused.
fn compress(codec: Codec, values: &[f32], before: &Residual) -> Option<Compressed> {
    let mut residual = Residual::zero(values.len());
    let (mut scale, mut bits) = ([0; 4], vec![0; codec.bytes(values.len())]);
    let whole = Scratch::new().compress(
        codec,
        values,
        (&before.high, &before.low),
        &mut scale,
        &mut bits,
        (&mut residual.high, &mut residual.low),
    );
    let mut output = vec![f32::NAN; values.len()];
    codec.expand(f32::from_le_bytes(scale), &bits, &mut output, Fill::Set);
    whole.then_some(Compressed { output, residual })
}

/// A group of one rank.
fn alone() -> Arc<dyn Communicator> {
    let listener = Listener::bind("127.0.0.1").unwrap();
    let roster = [listener.endpoint("this process")];
    let options = Options::new("one rank compresses", 0, 0, Secret::generate().unwrap());
    connect(listener, &roster, options, &Aborter::new()).unwrap()
}

/// Numbers between -1 and 1 that use all their bits.
fn numbers(count: usize, step: usize) -> impl Iterator<Item = f32> {
    (step * count..(step + 1) * count).map(|index| (1.7 * index as f32).sin())
}

/// Bits that are any finite number, or one of the numbers that break things.
fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |value| value.is_finite()),
        4 => (-1f32..1f32, -60..60i32).prop_map(|(value, power)| value * 2f32.powi(power)),
        1 => prop::sample::select(vec![
            0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 1.0, -1.0, 16_777_215.0, 1e-30,
            f32::from_bits(1), -f32::from_bits(1), f32::from_bits(0x7F_FFFF), 1.0 + f32::EPSILON, 3.4e38 / 127.0,
        ]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn from_a_zero_residual_output_and_residual_are_the_input_exactly(
        values in prop::collection::vec(number(), 1..60)
    ) {
        for codec in CODECS {
            let result = compress(codec, &values, &Residual::zero(values.len())).unwrap();
            for (index, value) in values.iter().enumerate() {
                let (high, low) = (result.residual.high[index], result.residual.low[index]);
                let lost = Exact::sum(&[*value, -result.output[index], -high, -low]);
                prop_assert!(lost.is_zero(), "{codec:?} {index}: {value:e} to {:e}", result.output[index]);
                prop_assert_eq!(high + low, high, "the parts overlap");
            }
        }
    }

    #[test]
    fn within_46_bits_nothing_is_lost_from_any_residual(
        steps in prop::collection::vec(prop::collection::vec(-(1i32 << 23)..(1i32 << 23), 5), 1..20),
        powers in prop::collection::vec(0..18i32, 5),
        unit in -149..60i32,
    ) {
        // Multiples of g = 2^unit, up to 2^40 g, and 2^45 g with what accumulates in 20 steps. The first number
        // keeps the scales above 2^32 g, so that they and their products with the codes are multiples of g too.
        let times = |count: f64, power: i32| (count * 2f64.powi(unit + power)) as f32;
        for codec in CODECS {
            let mut residual = Residual::zero(5);
            for step in &steps {
                let mut values: Vec<f32> =
                    step.iter().zip(&powers).map(|(count, power)| times(f64::from(*count), *power)).collect();
                values[0] = times(1.0, 40);
                let result = compress(codec, &values, &residual).unwrap();
                for index in 0..5 {
                    let lost = Exact::sum(&[
                        values[index], residual.high[index], residual.low[index],
                        -result.output[index], -result.residual.high[index], -result.residual.low[index],
                    ]);
                    prop_assert!(lost.is_zero(), "{codec:?} {index}: {:e}", lost.approximate());
                }
                residual = result.residual;
            }
        }
    }

    #[test]
    fn whatever_the_residual_at_most_a_part_in_2_to_the_46th_is_lost(
        steps in prop::collection::vec(prop::collection::vec(number(), 7), 1..20)
    ) {
        for codec in CODECS {
            let mut residual = Residual::zero(7);
            for step in &steps {
                let values: Vec<f32> = step.iter().map(|value| value / 64.0).collect();
                let result = compress(codec, &values, &residual).unwrap();
                for index in 0..7 {
                    let terms = [
                        values[index], residual.high[index], residual.low[index],
                        -result.output[index], -result.residual.high[index], -result.residual.low[index],
                    ];
                    let sum = values[index] + residual.high[index];
                    let largest = terms.iter().fold(sum.abs(), |most, term| most.max(term.abs()));
                    let lost = Exact::sum(&terms);
                    prop_assert!(
                        lost.is_zero() || lost.approximate().abs() <= f64::from(largest) * 2f64.powi(-46) * 1.001,
                        "{codec:?} {index}: {:e} of {largest:e}", lost.approximate()
                    );
                }
                residual = result.residual;
            }
        }
    }
}

#[test]
fn one_f32_could_not_hold_the_residual_of_one_bit() {
    let values = [1e-10, 2.0, 1.0, -1.0];
    let result = compress(Codec::OneBit, &values, &Residual::zero(4)).unwrap();
    assert_eq!((result.output[0], result.residual.high[0], result.residual.low[0]), (1.0, -1.0, 1e-10));
}

#[test]
fn eight_bits_are_off_by_at_most_half_a_step_and_hit_the_largest() {
    for length in [1, 7, 2000, BLOCK] {
        let values: Vec<f32> = numbers(length, 1).collect();
        let largest = values.iter().fold(0f32, |most, value| most.max(value.abs()));
        let result = compress(Codec::Int8, &values, &Residual::zero(length)).unwrap();
        for (value, output) in values.iter().zip(&result.output) {
            // Half a step, and the roundings of the scale, the quotient and the product.
            assert!((value - output).abs() <= largest / 254.0 * (1.0 + 1e-4), "{value} {output} {largest}");
            if value.abs() == largest {
                assert!((value - output).abs() <= largest * f32::EPSILON);
            }
        }
    }
    // 0.5, 1.5 and 2.5 steps go to the even neighbour.
    let result = compress(Codec::Int8, &[127.0, 0.5, 1.5, 2.5, -0.5, -1.5], &Residual::zero(6)).unwrap();
    assert_eq!(result.output, [127.0, 0.0, 2.0, 2.0, 0.0, -2.0]);
}

#[test]
fn one_bit_is_the_sign_and_the_mean_magnitude() {
    let values = [1.0, -2.0, 0.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0, 9.0, -21.0];
    let result = compress(Codec::OneBit, &values, &Residual::zero(11)).unwrap();
    let signs = [6.0, -6.0, 6.0, 6.0, -6.0, 6.0, -6.0, 6.0, -6.0, 6.0, -6.0];
    assert_eq!(result.output, signs);
}

#[test]
fn zeros_stay_zeros() {
    for codec in CODECS {
        let result = compress(codec, &[0.0; BLOCK], &Residual::zero(BLOCK)).unwrap();
        assert_eq!((result.output, result.residual), (vec![0.0; BLOCK], Residual::zero(BLOCK)));
    }
}

/// The promise about many steps, in exact arithmetic: all that came out is all that went in, less the residuals.
#[test]
fn over_many_steps_nothing_is_lost_but_what_the_residuals_hold() {
    const ELEMENTS: usize = 37;
    const STEPS: usize = 50;
    let group = alone();
    for codec in CODECS {
        let mut feedback = ErrorFeedback::new(ELEMENTS, codec);
        let mut terms = vec![Vec::new(); ELEMENTS];
        for step in 0..STEPS {
            let mut values: Vec<f32> = numbers(ELEMENTS, step).collect();
            terms.iter_mut().zip(&values).for_each(|(terms, value)| terms.push(*value));
            feedback.all_reduce(&*group, &mut values, ReduceOp::Sum).unwrap();
            terms.iter_mut().zip(&values).for_each(|(terms, value)| terms.push(-value));
        }
        let Residuals { worker, server, .. } = feedback.residuals();
        for part in [&worker.high, &worker.low, &server.high, &server.low] {
            terms.iter_mut().zip(part).for_each(|(terms, value)| terms.push(-value));
        }
        assert!(terms.iter().all(|terms| Exact::sum(terms).is_zero()), "{codec:?}");
    }
}

#[test]
fn the_largest_number_of_all_survives_eight_bits() {
    let result = compress(Codec::Int8, &[f32::MAX, f32::MIN, 1.0], &Residual::zero(3)).unwrap();
    assert!(result.output.iter().all(|value| value.is_finite()));
    assert!(result.output[0] > 3.4e38);
}
