//! A session: one rank of one attempt at a run, from its configuration to its trained weights.
//!
//! States: *opened* (program checked, parameters laid out, listening for peers) → *connected* (the group of ranks
//! stands) → *fitting* → *trained* or *failed*. `fit` runs on the caller's thread. `abort` may come from any thread at
//! any time, wakes whatever the session waits for, and is final. Dropping a session leaves the group.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kindling_collective::{self as collective, Aborter, Communicator, Endpoint, Listener, Secret};
use kindling_program::Program;
use kindling_shards::{self as shards, Budget, Canceller, Column, FetchSpec, Piece, Shard, ShardStore};
use serde::Deserialize;

use crate::data::{Elsewhere, RankData};
use crate::device::{Device, Place};
use crate::devices::{self, Carriage};
use crate::error::{Error, Result};
use crate::fit::{self, TrainingConfig};
use crate::plan::ShardRef;
use crate::replica::{Replica, Seat};
use crate::report::{Event, FitReport};
use crate::sync::Sync;

/// What a rank is told.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionConfig {
    /// Names the run; every shard and peer carries it.
    pub run: String,
    /// Counts the attempts at the run; peers of another attempt are refused.
    pub attempt: u32,
    /// This rank, 0..world.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
    /// 256 bits in hex that every peer proves to know.
    pub secret: String,
    /// The address at which other hosts reach this one.
    pub host: String,
    /// Threads that libtorch may use for this rank.
    pub threads: i32,
    /// Where to train.
    pub device: Device,
    /// How long to wait for all ranks to come together.
    pub rendezvous_timeout_ms: u64,
    /// How long an operation may wait for a peer that is alive but does not come.
    pub collective_timeout_ms: u64,
    /// How often ranks tell each other that they are alive; one that misses three is given up.
    pub heartbeat_ms: u64,
    /// After how long an operation that waits is logged, with the ranks that are missing.
    pub stall_warning_ms: u64,
    /// Whether what ranks tell each other over the network is encrypted.
    pub encrypted: bool,
    /// TCP connections between each two ranks that share the bytes of long operations; one by default.
    #[serde(default = "one")]
    pub sockets_per_link: usize,
    /// Where the last operations of a rank that fails are written; nowhere by default.
    #[serde(default)]
    pub record_folder: Option<PathBuf>,
    /// Where every partition lies, in partition order.
    pub shards: Vec<ShardRef>,
    /// For whom the shards are held, where several runs train on the same rows; for this run by default.
    #[serde(default)]
    pub held_for: Option<HeldFor>,
    /// The columns of every partition; needed where rows are fetched.
    #[serde(default)]
    pub columns: Vec<Column>,
    /// How much memory all rows of the process may take; no bound by default.
    #[serde(default)]
    pub budget: Budget,
    /// Runs that have shards in this process, or will; those of others end when rows are fetched.
    #[serde(default)]
    pub live_runs: Vec<String>,
    /// How to train.
    pub training: TrainingConfig,
}

/// The run for which shards are held: its own secret opens them, and they outlive the runs that train on them.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeldFor {
    /// Its name in the stores.
    pub run: String,
    /// 256 bits in hex.
    pub secret: String,
}

fn one() -> usize {
    1
}

impl SessionConfig {
    fn check(&self) -> Result<()> {
        if self.rank >= self.world {
            return Err(Error::Config(format!("rank {} is not below the world's size, {}", self.rank, self.world)));
        }
        if self.threads < 1 {
            return Err(Error::Config(format!("threads must be at least 1, not {}", self.threads)));
        }
        self.training.check()
    }
}

/// See the module.
pub struct Session {
    config: SessionConfig,
    store: Arc<ShardStore>,
    stage: Mutex<Stage>,
    aborter: Aborter,
    /// Ends a fetch of rows when the session is aborted.
    canceller: Canceller,
}

enum Stage {
    Opened { replica: Box<Replica>, listener: Listener },
    Connected { replica: Box<Replica>, communicator: Arc<dyn Communicator>, carriage: Carriage, processes: Vec<String> },
    Busy,
    Trained { replica: Box<Replica> },
    Failed,
}

impl Stage {
    fn name(&self) -> &'static str {
        match self {
            Stage::Opened { .. } => "opened",
            Stage::Connected { .. } => "connected",
            Stage::Busy => "busy",
            Stage::Trained { .. } => "trained",
            Stage::Failed => "failed",
        }
    }
}

