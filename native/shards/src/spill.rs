//! Rows that the budget has no room for: written to files as Arrow IPC streams, mapped back when the shard is sealed.
//!
//! A shard that is being filled appends each batch that does not fit to a file of its own; what was kept before stays
//! in memory. So nothing that anybody reads ever moves, no lock is taken on another shard, and the rows that came first
//! are the ones in memory: every epoch reads all rows once, so no choice of rows would be better than another.
//!
//! **Files have no name.** One is created for its owner alone, unlinked, and only then written: whatever ends the
//! process, the system takes the bytes back, and nobody can open, change or shorten them meanwhile. Of a process that
//! is killed between the two calls, an empty file is left, in a directory that Spark removes with the application.
//!
//! **Forms.** A stream has one schema, but batches may differ in which columns are compressed. Where they do, the file goes
//! on with another stream.
//!
//! **All or nothing.** An append that fails half-way cuts the file back to where it was and goes to the next directory;
//! what the file held before stays good. The stream format needs nothing at its end, so a full disk cannot spoil a file
//! that was written before it was full. Messages are padded to 64 bytes, so that the mapped columns are as aligned as
//! those in memory, and are read where they lie.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::MetadataVersion;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::{IpcWriteOptions, StreamEncoder};
use arrow_schema::{ArrowError, SchemaRef};

use crate::error::{Error, Result, Tried};
use crate::memory::{self, Ledger, Written};

/// Of mapped columns, as of those in memory.
const ALIGNMENT: usize = 64;

/// The spilled batches of one shard.
#[derive(Debug)]
pub(crate) struct Spill {
    key: u64,
    directories: Arc<[PathBuf]>,
    /// The directory of the file that is appended to.
    current: usize,
    files: Vec<Stream>,
    ledger: Arc<Ledger>,
}

impl Spill {
    pub(crate) fn new(key: u64, directories: Arc<[PathBuf]>, ledger: Arc<Ledger>) -> Spill {
        // Shards start at different directories, which usually are different disks.
        let current = usize::try_from(key).unwrap_or(0);
        Spill { key, directories, current, files: Vec::new(), ledger }
    }

    /// Bytes in files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.written.bytes() as u64).sum()
    }

    /// Writes a batch behind those that were appended before.
    ///
    /// # Errors
    /// [`Error::Spill`] if no directory takes it; nothing is appended then.
    pub(crate) fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut tried = Vec::new();
        if let Some(file) = self.files.last_mut().filter(|file| !file.full) {
            match file.append(batch) {
                Ok(()) => return Ok(()),
                Err(error) => tried.push(self.failed(error)),
            }
        }
        while tried.len() < self.directories.len() {
            match self.begin(batch) {
                Ok(file) => {
                    self.files.push(file);
                    return Ok(());
                }
                Err(error) => tried.push(self.failed(error)),
            }
        }
        Err(Error::Spill { key: self.key, bytes: bytes(batch), tried })
    }

    /// Gives the files' bytes back.
    pub(crate) fn clear(&mut self) {
        self.files.clear();
    }

    /// All batches in the order they were appended, where they lie in the mapped files.
    pub(crate) fn map(self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        for file in self.files {
            file.map(&mut batches).map_err(|source| Error::Arrow { key: self.key, source })?;
        }
        Ok(batches)
    }

    fn begin(&self, batch: &RecordBatch) -> io::Result<Stream> {
        let directory = self.directory().ok_or(io::ErrorKind::NotFound)?;
        let mut file = Stream::create(directory, batch, &self.ledger)?;
        file.append(batch)?;
        Ok(file)
    }

    fn directory(&self) -> Option<&PathBuf> {
        self.directories.get(self.current % self.directories.len().max(1))
    }

    /// Notes a failure and turns to the next directory.
    fn failed(&mut self, error: io::Error) -> Tried {
        let directory = self.directory().cloned().unwrap_or_default();
        log::warn!("{} takes no rows of shard {}: {error}", directory.display(), self.key);
        self.current = self.current.wrapping_add(1);
        Tried { directory, error }
    }
}

/// A file without a name, and the streams written to it, one behind the other.
struct Stream {
    file: File,
    /// Of the last stream.
    encoder: StreamEncoder,
    schema: SchemaRef,
    /// Where each stream begins.
    starts: Vec<usize>,
    written: Written,
    batches: usize,
    /// Whether an append failed: then nothing is written behind what was written well.
    full: bool,
}

impl Stream {
    fn create(directory: &Path, batch: &RecordBatch, ledger: &Arc<Ledger>) -> io::Result<Stream> {
        let (schema, written) = (batch.schema(), Written::none(ledger));
        let encoder = encoder(&schema)?;
        Ok(Stream { file: nameless(directory)?, encoder, schema, starts: vec![0], written, batches: 0, full: false })
    }

    fn append(&mut self, batch: &RecordBatch) -> io::Result<()> {
        if batch.schema_ref() != &self.schema {
            (self.encoder, self.schema) = (encoder(batch.schema_ref())?, batch.schema());
            self.starts.push(self.written.bytes());
        }
        // The encoder lends the batch's own buffers: the only copy is the system's.
        let buffers = self.encoder.encode(batch).map_err(io::Error::other)?;
        if let Err(error) = buffers.iter().try_for_each(|buffer| self.file.write_all(buffer)) {
            self.full = true;
            self.cut_back();
            return Err(error);
        }
        self.written.add(buffers.iter().map(Buffer::len).sum());
        self.batches += 1;
        Ok(())
    }

    fn cut_back(&self) {
        if let Err(error) = self.file.set_len(self.written.bytes() as u64) {
            // Only room on a full disk is lost: the file is mapped as far as it was written well.
            log::warn!("a file of spilled rows could not be cut back: {error}");
        }
    }

    fn map(self, batches: &mut Vec<RecordBatch>) -> std::result::Result<(), ArrowError> {
        let Stream { file, written, starts, batches: expected, .. } = self;
        let bytes = memory::map_file(file, written)?;
        let before = batches.len();
        let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
        for (start, end) in starts.iter().zip(ends) {
            let mut rest = bytes.slice_with_length(*start, end - start);
            let mut decoder = StreamDecoder::new().with_require_alignment(true);
            while let Some(batch) = decoder.decode(&mut rest)? {
                batches.push(batch);
            }
        }
        if batches.len() - before != expected {
            return Err(ArrowError::IpcError(format!(
                "{} of {expected} batches came back from the file",
                batches.len() - before
            )));
        }
        Ok(())
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("batches", &self.batches).field("bytes", &self.written.bytes()).finish()
    }
}

fn encoder(schema: &SchemaRef) -> io::Result<StreamEncoder> {
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5).map_err(io::Error::other)?;
    StreamEncoder::try_new_with_options(schema, options).map_err(io::Error::other)
}

/// Of the values, without padding.
fn bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum()
}

fn nameless(directory: &Path) -> io::Result<File> {
    /// Names this process has used. A static, as directories are shared by all stores of a process.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("kindling-{}-{number}.arrows", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
