//! The store of one executor process: shards by key, filled side by side, released by run.
//!
//! A shard goes one way:
//!
//! ```text
//! open ─> filling ── close ──> sealed ─── discard, release ──> gone
//!            ├────── discard, or release with nothing lent ──> gone
//!            └────── release while memory is lent ─> released ── discard ──> gone
//! ```
//!
//! *Released* exists because a run may end while a task of it still writes through the addresses it was lent: that
//! memory stays mapped until the task, which every call now answers with an error, discards the shard.
//!
//! Locks: the shelf's lock is held to look a key up, never while a shard's lock is taken. A shard's lock is held by one
//! call on that shard. Readers hold an `Arc<Shard>` and no lock. Keys are never used again, so a late call with an old
//! one finds nothing.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::{Error, Result};
use crate::filling::{Filling, Given};
use crate::flight::{self, Canceller, Endpoint, FetchSpec, ServeSpec, Server};
use crate::memory::Ledger;
use crate::rows::ColumnData;
use crate::shard::Shard;
use crate::spec::{Schema, ShardReport, ShardSpec, Split};

/// The shards of one executor process. All methods may be called from any thread.
#[derive(Debug)]
pub struct ShardStore {
    process: String,
    next: AtomicU64,
    ledger: Arc<Ledger>,
    shelf: Mutex<Shelf>,
    /// For the servers, which must not keep the store alive.
    this: Weak<ShardStore>,
}

#[derive(Debug, Default)]
struct Shelf {
    slots: HashMap<u64, Arc<Slot>>,
    /// For each run that has shards here, the runs that were alive when it began, as its first shard said.
    began_beside: HashMap<String, HashSet<String>>,
    /// Servers of runs that have shards here.
    servers: HashMap<String, Server>,
}

#[derive(Debug)]
struct Slot {
    key: u64,
    run: String,
    partition: u32,
    attempt: u64,
    phase: Mutex<Phase>,
}

#[derive(Debug)]
enum Phase {
    Filling(Filling),
    Sealed(Arc<Shard>),
    /// Kept only for the memory that is lent.
    Released(Filling),
    Gone,
}

