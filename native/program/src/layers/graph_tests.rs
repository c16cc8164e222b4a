//! Graphs: named inputs, joins, layers that share weights.

use super::tests::{ops, row};
use crate::error::Error;
use crate::ir::{DType, Program};

fn graph(inputs: &str, layers: &str, outputs: &str) -> Result<Program, Error> {
    Program::read(format!(r#"{{"inputs": [{inputs}], "layers": [{layers}], "outputs": [{outputs}]}}"#).into_bytes())
}

const TWO: &str = r#"{"name": "a", "shape": [4]}, {"name": "b", "shape": [4]}"#;

#[test]
fn inputs_keep_their_order_names_and_types() {
    let program = graph(
        r#"{"name": "user", "shape": [], "dtype": "int64"}, {"name": "context", "shape": [8]}"#,
        r#"{"name": "embed", "type": "embedding", "inputDim": 10, "outputDim": 16, "inputs": ["user"]},
           {"name": "join", "type": "concatenate", "inputs": ["embed", "context"]},
           {"name": "score", "type": "dense", "units": 1, "inputs": "join"}"#,
        r#""score", "join""#,
    )
    .unwrap();
    let inputs: Vec<_> = program.inputs.iter().map(|input| (input.name.as_str(), input.dtype)).collect();
    assert_eq!(inputs, [("user", DType::Int64), ("context", DType::Float32)]);
    let names: Vec<&str> = program.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    assert_eq!(names, ["embed.weight", "score.weight", "score.bias"]);
    assert_eq!(program.output_names, ["score", "join"]);
    assert_eq!(row(&program), [1]);
    assert_eq!(program.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["embed", "join", "score"]);
}

#[test]
fn a_shared_layer_has_one_weight_and_two_nodes() {
    let program = graph(
        TWO,
        r#"{"name": "first", "type": "dense", "units": 3, "inputs": ["a"]},
           {"name": "second", "type": "shared", "layer": "first", "inputs": ["b"]},
           {"name": "dot", "type": "dot", "axes": 1, "inputs": ["first", "second"]}"#,
        r#""dot""#,
    )
    .unwrap();
    assert_eq!(program.parameters.len(), 2);
    assert_eq!(ops(&program)[..2], ["aten::linear", "aten::linear"]);
    assert_eq!(program.nodes[0].arg("weight"), program.nodes[1].arg("weight"));
    assert_eq!(row(&program), [1]);
}

#[test]
fn joins_stretch_sizes_of_one_and_refuse_others() {
    let inputs = r#"{"name": "a", "shape": [4, 1]}, {"name": "b", "shape": [1, 3]}, {"name": "c", "shape": [2, 3]}"#;
    let join = |kind: &str, given: &str| {
        graph(inputs, &format!(r#"{{"name": "y", "type": "{kind}", "inputs": [{given}]}}"#), r#""y""#)
    };
    for kind in ["add", "subtract", "multiply", "average", "maximum", "minimum"] {
        assert_eq!(row(&join(kind, r#""a", "b""#).unwrap()), [4, 3], "{kind}");
        let error = join(kind, r#""a", "c""#).unwrap_err().to_string();
        assert!(error.contains("rows of shape [4, 1] and [2, 3]: the shapes differ"), "{error}");
    }
    assert_eq!(row(&join("add", r#""a", "b", "b""#).unwrap()), [4, 3]);
    let error = join("subtract", r#""a", "b", "b""#).unwrap_err().to_string();
    assert!(error.contains("it takes 2 inputs and is given 3"), "{error}");
    let error = join("add", r#""a""#).unwrap_err().to_string();
    assert!(error.contains("it takes 2 or more inputs and is given 1"), "{error}");
}

#[test]
fn a_dot_sums_over_axes_of_one_size() {
    let inputs = r#"{"name": "a", "shape": [4, 5]}, {"name": "b", "shape": [3, 4]}"#;
    let dot = |axes: &str| {
        let layer = format!(r#"{{"name": "y", "type": "dot", "axes": {axes}, "inputs": ["a", "b"]}}"#);
        graph(inputs, &layer, r#""y""#)
    };
    assert_eq!(row(&dot("[1, 2]").unwrap()), [5, 3]);
    let error = dot("1").unwrap_err().to_string();
    assert!(error.contains("the axes to sum over have 4 and 3 elements"), "{error}");
}

#[test]
fn attention_takes_query_value_and_key_in_keras_order() {
    let inputs = r#"{"name": "q", "shape": [5, 6]}, {"name": "v", "shape": [7, 3]}, {"name": "k", "shape": [7, 4]}"#;
    let layer = r#"{"name": "y", "type": "multiHeadAttention", "numHeads": 2, "keyDim": 4, "inputs": ["q", "v", "k"]}"#;
    let program = graph(inputs, layer, r#""y""#).unwrap();
    assert_eq!(row(&program), [5, 6]);
    let sizes: Vec<_> =
        program.parameters.iter().map(|parameter| (parameter.name.as_str(), parameter.tensor.sizes.clone())).collect();
    assert_eq!(sizes[0], ("y.query.weight", vec![8, 6]));
    assert_eq!(sizes[2], ("y.key.weight", vec![8, 4]));
    assert_eq!(sizes[4], ("y.value.weight", vec![8, 3]));
    assert_eq!(sizes[6], ("y.output.weight", vec![6, 8]));
}

#[test]
fn what_a_graph_cannot_be_is_said_with_the_name() {
    for (layers, outputs, expected) in [
        (r#"{"type": "relu", "inputs": ["a"]}"#, r#""a""#, "in a graph every layer needs a name"),
        (r#"{"name": "a", "type": "relu", "inputs": ["b"]}"#, r#""a""#, "has this name too"),
        (r#"{"name": "y", "type": "relu", "inputs": ["z"]}"#, r#""y""#, r#"its input "z" is neither an input"#),
        (r#"{"name": "y", "type": "relu"}"#, r#""y""#, "it takes 1 inputs and is given 0"),
        (r#"{"name": "y", "type": "relu", "inputs": ["a"]}"#, r#""z""#, r#"the output "z" is no layer"#),
        (r#"{"name": "y", "type": "relu", "inputs": ["a"]}"#, "", "at least one input and one output"),
        (r#"{"name": "y", "type": "relu", "inputs": [1]}"#, r#""y""#, "its inputs must be names"),
        (r#"{"name": "y", "type": "shared", "layer": "z", "inputs": ["a"]}"#, r#""y""#, r#"it shares "z""#),
        (r#"{"name": "y", "type": "shared", "inputs": ["a"]}"#, r#""y""#, "missing field `layer`"),
        (
            r#"{"name": "y", "type": "embedding", "inputDim": 3, "outputDim": 2, "inputs": ["a"]}"#,
            r#""y""#,
            "dtype int64",
        ),
    ] {
        let error = graph(TWO, layers, outputs).unwrap_err().to_string();
        assert!(error.contains(expected), "{layers}: {error}");
    }
    let shared = r#"{"name": "x", "type": "reshape", "targetShape": [2, 2], "inputs": ["a"]},
        {"name": "first", "type": "dense", "units": 3, "inputs": ["a"]},
        {"name": "second", "type": "shared", "layer": "first", "inputs": ["x"]}"#;
    let error = graph(TWO, shared, r#""second""#).unwrap_err().to_string();
    assert!(error.contains("first.weight has the shape [3, 4] where it was called before, here [3, 2]"), "{error}");
    let both = r#"{"inputShape": [4], "inputs": [], "layers": [{"type": "relu"}], "outputs": []}"#;
    let error = Program::read(both.as_bytes().to_vec()).unwrap_err().to_string();
    assert!(error.contains("inputShape is for a sequence"), "{error}");
}
