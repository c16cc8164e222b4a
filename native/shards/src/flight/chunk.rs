//! Messages of rows: how a piece of a batch becomes one, and what is checked before its bytes are believed.
//!
//! The header is Arrow's own (a flatbuffer), the body the column buffers. `app_metadata` is 16 bytes: the number of the
//! message's first row within the split, and XXH3-64 over header, body and what else is in the metadata; both little endian.
//! The checksum is for faults on the way, not for people, whom only TLS keeps out. Where the asker takes compressed columns, a
//! byte for each column follows: 1 if it is a `List` of positions and values here, 0 if it is dense.
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

use crate::batch;
use crate::csr::{self, Parts};
use crate::error::Result as Stored;
use crate::filling::Given;
use crate::spec::{Column, Schema};

/// Bytes of rows in a message, unless a single row is longer.
const MESSAGE_BYTES: usize = 2 << 20;
/// For the header, padding, and what gRPC adds.
const MARGIN: usize = 64 << 10;
/// Of the metadata: row number and checksum.
const SEAL: usize = 16;

/// How a column lies in a message: how many arrays and buffers it has, and which of these hold something.
struct Layout {
    arrays: usize,
    buffers: usize,
}

/// The list and its values: of each the validity, and the values.
const DENSE: Layout = Layout { arrays: 2, buffers: 3 };
/// The list, the struct, positions and values: the list's validity and offsets, the struct's validity, of the rest the
/// validity and the values.
const CSR: Layout = Layout { arrays: 4, buffers: 7 };

/// Rows that a message takes if they are dense.
fn dense_rows(columns: &[Column]) -> usize {
    (MESSAGE_BYTES / row_bytes(columns).max(1)).max(1)
}

/// How many of the rows of `batch` a message takes. Where they leave as they are kept, compressed ones are more.
pub(super) fn rows_per_message(key: u64, schema: &Schema, batch: &RecordBatch, compressed: bool) -> Stored<usize> {
    let mut rows = dense_rows(&schema.columns).min(batch.num_rows());
    while compressed && rows < batch.num_rows() {
        let more = rows.saturating_mul(2).min(batch.num_rows());
        if batch::bytes(key, schema, &batch.slice(0, more))? > MESSAGE_BYTES {
            break;
        }
        rows = more;
    }
    Ok(rows)
}

/// The longest message that rows of these columns make. A row that happens to be full in a block of mostly zeros takes twice
/// the bytes of a dense one, and validity is a bit per row or per value, if it is sent at all.
pub(super) fn longest_message(columns: &[Column]) -> usize {
    MESSAGE_BYTES.max(row_bytes(columns)).saturating_mul(3).saturating_add(MARGIN)
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

/// A message of the rows of `batch`, the first of which has number `row`. With `forms` it tells those of the columns.
pub(super) fn encode(batch: &RecordBatch, row: u64, forms: bool) -> Result<FlightData, ArrowError> {
    let mut tracker = DictionaryTracker::new(false);
    let mut context = IpcWriteContext::default();
    let options = IpcWriteOptions::default();
    let (_, encoded) = IpcDataGenerator::default().encode(batch, &mut tracker, &options, &mut context)?;
    let mut data = FlightData::from(encoded);
    let forms: Vec<u8> = batch::compressed(batch).map(u8::from).filter(|_| forms).collect();
    data.app_metadata = seal(&data, row, &forms);
    Ok(data)
}

/// The metadata that belongs to a message.
pub(super) fn seal(data: &FlightData, row: u64, forms: &[u8]) -> Bytes {
    let mut bytes = row.to_le_bytes().to_vec();
    bytes.extend_from_slice(&checksum(data, row, forms).to_le_bytes());
    bytes.extend_from_slice(forms);
    bytes.into()
}

fn checksum(data: &FlightData, row: u64, forms: &[u8]) -> u64 {
    let mut hasher = Hasher::new();
    hasher.write(&data.data_header);
    hasher.write(&data.data_body);
    hasher.write(&row.to_le_bytes());
    hasher.write(forms);
    hasher.finish()
}

/// Rows that a message was found to hold.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    pub(super) rows: usize,
    /// By column.
    pub(super) columns: Vec<Given<'a>>,
}

/// The rows of a message that should begin with row `next` and hold at most `left` rows; else what is wrong with it.
pub(super) fn decode<'a>(data: &'a FlightData, columns: &[Column], next: u64, left: u64) -> Result<Chunk<'a>, String> {
    let sealed = data.app_metadata.split_at_checked(SEAL).map(|(seal, forms)| (seal.as_chunks::<8>(), forms));
    let Some((([row, sum], []), forms)) = sealed else {
        return Err("a message carries no row number and checksum".into());
    };
    let (row, sum) = (u64::from_le_bytes(*row), u64::from_le_bytes(*sum));
    if checksum(data, row, forms) != sum {
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
    let all_dense = vec![0; columns.len()];
    let forms = if forms.is_empty() { &all_dense[..] } else { forms };
    let layout = |form: &u8| if *form == 0 { DENSE } else { CSR };
    let expected = |count: fn(&Layout) -> usize| forms.iter().map(|form| count(&layout(form))).sum::<usize>();
    let served = |(form, column): (&u8, &Column)| *form == 0 || (*form == 1 && csr::serves(column));
    if forms.len() != columns.len()
        || !forms.iter().zip(columns).all(served)
        || nodes.len() != expected(|layout| layout.arrays)
        || buffers.len() != expected(|layout| layout.buffers)
    {
        return Err(lies("columns"));
    }
    if nodes.iter().any(|node| node.null_count() != 0) {
        return Err(format!("the message with row {next} has nulls"));
    }
    let bytes = |buffer: usize| {
        let buffer = buffers.get(buffer);
        let start = usize::try_from(buffer.offset()).ok()?;
        data.data_body.get(start..start.checked_add(usize::try_from(buffer.length()).ok()?)?)
    };
    let mut first = 0;
    let mut found = Vec::with_capacity(columns.len());
    for (column, form) in columns.iter().zip(forms) {
        found.push(if *form == 0 {
            let dense = bytes(first + 2).filter(|dense| rows.checked_mul(column.row_bytes()) == Some(dense.len()));
            Given::Dense(dense.ok_or_else(|| lies("length"))?)
        } else {
            let parts = bytes(first + 1).zip(bytes(first + 4)).zip(bytes(first + 6));
            let ((offsets, positions), values) = parts.ok_or_else(|| lies("length"))?;
            let parts = Parts { offsets, positions, values };
            Given::Csr(Some(parts).filter(|parts| parts.valid(column, rows)).ok_or_else(|| lies("positions"))?)
        });
        first += layout(form).buffers;
    }
    Ok(Chunk { rows, columns: found })
}
