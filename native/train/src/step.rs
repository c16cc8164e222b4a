//! Running one node: the modes of its scope, the work, and what may go after it.

use kindling_program::{Arg, Output, Scalar, SymInt, ValueId};
use tch::Tensor;

use crate::compile::{Guard, Predicate, Step, Work};
use crate::error::{Error, Result, Torch};
use crate::shim::Results;
use crate::slots::{Slot, number_at, operand, put, tensor_at, truth_at};
use crate::within::Within;

impl Step {
    pub(crate) fn run(&mut self, slots: &mut [Slot], within: &mut Within<'_>) -> Result<()> {
        let (node, op) = (&self.node, &self.op);
        let failed = |source: Torch| Error::Node { node: node.clone(), op: op.clone(), source };
        within.modes.enter(self.scope).map_err(failed)?;
        match &mut self.work {
            Work::Size { tensor, dim, output } => {
                let sizes = tensor_at(slots, *tensor)?.size();
                let index = if *dim < 0 { *dim + sizes.len() as i64 } else { *dim };
                let size = usize::try_from(index).ok().and_then(|index| sizes.get(index).copied());
                let size = size.ok_or_else(|| Error::Config(format!("node {node} asks for dimension {dim}")))?;
                put(slots, *output, Slot::Number(Scalar::Int(size)))?;
            }
            Work::Scalar { op: operation, arguments, output } => {
                let values = arguments.iter().map(|&argument| operand(slots, argument)).collect::<Result<Vec<_>>>()?;
                let result = operation.apply(&values)?;
                put_number(node, op, slots, output, result)?;
            }
            Work::Call { shared: Some(norm), .. } if let Some(norms) = within.norms => {
                norm.run(node, norms, slots, within)?;
            }
            Work::Call { call, tensors, numbers, outputs, random, guard, .. } => {
                if let Guard::BatchNorm { input } = guard {
                    check_batch_norm(node, tensor_at(slots, *input)?)?;
                }
                let given = tensors.iter().map(|&value| tensor_at(slots, value)).collect::<Result<Vec<_>>>()?;
                let numbers = numbers.iter().map(|&value| number_at(slots, value)).collect::<Result<Vec<_>>>()?;
                let mut results =
                    call.run(&given, &numbers, random.then_some(&mut *within.generator)).map_err(failed)?;
                for (index, output) in outputs.iter().enumerate() {
                    take(node, op, slots, &mut results, index, output)?;
                }
            }
            Work::Cond { predicate, blocks, outputs } => {
                let truth = match *predicate {
                    Predicate::Literal(truth) => truth,
                    Predicate::Value(value) => truth_at(slots, value)?,
                };
                let [yes, no] = blocks.as_mut();
                let block = if truth { yes } else { no };
                for step in &mut block.steps {
                    step.run(slots, within)?;
                }
                for (output, result) in outputs.iter().zip(&block.results) {
                    hand_out(node, op, slots, output, result)?;
                }
            }
        }
        for value in &self.last_uses {
            put(slots, *value, Slot::Empty)?;
        }
        Ok(())
    }
}

/// Takes what an operator returned.
fn take(
    node: &str,
    op: &str,
    slots: &mut [Slot],
    results: &mut Results<'_>,
    index: usize,
    output: &Output,
) -> Result<()> {
    let failed = |source: Torch| Error::Node { node: node.to_owned(), op: op.to_owned(), source };
    match output {
        Output::Tensor(value) => put(slots, *value, Slot::Tensor(results.tensor(index).map_err(failed)?)),
        Output::Tensors(values) => {
            let list = results.tensors(index).map_err(failed)?;
            if list.len() != values.len() {
                return Err(Error::Config(format!(
                    "node {node} ({op}) returned {} tensors where the program expects {}",
                    list.len(),
                    values.len()
                )));
            }
            values.iter().zip(list).try_for_each(|(value, tensor)| put(slots, *value, Slot::Tensor(tensor)))
        }
        Output::Int(_) | Output::Float(_) | Output::Bool(_) => {
            let number = results.number(index).map_err(failed)?;
            put_number(node, op, slots, output, number)
        }
        Output::None => Ok(()),
    }
}

/// Hands a result of a `cond`'s block to the node's own output.
fn hand_out(node: &str, op: &str, slots: &mut [Slot], output: &Output, result: &Arg) -> Result<()> {
    let number = match (output, result) {
        (Output::None, _) => return Ok(()),
        (Output::Tensor(value), Arg::Tensor(result)) => {
            let tensor = tensor_at(slots, *result)?.shallow_clone();
            return put(slots, *value, Slot::Tensor(tensor));
        }
        (_, Arg::SymInt(SymInt::Value(result)) | Arg::SymFloat(result) | Arg::SymBool(result)) => {
            number_at(slots, *result)?
        }
        (_, Arg::Int(number) | Arg::SymInt(SymInt::Const(number))) => Scalar::Int(*number),
        (_, Arg::Float(number)) => Scalar::Float(*number),
        (_, Arg::Bool(truth)) => Scalar::Bool(*truth),
        _ => return Err(Error::Config(format!("node {node} ({op}) returns something else than its block"))),
    };
    put_number(node, op, slots, output, number)
}

/// Fills the slot of a number, which must be of the kind that the program says.
fn put_number(node: &str, op: &str, slots: &mut [Slot], output: &Output, number: Scalar) -> Result<()> {
    let (value, number): (ValueId, Option<Scalar>) = match output {
        Output::Int(value) => (*value, number.int().map(Scalar::Int)),
        Output::Float(value) => (*value, Some(Scalar::Float(number.float()))),
        Output::Bool(value) => (*value, matches!(number, Scalar::Bool(_)).then_some(number)),
        Output::Tensor(_) | Output::Tensors(_) | Output::None => {
            return Err(Error::Config(format!("node {node} ({op}) gave a number where the program expects none")));
        }
    };
    let kept = number.ok_or_else(|| {
        Error::Config(format!("node {node} ({op}) gave a number of another kind than the program says"))
    })?;
    put(slots, value, Slot::Number(kept))
}

fn check_batch_norm(node: &str, input: &Tensor) -> Result<()> {
    let channels = input.size().get(1).copied().unwrap_or(1).max(1);
    if input.numel() as i64 / channels > 1 {
        return Ok(());
    }
    Err(Error::Config(format!(
        "batch norm (node {node}) needs more than one value per channel in training and this rank's share of the batch \
         has shape {:?}; choose batchSize so that every rank has at least 2 rows in every batch, the last one included",
        input.size()
    )))
}
