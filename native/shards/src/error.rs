//! Everything that can go wrong in the store, matched by [`ErrorKind`] and never by text.
//!
//! Promise: an error leaves the store as it was before the call, unless the function says otherwise.

use std::fmt;
use std::io;
use std::path::PathBuf;

use arrow_schema::ArrowError;
use thiserror::Error as ThisError;

use crate::spec::{DType, Role, Split};

/// Result of the store.
pub type Result<T> = std::result::Result<T, Error>;

/// The classes of [`Error`] a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The key names no shard here: discarded, released, of another process, or never given.
    UnknownShard,
    /// The shard is there but not in a state that allows the call.
    State,
    /// The request for a shard cannot be met as written.
    Spec,
    /// The memory or the room on a disk could not be had, or the size asked for does not exist.
    Memory,
    /// Another process did not give what it should have, or the wait for it was ended.
    Peer,
    /// What the operating system did not give, other than memory.
    System,
    /// An argument does not fit the shard: a column, row or length that is not there.
    Argument,
}

/// An error of the store, with the values one needs to find its cause.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The key names no shard of this store.
    #[error(
        "shard {key} is not in this store: it was discarded, its run was released, or it belongs to another process; ingest the partition again"
    )]
    UnknownShard {
        /// The key asked for.
        key: u64,
    },
    /// The run was released while the shard was still being filled.
    #[error("shard {key} was still being filled when its run {run:?} was released; discard it")]
    Released {
        /// Key of the shard.
        key: u64,
        /// Its run.
        run: String,
    },
    /// The shard is still being filled.
    #[error("shard {key} (partition {partition}) is still being filled; close it before it is read")]
    Filling {
        /// Key of the shard.
        key: u64,
        /// Its partition.
        partition: u32,
    },
    /// The shard is sealed.
    #[error("shard {key} (partition {partition}) is sealed and takes no more rows; open another one")]
    Sealed {
        /// Key of the shard.
        key: u64,
        /// Its partition.
        partition: u32,
    },
    /// The split already has a reservation that was not committed.
    #[error("shard {key} already has {rows} {split} rows reserved; commit them before the next reservation or close")]
    Reserved {
        /// Key of the shard.
        key: u64,
        /// The split.
        split: Split,
        /// Rows of the open reservation.
        rows: usize,
    },
    /// There is no reservation to commit.
    #[error("shard {key} has no {split} rows reserved, so {rows} rows cannot be committed; reserve them first")]
    NotReserved {
        /// Key of the shard.
        key: u64,
        /// The split.
        split: Split,
        /// Rows to be committed.
        rows: usize,
    },
    /// More rows were committed than reserved.
    #[error("shard {key} has {reserved} {split} rows reserved, so {rows} rows cannot be committed; reserve more")]
    Overcommit {
        /// Key of the shard.
        key: u64,
        /// The split.
        split: Split,
        /// Rows to be committed.
        rows: usize,
        /// Rows reserved.
        reserved: usize,
    },
    /// A spec without a run.
    #[error("the shard of partition {partition} names no run; give the run's id")]
    NoRun {
        /// Partition of the spec.
        partition: u32,
    },
    /// A spec without columns.
    #[error("the shard of partition {partition} has no columns; name at least one")]
    NoColumns {
        /// Partition of the spec.
        partition: u32,
    },
    /// A column without a name.
    #[error("column {index} ({role}) has no name; give it one")]
    NoName {
        /// Place of the column in the spec.
        index: usize,
        /// Its role.
        role: Role,
    },
    /// A column whose width Arrow cannot hold.
    #[error("column {column:?} has {width} values per row; the width must be between 1 and {max}")]
    Width {
        /// Name of the column.
        column: String,
        /// Its width.
        width: u32,
        /// Largest width.
        max: u32,
    },
    /// Two columns of one role with one name.
    #[error("the {role} column {column:?} is named twice; name each column of a role once")]
    Twice {
        /// Name of the columns.
        column: String,
        /// Their role.
        role: Role,
    },
    /// A size beyond what the machine can address.
    #[error(
        "{rows} rows of column {column:?} ({row_bytes} bytes each) are more than memory can address; reserve fewer"
    )]
    TooLarge {
        /// Name of the column.
        column: String,
        /// Rows asked for.
        rows: usize,
        /// Bytes of a row.
        row_bytes: usize,
    },
    /// A split with more rows than a row number can count.
    #[error("shard {key} would hold {rows} {split} rows, more than {max}; use more partitions")]
    TooManyRows {
        /// Key of the shard.
        key: u64,
        /// The split.
        split: Split,
        /// Rows it would hold.
        rows: usize,
        /// Most rows it can hold.
        max: usize,
    },
    /// The operating system gave no memory.
    #[error(
        "no memory for {rows} rows ({bytes} bytes): {source}; give the executor more memory overhead or use more executors"
    )]
    NoMemory {
        /// Rows asked for.
        rows: usize,
        /// Bytes asked for.
        bytes: usize,
        /// What the operating system said.
        source: io::Error,
    },
    /// A reservation of nothing.
    #[error("shard {key} was asked to reserve 0 {split} rows; reserve at least one, or none at all")]
    NoRows {
        /// Key of the shard.
        key: u64,
        /// The split.
        split: Split,
    },
    /// A number that names no split.
    #[error("{number} is not a split; use 0 for training, 1 for validation")]
    NoSplit {
        /// The number given.
        number: i32,
    },
    /// A column index that is not there.
    #[error("column {column} was asked for, but the shard has {columns} columns")]
    NoColumn {
        /// The index asked for.
        column: usize,
        /// Columns of the shard.
        columns: usize,
    },
    /// A row number that is not there.
    #[error("{split} row {row} was asked for, but partition {partition} has {rows} of them")]
    NoRow {
        /// Partition of the shard.
        partition: u32,
        /// The split.
        split: Split,
        /// The row asked for.
        row: u32,
        /// Rows of the split.
        rows: usize,
    },
    /// A compressed row that makes no sense.
    #[error(
        "column {column:?} of {split} row {row} of partition {partition} is damaged: the places of its values do not ascend \
         within the row; look after the disks under spark.local.dir"
    )]
    Damaged {
        /// Name of the column.
        column: String,
        /// Partition of the shard.
        partition: u32,
        /// The split.
        split: Split,
        /// The row.
        row: u32,
    },
    /// All values of a column were asked for, of which some rows are kept as what is not zero.
    #[error("column {column:?} is kept compressed, so it has no values in one piece; gather its rows")]
    Compressed {
        /// Name of the column.
        column: String,
    },
    /// An output that does not fit the rows asked for.
    #[error("{rows} rows of column {column:?} need {row_bytes} bytes each, but the output has {found} bytes in all")]
    OutputSize {
        /// Name of the column.
        column: String,
        /// Rows asked for.
        rows: usize,
        /// Bytes of a row.
        row_bytes: usize,
        /// Bytes given.
        found: usize,
    },
    /// Values of another type than the column's.
    #[error("column {column:?} holds {expected} values, not {found}")]
    ValueType {
        /// Name of the column.
        column: String,
        /// The column's type.
        expected: DType,
        /// The type asked for or given.
        found: DType,
    },
    /// Values for another number of columns than the shard has.
    #[error("values for {found} columns were given, but the shard has {expected}")]
    ColumnCount {
        /// Columns of the shard.
        expected: usize,
        /// Columns given.
        found: usize,
    },
    /// Values that do not make the same whole number of rows as the first column's.
    #[error("column {column:?} was given {values} values; {rows} rows of {width} values were expected")]
    ValueCount {
        /// Name of the column.
        column: String,
        /// Values given.
        values: usize,
        /// Rows, by the first column.
        rows: usize,
        /// Values per row.
        width: u32,
    },
    /// No directory took rows that the budget has no room for.
    #[error(
        "{bytes} bytes of shard {key} fit neither into shardMemory nor into a local directory{}; free space there, \
         point spark.local.dir to a disk with room, or raise shardMemory", list(.tried)
    )]
    Spill {
        /// Key of the shard.
        key: u64,
        /// Bytes that were to be written.
        bytes: usize,
        /// Every directory, in the order they were tried, with what it said.
        tried: Vec<Tried>,
    },
    /// The secret is none.
    #[error("the run's secret must be 64 hexadecimal digits")]
    Secret,
    /// A run without a shard here was to be served.
    #[error("run {run:?} has no shard in this process, so there is nothing to serve; open one first")]
    NotServed {
        /// The run.
        run: String,
    },
    /// The shards of a run cannot be served.
    #[error("shards cannot be served as {host:?}: {source}")]
    Listen {
        /// The host that peers were to be told.
        host: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The threads for Flight cannot be had.
    #[error("the threads that move rows between executors cannot be started: {source}")]
    Runtime {
        /// What the operating system said.
        source: io::Error,
    },
    /// Rows of another process did not come.
    #[error(
        "{split} row {row} of partition {partition} did not come from {peer} after {tries} attempts: {reason}; the \
         executor there may be lost, its log says more"
    )]
    Peer {
        /// Where they were asked for.
        peer: String,
        /// Their partition.
        partition: u32,
        /// Their split.
        split: Split,
        /// The first row that did not come.
        row: u64,
        /// Attempts in a row that brought nothing.
        tries: u32,
        /// What was wrong in the last one.
        reason: String,
    },
    /// Somebody ended the fetch.
    #[error("the fetch of rows was ended: {reason}")]
    Cancelled {
        /// Why.
        reason: String,
    },
    /// Arrow refused a batch the store built or was given.
    #[error("shard {key} could not be kept as Arrow batches: {source}")]
    Arrow {
        /// Key of the shard.
        key: u64,
        /// What Arrow said.
        source: ArrowError,
    },
}

