//! The fetcher: rows of other processes become shards of this one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, Ticket as FlightTicket};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Uri};
use tonic::{Code, Request, Status, Streaming};

use super::runtime::Shared;
use super::wire::Wire;
use super::{Endpoint, Secret, Ticket, chunk, tls};
use crate::error::{Error, Result};
use crate::spec::{Budget, Column, Schema, ShardReport, ShardSpec, Split};
use crate::store::ShardStore;

/// Bytes that may be under way before they are taken; a bandwidth of 10 Gbit/s over a round trip of 6 ms.
const WINDOW: u32 = 8 << 20;
/// Before the next attempt; twice as long for each one in a row that brought nothing.
const PAUSE: Duration = Duration::from_millis(50);

/// The request for rows of other processes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FetchSpec {
    /// The run; the new shards belong to it.
    pub run: String,
    /// The run for which the peers hold the rows, where that is another one: several may train on the same rows.
    #[serde(default)]
    pub held_for: Option<String>,
    /// The secret of the run for which the rows are held, 64 hexadecimal digits.
    pub secret: Secret,
    /// As in [`ShardSpec::live_runs`].
    pub live_runs: Vec<String>,
    /// The columns that all shards of the run have.
    pub columns: Vec<Column>,
    /// How much memory the rows may take. By default there is no bound.
    #[serde(default)]
    pub budget: Budget,
    /// What to fetch, in this order, one after the other.
    pub pieces: Vec<Piece>,
    /// Milliseconds that a peer may take to accept, to answer, and from one message to the next. By default 30 000.
    #[serde(default = "default_timeout")]
    pub timeout_ms: u64,
    /// Attempts in a row that may bring no row, at least 1. By default 3.
    #[serde(default = "default_tries")]
    pub tries: u32,
}

impl FetchSpec {
    /// The default of `timeout_ms`.
    pub const TIMEOUT_MS: u64 = 30_000;
    /// The default of `tries`.
    pub const TRIES: u32 = 3;

    /// The run that the peers serve.
    fn holder(&self) -> &str {
        self.held_for.as_deref().unwrap_or(&self.run)
    }
}

fn default_timeout() -> u64 {
    FetchSpec::TIMEOUT_MS
}

fn default_tries() -> u32 {
    FetchSpec::TRIES
}

/// Rows `first..first + rows` of a partition, from the process that has them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Piece {
    /// Where they are served.
    pub endpoint: Endpoint,
    /// Number of the partition.
    pub partition: u32,
    /// Key of the shard in that process.
    pub key: u64,
    /// The split; the other split of the new shard is empty.
    pub split: Split,
    /// The first row, which becomes row 0 of the new shard.
    pub first: u64,
    /// How many rows.
    pub rows: u64,
}

/// Ends a fetch from another thread. A clone ends the same one.
#[derive(Debug, Clone)]
pub struct Canceller(Arc<watch::Sender<Option<String>>>);

impl Default for Canceller {
    fn default() -> Self {
        Canceller(Arc::new(watch::Sender::new(None)))
    }
}

impl Canceller {
    /// Ends the fetch that runs with this, or the next one; the first reason is kept.
    pub fn cancel(&self, reason: &str) {
        self.0.send_if_modified(|kept| {
            let first = kept.is_none();
            if first {
                *kept = Some(reason.to_owned());
            }
            first
        });
    }

    async fn cancelled(&self) -> Error {
        let mut reasons = self.0.subscribe();
        let reason = match reasons.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // Its sender is in `self`.
            Err(_) => String::new(),
        };
        Error::Cancelled { reason }
    }
}

/// As [`ShardStore::fetch`].
pub(crate) fn fetch(store: &ShardStore, spec: &FetchSpec, canceller: &Canceller) -> Result<Vec<ShardReport>> {
    let runtime = |source| Error::Runtime { source };
    let shared = Shared::get().map_err(runtime)?;
    let mut fetch = Fetch { store, spec, opened: Vec::new(), channels: HashMap::new() };
    let reports = shared.runtime().map_err(runtime)?.block_on(async {
        tokio::select! {
            biased;
            error = canceller.cancelled() => Err(error),
            reports = fetch.all() => reports,
        }
    })?;
    fetch.opened.clear();
    Ok(reports)
}

struct Fetch<'a> {
    store: &'a ShardStore,
    spec: &'a FetchSpec,
    /// Shards that are dropped if the fetch ends early.
    opened: Vec<u64>,
    channels: HashMap<(String, u16), Channel>,
}

/// Why an attempt ended.
enum Fault {
    /// Another attempt may do better.
    Broken(String),
    /// The peer's answer is final.
    Refused(String),
    /// Something here.
    Own(Error),
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        for key in &self.opened {
            self.store.discard(*key);
        }
    }
}

