//! Just enough of NumPy's `.npy` format (version 1) for test data: little-endian, C order, one or more dimensions.

use std::path::Path;

use kindling_shards::{ColumnData, DType};

use crate::Result;

/// An array of rows.
pub struct Array {
    values: Values,
    rows: usize,
    /// Values per row.
    pub width: usize,
}

enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

/// Some rows of an array.
pub enum Rows<'a> {
    /// float32.
    F32(&'a [f32]),
    /// float64.
    F64(&'a [f64]),
    /// int32.
    I32(&'a [i32]),
    /// int64.
    I64(&'a [i64]),
}

impl Array {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Array> {
        let bytes = std::fs::read(path)?;
        let broken = || format!("{} is no .npy file of version 1", path.display());
        let length = match bytes.get(..10) {
            Some([0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, low, high]) => {
                usize::from(u16::from_le_bytes([*low, *high]))
            }
            _ => return Err(broken().into()),
        };
        let header = std::str::from_utf8(bytes.get(10..10 + length).ok_or_else(broken)?)?;
        let data = bytes.get(10 + length..).ok_or_else(broken)?;
        let field = |name: &str| header.split_once(name).map(|(_, rest)| rest).ok_or_else(broken);
        let descr = field("'descr': '")?.split('\'').next().unwrap_or_default();
        let shape = field("'shape': (")?.split(')').next().unwrap_or_default();
        let sizes = shape
            .split(',')
            .map(str::trim)
            .filter(|size| !size.is_empty())
            .map(str::parse::<usize>)
            .collect::<std::result::Result<Vec<_>, _>>()?;
        if header.contains("'fortran_order': True") {
            return Err(broken().into());
        }
        let values = match crate::dtype(descr).ok_or_else(|| format!("dtype {descr} is not read here"))? {
            DType::UInt8 => return Err(format!("dtype {descr} is not read here").into()),
            DType::Float32 => Values::F32(data.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect()),
            DType::Float64 => Values::F64(data.as_chunks().0.iter().map(|v| f64::from_le_bytes(*v)).collect()),
            DType::Int32 => Values::I32(data.as_chunks().0.iter().map(|v| i32::from_le_bytes(*v)).collect()),
            DType::Int64 => Values::I64(data.as_chunks().0.iter().map(|v| i64::from_le_bytes(*v)).collect()),
        };
        let rows = sizes.first().copied().unwrap_or(0);
        Ok(Array { values, rows, width: sizes.iter().skip(1).product() })
    }

    /// Its dtype.
    pub fn dtype(&self) -> DType {
        match self.values {
            Values::F32(_) => DType::Float32,
            Values::F64(_) => DType::Float64,
            Values::I32(_) => DType::Int32,
            Values::I64(_) => DType::Int64,
        }
    }

    /// `count` rows from `start` on.
    pub fn rows(&self, start: usize, count: usize) -> Result<Rows<'_>> {
        let range = start * self.width..(start + count) * self.width;
        let rows = match &self.values {
            Values::F32(values) => values.get(range).map(Rows::F32),
            Values::F64(values) => values.get(range).map(Rows::F64),
            Values::I32(values) => values.get(range).map(Rows::I32),
            Values::I64(values) => values.get(range).map(Rows::I64),
        };
        rows.ok_or_else(|| format!("rows {start}..{} of {}", start + count, self.rows).into())
    }
}

impl Rows<'_> {
    /// As the shard store takes them.
    pub fn data(&self) -> ColumnData<'_> {
        match self {
            Rows::F32(values) => ColumnData::Float32(values),
            Rows::F64(values) => ColumnData::Float64(values),
            Rows::I32(values) => ColumnData::Int32(values),
            Rows::I64(values) => ColumnData::Int64(values),
        }
    }
}
