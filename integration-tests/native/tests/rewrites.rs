//! Rewrites of a program change how a step is computed and not what comes of it.
//!
//! Checkpointed segments give the same bits. Synchronised batch norms give what one process gives, up to the order of sums
//! (1e-5 of a value in float32, 1e-10 in float64, absolute below 1).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: clippy only spares #[test] functions"
)]

use std::path::PathBuf;
use std::slice;
use std::sync::Arc;

use kindling_integration_tests::read_program;
use kindling_program::{Checkpointing, DType, Program};
use kindling_shards::{ColumnData, ShardSpec, ShardStore, Split};
use kindling_train::{Replica, Session, TrainingConfig};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

fn golden(name: &str) -> Program {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden");
    read_program(&folder.join(format!("{name}.pt2"))).unwrap()
}

fn training(extra: &[(&str, Value)]) -> Value {
    let mut config = json!({
        "loss": {"name": "crossEntropy"}, "optimizer": {"name": "sgd", "learningRate": 0.1, "weightDecay": 0.01,
        "momentum": 0.9}, "batchSize": 8, "maxEpochs": 2, "seed": 5, "shuffle": true, "progressIntervalMs": 1_000_000,
        "recordRows": true
    });
    for (name, value) in extra {
        config[name] = value.clone();
    }
    config
}

fn numbers(sizes: &[i64], shift: f64) -> Tensor {
    let count: i64 = sizes.iter().product();
    ((Tensor::arange(count, (Kind::Float, tch::Device::Cpu)) + shift) * 0.7).sin().reshape(sizes)
}

/// What comes of four steps: losses, weights and buffers, and the state of the random numbers, all as bits.
fn trained(program: &Program, checkpointing: &Value) -> (Vec<u64>, Vec<u8>, Vec<u8>) {
    trained_in("fp32", program, checkpointing)
}

fn trained_in(precision: &str, program: &Program, checkpointing: &Value) -> (Vec<u64>, Vec<u8>, Vec<u8>) {
    tch::set_num_threads(1);
    let config = training(&[("activationCheckpointing", checkpointing.clone()), ("precision", json!(precision))]);
    let config: TrainingConfig = serde_json::from_value(config).unwrap();
    let mut replica = Replica::new(program.clone(), None, &config, 0).unwrap();
    let step = |step: u32| {
        let inputs = program.inputs.iter().map(|input| {
            let sizes: Vec<i64> =
                std::iter::once(8).chain(input.shape.iter().skip(1).map(|dim| dim.as_static().unwrap())).collect();
            let values = numbers(&sizes, f64::from(step));
            match input.dtype {
                DType::Int64 => (values.abs() * 9.0).to_kind(Kind::Int64),
                DType::Float64 => values.to_kind(Kind::Double),
                _ => values,
            }
        });
        let labels = (0..8).map(|row| (row + i64::from(step)) % 3).collect::<Vec<_>>();
        replica.train(inputs.collect(), Tensor::from_slice(&labels)).unwrap().to_bits()
    };
    let losses = (0..4).map(step).collect();
    (losses, replica.weights().unwrap(), replica.random_state().unwrap())
}

