//! What is read, and what it becomes.

use std::sync::Arc;

use serde_json::json;

use super::{Parts, meta, named, node, payload, rows, tensor};
use crate::ir::{Arg, DType, Dim, Output, Program, ScalarOp, SymInt, Target};

#[test]
fn a_program_is_read_with_its_weights_and_named_values() {
    let program = Parts::new().read().unwrap();
    assert_eq!(
        serde_json::to_value(program.describe()).unwrap(),
        json!({"source": "pt2", "inputs": [{"name": "x", "dtype": "float32", "shape": [null, 2]}],
               "outputs": [{"name": "0", "dtype": "float32", "shape": [null, 3], "inputs": [0],
                            "activation": null}], "parameters": 2, "elements": 9,
               "trainableElements": 9, "stateBytes": 36, "finalActivation": null})
    );
    let [linear] = program.nodes.as_slice() else { panic!("{:?}", program.nodes) };
    assert_eq!(linear.target, Target::Aten { name: "aten::linear".into(), overload: String::new() });
    assert_eq!(linear.arg("weight"), Some(&Arg::Tensor(program.parameters[0].value)));
    assert_eq!(linear.outputs, [Output::Tensor(program.outputs[0])]);
    assert_eq!(program.inputs[0].shape[0], Dim::Symbolic { name: "s77".into() });
    assert_eq!(program.ranges["s77"].min, Some(2));
    assert_eq!(program.parameters[0].tensor.contiguous_bytes().unwrap(), (0..24).collect::<Vec<u8>>());
}

#[test]
fn weights_are_ranges_of_the_archive_and_not_copies() {
    let bytes: Arc<[u8]> = Parts::new().zip().into();
    let program = Program::read(Arc::clone(&bytes)).unwrap();
    let archive = bytes.as_ptr_range();
    let weight = program.parameters[0].tensor.bytes.as_ptr_range();
    assert!(archive.start <= weight.start && weight.end <= archive.end);
}

#[test]
fn every_kind_of_argument_and_result_arrives_as_it_was_written() {
    let mut parts = Parts::new();
    let inputs = [
        named("self", tensor("linear")),
        named("size", json!({"as_sym_ints": [{"as_name": "twice"}, {"as_int": -1}]})),
        named("literal", json!({"as_sym_ints": [{"as_int": 4}, {"as_int": 5}]})),
        named("one", json!({"as_sym_int": {"as_name": "rows"}})),
        named("gaps", json!({"as_optional_tensors": [{"as_none": true}, {"as_tensor": {"name": "x"}}]})),
        named("infinite", json!({"as_float": "-Infinity"})),
        named("whole", json!({"as_float": 2})),
        // The lowest float32, which masks use: one bit further and no float32 could hold it.
        named("lowest", json!({"as_float": f64::from(f32::MIN)})),
        named("floats", json!({"as_floats": [0.5, "Infinity"]})),
        named("truths", json!({"as_bools": [true, false]})),
        named("nothing", json!({"as_none": true})),
        named("text", json!({"as_string": "ij->ji"})),
        named("dtype", json!({"as_scalar_type": 13})),
        named("layout", json!({"as_layout": 7})),
        named("format", json!({"as_memory_format": 2})),
        named("device", json!({"as_device": {"type": "cuda", "index": 1}})),
        named("cpu", json!({"as_device": {"type": "cpu", "index": null}})),
    ];
    let rows_node = node(
        "torch.ops.aten.sym_size.int",
        &[named("self", tensor("x")), named("dim", json!({"as_int": 0}))],
        &[json!({"as_sym_int": {"as_name": "rows"}})],
    );
    let twice = node(
        "_operator.mul",
        &[named("a", json!({"as_sym_int": {"as_name": "rows"}})), named("b", json!({"as_int": 2}))],
        &[json!({"as_sym_int": {"as_name": "twice"}})],
    );
    let outputs = [tensor("first"), json!({"as_tensors": [{"name": "a"}, {"name": "b"}]}), json!({"as_none": true})];
    parts.push_node(rows_node, &[]).push_node(twice, &[]).push_node(
        node("torch.ops.aten.view.default", &inputs, &outputs),
        &[("first", rows(1)), ("a", rows(1)), ("b", rows(1))],
    );
    let program = parts.read().unwrap();
    let id = |name: &str| {
        let index = program.values.iter().position(|value| value.name == name).unwrap();
        crate::ValueId(index as u32)
    };
    assert_eq!(program.nodes[1].outputs, [Output::Int(id("rows"))]);
    assert_eq!(program.nodes[2].target, Target::Scalar(ScalarOp::Mul));
    let view = &program.nodes[3];
    for (name, expected) in [
        ("size", Arg::SymInts(vec![SymInt::Value(id("twice")), SymInt::Const(-1)])),
        ("literal", Arg::Ints(vec![4, 5])),
        ("one", Arg::SymInt(SymInt::Value(id("rows")))),
        ("gaps", Arg::OptionalTensors(vec![None, Some(id("x"))])),
        ("infinite", Arg::Float(f64::NEG_INFINITY)),
        ("whole", Arg::Float(2.0)),
        ("lowest", Arg::Float(f64::from(f32::MIN))),
        ("floats", Arg::Floats(vec![0.5, f64::INFINITY])),
        ("truths", Arg::Bools(vec![true, false])),
        ("nothing", Arg::None),
        ("text", Arg::Str("ij->ji".into())),
        ("dtype", Arg::Dtype(DType::BFloat16)),
        ("layout", Arg::Layout(crate::Layout::Strided)),
        ("format", Arg::MemoryFormat(crate::MemoryFormat::ChannelsLast)),
        ("device", Arg::Device("cuda:1".into())),
        ("cpu", Arg::Device("cpu".into())),
    ] {
        assert_eq!(view.arg(name), Some(&expected), "{name}");
    }
    assert_eq!(view.outputs, [Output::Tensor(id("first")), Output::Tensors(vec![id("a"), id("b")]), Output::None]);
}

