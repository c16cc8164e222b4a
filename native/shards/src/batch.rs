//! Between buffers and Arrow: a batch is made of one buffer per column, and gives them back as bytes or typed values.
//!
//! Whatever produced a batch (a writer's buffers today), reading it goes through here alone.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, UInt8Type};
use arrow_array::{Array, ArrayRef, FixedSizeListArray, PrimitiveArray, RecordBatch, RecordBatchOptions};
use arrow_buffer::{Buffer, ScalarBuffer};
use arrow_schema::ArrowError;

use crate::error::{Error, Result};
use crate::spec::{Column, DType, Schema};

/// A type a column can hold: `u8`, `f32`, `f64`, `i32` or `i64`.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The column type of these values.
    const DTYPE: DType;
}

mod sealed {
    use arrow_array::types::ArrowPrimitiveType;

    pub trait Sealed: Sized {
        type Arrow: ArrowPrimitiveType<Native = Self>;
    }
}

macro_rules! elements {
    ($($native:ty: $dtype:ident, $arrow:ty;)*) => {$(
        impl sealed::Sealed for $native {
            type Arrow = $arrow;
        }
        impl Element for $native {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}

elements! {
    u8: UInt8, UInt8Type;
    f32: Float32, Float32Type;
    f64: Float64, Float64Type;
    i32: Int32, Int32Type;
    i64: Int64, Int64Type;
}

/// A batch of `rows` rows over one buffer per column. Copies nothing.
pub(crate) fn assemble(key: u64, schema: &Schema, rows: usize, buffers: Vec<Buffer>) -> Result<RecordBatch> {
    let arrays: Vec<ArrayRef> = schema
        .columns
        .iter()
        .zip(buffers)
        .map(|(column, buffer)| list_array(key, column, buffer))
        .collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(&schema.arrow), arrays, &options)
        .map_err(|source| Error::Arrow { key, source })
}

fn list_array(key: u64, column: &Column, buffer: Buffer) -> Result<ArrayRef> {
    let values = match column.dtype {
        DType::UInt8 => primitive_array::<UInt8Type>(buffer),
        DType::Float32 => primitive_array::<Float32Type>(buffer),
        DType::Float64 => primitive_array::<Float64Type>(buffer),
        DType::Int32 => primitive_array::<Int32Type>(buffer),
        DType::Int64 => primitive_array::<Int64Type>(buffer),
    };
    let (item, width) = column.item()?;
    let lists = FixedSizeListArray::try_new(item, width, values, None);
    Ok(Arc::new(lists.map_err(|source| Error::Arrow { key, source })?))
}

// ScalarBuffer::from asserts the alignment; a block begins on a page.
fn primitive_array<T: ArrowPrimitiveType>(buffer: Buffer) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(buffer), None))
}

/// The values of a column of a batch, row-major.
pub(crate) fn values<T: Element>(batch: &RecordBatch, column: usize) -> Option<&[T]> {
    native::<T::Arrow>(batch, column)
}

fn native<A: ArrowPrimitiveType>(batch: &RecordBatch, column: usize) -> Option<&[A::Native]> {
    Some(primitive::<A>(batch, column)?.values())
}

/// The bytes of a column of a batch: a clone of its buffer's handle, not of its bytes.
pub(crate) fn buffer(key: u64, batch: &RecordBatch, index: usize, column: &Column) -> Result<Buffer> {
    let buffer = match column.dtype {
        DType::UInt8 => primitive::<UInt8Type>(batch, index).map(|array| array.values().inner()),
        DType::Float32 => primitive::<Float32Type>(batch, index).map(|array| array.values().inner()),
        DType::Float64 => primitive::<Float64Type>(batch, index).map(|array| array.values().inner()),
        DType::Int32 => primitive::<Int32Type>(batch, index).map(|array| array.values().inner()),
        DType::Int64 => primitive::<Int64Type>(batch, index).map(|array| array.values().inner()),
    };
    let expected = batch.num_rows().checked_mul(column.row_bytes());
    buffer.filter(|buffer| Some(buffer.len()) == expected).cloned().ok_or_else(|| Error::Arrow {
        key,
        source: ArrowError::SchemaError(format!(
            "column {:?} is not a list of {} {} values per row",
            column.name, column.width, column.dtype
        )),
    })
}

fn primitive<T: ArrowPrimitiveType>(batch: &RecordBatch, column: usize) -> Option<&PrimitiveArray<T>> {
    let lists = batch.columns().get(column)?.as_fixed_size_list_opt()?;
    lists.values().as_primitive_opt::<T>().filter(|values| values.null_count() == 0)
}
