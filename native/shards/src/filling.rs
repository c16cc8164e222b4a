//! A shard that is being filled: reservations open and close, batches grow, until it is sealed.
//!
//! One writer fills a shard. Per split, it alternates between no reservation and one: `reserve` maps a block per column
//! and lends the addresses, `commit` ends the loan and keeps the written rows as one batch.

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use std::sync::Arc;

use crate::batch;
use crate::error::{Error, Result};
use crate::memory::{Block, Ledger, Loan};
use crate::rows::ColumnData;
use crate::shard::Shard;
use crate::spec::{Column, Schema, ShardReport, Split, Splits};

/// Rows are numbered by u32 within a split.
const MAX_ROWS: usize = u32::MAX as usize;

#[derive(Debug)]
pub(crate) struct Filling {
    key: u64,
    schema: Schema,
    ledger: Arc<Ledger>,
    parts: Splits<Part>,
}

#[derive(Debug, Default)]
struct Part {
    batches: Vec<RecordBatch>,
    rows: usize,
    reservation: Option<Reservation>,
}

/// Rows whose memory is in the writer's hands, one loan per column.
#[derive(Debug)]
struct Reservation {
    rows: usize,
    loans: Vec<Loan>,
}

impl Filling {
    pub(crate) fn new(key: u64, schema: Schema, ledger: Arc<Ledger>) -> Filling {
        Filling { key, schema, ledger, parts: Splits::default() }
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
        if rows == 0 {
            return Ok(());
        }
        let blocks = self.map(split, rows)?;
        let mut buffers = Vec::with_capacity(blocks.len());
        for ((column, data), mut block) in self.schema.columns.iter().zip(data).zip(blocks) {
            let from = data.bytes();
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
    }

    /// Makes the shard readable. The caller has seen that nothing is reserved.
    pub(crate) fn seal(self, report: ShardReport) -> Result<Shard> {
        let Splits { train, validation } = self.parts;
        Shard::new(self.schema, report, Splits { train: train.batches, validation: validation.batches })
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
        let part = self.parts.of_mut(split);
        part.batches.push(batch);
        part.rows = part.rows.saturating_add(rows);
        Ok(())
    }
}

fn bytes(column: &Column, rows: usize) -> Result<usize> {
    let too_large = || Error::TooLarge { column: column.name.clone(), rows, row_bytes: column.row_bytes() };
    let bytes = rows.checked_mul(column.row_bytes()).filter(|bytes| isize::try_from(*bytes).is_ok());
    bytes.ok_or_else(too_large)
}
