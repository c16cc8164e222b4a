//! Archives that were read, given other weights, and written again. That `torch.export.load` takes them is tested from
//! Python.

use std::collections::BTreeMap;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::super::archive::Archive;
use super::{Parts, assert_error, meta, named, node, payload, rows, tensor};
use crate::error::Error;
use crate::ir::{Arg, Bytes, Program, Target};
use crate::pt2::{Mode, write_pt2};

/// A safetensors file of float tensors: name, sizes, and the first of values that count up.
fn weights(tensors: &[(&str, &[usize], f32)]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, sizes, first)| {
            (0..sizes.iter().product::<usize>()).flat_map(|n| (first + n as f32).to_le_bytes()).collect()
        })
        .collect();
    let views: BTreeMap<&str, TensorView<'_>> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, sizes, _), bytes)| (*name, TensorView::new(Dtype::F32, sizes.to_vec(), bytes).unwrap()))
        .collect();
    safetensors::serialize(views, None).unwrap()
}

fn linear() -> Vec<u8> {
    weights(&[("weight", &[3, 2], 10.0), ("bias", &[3], 50.0)])
}

fn written(model: Vec<u8>, weights: &[u8], mode: Mode) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    write_pt2(model, weights, mode, &mut out).map(|()| out)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

fn entry(archive: &[u8], path: &str) -> Vec<u8> {
    Archive::open(Bytes::new(archive.to_vec())).unwrap().read(path).unwrap().to_vec()
}