fn deep() -> Program {
    let layer = r#"{"type":"dense","units":16,"activation":"relu"},{"type":"batchNorm"},{"type":"dropout","rate":0.3}"#;
    let layers = [layer; 6].join(",");
    let text = format!(r#"{{"inputShape":[8],"seed":1,"layers":[{layers},{{"type":"dense","units":3}}]}}"#);
    Program::read(text.into_bytes()).unwrap()
}

fn segments(program: &Program, checkpointing: &Value) -> usize {
    let choice: Checkpointing = serde_json::from_value(checkpointing.clone()).unwrap();
    program.checkpointed(&choice).unwrap().1.count
}

#[test]
fn checkpointed_segments_change_no_bit_of_losses_weights_buffers_and_random_numbers() {
    let some = |choices: &[Value]| choices.to_vec();
    let cases = [
        (deep(), some(&[json!("auto"), json!(2), json!(5), json!(11), json!(["1*", "4"])])),
        (
            golden("segments_f32"),
            some(&[json!("auto"), json!(2), json!(6), json!(["blocks.*"]), json!(["blocks.1", "blocks.2.norm"])]),
        ),
        (golden("convtransformer_f32"), some(&[json!("auto"), json!(3)])),
        (golden("lstm_f32"), some(&[json!(2)])),
        (golden("tied_f32"), some(&[json!(2), json!(3)])),
    ];
    for (program, choices) in cases {
        let plain = trained(&program, &json!("none"));
        for choice in choices {
            let count = segments(&program, &choice);
            assert!(count > 0, "{choice} chooses no segment");
            let (losses, weights, random) = trained(&program, &choice);
            assert_eq!(losses, plain.0, "losses with {choice}, {count} segments");
            assert!(weights == plain.1, "weights or buffers differ with {choice}, {count} segments");
            assert!(random == plain.2, "random numbers differ with {choice}, {count} segments");
        }
    }
}

#[test]
fn segments_run_again_under_the_autocast_they_ran_under() {
    for precision in ["bf16", "fp16"] {
        let cases = [
            (deep(), json!("auto")),
            (golden("segments_f32"), json!(["blocks.*"])),
            (golden("convtransformer_f32"), json!(3)),
        ];
        for (program, choice) in cases {
            let plain = trained_in(precision, &program, &json!("none"));
            assert!(plain != trained(&program, &json!("none")), "{precision} computes something else");
            assert!(trained_in(precision, &program, &choice) == plain, "{precision} with {choice}");
        }
    }
}

#[test]
fn a_segment_that_begins_within_or_just_behind_an_autocast_region_changes_no_bit() {
    let program = golden("autocast_f32");
    for precision in ["fp32", "bf16", "fp16"] {
        let plain = trained_in(precision, &program, &json!("none"));
        for start in 0..program.nodes.len() - 1 {
            let mut cut = program.clone();
            for node in &mut cut.nodes[start..] {
                node.scope.segment = Some(1);
            }
            assert_eq!(segments(&cut, &json!("none")), 1);
            assert!(trained_in(precision, &cut, &json!("none")) == plain, "{precision}, from node {start}");
        }
    }
}

#[test]
fn checkpointed_regions_of_an_archive_are_segments_and_change_no_bit() {
    let program = golden("checkpoints_f32");
    assert_eq!(segments(&program, &json!("none")), 2);
    let mut plain = program.clone();
    for node in &mut plain.nodes {
        node.scope.segment = None;
    }
    assert_eq!(segments(&plain, &json!("none")), 0);
    assert!(trained(&program, &json!("none")) == trained(&plain, &json!("none")));
    // Through sessions too, and with other segments in their place.
    let own = fit("checkpoints_f32", 24, 2, 8, &[SYNC]).unwrap();
    let other = fit("checkpoints_f32", 24, 2, 8, &[SYNC, ("activationCheckpointing", json!(3))]).unwrap();
    assert!(own.iter().zip(&other).all(|(own, other)| difference(own, other) == 0.0));
}

#[test]
fn parts_of_a_batch_give_the_step_of_the_whole() {
    tch::set_num_threads(1);
    let program = golden("regression_f64");
    let train = |parts: u64, weights: Option<&Tensor>| {
        let extra = [("accumulationSteps", json!(parts)), ("loss", json!({"name": "mse"}))];
        let config: TrainingConfig = serde_json::from_value(training(&extra)).unwrap();
        let mut replica = Replica::new(program.clone(), None, &config, 0).unwrap();
        let step = |step: u32| {
            let inputs = vec![numbers(&[10, 8], f64::from(step)).to_kind(Kind::Double)];
            let labels = numbers(&[10, 2], 0.3 + f64::from(step)).to_kind(Kind::Double);
            replica.train_weighted(inputs, labels, weights).unwrap()
        };
        let losses = (0..20).map(step).collect();
        Ended { losses, weights: values(&replica.weights().unwrap()) }
    };
    let uneven = numbers(&[10], 0.1).abs();
    for weights in [None, Some(&uneven)] {
        let whole = train(1, weights);
        // 7 parts of 10 rows are of one row and of two; 16 are ten of one.
        for parts in [2, 3, 7, 16] {
            let worst = difference(&whole, &train(parts, weights));
            assert!(worst <= 1e-12, "{parts} parts, weighted {}: {worst:e}", weights.is_some());
        }
    }
}

#[test]
fn buffers_count_a_step_once_although_their_segment_runs_twice() {
    let (_, weights, _) = trained(&golden("segments_f32"), &json!(["blocks.*"]));
    let file = SafeTensors::deserialize(&weights).unwrap();
    let count = |name: &str| i64::from_le_bytes(file.tensor(name).unwrap().data().try_into().unwrap());
    assert_eq!(count("blocks.1.norm.num_batches_tracked"), 4);
    assert_eq!(count("blocks.2.norm.num_batches_tracked"), 8, "two blocks of the model are this one");
}

#[test]
fn ranks_of_one_process_run_their_segments_again_without_disturbing_each_other() {
    // In lower precision too, with weights that are used twice: they are cast for every use, whatever the others do.
    for (precision, program) in [("fp32", deep()), ("bf16", golden("segments_f32")), ("fp16", golden("segments_f32"))] {
        let alone = trained_in(precision, &program, &json!("none"));
        std::thread::scope(|scope| {
            let auto = || trained_in(precision, &program, &json!("auto"));
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(auto)).collect();
            assert!(threads.into_iter().all(|thread| thread.join().unwrap() == alone), "{precision}");
        });
    }
}

