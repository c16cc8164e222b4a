//! What holds for every family; values are compared with PyTorch's in `integration-tests`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test file: clippy only spares #[test] functions")]

use super::*;
use kindling_program::Program;

pub(super) const EVERY: [&str; 15] = [
    r#"{"name":"sgd","learningRate":0.1,"weightDecay":0.1}"#,
    r#"{"name":"sgd","learningRate":0.1,"weightDecay":0.1,"momentum":0.9}"#,
    r#"{"name":"sgd","learningRate":0.1,"momentum":0.9,"dampening":0.5}"#,
    r#"{"name":"sgd","learningRate":0.1,"momentum":0.9,"nesterov":true}"#,
    r#"{"name":"adam","learningRate":0.1,"weightDecay":0.1,"epsilon":0}"#,
    r#"{"name":"adam","learningRate":0.1,"weightDecay":0.1,"amsgrad":true}"#,
    r#"{"name":"adamw","learningRate":0.1}"#,
    r#"{"name":"adagrad","learningRate":0.1,"learningRateDecay":0.1,"initialAccumulator":0.1}"#,
    r#"{"name":"adagrad","learningRate":0.1,"epsilon":0}"#,
    r#"{"name":"rmsprop","learningRate":0.1,"weightDecay":0.1}"#,
    r#"{"name":"rmsprop","learningRate":0.1,"momentum":0.9,"centered":true}"#,
    r#"{"name":"lamb","learningRate":0.1}"#,
    r#"{"name":"lars","learningRate":0.1,"weightDecay":0.1}"#,
    r#"{"name":"lion","learningRate":0.1,"weightDecay":0.1}"#,
    r#"{"name":"adafactor","learningRate":0.1,"weightDecay":0.1}"#,
];

fn program() -> Program {
    // Three parameters: 0.weight (2x3), 0.bias (2), 1.weight (2x2) and no bias.
    let layers = r#"{"inputShape":[3],"seed":1,"layers":[{"type":"dense","units":2},{"type":"dense","units":2,"useBias":false}]}"#;
    Program::read(layers.as_bytes().to_vec()).unwrap()
}

pub(super) fn store() -> ParameterStore {
    ParameterStore::new(&program(), tch::Device::Cpu, false).unwrap()
}

fn optimizer(store: &ParameterStore, config: &str, groups: &str) -> Optimizer {
    let config: OptimizerConfig = serde_json::from_str(config).unwrap();
    let groups: Vec<GroupConfig> = serde_json::from_str(groups).unwrap();
    let groups = Groups::assign(&mut program(), &groups, &config).unwrap();
    Optimizer::new(&config, groups, store).unwrap()
}

fn values(store: &ParameterStore, parameter: usize) -> Vec<f32> {
    Vec::try_from(store.views[parameter].detach().reshape([-1])).unwrap()
}

fn fill_grads(store: &ParameterStore, value: f64) {
    for place in &store.places {
        let _ = place.shallow_clone().fill_(value);
    }
}

#[test]
fn a_parameter_without_gradient_is_left_alone_and_takes_no_step() {
    for config in EVERY {
        let store = store();
        let mut optimizer = optimizer(&store, config, "[]");
        fill_grads(&store, 0.5);
        let before: Vec<Vec<f32>> = (0..3).map(|parameter| values(&store, parameter)).collect();
        optimizer.step(&store, &[true, false, true], |rate| rate).unwrap();
        assert_ne!(values(&store, 0), before[0], "{config}");
        assert_eq!(values(&store, 1), before[1], "{config}");
        assert_ne!(values(&store, 2), before[2], "{config}");
        assert_eq!(optimizer.steps(&store), [(0, 1), (1, 0), (2, 1)]);
        // The late one takes its first step as one that has never waited.
        optimizer.step(&store, &[true; 3], |rate| rate).unwrap();
        let late = values(&store, 1);
        let store = self::store();
        let mut optimizer = self::optimizer(&store, config, "[]");
        fill_grads(&store, 0.5);
        optimizer.step(&store, &[true; 3], |rate| rate).unwrap();
        assert_eq!(values(&store, 1), late, "{config}");
    }
}

#[test]
fn padding_stays_zero_and_everything_stays_a_number() {
    for config in EVERY {
        let store = store();
        let mut optimizer = optimizer(&store, config, "[]");
        for _ in 0..3 {
            fill_grads(&store, 1.0);
            optimizer.step(&store, &[true; 3], |rate| rate).unwrap();
        }
        let flat = Vec::<f32>::try_from(&store.flats[0].values).unwrap();
        assert!(flat.iter().all(|value| value.is_finite()), "{config}: {flat:?}");
        let mut padding = flat[6..16].iter().chain(&flat[18..32]).chain(&flat[36..48]);
        assert!(padding.all(|&value| value == 0.0), "{config}: {flat:?}");
    }
}

#[test]
fn groups_step_with_a_rate_and_a_decay_of_their_own() {
    for config in EVERY {
        let store = store();
        let before = (values(&store, 0), values(&store, 1));
        let groups = r#"[{"pattern":"*.bias","learningRate":0},{"pattern":"1.*","weightDecay":0}]"#;
        let mut optimizer = optimizer(&store, config, groups);
        fill_grads(&store, 0.5);
        optimizer.step(&store, &[true; 3], |rate| 2.0 * rate).unwrap();
        assert_ne!(values(&store, 0), before.0, "{config}");
        assert_eq!(values(&store, 1), before.1, "{config}");
        // The same as an optimizer of that rate and without decay.
        let plain = self::store();
        let mut value: serde_json::Value = serde_json::from_str(config).unwrap();
        value["weightDecay"] = 0.into();
        value["learningRate"] = 0.2.into();
        let mut optimizer = self::optimizer(&plain, &value.to_string(), "[]");
        fill_grads(&plain, 0.5);
        optimizer.step(&plain, &[true; 3], |rate| rate).unwrap();
        assert_eq!(values(&store, 2), values(&plain, 2), "{config}");
    }
}

#[test]
fn the_state_is_readable_in_the_shape_of_its_parameter() {
    let store = store();
    let mut optimizer = optimizer(&store, EVERY[6], "[]");
    fill_grads(&store, 2.0);
    optimizer.step(&store, &[true; 3], |rate| rate).unwrap();
    let state = optimizer.state(&store).unwrap();
    let names: Vec<(usize, &str, Vec<i64>)> =
        state.iter().map(|state| (state.parameter, state.slot, state.tensor.size())).collect();
    assert_eq!(names[..2], [(0, "exp_avg", vec![2, 3]), (0, "exp_avg_sq", vec![2, 3])]);
    assert_eq!(names.len(), 6);
    assert!((state[0].tensor.double_value(&[1, 2]) - 0.2).abs() < 1e-6);
    let optimizer = self::optimizer(&store, EVERY[14], "[]");
    let state = optimizer.state(&store).unwrap();
    let names: Vec<(usize, &str, Vec<i64>)> =
        state.iter().map(|state| (state.parameter, state.slot, state.tensor.size())).collect();
    assert_eq!(names[..3], [(0, "row_var", vec![2, 1]), (0, "col_var", vec![1, 3]), (1, "variance", vec![2])]);
}
