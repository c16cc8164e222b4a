//! What ranks tell each other while they train: gradients, figures, and buffers at the end of an epoch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kindling_collective::{Buffer, Communicator, DType, ReduceOp, Work};
use tch::{Kind, Tensor};

use crate::device::Place;
use crate::devices::Carriage;
use crate::error::{Doing, Error, Result};
use crate::staging::{self, Staged};

/// One rank's side of the conversation. Alone in the world it says nothing.
pub(crate) struct Sync {
    communicator: Option<Arc<dyn Communicator>>,
    place: Place,
    carriage: Carriage,
    waited: Duration,
    overlapped: Duration,
}

/// The gradients of one step on their way: all-reduces in flight, in the order in which they were started.
pub(crate) struct Exchange {
    communicator: Arc<dyn Communicator>,
    place: Place,
    carriage: Carriage,
    /// Whether buckets are copied to the host and back, as they are on a GPU.
    staging: bool,
    works: Vec<(Work, Option<Staged>)>,
    /// Buckets on their way to the host; their sums start in this order.
    staged: VecDeque<Staged>,
    /// The first failure; nothing starts after it.
    failure: Option<Error>,
    first_start: Option<Instant>,
    /// From the first start to the end of backward.
    overlapped: Duration,
}

impl Exchange {
    /// Starts the sum of `grads` over the ranks, and lends it to the communicator until it is waited for.
    pub(crate) fn start(&mut self, grads: &Tensor, kind: Kind) {
        self.first_start.get_or_insert_with(Instant::now);
        if self.failure.is_none() {
            self.failure = self.try_start(grads, kind).err();
        }
    }

    fn try_start(&mut self, grads: &Tensor, kind: Kind) -> Result<()> {
        match &self.carriage {
            Carriage::Gpus(gpus) => self.works.push((staging::start_on_gpu(&**gpus, grads, kind, &self.place)?, None)),
            Carriage::Host if self.staging => {
                self.staged.push_back(Staged::take(grads, kind, self.place.queue())?);
                self.start_staged(false)?;
            }
            Carriage::Host => self.works.push((staging::start(&*self.communicator, grads, kind)?, None)),
        }
        Ok(())
    }

    /// Starts the sums of what has reached the host; of `all` after waiting for it.
    fn start_staged(&mut self, all: bool) -> Result<()> {
        while let Some(staged) = self.staged.pop_front() {
            if !all && !staged.is_copied()? {
                self.staged.push_front(staged);
                break;
            }
            self.works.push((staged.start(&*self.communicator)?, Some(staged)));
        }
        Ok(())
    }

    /// Notes that nothing is computed any more while the started sums go on.
    pub(crate) fn backward_is_over(&mut self) {
        self.overlapped = self.first_start.map_or(Duration::ZERO, |start| start.elapsed());
    }

    /// Sums `figures` over the ranks as the last of the step, and waits for everything.
    fn wait(mut self, figures: &mut [f64]) -> Result<()> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.start_staged(true)?;
        let last = start_figures(&*self.communicator, figures, ReduceOp::Sum)?;
        for (work, staged) in self.works.drain(..) {
            work.wait()?;
            staged.map_or(Ok(()), |staged| staged.give_back())?;
        }
        read_figures(last, figures)
    }
}

fn start_figures(communicator: &dyn Communicator, figures: &[f64], op: ReduceOp) -> Result<Work> {
    let bytes: Vec<u8> = figures.iter().flat_map(|figure| figure.to_ne_bytes()).collect();
    Ok(communicator.start_all_reduce(Buffer::new(Box::new(bytes), DType::F64), op)?)
}

fn read_figures(work: Work, figures: &mut [f64]) -> Result<()> {
    let mut region = work.wait()?.into_region();
    for (figure, bytes) in figures.iter_mut().zip(region.bytes().as_chunks::<8>().0) {
        *figure = f64::from_ne_bytes(*bytes);
    }
    Ok(())
}

impl Sync {
    /// A rank of a group, whose gradients are at `place`.
    pub(crate) fn new(communicator: Arc<dyn Communicator>, place: Place, carriage: Carriage) -> Sync {
        let communicator = (communicator.size() > 1).then_some(communicator);
        Sync { communicator, place, carriage, waited: Duration::ZERO, overlapped: Duration::ZERO }
    }

    /// A rank that is the whole group.
    pub(crate) fn alone() -> Sync {
        let (waited, overlapped) = (Duration::ZERO, Duration::ZERO);
        Sync { communicator: None, place: Place::CPU, carriage: Carriage::Host, waited, overlapped }
    }

    /// Number of ranks.
    pub(crate) fn world(&self) -> usize {
        self.communicator.as_ref().map_or(1, |communicator| communicator.size())
    }

    /// Time in which this rank did nothing but wait for others and for transfers.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// Time in which gradients travelled while backward still ran: from the start of a step's first bucket to the end of
    /// its backward.
    pub(crate) fn overlapped(&self) -> Duration {
        self.overlapped
    }