/// What a rank ends with.
struct Ended {
    losses: Vec<f64>,
    weights: Vec<(String, Vec<f64>)>,
}

/// Fits with all ranks as threads.
fn fit(
    case: &str,
    rows: usize,
    world: usize,
    batch: u64,
    extra: &[(&str, Value)],
) -> kindling_train::Result<Vec<Ended>> {
    let double = case.ends_with("f64");
    let store = ShardStore::new();
    let spec: ShardSpec = serde_json::from_value(json!({
        "run": "test", "partition": 0, "attempt": 0, "liveRuns": [],
        "columns": [{"name": "x", "role": "input", "dtype": if double { "float64" } else { "float32" }, "width": 8},
                    {"name": "y", "role": "label", "dtype": "int64", "width": 1}]
    }))
    .unwrap();
    let key = store.open(spec).unwrap();
    let x = Vec::<f64>::try_from(numbers(&[rows as i64 * 8], 0.0).to_kind(Kind::Double)).unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "the same numbers in float32")]
    let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let labels: Vec<i64> = (0..rows as i64).map(|row| row % 3).collect();
    let features = if double { ColumnData::Float64(&x) } else { ColumnData::Float32(&single) };
    store.write_rows(key, Split::Train, &[features, ColumnData::Int64(&labels)]).unwrap();
    let report = store.close(key).unwrap();
    let gentle = json!({"name": "sgd", "learningRate": 0.05, "weightDecay": 0.01, "momentum": 0.0});
    let mut training = training(&[&[("optimizer", gentle)], extra].concat());
    training["batchSize"] = json!(batch);
    let open = |rank: usize| {
        let config = json!({
            "run": report.process, "attempt": 0, "rank": rank, "world": world, "secret": "0a".repeat(32),
            "host": "127.0.0.1", "threads": 1, "device": "cpu", "rendezvousTimeoutMs": 10_000,
            "collectiveTimeoutMs": 10_000, "heartbeatMs": 5000, "stallWarningMs": 60_000, "encrypted": false,
            "shards": [{"partition": report.partition, "process": report.process, "key": report.key,
                        "rows": report.rows, "validationRows": report.validation_rows}],
            "training": training
        });
        Session::open(serde_json::from_value(config).unwrap(), golden(case), None, Arc::clone(&store)).map(Arc::new)
    };
    let sessions = (0..world).map(open).collect::<Result<Vec<_>, _>>()?;
    let roster: Vec<_> = sessions.iter().map(|session| session.endpoint().unwrap()).collect();
    let ranks: Vec<_> = sessions
        .into_iter()
        .map(|session| {
            let roster = roster.clone();
            std::thread::spawn(move || {
                session.connect(&roster)?;
                let report = session.fit(&mut |_| Ok(()))?;
                Ok(Ended { losses: report.losses.unwrap(), weights: values(&session.weights()?) })
            })
        })
        .collect();
    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
}

