//! Batches ahead of the loop: a thread of the rank gathers the next ones while the current one trains.
//!
//! The thread walks the run as the loop does (the steps of an epoch, the parts of this rank's share of each batch, then the
//! validation rows) and gathers each part into a *room*: memory that goes round. There are [`ROOMS`] of them, so the thread
//! is at most two parts ahead, and what a run keeps in memory does not depend on who is faster. Nor does what it computes:
//! parts come in the loop's order, with their rows in the batch's.
//!
//! Where the replica lives on a GPU, the thread also sends each part on its way there (see `upload`).
//!
//! Two channels say who holds a room. `free` carries it to the thread, `ready` back with its part; the loop returns it with
//! [`Loader::give_back`] once nothing reads the part any more. The thread's first error comes in the place of a part and is
//! its last word. Whoever goes away closes its ends, which is how the other learns of it; dropping the loader waits for the
//! thread, which then ends after the part in hand.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use kindling_shards::Split;

use crate::data::{Batch, RankData};
use crate::error::{Error, Result};
use crate::fit::TrainingConfig;
use crate::order::{Epoch, Order};
use crate::replica::parts;
use crate::upload::{Port, Room};

/// One in use and two ahead.
pub(crate) const ROOMS: usize = 3;
/// How often a loop that waits for rows looks whether the run still stands.
const LOOK: Duration = Duration::from_millis(100);

/// What is loaded: the run's rows from one position on.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) data: &'a RankData,
    pub(crate) order: &'a Order,
    pub(crate) config: &'a TrainingConfig,
    /// Number of ranks.
    pub(crate) world: usize,
    /// The first epoch, and the first step in it.
    pub(crate) start: (u64, u64),
}

/// Rows that go through the program at once.
pub(crate) struct Part {
    /// Their global numbers, in order.
    pub(crate) rows: Vec<u64>,
    /// None where this rank has no row of a batch.
    pub(crate) batch: Option<Batch>,
    /// Whether its batch ends with it.
    pub(crate) last: bool,
    room: Room,
}

/// See the module.
pub(crate) struct Loader<'scope> {
    /// The channels' ends, until the loader is dropped.
    ends: Option<(Receiver<Result<Part>>, Sender<Room>)>,
    thread: Option<ScopedJoinHandle<'scope, ()>>,
    waited: Duration,
}

/// The loop went away, or was told of an error.
struct Ended;

impl<'scope> Loader<'scope> {
    /// Starts the thread of rank `rank`, which ends with the scope at the latest. Parts go to the device of `port`.
    pub(crate) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        rank: usize,
        source: Source<'scope>,
        port: Option<Arc<dyn Port>>,
    ) -> Result<Loader<'scope>> {
        // Why it ended, the loop knows.
        Loader::spawn(scope, rank, port, move |ends| drop(source.load(&ends)))
    }

    fn spawn<'env>(
        scope: &'scope Scope<'scope, 'env>,
        rank: usize,
        port: Option<Arc<dyn Port>>,
        load: impl FnOnce(Ends) + Send + 'scope,
    ) -> Result<Loader<'scope>> {
        let (ready, parts) = channel();
        let (rooms, free) = channel();
        for _ in 0..ROOMS {
            // The other end is still here.
            let _ = rooms.send(Room::new(port.clone()));
        }
        let thread = Builder::new()
            .name(format!("kindling-rows-{rank}"))
            .spawn_scoped(scope, move || load(Ends { ready, free }))
            .map_err(|error| Error::Data(format!("the thread that gathers batches cannot be started: {error}")))?;
        Ok(Loader { ends: Some((parts, rooms)), thread: Some(thread), waited: Duration::ZERO })
    }

    /// The next part, which steps may read. Fails with what went wrong in the thread, or as `alive` does, which is asked while there is none.
    pub(crate) fn next(&mut self, alive: &dyn Fn() -> Result<()>) -> Result<Part> {
        let begun = Instant::now();
        let part = loop {
            let received = self.ends.as_ref().map(|(ready, _)| ready.recv_timeout(LOOK));
            match received {
                Some(Ok(part)) => break part,
                Some(Err(RecvTimeoutError::Timeout)) => alive()?,
                Some(Err(RecvTimeoutError::Disconnected)) | None => break Err(self.ended()),
            }
        };
        self.waited += begun.elapsed();
        part.and_then(|part| part.room.receive().map(|()| part))
    }

    /// Lets the thread fill the part's memory anew.
    pub(crate) fn give_back(&self, part: Part) -> Result<()> {
        let Part { batch, mut room, .. } = part;
        drop(batch);
        room.release()?;
        if let Some((_, free)) = &self.ends {
            // A thread that has loaded all there is wants no more rooms.
            let _ = free.send(room);
        }
        Ok(())
    }

    /// How long the loop has waited for rows.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// The thread is gone though a part was expected.
    fn ended(&mut self) -> Error {
        let why = match self.thread.take().map(ScopedJoinHandle::join) {
            Some(Err(panic)) => format!("panicked: {}", message(&*panic)),
            Some(Ok(())) | None => "has ended".to_owned(),
        };
        Error::Data(format!("the thread that gathers batches {why}"))
    }
}

