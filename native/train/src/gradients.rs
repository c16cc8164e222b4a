//! The gradients of a step: collected while backward runs, and sent to the other ranks while it still runs.
//!
//! A step goes through `begin`, any number of `accumulate` (micro-batches that only add up), one `finish` (the last
//! micro-batch, or none for a rank without rows) and `receive`. Within `finish`, a hook on each parameter counts its
//! [bucket](crate::buckets) down; a bucket starts when it and all buckets before it are complete, so that all ranks
//! start the same operations in the same order. What backward does not reach starts at its end. The *tail* goes last:
//! which parameters any rank's backward reached, and the batch's figures, weighted so that sums over ranks are the
//! batch's.
//!
//! From its start to `receive` a bucket belongs to the communicator: hooks write each place once (a second gradient in
//! one backward is refused before it is written), and a step that failed in between can be followed by no other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::Tensor;

use crate::buckets::{Bucket, Buckets};
use crate::error::{Doing, Error, Result};
use crate::parameters::ParameterStore;
use crate::shim_gradients::{GradientHooks, Listener};
use crate::sync::{Exchange, Sync};

/// See the module.
pub(crate) struct Gradients {
    hooks: GradientHooks,
    /// Whether some have no flat place, so that they cannot be sent.
    alone: bool,
    progress: Arc<Shared>,
    figures: [f64; FIGURES],
    stage: Stage,
}

/// The loss and the right answers.
const FIGURES: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Backward may write into the places.
    Open,
    /// Buckets are with the communicator.
    Lent,
}

/// What a step came to, over all ranks.
pub(crate) struct Tail {
    /// Per position of a parameter: whether any rank's backward reached it.
    pub(crate) used: Vec<bool>,
    pub(crate) loss: f64,
    pub(crate) correct: f64,
    /// Whether the step was not taken, as float16 overflowed somewhere.
    pub(crate) skipped: bool,
}

/// What the hooks share with the step.
struct Shared(Mutex<Progress>);

struct Progress {
    buckets: Vec<Bucket>,
    /// Per position: its bucket.
    of: Vec<usize>,
    /// Per position: whether backward reached it in this step.
    used: Vec<bool>,
    /// Per bucket: parameters that the last backward has not reached.
    missing: Vec<usize>,
    /// Buckets started.
    started: usize,
    /// Parameters that the last backward has reached, and how many of them when the first bucket started.
    reached: usize,
    reached_at_first: Option<usize>,
    /// Present while backward sends.
    exchange: Option<Exchange>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        // Counts and lists, each changed in one place: sound even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Shared {
    fn arrived(&self, position: usize) {
        let mut progress = self.lock();
        if let Some(used) = progress.used.get_mut(position) {
            *used = true;
        }
        progress.reached += 1;
        if progress.exchange.is_none() {
            return;
        }
        let bucket = progress.of.get(position).copied().unwrap_or(usize::MAX);
        if let Some(missing) = progress.missing.get_mut(bucket) {
            *missing = missing.saturating_sub(1);
        }
        progress.start_complete();
    }
}

impl Progress {
    /// The last backward of a step begins.
    fn begin(&mut self, exchange: Option<Exchange>) {
        for (missing, bucket) in self.missing.iter_mut().zip(&self.buckets) {
            *missing = bucket.parameters;
        }
        (self.started, self.reached, self.reached_at_first) = (0, 0, None);
        self.exchange = exchange;
    }

    /// Starts the buckets whose turn it is.
    fn start_complete(&mut self) {
        while self.missing.get(self.started) == Some(&0) {
            self.start_next();
        }
    }

    fn start_next(&mut self) {
        if let (Some(bucket), Some(exchange)) = (self.buckets.get(self.started), &mut self.exchange) {
            exchange.start(&bucket.grads, bucket.kind);
            self.reached_at_first.get_or_insert(self.reached);
        }
        self.started += 1;
    }

    /// Starts what backward has left, and keeps `exchange` until the sums are received.
    fn start_rest(&mut self, mut exchange: Exchange) {
        exchange.backward_is_over();
        self.exchange = Some(exchange);
        while self.started < self.buckets.len() {
            self.start_next();
        }
    }
}

