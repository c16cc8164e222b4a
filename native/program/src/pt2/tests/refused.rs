//! What is refused, by kind and with the name of the culprit.

use serde_json::{Value as Json, json};

use super::{Parts, assert_error, meta, named, node, rows, tensor, zip};
use crate::error::Error;
use crate::ir::Program;

// ---- The container ----

#[test]
fn bytes_that_are_no_model_are_refused_by_name() {
    assert_error!(Program::read(Vec::new()).unwrap_err(), Error::UnknownFormat { length: 0 });
    assert_error!(Program::read(b"\x80\x02pickle".to_vec()).unwrap_err(), Error::UnknownFormat { .. });
    assert_error!(Program::read(b"PK\x03\x04".to_vec()).unwrap_err(), Error::BrokenArchive { length: 4, .. });
    let script = zip(&[("data.pkl".into(), vec![1])], rawzip::CompressionMethod::STORE);
    assert_error!(Program::read(script).unwrap_err(), Error::NotAnExport);
}

#[test]
fn an_archive_cut_off_anywhere_is_an_error() {
    let whole = Parts::new().zip();
    for length in 2..whole.len() {
        assert!(Program::read(whole[..length].to_vec()).is_err(), "{length} of {} bytes", whole.len());
    }
}

#[test]
fn an_archive_with_any_byte_changed_is_an_error_or_a_sound_program() {
    let whole = Parts::new().zip();
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            if let Ok(program) = Program::read(changed) {
                assert_eq!(program.describe().elements, 9, "byte {at} ^ {flip}");
                assert!(program.parameters.iter().all(|parameter| parameter.tensor.contiguous_bytes().is_some()));
            }
        }
    }
}

#[test]
fn a_changed_weight_is_found_by_its_checksum() {
    let mut bytes = Parts::new().zip();
    let weight: Vec<u8> = (0..24).collect();
    let at = bytes.windows(24).position(|window| window == weight).unwrap();
    bytes[at + 3] ^= 1;
    let error = Program::read(bytes).unwrap_err();
    assert_error!(error, Error::BrokenEntry { entry, problem } if entry.contains("weight_0") && problem.contains("checksum"));
}

#[test]
fn a_compressed_entry_is_refused() {
    let mut parts = Parts::new();
    parts.method = rawzip::CompressionMethod::DEFLATE;
    assert_error!(parts.error(), Error::BrokenEntry { problem, .. } if problem.contains("compressed"));
}

#[test]
fn an_entry_that_is_there_twice_is_refused() {
    let mut parts = Parts::new();
    parts.files.push(("data/weights/weight_0".into(), vec![9; 24]));
    assert_error!(parts.error(), Error::BrokenEntry { problem, .. } if problem.contains("twice"));
}

#[test]
fn several_programs_and_foreign_byte_orders_are_refused() {
    let mut parts = Parts::new();
    parts.files.push(("models/other.json".into(), b"{}".to_vec()));
    assert_error!(parts.error(), Error::SeveralPrograms { names } if names.len() == 2);
    let mut parts = Parts::new();
    parts.files[2].1 = b"big".to_vec();
    assert_error!(parts.error(), Error::ByteOrder { found } if found == "big");
}

// ---- Versions ----

#[test]
fn another_major_version_is_refused_before_anything_else_is_read() {
    let mut parts = Parts::new();
    parts.model = json!({"schema_version": {"major": 9, "minor": 1}, "all": "different"});
    assert_error!(parts.error(), Error::SchemaVersion { major: 9, minor: 1, supported: 8 });
}

#[test]
fn a_newer_minor_version_with_unknown_fields_is_read() {
    let mut parts = Parts::new();
    parts.model["schema_version"]["minor"] = json!(99);
    parts.model["something_new"] = json!({"a": [1]});
    parts.graph()["nodes"][0]["something_new"] = json!(1);
    assert!(parts.read().is_ok());
}