impl Fetch<'_> {
    async fn all(&mut self) -> Result<Vec<ShardReport>> {
        let mut reports = Vec::with_capacity(self.spec.pieces.len());
        for piece in &self.spec.pieces {
            reports.push(self.piece(piece).await?);
        }
        Ok(reports)
    }

    async fn piece(&mut self, piece: &Piece) -> Result<ShardReport> {
        let spec = ShardSpec {
            run: self.spec.run.clone(),
            partition: piece.partition,
            attempt: 0,
            live_runs: self.spec.live_runs.clone(),
            columns: self.spec.columns.clone(),
            budget: self.spec.budget.clone(),
        };
        let schema = Schema::check(&spec)?;
        let key = self.store.open(spec)?;
        self.opened.push(key);
        let mut stored = 0;
        let mut tries = 0;
        while stored < piece.rows {
            let before = stored;
            let ended = self.attempt(piece, &schema, key, &mut stored).await;
            let fault = match ended {
                Ok(()) => continue,
                Err(Fault::Own(error)) => return Err(error),
                Err(Fault::Refused(reason)) => return Err(self.failed(piece, stored, tries + 1, reason)),
                Err(Fault::Broken(reason)) => reason,
            };
            // The connection may be the trouble.
            self.channels.remove(&address(&piece.endpoint));
            tries = if stored > before { 0 } else { tries + 1 };
            if tries >= self.spec.tries.max(1) {
                return Err(self.failed(piece, stored, tries, fault));
            }
            log::warn!("{} at row {}: {fault}; trying again", piece.endpoint, piece.first + stored);
            tokio::time::sleep(PAUSE * 2_u32.saturating_pow(tries)).await;
        }
        self.store.close(key)
    }

    fn failed(&self, piece: &Piece, stored: u64, tries: u32, reason: String) -> Error {
        Error::Peer {
            peer: piece.endpoint.to_string(),
            partition: piece.partition,
            split: piece.split,
            row: piece.first + stored,
            tries,
            reason,
        }
    }

    /// One stream, from the first row that is not stored yet to the last.
    async fn attempt(
        &mut self,
        piece: &Piece,
        schema: &Schema,
        key: u64,
        stored: &mut u64,
    ) -> std::result::Result<(), Fault> {
        let mut stream = self.open(piece, *stored).await?;
        let announced = self.next(&mut stream).await?.ok_or_else(|| Fault::Broken("the stream is empty".into()))?;
        chunk::check_schema(&announced, schema).map_err(Fault::Refused)?;
        while *stored < piece.rows {
            let left = piece.rows - *stored;
            let data = self.next(&mut stream).await?;
            let data = data.ok_or_else(|| Fault::Broken(format!("the stream ended {left} rows early")))?;
            let chunk = chunk::decode(&data, &schema.columns, piece.first + *stored, left).map_err(Fault::Broken)?;
            self.store.write_given(key, piece.split, chunk.rows, &chunk.columns).map_err(Fault::Own)?;
            *stored += chunk.rows as u64;
        }
        Ok(())
    }

    async fn open(&mut self, piece: &Piece, stored: u64) -> std::result::Result<Streaming<FlightData>, Fault> {
        let channel = self.channel(&piece.endpoint).await?;
        let ticket = Ticket {
            run: self.spec.holder().to_owned(),
            partition: piece.partition,
            key: piece.key,
            split: piece.split,
            first: piece.first + stored,
            rows: piece.rows - stored,
            compressed: true,
        };
        let ticket = serde_json::to_vec(&ticket).map_err(|error| Fault::Refused(error.to_string()))?;
        let mut request = Request::new(FlightTicket::new(ticket));
        self.spec.secret.sign(self.spec.holder(), request.metadata_mut()).map_err(fault)?;
        let mut client =
            FlightServiceClient::new(channel).max_decoding_message_size(chunk::longest_message(&self.spec.columns));
        let answer = self.within("an answer", client.do_get(request)).await?;
        Ok(answer.map_err(fault)?.into_inner())
    }

    async fn next(&self, stream: &mut Streaming<FlightData>) -> std::result::Result<Option<FlightData>, Fault> {
        self.within("rows", stream.message()).await?.map_err(fault)
    }

    async fn channel(&mut self, endpoint: &Endpoint) -> std::result::Result<Channel, Fault> {
        if let Some(channel) = self.channels.get(&address(endpoint)) {
            return Ok(channel.clone());
        }
        let tls = endpoint.certificate.as_deref().map(tls::connector).transpose();
        let tls = tls.map_err(|error| Fault::Refused(format!("its certificate cannot be read: {error}")))?;
        let (host, port) = address(endpoint);
        let connect = tower::service_fn(move |_: Uri| {
            let (host, tls) = (host.clone(), tls.clone());
            async move {
                let stream = TcpStream::connect((host, port)).await?;
                stream.set_nodelay(true)?;
                let wire = match tls {
                    None => Wire::plain(stream, None),
                    Some((tls, name)) => Wire::tls(tls.connect(name, stream).await?, None),
                };
                std::io::Result::Ok(TokioIo::new(wire))
            }
        });
        // The name is for the request's header alone; the connection is made above.
        let transport = tonic::transport::Endpoint::from_static("http://kindling")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let channel = self.within("a connection", transport.connect_with_connector(connect)).await?;
        let channel = channel.map_err(|error| Fault::Broken(causes(&error)))?;
        self.channels.insert(address(endpoint), channel.clone());
        Ok(channel)
    }

    async fn within<T>(&self, what: &str, wait: impl Future<Output = T>) -> std::result::Result<T, Fault> {
        let limit = Duration::from_millis(self.spec.timeout_ms);
        tokio::time::timeout(limit, wait)
            .await
            .map_err(|_| Fault::Broken(format!("it gave no sign of {what} within {} ms", limit.as_millis())))
    }
}

fn address(endpoint: &Endpoint) -> (String, u16) {
    (endpoint.host.clone(), endpoint.port)
}

fn fault(status: Status) -> Fault {
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::NotFound
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::Unimplemented => Fault::Refused(status.message().to_owned()),
        _ => Fault::Broken(causes(&status)),
    }
}

/// An error with what is behind it, as transports say little themselves.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = source.source();
    }
    text
}