impl ShardStore {
    /// An empty store with an identity of its own.
    #[allow(clippy::new_ret_no_self, reason = "a store is only ever shared")]
    pub fn new() -> Arc<ShardStore> {
        // 128 random bits from the keys of a hasher the system seeded: an identity, not a secret, and it cannot fail.
        let random = RandomState::new();
        let process = format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1));
        Arc::new_cyclic(|this| ShardStore {
            process,
            next: AtomicU64::new(1),
            ledger: Arc::default(),
            shelf: Mutex::default(),
            this: this.clone(),
        })
    }

    /// Identity of this store, 32 hexadecimal digits: a key means nothing in another one.
    pub fn process(&self) -> &str {
        &self.process
    }

    /// Bytes of memory mapped for shards, reserved rows and unreached ends of pages included, and those of released
    /// shards that somebody still reads.
    pub fn bytes(&self) -> usize {
        self.ledger.memory()
    }

    /// Bytes of memory of dropped shards that wait, for half a minute at most, to be used by new ones. The system may take
    /// them before.
    pub fn spare_bytes(&self) -> usize {
        self.ledger.spare().bytes()
    }

    /// Bytes of files that hold rows for which there was no room in memory, those of released shards that somebody still
    /// reads included.
    pub fn spilled_bytes(&self) -> usize {
        self.ledger.files()
    }

    /// Shards of all runs, filled or not.
    pub fn shards(&self) -> usize {
        lock(&self.shelf).slots.len()
    }

    /// Opens a shard to be filled and returns its key, at least 1.
    ///
    /// Shards of runs that ended without a release (their driver call was lost with a connection, say) are released
    /// here: those of every run that `live_runs` does not name. A run that began beside this one is spared: its own
    /// first spec named this run, so this run's list is the older and cannot know of it.
    ///
    /// # Errors
    /// Of kind [`Spec`](crate::ErrorKind::Spec) if the spec cannot be met; nothing is released then.
    pub fn open(&self, spec: ShardSpec) -> Result<u64> {
        let schema = Schema::check(&spec)?;
        // Bound first: as the loop's own expression, the guard would be held through the loop and block `release`.
        let ended = lock(&self.shelf).ended(&spec);
        for run in ended {
            let shards = self.release(&run);
            log::info!("released {shards} shards of run {run:?}, which is no longer alive");
        }
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let ShardSpec { run, partition, attempt, live_runs, budget, .. } = spec;
        let phase = Mutex::new(Phase::Filling(Filling::new(key, schema, budget, Arc::clone(&self.ledger))));
        let slot = Arc::new(Slot { key, run: run.clone(), partition, attempt, phase });
        let mut shelf = lock(&self.shelf);
        shelf.began_beside.entry(run).or_insert_with(|| live_runs.into_iter().collect());
        shelf.slots.insert(key, slot);
        Ok(key)
    }

    /// Lends memory for `rows` more rows of a split: one address per column, in the order of the spec.
    ///
    /// Row r of a column is at `address + r * width * dtype.size()`, values in the machine's byte order; each address is
    /// a multiple of 64. A split has one reservation at a time. Each is a mapping, so megabytes are better than kilobytes, and
    /// a little less than a multiple of 2 MiB for all columns together is best: it lies in huge pages then. An upper bound
    /// of the rows will do.
    ///
    /// The terms for whoever writes through the addresses: only within the rows reserved, and only until the next call
    /// of `commit` for this split or `discard` for this shard. Those calls end the loan; a write after them is a write
    /// into memory that others read or that is not there.
    ///
    /// # Errors
    /// Of kind [`Argument`](crate::ErrorKind::Argument) for 0 rows, [`State`](crate::ErrorKind::State) if the split has
    /// an open reservation or the shard is not being filled, [`Memory`](crate::ErrorKind::Memory),
    /// [`UnknownShard`](crate::ErrorKind::UnknownShard).
    pub fn reserve(&self, key: u64, split: Split, rows: usize) -> Result<Vec<u64>> {
        self.fill(key, |filling| filling.reserve(split, rows))
    }

    /// Ends the split's reservation and keeps its first `rows` rows as a batch: without a copy if these are all and none of
    /// the inputs is mostly zeros, else copied into memory of their size, those inputs as what is not zero.
    ///
    /// The caller says with this that those rows are written and that nobody writes through the addresses any more. A
    /// row that was not written reads as zeros. 0 rows keep nothing. Where the budget has no room for them, the rows go to a
    /// file.
    ///
    /// # Errors
    /// Of kind [`Memory`](crate::ErrorKind::Memory) if no directory takes rows that memory has no room for: they are lost
    /// then, and the shard is to be discarded.
    /// Of kind [`State`](crate::ErrorKind::State) if nothing is reserved, if fewer rows are (the reservation stays open
    /// then), or if the shard is not being filled; [`UnknownShard`](crate::ErrorKind::UnknownShard).
    pub fn commit(&self, key: u64, split: Split, rows: usize) -> Result<()> {
        self.fill(key, |filling| filling.commit(split, rows))
    }

    /// Copies rows in from Rust, as one batch: `data` has one entry per column, in the order of the spec.
    ///
    /// # Errors
    /// Of kind [`Argument`](crate::ErrorKind::Argument) if the data do not fit the columns or do not make the same
    /// number of rows; else as [`reserve`](Self::reserve). No rows at all are no error.
    pub fn write_rows(&self, key: u64, split: Split, data: &[ColumnData<'_>]) -> Result<()> {
        self.fill(key, |filling| filling.write_rows(split, data))
    }

    /// As [`write_rows`](Self::write_rows), for `rows` rows of each column, in the form that they have.
    pub(crate) fn write_given(&self, key: u64, split: Split, rows: usize, given: &[Given<'_>]) -> Result<()> {
        self.fill(key, |filling| filling.write_given(split, rows, given))
    }

    /// Seals the shard: it takes no more rows and can be read from now on. Closing twice gives the same report.
    ///
    /// # Errors
    /// Of kind [`State`](crate::ErrorKind::State) if a reservation is open or the run was released;
    /// [`UnknownShard`](crate::ErrorKind::UnknownShard).
    pub fn close(&self, key: u64) -> Result<ShardReport> {
        let slot = self.slot(key)?;
        let mut phase = lock(&slot.phase);
        let filling = match &*phase {
            Phase::Sealed(shard) => return Ok(shard.report().clone()),
            Phase::Released(_) => return Err(slot.released()),
            Phase::Gone => return Err(Error::UnknownShard { key }),
            Phase::Filling(filling) => {
                if let Some((split, rows)) = filling.reserved() {
                    return Err(Error::Reserved { key, split, rows });
                }
                std::mem::replace(&mut *phase, Phase::Gone)
            }
        };
        let Phase::Filling(filling) = filling else { return Err(Error::UnknownShard { key }) };
        let shard = Arc::new(filling.seal(ShardReport {
            partition: slot.partition,
            attempt: slot.attempt,
            process: self.process.clone(),
            key,
            rows: 0,
            validation_rows: 0,
            bytes: 0,
            spilled_bytes: 0,
            hash: String::new(),
        })?);
        let report = shard.report().clone();
        *phase = Phase::Sealed(shard);
        Ok(report)
    }

    /// The sealed shard, to be read for as long as the result is held.
    ///
    /// # Errors
    /// Of kind [`State`](crate::ErrorKind::State) if it is still being filled;
    /// [`UnknownShard`](crate::ErrorKind::UnknownShard).
    pub fn shard(&self, key: u64) -> Result<Arc<Shard>> {
        let slot = self.slot(key)?;
        match &*lock(&slot.phase) {
            Phase::Sealed(shard) => Ok(Arc::clone(shard)),
            Phase::Filling(_) => Err(Error::Filling { key, partition: slot.partition }),
            Phase::Released(_) => Err(slot.released()),
            Phase::Gone => Err(Error::UnknownShard { key }),
        }
    }

    /// The same, for somebody who may read the shards of that run only.
    pub(crate) fn shard_of(&self, run: &str, key: u64) -> Result<Arc<Shard>> {
        if self.slot(key)?.run != run {
            return Err(Error::UnknownShard { key });
        }
        self.shard(key)
    }

    /// Serves the sealed shards of a run over Flight until the last shard of the run here is gone, and says where.
    /// Serving twice gives the same answer.
    ///
    /// # Errors
    /// [`Error::NotServed`] if the run has no shard here; [`Error::Listen`].
    pub fn serve(&self, spec: ServeSpec) -> Result<Endpoint> {
        let run = spec.run.clone();
        if let Some(endpoint) = lock(&self.shelf).endpoint(&run)? {
            return Ok(endpoint);
        }
        // Without the lock, as the host's name may have to be looked up. Of two tasks that ask at once, the second drops
        // its server and takes the first one's.
        let server = Server::start(spec, self.this.clone())?;
        let endpoint = server.endpoint().clone();
        let mut shelf = lock(&self.shelf);
        if let Some(first) = shelf.endpoint(&run)? {
            return Ok(first);
        }
        shelf.servers.insert(run, server);
        Ok(endpoint)
    }

    /// Fetches rows of other processes, each piece into a sealed shard of its own here, and reports them in the order of
    /// the pieces. Blocks the caller, who may be woken by the canceller; must not be called from async code.
    ///
    /// # Errors
    /// [`Error::Peer`] if a peer failed or refused, [`Error::Cancelled`], and those of [`open`](Self::open) and
    /// [`write_rows`](Self::write_rows). None of the new shards is left then.
    pub fn fetch(&self, spec: &FetchSpec, canceller: &Canceller) -> Result<Vec<ShardReport>> {
        flight::fetch(self, spec, canceller)
    }

    /// Drops a shard, filled or not; its key is unknown afterwards, and dropping it again does nothing.
    ///
    /// The writer calls this, or somebody who knows that the writer has stopped: it ends the loans.
    pub fn discard(&self, key: u64) {
        let slot = lock(&self.shelf).remove(key);
        if let Some(slot) = slot {
            *lock(&slot.phase) = Phase::Gone;
        }
    }

    /// Drops the shards of a run but those with these keys, and returns how many there were: what tasks left that ran
    /// twice, of which the driver chose one. A shard that is still being filled stays, as its writer discards or closes it.
    pub fn retain(&self, run: &str, keys: &[u64]) -> usize {
        let slots = lock(&self.shelf).of_run(run);
        let mut dropped = 0;
        for slot in slots.into_iter().filter(|slot| !keys.contains(&slot.key)) {
            let sealed = matches!(*lock(&slot.phase), Phase::Sealed(_));
            if sealed {
                self.discard(slot.key);
                dropped += 1;
            }
        }
        dropped
    }

    /// Drops every shard of a run and returns how many there were. Memory that a writer has been lent stays until it
    /// discards its shard; a shard that somebody reads stays until they let go of it.
    pub fn release(&self, run: &str) -> usize {
        let slots = lock(&self.shelf).of_run(run);
        let mut released = 0;
        for slot in slots {
            let (counted, gone) = slot.release();
            released += usize::from(counted);
            if gone {
                lock(&self.shelf).remove(slot.key);
            }
        }
        released
    }

    fn slot(&self, key: u64) -> Result<Arc<Slot>> {
        lock(&self.shelf).slots.get(&key).cloned().ok_or(Error::UnknownShard { key })
    }

    fn fill<T>(&self, key: u64, step: impl FnOnce(&mut Filling) -> Result<T>) -> Result<T> {
        let slot = self.slot(key)?;
        match &mut *lock(&slot.phase) {
            Phase::Filling(filling) => step(filling),
            Phase::Sealed(_) => Err(Error::Sealed { key, partition: slot.partition }),
            Phase::Released(_) => Err(slot.released()),
            Phase::Gone => Err(Error::UnknownShard { key }),
        }
    }
}

impl Shelf {
    fn remove(&mut self, key: u64) -> Option<Arc<Slot>> {
        let slot = self.slots.remove(&key)?;
        if !self.slots.values().any(|other| other.run == slot.run) {
            self.began_beside.remove(&slot.run);
            self.servers.remove(&slot.run);
        }
        Some(slot)
    }

    /// Where a run is served, if it is; it must have shards here.
    fn endpoint(&self, run: &str) -> Result<Option<Endpoint>> {
        if !self.began_beside.contains_key(run) {
            return Err(Error::NotServed { run: run.to_owned() });
        }
        Ok(self.servers.get(run).map(|server| server.endpoint().clone()))
    }

    fn of_run(&self, run: &str) -> Vec<Arc<Slot>> {
        self.slots.values().filter(|slot| slot.run == run).cloned().collect()
    }

    /// Runs with shards here that have ended, as far as `spec` can know.
    fn ended(&self, spec: &ShardSpec) -> Vec<String> {
        let alive = |run: &String, beside: &HashSet<String>| {
            *run == spec.run || spec.live_runs.contains(run) || beside.contains(&spec.run)
        };
        self.began_beside.iter().filter(|(run, beside)| !alive(run, beside)).map(|(run, _)| run.clone()).collect()
    }
}

impl Slot {
    fn released(&self) -> Error {
        Error::Released { key: self.key, run: self.run.clone() }
    }

    /// Drops what nobody writes into. Says whether there was something to release and whether nothing is left.
    fn release(&self) -> (bool, bool) {
        let mut phase = lock(&self.phase);
        match std::mem::replace(&mut *phase, Phase::Gone) {
            Phase::Filling(mut filling) if filling.reserved().is_some() => {
                filling.drop_batches();
                *phase = Phase::Released(filling);
                (true, false)
            }
            Phase::Filling(_) | Phase::Sealed(_) => (true, true),
            Phase::Released(filling) => {
                *phase = Phase::Released(filling);
                (false, false)
            }
            Phase::Gone => (false, true),
        }
    }
}

/// A panic elsewhere cannot leave these half changed: every change is one assignment or one map operation.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