#[test]
fn other_operator_versions_and_lowered_programs_are_refused() {
    let mut parts = Parts::new();
    parts.model["opset_version"]["aten"] = json!(11);
    assert_error!(parts.error(), Error::OpsetVersion { found: 11, supported: 10 });
    let mut parts = Parts::new();
    parts.model["verifiers"] = json!(["ATEN"]);
    assert_error!(parts.error(), Error::Decomposed { dialect } if dialect == "ATEN");
}

#[test]
fn json_that_is_not_a_program_names_its_entry() {
    let mut parts = Parts::new();
    parts.graph()["nodes"] = json!(3);
    assert_error!(parts.error(), Error::Json { entry, .. } if entry == "models/model.json");
    let mut parts = Parts::new();
    parts.graph()["nodes"][0]["outputs"][0] = json!({"as_tensor": {"name": "linear"}, "as_int": 1});
    assert_error!(parts.error(), Error::Json { source, .. } if source.to_string().contains("that is also"));
}

// ---- Nodes ----

fn error_of_node(target: &str, inputs: &[Json]) -> Error {
    let mut parts = Parts::new();
    parts.push_node(node(target, inputs, &[tensor("y")]), &[("y", rows(3))]);
    parts.error()
}

#[test]
fn an_operator_off_the_list_is_refused_by_name() {
    for (target, name) in [
        ("torch.ops.aten.from_file.default", "aten::from_file"),
        ("torch.ops.aten.set_.source_Tensor", "aten::set_.source_Tensor"),
        ("torch.ops.aten.as_strided.default", "aten::as_strided"),
        ("torch.ops.mylib.op.default", "torch.ops.mylib.op.default"),
        ("os.system", "os.system"),
    ] {
        let error = error_of_node(target, &[]);
        assert!(error.to_string().contains(name), "{error}");
        assert_error!(error, Error::ForbiddenOp { op, .. } if op == name);
    }
}

#[test]
fn a_higher_order_operator_is_refused_with_advice() {
    let error = error_of_node("torch.ops.higher_order.while_loop", &[]);
    assert!(error.to_string().contains("number of steps that is known"), "{error}");
    assert_error!(error, Error::HigherOrder { node, .. } if node == "higher_order");
}

#[test]
fn an_argument_of_an_unknown_kind_is_refused_by_name() {
    for kind in ["as_custom_obj", "as_complex", "as_from_the_future"] {
        let mut argument = json!({});
        argument[kind] = json!({"name": "f"});
        let error = error_of_node("torch.ops.aten.relu.default", &[named("self", argument)]);
        assert_error!(error, Error::UnsupportedArgument { node, argument, kind: found, .. }
            if node == "relu" && argument == "self" && found == kind);
    }
}

#[test]
fn a_result_of_an_unknown_kind_is_refused_by_name() {
    let mut parts = Parts::new();
    let result = json!({"as_custom_obj": {"name": "f", "class_fqn": "C"}});
    parts.push_node(node("torch.ops.aten.item.default", &[named("self", tensor("x"))], &[result]), &[]);
    assert_error!(parts.error(), Error::UnsupportedArgument { role: "result", kind, .. } if kind == "as_custom_obj");
}

#[test]
fn arithmetic_kindling_does_not_know_is_refused_by_name() {
    let one = |name| named(name, json!({"as_int": 1}));
    for target in ["_operator.xor", "math.gamma", "builtins.round", "torch.sym_fresh_size"] {
        assert_error!(error_of_node(target, &[one("a"), one("b")]), Error::SymbolicNumber { op, .. } if op == target);
    }
    let text = named("b", json!({"as_string": "2"}));
    assert_error!(error_of_node("_operator.mul", &[one("a"), text]), Error::SymbolicNumber { .. });
    assert_error!(error_of_node("_operator.mul", &[one("a")]), Error::Arity { found: 1, expected: 2, .. });
}

