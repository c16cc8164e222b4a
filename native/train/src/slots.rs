//! The values of a run: one slot for each value of the program, filled by the node that makes it.

use kindling_program::{Scalar, ValueId};
use tch::Tensor;

use crate::compile::Operand;
use crate::error::{Doing, Error, Result};

/// A value, or nothing before it is made and after its last use.
#[derive(Default)]
pub(crate) enum Slot {
    #[default]
    Empty,
    Tensor(Tensor),
    Number(Scalar),
}

/// Fills a slot.
pub(crate) fn put(slots: &mut [Slot], value: ValueId, content: Slot) -> Result<()> {
    match slots.get_mut(value.index()) {
        Some(slot) => {
            *slot = content;
            Ok(())
        }
        None => Err(Error::Config(format!("the program names value {} and has none", value.index()))),
    }
}

/// The tensor in a slot.
pub(crate) fn tensor_at(slots: &[Slot], value: ValueId) -> Result<&Tensor> {
    match slots.get(value.index()) {
        Some(Slot::Tensor(tensor)) => Ok(tensor),
        _ => Err(Error::Config(format!("the program reads value {} as a tensor before a node made it", value.index()))),
    }
}

/// The number in a slot.
pub(crate) fn number_at(slots: &[Slot], value: ValueId) -> Result<Scalar> {
    match slots.get(value.index()) {
        Some(Slot::Number(number)) => Ok(*number),
        _ => Err(Error::Config(format!("the program reads value {} as a number before a node made it", value.index()))),
    }
}

/// A number that is a value or a literal.
pub(crate) fn operand(slots: &[Slot], operand: Operand) -> Result<Scalar> {
    match operand {
        Operand::Value(value) => number_at(slots, value),
        Operand::Literal(number) => Ok(number),
    }
}

/// Whether a tensor of one element, or a number, is true.
pub(crate) fn truth_at(slots: &[Slot], value: ValueId) -> Result<bool> {
    match slots.get(value.index()) {
        Some(Slot::Tensor(tensor)) => tensor.f_is_nonzero().doing("reading the predicate of a cond"),
        _ => number_at(slots, value).map(Scalar::truth),
    }
}
