//! A sealed shard: the rows of one partition, immutable, read by any number of ranks at once without a lock.
//!
//! A shard is a list of Arrow batches per split. Beside them stand, per column, the batches' buffers in order, so that
//! gathering shuffled rows is for each row one look-up of its batch and one copy of its bytes, from wherever it lies. A row that
//! is kept compressed is spread out instead: zeros, and its values over them.

use std::ops::Range;

use arrow_array::RecordBatch;

use crate::batch::{self, Element, Values};
use crate::error::{Error, Result};
use crate::spec::{Column, Role, Schema, ShardReport, Split, Splits};

/// The rows of one partition, in two splits.
///
/// A shard lives as long as somebody holds it, also after its run was released from the store.
#[derive(Debug)]
pub struct Shard {
    schema: Schema,
    report: ShardReport,
    tables: Splits<Table>,
}

impl Shard {
    /// `report` says where the shard is from; its counts are filled in here.
    pub(crate) fn new(schema: Schema, report: ShardReport, batches: Splits<Vec<RecordBatch>>) -> Result<Shard> {
        let tables = Splits {
            train: Table::new(report.key, &schema, batches.train)?,
            validation: Table::new(report.key, &schema, batches.validation)?,
        };
        let report = ShardReport {
            rows: tables.train.rows as u64,
            validation_rows: tables.validation.rows as u64,
            bytes: tables.train.bytes().saturating_add(tables.validation.bytes()),
            ..report
        };
        Ok(Shard { schema, report, tables })
    }

    /// What the shard holds, as [`ShardStore::close`](crate::ShardStore::close) reported it.
    pub fn report(&self) -> &ShardReport {
        &self.report
    }

    /// The columns, in the order of the spec; a column's place here is its index everywhere else.
    pub fn columns(&self) -> &[Column] {
        &self.schema.columns
    }

    /// The columns of a role with their indices, in the order of the spec.
    pub fn columns_of(&self, role: Role) -> impl Iterator<Item = (usize, &Column)> {
        self.columns().iter().enumerate().filter(move |(_, column)| column.role == role)
    }

    /// Index of the column of that role and name.
    pub fn column_index(&self, role: Role, name: &str) -> Option<usize> {
        self.columns_of(role).find(|(_, column)| column.name == name).map(|(index, _)| index)
    }

    /// Rows of a split.
    pub fn rows(&self, split: Split) -> usize {
        self.tables.of(split).rows
    }

    /// The batches of a split in row order, none of them empty. A column is a non-null `FixedSizeList`, or where that is less
    /// than half of it a `List` of structs of the `position` and `value` of what is not zero.
    pub fn batches(&self, split: Split) -> &[RecordBatch] {
        &self.tables.of(split).batches
    }

    /// The columns, and the Arrow schema of batches without compressed ones.
    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Rows from `row` on, at most `most` of them and as many as lie together; none if the row is not there.
    pub(crate) fn piece(&self, split: Split, row: u32, most: usize) -> Option<RecordBatch> {
        let table = self.tables.of(split);
        let (at, local) = table.find(row);
        let batch = table.batches.get(at)?;
        let rows = batch.num_rows().checked_sub(local).filter(|rows| *rows > 0)?;
        Some(batch.slice(local, rows.min(most)))
    }

    /// Whether rows lie in files, of which [`Shard::read_ahead`] brings some into memory.
    pub fn spilled(&self) -> bool {
        self.report.spilled_bytes > 0
    }

    /// Tells the system that these rows will be read soon, in any order. A hint: it returns at once, and rows that are not
    /// there are left out.
    pub fn read_ahead(&self, split: Split, rows: Range<u32>) {
        let mut next = rows.start;
        while let Some(piece) = self.piece(split, next, rows.end.saturating_sub(next) as usize) {
            if piece.num_rows() == 0 {
                return;
            }
            self.will_need(&piece);
            next = next.saturating_add(u32::try_from(piece.num_rows()).unwrap_or(u32::MAX));
        }
    }

