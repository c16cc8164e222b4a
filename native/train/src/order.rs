//! The order in which rows are trained: which global row numbers make up batch `k` of epoch `e`.
//!
//! The rows of all partitions are numbered 0..n in partition order. The numbers are cut into V equal *logical shards*.
//! A batch takes its rows from the shards in turn, in an evenly spaced order, and a random row of a shard each time:
//!
//! - position p of the epoch belongs to round p / V and slot p mod V; batch k is the positions k·B .. (k+1)·B;
//! - slots visit the shards in the order of a scrambled van der Corput sequence over the radices 2, 3, 2, 2, 5, 7: of any
//!   2, 6, 12, 24, … slots in a row, one falls into each half, sixth, twelfth, … of the shards. The scrambling (a
//!   permutation of the digits of each radix, and the slot at which the epoch begins) changes per epoch;
//! - round j takes the j-th row of the shard's own permutation, new per epoch.
//!
//! A shard of more than [`WINDOW_BYTES`] is permuted window by window: its windows come in a random order, beginning
//! somewhere inside one, and their rows in a random order each. So of all the data only one window per shard is in use
//! at a time, some 840 MB: data larger than memory is read from its files a window at a time and not row by row. Where a
//! shard begins differs, so that they do not all turn to the next window in the same batch.
//!
//! So a batch is spread evenly over the numbers, data sorted by class or day included, and so is the work of ranks that
//! own ranges of them. Everything is a function of (n, bytes of a row, batch size, seed, epoch): never of ranks,
//! executors, attempts, or how much memory there is.
//! So the batches are the same for any number of workers, and a position in the data is just (epoch, step). Every row
//! comes exactly once per epoch; the last batch is smaller where the batch size does not divide n. Nothing is stored per
//! row: permutations are computed, so an epoch over a billion rows costs no memory.
//!
//! Without shuffling nothing is scrambled or permuted: batches are still spread over the numbers, and each shard is read
//! front to back, in the same order in every epoch.

use std::ops::Range;

/// The radices by which slots visit the shards. Their product, 840, is the most shards a run has.
const RADICES: [u64; 6] = [2, 3, 2, 2, 5, 7];
/// Rows a logical shard should have at least, so that its permutation mixes; a window too.
const ROWS_PER_SHARD: u64 = 64;
/// Rows of a shard that are shuffled together: enough to be worth a disk's while.
const WINDOW_BYTES: u64 = 1 << 20;

/// The batches of one run.
#[derive(Debug, Clone)]
pub struct Order {
    rows: u64,
    batch_size: u64,
    seed: u64,
    shuffle: bool,
    shards: u64,
    /// Least rows of a window.
    window: u64,
}

impl Order {
    /// The order of `rows` rows of `row_bytes` bytes each, in batches of `batch_size` (at least 1).
    pub fn new(rows: u64, row_bytes: u64, batch_size: u64, seed: u64, shuffle: bool) -> Order {
        let mut shards = 1;
        for radix in RADICES {
            if shards * radix * ROWS_PER_SHARD > rows {
                break;
            }
            shards *= radix;
        }
        let window = (WINDOW_BYTES / row_bytes.max(1)).max(ROWS_PER_SHARD);
        Order { rows, batch_size: batch_size.max(1), seed, shuffle, shards, window }
    }

    /// Batches per epoch.
    pub fn steps(&self) -> u64 {
        self.rows.div_ceil(self.batch_size)
    }

    /// Rows of all ranks together in batch `step`.
    pub fn batch_rows(&self, step: u64) -> u64 {
        let start = step.saturating_mul(self.batch_size).min(self.rows);
        self.batch_size.min(self.rows - start)
    }

