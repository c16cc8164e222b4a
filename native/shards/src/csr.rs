//! Rows that are mostly zeros, kept as what is not zero and where it stands: compressed sparse rows (CSR).
//!
//! A Spark ML vector of 10,000 numbers of which 50 are not zero takes 40 kB as a row of `float32`, and 404 bytes so: a `u32`
//! position and a value for each of them, and an offset for the row. Writers need not know: they fill dense blocks, small
//! enough for the processor's caches, and `commit` decides for each block and column what is kept of it ([`count`]). A row is
//! spread out again where a batch is gathered ([`Csr::put`]), as programs take dense tensors.
//!
//! **Exact.** Zero is what has no bit set: -0.0 and every NaN are values like others. What is spread out again has the bytes
//! that were written, so no order, hash or loss depends on the form in which rows are kept.
//!
//! **As long as it pays.** A block is compressed where that takes at most half of its bytes. Its content alone decides, so
//! arrays and scalars gain as vectors do, and a shard may hold blocks of both forms. It is done for inputs of 4 or 8 bytes
//! per value whose rows have at least [`MIN_ROW_BYTES`]: shorter ones are a few cache lines, which one copy reads best. Labels
//! and weights are read in one pass, too ([`Shard::values`](crate::Shard::values)), and stay dense.
//!
//! **Nothing is believed.** Positions that a peer sent are checked when they come ([`Parts::valid`]), and those of a file when
//! a row is read, as that is the first time that anybody looks at them.

use arrow_buffer::{Buffer, ScalarBuffer};

use crate::memory;
use crate::spec::{Column, Role};

/// Rows with fewer bytes stay dense.
const MIN_ROW_BYTES: usize = 256;
/// Rows of a block that are looked at first, so that what holds few zeros costs no pass over it.
const SAMPLE: usize = 8;
/// Bytes that are passed over at once where all are zero: a cache line.
const STRIDE: usize = 64;
/// Bytes of an offset, and of a position.
const INDEX: usize = 4;

/// Whether rows of the column may be compressed.
pub(crate) fn serves(column: &Column) -> bool {
    column.role == Role::Input && column.row_bytes() >= MIN_ROW_BYTES && matches!(column.dtype.size(), 4 | 8)
}

/// How many values of the rows are not zero, where it pays to keep these alone. `dense` is `rows` rows of the column.
pub(crate) fn count(column: &Column, rows: usize, dense: &[u8]) -> Option<usize> {
    let (row, size) = (column.row_bytes(), column.dtype.size());
    if !serves(column) || rows == 0 {
        return None;
    }
    let count = if size == 4 { nonzero::<4> } else { nonzero::<8> };
    let sampled = rows.min(SAMPLE);
    let sample = (0..sampled).filter_map(|n| dense.get(n * rows / sampled * row..)?.get(..row));
    if sample.map(count).sum::<usize>() > sampled * row / size / 2 {
        return None;
    }
    let offsets = INDEX * (rows + 1);
    let most = (dense.len() / 2).checked_sub(offsets)? / (INDEX + size);
    // Arrow counts them in i32.
    Some(count(dense)).filter(|count| *count <= most && i32::try_from(*count).is_ok())
}

fn nonzero<const N: usize>(dense: &[u8]) -> usize {
    // In short runs, whose counts fit the lanes of a vector register.
    let of_run = |run: &[[u8; N]]| run.iter().map(|value| u32::from(*value != [0; N])).sum::<u32>() as usize;
    dense.as_chunks().0.chunks(1024).map(of_run).sum()
}

/// Bytes of the offsets, positions and values of `rows` rows with `count` values in all.
pub(crate) fn lengths(column: &Column, rows: usize, count: usize) -> [Option<usize>; 3] {
    let offsets = rows.checked_add(1).and_then(|offsets| offsets.checked_mul(INDEX));
    [offsets, count.checked_mul(INDEX), count.checked_mul(column.dtype.size())]
}

/// Compresses dense rows into places of the [`lengths`] that [`count`] asks for; None if they are others.
pub(crate) fn compress(column: &Column, dense: &[u8], places: [&mut [u8]; 3]) -> Option<()> {
    match column.dtype.size() {
        4 => compress_values::<4>(column.row_bytes(), dense, places),
        8 => compress_values::<8>(column.row_bytes(), dense, places),
        _ => None,
    }
}