impl Session {
    /// Checks the configuration, lays the program out and listens for peers. `weights` (safetensors) replace the
    /// program's own.
    pub fn open(
        config: SessionConfig,
        program: Program,
        weights: Option<&[u8]>,
        store: Arc<ShardStore>,
    ) -> Result<Session> {
        config.check()?;
        tch::set_num_threads(config.threads);
        config.training.check_validation(config.shards.iter().map(|shard| shard.validation_rows).sum())?;
        let rows: u64 = config.shards.iter().map(|shard| shard.rows).sum();
        let total = rows.div_ceil(config.training.batch_size) * config.training.max_epochs;
        let seat = Seat { rank: config.rank, world: config.world, total: Some(total) };
        let replica = Box::new(Replica::of_run(Place::open(config.device)?, program, weights, &config.training, seat)?);
        let bind = if config.encrypted { Listener::bind_encrypted } else { Listener::bind };
        let listener = bind(&config.host)?;
        let stage = Mutex::new(Stage::Opened { replica, listener });
        Ok(Session { config, store, stage, aborter: Aborter::new(), canceller: Canceller::default() })
    }

    /// Where peers find this rank.
    pub fn endpoint(&self) -> Result<Endpoint> {
        match &*self.stage() {
            Stage::Opened { listener, .. } => Ok(listener.endpoint(self.store.process())),
            other => Err(Error::State { what: "the endpoint", needed: "opened", found: other.name() }),
        }
    }

    /// Meets the other ranks; `roster` lists all endpoints in rank order.
    pub fn connect(&self, roster: &[Endpoint]) -> Result<()> {
        let (replica, listener) =
            match self.take("connecting", "opened", |stage| matches!(stage, Stage::Opened { .. }))? {
                Stage::Opened { replica, listener } => (replica, listener),
                other => return Err(Error::State { what: "connecting", needed: "opened", found: other.name() }),
            };
        let connected = self.meet(listener, roster);
        self.settle(connected.map(|(communicator, carriage)| {
            let processes = roster.iter().map(|endpoint| endpoint.process.clone()).collect();
            (Stage::Connected { replica, communicator, carriage, processes }, ())
        }))
    }

    fn meet(&self, listener: Listener, roster: &[Endpoint]) -> Result<(Arc<dyn Communicator>, Carriage)> {
        if roster.len() != self.config.world {
            return Err(Error::Config(format!(
                "the roster has {} endpoints for a world of {}",
                roster.len(),
                self.config.world
            )));
        }
        let secret = Secret::from_hex(&self.config.secret)?;
        let millis = Duration::from_millis;
        let options = collective::Options {
            rendezvous_timeout: millis(self.config.rendezvous_timeout_ms),
            operation_timeout: millis(self.config.collective_timeout_ms),
            heartbeat: millis(self.config.heartbeat_ms),
            stall_warning: millis(self.config.stall_warning_ms),
            sockets_per_link: self.config.sockets_per_link,
            record_folder: self.config.record_folder.clone(),
            ..collective::Options::new(self.config.run.clone(), self.config.attempt, self.config.rank, secret)
        };
        let nccl = devices::nccl_options(&options);
        let communicator = collective::connect(listener, roster, options, &self.aborter)?;
        let waits = self.config.training.sync_batch_norm;
        let carriage = devices::agree(self.config.device, self.store.process(), waits, &communicator, &nccl)?;
        Ok((communicator, carriage))
    }

    /// Trains to the end. `events` is called on this thread, between steps, on rank 0 only; an error from it ends the
    /// fit. On failure the other ranks are told why.
    pub fn fit(&self, events: &mut dyn FnMut(&Event) -> std::result::Result<(), String>) -> Result<FitReport> {
        let (mut replica, communicator, carriage, processes) =
            match self.take("fitting", "connected", |stage| matches!(stage, Stage::Connected { .. }))? {
                Stage::Connected { replica, communicator, carriage, processes } => {
                    (replica, communicator, carriage, processes)
                }
                other => return Err(Error::State { what: "fitting", needed: "connected", found: other.name() }),
            };
        // Thread counts belong to the calling thread, which need not be the one that opened the session.
        tch::set_num_threads(self.config.threads);
        let group = Arc::clone(&communicator);
        let mut sync = Sync::new(communicator, replica.place, carriage);
        // Told also when a panic passes through here, before the communicator is dropped without a word.
        let farewell = OnUnwind { session: self };
        let report =
            replica.synchronise(&*group).and_then(|()| self.train(&mut replica, &processes, &mut sync, events));
        std::mem::forget(farewell);
        if let Err(error) = &report {
            self.aborter.abort(&format!("rank {} failed: {error}", self.config.rank));
        }
        self.settle(report.map(|report| (Stage::Trained { replica }, report)))
    }

