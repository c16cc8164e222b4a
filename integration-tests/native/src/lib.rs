//! Runs small fits outside Spark, for tests: ranks as threads of one process, or as processes over TCP.
//!
//! A [`Request`] names a program, data and partition sizes; [`fit`] plays the driver (ingest, plan, rendezvous) and
//! returns what was trained in which order, so that another implementation can replay it.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kindling_program::Program;
use kindling_shards::{Column, DType, Endpoint, Role, Secret, ServeSpec, ShardReport, ShardSpec, ShardStore, Split};
use kindling_train::{Session, SessionConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub mod array;
pub mod golden;
pub mod processes;

use array::Array;

const RUN: &str = "replay";
const SECRET: &str = "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e";
const HOST: &str = "127.0.0.1";

/// Errors of the harness only ever end a test.
pub type Result<T> = std::result::Result<T, Box<dyn StdError + Send + Sync>>;

/// A fit to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// The program: a `.pt2` archive or a layer list.
    pub program: PathBuf,
    /// A `.npy` file, one row per example.
    pub features: PathBuf,
    /// A `.npy` file, one label (int64) or target (float) per example.
    pub labels: PathBuf,
    /// Sizes of the partitions into which the rows fall, in order.
    pub partitions: Vec<usize>,
    /// Number of ranks.
    pub world: usize,
    /// Ranks as threads or as processes.
    pub transport: Transport,
    /// As in the session's configuration.
    pub loss: Value,
    /// As in the session's configuration.
    pub optimizer: Value,
    /// Rows of a global batch.
    pub batch_size: u64,
    /// Passes over the data.
    pub max_epochs: u64,
    /// Fixes the order.
    pub seed: u64,
    /// Whether to shuffle.
    pub shuffle: bool,
    /// Where to write the trained weights.
    #[serde(default)]
    pub weights: Option<PathBuf>,
}

/// How ranks reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Threads of this process.
    Local,
    /// A process per rank.
    Tcp,
}

/// What was trained.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Row numbers of every batch, all ranks together, rank by rank.
    pub rows: Vec<Vec<u64>>,
    /// The same, rank by rank: `per_rank[rank][batch]`.
    pub per_rank: Vec<Vec<Vec<u64>>>,
    /// Loss of every global batch.
    pub losses: Vec<f64>,
    /// Seconds of training, per rank.
    pub seconds: Vec<f64>,
    /// Seconds in which a rank waited for rows, per rank.
    pub data_wait_seconds: Vec<f64>,
}

/// Runs the request and returns what was trained.
pub fn fit(request: &Request) -> Result<Outcome> {
    let reports = match request.transport {
        Transport::Local => fit_in_threads(request)?,
        Transport::Tcp => processes::fit(request)?,
    };
    let per_rank = reports
        .iter()
        .map(|report| serde_json::from_value(report["rows"].clone()))
        .collect::<std::result::Result<Vec<Vec<Vec<u64>>>, _>>()?;
    let steps = per_rank.first().map_or(0, Vec::len);
    let rows = (0..steps)
        .map(|step| per_rank.iter().flat_map(|batches| batches.get(step).into_iter().flatten().copied()).collect())
        .collect();
    let losses = match reports.first() {
        Some(report) => serde_json::from_value(report["losses"].clone())?,
        None => Vec::new(),
    };
    let figure = |name: &str| reports.iter().map(|report| report[name].as_f64().unwrap_or(f64::NAN)).collect();
    Ok(Outcome { rows, per_rank, losses, seconds: figure("seconds"), data_wait_seconds: figure("dataWaitSeconds") })
}

fn fit_in_threads(request: &Request) -> Result<Vec<Value>> {
    let store = ShardStore::new();
    let shards = ingest(request, &store, |_| true, false)?;
    let sessions = (0..request.world)
        .map(|rank| open(request, &store, rank, &shards).map(Arc::new))
        .collect::<Result<Vec<_>>>()?;
    let roster = sessions.iter().map(|session| session.endpoint()).collect::<std::result::Result<Vec<_>, _>>()?;
    let ranks: Vec<_> = sessions
        .iter()
        .map(|session| {
            let (session, roster) = (Arc::clone(session), roster.clone());
            std::thread::spawn(move || -> Result<Value> {
                session.connect(&roster)?;
                let report = session.fit(&mut |_| Ok(()))?;
                Ok(serde_json::to_value(report)?)
            })
        })
        .collect();
    let reports =
        ranks.into_iter().map(|rank| rank.join().map_err(|_| "a rank panicked")?).collect::<Result<Vec<_>>>()?;
    if let (Some(path), Some(session)) = (&request.weights, sessions.first()) {
        std::fs::write(path, session.weights()?)?;
    }
    Ok(reports)
}