    /// Tells the system that a piece is about to be read, which it may have to do from a disk.
    pub(crate) fn will_need(&self, piece: &RecordBatch) {
        if !self.spilled() {
            return;
        }
        for (index, column) in self.columns().iter().enumerate() {
            // A hint: whoever reads the piece finds out what is wrong with it.
            if let Ok(values) = batch::column(self.report.key, piece, index, column) {
                values.will_need();
            }
        }
    }

    /// Copies rows of a column into `out`, one after the other, in the order asked for; a row may be asked for twice.
    ///
    /// `out` is exactly `rows.len() * width * dtype.size()` bytes. Takes no lock and allocates nothing.
    ///
    /// # Errors
    /// [`Error::NoColumn`], [`Error::OutputSize`], [`Error::NoRow`], [`Error::Damaged`]. After the last two, `out` holds the
    /// rows before.
    pub fn gather(&self, split: Split, column: usize, rows: &[u32], out: &mut [u8]) -> Result<()> {
        let (_, spec, _) = self.column(split, column)?;
        if rows.len().checked_mul(spec.row_bytes()) != Some(out.len()) {
            return Err(output_size(spec, rows.len(), out));
        }
        self.copy(split, column, rows.iter().copied().zip(0..), out)
    }

    /// Copies rows of a column to places in `out`: of each pair, the row named first becomes the row of `out` named second. A
    /// batch whose rows lie in several shards is gathered so, shard by shard, and keeps its order.
    ///
    /// `out` has room for every place. Takes no lock and allocates nothing; places that are not named are left alone.
    ///
    /// # Errors
    /// [`Error::NoColumn`], [`Error::OutputSize`], [`Error::NoRow`], [`Error::Damaged`]. After the last two, `out` holds the
    /// rows before.
    pub fn gather_to(&self, split: Split, column: usize, rows: &[(u32, u32)], out: &mut [u8]) -> Result<()> {
        let (_, spec, _) = self.column(split, column)?;
        let needed = rows.iter().map(|(_, place)| *place as usize + 1).max().unwrap_or(0);
        if needed.checked_mul(spec.row_bytes()).is_none_or(|bytes| bytes > out.len()) {
            return Err(output_size(spec, needed, out));
        }
        self.copy(split, column, rows.iter().map(|&(row, place)| (row, place as usize)), out)
    }

    /// Copies rows to places that `out` has.
    fn copy(
        &self,
        split: Split,
        column: usize,
        rows: impl Iterator<Item = (u32, usize)> + Clone,
        out: &mut [u8],
    ) -> Result<()> {
        let (table, column, values) = self.column(split, column)?;
        let size = column.row_bytes();
        let copied = match (values, table.stride) {
            // One batch: the row number is the place.
            ([_], _) => copy_rows(rows, size, out, values, |row| (0, row as usize)),
            (_, Some(stride)) => copy_rows(rows, size, out, values, |row| divide(row, stride)),
            (_, None) => copy_rows(rows, size, out, values, |row| table.find(row)),
        };
        copied.map_err(|row| self.refused(split, column, row))
    }

    /// The values of a column, one slice per batch, row-major and in row order: for one pass over all of them. Labels and
    /// weights have them; an input may be kept compressed.
    ///
    /// # Errors
    /// [`Error::NoColumn`], [`Error::ValueType`] if the column holds another type, [`Error::Compressed`].
    pub fn values<T: Element>(&self, split: Split, column: usize) -> Result<impl Iterator<Item = &[T]>> {
        let index = column;
        let (table, column, _) = self.column(split, index)?;
        if column.dtype != T::DTYPE {
            return Err(Error::ValueType { column: column.name.clone(), expected: column.dtype, found: T::DTYPE });
        }
        let compressed = || Error::Compressed { column: column.name.clone() };
        let values = table.batches.iter().map(|batch| batch::values::<T>(batch, index).ok_or_else(compressed));
        Ok(values.collect::<Result<Vec<_>>>()?.into_iter())
    }

    fn column(&self, split: Split, column: usize) -> Result<(&Table, &Column, &[Values])> {
        let table = self.tables.of(split);
        match (self.schema.columns.get(column), table.values.get(column)) {
            (Some(spec), Some(values)) => Ok((table, spec, values)),
            _ => Err(Error::NoColumn { column, columns: self.schema.columns.len() }),
        }
    }

