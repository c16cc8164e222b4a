//! A shard that is being filled: reservations open and close, batches grow, until it is sealed.
//!
//! One writer fills a shard. Per split, it alternates between no reservation and one: `reserve` maps a block and lends the
//! addresses of the columns in it, `commit` ends the loan and keeps the written rows as one batch: in memory while all
//! shards of the store take less than the budget, in a file otherwise.
//!
//! The columns of a block lie one behind the other, each with all its rows. If fewer rows come than were reserved, as at the
//! end of a partition, they are copied into a block of their size.

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_schema::ArrowError;
use std::ops::Range;
use std::sync::Arc;

use crate::batch;
use crate::digest::{self, Digest};
use crate::error::{Error, Result};
use crate::memory::{Block, Ledger, Loan};
use crate::rows::ColumnData;
use crate::shard::Shard;
use crate::spec::{Budget, Column, Schema, ShardReport, Split, Splits};
use crate::spill::Spill;

/// Rows are numbered by u32 within a split.
const MAX_ROWS: usize = u32::MAX as usize;

#[derive(Debug)]
pub(crate) struct Filling {
    key: u64,
    schema: Schema,
    ledger: Arc<Ledger>,
    /// Bytes of memory that all shards of the store may take.
    memory: usize,
    spill: Spill,
    /// Batches in `spill`.
    spilled: usize,
    parts: Splits<Part>,
}

#[derive(Debug)]
struct Part {
    batches: Vec<Kept>,
    rows: usize,
    digest: Digest,
    reservation: Option<Reservation>,
}

#[derive(Debug)]
enum Kept {
    InMemory(RecordBatch),
    /// Its place among those that were spilled.
    Spilled(usize),
}

/// Rows whose memory is in the writer's hands.
#[derive(Debug)]
struct Reservation {
    rows: usize,
    loan: Loan,
}

/// Where columns begin in a block, and so in the mapped files of spilled rows: what any vector instruction asks for.
const ALIGNMENT: usize = 64;

impl Filling {
    pub(crate) fn new(key: u64, schema: Schema, budget: Budget, ledger: Arc<Ledger>) -> Filling {
        let part =
            || Part { batches: Vec::new(), rows: 0, digest: Digest::new(schema.columns.len()), reservation: None };
        let parts = Splits { train: part(), validation: part() };
        let memory = usize::try_from(budget.memory).unwrap_or(usize::MAX);
        let spill = Spill::new(key, budget.directories.into(), Arc::clone(&ledger));
        Filling { key, schema, ledger, memory, spill, spilled: 0, parts }
    }

    pub(crate) fn reserve(&mut self, split: Split, rows: usize) -> Result<Vec<u64>> {
        let (block, ranges) = self.map(split, rows)?;
        let loan = block.lend();
        // A range begins inside the block, so its address is one.
        let addresses = ranges.iter().map(|range| loan.address().saturating_add(range.start as u64)).collect();
        self.parts.of_mut(split).reservation = Some(Reservation { rows, loan });
        Ok(addresses)
    }

    pub(crate) fn commit(&mut self, split: Split, rows: usize) -> Result<()> {
        let key = self.key;
        let part = self.parts.of_mut(split);
        let reserved = part.reservation.as_ref().ok_or(Error::NotReserved { key, split, rows })?.rows;
        let overcommit = || Error::Overcommit { key, split, rows, reserved };
        if rows > reserved {
            return Err(overcommit());
        }
        let Some(reservation) = part.reservation.take().filter(|_| rows > 0) else { return Ok(()) };
        let (block, ranges) = (reservation.loan.settle(), ranges(&self.schema, reserved)?);
        let buffers = if rows == reserved {
            block.freeze(&ranges).ok_or_else(overcommit)?
        } else {
            let columns = self.schema.columns.iter().zip(&ranges);
            let written = |(column, range): (&Column, &Range<usize>)| {
                block.bytes().get(range.start..)?.get(..column.row_bytes().checked_mul(rows)?)
            };
            let data = columns.map(written).collect::<Option<Vec<_>>>().ok_or_else(overcommit)?;
            self.copied(split, rows, data)?
        };
        self.push(split, rows, buffers)
    }

    /// Reserve, copy and commit in one, for a writer in Rust.
    pub(crate) fn write_rows(&mut self, split: Split, data: &[ColumnData<'_>]) -> Result<()> {
        let rows = crate::rows::count(&self.schema.columns, data)?;
        self.write_bytes(split, rows, data.iter().map(ColumnData::bytes))
    }

    /// As [`Self::write_rows`], for bytes that are `rows` rows of each column.
    pub(crate) fn write_bytes<'a>(
        &mut self,
        split: Split,
        rows: usize,
        data: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let buffers = self.copied(split, rows, data)?;
        self.push(split, rows, buffers)
    }

