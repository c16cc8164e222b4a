//! Trained weights as safetensors: every parameter under all its names, and the buffers that PyTorch would save.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kindling_program::Program;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use tch::{Device, Kind, Tensor};

use crate::error::{Doing, Error, Result};
use crate::runner::State;
use crate::tensors;

/// The program's state under PyTorch's names.
fn named<'a>(program: &'a Program, state: &'a State) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
    let parameters = program.parameters.iter().zip(&state.parameters).flat_map(|(parameter, tensor)| {
        let names = std::iter::once(&parameter.name).chain(&parameter.aliases);
        names.map(move |name| (name.as_str(), tensor))
    });
    let buffers = program.buffers.iter().zip(&state.buffers).filter(|(buffer, _)| buffer.persistent);
    parameters.chain(buffers.flat_map(|(buffer, tensor)| {
        std::iter::once(&buffer.name).chain(&buffer.aliases).map(move |name| (name.as_str(), tensor))
    }))
}

/// Writes the state.
pub(crate) fn write(program: &Program, state: &State) -> Result<Vec<u8>> {
    let mut views = BTreeMap::new();
    for (name, tensor) in named(program, state) {
        views.insert(name.to_owned(), Weight::new(name, tensor)?);
    }
    safetensors::serialize(views, None)
        .map_err(|error| Error::Weights(format!("the weights cannot be written: {error}")))
}

/// Replaces the state by what `bytes` holds: every name of the program must be there with its shape and dtype, and no
/// other.
pub(crate) fn read(program: &Program, state: &State, bytes: &[u8]) -> Result<()> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| Error::Weights(format!("the weights are not safetensors: {error}")))?;
    let mut known = 0;
    for (name, tensor) in named(program, state) {
        let stored = file
            .tensor(name)
            .map_err(|_| Error::Weights(format!("the weights lack {name}: they belong to another program")))?;
        overwrite(name, tensor, &stored)?;
        known += 1;
    }
    if file.len() != known {
        let names: Vec<&str> = named(program, state).map(|(name, _)| name).collect();
        let stranger = file.names().into_iter().find(|name| !names.contains(name)).unwrap_or("?");
        return Err(Error::Weights(format!("the weights hold {stranger}, which the program does not have")));
    }
    Ok(())
}

/// Fills `place` with what is stored, which must have its shape and dtype.
pub(crate) fn overwrite(name: &str, place: &Tensor, stored: &TensorView<'_>) -> Result<()> {
    check_same(name, place, stored)?;
    let values = Tensor::f_from_data_size(stored.data(), &place.size(), place.kind()).doing("reading the weights")?;
    let mut place = place.f_detach().doing("replacing the weights")?;
    place.f_copy_(&values).doing("replacing the weights")
}

fn check_same(name: &str, tensor: &Tensor, stored: &TensorView<'_>) -> Result<()> {
    let (shape, dtype) = (shape_of(tensor), dtype_of(name, tensor.kind())?);
    if stored.shape() == shape && stored.dtype() == dtype {
        return Ok(());
    }
    Err(Error::Weights(format!(
        "the weight {name} is {:?} of shape {:?} in the weights and {dtype:?} of shape {shape:?} in the program",
        stored.dtype(),
        stored.shape()
    )))
}

fn shape_of(tensor: &Tensor) -> Vec<usize> {
    tensor.size().into_iter().map(|size| usize::try_from(size).unwrap_or(0)).collect()
}

fn dtype_of(name: &str, kind: Kind) -> Result<Dtype> {
    Ok(match kind {
        Kind::Uint8 => Dtype::U8,
        Kind::Int8 => Dtype::I8,
        Kind::Int16 => Dtype::I16,
        Kind::Int => Dtype::I32,
        Kind::Int64 => Dtype::I64,
        Kind::Half => Dtype::F16,
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::Bool => Dtype::BOOL,
        Kind::BFloat16 => Dtype::BF16,
        other => {
            return Err(Error::Weights(format!("the weight {name} is of kind {other:?}, which safetensors lacks")));
        }
    })
}

/// One tensor on its way into a safetensors file.
pub(crate) struct Weight {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Contiguous, in the host's memory.
    tensor: Tensor,
}

impl Weight {
    pub(crate) fn new(name: &str, tensor: &Tensor) -> Result<Weight> {
        let here = tensor.f_detach().and_then(|tensor| tensor.f_to_device(Device::Cpu));
        let tensor = here.and_then(|tensor| tensor.f_contiguous()).doing("reading the weights")?;
        Ok(Weight { dtype: dtype_of(name, tensor.kind())?, shape: shape_of(&tensor), tensor })
    }
}

impl View for Weight {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        // `new` made the tensor contiguous, which is all that can fail here.
        tensors::bytes(&self.tensor).unwrap_or(&[]).into()
    }
    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}
