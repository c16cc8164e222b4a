//! Memory that an operation works on, and the types of the elements in it.
//!
//! An operation owns its buffer from `start_*` until it is over, so no lifetime ties the caller's memory to a thread.

use std::fmt;

/// Memory that an operation borrows by owning it: a tensor, a slice of a flat gradient buffer, a vector.
///
/// # What an implementation must keep
/// - The bytes stay where they are and keep their length for as long as the region lives: `bytes` is called once per
///   operation or many times, and every call returns the same memory.
/// - Nobody else writes into the bytes while the region lives, and nobody relies on reading them.
/// - Neither `bytes` nor dropping calls a communicator, a work or an aborter: the group's lock may be held.
///
/// The region may be dropped on any thread, when the operation failed or its [`Work`](crate::Work) was dropped.
pub trait Region: Send {
    /// The memory itself.
    fn bytes(&mut self) -> &mut [u8];
}

impl Region for Vec<u8> {
    fn bytes(&mut self) -> &mut [u8] {
        self
    }
}

/// The types that can travel and be reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// 64-bit signed integer; sums wrap.
    I64,
    /// Byte; sums wrap.
    U8,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F64 | DType::I64 => 8,
            DType::U8 => 1,
        }
    }

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::I64 => "i64",
            DType::U8 => "u8",
        }
    }
}

/// A region and the type of its elements. The length need not be a multiple of anything but the element size.
pub struct Buffer {
    region: Box<dyn Region>,
    dtype: DType,
}

impl Buffer {
    /// A buffer of `dtype` over `region`.
    pub fn new(region: Box<dyn Region>, dtype: DType) -> Buffer {
        Buffer { region, dtype }
    }

    /// A buffer without elements: what a barrier gives back.
    pub fn empty() -> Buffer {
        Buffer::new(Box::new(Vec::new()), DType::U8)
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The elements' bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.region.bytes()
    }

    /// Gives the memory back.
    pub fn into_region(self) -> Box<dyn Region> {
        self.region
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("dtype", &self.dtype).finish_non_exhaustive()
    }
}
