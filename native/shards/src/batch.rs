//! Between buffers and Arrow: a batch is made of the values of its columns, and gives them back as bytes or typed values.
//!
//! A column is dense, a `FixedSizeList` over one buffer, or compressed ([`Csr`]), a `List` of structs of a position and a value.
//! Batches of one shard may differ in that, and so in their Arrow schemas. Whatever produced a batch (a writer's buffers, a
//! file, a peer), reading it goes through here alone.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, UInt8Type, UInt32Type};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, ListArray, PrimitiveArray, RecordBatch, RecordBatchOptions, StructArray,
};
use arrow_buffer::{Buffer, MutableBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Fields};

use crate::csr::Csr;
use crate::error::{Error, Result};
use crate::memory;
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

/// The values of one column of a batch.
#[derive(Debug, Clone)]
pub(crate) enum Values {
    /// One row behind the other.
    Dense(Buffer),
    /// What is not zero.
    Csr(Csr),
}

impl Values {
    /// Copies a row to `out`, which has its length; None if it is not there, or damaged.
    #[inline]
    pub(crate) fn put(&self, row: usize, out: &mut [u8]) -> Option<()> {
        match self {
            Values::Dense(buffer) => {
                let start = row.checked_mul(out.len())?;
                out.copy_from_slice(buffer.as_slice().get(start..start.checked_add(out.len())?)?);
                Some(())
            }
            Values::Csr(csr) => csr.put(row, out),
        }
    }

    /// Begins to load a row of `size` bytes, which is put somewhere soon. A row that is not there is no matter.
    #[inline]
    pub(crate) fn prefetch(&self, row: usize, size: usize) {
        // Where the numbers of a compressed row lie has to be read first.
        if let Values::Dense(buffer) = self {
            let start = row.saturating_mul(size);
            memory::prefetch(buffer.as_slice().get(start..start.saturating_add(size)).unwrap_or_default());
        }
    }

    /// Bytes that the rows take, without padding.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Values::Dense(buffer) => buffer.len(),
            Values::Csr(csr) => csr.bytes(),
        }
    }

    /// Tells the system that the rows are about to be read.
    pub(crate) fn will_need(&self) {
        match self {
            Values::Dense(buffer) => memory::will_need(buffer),
            Values::Csr(csr) => csr.will_need(),
        }
    }
}

/// A batch of `rows` rows over the values of each column. Copies nothing.
pub(crate) fn assemble(key: u64, schema: &Schema, rows: usize, columns: Vec<Values>) -> Result<RecordBatch> {
    let dense = columns.iter().all(|values| matches!(values, Values::Dense(_)));
    let arrays = schema.columns.iter().zip(columns).map(|(column, values)| match values {
        Values::Dense(buffer) => dense_array(key, column, buffer),
        Values::Csr(csr) => csr_array(key, column, csr),
    });
    let arrays: Vec<ArrayRef> = arrays.collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let schema = if dense { Arc::clone(&schema.arrow) } else { Arc::new(schema_of(schema, &arrays)) };
    RecordBatch::try_new_with_options(schema, arrays, &options).map_err(|source| Error::Arrow { key, source })
}

/// The Arrow schema of these columns.
fn schema_of(schema: &Schema, arrays: &[ArrayRef]) -> arrow_schema::Schema {
    let field = |(column, array): (&Column, &ArrayRef)| Field::new(&column.name, array.data_type().clone(), false);
    arrow_schema::Schema::new(schema.columns.iter().zip(arrays).map(field).collect::<Fields>())
}

fn dense_array(key: u64, column: &Column, buffer: Buffer) -> Result<ArrayRef> {
    let (item, width) = column.item()?;
    let lists = FixedSizeListArray::try_new(item, width, array(column.dtype, buffer), None);
    Ok(Arc::new(lists.map_err(|source| Error::Arrow { key, source })?))
}

fn csr_array(key: u64, column: &Column, csr: Csr) -> Result<ArrayRef> {
    let failed = |source| Error::Arrow { key, source };
    let fields = Fields::from(vec![
        Field::new("position", DataType::UInt32, false),
        Field::new("value", column.dtype.arrow(), false),
    ]);
    let item = Arc::new(Field::new("item", DataType::Struct(fields.clone()), false));
    let positions: ArrayRef = Arc::new(PrimitiveArray::<UInt32Type>::new(csr.positions, None));
    let pairs = StructArray::try_new(fields, vec![positions, array(column.dtype, csr.values)], None).map_err(failed)?;
    // OffsetBuffer::new asserts that they ascend.
    if csr.offsets.first().is_none_or(|first| *first < 0) || !csr.offsets.is_sorted() {
        return Err(unfit(key, column));
    }
    let lists = ListArray::try_new(item, OffsetBuffer::new(csr.offsets), Arc::new(pairs), None).map_err(failed)?;
    Ok(Arc::new(lists))
}

