//! What the fuzz targets run on any bytes, and the corpus test without a fuzzer.
//!
//! A model is read or refused; one that is read keeps every promise of [`crate::Program`], and so does what is derived from
//! it. `Err` says which promise was broken.

use std::collections::HashSet;

use crate::ir::{Arg, Node, Program, Target, ValueId};

/// Any bytes as a model.
///
/// # Errors
/// If a program comes of them that is not sound.
pub fn archive(bytes: &[u8]) -> Result<(), String> {
    match Program::read(bytes.to_vec()) {
        Ok(program) => sound(&program).and_then(|()| sound(&program.evaluation())),
        // Its message is made of what was found: it must not fail either.
        Err(error) => {
            if error.to_string().is_empty() {
                Err("an error without a message".into())
            } else {
                Ok(())
            }
        }
    }
}

/// Any bytes as the JSON of an archive that is otherwise whole: the program, the list of its weights and the list of its
/// constants, with a NUL between them. Checksums would keep a fuzzer out of them.
///
/// # Errors
/// As [`archive`].
pub fn model(bytes: &[u8]) -> Result<(), String> {
    archive(&around(bytes).map_err(|error| error.to_string())?)
}

/// The archive of [`model`]: beside the JSON, eight storages of 256 bytes for weights and one for constants.
///
/// # Errors
/// If there is no memory for it.
pub fn around(bytes: &[u8]) -> Result<Vec<u8>, crate::Error> {
    let mut parts = bytes.splitn(3, |&byte| byte == 0);
    let mut files = vec![("byteorder".to_owned(), b"little".as_slice())];
    for path in
        ["models/model.json", "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"]
    {
        files.push((path.to_owned(), parts.next().unwrap_or(b"{\"config\": {}}")));
    }
    for index in 0..8 {
        files.push((format!("data/weights/weight_{index}"), &[0; 256]));
    }
    files.push(("data/constants/tensor_0".to_owned(), &[0; 256]));
    let mut zip = Vec::new();
    crate::pt2::zip(&mut zip, &files)?;
    Ok(zip)
}

fn sound(program: &Program) -> Result<(), String> {
    let mut defined = HashSet::new();
    let mut define = |value: ValueId| {
        if value.index() >= program.values.len() {
            return Err(format!("{value:?} is no value"));
        }
        if defined.insert(value) { Ok(()) } else { Err(format!("{value:?} is defined twice")) }
    };
    for input in &program.inputs {
        define(input.value)?;
        if input.shape.is_empty() {
            return Err(format!("input {} has no batch", input.name));
        }
    }
    let parameters = program.parameters.iter().map(|parameter| (parameter.value, &parameter.tensor));
    let buffers = program.buffers.iter().map(|buffer| (buffer.value, &buffer.tensor));
    let constants = program.constants.iter().map(|constant| (constant.value, &constant.tensor));
    for (value, tensor) in parameters.chain(buffers).chain(constants) {
        define(value)?;
        let end = tensor.extent().end.checked_mul(tensor.dtype.size() as i64);
        if tensor.elements() > 0 && end.is_none_or(|end| end > tensor.bytes.len() as i64) {
            return Err(format!("{value:?} reaches beyond its bytes"));
        }
    }
    nodes_are_sound(program, &program.nodes, &mut defined)?;
    if program.outputs.len() != program.output_names.len() || program.outputs.is_empty() {
        return Err("outputs without names".to_owned());
    }
    for output in &program.outputs {
        if !defined.contains(output) || program.meta(*output).is_none() {
            return Err(format!("output {output:?} is no tensor that is defined"));
        }
    }
    // Whatever else is asked of a program works on any.
    let _ = (program.describe(), program.mutated_buffers(), program.random_nodes());
    Ok(())
}

fn nodes_are_sound(program: &Program, nodes: &[Node], defined: &mut HashSet<ValueId>) -> Result<(), String> {
    for node in nodes {
        for (_, arg) in &node.args {
            arg_is_sound(program, arg, defined)?;
        }
        match &node.target {
            Target::Aten { name, .. } if !crate::is_allowed(name) => return Err(format!("{name} is not allowed")),
            Target::Scalar(op) if node.args.len() != op.arity() => return Err(format!("{op:?} lacks arguments")),
            Target::Aten { .. } | Target::Scalar(_) => {}
            Target::Cond { blocks } => {
                for block in blocks.iter() {
                    let mut inside = defined.clone();
                    nodes_are_sound(program, &block.nodes, &mut inside)?;
                    if block.results.len() != node.outputs.len() {
                        return Err(format!("a block of {} returns too little", node.name));
                    }
                    for result in &block.results {
                        arg_is_sound(program, result, &inside)?;
                    }
                }
            }
        }
        for value in node.defines() {
            if value.index() >= program.values.len() || !defined.insert(value) {
                return Err(format!("{value:?} is no value or defined twice"));
            }
        }
    }
    Ok(())
}

fn arg_is_sound(program: &Program, arg: &Arg, defined: &HashSet<ValueId>) -> Result<(), String> {
    let tensor = matches!(arg, Arg::Tensor(_) | Arg::Tensors(_) | Arg::OptionalTensors(_));
    for value in arg.values() {
        if !defined.contains(&value) {
            return Err(format!("{value:?} is used before it is defined"));
        }
        if program.meta(value).is_some() != tensor {
            return Err(format!("{value:?} is used as what it is not"));
        }
    }
    Ok(())
}
