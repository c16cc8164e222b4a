use super::*;
use crate::ir::{Buffer, Output, Scope, TensorData, Value};

/// Operator, tensors, numbers.
type Call<'c> = (&'c str, &'c [ValueId], &'c [(&'c str, f64)]);

/// A dense layer, to which calls are added.
struct Build(Program);

impl Build {
    fn new() -> Build {
        let text = r#"{"inputShape": [4], "seed": 1, "layers": [{"type": "dense", "units": 4}]}"#;
        Build(Program::read(text.as_bytes().to_vec()).unwrap())
    }

    fn input(&self) -> ValueId {
        self.0.inputs[0].value
    }

    fn value(&mut self, name: &str) -> ValueId {
        let meta = self.0.meta(self.0.outputs[0]).unwrap().clone();
        self.0.values.push(Value::tensor(name.to_owned(), meta));
        ValueId((self.0.values.len() - 1) as u32)
    }

    fn buffer(&mut self) -> ValueId {
        let value = self.value("buffer");
        let tensor: TensorData = self.0.parameters[1].tensor.clone();
        self.0.buffers.push(Buffer { value, name: "buffer".to_owned(), aliases: vec![], persistent: true, tensor });
        value
    }

    fn call(&mut self, (op, tensors, numbers): Call<'_>) -> ValueId {
        let value = self.value(op);
        let template = self.0.nodes[0].clone();
        let tensors = tensors.iter().zip(["self", "other"]).map(|(&value, name)| (name.to_owned(), Arg::Tensor(value)));
        let numbers = numbers.iter().map(|&(name, number)| (name.to_owned(), Arg::Float(number)));
        self.0.nodes.push(Node {
            name: op.to_owned(),
            target: Target::Aten { name: format!("aten::{op}"), overload: String::new() },
            args: tensors.chain(numbers).collect(),
            outputs: vec![Output::Tensor(value)],
            ..template
        });
        value
    }

    /// The operators of standing nodes; those of all others.
    fn split(&self) -> (Vec<String>, Vec<String>) {
        let (program, standing) = self.0.standing_first();
        let ops = |nodes: &[Node]| {
            nodes.iter().filter_map(Node::aten).map(|op| op.trim_start_matches("aten::").to_owned()).collect()
        };
        assert_eq!(program.nodes.len(), self.0.nodes.len());
        (ops(&program.nodes[..standing]), ops(&program.nodes[standing..]))
    }
}

#[test]
fn what_is_made_of_constants_and_of_the_sizes_of_inputs_stands_first_and_in_order() {
    let mut build = Build::new();
    let (input, output, buffer) = (build.input(), build.0.outputs[0], build.buffer());
    let positions = build.call(("arange", &[], &[("end", 4.0)]));
    let shifted = build.call(("add", &[positions, buffer], &[]));
    build.call(("mul", &[output, shifted], &[]));
    let zeros = build.call(("zeros_like", &[input], &[]));
    build.call(("ge", &[zeros, shifted], &[]));
    // Its sizes are those of a tensor that the program computes; the other one's values count.
    build.call(("zeros_like", &[output], &[]));
    build.call(("ge", &[input, shifted], &[]));
    let (standing, others) = build.split();
    assert_eq!(standing, ["arange", "add", "zeros_like", "ge"]);
    assert_eq!(others, ["linear", "mul", "zeros_like", "ge"]);
}

#[test]
fn parameters_are_no_constants() {
    let mut build = Build::new();
    let bias = build.0.parameters[1].value;
    build.call(("neg", &[bias], &[]));
    assert_eq!(build.split().0, [""; 0]);
}

#[test]
fn what_is_random_or_may_be_does_not_stand() {
    for op in ["rand", "bernoulli", "dropout", "native_dropout", "rrelu", "lstm", "scaled_dot_product_attention"] {
        let mut build = Build::new();
        let ones = build.call(("ones", &[], &[]));
        let drawn = build.call((op, &[ones], &[]));
        build.call(("add", &[drawn, ones], &[]));
        let (standing, others) = build.split();
        assert_eq!(standing, ["ones"], "{op}");
        assert_eq!(others, ["linear", op, "add"]);
    }
}

#[test]
fn what_is_changed_in_place_is_made_anew_each_time_and_so_is_what_is_a_view_of_it() {
    for change in ["fill_", "__iand__"] {
        let mut build = Build::new();
        let (zeros, ones) = (build.call(("zeros", &[], &[])), build.call(("ones", &[], &[])));
        let view = build.call(("view", &[zeros], &[]));
        let copy = build.call(("clone", &[zeros], &[]));
        build.call(("neg", &[copy], &[]));
        build.call((change, &[view], &[]));
        let changed = build.call(("neg", &[zeros], &[]));
        build.call(("add", &[changed, ones], &[]));
        let (standing, others) = build.split();
        assert_eq!(standing, ["ones"], "{change}");
        assert_eq!(others, ["linear", "zeros", "view", "clone", "neg", change, "neg", "add"]);
    }
}

#[test]
fn a_view_of_several_tensors_is_one_of_each() {
    let mut build = Build::new();
    let (zeros, ones) = (build.call(("zeros", &[], &[])), build.call(("ones", &[], &[])));
    let spread = build.call(("broadcast_tensors", &[], &[]));
    build.0.nodes.last_mut().unwrap().args = vec![("tensors".to_owned(), Arg::Tensors(vec![zeros, ones]))];
    build.call(("fill_", &[spread], &[]));
    assert_eq!(build.split().0, [""; 0]);
}

#[test]
fn buffers_that_the_program_writes_are_no_constants() {
    let mut build = Build::new();
    let buffer = build.buffer();
    build.call(("neg", &[buffer], &[]));
    assert_eq!(build.split().0, ["neg"]);
    build.call(("add_", &[buffer], &[]));
    assert_eq!(build.split().0, [""; 0]);
}

#[test]
fn nodes_of_a_checkpointed_segment_stay_in_it() {
    let mut build = Build::new();
    build.call(("ones", &[], &[]));
    build.0.nodes[1].scope = Scope { segment: Some(0), ..Scope::default() };
    assert_eq!(build.split().0, [""; 0]);
}