/// A directory that took no rows.
#[derive(Debug)]
pub struct Tried {
    /// The directory.
    pub directory: PathBuf,
    /// Why not.
    pub error: io::Error,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.directory.display(), self.error)
    }
}

fn list(tried: &[Tried]) -> String {
    if tried.is_empty() {
        return " (none was given)".to_owned();
    }
    let tried: Vec<String> = tried.iter().map(Tried::to_string).collect();
    format!(" ({})", tried.join("; "))
}

impl Error {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::UnknownShard { .. } => ErrorKind::UnknownShard,
            Error::Released { .. }
            | Error::Filling { .. }
            | Error::Sealed { .. }
            | Error::Reserved { .. }
            | Error::NotReserved { .. }
            | Error::Overcommit { .. }
            | Error::NotServed { .. }
            | Error::Damaged { .. }
            | Error::Compressed { .. }
            | Error::Arrow { .. } => ErrorKind::State,
            Error::NoRun { .. }
            | Error::NoColumns { .. }
            | Error::NoName { .. }
            | Error::Width { .. }
            | Error::Twice { .. }
            | Error::Secret => ErrorKind::Spec,
            Error::Peer { .. } | Error::Cancelled { .. } => ErrorKind::Peer,
            Error::Listen { .. } | Error::Runtime { .. } => ErrorKind::System,
            Error::TooLarge { .. } | Error::TooManyRows { .. } | Error::NoMemory { .. } | Error::Spill { .. } => {
                ErrorKind::Memory
            }
            Error::NoRows { .. }
            | Error::NoSplit { .. }
            | Error::NoColumn { .. }
            | Error::NoRow { .. }
            | Error::OutputSize { .. }
            | Error::ValueType { .. }
            | Error::ColumnCount { .. }
            | Error::ValueCount { .. } => ErrorKind::Argument,
        }
    }
}
