//! The compressed all-reduce over every transport: the same bits everywhere, refusals, and what training comes to.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

mod group;

use group::{ALL, Transport, ranks};
use kindling_collective::*;

const CODECS: [Codec; 2] = [Codec::Int8, Codec::OneBit];

/// Elements that share a scale.
const BLOCK: usize = 2048;

/// Marsaglia's xorshift64*.
struct Dice(u64);

impl Dice {
    /// Of a rank's own.
    fn of(rank: usize) -> Dice {
        Dice(rank as u64 + 1)
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// About normal: mean 0, deviation 1, and none beyond 6.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.roll() >> 40) as f32 / 8_388_608.0 - 1.0).sum::<f32>() / 2.0
    }

    fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// One all-reduce for each length, codec and reduction, on every rank: the numbers before and after.
fn reduced(transport: Transport, world: usize) -> Vec<Vec<(Vec<f32>, Vec<f32>)>> {
    ranks(transport, world, |group| {
        cases()
            .map(|(elements, codec, op)| {
                let inputs = Dice::of(group.rank()).normals(elements);
                let mut values = inputs.clone();
                ErrorFeedback::new(elements, codec).all_reduce(&*group, &mut values, op).unwrap();
                (inputs, values)
            })
            .collect()
    })
}

fn cases() -> impl Iterator<Item = (usize, Codec, ReduceOp)> {
    [0, 1, 4, 1000, 5 * BLOCK + 3].into_iter().flat_map(|elements| {
        CODECS.into_iter().flat_map(move |codec| [ReduceOp::Sum, ReduceOp::Mean].map(|op| (elements, codec, op)))
    })
}

#[test]
fn all_ranks_of_all_transports_get_the_same_bits_near_the_sum_or_the_mean() {
    for world in [1, 2, 3, 5] {
        let first = reduced(Transport::Local, world);
        for transport in ALL {
            for results in reduced(transport, world) {
                for ((case, (_, values)), (_, expected)) in cases().zip(results).zip(&first[0]) {
                    assert!(bits(&values) == bits(expected), "{transport:?}, {world} ranks, {case:?}");
                }
            }
        }
        for (number, (elements, codec, op)) in cases().enumerate() {
            if codec == Codec::OneBit {
                continue;
            }
            let divisor = if op == ReduceOp::Mean { world as f32 } else { 1.0 };
            // No input is beyond 6: half a step from each rank, and half a step of the sum.
            let bound = 2.0 * world as f32 * 6.0 / 254.0 / divisor * 1.001;
            for element in 0..elements {
                let sum: f32 = first.iter().map(|results| results[number].0[element]).sum();
                assert!((sum / divisor - first[0][number].1[element]).abs() <= bound);
            }
        }
    }
}

#[test]
fn a_number_that_is_not_finite_fails_every_rank_alike_and_changes_nothing() {
    const ELEMENTS: usize = 3 * BLOCK;
    for transport in ALL {
        ranks(transport, 3, |group| {
            for (bad, text) in [
                (f32::NAN, "element 4000 of rank 1 is NaN: only finite numbers can be compressed"),
                (f32::NEG_INFINITY, "element 4000 of rank 1 is -inf: only finite numbers can be compressed"),
            ] {
                for codec in CODECS {
                    let mut feedback = ErrorFeedback::new(ELEMENTS, codec);
                    let good = Dice::of(group.rank()).normals(ELEMENTS);
                    feedback.all_reduce(&*group, &mut good.clone(), ReduceOp::Sum).unwrap();
                    let (before, mut values) = (feedback.residuals().clone(), good.clone());
                    if group.rank() == 1 {
                        values[4000] = bad;
                    }
                    let given = bits(&values);
                    let error = feedback.all_reduce(&*group, &mut values, ReduceOp::Sum).unwrap_err();
                    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Invalid, text.to_owned()));
                    assert_eq!(bits(&values), given);
                    assert_eq!(feedback.residuals(), &before);
                    // The group goes on.
                    feedback.all_reduce(&*group, &mut good.clone(), ReduceOp::Sum).unwrap();
                }
            }
        });
    }
}

#[test]
fn a_sum_that_overflows_fails_every_rank_alike() {
    ranks(Transport::Local, 2, |group| {
        for codec in CODECS {
            let mut values = vec![1.0; 2 * BLOCK];
            values[BLOCK..].fill(3e38);
            let mut feedback = ErrorFeedback::new(2 * BLOCK, codec);
            let error = feedback.all_reduce(&*group, &mut values, ReduceOp::Sum).unwrap_err();
            assert_eq!(error.to_string(), "the sum of element 2048 over the ranks overflows");
            assert_eq!(feedback.residuals().worker, nothing(2 * BLOCK));
            feedback.all_reduce(&*group, &mut vec![1.0; 2 * BLOCK], ReduceOp::Sum).unwrap();
        }
    });
}

fn nothing(elements: usize) -> Residual {
    Residual { high: vec![0.0; elements], low: vec![0.0; elements] }
}