#[test]
fn assertions_are_dropped_with_the_comparisons_that_feed_them() {
    let mut parts = Parts::new();
    let size = node(
        "torch.ops.aten.sym_size.int",
        &[named("self", tensor("x")), named("dim", json!({"as_int": 0}))],
        &[json!({"as_sym_int": {"as_name": "rows"}})],
    );
    let ge = node(
        "_operator.ge",
        &[named("a", json!({"as_sym_int": {"as_name": "rows"}})), named("b", json!({"as_int": 0}))],
        &[json!({"as_sym_bool": {"as_name": "ge"}})],
    );
    let truth = named("self", json!({"as_sym_bool": {"as_name": "ge"}}));
    let assert = node("torch.ops.aten._assert_scalar.default", std::slice::from_ref(&truth), &[]);
    let meta = node("torch.ops.aten._assert_tensor_metadata.default", &[named("a", tensor("x"))], &[]);
    parts.push_node(size, &[]).push_node(ge, &[]).push_node(assert, &[]).push_node(meta, &[]);
    let names: Vec<_> = parts.read().unwrap().nodes.into_iter().map(|node| node.name).collect();
    assert_eq!(names, ["linear", "sym_size"]);

    // A truth value that something else uses is computed.
    parts.push_node(node("torch.ops.aten.relu.default", &[truth], &[tensor("relu")]), &[("relu", rows(3))]);
    let program = parts.read().unwrap();
    assert_eq!(program.nodes[2].target, Target::Scalar(ScalarOp::Ge));
    assert_eq!(program.nodes[3].arg("self"), Some(&Arg::SymBool(program.nodes[2].outputs[0].values()[0])));
}

#[test]
fn a_tied_weight_is_one_parameter_with_two_names() {
    let mut parts = Parts::new();
    parts.weights["again"] = parts.weights["weight"].clone();
    parts.weights["only_in_the_state"] = parts.weights["weight"].clone();
    parts.graph()["tensor_values"]["p_again"] = meta(json!([3, 2]), json!([2, 1]));
    parts.push_input(json!({"parameter": {"arg": {"name": "p_again"}, "parameter_name": "again"}}));
    let second = node(
        "torch.ops.aten.linear.default",
        &[named("input", tensor("x")), named("weight", tensor("p_again"))],
        &[tensor("second")],
    );
    parts.push_node(second, &[("second", rows(3))]);
    let program = parts.read().unwrap();
    assert_eq!(program.parameters.len(), 2);
    assert_eq!(program.parameters[0].aliases, ["again", "only_in_the_state"]);
    assert_eq!(program.nodes[1].arg("weight"), Some(&Arg::Tensor(program.parameters[0].value)));
    assert_eq!(program.describe().elements, 9);
}

#[test]
fn buffers_and_constants_come_from_their_folders() {
    let mut parts = Parts::new();
    for (value, name) in [("b_mean", "mean"), ("b_ids", "ids"), ("c_scale", "scale")] {
        parts.graph()["tensor_values"][value] = meta(json!([3]), json!([1]));
        let spec = match value {
            "c_scale" => json!({"tensor_constant": {"arg": {"name": value}, "tensor_constant_name": name}}),
            _ => json!({"buffer": {"arg": {"name": value}, "buffer_name": name, "persistent": name == "mean"}}),
        };
        parts.push_input(spec);
    }
    parts.push_input(json!({"constant_input": {"name": "flag", "value": {"as_bool": true}}}));
    parts.weights["mean"] = payload("weight_2", json!([3]), json!([1]));
    parts.files.push(("data/weights/weight_2".into(), vec![1; 12]));
    // The non-persistent buffer is a slice of a larger storage.
    parts.constants["ids"] = payload("tensor_0", json!([3]), json!([2]));
    parts.constants["ids"]["tensor_meta"]["storage_offset"] = json!({"as_int": 1});
    parts.files.push(("data/constants/tensor_0".into(), vec![2; 24]));
    parts.constants["scale"] = payload("tensor_1", json!([3]), json!([1]));
    parts.files.push(("data/constants/tensor_1".into(), vec![3; 12]));
    let program = parts.read().unwrap();
    let [mean, ids] = program.buffers.as_slice() else { panic!("{:?}", program.buffers) };
    assert_eq!((mean.name.as_str(), mean.persistent, mean.tensor.bytes.len()), ("mean", true, 12));
    assert_eq!((ids.name.as_str(), ids.persistent, ids.tensor.bytes.len()), ("ids", false, 24));
    assert_eq!((ids.tensor.offset, ids.tensor.strides.as_slice()), (1, &[2][..]));
    assert_eq!(program.constants[0].name, "scale");
    // Saved are two parameters and the persistent buffer.
    assert_eq!(program.describe().state_bytes, 24 + 12 + 12);
}

#[test]
fn a_module_used_twice_has_one_buffer_with_two_names() {
    let mut parts = Parts::new();
    for (value, name) in [("b_a", "a.mean"), ("b_b", "b.mean")] {
        parts.graph()["tensor_values"][value] = meta(json!([3]), json!([1]));
        parts.push_input(json!({"buffer": {"arg": {"name": value}, "buffer_name": name, "persistent": true}}));
        parts.weights[name] = payload("weight_2", json!([3]), json!([1]));
    }
    parts.files.push(("data/weights/weight_2".into(), vec![0; 12]));
    let program = parts.read().unwrap();
    assert_eq!(program.buffers.len(), 1);
    assert_eq!(program.buffers[0].aliases, ["b.mean"]);
}
