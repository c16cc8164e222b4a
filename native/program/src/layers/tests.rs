//! What the layers become, what they refuse, and the first weights they start from.

use crate::error::Error;
use crate::ir::{Arg, DType, Dim, Program, Source};

fn read(shape: &str, layers: &str) -> Result<Program, Error> {
    Program::read(format!(r#"{{"inputShape": {shape}, "layers": [{layers}]}}"#).into_bytes())
}

/// The operators of a program.
fn ops(program: &Program) -> Vec<&str> {
    program.nodes.iter().map(|node| node.aten().unwrap()).collect()
}

/// The shape of one row of the output.
fn row(program: &Program) -> Vec<i64> {
    let shape = &program.meta(program.outputs[0]).unwrap().shape;
    assert_eq!(shape[0], Dim::Symbolic { name: "batch".into() });
    shape[1..].iter().map(|dim| dim.as_static().unwrap()).collect()
}

fn floats(program: &Program, name: &str) -> Vec<f32> {
    let tensors = program.parameters.iter().map(|parameter| (&parameter.name, &parameter.tensor));
    let (_, tensor) = tensors.into_iter().find(|(found, _)| *found == name).unwrap();
    let bytes = tensor.contiguous_bytes().unwrap();
    bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap())).collect()
}

#[test]
fn every_operator_of_a_layer_is_on_the_list_of_allowed_ones() {
    let layers = r#"{"type": "conv2d", "filters": 4, "kernelSize": [3, 2], "strides": 2, "padding": "same"},
        {"type": "batchNorm"}, {"type": "relu"}, {"type": "gelu"}, {"type": "tanh"}, {"type": "sigmoid"},
        {"type": "softmax"}, {"type": "flatten"}, {"type": "layerNorm"}, {"type": "dropout", "rate": 0.5},
        {"type": "reshape", "targetShape": [2, -1]}, {"type": "dense", "units": 3}"#;
    let program = read("[3, 5, 8]", layers).unwrap();
    for op in ops(&program) {
        assert!(crate::is_allowed(op), "{op}");
    }
    assert_eq!(program.source, Source::Layers);
    assert_eq!(row(&program), [2, 3]);
}

