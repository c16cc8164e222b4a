//! Messages of rows: how a piece of a batch becomes one, and what is checked before its bytes are believed.
//!
//! The header is Arrow's own (a flatbuffer), the body the column buffers. `app_metadata` is 16 bytes: the number of the
//! message's first row within the split, and XXH3-64 over header, body and that number; both little endian. The checksum
//! is for faults on the way, not for people, whom only TLS keeps out.
//!
//! A message is read in place: the header says where each column's values are in the body, and after its checks they
//! are copied from there. No Arrow array is made of what a peer sent.

use std::hash::Hasher as _;

use arrow_array::RecordBatch;
use arrow_flight::{FlightData, SchemaAsIpc};
use arrow_ipc::convert::try_schema_from_flatbuffer_bytes;
use arrow_ipc::root_as_message;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_schema::{ArrowError, Schema as ArrowSchema};
use bytes::Bytes;
use twox_hash::xxhash3_64::Hasher;

use crate::spec::{Column, Schema};

/// Bytes of rows in a message, unless a single row is longer.
const MESSAGE_BYTES: usize = 2 << 20;
/// For the header, padding, and what gRPC adds.
const MARGIN: usize = 64 << 10;
/// Of each column: the list's validity, the values' validity, the values.
const BUFFERS: usize = 3;

/// Rows that a message takes.
pub(super) fn rows_per_message(columns: &[Column]) -> usize {
    (MESSAGE_BYTES / row_bytes(columns).max(1)).max(1)
}

/// The longest message that rows of these columns make. Validity is a bit per row or per value, if it is sent at all.
pub(super) fn longest_message(columns: &[Column]) -> usize {
    MESSAGE_BYTES.max(row_bytes(columns)).saturating_mul(2).saturating_add(MARGIN)
}

fn row_bytes(columns: &[Column]) -> usize {
    columns.iter().map(Column::row_bytes).fold(0, usize::saturating_add)
}

/// What a stream begins with.
pub(super) fn schema(schema: &ArrowSchema) -> FlightData {
    SchemaAsIpc::new(schema, &IpcWriteOptions::default()).into()
}

/// Whether the first message of a stream announces these columns.
pub(super) fn check_schema(data: &FlightData, expected: &Schema) -> Result<(), String> {
    let found = try_schema_from_flatbuffer_bytes(&data.data_header)
        .map_err(|error| format!("the stream does not begin with a schema: {error}"))?;
    if found.fields() == expected.arrow.fields() {
        return Ok(());
    }
    Err(format!("the stream has the columns {:?} instead of {:?}", names(&found), names(&expected.arrow)))
}

fn names(schema: &ArrowSchema) -> Vec<String> {
    schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
}

/// A message of the rows of `batch`, the first of which has number `row`.
pub(super) fn encode(batch: &RecordBatch, row: u64) -> Result<FlightData, ArrowError> {
    let mut tracker = DictionaryTracker::new(false);
    let mut context = IpcWriteContext::default();
    let options = IpcWriteOptions::default();
    let (_, encoded) = IpcDataGenerator::default().encode(batch, &mut tracker, &options, &mut context)?;
    let mut data = FlightData::from(encoded);
    data.app_metadata = seal(&data, row);
    Ok(data)
}

/// The metadata that belongs to a message.
pub(super) fn seal(data: &FlightData, row: u64) -> Bytes {
    let mut bytes = row.to_le_bytes().to_vec();
    bytes.extend_from_slice(&checksum(data, row).to_le_bytes());
    bytes.into()
}

fn checksum(data: &FlightData, row: u64) -> u64 {
    let mut hasher = Hasher::new();
    hasher.write(&data.data_header);
    hasher.write(&data.data_body);
    hasher.write(&row.to_le_bytes());
    hasher.finish()
}

/// Rows that a message was found to hold.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    pub(super) rows: usize,
    /// By column, `rows * row_bytes` bytes each.
    pub(super) columns: Vec<&'a [u8]>,
}

/// The rows of a message that should begin with row `next` and hold at most `left` rows; else what is wrong with it.
pub(super) fn decode<'a>(data: &'a FlightData, columns: &[Column], next: u64, left: u64) -> Result<Chunk<'a>, String> {
    let sealed = data.app_metadata.as_chunks::<8>();
    let ([row, sum], []) = sealed else {
        return Err("a message carries no row number and checksum".into());
    };
    let (row, sum) = (u64::from_le_bytes(*row), u64::from_le_bytes(*sum));
    if checksum(data, row) != sum {
        return Err(format!("the checksum of the message with row {next} does not fit: it was damaged on its way"));
    }
    if row != next {
        return Err(format!("a message begins with row {row} where row {next} was due"));
    }
    let message = root_as_message(&data.data_header).map_err(|error| format!("a message has no header: {error}"))?;
    let batch = message.header_as_record_batch().ok_or("a message holds no rows")?;
    if batch.compression().is_some() {
        return Err("a message is compressed".into());
    }
    let lies = |what: &str| format!("the message with row {next} lies about its {what}");
    let rows = u64::try_from(batch.length()).ok().filter(|rows| (1..=left).contains(rows));
    let rows = rows.and_then(|rows| usize::try_from(rows).ok()).ok_or_else(|| lies("number of rows"))?;
    let nodes = batch.nodes().ok_or_else(|| lies("columns"))?;
    let buffers = batch.buffers().ok_or_else(|| lies("columns"))?;
    if nodes.len() != 2 * columns.len() || buffers.len() != BUFFERS * columns.len() {
        return Err(lies("columns"));
    }
    if nodes.iter().any(|node| node.null_count() != 0) {
        return Err(format!("the message with row {next} has nulls"));
    }
    let values = |(index, column): (usize, &Column)| {
        let buffer = buffers.get(BUFFERS * index + BUFFERS - 1);
        let start = usize::try_from(buffer.offset()).ok()?;
        let length = usize::try_from(buffer.length()).ok()?;
        if rows.checked_mul(column.row_bytes()) != Some(length) {
            return None;
        }
        data.data_body.get(start..start.checked_add(length)?)
    };
    let columns = columns.iter().enumerate().map(values).collect::<Option<_>>();
    Ok(Chunk { rows, columns: columns.ok_or_else(|| lies("length"))? })
}
