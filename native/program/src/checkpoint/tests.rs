#![allow(clippy::single_range_in_vec_init, reason = "lists of segments")]

use super::*;
use crate::ir::{Arg, Output, Target, TensorMeta, Value, ValueId};

fn dense(layers: usize) -> Program {
    let layers = vec![r#"{"type": "dense", "units": 64, "activation": "tanh"}"#; layers].join(",");
    Program::read(format!(r#"{{"inputShape": [64], "seed": 1, "layers": [{layers}]}}"#).into_bytes()).unwrap()
}

fn choice(text: &str) -> Result<Checkpointing, serde_json::Error> {
    serde_json::from_str(text)
}

/// Calls `op` on the value that `node` makes.
fn insert_after(program: &mut Program, node: usize, op: &str) -> ValueId {
    let mut new = program.nodes[node].clone();
    let input = new.outputs[0].values()[0];
    let meta: TensorMeta = program.meta(input).unwrap().clone();
    let value = ValueId(u32::try_from(program.values.len()).unwrap());
    program.values.push(Value::tensor(format!("{op}{}", value.0), meta));
    new.name = format!("{op}{}", value.0);
    new.target = Target::Aten { name: format!("aten::{op}"), overload: String::new() };
    new.args = vec![("self".to_owned(), Arg::Tensor(input))];
    new.outputs = vec![Output::Tensor(value)];
    program.nodes.insert(node + 1, new);
    value
}

#[test]
fn the_setting_is_a_word_a_number_or_patterns() {
    assert_eq!(choice("\"none\"").unwrap(), Checkpointing::None);
    assert_eq!(choice("\"auto\"").unwrap(), Checkpointing::Auto);
    assert_eq!(choice("4").unwrap(), Checkpointing::Segments(4));
    assert_eq!(choice("[\"a.*\"]").unwrap(), Checkpointing::Modules(vec!["a.*".into()]));
    for wrong in ["\"some\"", "1", "0", "-3", "2.5", "[]", "true", "{}"] {
        let error = choice(wrong).unwrap_err().to_string();
        assert!(error.contains("activationCheckpointing is"), "{wrong}: {error}");
    }
}

#[test]
fn a_deep_chain_is_cut_so_that_memory_falls_to_about_the_root() {
    let program = dense(100);
    let (cut, segments) = program.checkpointed(&Checkpointing::Auto).unwrap();
    assert_eq!(cut.own_segments().len(), segments.count);
    // 200 equal tensors: 2 * sqrt(200) of them, less as only the results of a dense layer cross.
    assert!(segments.bytes_with * 5 < segments.bytes_without, "{segments:?}");
    assert!((5..40).contains(&segments.count), "{segments:?}");
    let last = cut.own_segments().last().unwrap().clone();
    assert!(last.end < cut.nodes.len(), "the last stretch is not computed again");
    // Nothing else changes.
    let (back, none) = program.checkpointed(&Checkpointing::None).unwrap();
    assert_eq!((back.nodes, none.count), (program.nodes, 0));
}

#[test]
fn a_number_of_segments_is_met_and_counts_the_last_one() {
    for count in [2, 3, 7] {
        let (cut, segments) = dense(20).checkpointed(&Checkpointing::Segments(count)).unwrap();
        assert_eq!((cut.own_segments().len(), segments.count), (count - 1, count - 1));
        assert!(segments.bytes_with < segments.bytes_without);
    }
    let error = dense(1).checkpointed(&Checkpointing::Segments(50)).unwrap_err().to_string();
    assert!(error.contains("50 segments") && error.contains("\"auto\""), "{error}");
}

#[test]
fn more_places_than_are_looked_at_are_thinned_out() {
    let (_, segments) = dense(600).checkpointed(&Checkpointing::Auto).unwrap();
    assert!(segments.bytes_with * 8 < segments.bytes_without, "{segments:?}");
}

#[test]
fn no_segment_begins_between_a_value_and_the_change_of_it_in_place() {
    let mut program = dense(40);
    // Every activation is changed in place right after it was made, and read afterwards under its first name.
    let mut index = 1;
    while index < program.nodes.len() {
        insert_after(&mut program, index, "relu_");
        index += 3;
    }
    let (cut, segments) = program.checkpointed(&Checkpointing::Auto).unwrap();
    assert!(segments.count > 2);
    for segment in cut.own_segments() {
        assert_ne!(segment.start % 3, 2, "the segment would change its input a second time");
    }
}

#[test]
fn what_changes_a_parameter_in_place_is_in_no_segment() {
    let mut program = dense(10);
    let weight = program.parameters[6].value;
    insert_after(&mut program, 5, "neg_");
    program.nodes[6].args[0].1 = Arg::Tensor(weight);
    let reader = program.nodes.iter().position(|node| node.uses().contains(&weight)).unwrap();
    let (cut, segments) = program.checkpointed(&Checkpointing::Auto).unwrap();
    assert!(segments.count > 0);
    assert!(cut.own_segments().iter().all(|segment| !segment.contains(&6)));
    assert!(reader >= 6, "reading the changed weight afterwards is fine");
}

#[test]
fn modules_are_named_by_patterns_and_nodes_of_none_go_with_those_around_them() {
    let mut program = dense(4);
    for node in &mut program.nodes {
        node.module = None;
    }
    let error = program.checkpointed(&Checkpointing::Modules(vec!["*".into()])).unwrap_err().to_string();
    assert!(error.contains("nn_module_stack"), "{error}");
    for (index, node) in program.nodes.iter_mut().enumerate() {
        let inner = if index % 2 == 0 { "linear" } else { "act" };
        node.module = Some(format!("layers.{}.{inner}", index / 2).into());
    }
    program.nodes[3].module = None;
    let named = |pattern: &str| program.checkpointed(&Checkpointing::Modules(vec![pattern.to_owned()]));
    let (cut, _) = named("layers.*").unwrap();
    assert_eq!(cut.own_segments(), [0..2, 2..3, 4..6, 6..8]);
    let (cut, _) = named("layers.2").unwrap();
    assert_eq!(cut.own_segments(), [4..6]);
    let (cut, _) = named("*.act").unwrap();
    assert_eq!(cut.own_segments(), [1..2, 5..6, 7..8]);
    let error = named("encoder.*").unwrap_err().to_string();
    assert!(error.contains("encoder.*") && error.contains("layers.0.act"), "{error}");
}

#[test]
fn layers_of_a_list_are_named_by_their_names_or_numbers() {
    let layers = |first: &str| {
        let text = format!(
            r#"{{"inputShape":[4,8],"seed":1,"layers":[{{"type":"transformerBlock","numHeads":2,"intermediateDim":16{first}}},
                {{"type":"dense","units":8,"activation":"relu"}},{{"type":"flatten"}},{{"type":"dense","units":3}}]}}"#
        );
        Program::read(text.into_bytes()).unwrap()
    };
    let nodes_of = |program: &Program, pattern: &str| -> Vec<(usize, usize)> {
        let (cut, _) = program.checkpointed(&Checkpointing::Modules(vec![pattern.to_owned()])).unwrap();
        cut.own_segments().iter().map(|segment| (segment.start, segment.len())).collect()
    };
    let (numbered, named) = (layers(""), layers(r#","name":"block""#));
    let [(0, block)] = nodes_of(&numbered, "0")[..] else { panic!("the whole block is one segment") };
    assert!(block > 10);
    assert_eq!(nodes_of(&named, "block"), [(0, block)]);
    assert_eq!(nodes_of(&numbered, "1"), [(block, 2)], "the dense layer and its activation");
    let parts = nodes_of(&named, "block.*");
    assert!(parts.len() > 1 && parts.iter().all(|(start, length)| start + length <= block), "{parts:?}");
}

#[test]
fn the_archive_s_own_segments_are_kept_unless_they_cannot_be_repeated() {
    let mut program = dense(6);
    for node in &mut program.nodes[2..4] {
        node.scope.segment = Some(7);
    }
    let (cut, segments) = program.checkpointed(&Checkpointing::None).unwrap();
    assert_eq!(cut.own_segments(), [2..4]);
    assert!(segments.dropped.is_empty());
    // Its input is changed after it.
    let value = insert_after(&mut program, 1, "relu_");
    let late = program.nodes.remove(2);
    program.nodes.insert(4, late);
    assert_eq!(program.nodes[4].outputs[0].values(), [value]);
    let (cut, segments) = program.checkpointed(&Checkpointing::None).unwrap();
    assert!(cut.own_segments().is_empty());
    assert_eq!(segments.dropped, [program.nodes[2].name.clone()]);
    let (cut, _) = program.checkpointed(&Checkpointing::Segments(2)).unwrap();
    assert_eq!(cut.own_segments().len(), 1, "a choice takes their place");
}
