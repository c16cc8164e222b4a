//! The content of a shard as one number: equal rows in equal order give equal digests, in any process and any batches.
//!
//! XXH3 (64 bits) runs over the bytes of each column in row order, compressed rows spread out, so neither the form of a
//! batch nor where it ends and the next begins leaves a trace; the digest of a shard is that of its splits' row counts and columns. It tells a plan that gave other rows the
//! second time from one that did not. It is no defence against somebody who makes rows to collide.

use std::hash::Hasher as _;

use arrow_array::RecordBatch;
use twox_hash::xxhash3_64::Hasher;

use crate::batch::{self, Values};
use crate::error::Result;
use crate::spec::Schema;

/// One split's digest in the making.
pub(crate) struct Digest {
    rows: u64,
    columns: Vec<Hasher>,
}

impl Digest {
    pub(crate) fn new(columns: usize) -> Digest {
        Digest { rows: 0, columns: (0..columns).map(|_| Hasher::new()).collect() }
    }

    pub(crate) fn add(&mut self, key: u64, schema: &Schema, batch: &RecordBatch) -> Result<()> {
        for (index, (column, hasher)) in schema.columns.iter().zip(&mut self.columns).enumerate() {
            match batch::column(key, batch, index, column)? {
                Values::Dense(buffer) => hasher.write(&buffer),
                Values::Csr(csr) => {
                    let mut bytes = vec![0; column.row_bytes()];
                    for row in 0..csr.rows() {
                        csr.put(row, &mut bytes).ok_or_else(|| batch::unfit(key, column))?;
                        hasher.write(&bytes);
                    }
                }
            }
        }
        self.rows = self.rows.saturating_add(batch.num_rows() as u64);
        Ok(())
    }

    fn numbers(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.rows).chain(self.columns.iter().map(|hasher| hasher.finish()))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digest").field("rows", &self.rows).finish()
    }
}

/// 16 hexadecimal digits.
pub(crate) fn combined(splits: [&Digest; 2]) -> String {
    let numbers: Vec<u8> = splits.iter().flat_map(|split| split.numbers()).flat_map(u64::to_le_bytes).collect();
    format!("{:016x}", Hasher::oneshot(&numbers))
}
