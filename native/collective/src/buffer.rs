//! Memory that an operation works on, and the types of the elements in it.
//!
//! An operation owns its buffer from `start_*` until it is over, so no lifetime ties the caller's memory to a thread.

use std::fmt;
use std::ops::Range;

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

/// Memory on a GPU that an operation borrows by owning it. Only NCCL groups take it, and they take nothing else.
///
/// # What an implementation must keep
/// - The address stays valid device memory of `length` bytes on `device` for as long as the region lives.
/// - Work on the memory is ordered by `stream`: what was put on it before the operation started is done before the
///   operation reads, and nothing else touches the memory while the region lives.
pub trait DeviceRegion: Send {
    /// The device address of the first byte.
    fn address(&self) -> u64;
    /// Bytes.
    fn length(&self) -> usize;
    /// The CUDA ordinal of the device.
    fn device(&self) -> i32;
    /// The CUDA stream (`cudaStream_t`) whose order the operation joins; 0 is the default stream.
    fn stream(&self) -> u64;
}

/// The types that can travel and be reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// 16-bit float of IEEE 754; each step of a sum is computed in f32 and rounded to nearest even.
    F16,
    /// bfloat16; each step of a sum is computed in f32 and rounded to nearest even.
    BF16,
    /// 32-bit signed integer; sums wrap.
    I32,
    /// 64-bit signed integer; sums wrap.
    I64,
    /// Byte; sums wrap.
    U8,
}

impl DType {
    /// All types.
    pub const ALL: [DType; 7] = [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::I64, DType::U8];

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F64 | DType::I64 => 8,
            DType::F16 | DType::BF16 => 2,
            DType::U8 => 1,
        }
    }

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U8 => "u8",
        }
    }

    /// Whether the elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }
}

/// A region and the type of its elements. The length need not be a multiple of anything but the element size.
pub struct Buffer {
    memory: Memory,
    dtype: DType,
    /// The bytes that count, where not all of the region's do.
    window: Option<Range<usize>>,
}

enum Memory {
    Host(Box<dyn Region>),
    Device(Box<dyn DeviceRegion>),
}

impl Buffer {
    /// A buffer of `dtype` over `region`.
    pub fn new(region: Box<dyn Region>, dtype: DType) -> Buffer {
        Buffer { memory: Memory::Host(region), dtype, window: None }
    }

    /// A buffer of `dtype` on a GPU.
    pub fn on_device(region: Box<dyn DeviceRegion>, dtype: DType) -> Buffer {
        Buffer { memory: Memory::Device(region), dtype, window: None }
    }

    /// The same memory, of which only the bytes in `window` (within the region) count; none for all of it again. For
    /// buffers in the host's memory.
    pub(crate) fn windowed(self, window: Option<Range<usize>>) -> Buffer {
        Buffer { window, ..self }
    }

    /// A buffer without elements: what a barrier gives back.
    pub fn empty() -> Buffer {
        Buffer::new(Box::new(Vec::new()), DType::U8)
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes, wherever they are.
    pub fn length(&mut self) -> usize {
        match &self.memory {
            Memory::Host(_) => self.bytes().len(),
            Memory::Device(region) => region.length(),
        }
    }

    /// The elements' bytes, where this process can reach them: none for a buffer on a GPU.
    pub fn bytes(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Host(region) => match &self.window {
                None => region.bytes(),
                Some(window) => region.bytes().get_mut(window.clone()).unwrap_or(&mut []),
            },
            Memory::Device(_) => &mut [],
        }
    }

    /// The memory on a GPU, if the buffer lies there.
    pub fn device(&self) -> Option<&dyn DeviceRegion> {
        match &self.memory {
            Memory::Host(_) => None,
            Memory::Device(region) => Some(&**region),
        }
    }

    /// Gives the memory back; none for a buffer on a GPU, see [`Buffer::into_device_region`].
    pub fn into_region(self) -> Box<dyn Region> {
        match self.memory {
            Memory::Host(region) => region,
            Memory::Device(_) => Box::new(Vec::new()),
        }
    }

    /// Gives the memory on a GPU back.
    pub fn into_device_region(self) -> Option<Box<dyn DeviceRegion>> {
        match self.memory {
            Memory::Host(_) => None,
            Memory::Device(region) => Some(region),
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("dtype", &self.dtype).finish_non_exhaustive()
    }
}
