//! What every global batch sums to, known on every rank before it is trained on.
//!
//! The objective is a mean over the global batch, whose denominator a rank cannot tell from its own rows when rows or
//! labels weigh differently. It depends on labels and weights alone, so it needs no forward: every [`AHEAD`] batches the
//! ranks sum, in one exchange, what their rows of the coming batches weigh. Where every row weighs the same, the number
//! of rows says it all and nothing is exchanged.

use std::collections::VecDeque;
use std::ops::Range;

use kindling_shards::Split;

use crate::data::RankData;
use crate::error::Result;
use crate::loss::{Judge, Sums};
use crate::sync::Sync;

/// Batches that one exchange covers: it costs a small message, and reading their labels twice.
const AHEAD: u64 = 64;

/// See the module.
pub(crate) enum Totals {
    /// Every row weighs the same.
    Uniform { weight_per_row: f64, answers_per_row: f64 },
    /// Sums of the coming batches.
    Exchanged(VecDeque<Sums>),
}

impl Totals {
    /// Settles on all ranks together whether an exchange is needed. A rank that holds no shard does not know by itself.
    pub(crate) fn agree(judge: &Judge, data: &RankData, sync: &mut Sync) -> Result<Totals> {
        let uniform = judge.uniform(1, data.label(), data.weighted());
        let mut figures = match uniform {
            Some(row) if data.holds_rows() => [0.0, row.weight, row.answers],
            Some(_) => [0.0; 3],
            None => [1.0, 0.0, 0.0],
        };
        sync.max(&mut figures)?;
        let [exchanged, weight_per_row, answers_per_row] = figures;
        if exchanged > 0.0 {
            Ok(Totals::Exchanged(VecDeque::new()))
        } else {
            Ok(Totals::Uniform { weight_per_row, answers_per_row })
        }
    }

    /// What batch `step` of `steps` sums to. `rows` says how many rows a batch has over all ranks, `mine` which of them are
    /// this rank's in each of several. Steps are asked for one after the other, by all ranks alike.
    pub(crate) fn of(
        &mut self,
        step: u64,
        steps: u64,
        rows: &dyn Fn(u64) -> u64,
        mine: &dyn Fn(Range<u64>) -> Vec<Vec<u64>>,
        (judge, data, sync): (&Judge, &RankData, &mut Sync),
    ) -> Result<Sums> {
        match self {
            Totals::Uniform { weight_per_row, answers_per_row } => {
                #[expect(clippy::cast_precision_loss, reason = "rows of a batch, far below 2^53")]
                let count = rows(step) as f64;
                Ok(Sums { rows: rows(step), weight: *weight_per_row * count, answers: *answers_per_row * count })
            }
            Totals::Exchanged(coming) => {
                if coming.is_empty() {
                    *coming = exchange(step..steps.min(step + AHEAD), rows, mine, (judge, data, sync))?;
                }
                // The exchange covers at least this step.
                Ok(coming.pop_front().unwrap_or_default())
            }
        }
    }
}

fn exchange(
    steps: Range<u64>,
    rows: &dyn Fn(u64) -> u64,
    mine: &dyn Fn(Range<u64>) -> Vec<Vec<u64>>,
    (judge, data, sync): (&Judge, &RankData, &mut Sync),
) -> Result<VecDeque<Sums>> {
    let mut figures = Vec::new();
    for rows in mine(steps.clone()) {
        let sums =
            if rows.is_empty() { Sums::default() } else { judge.sums(&data.judged(Split::Train, &rows)?.judged())? };
        figures.extend([sums.weight, sums.answers]);
    }
    sync.sum(&mut figures)?;
    let pairs = figures.as_chunks::<2>().0;
    Ok(steps.zip(pairs).map(|(step, &[weight, answers])| Sums { rows: rows(step), weight, answers }).collect())
}
