//! Batch norm over the values of all ranks: what they tell each other about it.
//!
//! The ranks have a group of their own for this, so that the order of its operations does not depend on when buckets of
//! gradients start. Each operation is an all-gather of a *note* that says what it is about:
//!
//! * *moments* of a batch norm in forward: values per channel, means, sums of squares around them, and the momentum;
//! * *sums* of a batch norm in backward;
//! * *over*: this rank has done its backward.
//!
//! Every rank that has rows runs the same program, so their notes are about the same batch norm, which is checked. A rank
//! without rows answers with empty notes until the others say *over*: it need not know how many batch norms there are nor
//! which of them backward reaches. It updates its running statistics by what it hears. Ranks with rows say *over* only if
//! somebody has none, which they know from the first batch norm on.
//!
//! All combine in rank order and double precision: every rank has the same bits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kindling_collective::Communicator;

use crate::error::{Error, Result};

/// One rank's side of it.
pub(crate) struct Norms {
    communicator: Arc<dyn Communicator>,
    /// Whether a rank has no rows in this part of the batch, once that is known.
    idle: Mutex<Option<bool>>,
}

/// What all ranks know of one batch norm in one step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    /// Values per channel, over all ranks.
    pub(crate) count: f64,
    pub(crate) mean: Vec<f64>,
    /// Divided by the count.
    pub(crate) variance: Vec<f64>,
    /// The share of the new statistics in the running ones.
    pub(crate) momentum: f64,
}

const MOMENTS: f64 = 1.0;
const SUMS: f64 = 2.0;
const OVER: f64 = 3.0;

/// Kind, index of the batch norm, and figures.
type Note = Vec<f64>;

impl Norms {
    /// Splits a group for batch norms off; all ranks call it at the same place.
    pub(crate) fn split(communicator: &dyn Communicator) -> Result<Option<Arc<Norms>>> {
        let rank = i64::try_from(communicator.rank()).unwrap_or(i64::MAX);
        let group = communicator.split(Some(0), rank)?;
        Ok(group.map(|communicator| Arc::new(Norms { communicator, idle: Mutex::new(None) })))
    }

    /// Begins a part of a batch on this rank.
    pub(crate) fn begin(&self) {
        *self.idle() = None;
    }

    /// The moments of batch norm `index` over all ranks. `own` are this rank's: values per channel, means, sums of squares.
    pub(crate) fn moments(&self, index: u32, momentum: f64, own: &[f64]) -> Result<Moments> {
        let head = [MOMENTS, f64::from(index), momentum];
        let notes = self.exchange(head.iter().chain(own).copied().collect())?;
        *self.idle() = Some(notes.iter().any(Vec::is_empty));
        combined(&notes)
    }

