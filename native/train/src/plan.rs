//! Which rows a rank trains: the rows of the shards that its own executor process holds, shared with the other ranks of
//! that process in contiguous ranges.
//!
//! A batch is the same set of rows whoever trains it (see `order`), so a rank looks through the batch for the rows it
//! owns. Every row has exactly one owner: each shard is held by one process, and a process's rows, in partition order,
//! are cut evenly among its ranks.

use std::ops::Range;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Where one partition's rows lie.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShardRef {
    /// The partition's number in the ingest job.
    pub partition: u32,
    /// The executor process that holds it.
    pub process: String,
    /// Its key in that process's store.
    pub key: u64,
    /// Rows to train on.
    pub rows: u64,
    /// Rows to validate on.
    pub validation_rows: u64,
}

/// A run of rows with consecutive numbers in one shard of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The rows' global numbers.
    pub(crate) rows: Range<u64>,
    /// The shard's index in the plan.
    pub(crate) shard: usize,
    /// The row of the shard that has number `rows.start`.
    pub(crate) first: u64,
}

/// The rows of one rank, by global number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owned {
    segments: Vec<Segment>,
}

/// Shares the rows of `shards` out: `rows_of` picks training or validation rows, `processes[r]` is rank r's process.
pub(crate) fn owned(
    shards: &[ShardRef],
    rows_of: impl Fn(&ShardRef) -> u64,
    processes: &[&str],
    rank: usize,
) -> Result<Owned> {
    let mine = *processes.get(rank).ok_or_else(|| Error::Config(format!("rank {rank} is not in the roster")))?;
    if let Some(shard) = shards.iter().find(|s| rows_of(s) > 0 && !processes.contains(&s.process.as_str())) {
        return Err(Error::Config(format!(
            "partition {} lies in an executor (process {}) that got no rank; raise numWorkers until every executor \
             with data has one, or use fewer executors",
            shard.partition, shard.process
        )));
    }
    let ranks_here = processes.iter().filter(|&&process| process == mine).count() as u64;
    let index_here = processes.iter().take(rank).filter(|&&process| process == mine).count() as u64;
    let local_rows: u64 = shards.iter().filter(|s| s.process == mine).map(&rows_of).sum();
    let share = cut(local_rows, index_here, ranks_here)..cut(local_rows, index_here + 1, ranks_here);

    let mut segments = Vec::new();
    let (mut global, mut local) = (0u64, 0u64);
    for (index, shard) in shards.iter().enumerate() {
        let rows = rows_of(shard);
        if shard.process == mine {
            let start = share.start.max(local);
            let end = share.end.min(local + rows);
            if start < end {
                let first = start - local;
                segments.push(Segment { rows: global + first..global + (end - local), shard: index, first });
            }
            local += rows;
        }
        global += rows;
    }
    Ok(Owned { segments })
}

/// Where the `index`-th of `parts` equal parts of `rows` begins.
fn cut(rows: u64, index: u64, parts: u64) -> u64 {
    let start = u128::from(rows) * u128::from(index) / u128::from(parts.max(1));
    u64::try_from(start).unwrap_or(rows)
}

impl Owned {
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether any of the rows `start..end` is owned.
    pub(crate) fn touches(&self, start: u64, end: u64) -> bool {
        let next = self.segments.partition_point(|segment| segment.rows.end <= start);
        self.segments.get(next).is_some_and(|segment| segment.rows.start < end)
    }

    /// The shard and the row in it that has this global number, if this rank owns it.
    pub(crate) fn locate(&self, row: u64) -> Option<(usize, u64)> {
        let next = self.segments.partition_point(|segment| segment.rows.end <= row);
        let segment = self.segments.get(next).filter(|segment| segment.rows.contains(&row))?;
        Some((segment.shard, segment.first + (row - segment.rows.start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(sizes: &[(u64, &str)]) -> Vec<ShardRef> {
        let shard = |(partition, &(rows, process)): (usize, &(u64, &str))| ShardRef {
            partition: partition as u32,
            process: process.to_owned(),
            key: partition as u64 + 1,
            rows,
            validation_rows: 0,
        };
        sizes.iter().enumerate().map(shard).collect()
    }

    #[test]
    fn every_row_has_exactly_one_owner() {
        let shards = shards(&[(5, "a"), (0, "b"), (61, "b"), (7, "a"), (1, "b"), (3, "a")]);
        for processes in [vec!["a", "b"], vec!["b", "a", "b"], vec!["a", "b", "a", "a", "b"]] {
            let mut owners = vec![0; 77];
            for rank in 0..processes.len() {
                let owned = owned(&shards, |s| s.rows, &processes, rank).unwrap();
                for row in 0..77 {
                    if let Some((shard, local)) = owned.locate(row) {
                        owners[row as usize] += 1;
                        assert_eq!(shards[shard].process, processes[rank]);
                        let before: u64 = shards[..shard].iter().map(|s| s.rows).sum();
                        assert_eq!(before + local, row);
                        assert!(owned.touches(row, row + 1));
                    }
                }
            }
            assert!(owners.iter().all(|&count| count == 1), "{processes:?}: {owners:?}");
        }
    }

    #[test]
    fn an_executor_with_rows_and_no_rank_is_named() {
        let error = owned(&shards(&[(5, "a"), (2, "b")]), |s| s.rows, &["a"], 0).unwrap_err();
        assert!(error.to_string().contains("partition 1") && error.to_string().contains("numWorkers"), "{error}");
        assert!(owned(&shards(&[(5, "a"), (0, "b")]), |s| s.rows, &["a"], 0).is_ok());
    }

    #[test]
    fn a_rank_may_own_nothing() {
        let owned = owned(&shards(&[(1, "a")]), |s| s.rows, &["a", "a", "a"], 0).unwrap();
        assert_eq!(owned.locate(0), None);
        assert!(!owned.touches(0, 1));
    }
}