/// A shard, and where its process serves it if there are others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Held {
    /// What the store said.
    pub report: ShardReport,
    /// Absent where all ranks run in the shard's process.
    pub endpoint: Option<Endpoint>,
}

/// Fills the store with the partitions that `held` picks, serves them if `served`, and tells of them.
pub fn ingest(
    request: &Request,
    store: &Arc<ShardStore>,
    held: impl Fn(usize) -> bool,
    served: bool,
) -> Result<Vec<Held>> {
    let (features, labels) = (Array::read(&request.features)?, Array::read(&request.labels)?);
    let columns = columns(&read_program(&request.program)?, &features, &labels)?;
    let mut shards = Vec::new();
    let mut start = 0;
    for (partition, &rows) in request.partitions.iter().enumerate() {
        if held(partition) {
            let partition = u32::try_from(partition)?;
            let spec = ShardSpec {
                run: RUN.to_owned(),
                partition,
                attempt: 0,
                live_runs: Vec::new(),
                columns: columns.clone(),
                budget: kindling_shards::Budget::default(),
            };
            let key = store.open(spec)?;
            if rows > 0 {
                write(store, key, [features.rows(start, rows)?, labels.rows(start, rows)?])?;
            }
            let report = store.close(key)?;
            let serving = ServeSpec {
                run: RUN.to_owned(),
                secret: Secret::from_hex(SECRET)?,
                host: HOST.to_owned(),
                encrypted: false,
            };
            let endpoint = if served { Some(store.serve(serving)?) } else { None };
            shards.push(Held { report, endpoint });
        }
        start += rows;
    }
    Ok(shards)
}

fn columns(program: &Program, features: &Array, labels: &Array) -> Result<Vec<Column>> {
    let input = program.inputs.first().ok_or("the program has no input")?;
    Ok(vec![column(&input.name, Role::Input, features)?, column("label", Role::Label, labels)?])
}

fn write(store: &ShardStore, key: u64, columns: [array::Rows<'_>; 2]) -> Result<()> {
    let columns = columns.each_ref().map(array::Rows::data);
    store.write_rows(key, Split::Train, &columns)?;
    Ok(())
}

fn column(name: &str, role: Role, array: &Array) -> Result<Column> {
    Ok(Column { name: name.to_owned(), role, dtype: array.dtype(), width: u32::try_from(array.width)? })
}

/// Opens rank `rank` of the request.
pub fn open(request: &Request, store: &Arc<ShardStore>, rank: usize, shards: &[Held]) -> Result<Session> {
    let mut shards = shards.to_vec();
    shards.sort_by_key(|shard| shard.report.partition);
    let described: Vec<Value> = shards
        .iter()
        .map(|Held { report, endpoint }| {
            json!({"partition": report.partition, "process": report.process, "key": report.key, "rows": report.rows,
                   "validationRows": report.validation_rows, "endpoint": endpoint})
        })
        .collect();
    let program = read_program(&request.program)?;
    let columns = columns(&program, &Array::read(&request.features)?, &Array::read(&request.labels)?)?;
    let config: SessionConfig = serde_json::from_value(json!({
        "run": RUN, "attempt": 0, "rank": rank, "world": request.world, "secret": SECRET, "host": HOST,
        "threads": 1, "device": "cpu", "rendezvousTimeoutMs": 20_000, "collectiveTimeoutMs": 20_000,
        "heartbeatMs": 5000, "stallWarningMs": 60_000, "encrypted": false, "shards": described, "columns": columns,
        "training": {
            "loss": request.loss, "optimizer": request.optimizer, "batchSize": request.batch_size,
            "maxEpochs": request.max_epochs, "seed": request.seed, "shuffle": request.shuffle,
            "progressIntervalMs": 1_000_000, "recordRows": true
        }
    }))?;
    Ok(Session::open(config, program, None, Arc::clone(store))?)
}

/// Reads a program file.
pub fn read_program(path: &Path) -> Result<Program> {
    Ok(Program::read(std::fs::read(path)?)?)
}

/// The array dtypes that the harness reads, as the shards name them.
pub(crate) fn dtype(name: &str) -> Option<DType> {
    match name {
        "<f4" => Some(DType::Float32),
        "<f8" => Some(DType::Float64),
        "<i4" => Some(DType::Int32),
        "<i8" => Some(DType::Int64),
        _ => None,
    }
}