#[test]
fn values_must_be_defined_once_before_their_use_and_used_as_what_they_are() {
    let relu = |input: &str| error_of_node("torch.ops.aten.relu.default", &[named("self", tensor(input))]);
    assert_error!(relu("nowhere"), Error::UndefinedValue { value, user } if value == "nowhere" && user.contains("relu"));
    assert_error!(relu("y"), Error::UndefinedValue { .. });
    let number = named("self", json!({"as_sym_int": {"as_name": "x"}}));
    let error = error_of_node("torch.ops.aten.relu.default", &[number]);
    assert_error!(error, Error::WrongValue { expected: "an integer", .. });

    let mut parts = Parts::new();
    parts.push_node(node("torch.ops.aten.relu.default", &[named("self", tensor("x"))], &[tensor("linear")]), &[]);
    assert_error!(parts.error(), Error::DuplicateValue { value } if value == "linear");
}

#[test]
fn types_layouts_and_formats_kindling_lacks_are_refused_by_name() {
    let error = |argument| error_of_node("torch.ops.aten.relu.default", &[named("a", argument)]);
    assert_error!(error(json!({"as_scalar_type": 10})), Error::UnsupportedDtype { dtype, .. } if dtype == "complex64");
    assert_error!(error(json!({"as_scalar_type": 99})), Error::UnsupportedDtype { .. });
    assert_error!(error(json!({"as_layout": 1})), Error::UnsupportedLayout { code: 1, .. });
    assert_error!(error(json!({"as_memory_format": 9})), Error::UnsupportedMemoryFormat { code: 9, .. });
    let mut parts = Parts::new();
    parts.graph()["tensor_values"]["linear"]["dtype"] = json!(11);
    assert_error!(parts.error(), Error::UnsupportedDtype { place, .. } if place.contains("linear"));
    let mut parts = Parts::new();
    parts.graph()["tensor_values"].as_object_mut().unwrap().remove("linear");
    assert_error!(parts.error(), Error::MissingMeta { value } if value == "linear");
}

// ---- Inputs and outputs ----