    /// The order of one epoch.
    pub fn epoch(&self, epoch: u64) -> Epoch<'_> {
        let key = mix(self.seed ^ mix(epoch.wrapping_add(0x5851_f42d_4c95_7f2d)));
        let offset = if self.shuffle { mix(key) % self.shards } else { 0 };
        let slots: Vec<u64> = (0..self.shards).map(|slot| self.visit((slot + offset) % self.shards, key)).collect();
        let whole_rounds = self.rows / self.shards;
        let last_round = slots.iter().copied().filter(|&shard| self.size(shard) > whole_rounds).collect();
        Epoch { order: self, key, slots, whole_rounds, last_round }
    }

    /// The shard that a slot visits: the slot's digits, scrambled, become the shard's from the top.
    fn visit(&self, slot: u64, key: u64) -> u64 {
        let (mut rest, mut width, mut shard) = (slot, self.shards, 0);
        for (level, radix) in (1..).zip(RADICES) {
            if width == 1 {
                break;
            }
            width /= radix;
            let digit = rest % radix;
            rest /= radix;
            shard += width * if self.shuffle { permute(digit, radix, mix(key ^ (level << 32))) } else { digit };
        }
        shard
    }

    fn start(&self, shard: u64) -> u64 {
        let start = u128::from(shard) * u128::from(self.rows) / u128::from(self.shards);
        // At most `rows`, as shard <= shards.
        u64::try_from(start).unwrap_or(self.rows)
    }

    fn size(&self, shard: u64) -> u64 {
        self.start(shard + 1) - self.start(shard)
    }
}

/// The order of one epoch; see [`Order`].
#[derive(Debug)]
pub struct Epoch<'a> {
    order: &'a Order,
    key: u64,
    /// The shard that each slot of a round visits.
    slots: Vec<u64>,
    whole_rounds: u64,
    /// The shards that have one row more than the others, in slot order: all that the last round visits.
    last_round: Vec<u64>,
}

impl Epoch<'_> {
    /// The row numbers of batch `step`, in their order.
    pub fn batch(&self, step: u64) -> impl Iterator<Item = u64> + '_ {
        self.batch_where(step, |_, _| true)
    }

    /// The row numbers of batch `step`, leaving out logical shards whose rows `start..end` the caller does not hold:
    /// `wanted(start, end)` is asked before a row is worked out.
    pub fn batch_where<'a>(
        &'a self,
        step: u64,
        wanted: impl FnMut(u64, u64) -> bool + 'a,
    ) -> impl Iterator<Item = u64> + 'a {
        self.placed_where(step, wanted).map(|(_, row)| row)
    }

    /// The same, with the place in the batch before each row number.
    pub fn placed_where<'a>(
        &'a self,
        step: u64,
        wanted: impl FnMut(u64, u64) -> bool + 'a,
    ) -> impl Iterator<Item = (u64, u64)> + 'a {
        self.visits(step, wanted).map(|visit| (visit.place, visit.row(self)))
    }

    /// The windows, as ranges of row numbers, whose first rows are in batch `step`, leaving out shards as
    /// [`Epoch::batch_where`] does. Every row's window is named before the row comes or in the same batch.
    pub fn windows_where<'a>(
        &'a self,
        step: u64,
        wanted: impl FnMut(u64, u64) -> bool + 'a,
    ) -> impl Iterator<Item = Range<u64>> + 'a {
        self.visits(step, wanted).filter_map(|visit| visit.entered(self))
    }

    fn visits<'a>(
        &'a self,
        step: u64,
        mut wanted: impl FnMut(u64, u64) -> bool + 'a,
    ) -> impl Iterator<Item = Visit> + 'a {
        let first = step.saturating_mul(self.order.batch_size).min(self.order.rows);
        (first..first + self.order.batch_rows(step)).filter_map(move |position| {
            let round = position / self.order.shards;
            let slots = if round < self.whole_rounds { &self.slots } else { &self.last_round };
            let shard = *slots.get(usize::try_from(position % self.order.shards).ok()?)?;
            let (start, size) = (self.order.start(shard), self.order.size(shard));
            wanted(start, start + size).then_some(Visit { place: position - first, round, shard, start, size })
        })
    }
}

/// The row that one place in a batch takes.
struct Visit {
    place: u64,
    round: u64,
    shard: u64,
    /// The shard's first row.
    start: u64,
    /// The shard's rows.
    size: u64,
}

/// The window that a round falls into: its number in the order of reading, and the round's own place in it.
struct Window {
    number: u64,
    index: u64,
    /// Where it lies in the shard.
    first: u64,
    rows: u64,
}

impl Visit {
    fn key(&self, epoch: &Epoch<'_>) -> u64 {
        mix(epoch.key ^ mix(self.shard + 3))
    }