    /// Why a row could not be copied.
    fn refused(&self, split: Split, column: &Column, row: u32) -> Error {
        if (row as usize) < self.rows(split) {
            let (column, partition) = (column.name.clone(), self.report.partition);
            return Error::Damaged { column, partition, split, row };
        }
        self.no_row(split, row)
    }

    pub(crate) fn no_row(&self, split: Split, row: u32) -> Error {
        Error::NoRow { partition: self.report.partition, split, row, rows: self.rows(split) }
    }
}

/// The batches of one split, and where each row is.
#[derive(Debug)]
struct Table {
    batches: Vec<RecordBatch>,
    /// By column, then by batch. The same memory as in `batches`, one dereference away instead of five.
    values: Vec<Vec<Values>>,
    rows: usize,
    /// First row of each batch.
    starts: Vec<u32>,
    /// Rows of every batch but the last, which has at most as many: then a division finds the batch.
    stride: Option<u32>,
}

impl Table {
    fn new(key: u64, schema: &Schema, batches: Vec<RecordBatch>) -> Result<Table> {
        let values = schema
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| batches.iter().map(|batch| batch::column(key, batch, index, column)).collect())
            .collect::<Result<_>>()?;
        let mut starts = Vec::with_capacity(batches.len());
        let mut rows = 0_usize;
        for batch in &batches {
            // The store refuses more rows than u32 counts before it maps their memory.
            starts.push(u32::try_from(rows).unwrap_or(u32::MAX));
            rows = rows.saturating_add(batch.num_rows());
        }
        let stride = stride(&batches);
        Ok(Table { batches, values, rows, starts, stride })
    }

    fn bytes(&self) -> u64 {
        self.values.iter().flatten().map(|values| values.bytes() as u64).sum()
    }

    /// Batch of a row and its place in it. A row beyond the end gets a place that is not there.
    fn find(&self, row: u32) -> (usize, usize) {
        if let Some(stride) = self.stride {
            return divide(row, stride);
        }
        let at = self.starts.partition_point(|start| *start <= row).saturating_sub(1);
        let start = self.starts.get(at).copied().unwrap_or(0);
        (at, (row - start) as usize)
    }
}

fn stride(batches: &[RecordBatch]) -> Option<u32> {
    let (last, rest) = batches.split_last()?;
    let rows = rest.first().unwrap_or(last).num_rows();
    let even = rest.iter().all(|batch| batch.num_rows() == rows) && last.num_rows() <= rows;
    u32::try_from(rows).ok().filter(|rows| even && *rows > 0)
}

#[inline]
fn divide(row: u32, stride: u32) -> (usize, usize) {
    let at = row / stride;
    (at as usize, (row - at * stride) as usize)
}

/// Rows that are on their way into the cache while one is copied. They lie anywhere in memory, so that each copy would wait
/// for it otherwise.
const AHEAD: usize = 8;

/// Copies the rows that `find` finds in `values` to their places; the number of the first one that is not there is the error.
#[inline]
fn copy_rows(
    rows: impl Iterator<Item = (u32, usize)> + Clone,
    size: usize,
    out: &mut [u8],
    values: &[Values],
    find: impl Fn(u32) -> (usize, usize),
) -> std::result::Result<(), u32> {
    let announce = |row| {
        let (at, local) = find(row);
        if let Some(values) = values.get(at) {
            values.prefetch(local, size);
        }
    };
    let mut coming = rows.clone();
    coming.by_ref().take(AHEAD).for_each(|(row, _)| announce(row));
    for (row, place) in rows {
        if let Some((next, _)) = coming.next() {
            announce(next);
        }
        let (at, local) = find(row);
        // The callers checked that the places are there.
        let start = place * size;
        let out = out.get_mut(start..start + size);
        out.and_then(|out| values.get(at)?.put(local, out)).ok_or(row)?;
    }
    Ok(())
}

fn output_size(column: &Column, rows: usize, out: &[u8]) -> Error {
    Error::OutputSize { column: column.name.clone(), rows, row_bytes: column.row_bytes(), found: out.len() }
}

#[cfg(test)]
mod tests;
