//! The flight recorder: the last operations of a rank, to see afterwards who did what when.

use crate::connect::Options;
use crate::error::Error;
use crate::operation::{Kind, Operation};
use serde::Serialize;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How many operations are remembered.
const CAPACITY: usize = 2000;

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordState {
    /// It has been started and is not over.
    Started,
    /// It has ended well.
    Finished,
    /// It has failed.
    Failed,
}

/// One operation of one rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The number of the operation: counted from 1 in the order of starting; sends and receives are counted between
    /// each two ranks and direction.
    pub sequence: u64,
    /// What it is, in words: `all-reduce (sum) of 1024 f32`.
    pub operation: String,
    /// Bytes of this rank's buffer.
    pub bytes: u64,
    /// When it was started, in microseconds since 1970.
    pub start_us: u64,
    /// When it was over, likewise; none while it is not.
    pub end_us: Option<u64>,
    /// What became of it.
    pub state: RecordState,
}

/// Keeps the last [`CAPACITY`] operations. Numbers are given by [`Recorder::begin`].
pub(crate) struct Recorder {
    /// Wall clock and steady clock at one moment: records are steady within a run and comparable between hosts.
    origin: (Duration, Instant),
    entries: VecDeque<Entry>,
    /// The number of the first entry kept.
    first: u64,
}

struct Entry {
    sequence: u64,
    operation: Operation,
    bytes: u64,
    start: Instant,
    end: Option<Instant>,
    state: RecordState,
}

impl Recorder {
    pub(crate) fn new() -> Recorder {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Recorder { origin: (wall, Instant::now()), entries: VecDeque::new(), first: 0 }
    }

    /// Notes a start; the ticket is for [`Recorder::end`].
    pub(crate) fn begin(&mut self, sequence: u64, operation: Operation, bytes: u64) -> u64 {
        if self.entries.len() >= CAPACITY {
            self.entries.pop_front();
            self.first += 1;
        }
        let start = Instant::now();
        self.entries.push_back(Entry { sequence, operation, bytes, start, end: None, state: RecordState::Started });
        self.first + self.entries.len() as u64 - 1
    }

    /// Notes an end.
    pub(crate) fn end(&mut self, ticket: u64, state: RecordState) {
        let index = ticket.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) {
            entry.end = Some(Instant::now());
            entry.state = state;
        }
    }

    /// The collective operation of that number, if it is remembered.
    pub(crate) fn find(&self, sequence: u64) -> Option<Operation> {
        let collective = |entry: &&Entry| !matches!(entry.operation.kind, Kind::Transfer { .. });
        self.entries
            .iter()
            .rev()
            .filter(collective)
            .find(|entry| entry.sequence == sequence)
            .map(|entry| entry.operation)
    }

    /// All that is remembered, oldest first.
    pub(crate) fn records(&self) -> Vec<Record> {
        let (wall, steady) = self.origin;
        let micros =
            |at: Instant| u64::try_from((wall + at.saturating_duration_since(steady)).as_micros()).unwrap_or(u64::MAX);
        self.entries
            .iter()
            .map(|entry| Record {
                sequence: entry.sequence,
                operation: entry.operation.to_string(),
                bytes: entry.bytes,
                start_us: micros(entry.start),
                end_us: entry.end.map(micros),
                state: entry.state,
            })
            .collect()
    }
}

/// Where and as what a rank's records are written when it fails.
pub(crate) struct Report {
    folder: Option<PathBuf>,
    run: String,
    attempt: u32,
    rank: usize,
    size: usize,
}

/// What is written: JSON with the rank, its error, and its records.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sheet<'a> {
    run: &'a str,
    attempt: u32,
    rank: usize,
    size: usize,
    error: String,
    records: &'a [Record],
}

impl Report {
    pub(crate) fn of(options: &Options, size: usize) -> Report {
        let Options { run, attempt, rank, record_folder, .. } = options;
        Report { folder: record_folder.clone(), run: run.clone(), attempt: *attempt, rank: *rank, size }
    }

    /// Writes the records. That it cannot is logged: the failure itself matters more.
    pub(crate) fn write(&self, records: &[Record], error: &Error) {
        let Some(folder) = &self.folder else { return };
        let Report { run, attempt, rank, size, .. } = self;
        let name: String = run.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let path = folder.join(format!("kindling-{name}-attempt{attempt}-rank{rank}.json"));
        let sheet = Sheet { run, attempt: *attempt, rank: *rank, size: *size, error: error.to_string(), records };
        let written = serde_json::to_vec(&sheet).map_err(std::io::Error::from).and_then(|bytes| {
            std::fs::create_dir_all(folder)?;
            std::fs::write(&path, bytes)
        });
        match written {
            Ok(()) => log::warn!("rank {rank}: its last operations are in {}", path.display()),
            Err(error) => log::warn!("rank {rank}: its last operations could not be written: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_thousand_operations_are_kept_with_what_became_of_them() {
        let mut recorder = Recorder::new();
        let tickets: Vec<u64> =
            (1..=2500).map(|sequence| recorder.begin(sequence, Operation::plain(Kind::Barrier), 0)).collect();
        recorder.end(tickets[2498], RecordState::Finished);
        recorder.end(tickets[2499], RecordState::Failed);
        // Long forgotten, and so is its end.
        recorder.end(tickets[0], RecordState::Finished);
        let records = recorder.records();
        assert_eq!(records.len(), CAPACITY);
        assert_eq!(records[0].sequence, 501);
        assert_eq!((records[1998].state, records[1999].state), (RecordState::Finished, RecordState::Failed));
        assert_eq!((records[0].state, records[0].end_us), (RecordState::Started, None));
        assert!(records[1999].end_us.unwrap() >= records[1999].start_us);
    }
}
