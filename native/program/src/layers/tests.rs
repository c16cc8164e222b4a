//! What the layers become, what they refuse, and the first weights they start from.

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::error::Error;
use crate::ir::{Arg, DType, Dim, Program, Source};
use crate::pt2::{Mode, write_pt2};

fn read(shape: &str, layers: &str) -> Result<Program, Error> {
    Program::read(format!(r#"{{"inputShape": {shape}, "layers": [{layers}]}}"#).into_bytes())
}

/// The operators of a program.
pub(super) fn ops(program: &Program) -> Vec<&str> {
    program.nodes.iter().map(|node| node.aten().unwrap()).collect()
}

/// The shape of one row of the output.
pub(super) fn row(program: &Program) -> Vec<i64> {
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
fn a_list_of_many_layers_becomes_one_program() {
    let layers = r#"{"type": "conv2d", "filters": 4, "kernelSize": [3, 2], "strides": 2, "padding": "same"},
        {"type": "batchNorm"}, {"type": "relu"}, {"type": "gelu"}, {"type": "tanh"}, {"type": "sigmoid"},
        {"type": "softmax"}, {"type": "flatten"}, {"type": "layerNorm"}, {"type": "dropout", "rate": 0.5},
        {"type": "reshape", "targetShape": [2, -1]}, {"type": "dense", "units": 3}"#;
    let program = read("[5, 8, 3]", layers).unwrap();
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
        (r#""kernelSize": 3"#, [7, 4, 4]),
        (r#""kernelSize": [2, 5], "strides": [2, 1]"#, [4, 2, 4]),
        (r#""kernelSize": 3, "padding": "same""#, [9, 6, 4]),
        (r#""kernelSize": [3, 2], "strides": 2, "padding": "same""#, [5, 3, 4]),
        (r#""kernelSize": 1, "strides": 4, "padding": "same""#, [3, 2, 4]),
        (r#""kernelSize": 20, "padding": "same""#, [9, 6, 4]),
        (r#""kernelSize": 3, "dilationRate": [2, 1]"#, [5, 4, 4]),
    ] {
        let program = read("[9, 6, 1]", &format!(r#"{{"type": "conv2d", "filters": 4, {settings}}}"#)).unwrap();
        assert_eq!(row(&program), expected, "{settings}");
    }
}

#[test]
fn padding_that_differs_at_the_end_becomes_a_node_of_its_own() {
    let conv = |kernel| {
        let layer = format!(
            r#"{{"type": "conv2d", "filters": 1, "kernelSize": {kernel}, "padding": "same",
            "dataFormat": "channels_first"}}"#
        );
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
    let program = read("[3, 4, 4]", r#"{"type": "batchNorm", "axis": 1, "momentum": 0.75}"#).unwrap();
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
    assert!(matches!(&error, Error::Layer { layer, .. } if layer == "1 (embedding)"), "{error}");
}

#[test]
fn softmax_runs_over_the_last_axis_or_the_one_that_is_named() {
    for (layer, dim) in [
        (r#"{"type": "softmax"}"#, 3),
        (r#"{"type": "softmax", "axis": 1}"#, 1),
        (r#"{"type": "activation", "activation": "softmax"}"#, -1),
    ] {
        let program = read("[2, 3, 4]", layer).unwrap();
        assert_eq!(program.nodes[0].arg("dim"), Some(&Arg::Int(dim)), "{layer}");
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
            "layer 1 (conv2d) cannot be built on rows of shape [4]: a row must be (height, width, channels)",
        ),
        (
            "[1, 8, 8]",
            r#"{"type": "conv2d", "filters": 1, "kernelSize": 3}"#,
            "the kernel [3, 3] is larger than the [1, 8] it moves over (shapes are channels last here)",
        ),
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
        ("[4, 4, 1]", r#"{"type": "conv2d", "filters": 1, "kernelSize": [3, 0]}"#, "kernelSize is 0"),
        ("[4, 4, 1]", r#"{"type": "conv2d", "filters": 1, "kernelSize": 3, "strides": -1}"#, "strides is -1"),
        (
            "[4, 4, 1]",
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
        (r#"{"type": "lstmm"}"#, "layer 1 (lstmm) of the layer list is not valid: there is no layer type \"lstmm\""),
        (r#"{"type": "relu", "alpha": 1}"#, "it has no setting alpha: it takes maxValue, negativeSlope, threshold"),
        (r#"{"type": "sigmoid", "alpha": 1}"#, "it has no setting alpha: it takes none"),
        (r#"{"type": "dense", "units": 3, "use_bias": true}"#, "no setting use_bias: did you mean useBias?"),
        (r#"{"type": "dense"}"#, "missing field `units`"),
        (r#"{"type": "dense", "units": 3.5}"#, "invalid type"),
        (r#"{"type": "dense", "units": 3, "activation": "sulu"}"#, "unknown variant `sulu`"),
        (r#"{"type": "dense", "units": 3, "name": "a.b"}"#, "its name must be a text without . and /"),
        (r#"{"type": "dense", "units": 3, "trainable": 1}"#, "trainable must be true or false"),
        (r#"{"type": "dense", "units": 3, "inputs": ["a"]}"#, "inputs are for a graph"),
        (r#"{"type": "conv2d", "filters": 1, "kernelSize": "3"}"#, "an integer or a list of them"),
        (r#"{"type": "lstm", "units": 3, "activation": "relu"}"#, "activation cannot be changed"),
        (
            r#"{"type": "zeroPadding2d", "padding": [1, 2, 3]}"#,
            "padding is [1,2,3], it must be an integer from 0, 2 of",
        ),
        (r#"{"type": "gru", "units": 3, "resetAfter": false}"#, "resetAfter is false"),
        (r#"{"type": "bidirectional", "layer": {"type": "dense", "units": 3}}"#, "layer must be a recurrent layer"),
        (r#"{"type": "bidirectional", "layer": {"type": "lstm"}}"#, "its layer (lstm): missing field `units`"),
        (r#"{"units": 3}"#, "it has no \"type\""),
        ("3", "it is not an object"),
    ] {
        let error = read("[4]", &format!(r#"{{"type": "tanh"}}, {layer}"#)).unwrap_err();
        assert!(matches!(&error, Error::LayerJson { layer, .. } if layer.starts_with('1')), "{layer}: {error:?}");
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

/// One list per family, with the shape of a row that goes in and the one that comes out.
const FAMILIES: &[(&str, &str, &[i64])] = &[
    ("[7, 3]", r#"{"type": "conv1d", "filters": 4, "kernelSize": 3, "padding": "causal", "dilationRate": 2}"#, &[7, 4]),
    ("[5, 6, 7, 2]", r#"{"type": "conv3d", "filters": 4, "kernelSize": 3, "groups": 2}"#, &[3, 4, 5, 4]),
    ("[6, 6, 3]", r#"{"type": "depthwiseConv2d", "kernelSize": 3, "depthMultiplier": 2}"#, &[4, 4, 6]),
    ("[6, 3]", r#"{"type": "separableConv1d", "filters": 5, "kernelSize": 3, "strides": 2}"#, &[2, 5]),
    (
        "[3, 3, 2]",
        r#"{"type": "conv2dTranspose", "filters": 4, "kernelSize": 3, "strides": 2, "padding": "same"}"#,
        &[6, 6, 4],
    ),
    ("[3, 2]", r#"{"type": "conv1dTranspose", "filters": 4, "kernelSize": 2, "strides": 3}"#, &[9, 4]),
    ("[9, 8, 3]", r#"{"type": "maxPooling2d"}"#, &[4, 4, 3]),
    ("[9, 3]", r#"{"type": "averagePooling1d", "poolSize": 3, "strides": 2, "padding": "same"}"#, &[5, 3]),
    ("[4, 4, 4, 3]", r#"{"type": "globalAveragePooling3d", "keepdims": true}"#, &[1, 1, 1, 3]),
    ("[3, 4, 4]", r#"{"type": "globalMaxPooling2d", "dataFormat": "channels_first"}"#, &[3]),
    ("[4, 6]", r#"{"type": "groupNorm", "groups": 3}"#, &[4, 6]),
    ("[4, 6]", r#"{"type": "layerNorm", "axis": [1, 2], "center": false}, {"type": "rmsNorm"}"#, &[4, 6]),
    ("[5, 3]", r#"{"type": "lstm", "units": 4}"#, &[4]),
    ("[5, 3]", r#"{"type": "gru", "units": 4, "returnSequences": true, "dropout": 0.2}"#, &[5, 4]),
    ("[5, 3]", r#"{"type": "simpleRnn", "units": 4, "useBias": false, "activation": "relu"}"#, &[4]),
    ("[5, 3]", r#"{"type": "bidirectional", "layer": {"type": "lstm", "units": 4, "returnSequences": true}}"#, &[5, 8]),
    ("[5, 3]", r#"{"type": "bidirectional", "layer": {"type": "gru", "units": 4}, "mergeMode": "ave"}"#, &[4]),
    ("[5, 6]", r#"{"type": "multiHeadAttention", "numHeads": 2, "keyDim": 4, "valueDim": 3, "dropout": 0.1}"#, &[5, 6]),
    ("[5, 6]", r#"{"type": "transformerBlock", "numHeads": 2, "intermediateDim": 8, "dropout": 0.1}"#, &[5, 6]),
    ("[2, 3, 4]", r#"{"type": "permute", "dims": [3, 1, 2]}"#, &[4, 2, 3]),
    ("[3]", r#"{"type": "repeatVector", "n": 4}"#, &[4, 3]),
    ("[4, 5, 2]", r#"{"type": "zeroPadding2d", "padding": [[1, 2], [0, 3]]}"#, &[7, 8, 2]),
    ("[4, 2]", r#"{"type": "zeroPadding1d", "padding": [1, 2]}"#, &[7, 2]),
    ("[4, 5, 2]", r#"{"type": "cropping2d", "cropping": 1}"#, &[2, 3, 2]),
    ("[4, 5, 2]", r#"{"type": "upSampling2d", "size": [2, 3], "interpolation": "bilinear"}"#, &[8, 15, 2]),
    ("[4, 5, 2]", r#"{"type": "spatialDropout2d", "rate": 0.3}, {"type": "prelu", "sharedAxes": [1, 2]}"#, &[4, 5, 2]),
    ("[4]", r#"{"type": "relu", "maxValue": 6, "negativeSlope": 0.1, "threshold": 0.5}, {"type": "elu"}"#, &[4]),
    ("[4]", r#"{"type": "leakyRelu"}, {"type": "gelu", "approximate": true}, {"type": "rescaling", "scale": 2}"#, &[4]),
    ("[4]", r#"{"type": "alphaDropout", "rate": 0.1}, {"type": "identity"}, {"type": "BatchNormalization"}"#, &[4]),
];

#[test]
fn every_layer_gives_the_shape_that_keras_says_and_runs_allowed_operators_only() {
    for (shape, layers, expected) in FAMILIES {
        let program = read(shape, layers).unwrap_or_else(|error| panic!("{layers}: {error}"));
        assert_eq!(&row(&program), expected, "{layers}");
        for op in ops(&program) {
            assert!(crate::is_allowed(op), "{layers}: {op}");
        }
        let mut names: Vec<&str> = program.values.iter().map(|value| value.name.as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{layers}: two values of one name");
    }
}

#[test]
fn every_layer_is_written_as_an_archive_of_the_same_program() {
    for (shape, layers, _) in FAMILIES {
        let json = format!(r#"{{"inputShape": {shape}, "layers": [{layers}]}}"#).into_bytes();
        let program = Program::read(json.clone()).unwrap();
        let parameters = program.parameters.iter().map(|one| (&one.name, &one.tensor));
        let state = parameters.chain(program.buffers.iter().map(|one| (&one.name, &one.tensor)));
        let views: Vec<(&String, TensorView<'_>)> = state
            .map(|(name, tensor)| {
                let sizes = tensor.sizes.iter().map(|&size| size as usize).collect();
                let dtype = if tensor.dtype == DType::Int64 { Dtype::I64 } else { Dtype::F32 };
                (name, TensorView::new(dtype, sizes, tensor.contiguous_bytes().unwrap()).unwrap())
            })
            .collect();
        let weights = safetensors::serialize(views, None).unwrap();
        for mode in [Mode::Training, Mode::Evaluation] {
            let mut archive = Vec::new();
            write_pt2(json.clone(), &weights, mode, &mut archive).unwrap_or_else(|error| panic!("{layers}: {error}"));
            let again = Program::read(archive).unwrap_or_else(|error| panic!("{layers}: {error}"));
            let expected = if mode == Mode::Training { program.clone() } else { program.evaluation() };
            assert_eq!(ops(&again), ops(&expected), "{layers}");
            assert_eq!(row_of(&again), row_of(&expected), "{layers}");
        }
    }
}

/// The shape of a row of the output, whatever the batch is called.
fn row_of(program: &Program) -> Vec<Option<i64>> {
    program.describe().outputs[0].shape.clone()
}

#[test]
fn every_activation_has_an_allowed_operator() {
    for name in [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "swish",
        "hard_silu",
        "hard_swish",
        "mish",
        "softplus",
        "softsign",
        "tanh",
        "hard_tanh",
        "tanh_shrink",
        "soft_shrink",
        "hard_shrink",
        "sigmoid",
        "hard_sigmoid",
        "log_sigmoid",
        "softmax",
        "log_softmax",
        "exponential",
    ] {
        let program = read("[4]", &format!(r#"{{"type": "activation", "activation": "{name}"}}"#)).unwrap();
        assert!(!program.nodes.is_empty(), "{name}");
        assert!(ops(&program).into_iter().all(crate::is_allowed), "{name}");
    }
    assert!(read("[4]", r#"{"type": "activation", "activation": "linear"}"#).unwrap().nodes.is_empty());
}

#[test]
fn channels_last_is_the_default_and_one_setting_changes_it_for_all() {
    let layers = r#""layers": [{"type": "conv2d", "filters": 5, "kernelSize": 3}, {"type": "maxPooling2d"}, {"type": "flatten"}]"#;
    let last = Program::read(format!(r#"{{"inputShape": [8, 8, 2], {layers}}}"#).into_bytes()).unwrap();
    let first = format!(r#"{{"inputShape": [2, 8, 8], "dataFormat": "channels_first", {layers}}}"#);
    let first = Program::read(first.into_bytes()).unwrap();
    assert_eq!((row(&last), row(&first)), (vec![45], vec![45]));
    // ATen's weight is the same in both.
    assert_eq!(last.parameters[0].tensor.sizes, [5, 2, 3, 3]);
    assert_eq!(first.parameters[0].tensor.sizes, [5, 2, 3, 3]);
    // What is flattened has its channels last in both, as in Keras.
    let permutes = |program: &Program| ops(program).iter().filter(|op| **op == "aten::permute").count();
    assert_eq!((permutes(&last), permutes(&first)), (4, 1));
}

#[test]
fn a_frozen_layer_is_not_trained_and_a_frozen_batch_norm_uses_its_statistics() {
    let layers = r#"{"type": "dense", "units": 2, "trainable": false}, {"type": "batchNorm", "trainable": false},
        {"type": "dense", "units": 2}"#;
    let program = read("[4]", layers).unwrap();
    let trained: Vec<bool> = program.parameters.iter().map(|parameter| parameter.requires_grad).collect();
    assert_eq!(trained, [false, false, false, false, true, true]);
    assert_eq!(ops(&program), ["aten::linear", "aten::batch_norm", "aten::linear"]);
    assert_eq!(program.nodes[1].arg("training"), Some(&Arg::Bool(false)));
}

#[test]
fn an_lstm_forgets_nothing_at_first_and_has_one_bias_to_train() {
    let program = read("[5, 3]", r#"{"type": "lstm", "units": 2}"#).unwrap();
    let names: Vec<&str> = program.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    assert_eq!(names, ["0.weight_ih", "0.weight_hh", "0.bias_ih"]);
    assert_eq!(floats(&program, "0.bias_ih"), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(program.constants.len(), 1);
    let gru = read("[5, 3]", r#"{"type": "gru", "units": 2}"#).unwrap();
    assert_eq!(gru.parameters.len(), 4);
}

#[test]
fn both_ways_of_a_bidirectional_layer_have_names_that_a_module_can_have() {
    let program = read("[5, 3]", r#"{"type": "bidirectional", "layer": {"type": "simpleRnn", "units": 2}}"#).unwrap();
    let names: Vec<&str> = program.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    // Not "forward": a torch.nn.Module has that already.
    let prefixes = ["0.forward_layer", "0.backward_layer"];
    let expected = prefixes.map(|way| ["weight_ih", "weight_hh", "bias_ih"].map(|name| format!("{way}.{name}")));
    assert_eq!(names, expected.as_flattened());
}

#[test]
fn a_named_layer_of_a_sequence_names_its_weights() {
    let program =
        read("[4]", r#"{"type": "dense", "units": 2, "name": "head"}, {"type": "dense", "units": 2}"#).unwrap();
    let names: Vec<&str> = program.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    assert_eq!(names, ["head.weight", "head.bias", "1.weight", "1.bias"]);
    let error = read("[4]", r#"{"type": "relu", "name": "1"}, {"type": "dense", "units": 2}"#).unwrap_err();
    assert!(error.to_string().contains("layer 0 is called 1 too"), "{error}");
}

#[test]
fn ids_reach_an_embedding_through_layers_that_only_move_them() {
    let program = read(
        "[6]",
        r#"{"type": "reshape", "targetShape": [2, 3]}, {"type": "embedding", "inputDim": 9, "outputDim": 4}"#,
    )
    .unwrap();
    assert_eq!(program.inputs[0].dtype, DType::Int64);
    assert_eq!(row(&program), [2, 3, 4]);
    assert_eq!(program.meta(program.nodes[1].outputs[0].values()[0]).unwrap().dtype, DType::Int64);
}

#[test]
fn settings_that_cannot_be_are_named_with_what_can() {
    for (shape, layers, expected) in [
        (
            "[4, 4, 3]",
            r#"{"type": "conv2d", "filters": 4, "kernelSize": 3, "groups": 2}"#,
            "the channels are 3, which 2 groups",
        ),
        ("[4, 4, 3]", r#"{"type": "conv2d", "filters": 4, "kernelSize": [3]}"#, "an integer or a list of 2"),
        (
            "[4, 4, 3]",
            r#"{"type": "conv2d", "filters": 4, "kernelSize": 3, "padding": "causal"}"#,
            "only a convolution over one",
        ),
        (
            "[9, 9, 3]",
            r#"{"type": "conv2d", "filters": 4, "kernelSize": 3, "strides": 2, "dilationRate": 2}"#,
            "strides and dilationRate are both above 1",
        ),
        ("[4, 4]", r#"{"type": "layerNorm", "axis": 1}"#, "a row's last axis or last axes"),
        ("[4, 4]", r#"{"type": "batchNorm", "axis": 0}"#, "axis is 0, which is the batch"),
        ("[4, 4]", r#"{"type": "batchNorm", "axis": 3}"#, "axis is 3, and a row has the axes 1 to 2"),
        ("[4, 6]", r#"{"type": "groupNorm"}"#, "the channels are 6, which 32 groups cannot share"),
        ("[4]", r#"{"type": "lstm", "units": 3}"#, "a row must be (steps, features)"),
        ("[4, 4]", r#"{"type": "lstm", "units": 9223372036854775807}"#, "units is too large"),
        (
            "[4, 6]",
            r#"{"type": "transformerBlock", "numHeads": 4, "intermediateDim": 8}"#,
            "which 4 heads cannot share",
        ),
        ("[4, 6]", r#"{"type": "permute", "dims": [1, 1]}"#, "dims is [1, 1]"),
        ("[4, 6]", r#"{"type": "permute", "dims": [-9223372036854775808, 1]}"#, "dims is [-92"),
        ("[4, 6]", r#"{"type": "repeatVector", "n": 2}"#, "a row must be one vector"),
        ("[4, 6]", r#"{"type": "cropping1d", "cropping": 2}"#, "nothing is left of the 4"),
        ("[4, 4, 6]", r#"{"type": "upSampling2d", "size": 9223372036854775807}"#, "size is too large"),
        ("[4, 6]", r#"{"type": "maxPooling1d", "poolSize": 5}"#, "the window [5] is larger than the [4]"),
        ("[4, 6]", r#"{"type": "relu", "maxValue": -1}"#, "maxValue is -1"),
        (
            "[4, 6]",
            r#"{"type": "dense", "units": 3, "biasInitializer": "orthogonal"}"#,
            "orthogonal is for weights of two",
        ),
    ] {
        let error = read(shape, layers).unwrap_err();
        assert!(matches!(&error, Error::Layer { .. }), "{layers}: {error:?}");
        assert!(error.to_string().contains(expected), "{layers}: {error}");
    }
}