    /// An exchange for one step; none if there is nobody to exchange with.
    pub(crate) fn exchange(&self) -> Option<Exchange> {
        self.communicator.as_ref().map(|communicator| Exchange {
            communicator: Arc::clone(communicator),
            place: self.place,
            carriage: self.carriage.clone(),
            staging: self.place.queue().is_some(),
            works: Vec::new(),
            staged: VecDeque::new(),
            failure: None,
            first_start: None,
            overlapped: Duration::ZERO,
        })
    }

    /// Ends an exchange: sums `figures` too, and waits for all.
    pub(crate) fn receive(&mut self, exchange: Exchange, figures: &mut [f64]) -> Result<()> {
        let begun = Instant::now();
        self.overlapped += exchange.overlapped;
        exchange.wait(figures)?;
        self.waited += begun.elapsed();
        Ok(())
    }

    /// Collects every rank's figures, in rank order; their number may differ.
    pub(crate) fn gather(&mut self, figures: &[f64]) -> Result<Vec<Vec<f64>>> {
        let Some(communicator) = &self.communicator else { return Ok(vec![figures.to_vec()]) };
        let begun = Instant::now();
        let bytes = figures.iter().flat_map(|figure| figure.to_le_bytes()).collect();
        let all = communicator.start_all_gather_bytes(bytes)?.wait()?;
        self.waited += begun.elapsed();
        let read = |bytes: &Vec<u8>| bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        Ok(all.iter().map(read).collect())
    }

    /// Sums a few figures over the ranks.
    pub(crate) fn sum(&mut self, figures: &mut [f64]) -> Result<()> {
        self.reduce(figures, ReduceOp::Sum)
    }

    /// Takes the largest of each figure over the ranks.
    pub(crate) fn max(&mut self, figures: &mut [f64]) -> Result<()> {
        self.reduce(figures, ReduceOp::Max)
    }

    fn reduce(&mut self, figures: &mut [f64], op: ReduceOp) -> Result<()> {
        let Some(communicator) = &self.communicator else { return Ok(()) };
        let begun = Instant::now();
        read_figures(start_figures(&**communicator, figures, op)?, figures)?;
        self.waited += begun.elapsed();
        Ok(())
    }

    /// Makes the given buffers (running statistics) of all ranks equal: floating-point ones become the mean over ranks,
    /// weighted by the rows that each rank trained on in this epoch; others the largest of all ranks (they count).
    pub(crate) fn merge_buffers(&mut self, buffers: &[&Tensor], rows: u64) -> Result<()> {
        if self.communicator.is_none() || buffers.is_empty() {
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
pub(crate) mod tests {
    use super::*;
    use kindling_collective::{Aborter, Endpoint, Listener, Options, Secret, connect};

    /// Runs `body` on every rank of a group of threads.
    pub(crate) fn ranks<T: Send>(world: usize, body: impl Fn(usize, Sync) -> T + std::marker::Sync) -> Vec<T> {
        groups(world, |rank, group| body(rank, Sync::new(group, Place::CPU, Carriage::Host)))
    }

    /// The same with the group itself.
    pub(crate) fn groups<T: Send>(
        world: usize,
        body: impl Fn(usize, Arc<dyn Communicator>) -> T + std::marker::Sync,
    ) -> Vec<T> {
        let secret = Secret::generate().unwrap();
        let listeners: Vec<Listener> = (0..world).map(|_| Listener::bind("127.0.0.1").unwrap()).collect();
        let roster: Vec<Endpoint> = listeners.iter().map(|listener| listener.endpoint("here")).collect();
        // Ranks of one process meet by run, and tests share the process.
        let run = format!("{roster:?}");
        std::thread::scope(|scope| {
            let start = |(rank, listener): (usize, Listener)| {
                let (roster, run, secret, body) = (&roster, &run, secret.clone(), &body);
                scope.spawn(move || {
                    let options = Options::new(run.clone(), 0, rank, secret);
                    body(rank, connect(listener, roster, options, &Aborter::new()).unwrap())
                })
            };
            let threads: Vec<_> = listeners.into_iter().enumerate().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn gradients_that_go_by_way_of_the_host_have_the_same_sums() {
        let sums = |staging: bool| {
            ranks(2, |rank, mut sync| {
                let grads: Vec<Tensor> = (0..3).map(|i| Tensor::from_slice(&[rank as f32 + 0.1, i as f32])).collect();
                let mut exchange = sync.exchange().unwrap();
                exchange.staging = staging;
                grads.iter().for_each(|grads| exchange.start(grads, Kind::Float));
                let mut figures = [rank as f64, 1.0];
                sync.receive(exchange, &mut figures).unwrap();
                (grads.iter().map(|grads| Vec::<f32>::try_from(grads).unwrap()).collect::<Vec<_>>(), figures)
            })
        };
        let direct = sums(false);
        assert_eq!(direct[0].0[2], [0.1f32 + 1.1, 4.0]);
        assert_eq!(sums(true), direct);
        assert_eq!(direct[0], direct[1]);
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