/// Weights and buffers by name.
fn values(weights: &[u8]) -> Vec<(String, Vec<f64>)> {
    let file = SafeTensors::deserialize(weights).unwrap();
    let numbers = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
        let kind = match view.dtype() {
            safetensors::Dtype::F64 => Kind::Double,
            safetensors::Dtype::I64 => Kind::Int64,
            _ => Kind::Float,
        };
        let tensor = Tensor::from_data_size(view.data(), &[view.shape().iter().product::<usize>() as i64], kind);
        (name.to_owned(), Vec::try_from(tensor.to_kind(Kind::Double)).unwrap())
    };
    let mut values: Vec<(String, Vec<f64>)> = file.iter().map(numbers).collect();
    values.sort_by(|one, other| one.0.cmp(&other.0));
    values
}

/// The largest difference of losses, parameters and buffers, relative above 1.
fn difference(one: &Ended, other: &Ended) -> f64 {
    assert_eq!(one.losses.len(), other.losses.len());
    let losses = one.losses.iter().zip(&other.losses);
    let values = one.weights.iter().zip(&other.weights).flat_map(|(one, other)| {
        assert_eq!((&one.0, one.1.len()), (&other.0, other.1.len()));
        one.1.iter().zip(&other.1)
    });
    losses.chain(values).map(|(one, other)| (one - other).abs() / one.abs().max(1.0)).fold(0.0, f64::max)
}

const SYNC: (&str, Value) = ("syncBatchNorm", Value::Bool(true));

#[test]
fn synchronised_batch_norms_train_as_one_process_whatever_the_shares() {
    for (case, tolerance) in [("norms_f32", 1e-5), ("norms_f64", 1e-10)] {
        // Shares of 2, 2 and 1 rows, then of 1, 1 and none; and one rank without rows in every step.
        for (rows, batch) in [(22, 5), (20, 2)] {
            let oracle = fit(case, rows, 1, batch, &[]).unwrap().remove(0);
            for world in [1, 2, 3] {
                let ranks = fit(case, rows, world, batch, &[SYNC]).unwrap();
                for (rank, ended) in ranks.iter().enumerate() {
                    let worst = difference(&oracle, ended);
                    assert!(worst <= tolerance, "{case}, batch {batch}, rank {rank} of {world}: {worst:e}");
                }
            }
        }
    }
}

/// Few rows make the variance small and the net steep: with lr 0.1 and momentum 0.9 float32 differs by 5e-5. That is
/// rounding, grown some hundred times on its way, and no error of the synchronisation: counted in units of what the type
/// rounds to, float64 differs as much (230, against 370 to 500), where an error would stay as it is. And the float32 runs,
/// one process or several, are as far from the float64 one.
#[test]
fn what_a_steep_run_differs_by_is_rounding_in_float32_as_in_float64() {
    let steep = json!({"name": "sgd", "learningRate": 0.1, "weightDecay": 0.01, "momentum": 0.9});
    let run = |case: &str, world: usize, extra: &[(&str, Value)]| {
        fit(case, 22, world, 5, &[&[("optimizer", steep.clone())], extra].concat()).unwrap().remove(0)
    };
    let (single, double) = (run("norms_f32", 1, &[]), run("norms_f64", 1, &[]));
    let shared = run("norms_f32", 3, &[SYNC]);
    let in_single = difference(&single, &shared) / f64::from(f32::EPSILON);
    let in_double = difference(&double, &run("norms_f64", 3, &[SYNC])) / f64::EPSILON;
    let (alone, together) = (difference(&double, &single), difference(&double, &shared));
    println!("roundings: {in_single:.0} in float32, {in_double:.0} in float64; from float64: {alone:e}, {together:e}");
    // Which way values round is chance: a factor of 8 allows for other processors.
    assert!(in_single < 8.0 * in_double, "{in_single:.0} roundings of float32, {in_double:.0} of float64");
    assert!(together < 8.0 * alone, "{together:e} from float64, one process {alone:e}");
}