#[test]
fn a_state_for_something_else_is_refused() {
    ranks(Transport::Local, 1, |group| {
        let mut feedback = ErrorFeedback::new(4, Codec::OneBit);
        let error = feedback.all_reduce(&*group, &mut [0.0; 5], ReduceOp::Sum).unwrap_err();
        assert_eq!(error.to_string(), "the error feedback is for 4 elements, not 5");
        let error = feedback.all_reduce(&*group, &mut [0.0; 4], ReduceOp::Max).unwrap_err();
        assert_eq!(error.to_string(), "only a sum or mean can be compressed, not max");
        let moved = Residuals { place: Some((1, 2)), ..feedback.residuals().clone() };
        assert!(ErrorFeedback::resume(moved.clone(), Codec::OneBit).is_err());
        let mut moved = ErrorFeedback::resume(Residuals { server: nothing(2), ..moved }, Codec::OneBit).unwrap();
        let error = moved.all_reduce(&*group, &mut [0.0; 4], ReduceOp::Sum).unwrap_err();
        assert_eq!(error.to_string(), "the error feedback is of rank 1 of 2, and this is rank 0 of 1: begin anew");
    });
    let mut broken = Residuals { worker: nothing(3), ..Residuals::default() };
    broken.worker.low[2] = f32::NAN;
    assert!(ErrorFeedback::resume(broken.clone(), Codec::Int8).is_err());
    broken.worker.low = vec![0.0; 2];
    assert!(ErrorFeedback::resume(broken, Codec::Int8).is_err());
}

#[test]
fn a_state_resumed_from_its_residuals_goes_on_with_the_same_bits() {
    ranks(Transport::Local, 3, |group| {
        for codec in CODECS {
            let mut dice = Dice::of(group.rank());
            let mut feedback = ErrorFeedback::new(5000, codec);
            for _ in 0..3 {
                feedback.all_reduce(&*group, &mut dice.normals(5000), ReduceOp::Mean).unwrap();
            }
            let mut resumed = ErrorFeedback::resume(feedback.residuals().clone(), codec).unwrap();
            let mut one = dice.normals(5000);
            let mut two = one.clone();
            feedback.all_reduce(&*group, &mut one, ReduceOp::Mean).unwrap();
            resumed.all_reduce(&*group, &mut two, ReduceOp::Mean).unwrap();
            assert_eq!(bits(&one), bits(&two));
            assert_eq!(feedback.residuals(), resumed.residuals());
        }
    });
}

#[derive(Clone, Copy)]
enum Way {
    Plain,
    Feedback(Codec),
    /// The residuals are thrown away after every step.
    Forgetful(Codec),
}

const FEATURES: usize = 40;
const SAMPLES: usize = 60;

type Sample = ([f32; FEATURES], f32);

/// What rank `rank` of `world` learns from: data of its own kind. What the ranks ask of the weights differs in sign and
/// size, and only the mean of their gradients is right.
fn samples(rank: usize, world: usize) -> Vec<Sample> {
    let mut dice = Dice::of(rank + 10);
    let truth = dice.normals(FEATURES);
    (0..SAMPLES)
        .map(|_| {
            let mut row = [0.0; FEATURES];
            for (index, value) in row.iter_mut().enumerate() {
                *value = dice.normal() * if index % world == rank { 2.0 } else { 0.3 };
            }
            (row, if margin(&row, &truth) + dice.normal() > 0.0 { 1.0 } else { 0.0 })
        })
        .collect()
}

fn margin(row: &[f32], weights: &[f32]) -> f32 {
    row.iter().zip(weights).map(|(x, w)| x * w).sum()
}

fn gradient(samples: &[Sample], weights: &[f32]) -> Vec<f32> {
    let mut gradient = vec![0.0; FEATURES];
    for (row, label) in samples {
        let error = 1.0 / (1.0 + (-margin(row, weights)).exp()) - label;
        gradient.iter_mut().zip(row).for_each(|(g, x)| *g += error * x / SAMPLES as f32);
    }
    gradient
}

fn plain_mean(group: &dyn Communicator, values: &mut [f32]) {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let work = group.start_all_reduce(group::buffer(bytes, DType::F32), ReduceOp::Mean).unwrap();
    let bytes = group::bytes(work.wait().unwrap());
    values.iter_mut().zip(bytes.as_chunks().0).for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
}

/// Logistic regression by gradient descent. Gives the loss over all data.
fn train(world: usize, way: Way) -> f64 {
    let weights = ranks(Transport::Local, world, |group| {
        let samples = samples(group.rank(), world);
        let mut weights = vec![0.0; FEATURES];
        let mut state = match way {
            Way::Feedback(codec) | Way::Forgetful(codec) => Some(ErrorFeedback::new(FEATURES, codec)),
            Way::Plain => None,
        };
        for _ in 0..400 {
            let mut gradient = gradient(&samples, &weights);
            match &mut state {
                Some(state) => state.all_reduce(&*group, &mut gradient, ReduceOp::Mean).unwrap(),
                None => plain_mean(&*group, &mut gradient),
            }
            if let Way::Forgetful(codec) = way {
                state = Some(ErrorFeedback::new(FEATURES, codec));
            }
            weights.iter_mut().zip(&gradient).for_each(|(w, g)| *w -= 0.1 * g);
        }
        weights
    });
    assert!(weights.iter().all(|other| bits(other) == bits(&weights[0])));
    let all = (0..world).flat_map(|rank| samples(rank, world));
    let losses = all.map(|(row, label)| {
        let margin = f64::from(margin(&row, &weights[0]));
        (1.0 + (-margin).exp()).ln() + (1.0 - f64::from(label)) * margin
    });
    losses.sum::<f64>() / (world * SAMPLES) as f64
}

#[test]
fn training_comes_as_far_as_without_compression_and_not_without_feedback() {
    for world in [2, 4] {
        let plain = train(world, Way::Plain);
        let [eight, one] = CODECS.map(|codec| train(world, Way::Feedback(codec)));
        let forgetful = train(world, Way::Forgetful(Codec::OneBit));
        println!("{world} ranks: plain {plain:.5}, 8 bits {eight:.5}, 1 bit {one:.5}, no feedback {forgetful:.5}");
        assert!(eight <= plain * 1.01, "{eight} {plain}");
        assert!(one <= plain * 1.05, "{one} {plain}");
        assert!(forgetful >= plain * 1.2, "{forgetful} {plain}");
    }
}
