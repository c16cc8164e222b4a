//! The area under the ROC curve, of all ranks' rows.
//!
//! It cannot be put together from parts, as every positive row is compared with every negative one. So ranks sort the
//! scores of their own rows, all tell all, and each rank merges the sorted runs: 16 bytes per row that every rank
//! receives, and holds some three times while it counts. What comes out does not depend on who had which row.

use std::cmp::Ordering;

use tch::{Kind, TchError, Tensor};

use super::answers::Answered;
use crate::error::{Error, Result};
use crate::sync::Sync;

/// Rows that a rank can tell the others of: 1 GiB, as much as one message holds.
const MOST_ROWS: usize = 1 << 26;

/// Scores, each with the weight of its row: below 0 for a negative one. Rows that weigh nothing are left out.
#[derive(Debug, Default)]
pub(super) struct Curve {
    scores: Vec<(f64, f64)>,
}

impl Curve {
    pub(super) fn add(&mut self, answers: &Answered) -> std::result::Result<(), TchError> {
        let Some(score) = &answers.score else { return Ok(()) };
        let sign = answers.truth.f_to_kind(Kind::Double)?.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?;
        let list = |tensor: &Tensor| Vec::<f64>::try_from(tensor.f_reshape([-1])?);
        let (scores, weights) = (list(score)?, list(&sign.f_mul(&answers.weights)?)?);
        self.scores.extend(scores.into_iter().zip(weights).filter(|(_, weight)| *weight != 0.0));
        Ok(())
    }

    /// The area, if there are rows of both classes.
    pub(super) fn area(mut self, sync: &mut Sync) -> Result<Option<f64>> {
        if sync.world() > 1 && self.scores.len() > MOST_ROWS {
            return Err(Error::Data(format!(
                "auc compares at most {MOST_ROWS} validation rows of a rank with the others', and here are {}: train with more \
                 workers, or leave it out",
                self.scores.len()
            )));
        }
        self.scores.sort_unstable_by(order);
        let flat: Vec<f64> = self.scores.iter().flat_map(|&(score, weight)| [score, weight]).collect();
        let runs = sync.gather(&flat)?;
        let mut scores = self.scores;
        scores.clear();
        for run in &runs {
            scores.extend(run.as_chunks::<2>().0.iter().map(|&[score, weight]| (score, weight)));
        }
        // The stable sort takes the sorted runs as they are and merges them.
        scores.sort_by(order);
        Ok(area(&scores))
    }
}

/// By score; among equals by weight, so that sums are taken in one order whoever had the rows.
fn order(a: &(f64, f64), b: &(f64, f64)) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
}

/// Of sorted scores: the part of the pairs of a positive and a negative row in which the positive one has the higher
/// score, a tie being half a pair. NaN where a score is.
fn area(scores: &[(f64, f64)]) -> Option<f64> {
    let (mut positive, mut negative, mut won) = (0.0, 0.0, 0.0);
    for tied in scores.chunk_by(|a, b| a.0 == b.0) {
        if tied.iter().any(|(score, _)| score.is_nan()) {
            return Some(f64::NAN);
        }
        let sum = |sign: f64| tied.iter().map(|(_, weight)| (weight * sign).max(0.0)).sum::<f64>();
        let (here, against) = (sum(1.0), sum(-1.0));
        won += here * (negative + against / 2.0);
        positive += here;
        negative += against;
    }
    (positive > 0.0 && negative > 0.0).then(|| won / (positive * negative))
}
