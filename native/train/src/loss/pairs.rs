//! Losses over several outputs: pairs that should be alike or ranked, and triplets.

use tch::Tensor;

use super::Loss;
use super::judge::{Rows, shaped_like};
use super::reduce::Reduce;
use crate::error::{Doing, Error, Result};

/// PyTorch's `eps` of `TripletMarginLoss`.
const TRIPLET_EPSILON: f64 = 1e-6;

pub(crate) fn judge(loss: &Loss, outputs: &[Tensor], rows: &Rows<'_>, reduce: &Reduce) -> Result<Tensor> {
    let alike = outputs.windows(2).all(|pair| match pair {
        [one, other] => one.size() == other.size() && one.size().first() == Some(&rows.count),
        _ => true,
    });
    if !alike {
        let shapes: Vec<Vec<i64>> = outputs.iter().map(Tensor::size).collect();
        return Err(Error::Config(format!(
            "{} takes outputs of one shape, rows first; the program returned {shapes:?} for {} rows",
            loss.name(),
            rows.count
        )));
    }
    let reduction = reduce.reduction();
    let (losses, per_row) = match (loss, outputs) {
        (Loss::MarginRanking { margin }, [first, second]) => {
            let labels = shaped_like(loss, first, rows)?;
            let losses = Tensor::f_margin_ranking_loss(first, second, &labels, *margin, reduction);
            (losses, first.numel() as i64 / rows.count.max(1))
        }
        (Loss::Cosine { margin }, [first, second]) => {
            let labels = rows.labels()?.f_reshape([rows.count]);
            let labels = labels.and_then(|labels| labels.f_to_kind(first.kind())).doing("shaping the labels")?;
            let flat = |output: &Tensor| output.f_reshape([rows.count, -1]).doing("shaping the outputs");
            let losses = Tensor::f_cosine_embedding_loss(&flat(first)?, &flat(second)?, &labels, *margin, reduction);
            (losses, 1)
        }
        (Loss::Triplet { margin, norm_degree, swap }, [anchor, positive, negative]) => {
            let losses = Tensor::f_triplet_margin_loss(
                anchor,
                positive,
                negative,
                *margin,
                *norm_degree,
                TRIPLET_EPSILON,
                *swap,
                reduction,
            );
            // One loss per vector, along the last dimension.
            let width = anchor.size().last().copied().unwrap_or(1).max(1);
            (losses, anchor.numel() as i64 / rows.count.max(1) / width)
        }
        _ => {
            return Err(Error::Config(format!("{} does not judge {} outputs", loss.name(), outputs.len())));
        }
    };
    let losses = losses.doing("computing the loss")?;
    reduce.finish(losses, per_row)
}