fn array(dtype: DType, buffer: Buffer) -> ArrayRef {
    match dtype {
        DType::UInt8 => primitive_array::<UInt8Type>(buffer),
        DType::Float32 => primitive_array::<Float32Type>(buffer),
        DType::Float64 => primitive_array::<Float64Type>(buffer),
        DType::Int32 => primitive_array::<Int32Type>(buffer),
        DType::Int64 => primitive_array::<Int64Type>(buffer),
    }
}

// ScalarBuffer::from asserts the alignment; a block begins on a page.
fn primitive_array<T: ArrowPrimitiveType>(buffer: Buffer) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(buffer), None))
}

/// The values of a dense column of a batch, row-major.
pub(crate) fn values<T: Element>(batch: &RecordBatch, column: usize) -> Option<&[T]> {
    let lists = batch.columns().get(column)?.as_fixed_size_list_opt()?;
    native::<T::Arrow>(lists.values())
}

fn native<A: ArrowPrimitiveType>(array: &ArrayRef) -> Option<&[A::Native]> {
    primitive::<A>(array).map(|array| &**array.values())
}

/// The values of a column of a batch: clones of the buffers' handles, not of their bytes.
pub(crate) fn column(key: u64, batch: &RecordBatch, index: usize, column: &Column) -> Result<Values> {
    let rows = batch.num_rows();
    let values = batch.columns().get(index).and_then(|array| match array.data_type() {
        DataType::List(_) => csr(array, column.dtype).filter(|csr| csr.rows() == rows).map(Values::Csr),
        _ => {
            let buffer = buffer(array.as_fixed_size_list_opt()?.values(), column.dtype)?;
            let expected = rows.checked_mul(column.row_bytes());
            Some(Values::Dense(buffer.clone())).filter(|_| Some(buffer.len()) == expected)
        }
    });
    values.ok_or_else(|| unfit(key, column))
}

fn csr(array: &ArrayRef, dtype: DType) -> Option<Csr> {
    let lists = array.as_list_opt::<i32>().filter(|lists| lists.null_count() == 0)?;
    let pairs = lists.values().as_struct_opt().filter(|pairs| pairs.null_count() == 0)?;
    let [positions, values] = pairs.columns() else { return None };
    Some(Csr {
        offsets: lists.offsets().inner().clone(),
        positions: primitive::<UInt32Type>(positions)?.values().clone(),
        values: buffer(values, dtype)?.clone(),
        size: dtype.size(),
    })
}

/// Whether a column of a batch is compressed.
pub(crate) fn compressed(batch: &RecordBatch) -> impl Iterator<Item = bool> {
    batch.columns().iter().map(|array| matches!(array.data_type(), DataType::List(_)))
}

/// Bytes that the rows of a batch take, without padding.
pub(crate) fn bytes(key: u64, schema: &Schema, batch: &RecordBatch) -> Result<usize> {
    let columns = schema.columns.iter().enumerate();
    columns.map(|(index, spec)| column(key, batch, index, spec).map(|values| values.bytes())).sum()
}

/// The batch with all its columns dense, for whom knows no other form.
pub(crate) fn spread(key: u64, schema: &Schema, batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = schema.columns.iter().enumerate().map(|(index, spec)| {
        let values = column(key, batch, index, spec)?;
        let Values::Csr(csr) = values else { return Ok(values) };
        let mut dense = MutableBuffer::from_len_zeroed(batch.num_rows().saturating_mul(spec.row_bytes()));
        for (row, out) in dense.as_slice_mut().chunks_exact_mut(spec.row_bytes()).enumerate() {
            csr.put(row, out).ok_or_else(|| unfit(key, spec))?;
        }
        Ok(Values::Dense(dense.into()))
    });
    assemble(key, schema, batch.num_rows(), columns.collect::<Result<_>>()?)
}

fn buffer(array: &ArrayRef, dtype: DType) -> Option<&Buffer> {
    match dtype {
        DType::UInt8 => primitive::<UInt8Type>(array).map(|array| array.values().inner()),
        DType::Float32 => primitive::<Float32Type>(array).map(|array| array.values().inner()),
        DType::Float64 => primitive::<Float64Type>(array).map(|array| array.values().inner()),
        DType::Int32 => primitive::<Int32Type>(array).map(|array| array.values().inner()),
        DType::Int64 => primitive::<Int64Type>(array).map(|array| array.values().inner()),
    }
}

fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef) -> Option<&PrimitiveArray<T>> {
    array.as_primitive_opt::<T>().filter(|values| values.null_count() == 0)
}

/// A batch does not hold what the shard's columns say.
pub(crate) fn unfit(key: u64, column: &Column) -> Error {
    let source = ArrowError::SchemaError(format!(
        "column {:?} is not a list of {} {} values per row",
        column.name, column.width, column.dtype
    ));
    Error::Arrow { key, source }
}