    /// A block of their own for `rows` rows that lie elsewhere.
    fn copied<'a>(&self, split: Split, rows: usize, data: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Buffer>> {
        let (mut block, ranges) = self.map(split, rows)?;
        for ((column, from), range) in self.schema.columns.iter().zip(data).zip(&ranges) {
            let place = block.bytes_mut().get_mut(range.clone()).filter(|place| place.len() == from.len());
            place.ok_or_else(|| too_large(column, rows))?.copy_from_slice(from);
        }
        block.freeze(&ranges).ok_or(Error::Overcommit { key: self.key, split, rows, reserved: rows })
    }

    /// The first split with an open reservation, and its rows.
    pub(crate) fn reserved(&self) -> Option<(Split, usize)> {
        [Split::Train, Split::Validation]
            .into_iter()
            .find_map(|split| self.parts.of(split).reservation.as_ref().map(|open| (split, open.rows)))
    }

    /// Drops what nobody writes into any more, and keeps what is lent.
    pub(crate) fn drop_batches(&mut self) {
        self.parts.train.batches = Vec::new();
        self.parts.validation.batches = Vec::new();
        self.spill.clear();
    }

    /// Makes the shard readable. The caller has seen that nothing is reserved.
    pub(crate) fn seal(self, report: ShardReport) -> Result<Shard> {
        let Splits { train, validation } = self.parts;
        let hash = digest::combined([&train.digest, &validation.digest]);
        let spilled_bytes = self.spill.bytes();
        let spilled = self.spill.map()?;
        let report = ShardReport { hash, spilled_bytes, ..report };
        let key = self.key;
        let batches =
            |part: Part| part.batches.into_iter().map(|kept| kept.batch(key, &spilled)).collect::<Result<_>>();
        Shard::new(self.schema, report, Splits { train: batches(train)?, validation: batches(validation)? })
    }

    /// A block for `rows` more rows, and where in it the columns are.
    fn map(&self, split: Split, rows: usize) -> Result<(Block, Vec<Range<usize>>)> {
        let (key, part) = (self.key, self.parts.of(split));
        if let Some(open) = &part.reservation {
            return Err(Error::Reserved { key, split, rows: open.rows });
        }
        if rows == 0 {
            return Err(Error::NoRows { key, split });
        }
        let total = part.rows.saturating_add(rows);
        if total > MAX_ROWS {
            return Err(Error::TooManyRows { key, split, rows: total, max: MAX_ROWS });
        }
        let ranges = ranges(&self.schema, rows)?;
        let bytes = ranges.last().map_or(0, |last| last.end);
        let block = Block::map(bytes, &self.ledger).map_err(|source| Error::NoMemory { rows, bytes, source })?;
        Ok((block, ranges))
    }

    fn push(&mut self, split: Split, rows: usize, buffers: Vec<Buffer>) -> Result<()> {
        let batch = batch::assemble(self.key, &self.schema, rows, buffers)?;
        // What is reserved elsewhere counts, too: it is about to be written.
        let spilled = self.ledger.memory() > self.memory;
        if spilled {
            self.spill.append(&batch)?;
        }
        let part = self.parts.of_mut(split);
        part.digest.add(self.key, &self.schema, &batch)?;
        part.rows = part.rows.saturating_add(rows);
        part.batches.push(if spilled { Kept::Spilled(self.spilled) } else { Kept::InMemory(batch) });
        self.spilled += usize::from(spilled);
        Ok(())
    }
}

impl Kept {
    fn batch(self, key: u64, spilled: &[RecordBatch]) -> Result<RecordBatch> {
        match self {
            Kept::InMemory(batch) => Ok(batch),
            Kept::Spilled(index) => spilled.get(index).cloned().ok_or_else(|| Error::Arrow {
                key,
                source: ArrowError::IpcError(format!("batch {index} did not come back from its file")),
            }),
        }
    }
}

/// Where the columns of `rows` rows lie in a block.
fn ranges(schema: &Schema, rows: usize) -> Result<Vec<Range<usize>>> {
    let mut end = 0_usize;
    let columns = schema.columns.iter().map(|column| {
        let range = || {
            let start = end.checked_next_multiple_of(ALIGNMENT)?;
            let end = start.checked_add(rows.checked_mul(column.row_bytes())?)?;
            isize::try_from(end).is_ok().then_some(start..end)
        };
        let range = range().ok_or_else(|| too_large(column, rows))?;
        end = range.end;
        Ok(range)
    });
    columns.collect()
}

fn too_large(column: &Column, rows: usize) -> Error {
    Error::TooLarge { column: column.name.clone(), rows, row_bytes: column.row_bytes() }
}