impl Gradients {
    /// Hangs hooks on the parameters; `bucket_bytes` is the size of a bucket.
    pub(crate) fn new(parameters: &ParameterStore, bucket_bytes: u64) -> Result<Gradients> {
        let Buckets { buckets, of } = Buckets::new(parameters, bucket_bytes)?;
        let places: Vec<&Tensor> = parameters.places.iter().collect();
        let progress = Arc::new(Shared(Mutex::new(Progress {
            missing: vec![0; buckets.len()],
            buckets,
            used: vec![false; of.len()],
            of,
            started: 0,
            reached: 0,
            reached_at_first: None,
            exchange: None,
        })));
        let listener: Arc<dyn Listener> = Arc::<Shared>::clone(&progress);
        let adopted: Vec<bool> = parameters.adopted().collect();
        let hooks =
            GradientHooks::new(&parameters.leaves(), &places, &adopted, listener).doing("watching the gradients")?;
        let alone = adopted.contains(&true);
        Ok(Gradients { hooks, alone, progress, figures: [0.0; FIGURES], stage: Stage::Open })
    }

    /// Forgets the last step.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if self.stage == Stage::Lent {
            return Err(Error::State { what: "a step", needed: "done with the step before", found: "amid one" });
        }
        self.hooks.begin().doing("dropping the last step's gradients")?;
        self.progress.lock().used.fill(false);
        self.figures = [0.0; FIGURES];
        Ok(())
    }

    /// Adds the figures of a part of the batch: its loss, weighted by its part of the batch, and its right answers.
    pub(crate) fn add_figures(&mut self, loss: f64, correct: f64) {
        for (figure, more) in self.figures.iter_mut().zip([loss, correct]) {
            *figure += more;
        }
    }

    /// Adds the gradients of `loss`.
    pub(crate) fn accumulate(&mut self, loss: &Tensor) -> Result<()> {
        loss.f_backward().doing("computing the gradients")
    }

    /// Adds the gradients of `loss`, the last of the step, and sends all to the other ranks: while backward runs if
    /// `overlap`, else after it. A rank without rows has no loss.
    pub(crate) fn finish(&mut self, loss: Option<&Tensor>, sync: &Sync, overlap: bool) -> Result<()> {
        let mut exchange = sync.exchange();
        let sends = exchange.is_some();
        if sends {
            if self.alone {
                return Err(Error::State {
                    what: "a step",
                    needed: "of a rank that trains alone",
                    found: "beside others",
                });
            }
            self.stage = Stage::Lent;
        }
        self.hooks.begin_last();
        self.progress.lock().begin(if overlap { exchange.take() } else { None });
        if let Some(loss) = loss {
            self.accumulate(loss)?;
        }
        self.hooks.finish().doing("clearing the gradients that backward did not reach")?;
        let mut progress = self.progress.lock();
        if let Some(exchange) = progress.exchange.take().or(exchange) {
            progress.start_rest(exchange);
        }
        Ok(())
    }

    /// Waits for the gradients' sums over the ranks; `sync` keeps the time. Alone, there is nothing to wait for.
    pub(crate) fn receive(&mut self, sync: &mut Sync) -> Result<Tail> {
        let (exchange, mut values) = {
            let mut progress = self.progress.lock();
            let flags = progress.used.iter().map(|&used| f64::from(u8::from(used)));
            let values: Vec<f64> = flags.chain(self.figures).collect();
            (progress.exchange.take(), values)
        };
        if let Some(exchange) = exchange {
            sync.receive(exchange, &mut values)?;
            self.stage = Stage::Open;
        }
        let (flags, figures) = values.split_at(values.len().saturating_sub(FIGURES));
        let figure = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        let used = flags.iter().map(|&flag| flag > 0.0).collect();
        Ok(Tail { used, loss: figure(0), correct: figure(1), skipped: false })
    }
}

#[cfg(test)]
mod tests;
