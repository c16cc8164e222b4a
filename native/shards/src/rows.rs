//! Rows handed over by a Rust caller as typed slices, and their check against the columns.

use arrow_buffer::ToByteSlice;

use crate::error::{Error, Result};
use crate::spec::{Column, DType};

/// Values of one column, row-major, lent for [`ShardStore::write_rows`](crate::ShardStore::write_rows).
#[derive(Debug, Clone, Copy)]
pub enum ColumnData<'a> {
    /// Values of a `uint8` column.
    UInt8(&'a [u8]),
    /// Values of a `float32` column.
    Float32(&'a [f32]),
    /// Values of a `float64` column.
    Float64(&'a [f64]),
    /// Values of an `int32` column.
    Int32(&'a [i32]),
    /// Values of an `int64` column.
    Int64(&'a [i64]),
}

impl ColumnData<'_> {
    fn dtype(&self) -> DType {
        match self {
            ColumnData::UInt8(_) => DType::UInt8,
            ColumnData::Float32(_) => DType::Float32,
            ColumnData::Float64(_) => DType::Float64,
            ColumnData::Int32(_) => DType::Int32,
            ColumnData::Int64(_) => DType::Int64,
        }
    }

    fn len(&self) -> usize {
        match self {
            ColumnData::UInt8(values) => values.len(),
            ColumnData::Float32(values) => values.len(),
            ColumnData::Float64(values) => values.len(),
            ColumnData::Int32(values) => values.len(),
            ColumnData::Int64(values) => values.len(),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            ColumnData::UInt8(values) => values,
            ColumnData::Float32(values) => values.to_byte_slice(),
            ColumnData::Float64(values) => values.to_byte_slice(),
            ColumnData::Int32(values) => values.to_byte_slice(),
            ColumnData::Int64(values) => values.to_byte_slice(),
        }
    }
}

/// Rows in the data: one entry per column, of its type, all of the same whole number of rows.
pub(crate) fn count(columns: &[Column], data: &[ColumnData<'_>]) -> Result<usize> {
    if columns.len() != data.len() {
        return Err(Error::ColumnCount { expected: columns.len(), found: data.len() });
    }
    let mut first = None;
    for (column, data) in columns.iter().zip(data) {
        if column.dtype != data.dtype() {
            return Err(Error::ValueType { column: column.name.clone(), expected: column.dtype, found: data.dtype() });
        }
        let width = column.row_bytes() / column.dtype.size();
        let rows = *first.get_or_insert(data.len() / width);
        if rows.checked_mul(width) != Some(data.len()) {
            return Err(Error::ValueCount {
                column: column.name.clone(),
                values: data.len(),
                rows,
                width: column.width,
            });
        }
    }
    Ok(first.unwrap_or(0))
}