    /// Sums the figures that backward of batch norm `index` has, in place.
    pub(crate) fn sum(&self, index: u32, values: &mut [f64]) -> Result<()> {
        let head = [SUMS, f64::from(index)];
        let notes = self.exchange(head.iter().chain(values.iter()).copied().collect())?;
        values.fill(0.0);
        for note in notes.iter().filter(|note| !note.is_empty()) {
            let figures = note.get(head.len()..).unwrap_or_default();
            values.iter_mut().zip(figures).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }

    /// Ends the part on a rank that had rows in it, after its backward.
    pub(crate) fn end(&self) -> Result<()> {
        // Unknown where no batch norm ran: then none ran on any rank, and one without rows still waits.
        if *self.idle() != Some(false) {
            self.exchange(vec![OVER, 0.0])?;
        }
        Ok(())
    }

    /// Takes part without rows until the others are done; `heard` is told the moments of every batch norm.
    pub(crate) fn listen(&self, heard: &mut dyn FnMut(u32, &Moments) -> Result<()>) -> Result<()> {
        loop {
            let notes = self.exchange(Vec::new())?;
            let Some([kind, index]) = notes.iter().find_map(|note| note.first_chunk::<2>()) else { return Ok(()) };
            if *kind == OVER {
                return Ok(());
            }
            if *kind == MOMENTS {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "made from a u32")]
                heard(*index as u32, &combined(&notes)?)?;
            }
        }
    }

    /// Every rank's note, in rank order; an error if those that are not empty are about different things.
    fn exchange(&self, note: Note) -> Result<Vec<Note>> {
        let bytes = note.iter().flat_map(|figure| figure.to_le_bytes()).collect();
        let gathered = self.communicator.start_all_gather_bytes(bytes)?.wait()?;
        let read =
            |bytes: &Vec<u8>| bytes.as_chunks::<8>().0.iter().map(|figure| f64::from_le_bytes(*figure)).collect();
        let notes: Vec<Note> = gathered.iter().map(read).collect();
        let mut told = notes.iter().enumerate().filter(|(_, note)| !note.is_empty());
        let about = |note: &Note| (note.first_chunk::<2>().copied(), note.len());
        if let Some((first, one)) = told.next()
            && let Some((other, _)) = told.find(|(_, other)| about(other) != about(one))
        {
            return Err(Error::Config(format!(
                "syncBatchNorm: ranks {first} and {other} are not at the same batch norm of the program; one whose run \
                 depends on the data (torch.cond) must run its batch norms on every rank"
            )));
        }
        Ok(notes)
    }

    fn idle(&self) -> MutexGuard<'_, Option<bool>> {
        // One word, so sound whatever happened to the thread that held it.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chan's way to join means and sums of squares: nothing cancels.
fn combined(notes: &[Note]) -> Result<Moments> {
    let parts: Vec<(f64, f64, &[f64], &[f64])> = notes
        .iter()
        .filter_map(|note| {
            let ([_, _, momentum, count], rest) = note.split_first_chunk::<4>()?;
            let (mean, squares) = rest.split_at(rest.len() / 2);
            Some((*momentum, *count, mean, squares))
        })
        .collect();
    let count: f64 = parts.iter().map(|(_, count, ..)| count).sum();
    let channels = parts.first().map_or(0, |(_, _, mean, _)| mean.len());
    if count <= 1.0 {
        return Err(Error::Config(
            "batch norm needs more than one value per channel in training, and all ranks together have one: choose batchSize \
             so that the last batch has at least 2 rows"
                .to_owned(),
        ));
    }
    let (mut mean, mut variance) = (vec![0.0; channels], vec![0.0; channels]);
    for (_, own, means, _) in &parts {
        mean.iter_mut().zip(*means).for_each(|(mean, value)| *mean += own / count * value);
    }
    for (_, own, means, squares) in &parts {
        for (((variance, mean), own_mean), own_squares) in variance.iter_mut().zip(&mean).zip(*means).zip(*squares) {
            *variance += own_squares + own * (own_mean - mean) * (own_mean - mean);
        }
    }
    variance.iter_mut().for_each(|variance| *variance /= count);
    let momentum = parts.first().map_or(0.0, |(momentum, ..)| *momentum);
    Ok(Moments { count, mean, variance, momentum })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(count: f64, values: &[f64]) -> Note {
        let mean = if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / count };
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        vec![MOMENTS, 0.0, 0.1, count, mean, squares]
    }

    #[test]
    fn moments_of_unequal_parts_are_those_of_the_whole() {
        // A mean far larger than the deviation, where sums of squares would cancel.
        let values: Vec<f64> = (0..10).map(|i| 1e9 + f64::from(i)).collect();
        let whole = combined(&[note(10.0, &values)]).unwrap();
        let parts = [note(7.0, &values[..7]), Vec::new(), note(1.0, &values[7..8]), note(2.0, &values[8..])];
        let joined = combined(&parts).unwrap();
        assert_eq!(joined.count, 10.0);
        assert!((joined.mean[0] - whole.mean[0]).abs() < 1e-6);
        assert!((joined.variance[0] - 8.25).abs() < 1e-6, "{joined:?}");
    }

    #[test]
    fn one_value_over_all_ranks_is_refused() {
        let error = combined(&[note(1.0, &[3.0]), Vec::new()]).unwrap_err().to_string();
        assert!(error.contains("more than one value per channel"), "{error}");
    }
}