#[test]
fn a_fixed_batch_is_refused_with_the_call_that_makes_it_dynamic() {
    let mut parts = Parts::new();
    parts.graph()["tensor_values"]["x"] = meta(json!([32, 2]), json!([2, 1]));
    let error = parts.error();
    assert!(error.to_string().contains("dynamic_shapes=({0: torch.export.Dim("), "{error}");
    assert_error!(error, Error::StaticBatch { input, size: 32 } if input == "x");

    let mut parts = Parts::new();
    parts.graph()["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = json!("Mul(Integer(2), Symbol('s39'))");
    assert_error!(parts.error(), Error::ConstrainedBatch { .. });

    let mut parts = Parts::new();
    parts.graph()["tensor_values"]["x"] = meta(json!([]), json!([]));
    assert_error!(parts.error(), Error::ScalarInput { .. });
}

#[test]
fn inputs_and_outputs_that_are_no_tensors_are_refused() {
    let mut parts = Parts::new();
    parts.push_input(json!({"user_input": {"arg": {"as_sym_int": {"as_name": "n"}}}}));
    assert_error!(parts.error(), Error::UnsupportedInput { index: 3, kind } if kind == "as_sym_int");
    let mut parts = Parts::new();
    parts.push_input(json!({"token": {"arg": {"name": "t"}}}));
    assert_error!(parts.error(), Error::UnsupportedInput { kind, .. } if kind == "token");
    let mut parts = Parts::new();
    parts.signature()["input_specs"].as_array_mut().unwrap().pop();
    assert_error!(parts.error(), Error::NoInput);
    let mut parts = Parts::new();
    parts.signature()["output_specs"][0] = json!({"user_output": {"arg": {"as_custom_obj": {}}}});
    assert_error!(parts.error(), Error::UnsupportedOutput { index: 0, kind } if kind == "as_custom_obj");
    let mut parts = Parts::new();
    parts.signature()["output_specs"][0] = json!({"user_output": {"arg": {"as_none": true}}});
    assert_error!(parts.error(), Error::NoOutput);
    let mut parts = Parts::new();
    parts.signature()["output_specs"][0] = json!({"buffer_mutation": {"arg": {"name": "l"}, "buffer_name": "b"}});
    assert_error!(parts.error(), Error::UnsupportedOutput { kind, .. } if kind == "buffer_mutation");
    let mut parts = Parts::new();
    parts.signature()["output_specs"] = json!([]);
    assert_error!(parts.error(), Error::NoOutput);
}

// ---- Weights ----

#[test]
fn a_weight_that_reaches_beyond_its_bytes_is_refused() {
    for (key, value) in [
        ("strides", json!([{"as_int": 3}, {"as_int": 1}])),
        ("storage_offset", json!({"as_int": 1})),
        ("storage_offset", json!({"as_int": i64::MAX})),
        ("strides", json!([{"as_int": i64::MAX}, {"as_int": i64::MAX}])),
        ("strides", json!([{"as_int": -2}, {"as_int": 1}])),
        ("dtype", json!(8)),
    ] {
        let mut parts = Parts::new();
        parts.weights["weight"]["tensor_meta"][key] = value;
        assert_error!(parts.error(), Error::TensorLayout { name, .. } if name == "weight");
    }
}

#[test]
fn a_weight_that_is_missing_pickled_or_not_what_the_graph_says_is_refused() {
    let mut parts = Parts::new();
    parts.weights.as_object_mut().unwrap().remove("bias");
    assert_error!(parts.error(), Error::MissingWeight { name, entry } if name == "bias" && entry.contains("config.json"));
    let mut parts = Parts::new();
    parts.files.remove(1);
    assert_error!(parts.error(), Error::MissingEntry { entry } if entry == "data/weights/weight_1");
    let mut parts = Parts::new();
    parts.weights["bias"]["use_pickle"] = json!(true);
    assert_error!(parts.error(), Error::Pickled { name } if name == "bias");
    let mut parts = Parts::new();
    parts.weights["bias"]["tensor_meta"] = json!(null);
    assert_error!(parts.error(), Error::Pickled { .. });
    let mut parts = Parts::new();
    parts.weights = json!(null);
    parts.files.push(("data/weights/model.pt".into(), vec![1]));
    assert_error!(parts.error(), Error::Pickled { name } if name == "data/weights/model.pt");
    let mut parts = Parts::new();
    parts.weights["bias"]["tensor_meta"]["sizes"] = json!([{"as_int": 2}]);
    assert_error!(parts.error(), Error::WeightMismatch { name, stored, expected }
        if name == "bias" && stored == "float32 [2]" && expected == "float32 [3]");
}

#[test]
fn weights_that_share_memory_without_being_tied_are_refused() {
    let mut parts = Parts::new();
    // The bias is the last three elements of the weight.
    parts.weights["bias"]["path_name"] = json!("weight_0");
    parts.weights["bias"]["tensor_meta"]["storage_offset"] = json!({"as_int": 3});
    let error = parts.error();
    assert!(error.to_string().contains("clone"), "{error}");
    assert_error!(error, Error::SharedStorage { first, second } if first == "weight" && second == "bias");

    // Neighbours in one storage, as in a flattened LSTM, are fine.
    parts.weights["bias"]["tensor_meta"]["storage_offset"] = json!({"as_int": 6});
    parts.files[0].1 = vec![0; 36];
    assert!(parts.read().is_ok());
}

#[test]
fn a_parameter_whose_elements_share_memory_is_refused() {
    let mut parts = Parts::new();
    parts.weights["bias"]["tensor_meta"]["strides"] = json!([{"as_int": 0}]);
    assert_error!(parts.error(), Error::TensorLayout { problem, .. } if problem.contains("clone"));
}