    /// All windows of a shard are equal but for a last, shorter one where they do not divide it.
    fn window(&self, epoch: &Epoch<'_>) -> Window {
        let Order { shuffle, window, .. } = *epoch.order;
        let count = self.size / window;
        if count < 2 {
            return Window { number: 0, index: self.round, first: 0, rows: self.size };
        }
        let rows = self.size / count;
        let key = self.key(epoch);
        let turned = if shuffle { (self.round + mix(key ^ 1) % self.size) % self.size } else { self.round };
        let (number, index) = (turned / rows, turned % rows);
        if number == count {
            return Window { number, index, first: number * rows, rows: self.size - number * rows };
        }
        let at = if shuffle { permute(number, count, mix(key ^ 2)) } else { number };
        Window { number, index, first: at * rows, rows }
    }

    fn row(&self, epoch: &Epoch<'_>) -> u64 {
        let window = self.window(epoch);
        let within = if epoch.order.shuffle {
            permute(window.index, window.rows, self.key(epoch) ^ window.number)
        } else {
            window.index
        };
        self.start + window.first + within
    }

    /// The window, if this is its first row in the epoch.
    fn entered(&self, epoch: &Epoch<'_>) -> Option<Range<u64>> {
        let window = self.window(epoch);
        let first = self.start + window.first;
        (self.round == 0 || window.index == 0).then_some(first..first + window.rows)
    }
}

