//! Trained weights: a safetensors file that holds exactly the state of a program, each name as the program has it.

use std::collections::BTreeSet;

use safetensors::{Dtype, SafeTensors};

use crate::dtype::DType;
use crate::error::Error;
use crate::ir::Program;
use crate::tensor::TensorData;

/// The weights of one program, checked against it.
pub(super) struct Trained<'a> {
    file: SafeTensors<'a>,
}

impl<'a> Trained<'a> {
    /// Every parameter and persistent buffer must be there under all its names, with its type and shape, and nothing
    /// else may be.
    pub(super) fn read(program: &Program, bytes: &'a [u8]) -> Result<Self, Error> {
        let problem = |problem: String| Error::Trained { problem };
        let file = SafeTensors::deserialize(bytes).map_err(|error| problem(format!("are no safetensors ({error})")))?;
        let mut known = BTreeSet::new();
        for (name, tensor) in state(program) {
            let stored = file.tensor(name).map_err(|_| problem(format!("lack {name}")))?;
            let shape: Vec<i64> = stored.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
            if shape != tensor.sizes || stored.dtype() != dtype(tensor.dtype) {
                return Err(problem(format!(
                    "hold {name} as {:?} {shape:?}, where the program has {} {:?}",
                    stored.dtype(),
                    tensor.dtype,
                    tensor.sizes
                )));
            }
            known.insert(name);
        }
        match file.names().into_iter().find(|name| !known.contains(name)) {
            Some(stranger) => Err(problem(format!("hold {stranger}, which the program does not have"))),
            None => Ok(Self { file }),
        }
    }

    /// The row-major values of a name; `None` if it is no part of the program's state.
    pub(super) fn values(&self, name: &str) -> Option<&'a [u8]> {
        self.file.tensor(name).ok().map(|tensor| tensor.data())
    }
}

/// Everything that is saved, under each of its names.
fn state(program: &Program) -> impl Iterator<Item = (&str, &TensorData)> {
    let parameters = program.parameters.iter().map(|p| (&p.name, &p.aliases, &p.tensor));
    let buffers = program.buffers.iter().filter(|b| b.persistent).map(|b| (&b.name, &b.aliases, &b.tensor));
    parameters.chain(buffers).flat_map(|(name, aliases, tensor)| {
        std::iter::once(name).chain(aliases).map(move |name| (name.as_str(), tensor))
    })
}

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::UInt8 => Dtype::U8,
        DType::Int8 => Dtype::I8,
        DType::Int16 => Dtype::I16,
        DType::Int32 => Dtype::I32,
        DType::Int64 => Dtype::I64,
        DType::Float16 => Dtype::F16,
        DType::Float32 => Dtype::F32,
        DType::Float64 => Dtype::F64,
        DType::Bool => Dtype::BOOL,
        DType::BFloat16 => Dtype::BF16,
    }
}