#[test]
fn a_dense_net_has_sequential_s_names_and_keras_shapes() {
    let program =
        read("[64]", r#"{"type": "dense", "units": 32}, {"type": "relu"}, {"type": "dense", "units": 10}"#).unwrap();
    let parameters: Vec<_> =
        program.parameters.iter().map(|parameter| (parameter.name.as_str(), parameter.tensor.sizes.clone())).collect();
    assert_eq!(
        parameters,
        [("0.weight", vec![32, 64]), ("0.bias", vec![32]), ("2.weight", vec![10, 32]), ("2.bias", vec![10])]
    );
    assert_eq!(ops(&program), ["aten::linear", "aten::relu", "aten::linear"]);
    assert_eq!(program.inputs[0].dtype, DType::Float32);
}

#[test]
fn a_dense_layer_without_bias_has_one_parameter() {
    let program = read("[2]", r#"{"type": "dense", "units": 3, "useBias": false}"#).unwrap();
    assert_eq!(program.parameters.len(), 1);
    assert_eq!(program.nodes[0].arg("bias"), Some(&Arg::None));
}

#[test]
fn convolutions_have_the_sizes_keras_gives_them() {
    for (settings, expected) in [
        (r#""kernelSize": 3"#, [4, 7, 4]),
        (r#""kernelSize": [2, 5], "strides": [2, 1]"#, [4, 4, 2]),
        (r#""kernelSize": 3, "padding": "same""#, [4, 9, 6]),
        (r#""kernelSize": [3, 2], "strides": 2, "padding": "same""#, [4, 5, 3]),
        (r#""kernelSize": 1, "strides": 4, "padding": "same""#, [4, 3, 2]),
        (r#""kernelSize": 20, "padding": "same""#, [4, 9, 6]),
    ] {
        let program = read("[1, 9, 6]", &format!(r#"{{"type": "conv2d", "filters": 4, {settings}}}"#)).unwrap();
        assert_eq!(row(&program), expected, "{settings}");
    }
}

#[test]
fn padding_that_differs_at_the_end_becomes_a_node_of_its_own() {
    let conv = |kernel| {
        let layer = format!(r#"{{"type": "conv2d", "filters": 1, "kernelSize": {kernel}, "padding": "same"}}"#);
        read("[1, 4, 4]", &layer).unwrap()
    };
    let even = conv(3);
    assert_eq!(ops(&even), ["aten::conv2d"]);
    assert_eq!(even.nodes[0].arg("padding"), Some(&Arg::Ints(vec![1, 1])));
    let uneven = conv(2);
    assert_eq!(ops(&uneven), ["aten::constant_pad_nd", "aten::conv2d"]);
    assert_eq!(uneven.nodes[0].arg("pad"), Some(&Arg::Ints(vec![0, 1, 0, 1])));
}

#[test]
fn batch_norm_keeps_statistics_and_translates_keras_momentum() {
    let program = read("[3, 4, 4]", r#"{"type": "batchNorm", "momentum": 0.75}"#).unwrap();
    let buffers: Vec<_> = program.buffers.iter().map(|buffer| (buffer.name.as_str(), buffer.tensor.dtype)).collect();
    assert_eq!(
        buffers,
        [
            ("0.running_mean", DType::Float32),
            ("0.running_var", DType::Float32),
            ("0.num_batches_tracked", DType::Int64)
        ]
    );
    assert_eq!(ops(&program), ["aten::add_", "aten::batch_norm"]);
    assert_eq!(program.nodes[1].arg("momentum"), Some(&Arg::Float(0.25)));
    assert_eq!(program.nodes[1].arg("eps"), Some(&Arg::Float(1e-3)));
    assert_eq!(floats(&program, "0.weight"), [1.0; 3]);
}

#[test]
fn an_embedding_takes_integers_and_adds_a_dimension() {
    let program =
        read("[5]", r#"{"type": "embedding", "inputDim": 100, "outputDim": 8}, {"type": "flatten"}"#).unwrap();
    assert_eq!(program.inputs[0].dtype, DType::Int64);
    assert_eq!(row(&program), [40]);
    let weight = floats(&program, "0.weight");
    assert!(weight.iter().all(|value| value.abs() <= 0.05) && weight.iter().any(|value| value.abs() > 0.04));
    let error = read("[5]", r#"{"type": "relu"}, {"type": "embedding", "inputDim": 9, "outputDim": 8}"#).unwrap_err();
    assert!(matches!(&error, Error::Layer { index: 1, layer: "embedding", .. }), "{error}");
}

#[test]
fn softmax_runs_over_channels_of_images_and_over_the_last_dimension_otherwise() {
    for (shape, dim) in [("[2, 3, 4]", 1), ("[6]", -1), ("[2, 3]", -1)] {
        let program = read(shape, r#"{"type": "softmax"}"#).unwrap();
        assert_eq!(program.nodes[0].arg("dim"), Some(&Arg::Int(dim)), "{shape}");
    }
}

#[test]
fn first_weights_are_these_numbers_on_every_machine() {
    let layers = r#"{"inputShape": [3], "seed": 7, "layers": [{"type": "dense", "units": 2}]}"#;
    let program = Program::read(layers.as_bytes().to_vec()).unwrap();
    let weight = floats(&program, "0.weight");
    // Frozen: a model's first weights must not change between releases. Within ±sqrt(6 / 5).
    assert_eq!(weight, GOLDEN);
    assert_eq!(floats(&program, "0.bias"), [0.0; 2]);
    let other = layers.replace("\"seed\": 7", "\"seed\": -8");
    assert_ne!(floats(&Program::read(other.into_bytes()).unwrap(), "0.weight"), weight);
}

const GOLDEN: [f32; 6] = [-0.75405955, -0.63735986, 0.7113205, -0.06675828, 0.41742837, 0.51895094];

#[test]
fn a_layer_s_weights_do_not_depend_on_the_layers_around_it() {
    let alone = read("[4]", r#"{"type": "dense", "units": 4}"#).unwrap();
    let followed = read("[4]", r#"{"type": "dense", "units": 4}, {"type": "dense", "units": 9}"#).unwrap();
    assert_eq!(floats(&alone, "0.weight"), floats(&followed, "0.weight"));
}

#[test]
fn a_layer_that_does_not_fit_names_its_place_type_and_shape() {
    for (shape, layers, expected) in [
        (
            "[4]",
            r#"{"type": "relu"}, {"type": "conv2d", "filters": 1, "kernelSize": 3}"#,
            "layer 1 (conv2d) cannot be built on rows of shape [4]",
        ),
        ("[1, 2, 2]", r#"{"type": "conv2d", "filters": 1, "kernelSize": 3}"#, "larger than the image"),
        ("[6]", r#"{"type": "reshape", "targetShape": [4, -1]}"#, "targetShape [4, -1] does not hold the 6 elements"),
        ("[6]", r#"{"type": "reshape", "targetShape": [-1, -1]}"#, "targetShape"),
        ("[6]", r#"{"type": "reshape", "targetShape": [-2, -3]}"#, "targetShape"),
        ("[6]", r#"{"type": "reshape", "targetShape": [0]}"#, "targetShape"),
        ("[6]", r#"{"type": "dense", "units": 0}"#, "units is 0"),
        ("[6]", r#"{"type": "dropout", "rate": 1.0}"#, "rate is 1"),
        ("[6]", r#"{"type": "dropout", "rate": -0.1}"#, "rate is -0.1"),
        ("[6]", r#"{"type": "batchNorm", "momentum": 1.5}"#, "momentum is 1.5"),
        ("[6]", r#"{"type": "layerNorm", "epsilon": 0}"#, "epsilon is 0"),
        ("[]", r#"{"type": "dense", "units": 3}"#, "at least one dimension"),
        ("[1, 4, 4]", r#"{"type": "conv2d", "filters": 1, "kernelSize": [3, 0]}"#, "kernelSize is 0"),
        ("[1, 4, 4]", r#"{"type": "conv2d", "filters": 1, "kernelSize": 3, "strides": -1}"#, "strides is -1"),
        (
            "[1, 4, 4]",
            r#"{"type": "conv2d", "filters": 1, "kernelSize": 9223372036854775807, "padding": "same"}"#,
            "kernel",
        ),
    ] {
        let error = read(shape, layers).unwrap_err();
        assert!(matches!(&error, Error::Layer { .. }), "{layers}: {error:?}");
        assert!(error.to_string().contains(expected), "{layers}: {error}");
    }
}

#[test]
fn unknown_types_keys_and_values_are_refused_and_name_the_layer() {
    for (layer, expected) in [
        (r#"{"type": "lstm"}"#, "unknown variant `lstm`"),
        (r#"{"type": "relu", "alpha": 1}"#, "unknown field `alpha`"),
        (r#"{"type": "dense", "units": 3, "use_bias": true}"#, "unknown field `use_bias`"),
        (r#"{"type": "dense"}"#, "missing field `units`"),
        (r#"{"type": "dense", "units": 3.5}"#, "invalid type"),
        (r#"{"type": "dense", "units": 3, "activation": "selu"}"#, "unknown variant `selu`"),
        (r#"{"type": "conv2d", "filters": 1, "kernelSize": [1, 2, 3]}"#, "an integer or a list of two"),
        (r#"{"type": "conv2d", "filters": 1, "kernelSize": "3"}"#, "an integer or a list of two"),
        (r#"{"units": 3}"#, "missing field `type`"),
    ] {
        let error = read("[4]", &format!(r#"{{"type": "tanh"}}, {layer}"#)).unwrap_err();
        assert!(matches!(&error, Error::LayerJson { index: 1, .. }), "{layer}: {error:?}");
        assert!(error.to_string().contains(expected), "{layer}: {error}");
    }
}

#[test]
fn lists_that_are_no_models_are_refused() {
    let parse = |json: &str| Program::read(json.as_bytes().to_vec()).unwrap_err();
    assert!(matches!(parse("{"), Error::LayerList { .. }));
    assert!(matches!(parse(r#"{"layers": []}"#), Error::LayerList { .. }));
    assert!(matches!(parse(r#"{"layers": [], "inputShape": [4], "sed": 1}"#), Error::LayerList { .. }));
    assert!(matches!(parse(r#"{"layers": [], "inputShape": [4]}"#), Error::NoLayers));
    for shape in ["[0]", "[-1]", "[4294967296, 4294967296]"] {
        assert!(matches!(read(shape, r#"{"type": "relu"}"#).unwrap_err(), Error::InputShape { .. }), "{shape}");
    }
}

#[test]
fn weights_too_large_for_any_memory_are_an_error() {
    let error = read("[4]", r#"{"type": "dense", "units": 4611686018427387904}"#).unwrap_err();
    assert!(matches!(&error, Error::Memory { name, .. } if name == "0.weight"), "{error:?}");
}