/// The image of `index` under a pseudo-random permutation of 0..size: a Feistel network over the next even number of
/// bits, walked until the value falls inside (at most four times as many values as needed).
fn permute(index: u64, size: u64, key: u64) -> u64 {
    if size <= 1 {
        return index;
    }
    let bits = 64 - (size - 1).leading_zeros();
    let half = bits.div_ceil(2);
    let mask = (1u64 << half) - 1;
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..6 {
            (left, right) = (right, left ^ (mix(key ^ right.rotate_left(17) ^ (round << 56)) & mask));
        }
        value = (left << half) | right;
        if value < size {
            return value;
        }
    }
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, 2014).
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_comes_exactly_once_per_epoch() {
        for rows in [0, 1, 2, 63, 64, 65, 127, 128, 1000, 1437, 53_760, 100_003] {
            for batch in [1, 7, 32, 1000, 200_000] {
                // Small rows, so that a shard is one window, and large ones in windows of 64 rows.
                for (shuffle, row_bytes) in [(true, 4), (false, 4), (true, 1 << 20), (false, 1 << 20)] {
                    let order = Order::new(rows, row_bytes, batch, 7, shuffle);
                    let epoch = order.epoch(3);
                    let mut seen = vec![false; rows as usize];
                    for step in 0..order.steps() {
                        let batch: Vec<u64> = epoch.batch(step).collect();
                        assert_eq!(batch.len() as u64, order.batch_rows(step));
                        for row in batch {
                            assert!(!std::mem::replace(&mut seen[row as usize], true), "row {row} twice");
                        }
                    }
                    assert!(seen.iter().all(|&seen| seen), "{rows} rows, batch {batch}");
                }
            }
        }
    }

    #[test]
    fn a_batch_takes_evenly_spaced_rows() {
        // Rows sorted by class, or ranks that own a quarter each: every batch has 15 of each, as 60 is 5 times 12.
        let (rows, batch, parts) = (84_000u64, 60, 4u64);
        let order = Order::new(rows, 4, batch, 1, true);
        for epoch in 0..3 {
            let epoch = order.epoch(epoch);
            for step in 0..order.steps() {
                let mut counts = [0i64; 4];
                epoch.batch(step).for_each(|row| counts[(row * parts / rows) as usize] += 1);
                assert_eq!(counts, [15; 4]);
            }
        }
    }

    #[test]
    fn other_batch_sizes_and_worlds_are_within_a_few_rows_of_even() {
        let rows = 100_003u64;
        for (batch, world) in [(64, 3), (100, 7), (256, 5), (1000, 8), (31, 2)] {
            let order = Order::new(rows, 4, batch, 1, true);
            let epoch = order.epoch(0);
            for step in 0..order.steps() - 1 {
                let mut counts = vec![0i64; world as usize];
                epoch.batch(step).for_each(|row| counts[(row * world / rows) as usize] += 1);
                let even = (batch / world) as i64;
                assert!(counts.iter().all(|&count| (count - even).abs() <= 4), "{batch} {world} {counts:?}");
            }
        }
    }

    #[test]
    fn epochs_and_seeds_give_different_orders_and_no_shuffle_the_same() {
        let first = |seed, epoch, shuffle| -> Vec<u64> {
            Order::new(1000, 4, 100, seed, shuffle).epoch(epoch).batch(0).collect()
        };
        assert_ne!(first(1, 0, true), first(1, 1, true));
        assert_ne!(first(1, 0, true), first(2, 0, true));
        assert_eq!(first(1, 0, true), first(1, 0, true));
        assert_eq!(first(1, 0, false), first(2, 5, false));
    }

    #[test]
    fn a_row_comes_after_its_window_was_named_and_windows_take_turns() {
        // 840 shards of 1000 rows in 15 windows of 66 and a rest of 10.
        let order = Order::new(840_000, 1 << 14, 840, 3, true);
        let epoch = order.epoch(1);
        let (mut named, mut entered) = (vec![false; 840_000], Vec::new());
        for step in 0..order.steps() {
            let windows: Vec<_> = epoch.windows_where(step, |_, _| true).collect();
            windows.iter().cloned().flatten().for_each(|row| named[row as usize] = true);
            entered.push(windows.len());
            assert!(epoch.batch(step).all(|row| named[row as usize]), "step {step}");
        }
        // The first batch enters a window of each shard, and those that follow some 13 each, never many at once.
        assert_eq!(entered[0], 840);
        assert!(entered[1..].iter().all(|&count| count < 50), "{entered:?}");
    }

    #[test]
    fn windows_mix_rows_over_the_whole_epoch_and_anew_in_each() {
        // When row r of the data comes, in two epochs: uniform and uncorrelated would be 0 within 1/sqrt(n) = 0.0011.
        let rows = 840_000u64;
        let order = Order::new(rows, 1 << 14, 4_000, 3, true);
        let times = |epoch| {
            let mut times = vec![0f64; rows as usize];
            let (epoch, mut time) = (order.epoch(epoch), 0.0);
            for row in (0..order.steps()).flat_map(|step| epoch.batch(step)) {
                times[row as usize] = time;
                time += 1.0;
            }
            times
        };
        let correlation = |one: &[f64], other: &[f64]| {
            let mean = (rows - 1) as f64 / 2.0;
            let products = one.iter().zip(other).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
            products / one.iter().map(|a| (a - mean).powi(2)).sum::<f64>()
        };
        let (first, second) = (times(0), times(1));
        let numbers: Vec<f64> = (0..rows).map(|row| row as f64).collect();
        assert!(correlation(&numbers, &first).abs() < 0.01, "{}", correlation(&numbers, &first));
        assert!(correlation(&first, &second).abs() < 0.05, "{}", correlation(&first, &second));
    }

    #[test]
    fn permutations_are_bijective_and_spread() {
        for size in [1u64, 2, 3, 5, 64, 65, 1000] {
            for key in 0..20 {
                let mut images: Vec<u64> = (0..size).map(|index| permute(index, size, mix(key))).collect();
                images.sort_unstable();
                assert_eq!(images, (0..size).collect::<Vec<_>>());
            }
        }
        // Where index 0 lands, over many keys: chi-square with 9 degrees of freedom, 99.9 % quantile 27.9.
        let (size, trials) = (10u64, 20_000u64);
        let mut counts = [0f64; 10];
        (0..trials).for_each(|key| counts[permute(0, size, mix(key)) as usize] += 1.0);
        let expected = trials as f64 / size as f64;
        let chi: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
        assert!(chi < 27.9, "chi-square {chi}, {counts:?}");
    }

    #[test]
    fn the_order_is_frozen() {
        // A resumed run must see the same batches after an upgrade.
        let order = Order::new(1437, 4, 8, 42, true);
        assert_eq!(order.epoch(0).batch(0).collect::<Vec<_>>(), FROZEN_FIRST);
        assert_eq!(order.epoch(1).batch(179).collect::<Vec<_>>(), FROZEN_LAST);
    }
    const FROZEN_FIRST: [u64; 8] = [714, 1354, 118, 834, 306, 969, 560, 1208];
    const FROZEN_LAST: [u64; 5] = [752, 327, 1408, 676, 884];
}