    fn train(
        &self,
        replica: &mut Replica,
        processes: &[String],
        sync: &mut Sync,
        events: &mut dyn FnMut(&Event) -> std::result::Result<(), String>,
    ) -> Result<FitReport> {
        let config = &self.config;
        let processes: Vec<&str> = processes.iter().map(String::as_str).collect();
        let fetched = Cell::new((0, 0));
        let fetch = |wanted: &[Elsewhere<'_>]| self.fetch(wanted, &fetched);
        let data = RankData::open(
            &self.store,
            &config.shards,
            &processes,
            config.rank,
            &replica.program,
            &replica.judge,
            &fetch,
        )?;
        let rows = config.shards.iter().map(|shard| shard.rows).sum();
        let mut emit = |event: &Event| {
            if config.rank == 0 { events(event).map_err(Error::Listener) } else { Ok(()) }
        };
        let mut report = fit::fit(replica, &data, sync, &config.training, rows, &|| self.alive(), &mut emit)?;
        (report.fetched_rows, report.fetched_bytes) = fetched.get();
        Ok(report)
    }

    /// Brings rows of other processes into this one's store, and says how many rows and bytes they were.
    fn fetch(&self, wanted: &[Elsewhere<'_>], fetched: &Cell<(u64, u64)>) -> Result<Vec<Arc<Shard>>> {
        let config = &self.config;
        let piece = |wanted: &Elsewhere<'_>| {
            let shard = wanted.shard;
            let endpoint = shard.endpoint.clone().ok_or_else(|| {
                Error::Config(format!(
                    "rank {} needs rows of partition {}, which process {} holds and does not serve",
                    config.rank, shard.partition, shard.process
                ))
            })?;
            let (partition, key) = (shard.partition, shard.key);
            Ok(Piece { endpoint, partition, key, split: wanted.split, first: wanted.first, rows: wanted.rows })
        };
        let begun = Instant::now();
        let secret = config.held_for.as_ref().map_or(&config.secret, |run| &run.secret);
        let spec = FetchSpec {
            run: config.run.clone(),
            held_for: config.held_for.as_ref().map(|run| run.run.clone()),
            secret: shards::Secret::from_hex(secret)?,
            live_runs: config.live_runs.clone(),
            columns: config.columns.clone(),
            budget: config.budget.clone(),
            pieces: wanted.iter().map(piece).collect::<Result<_>>()?,
            timeout_ms: FetchSpec::TIMEOUT_MS,
            tries: FetchSpec::TRIES,
        };
        let reports = self.store.fetch(&spec, &self.canceller)?;
        let (rows, bytes) = reports
            .iter()
            .fold((0, 0), |(rows, bytes), report| (rows + report.rows + report.validation_rows, bytes + report.bytes));
        fetched.set((rows, bytes));
        log::info!(
            "run {}: rank {} fetched {rows} rows ({bytes} bytes) of {} partitions from other executors in {:.2} s",
            config.run,
            config.rank,
            wanted.len(),
            begun.elapsed().as_secs_f64()
        );
        Ok(reports.iter().map(|report| self.store.shard(report.key)).collect::<std::result::Result<_, _>>()?)
    }

    /// The weights after a fit, as safetensors under PyTorch's names.
    pub fn weights(&self) -> Result<Vec<u8>> {
        match &*self.stage() {
            Stage::Trained { replica } => replica.weights(),
            other => Err(Error::State { what: "reading the weights", needed: "trained", found: other.name() }),
        }
    }

    /// Ends the session from any thread: what it waits for fails, and so does everything after. The first reason stays.
    pub fn abort(&self, reason: &str) {
        self.aborter.abort(reason);
        self.canceller.cancel(reason);
    }

    fn alive(&self) -> Result<()> {
        match self.aborter.reason() {
            Some(reason) => Err(Error::Aborted(reason)),
            None => Ok(()),
        }
    }

    /// Takes the stage out if it is the one needed; nobody else can use the session until `settle` puts one back.
    fn take(&self, what: &'static str, needed: &'static str, is: impl Fn(&Stage) -> bool) -> Result<Stage> {
        self.alive()?;
        let mut stage = self.stage();
        if !is(&stage) {
            return Err(Error::State { what, needed, found: stage.name() });
        }
        Ok(std::mem::replace(&mut *stage, Stage::Busy))
    }

    fn settle<T>(&self, outcome: Result<(Stage, T)>) -> Result<T> {
        let (stage, outcome) = match outcome {
            Ok((stage, value)) => (stage, Ok(value)),
            Err(error) => (Stage::Failed, Err(error)),
        };
        *self.stage() = stage;
        outcome
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        // The stage is replaced as a whole, so it is sound even if a thread panicked while it held the lock.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the session when a panic unwinds through its fit.
struct OnUnwind<'a> {
    session: &'a Session,
}

impl Drop for OnUnwind<'_> {
    fn drop(&mut self) {
        self.session.aborter.abort(&format!("rank {} panicked", self.session.config.rank));
        *self.session.stage() = Stage::Failed;
    }
}
