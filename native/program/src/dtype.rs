//! Element types, layouts and memory formats, and their numbers in torch.export's schema.
//!
//! The schema numbers its enums in its own way (`torch/_export/serde/schema.py`); they are not c10's numbers, which is
//! why nothing outside this file sees either.

use std::fmt;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// Unsigned byte.
    UInt8,
    /// Signed byte.
    Int8,
    /// 16-bit integer.
    Int16,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// IEEE half precision.
    Float16,
    /// IEEE single precision.
    Float32,
    /// IEEE double precision.
    Float64,
    /// Truth value, one byte of 0 or 1.
    Bool,
    /// Brain float: the upper half of a single precision number.
    BFloat16,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::UInt8 | Self::Int8 | Self::Bool => 1,
            Self::Int16 | Self::Float16 | Self::BFloat16 => 2,
            Self::Int32 | Self::Float32 => 4,
            Self::Int64 | Self::Float64 => 8,
        }
    }

    /// PyTorch's name: `float32`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UInt8 => "uint8",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float16 => "float16",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Bool => "bool",
            Self::BFloat16 => "bfloat16",
        }
    }

    /// Whether it is one of the floating-point types: only those have gradients.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Self::Float16 | Self::Float32 | Self::Float64 | Self::BFloat16)
    }

    /// From `ScalarType` of the export schema. `Err` is the name, or the number if even that is unknown.
    pub(crate) fn from_schema(code: i64) -> Result<Self, String> {
        Ok(match code {
            1 => Self::UInt8,
            2 => Self::Int8,
            3 => Self::Int16,
            4 => Self::Int32,
            5 => Self::Int64,
            6 => Self::Float16,
            7 => Self::Float32,
            8 => Self::Float64,
            12 => Self::Bool,
            13 => Self::BFloat16,
            9 => return Err("complex32".into()),
            10 => return Err("complex64".into()),
            11 => return Err("complex128".into()),
            28 => return Err("uint16".into()),
            29..=32 => return Err("float8".into()),
            other => return Err(format!("number {other} of the export schema")),
        })
    }
}

impl DType {
    /// Its number in the export schema.
    pub(crate) const fn to_schema(self) -> i64 {
        match self {
            Self::UInt8 => 1,
            Self::Int8 => 2,
            Self::Int16 => 3,
            Self::Int32 => 4,
            Self::Int64 => 5,
            Self::Float16 => 6,
            Self::Float32 => 7,
            Self::Float64 => 8,
            Self::Bool => 12,
            Self::BFloat16 => 13,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for DType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How a tensor's elements are found in memory. Programs with sparse tensors are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// By strides.
    Strided,
}

impl Layout {
    pub(crate) fn from_schema(code: i64) -> Option<Self> {
        (code == Self::Strided.to_schema()).then_some(Self::Strided)
    }

    pub(crate) const fn to_schema(self) -> i64 {
        match self {
            Self::Strided => 7,
        }
    }
}

/// The order of a tensor's dimensions in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryFormat {
    /// Row-major.
    Contiguous,
    /// N, H, W, C.
    ChannelsLast,
    /// N, D, H, W, C.
    ChannelsLast3d,
    /// As the argument of the operator.
    Preserve,
}

impl MemoryFormat {
    pub(crate) fn from_schema(code: i64) -> Option<Self> {
        Some(match code {
            1 => Self::Contiguous,
            2 => Self::ChannelsLast,
            3 => Self::ChannelsLast3d,
            4 => Self::Preserve,
            _ => return None,
        })
    }
    pub(crate) const fn to_schema(self) -> i64 {
        match self {
            Self::Contiguous => 1,
            Self::ChannelsLast => 2,
            Self::ChannelsLast3d => 3,
            Self::Preserve => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_the_schema_reads_back_as_it_was_written() {
        for code in 0..64 {
            assert!(
                DType::from_schema(code).is_ok_and(|dtype| dtype.to_schema() == code)
                    || DType::from_schema(code).is_err()
            );
            assert!(Layout::from_schema(code).is_none_or(|layout| layout.to_schema() == code));
            assert!(MemoryFormat::from_schema(code).is_none_or(|format| format.to_schema() == code));
        }
    }
}
