//! Between bytes and tensors: dtypes, tensors made from a program's data, and the memory of a tensor as bytes.
#![allow(unsafe_code, reason = "views of tensor memory as bytes")]

use kindling_program::{DType, TensorData};
use tch::{Device, Kind, Tensor};

use crate::error::{Doing, Error, Result, Torch};

/// libtorch's name for a program's dtype.
pub(crate) fn kind_of(dtype: DType) -> Kind {
    match dtype {
        DType::UInt8 => Kind::Uint8,
        DType::Int8 => Kind::Int8,
        DType::Int16 => Kind::Int16,
        DType::Int32 => Kind::Int,
        DType::Int64 => Kind::Int64,
        DType::Float16 => Kind::Half,
        DType::Float32 => Kind::Float,
        DType::Float64 => Kind::Double,
        DType::Bool => Kind::Bool,
        DType::BFloat16 => Kind::BFloat16,
    }
}

/// A CPU tensor with the sizes, strides and values of `data`; the bytes are copied.
pub(crate) fn from_data(data: &TensorData) -> Result<Tensor> {
    let kind = kind_of(data.dtype);
    if data.sizes.contains(&0) {
        return Tensor::f_empty(&data.sizes, (kind, Device::Cpu)).doing("making an empty tensor");
    }
    let reach: i64 = data.sizes.iter().zip(&data.strides).map(|(size, stride)| (size - 1) * stride).sum();
    let width = data.dtype.size();
    // The program checked that offset and reach lie inside the bytes.
    let start = usize::try_from(data.offset).unwrap_or(0) * width;
    let length = usize::try_from(reach + 1).unwrap_or(0) * width;
    let bytes = data
        .bytes
        .get(start..start + length)
        .ok_or_else(|| Error::Config("a tensor of the program reaches beyond its bytes".to_owned()))?;
    Tensor::f_from_data_size(bytes, &[reach + 1], kind)
        .and_then(|flat| flat.f_as_strided(&data.sizes, &data.strides, None))
        .doing("reading a tensor of the program")
}

/// The bytes of a contiguous CPU tensor that the caller holds alone.
pub(crate) fn bytes_mut(tensor: &mut Tensor) -> Result<&mut [u8]> {
    let length = byte_length(tensor)?;
    if length == 0 {
        return Ok(&mut []);
    }
    // SAFETY: a contiguous CPU tensor of `length` bytes, alive as long as the borrow. `&mut` keeps other uses of this
    // handle out; the callers made the tensor or own its flat buffer, so no other thread works on its storage.
    Ok(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<u8>(), length) })
}

/// The bytes of a contiguous CPU tensor, to read.
pub(crate) fn bytes(tensor: &Tensor) -> Result<&[u8]> {
    let length = byte_length(tensor)?;
    if length == 0 {
        return Ok(&[]);
    }
    // SAFETY: as for bytes_mut, and nobody writes while a training or prediction call is not running.
    Ok(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), length) })
}

/// The address of a contiguous CPU tensor's first element.
pub(crate) fn address(tensor: &Tensor) -> Result<u64> {
    byte_length(tensor)?;
    Ok(tensor.data_ptr() as u64)
}

fn byte_length(tensor: &Tensor) -> Result<usize> {
    let refused = |why: &str| Error::Torch { doing: "reading a tensor's memory", source: Torch::new(why) };
    if tensor.device() != Device::Cpu || !tensor.is_contiguous() {
        return Err(refused("the tensor is not a contiguous tensor of the CPU"));
    }
    tensor.numel().checked_mul(tensor.kind().elt_size_in_bytes()).ok_or_else(|| refused("its size overflows"))
}

/// A flat tensor lent to a collective operation; the operation owns it until it is quiescent.
pub(crate) struct Lent {
    tensor: Tensor,
}

impl Lent {
    /// Lends a contiguous CPU tensor. The caller leaves its memory alone until the operation gives it back.
    pub(crate) fn new(tensor: &Tensor) -> Result<Lent> {
        byte_length(tensor)?;
        Ok(Lent { tensor: tensor.shallow_clone() })
    }
}

impl kindling_collective::Region for Lent {
    fn bytes(&mut self) -> &mut [u8] {
        // `new` checked what bytes_mut checks, and a tensor's device and strides do not change.
        bytes_mut(&mut self.tensor).unwrap_or(&mut [])
    }
}

/// The collective's name for a tensor's dtype.
pub(crate) fn wire_dtype(kind: Kind) -> Result<kindling_collective::DType> {
    match kind {
        Kind::Float => Ok(kindling_collective::DType::F32),
        Kind::Double => Ok(kindling_collective::DType::F64),
        Kind::Half => Ok(kindling_collective::DType::F16),
        Kind::BFloat16 => Ok(kindling_collective::DType::BF16),
        Kind::Int => Ok(kindling_collective::DType::I32),
        Kind::Int64 => Ok(kindling_collective::DType::I64),
        Kind::Uint8 => Ok(kindling_collective::DType::U8),
        other => Err(Error::Config(format!("tensors of kind {other:?} are not reduced between ranks"))),
    }
}