#[test]
fn synchronised_batch_norms_see_the_same_part_of_the_batch_on_all_ranks() {
    // Batches of 8 rows and of 4, in 2 parts and 3; ranks have unequal shares of a part, or none.
    for (rows, batch, parts) in [(28, 8, 2), (26, 9, 3), (20, 4, 2)] {
        let parts = ("accumulationSteps", json!(parts));
        let oracle = fit("norms_f64", rows, 1, batch, slice::from_ref(&parts)).unwrap().remove(0);
        let whole = fit("norms_f64", rows, 1, batch, &[]).unwrap().remove(0);
        assert!(difference(&oracle, &whole) > 1e-3, "statistics are of each part");
        for world in [2, 3, 5] {
            for (rank, ended) in
                fit("norms_f64", rows, world, batch, &[SYNC, parts.clone()]).unwrap().iter().enumerate()
            {
                let worst = difference(&oracle, ended);
                assert!(worst <= 1e-10, "{rows} rows, batch {batch}, rank {rank} of {world}: {worst:e}");
            }
        }
    }
    let error = fit("norms_f64", 28, 2, 8, &[SYNC, ("accumulationSteps", json!(5))]).err().unwrap().to_string();
    assert!(error.contains("gradientAccumulationSteps") && error.contains("single row"), "{error}");
}

#[test]
fn synchronised_batch_norms_under_autocast_train_as_one_process_does() {
    for precision in ["bf16", "fp16"] {
        let precision = ("precision", json!(precision));
        let oracle = fit("norms_f32", 24, 1, 12, slice::from_ref(&precision)).unwrap().remove(0);
        let shared = fit("norms_f32", 24, 3, 12, &[SYNC, precision.clone()]).unwrap();
        let own = fit("norms_f32", 24, 3, 12, slice::from_ref(&precision)).unwrap();
        let (shared, own) = (difference(&oracle, &shared[1]), difference(&oracle, &own[1]));
        println!("{precision:?}: synchronised {shared:e}, not {own:e}");
        assert!(shared < 1e-3 && own > 1e-2, "{precision:?}: synchronised {shared:e}, not {own:e}");
        let checkpointed = ("activationCheckpointing", json!(["rows", "positions", "plain"]));
        let again = fit("norms_f32", 24, 3, 12, &[SYNC, precision.clone(), checkpointed]).unwrap();
        let plain = fit("norms_f32", 24, 3, 12, &[SYNC, precision]).unwrap();
        assert_eq!(difference(&plain[0], &again[0]), 0.0);
    }
}

#[test]
fn without_synchronisation_the_ranks_statistics_are_their_own() {
    let oracle = fit("norms_f64", 24, 1, 12, &[]).unwrap().remove(0);
    let ranks = fit("norms_f64", 24, 2, 12, &[]).unwrap();
    assert!(difference(&oracle, &ranks[0]) > 1e-3);
    let ranks = fit("norms_f64", 24, 2, 12, &[SYNC]).unwrap();
    assert!(difference(&oracle, &ranks[0]) < 1e-10);
}

#[test]
fn synchronised_batch_norms_can_be_computed_again_without_asking_the_ranks_again() {
    let oracle = fit("norms_f64", 22, 1, 5, &[]).unwrap().remove(0);
    let patterns = ("activationCheckpointing", json!(["rows", "positions", "plain"]));
    for ended in fit("norms_f64", 22, 3, 5, &[SYNC, patterns]).unwrap() {
        assert!(difference(&oracle, &ended) < 1e-10);
    }
}

#[test]
fn a_batch_of_one_row_is_refused_with_synchronisation_and_a_share_of_one_row_is_not() {
    let error = fit("norms_f32", 21, 2, 5, &[SYNC]).err().unwrap().to_string();
    assert!(error.contains("single row") && error.contains("syncBatchNorm"), "{error}");
    // Two rows for two ranks in the last batch.
    fit("norms_f32", 22, 2, 5, &[SYNC]).unwrap();
}

#[test]
fn modules_that_do_not_exist_are_refused_by_name() {
    let config = training(&[("activationCheckpointing", json!(["encoder.*"]))]);
    let config: TrainingConfig = serde_json::from_value(config).unwrap();
    let error = Replica::new(golden("segments_f32"), None, &config, 0).err().unwrap().to_string();
    assert!(error.contains("encoder.*") && error.contains("blocks.0"), "{error}");
    // The golden programs of other tests were exported without the modules of their nodes.
    let error = Replica::new(golden("mlp_f32"), None, &config, 0).err().unwrap().to_string();
    assert!(error.contains("nn_module_stack"), "{error}");
}
