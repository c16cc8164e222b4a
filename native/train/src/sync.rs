//! What ranks tell each other while they train: gradients, figures, and buffers at the end of an epoch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kindling_collective::{Buffer, Communicator, DType, ReduceOp};
use tch::{Kind, Tensor};

use crate::error::{Doing, Result};
use crate::parameters::ParameterStore;
use crate::tensors::{self, Lent};

/// One rank's side of the conversation. Alone in the world it says nothing.
pub(crate) struct Sync {
    communicator: Arc<dyn Communicator>,
    waited: Duration,
}

impl Sync {
    pub(crate) fn new(communicator: Arc<dyn Communicator>) -> Sync {
        Sync { communicator, waited: Duration::ZERO }
    }

    /// Number of ranks.
    pub(crate) fn world(&self) -> usize {
        self.communicator.size()
    }

    fn alone(&self) -> bool {
        self.world() == 1
    }

    /// Time spent waiting for others, transfers included.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// Sums gradients and tail over the ranks.
    pub(crate) fn sum_gradients(&mut self, parameters: &ParameterStore) -> Result<()> {
        if self.alone() {
            return Ok(());
        }
        let begun = Instant::now();
        let mut works = Vec::new();
        for flat in &parameters.flats {
            let buffer = Buffer::new(Box::new(Lent::new(&flat.reduced)?), tensors::wire_dtype(flat.kind)?);
            works.push(self.communicator.start_all_reduce(buffer, ReduceOp::Sum)?);
        }
        for work in works {
            work.wait()?;
        }
        self.waited += begun.elapsed();
        Ok(())
    }

    /// Sums a few figures over the ranks.
    pub(crate) fn sum(&mut self, figures: &mut [f64]) -> Result<()> {
        self.reduce(figures, ReduceOp::Sum)
    }

    fn reduce(&mut self, figures: &mut [f64], op: ReduceOp) -> Result<()> {
        if self.alone() {
            return Ok(());
        }
        let begun = Instant::now();
        let bytes: Vec<u8> = figures.iter().flat_map(|figure| figure.to_ne_bytes()).collect();
        let work = self.communicator.start_all_reduce(Buffer::new(Box::new(bytes), DType::F64), op)?;
        let mut region = work.wait()?.into_region();
        for (figure, bytes) in figures.iter_mut().zip(region.bytes().as_chunks::<8>().0) {
            *figure = f64::from_ne_bytes(*bytes);
        }
        self.waited += begun.elapsed();
        Ok(())
    }

    /// Makes the given buffers (running statistics) of all ranks equal: floating-point ones become the mean over ranks,
    /// weighted by the rows that each rank trained on in this epoch; others the largest of all ranks (they count).
    pub(crate) fn merge_buffers(&mut self, buffers: &[&Tensor], rows: u64) -> Result<()> {
        if self.alone() || buffers.is_empty() {
            return Ok(());
        }
        #[expect(clippy::cast_precision_loss, reason = "a weight; row counts stay far below 2^53")]
        let weight = rows as f64;
        let mut total = [weight];
        self.sum(&mut total)?;
        let [total] = total;
        if total == 0.0 {
            return Ok(());
        }
        for buffer in buffers {
            let kind = buffer.kind();
            let floating = matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
            let values =
                buffer.f_to_kind(Kind::Double).and_then(|values| values.f_reshape([-1])).doing("merging buffers")?;
            let mut values = Vec::<f64>::try_from(&values).doing("merging buffers")?;
            if floating {
                // A rank without rows says nothing: 0 times an infinity would be NaN.
                let share = |value: f64| if weight == 0.0 { 0.0 } else { value * (weight / total) };
                values.iter_mut().for_each(|value| *value = share(*value));
                self.reduce(&mut values, ReduceOp::Sum)?;
            } else {
                self.reduce(&mut values, ReduceOp::Max)?;
            }
            let merged = Tensor::from_slice(&values).f_view_as(buffer);
            buffer.shallow_clone().f_copy_(&merged.doing("merging buffers")?).doing("merging buffers")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_collective::{Aborter, Endpoint, Listener, Options, Secret, connect};

    /// Runs `body` on every rank of a group of threads.
    fn ranks<T: Send>(world: usize, body: impl Fn(usize, Sync) -> T + std::marker::Sync) -> Vec<T> {
        let secret = Secret::generate().unwrap();
        let listeners: Vec<Listener> = (0..world).map(|_| Listener::bind("127.0.0.1").unwrap()).collect();
        let roster: Vec<Endpoint> = listeners.iter().map(|listener| listener.endpoint("here")).collect();
        std::thread::scope(|scope| {
            let start = |(rank, listener): (usize, Listener)| {
                let (roster, secret, body) = (&roster, secret.clone(), &body);
                scope.spawn(move || {
                    let timeout = Duration::from_secs(10);
                    let options = Options {
                        run: "sync".into(),
                        attempt: 0,
                        rank,
                        secret,
                        rendezvous_timeout: timeout,
                        operation_timeout: timeout,
                    };
                    body(rank, Sync::new(connect(listener, roster, options, &Aborter::new()).unwrap()))
                })
            };
            let threads: Vec<_> = listeners.into_iter().enumerate().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn buffers_become_the_mean_by_rows_and_counts_the_largest() {
        let merged = ranks(3, |rank, mut sync| {
            let rows = [6, 0, 2][rank];
            // The idle rank's infinity must not reach the others.
            let mean = Tensor::from_slice(&[[1.0f32, 2.0], [f32::NEG_INFINITY, 9.0], [5.0, 6.0]][rank]);
            let count = Tensor::from_slice(&[[4i64], [0], [3]][rank]);
            sync.merge_buffers(&[&mean, &count], rows).unwrap();
            (Vec::<f32>::try_from(&mean).unwrap(), Vec::<i64>::try_from(&count).unwrap())
        });
        assert_eq!(merged, vec![(vec![2.0, 3.0], vec![4]); 3]);
    }
}
