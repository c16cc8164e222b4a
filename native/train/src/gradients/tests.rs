//! Gradients between ranks that are threads: when buckets start, and what they sum to.
//!
//! How far backward is, is told by the parameters it has reached: all layers here cost the same, so that is also a part of
//! its time, and unlike time it does not depend on who else uses the machine.

use super::*;
use crate::sync::tests::ranks;
use kindling_program::Program;
use tch::{Device, Kind};

const LAYERS: usize = 20;

/// Twenty layers of 16 KB and a bias each.
fn deep() -> ParameterStore {
    let dense = r#"{"type":"dense","units":64}"#;
    let layers = format!(r#"{{"inputShape":[64],"seed":1,"layers":[{}]}}"#, [dense; LAYERS].join(","));
    ParameterStore::new(&Program::read(layers.into_bytes()).unwrap(), tch::Device::Cpu, false).unwrap()
}

/// A loss whose gradients are `factors`, one per position.
fn loss(parameters: &ParameterStore, factors: &[Tensor]) -> Tensor {
    let terms = parameters.leaves().into_iter().zip(factors).map(|(leaf, factor)| (leaf * factor).sum(Kind::Float));
    terms.reduce(|sum, term| sum + term).unwrap()
}

/// A loss that goes through the layers one after another, as a net's does.
fn chain(parameters: &ParameterStore) -> Tensor {
    let leaves = parameters.leaves();
    let input = Tensor::ones([4, 64], (Kind::Float, Device::Cpu));
    leaves.chunks(2).fold(input, |x, layer| x.linear(layer[0], Some(layer[1])).tanh()).sum(Kind::Float)
}

fn flat(parameters: &ParameterStore) -> Vec<f32> {
    Vec::try_from(parameters.flats[0].grads.as_ref().unwrap()).unwrap()
}

fn random(parameters: &ParameterStore, seed: i64, whole: bool) -> Vec<Tensor> {
    let mut generator = crate::order::mix(seed.cast_unsigned());
    let mut draw = || {
        generator = crate::order::mix(generator);
        (generator >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let places = &parameters.places;
    let values = |place: &Tensor| (0..place.numel()).map(|_| draw()).collect::<Vec<f32>>();
    let tensors: Vec<Vec<f32>> = places.iter().map(values).collect();
    let shape = |(values, place): (&Vec<f32>, &Tensor)| {
        let tensor = Tensor::from_slice(values).view_as(place);
        if whole { (tensor * 1000.0).round() } else { tensor }
    };
    tensors.iter().zip(places).map(shape).collect()
}

#[test]
fn the_first_bucket_of_a_deep_net_starts_before_half_of_backward() {
    let first = |overlap: bool| {
        ranks(2, |_, mut sync| {
            let parameters = deep();
            let mut gradients = Gradients::new(&parameters, 64 << 10).unwrap();
            gradients.begin().unwrap();
            gradients.finish(Some(&chain(&parameters)), &sync, overlap).unwrap();
            let (first, reached) = {
                let progress = gradients.progress.lock();
                (progress.reached_at_first.unwrap(), progress.reached)
            };
            assert_eq!(reached, 2 * LAYERS);
            gradients.receive(&mut sync).unwrap();
            assert_eq!(overlap, sync.overlapped() > std::time::Duration::ZERO);
            first as f64 / reached as f64
        })
    };
    for part in first(true) {
        assert!(part < 0.5, "the first bucket started when {part} of the gradients were there");
    }
    // What the test would find if buckets waited for the end.
    assert_eq!(first(false), [1.0, 1.0]);
}

/// Sums of whole numbers are exact in any order, so they show that each element is summed once over all ranks, whatever
/// the buckets. Where numbers round, two ranks still give the same bits, as addition commutes; with more, a ring sums each
/// part of a buffer in an order of its own, and where parts begin depends on the buffer's length. That rounding, at most
/// one unit in the last place of the sum of magnitudes per addition, is all that buckets change.
#[test]
fn buckets_sum_to_what_one_reduction_of_everything_sums_to() {
    for world in 1..=4 {
        let sums = |bytes: u64, whole: bool| {
            ranks(world, |rank, mut sync| {
                let parameters = deep();
                let mut gradients = Gradients::new(&parameters, bytes).unwrap();
                gradients.begin().unwrap();
                let factors = random(&parameters, rank as i64, whole);
                gradients.finish(Some(&loss(&parameters, &factors)), &sync, true).unwrap();
                gradients.receive(&mut sync).unwrap();
                flat(&parameters)
            })
        };
        for whole in [true, false] {
            let everything = sums(u64::MAX, whole);
            for bytes in [1, 40 << 10] {
                let buckets = sums(bytes, whole);
                assert!(buckets.iter().all(|rank| *rank == buckets[0]), "ranks differ");
                if whole || world <= 2 {
                    assert!(buckets == everything, "world {world}, buckets of {bytes}, whole {whole}");
                }
                let most = world as f32 * (world as f32 * 0.5) * f32::EPSILON;
                assert!(buckets[0].iter().zip(&everything[0]).all(|(a, b)| whole || (a - b).abs() <= most));
            }
        }
    }
}

#[test]
fn what_backward_does_not_reach_is_zero_and_so_is_a_rank_without_rows() {
    let found = ranks(3, |rank, mut sync| {
        let parameters = deep();
        let mut gradients = Gradients::new(&parameters, 32 << 10).unwrap();
        // What an earlier step left behind must not be sent.
        gradients.begin().unwrap();
        gradients.accumulate(&loss(&parameters, &random(&parameters, 7, false))).unwrap();
        gradients.begin().unwrap();
        // Rank 0 reaches all but the first two layers, rank 1 the first position only, rank 2 has no rows.
        let ones: Vec<Tensor> = parameters.places.iter().map(Tensor::ones_like).collect();
        let part = match rank {
            0 => {
                let leaves = parameters.leaves();
                let terms = leaves.iter().zip(&ones).skip(4).map(|(leaf, one)| (*leaf * one).sum(Kind::Float));
                terms.reduce(|sum, term| sum + term)
            }
            1 => Some(parameters.leaves()[0].sum(Kind::Float)),
            _ => None,
        };
        gradients.add_figures(rank as f64, 1.0);
        gradients.finish(part.as_ref(), &sync, true).unwrap();
        let tail = gradients.receive(&mut sync).unwrap();
        let sums: Vec<f64> = parameters.places.iter().map(|place| place.mean(Kind::Double).double_value(&[])).collect();
        (tail.used, sums, tail.loss, tail.correct)
    });
    for (used, means, loss, correct) in found {
        let expected: Vec<bool> = (0..2 * LAYERS).map(|position| position == 0 || position >= 4).collect();
        assert_eq!(used, expected);
        assert_eq!(means, expected.iter().map(|&used| f64::from(u8::from(used))).collect::<Vec<_>>());
        assert_eq!((loss, correct), (3.0, 3.0));
    }
}

#[test]
fn micro_batches_add_up_and_only_the_last_one_sends() {
    let found = ranks(2, |rank, mut sync| {
        let parameters = deep();
        let mut gradients = Gradients::new(&parameters, 32 << 10).unwrap();
        let factors = |micro: usize| random(&parameters, (10 * rank + micro) as i64, true);
        let expected: Vec<Tensor> =
            (0..3).map(factors).reduce(|sum, more| sum.into_iter().zip(more).map(|(a, b)| a + b).collect()).unwrap();
        gradients.begin().unwrap();
        gradients.accumulate(&loss(&parameters, &factors(0))).unwrap();
        gradients.accumulate(&loss(&parameters, &factors(1))).unwrap();
        assert_eq!(gradients.progress.lock().started, 0);
        gradients.finish(Some(&loss(&parameters, &factors(2))), &sync, true).unwrap();
        assert!(gradients.progress.lock().started > 1);
        gradients.receive(&mut sync).unwrap();
        let both: Vec<Vec<f32>> =
            parameters.places.iter().map(|place| Vec::try_from(place.reshape([-1])).unwrap()).collect();
        let own: Vec<Vec<f32>> = expected.iter().map(|sum| Vec::try_from(sum.reshape([-1])).unwrap()).collect();
        (both, own)
    });
    let sum: Vec<Vec<f32>> = (0..2 * LAYERS)
        .map(|position| found[0].1[position].iter().zip(&found[1].1[position]).map(|(a, b)| a + b).collect())
        .collect();
    assert!(found.iter().all(|(both, _)| *both == sum));
}

#[test]
fn a_gradient_that_comes_again_is_refused_before_it_is_written() {
    let parameters = deep();
    let mut gradients = Gradients::new(&parameters, u64::MAX).unwrap();
    gradients.begin().unwrap();
    gradients.finish(Some(&loss(&parameters, &random(&parameters, 1, true))), &Sync::alone(), true).unwrap();
    let before = flat(&parameters);
    let error = gradients.accumulate(&loss(&parameters, &random(&parameters, 2, true))).unwrap_err().to_string();
    assert!(error.contains("came twice"), "{error}");
    assert_eq!(flat(&parameters), before);
}

#[test]
fn no_step_begins_while_gradients_are_with_the_communicator() {
    ranks(2, |_, sync| {
        let parameters = deep();
        let mut gradients = Gradients::new(&parameters, u64::MAX).unwrap();
        gradients.begin().unwrap();
        gradients.finish(None, &sync, true).unwrap();
        let error = gradients.begin().err().unwrap().to_string();
        assert!(error.contains("the step before"), "{error}");
    });
}

/// What a rank alone does without a copy, and a rank among others with one, comes to the same bits: with every optimizer,
/// micro-batches that add up, bounds, and a parameter that backward does not reach.
#[test]
fn large_gradients_that_are_adopted_step_as_those_that_are_copied() {
    // Weights of 64 KiB and one of less.
    let dense = r#"{"type":"dense","units":128}"#;
    let layers = format!(r#"{{"inputShape":[128],"seed":1,"layers":[{dense},{dense},{{"type":"dense","units":3}}]}}"#);
    let program = || Program::read(layers.clone().into_bytes()).unwrap();
    for config in crate::optimizer::every_config() {
        let config: crate::optimizer::OptimizerConfig = serde_json::from_value(config).unwrap();
        let trained = |alone: bool| {
            let parameters = ParameterStore::new(&program(), Device::Cpu, alone).unwrap();
            assert_eq!(parameters.adopted().filter(|&adopted| adopted).count(), if alone { 2 } else { 0 });
            let groups = crate::optimizer::Groups::assign(&mut program(), &[], &config).unwrap();
            let mut optimizer = crate::optimizer::Optimizer::new(&config, groups, &parameters).unwrap();
            let mut gradients = Gradients::new(&parameters, 64 << 10).unwrap();
            let clip = crate::clip::Clip::new(Some(0.5), Some(0.01)).unwrap();
            let mut sync = Sync::alone();
            for step in 0..4 {
                gradients.begin().unwrap();
                assert!(!alone || parameters.gradients().count() == 1, "gradients of the last step are kept");
                let leaf = |name: &str| {
                    let index = program().parameters.iter().position(|parameter| parameter.name == name).unwrap();
                    parameters.views[index].shallow_clone()
                };
                let loss = |rows: i64| {
                    let x = Tensor::ones([rows, 128], (Kind::Float, Device::Cpu)) * 0.1;
                    // In the second step nothing goes through the second layer.
                    // In the third one, autograd gives both large weights the same memory for their gradients.
                    if step == 2 {
                        let view = |name: &str| leaf(name).view([1, 128, 128]);
                        let joined = (view("0.weight") + view("1.weight")).squeeze_dim(0);
                        let hidden = x.linear(&joined, Some(leaf("0.bias") + leaf("1.bias"))).tanh();
                        return hidden.linear(&leaf("2.weight"), Some(leaf("2.bias"))).square().sum(Kind::Float);
                    }
                    let hidden = x.linear(&leaf("0.weight"), Some(leaf("0.bias"))).tanh();
                    let hidden =
                        if step == 1 { hidden } else { hidden.linear(&leaf("1.weight"), Some(leaf("1.bias"))) };
                    hidden.linear(&leaf("2.weight"), Some(leaf("2.bias"))).square().sum(Kind::Float)
                };
                gradients.accumulate(&loss(2)).unwrap();
                gradients.finish(Some(&loss(3)), &sync, true).unwrap();
                let tail = gradients.receive(&mut sync).unwrap();
                assert_eq!(tail.used.iter().filter(|&&used| used).count(), if step == 1 { 4 } else { 6 });
                clip.apply(&parameters).unwrap();
                optimizer.step(&parameters, &tail.used, |rate| rate).unwrap();
            }
            let values = parameters.views.iter().map(|view| Vec::try_from(view.detach().reshape([-1])).unwrap());
            values.collect::<Vec<Vec<f32>>>()
        };
        assert!(trained(true) == trained(false), "{config:?}");
    }
}

#[test]
fn a_rank_laid_out_to_train_alone_sends_nothing() {
    let layers = r#"{"inputShape":[128],"seed":1,"layers":[{"type":"dense","units":128}]}"#;
    let errors = ranks(2, move |_, sync| {
        let program = Program::read(layers.as_bytes().to_vec()).unwrap();
        let parameters = ParameterStore::new(&program, Device::Cpu, true).unwrap();
        let mut gradients = Gradients::new(&parameters, 64 << 10).unwrap();
        gradients.begin().unwrap();
        gradients.finish(None, &sync, true).unwrap_err().to_string()
    });
    assert!(errors.iter().all(|error| error.contains("alone")), "{errors:?}");
}