fn compress_values<const N: usize>(row_bytes: usize, dense: &[u8], places: [&mut [u8]; 3]) -> Option<()> {
    let [offsets, positions, values] = places;
    let mut offsets = offsets.as_chunks_mut::<INDEX>().0.iter_mut();
    let mut positions = positions.as_chunks_mut::<INDEX>().0.iter_mut();
    let mut values = values.as_chunks_mut::<N>().0.iter_mut();
    let mut kept = 0_i32;
    *offsets.next()? = kept.to_ne_bytes();
    for row in dense.chunks_exact(row_bytes) {
        let mut keep = |part: &[u8], first: usize| {
            for (value, at) in part.as_chunks::<N>().0.iter().zip(first..) {
                if *value != [0; N] {
                    *positions.next()? = u32::try_from(at).ok()?.to_ne_bytes();
                    *values.next()? = *value;
                    kept += 1;
                }
            }
            Some(())
        };
        let (strides, rest) = row.as_chunks::<STRIDE>();
        for (stride, first) in strides.iter().zip((0..).step_by(STRIDE / N)) {
            if stride.iter().fold(0, |bits, byte| bits | byte) != 0 {
                keep(stride, first)?;
            }
        }
        keep(rest, strides.len() * (STRIDE / N))?;
        *offsets.next()? = kept.to_ne_bytes();
    }
    (offsets.next().is_none() && positions.next().is_none() && values.next().is_none()).then_some(())
}

/// Compressed rows of one column, as they lie in a batch.
#[derive(Debug, Clone)]
pub(crate) struct Csr {
    /// Where each row begins among the positions and values, and where the last one ends.
    pub(crate) offsets: ScalarBuffer<i32>,
    pub(crate) positions: ScalarBuffer<u32>,
    pub(crate) values: Buffer,
    /// Bytes of a value.
    pub(crate) size: usize,
}

impl Csr {
    /// Spreads a row out to `out`, which has its length. None if there is no such row, or if its positions do not ascend
    /// within it; `out` holds anything then.
    #[inline]
    pub(crate) fn put(&self, row: usize, out: &mut [u8]) -> Option<()> {
        match self.size {
            4 => self.put_values::<4>(row, out),
            8 => self.put_values::<8>(row, out),
            _ => None,
        }
    }

    fn put_values<const N: usize>(&self, row: usize, out: &mut [u8]) -> Option<()> {
        let start = usize::try_from(*self.offsets.get(row)?).ok()?;
        let end = usize::try_from(*self.offsets.get(row.checked_add(1)?)?).ok()?;
        let positions = self.positions.get(start..end)?;
        let values = self.values.as_slice().as_chunks::<N>().0.get(start..end)?;
        out.fill(0);
        let out = out.as_chunks_mut::<N>().0;
        let mut free = 0;
        for (position, value) in positions.iter().zip(values) {
            if *position < free {
                return None;
            }
            *out.get_mut(*position as usize)? = *value;
            free = position.checked_add(1)?;
        }
        Some(())
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Bytes of these rows as they are kept.
    pub(crate) fn bytes(&self) -> usize {
        let held = self.held();
        size_of_val(&*self.offsets) + held.len() * (INDEX + self.size)
    }

    /// Tells the system that these rows are about to be read.
    pub(crate) fn will_need(&self) {
        let held = self.held();
        memory::will_need(self.offsets.inner());
        if let Some(positions) = self.positions.get(held.clone()) {
            memory::will_need(arrow_buffer::ToByteSlice::to_byte_slice(positions));
        }
        if let Some(values) = self.values.get(held.start * self.size..held.end * self.size) {
            memory::will_need(values);
        }
    }

    /// Where the values of these rows are among all.
    fn held(&self) -> std::ops::Range<usize> {
        let at = |offset: Option<&i32>| offset.and_then(|offset| usize::try_from(*offset).ok()).unwrap_or(0);
        at(self.offsets.first())..at(self.offsets.last())
    }
}

/// Compressed rows as bytes that somebody sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) offsets: &'a [u8],
    pub(crate) positions: &'a [u8],
    pub(crate) values: &'a [u8],
}

impl Parts<'_> {
    /// Whether these are `rows` rows of the column.
    pub(crate) fn valid(&self, column: &Column, rows: usize) -> bool {
        let (positions, _) = self.positions.as_chunks::<INDEX>();
        let lengths = lengths(column, rows, positions.len());
        if lengths != [self.offsets, self.positions, self.values].map(|part| Some(part.len())) {
            return false;
        }
        let offset = |bytes: &[u8; INDEX]| usize::try_from(i32::from_ne_bytes(*bytes)).ok();
        let mut offsets = self.offsets.as_chunks().0.iter().map(offset);
        let mut begin = offsets.next().flatten();
        let whole = begin == Some(0)
            && offsets.all(|end| {
                let row = begin.zip(end).and_then(|(begin, end)| positions.get(begin..end));
                begin = end;
                row.is_some_and(|row| ascends(row, column.width))
            });
        whole && begin == Some(positions.len())
    }
}

fn ascends(positions: &[[u8; INDEX]], width: u32) -> bool {
    let mut free = 0;
    positions.iter().map(|bytes| u32::from_ne_bytes(*bytes)).all(|position| {
        let fits = (free..width).contains(&position);
        free = position.saturating_add(1);
        fits
    })
}

#[cfg(test)]
mod tests;