impl Drop for Loader<'_> {
    fn drop(&mut self) {
        self.ends = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was met in `next`, or comes too late to matter.
            let _ = thread.join();
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it gave no reason")
}

/// The thread's ends of the channels.
struct Ends {
    ready: Sender<Result<Part>>,
    free: Receiver<Room>,
}

impl Source<'_> {
    fn load(&self, ends: &Ends) -> std::result::Result<(), Ended> {
        let (first_epoch, first_step) = self.start;
        let spilled = self.data.spilled();
        for number in first_epoch..self.config.max_epochs {
            let epoch = self.order.epoch(number);
            let start = if number == first_epoch { first_step } else { 0 };
            if spilled {
                self.read_ahead(&epoch, start);
            }
            for step in start..self.order.steps() {
                if spilled {
                    self.read_ahead(&epoch, step + 1);
                }
                self.share(&epoch, step, ends)?;
            }
            self.validation(ends)?;
        }
        Ok(())
    }

    /// Has rows of files that batch `step` is the first to need read in windows, while the batch before it is gathered.
    fn read_ahead(&self, epoch: &Epoch<'_>, step: u64) {
        let windows = epoch.windows_where(step, |start, end| self.data.training.touches(start, end));
        windows.for_each(|window| self.data.read_ahead(&window));
    }

    /// Loads this rank's rows of a batch, part by part.
    fn share(&self, epoch: &Epoch<'_>, step: u64, ends: &Ends) -> std::result::Result<(), Ended> {
        let rows = self.data.share(epoch, step);
        let parts = if self.config.sync_batch_norm && self.world > 1 {
            self.shared_parts(epoch, step)
        } else {
            parts(rows.len(), self.config.accumulation_steps)
        };
        if parts.is_empty() {
            return self.part(Split::Train, &[], true, ends);
        }
        let last = parts.len() - 1;
        for (index, part) in parts.into_iter().enumerate() {
            self.part(Split::Train, rows.get(part).unwrap_or_default(), index == last, ends)?;
        }
        Ok(())
    }

    /// This rank's rows in each part of a batch, some of which may be empty: ranks whose batch norms are synchronised meet in
    /// every part, so it is the batch that is cut and not each rank's share.
    fn shared_parts(&self, epoch: &Epoch<'_>, step: u64) -> Vec<Range<usize>> {
        let places = self.data.places_in_batch(epoch, step);
        let before = |place: usize| places.partition_point(|&own| own < place as u64);
        let rows = usize::try_from(self.order.batch_rows(step)).unwrap_or(usize::MAX);
        let batch = parts(rows, self.config.accumulation_steps).into_iter();
        batch.map(|part| before(part.start)..before(part.end)).collect()
    }

    fn validation(&self, ends: &Ends) -> std::result::Result<(), Ended> {
        let share = self.validation_share();
        let segments = self.data.validation.segments();
        let mut rows = segments.iter().flat_map(|segment| segment.rows.clone());
        loop {
            let part: Vec<u64> = rows.by_ref().take(share).collect();
            if part.is_empty() {
                return Ok(());
            }
            self.part(Split::Validation, &part, true, ends)?;
        }
    }

    fn part(&self, split: Split, rows: &[u64], last: bool, ends: &Ends) -> std::result::Result<(), Ended> {
        let mut room = ends.free.recv().map_err(|_| Ended)?;
        let mut gather = || {
            if rows.is_empty() {
                return Ok(None);
            }
            room.ready()?;
            let batch = self.data.batch(split, rows, &mut room)?;
            room.send(batch).map(Some)
        };
        let batch = gather();
        let failed = batch.is_err();
        let part = batch.map(|batch| Part { rows: rows.to_vec(), batch, last, room });
        ends.ready.send(part).map_err(|_| Ended)?;
        if failed { Err(Ended) } else { Ok(()) }
    }

    /// Validation rows that a rank judges at once: as many as it trains on at once, so that what trains fits in memory here
    /// too.
    fn validation_share(&self) -> usize {
        let all = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let share = all(self.config.batch_size).div_ceil(self.world.max(1));
        share.div_ceil(all(self.config.accumulation_steps).max(1)).max(1)
    }

    /// Parts into which this rank's validation rows fall.
    pub(crate) fn validation_parts(&self) -> u64 {
        let rows: u64 =
            self.data.validation.segments().iter().map(|segment| segment.rows.end - segment.rows.start).sum();
        rows.div_ceil(self.validation_share() as u64)
    }
}

#[cfg(test)]
mod tests;
