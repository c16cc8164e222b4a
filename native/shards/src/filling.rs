//! A shard that is being filled: reservations open and close, batches grow, until it is sealed.
//!
//! One writer fills a shard. Per split, it alternates between no reservation and one: `reserve` maps a block per column
//! and lends the addresses, `commit` ends the loan and keeps the written rows as one batch: in memory while all shards
//! of the store take less than the budget, in a file otherwise.

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_schema::ArrowError;
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

/// Rows whose memory is in the writer's hands, one loan per column.
#[derive(Debug)]
struct Reservation {
    rows: usize,
    loans: Vec<Loan>,
}

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
        let loans: Vec<Loan> = self.map(split, rows)?.into_iter().map(Block::lend).collect();
        let addresses = loans.iter().map(Loan::address).collect();
        self.parts.of_mut(split).reservation = Some(Reservation { rows, loans });
        Ok(addresses)
    }

    pub(crate) fn commit(&mut self, split: Split, rows: usize) -> Result<()> {
        let key = self.key;
        let part = self.parts.of_mut(split);
        let reserved = part.reservation.as_ref().ok_or(Error::NotReserved { key, split, rows })?.rows;
        if rows > reserved {
            return Err(Error::Overcommit { key, split, rows, reserved });
        }
        let Some(reservation) = part.reservation.take().filter(|_| rows > 0) else { return Ok(()) };
        let buffers = self
            .schema
            .columns
            .iter()
            .zip(reservation.loans)
            .map(|(column, loan)| {
                loan.settle(bytes(column, rows)?).ok_or(Error::Overcommit { key, split, rows, reserved })
            })
            .collect::<Result<_>>()?;
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
        let blocks = self.map(split, rows)?;
        let mut buffers = Vec::with_capacity(blocks.len());
        for ((column, from), mut block) in self.schema.columns.iter().zip(data).zip(blocks) {
            let unfit = || Error::TooLarge { column: column.name.clone(), rows, row_bytes: column.row_bytes() };
            block.bytes_mut().get_mut(..from.len()).ok_or_else(unfit)?.copy_from_slice(from);
            buffers.push(block.freeze(from.len()).ok_or_else(unfit)?);
        }
        self.push(split, rows, buffers)
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

    /// A block per column for `rows` more rows; nothing is kept if one of them fails.
    fn map(&self, split: Split, rows: usize) -> Result<Vec<Block>> {
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
        // All sizes before the first mapping: a request that cannot be met maps nothing.
        let columns = self.schema.columns.iter();
        let sizes = columns.clone().map(|column| bytes(column, rows)).collect::<Result<Vec<usize>>>()?;
        let map = |(column, bytes): (&Column, usize)| {
            Block::map(bytes, &self.ledger).map_err(|source| Error::NoMemory {
                column: column.name.clone(),
                rows,
                bytes,
                source,
            })
        };
        columns.zip(sizes).map(map).collect()
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

fn bytes(column: &Column, rows: usize) -> Result<usize> {
    let too_large = || Error::TooLarge { column: column.name.clone(), rows, row_bytes: column.row_bytes() };
    let bytes = rows.checked_mul(column.row_bytes()).filter(|bytes| isize::try_from(*bytes).is_ok());
    bytes.ok_or_else(too_large)
}