#[test]
fn the_trained_values_stand_where_the_first_ones_stood_and_the_graph_is_the_same() {
    let mut parts = Parts::new();
    parts.files.push(("data/sample_inputs/model.pt".into(), b"a pickle".to_vec()));
    parts.files.push(("data/aotinductor/model/old.so".into(), b"compiled".to_vec()));
    parts.files.push(("extra/notes.txt".into(), b"mine".to_vec()));
    let bytes = written(parts.zip(), &linear(), Mode::Training).unwrap();

    let program = Program::read(bytes.clone()).unwrap();
    let [weight, bias] = program.parameters.as_slice() else { panic!() };
    assert_eq!(floats(weight.tensor.contiguous_bytes().unwrap()), [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
    assert_eq!(floats(bias.tensor.contiguous_bytes().unwrap()), [50.0, 51.0, 52.0]);
    assert_eq!(entry(&bytes, "models/model.json"), serde_json::to_vec(&parts.model).unwrap());
    assert_eq!(entry(&bytes, "extra/notes.txt"), b"mine");
    assert_eq!(entry(&bytes, "data/sample_inputs/model.pt"), b"", "nothing pickled is handed on");
    assert_eq!(entry(&bytes, ".data/version"), b"6\n");
    let archive = Archive::open(Bytes::new(bytes)).unwrap();
    assert!(!archive.has("data/aotinductor/model/old.so"), "it holds the old weights");
}

#[test]
fn the_same_contents_give_the_same_bytes() {
    let write = || written(Parts::new().zip(), &linear(), Mode::Training).unwrap();
    assert_eq!(write(), write());
}

#[test]
fn a_transposed_weight_and_a_slice_of_a_shared_storage_keep_their_layout() {
    let mut parts = Parts::new();
    // The weight is the transpose of six numbers, the bias the three numbers behind them in the same storage.
    parts.files[0].1 = (0..10_u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    parts.weights["weight"] = payload("weight_0", json!([3, 2]), json!([1, 3]));
    parts.weights["bias"] = payload("weight_0", json!([3]), json!([1]));
    parts.weights["bias"]["tensor_meta"]["storage_offset"] = json!({"as_int": 6});
    let bytes = written(parts.zip(), &linear(), Mode::Training).unwrap();
    assert_eq!(
        floats(&entry(&bytes, "data/weights/weight_0")),
        [10.0, 12.0, 14.0, 11.0, 13.0, 15.0, 50.0, 51.0, 52.0, 9.0]
    );
    let program = Program::read(bytes).unwrap();
    assert_eq!(program.parameters[0].tensor.strides, [1, 3]);
}

#[test]
fn tied_names_are_one_storage_again() {
    let mut parts = Parts::new();
    parts.weights["again"] = parts.weights["bias"].clone();
    let trained = weights(&[("weight", &[3, 2], 10.0), ("bias", &[3], 50.0), ("again", &[3], 50.0)]);
    let program = Program::read(written(parts.zip(), &trained, Mode::Training).unwrap()).unwrap();
    assert_eq!(program.parameters[1].aliases, ["again"]);
}

#[test]
fn evaluation_changes_its_literals_and_not_one_byte_of_another_node() {
    let mut parts = Parts::new();
    let dropout = [
        named("input", tensor("linear")),
        named("p", json!({"as_float": 0.1})),
        named("train", json!({"as_bool": true})),
    ];
    let scaled = [named("self", tensor("dropout")), named("other", json!({"as_float": 1e-05}))];
    parts
        .push_node(node("torch.ops.aten.dropout.default", &dropout, &[tensor("dropout")]), &[("dropout", rows(3))])
        .push_node(node("torch.ops.aten.mul.Tensor", &scaled, &[tensor("mul")]), &[("mul", rows(3))]);
    parts.signature()["output_specs"] = json!([{"user_output": {"arg": tensor("mul")}}]);

    let bytes = written(parts.zip(), &linear(), Mode::Evaluation).unwrap();
    let json = String::from_utf8(entry(&bytes, "models/model.json")).unwrap();
    let mut expected = parts.model.clone();
    expected["graph_module"]["graph"]["nodes"][1]["inputs"][2]["arg"] = json!({"as_bool": false});
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), expected);
    assert!(json.contains(&serde_json::to_string(&parts.model["graph_module"]["graph"]["nodes"][2]).unwrap()));
    let program = Program::read(bytes).unwrap();
    assert_eq!(program.nodes[1].arg("train"), Some(&Arg::Bool(false)));
}

#[test]
fn evaluation_leaves_the_count_of_batches_out() {
    let mut parts = Parts::new();
    let mut count = meta(json!([]), json!([]));
    count["dtype"] = json!(5);
    parts.files.push(("data/weights/weight_2".into(), vec![0; 8]));
    parts.weights["bn.num_batches_tracked"] = payload("weight_2", json!([]), json!([]));
    parts.weights["bn.num_batches_tracked"]["tensor_meta"] = count.clone();
    parts.push_input(json!({"buffer": {"arg": {"name": "b_count"}, "buffer_name": "bn.num_batches_tracked",
                                       "persistent": true}}));
    let add = [named("self", tensor("b_count")), named("other", json!({"as_int": 1}))];
    let add = node("torch.ops.aten.add_.Tensor", &add, &[tensor("add_")]);
    parts.push_node(add, &[("b_count", count.clone()), ("add_", count)]);
    let eight = 7_i64.to_le_bytes();
    let file = linear();
    let linear = safetensors::SafeTensors::deserialize(&file).unwrap();
    let mut views: BTreeMap<String, TensorView<'_>> = linear.tensors().into_iter().collect();
    views.insert("bn.num_batches_tracked".into(), TensorView::new(Dtype::I64, vec![], &eight).unwrap());
    let trained = safetensors::serialize(views, None).unwrap();

    let kept = Program::read(written(parts.zip(), &trained, Mode::Training).unwrap()).unwrap();
    assert_eq!((kept.nodes.len(), &*kept.buffers[0].tensor.bytes), (2, &eight[..]));
    let gone = Program::read(written(parts.zip(), &trained, Mode::Evaluation).unwrap()).unwrap();
    assert_eq!(gone.nodes.len(), 1);
}

#[test]
fn weights_of_another_program_are_refused_by_name() {
    let refused =
        |trained: Vec<u8>| written(Parts::new().zip(), &trained, Mode::Training).map(drop).unwrap_err().to_string();
    let lacking = refused(weights(&[("weight", &[3, 2], 0.0)]));
    assert!(lacking.contains("lack bias"), "{lacking}");
    let strange = refused(weights(&[("weight", &[3, 2], 0.0), ("bias", &[3], 0.0), ("head", &[1], 0.0)]));
    assert!(strange.contains("hold head"), "{strange}");
    let turned = refused(weights(&[("weight", &[2, 3], 0.0), ("bias", &[3], 0.0)]));
    assert!(turned.contains("weight as F32 [2, 3], where the program has float32 [3, 2]"), "{turned}");
    let none = refused(b"nothing".to_vec());
    assert!(none.contains("no safetensors"), "{none}");
}

#[test]
fn names_that_lead_out_of_a_folder_and_pickles_are_not_handed_on() {
    let mut parts = Parts::new();
    parts.weights["weight"]["path_name"] = json!("../weight_0");
    parts.files[0].0 = "data/weights/../weight_0".into();
    assert_error!(written(parts.zip(), &linear(), Mode::Training).map(drop).unwrap_err(), Error::BrokenEntry { .. });

    let mut parts = Parts::new();
    parts.files.push(("extra/a\\..\\b".into(), Vec::new()));
    assert_error!(written(parts.zip(), &linear(), Mode::Training).map(drop).unwrap_err(), Error::BrokenEntry { .. });

    let mut parts = Parts::new();
    parts.constants["object"] = json!({"path_name": "custom_obj_0", "use_pickle": true, "is_param": false});
    parts.files.push(("data/constants/custom_obj_0".into(), b"a pickle".to_vec()));
    assert_error!(written(parts.zip(), &linear(), Mode::Training).map(drop).unwrap_err(), Error::Pickled { .. });
}

#[test]
fn a_layer_list_becomes_an_archive_of_the_same_program() {
    let layers = r#"{"inputShape": [4, 4, 1], "layers": [
        {"type": "conv2d", "filters": 2, "kernelSize": 2, "padding": "same"}, {"type": "batchNorm"},
        {"type": "reshape", "targetShape": [4, -1]}, {"type": "dropout", "rate": 0.25},
        {"type": "dense", "units": 3}]}"#;
    let list = Program::read(layers.as_bytes().to_vec()).unwrap();
    let sizes: Vec<(&str, Vec<usize>)> = list
        .parameters
        .iter()
        .map(|p| (p.name.as_str(), &p.tensor.sizes))
        .chain(list.buffers.iter().filter(|b| b.tensor.sizes == [2]).map(|b| (b.name.as_str(), &b.tensor.sizes)))
        .map(|(name, sizes)| (name, sizes.iter().map(|&size| size as usize).collect()))
        .collect();
    let tensors: Vec<(&str, &[usize], f32)> =
        sizes.iter().map(|(name, sizes)| (*name, sizes.as_slice(), 3.0)).collect();
    let file = weights(&tensors);
    let count = 9_i64.to_le_bytes();
    let floats = safetensors::SafeTensors::deserialize(&file).unwrap();
    let mut views: BTreeMap<String, TensorView<'_>> = floats.tensors().into_iter().collect();
    views.insert("1.num_batches_tracked".into(), TensorView::new(Dtype::I64, vec![], &count).unwrap());
    let trained = safetensors::serialize(views, None).unwrap();

    for (mode, expected) in [(Mode::Training, list.clone()), (Mode::Evaluation, list.evaluation())] {
        let program = Program::read(written(layers.as_bytes().to_vec(), &trained, mode).unwrap()).unwrap();
        let calls = |program: &Program| -> Vec<(Target, Vec<String>)> {
            let names = |node: &crate::ir::Node| node.args.iter().map(|(name, _)| name.clone()).collect();
            program.nodes.iter().map(|node| (node.target.clone(), names(node))).collect()
        };
        assert_eq!(calls(&program), calls(&expected));
        let names = |program: &Program| program.parameters.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&program), names(&expected));
        assert_eq!(program.describe().inputs[0].shape, [None, Some(4), Some(4), Some(1)]);
        assert_eq!(program.describe().outputs[0].shape, expected.describe().outputs[0].shape);
        let dropout = program.nodes.iter().find(|node| node.aten() == Some("aten::dropout")).unwrap();
        assert_eq!(dropout.arg("train"), Some(&Arg::Bool(mode == Mode::Training)));
        assert_eq!(&*program.buffers.last().unwrap().tensor.bytes, &count);
        assert_eq!(program.ranges.values().next().unwrap().min, Some(1));
    }
}
