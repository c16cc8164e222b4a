//! A shard that is being filled: reservations open and close, batches grow, until it is sealed.
//!
//! One writer fills a shard. Per split, it alternates between no reservation and one: `reserve` maps a block and lends the
//! addresses of the columns in it, `commit` ends the loan and keeps the written rows as one batch: in memory while all
//! shards of the store take less than the budget, in a file otherwise.
//!
//! The columns of a block lie one behind the other, each with all its rows. If fewer rows come than were reserved, as at the
//! end of a partition, they are copied into a block of their size. So they are where a column is mostly zeros, which is
//! compressed on the way (`csr`); the block that was written goes back before what is kept is counted.

use arrow_array::RecordBatch;
use arrow_buffer::{Buffer, ScalarBuffer};
use arrow_schema::ArrowError;
use std::ops::Range;
use std::sync::Arc;

use crate::batch::{self, Values};
use crate::csr::{self, Csr, Parts};
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
    /// Where the columns are.
    ranges: Vec<Range<usize>>,
}

/// Rows of one column that are to be kept.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Given<'a> {
    /// As they are.
    Dense(&'a [u8]),
    /// Compressed, as so many of their values are not zero.
    Zeros(&'a [u8], usize),
    /// As they are, compressed already. They were checked.
    Csr(Parts<'a>),
}

/// Where columns, or their parts, begin in a block, and so in the mapped files of spilled rows: what any vector instruction asks for.
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
        self.check(split, rows)?;
        let (block, ranges) = self.map(rows, self.schema.columns.iter().map(|column| (column, dense(column, rows))))?;
        let loan = block.lend();
        // A range begins inside the block, so its address is one.
        let addresses = ranges.iter().map(|range| loan.address().saturating_add(range.start as u64)).collect();
        self.parts.of_mut(split).reservation = Some(Reservation { rows, loan, ranges });
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
        let (block, ranges) = (reservation.loan.settle(), reservation.ranges);
        let columns = self.schema.columns.iter().zip(&ranges);
        let written = |(column, range): (&Column, &Range<usize>)| {
            let dense = block.bytes().get(range.start..)?.get(..dense(column, rows)?)?;
            Some(Given::of(column, rows, dense))
        };
        let given = columns.map(written).collect::<Option<Vec<_>>>().ok_or_else(overcommit)?;
        let values = if rows == reserved && given.iter().all(|given| matches!(given, Given::Dense(_))) {
            block.freeze(&ranges).ok_or_else(overcommit)?.into_iter().map(Values::Dense).collect()
        } else {
            let values = self.copied(split, rows, &given)?;
            drop(block);
            values
        };
        self.push(split, rows, values)
    }

    /// Reserve, copy and commit in one, for a writer in Rust.
    pub(crate) fn write_rows(&mut self, split: Split, data: &[ColumnData<'_>]) -> Result<()> {
        let columns = &self.schema.columns;
        let rows = crate::rows::count(columns, data)?;
        let given = columns.iter().zip(data).map(|(column, data)| Given::of(column, rows, data.bytes()));
        let given: Vec<_> = given.collect();
        self.write_given(split, rows, &given)
    }

    /// As [`Self::write_rows`], for `rows` rows of each column.
    pub(crate) fn write_given(&mut self, split: Split, rows: usize, given: &[Given<'_>]) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let values = self.copied(split, rows, given)?;
        self.push(split, rows, values)
    }

    /// A block of their own for `rows` rows that lie elsewhere.
    fn copied(&self, split: Split, rows: usize, given: &[Given<'_>]) -> Result<Vec<Values>> {
        self.check(split, rows)?;
        let columns = &self.schema.columns;
        let lengths = columns.iter().zip(given).map(|(column, given)| (column, given.lengths(column, rows)));
        let lengths = lengths.flat_map(|(column, lengths)| lengths.into_iter().map(move |length| (column, length)));
        let (mut block, ranges) = self.map(rows, lengths)?;
        let mut places = &ranges[..];
        for (column, given) in columns.iter().zip(given) {
            places = given.write(column, block.bytes_mut(), places).ok_or_else(|| too_large(column, rows))?;
        }
        let frozen = block.freeze(&ranges);
        let mut buffers = frozen.ok_or(Error::Overcommit { key: self.key, split, rows, reserved: rows })?.into_iter();
        let values = columns.iter().zip(given).map(|(column, given)| given.kept(column, &mut buffers));
        values.collect::<Option<_>>().ok_or(Error::ColumnCount { expected: columns.len(), found: given.len() })
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

    /// Whether `rows` more rows can be kept.
    fn check(&self, split: Split, rows: usize) -> Result<()> {
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
        Ok(())
    }

    /// A block for `rows` rows with a buffer of each of these lengths, and where in it they are.
    fn map<'a>(
        &self,
        rows: usize,
        lengths: impl Iterator<Item = (&'a Column, Option<usize>)>,
    ) -> Result<(Block, Vec<Range<usize>>)> {
        let ranges = ranges(rows, lengths)?;
        let bytes = ranges.last().map_or(0, |last| last.end);
        let block = Block::map(bytes, &self.ledger).map_err(|source| Error::NoMemory { rows, bytes, source })?;
        Ok((block, ranges))
    }

    fn push(&mut self, split: Split, rows: usize, values: Vec<Values>) -> Result<()> {
        let batch = batch::assemble(self.key, &self.schema, rows, values)?;
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

impl<'a> Given<'a> {
    /// Dense rows, which are compressed where that pays.
    fn of(column: &Column, rows: usize, dense: &'a [u8]) -> Given<'a> {
        csr::count(column, rows, dense).map_or(Given::Dense(dense), |count| Given::Zeros(dense, count))
    }

    /// Of the buffers that keep them.
    fn lengths(&self, column: &Column, rows: usize) -> Vec<Option<usize>> {
        match self {
            Given::Dense(_) => vec![dense(column, rows)],
            Given::Zeros(_, count) => csr::lengths(column, rows, *count).into(),
            Given::Csr(parts) => [parts.offsets, parts.positions, parts.values].map(|part| Some(part.len())).into(),
        }
    }

    /// Puts them into the first of these places of a block, and returns those behind. None if they do not fit.
    fn write<'p>(&self, column: &Column, block: &mut [u8], places: &'p [Range<usize>]) -> Option<&'p [Range<usize>]> {
        let fill = |place: &mut [u8], bytes: &[u8]| {
            Some(place).filter(|place| place.len() == bytes.len()).map(|place| place.copy_from_slice(bytes))
        };
        match self {
            Given::Dense(dense) => {
                let (place, rest) = places.split_first()?;
                fill(block.get_mut(place.clone())?, dense).map(|()| rest)
            }
            Given::Zeros(dense, _) => {
                let (own, rest) = places.split_first_chunk::<3>()?;
                csr::compress(column, dense, block.get_disjoint_mut(own.clone()).ok()?).map(|()| rest)
            }
            Given::Csr(parts) => {
                let (own, rest) = places.split_first_chunk::<3>()?;
                let [offsets, positions, values] = block.get_disjoint_mut(own.clone()).ok()?;
                fill(offsets, parts.offsets)?;
                fill(positions, parts.positions)?;
                fill(values, parts.values).map(|()| rest)
            }
        }
    }

    /// What keeps them, of a block's buffers in order.
    fn kept(&self, column: &Column, buffers: &mut impl Iterator<Item = Buffer>) -> Option<Values> {
        if let Given::Dense(_) = self {
            return buffers.next().map(Values::Dense);
        }
        // ScalarBuffer::from asserts the alignment, which `ranges` sees to.
        let (offsets, positions) = (ScalarBuffer::from(buffers.next()?), ScalarBuffer::from(buffers.next()?));
        Some(Values::Csr(Csr { offsets, positions, values: buffers.next()?, size: column.dtype.size() }))
    }
}

/// Bytes of dense rows.
fn dense(column: &Column, rows: usize) -> Option<usize> {
    rows.checked_mul(column.row_bytes())
}

/// Where buffers of these lengths lie in a block, for `rows` rows.
fn ranges<'a>(rows: usize, lengths: impl Iterator<Item = (&'a Column, Option<usize>)>) -> Result<Vec<Range<usize>>> {
    let mut end = 0_usize;
    let buffers = lengths.map(|(column, length)| {
        let range = || {
            let start = end.checked_next_multiple_of(ALIGNMENT)?;
            let end = start.checked_add(length?)?;
            isize::try_from(end).is_ok().then_some(start..end)
        };
        let range = range().ok_or_else(|| too_large(column, rows))?;
        end = range.end;
        Ok(range)
    });
    buffers.collect()
}

fn too_large(column: &Column, rows: usize) -> Error {
    Error::TooLarge { column: column.name.clone(), rows, row_bytes: column.row_bytes() }
}
