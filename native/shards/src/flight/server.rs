//! The server of one run's shards in one process.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket as FlightTicket,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server as Transport;
use tonic::{Request, Response, Status, Streaming};

use super::runtime::Shared;
use super::wire::Wire;
use super::{Endpoint, Secret, Ticket, chunk, tls};
use crate::batch;
use crate::error::{Error, Result};
use crate::shard::Shard;
use crate::spec::Split;
use crate::store::ShardStore;

/// How long a connection may take to say its first word, and a peer to answer a ping.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a connection is asked whether its peer is there.
const PING: Duration = Duration::from_secs(10);
/// Connections at once: ranks have one each, and strangers must not use up the process's descriptors.
const CONNECTIONS: usize = 256;
/// Of a request, which is a ticket.
const REQUEST_BYTES: usize = 16 << 10;
/// After an accept that failed, for want of descriptors for example.
const PAUSE: Duration = Duration::from_millis(100);

/// The request to serve a run's shards.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServeSpec {
    /// The run; it has a shard in the process.
    pub run: String,
    /// Its secret, 64 hexadecimal digits.
    pub secret: Secret,
    /// What peers are told: the name or address under which Spark knows this machine.
    pub host: String,
    /// Whether to speak TLS.
    pub encrypted: bool,
}

/// A running server; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    endpoint: Endpoint,
    serving: JoinHandle<()>,
    /// Last, so that the tasks are told before the runtime may end.
    _runtime: Arc<Shared>,
}

impl Server {
    pub(crate) fn start(spec: ServeSpec, store: Weak<ShardStore>) -> Result<Server> {
        let failed = |source| Error::Listen { host: spec.host.clone(), source };
        let shared = Shared::get().map_err(failed)?;
        let (acceptor, certificate) = if spec.encrypted {
            let (acceptor, certificate) = tls::acceptor().map_err(failed)?;
            (Some(acceptor), Some(certificate))
        } else {
            (None, None)
        };
        let runtime = shared.runtime().map_err(failed)?;
        let listener = listen(&spec.host).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(failed)?
        };
        let endpoint = Endpoint { host: spec.host.clone(), port, certificate };
        let service = Rows { run: spec.run.clone(), store };
        let serving = runtime.spawn(serve(spec, service, listener, acceptor));
        Ok(Server { endpoint, serving, _runtime: shared })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// On `host` where it is an address of this machine, else on all addresses: many machines resolve their own name to a
/// loopback address, which no peer could reach. `localhost` stays local.
fn listen(host: &str) -> io::Result<std::net::TcpListener> {
    let known: Vec<IpAddr> =
        (host, 0).to_socket_addrs().map(|all| all.map(|address| address.ip()).collect()).unwrap_or_default();
    let v6_only = !known.is_empty() && known.iter().all(IpAddr::is_ipv6);
    let any = if v6_only { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let exact = host.parse::<IpAddr>().is_ok() || host == "localhost";
    let address = known.iter().find(|address| address.is_ipv4() != v6_only).filter(|_| exact).copied().unwrap_or(any);
    let listener = match std::net::TcpListener::bind(SocketAddr::new(address, 0)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            log::warn!("{host} is not an address of this machine: serving shards on all its addresses instead");
            std::net::TcpListener::bind(SocketAddr::new(any, 0))?
        }
        other => other?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(spec: ServeSpec, service: Rows, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let ServeSpec { run, secret, .. } = spec;
    let name = run.clone();
    let check = move |request: Request<()>| secret.check(&run, request.metadata()).map(|()| request);
    let service = FlightServiceServer::new(service).max_decoding_message_size(REQUEST_BYTES);
    let service = tonic::service::interceptor::InterceptedService::new(service, check);
    let (accepted, connections) = mpsc::channel(1);
    let connections = stream::unfold(connections, async |mut connections: mpsc::Receiver<io::Result<Wire>>| {
        connections.recv().await.map(|wire| (wire, connections))
    });
    // Owned by this task, so that ending it ends both.
    let mut doors = JoinSet::new();
    doors.spawn(accept(listener, tls, accepted));
    let served = Transport::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PATIENCE))
        .add_service(service)
        .serve_with_incoming(connections)
        .await;
    if let Err(error) = served {
        log::warn!("the shards of run {name:?} are served no more: {error}");
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, accepted: mpsc::Sender<io::Result<Wire>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut opening = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while opening.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((socket, peer)) => {
                let (tls, accepted) = (tls.clone(), accepted.clone());
                opening.spawn(async move {
                    match tokio::time::timeout(PATIENCE, open(socket, tls, place)).await {
                        // Nobody to take it means that the server has ended.
                        Ok(Ok(wire)) => drop(accepted.send(Ok(wire)).await),
                        Ok(Err(error)) => log::debug!("a connection from {peer} was not opened: {error}"),
                        Err(_) => log::debug!("a connection from {peer} said nothing"),
                    }
                });
            }
            Err(error) => {
                log::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Waits for the peer's first word: silent connections take no place for long.
async fn open(socket: TcpStream, tls: Option<TlsAcceptor>, place: OwnedSemaphorePermit) -> io::Result<Wire> {
    socket.set_nodelay(true)?;
    socket.peek(&mut [0]).await?;
    match tls {
        None => Ok(Wire::plain(socket, Some(place))),
        Some(tls) => Ok(Wire::tls(tls.accept(socket).await?, Some(place))),
    }
}

/// What Flight clients see of a store.
struct Rows {
    run: String,
    store: Weak<ShardStore>,
}

/// Where a stream is. It holds no shard: rows of a released run do not wait for a slow client.
struct Cursor {
    run: String,
    store: Weak<ShardStore>,
    key: u64,
    split: Split,
    next: u64,
    end: u64,
    compressed: bool,
}

impl Rows {
    /// The stream of a ticket's rows, without the schema before them.
    fn open(&self, ticket: &Ticket) -> std::result::Result<(FlightData, Cursor), Status> {
        if ticket.run != self.run {
            return Err(Status::invalid_argument("the ticket is for another run than the token"));
        }
        let shard = find(&self.store, &self.run, ticket.key)?;
        if shard.report().partition != ticket.partition {
            return Err(Status::not_found(format!(
                "shard {} is of partition {}, not {}",
                ticket.key,
                shard.report().partition,
                ticket.partition
            )));
        }
        let rows = shard.rows(ticket.split) as u64;
        let end = ticket.first.checked_add(ticket.rows).filter(|end| *end <= rows);
        let end = end.ok_or_else(|| {
            Status::out_of_range(format!(
                "{} rows from row {} on were asked for, but partition {} has {rows} {} rows",
                ticket.rows, ticket.first, ticket.partition, ticket.split
            ))
        })?;
        let Ticket { key, split, first, compressed, .. } = *ticket;
        let (run, store) = (self.run.clone(), self.store.clone());
        let cursor = Cursor { run, store, key, split, next: first, end, compressed };
        Ok((chunk::schema(&shard.schema().arrow), cursor))
    }
}

impl Cursor {
    /// The next message, or none behind the last row. Blocks where the rows must be read from a disk.
    fn message(mut self) -> std::result::Result<Option<(FlightData, Cursor)>, Status> {
        if self.next >= self.end {
            return Ok(None);
        }
        let shard = find(&self.store, &self.run, self.key)?;
        let piece = self.piece(&shard).map_err(|error| Status::internal(error.to_string()))?;
        let data =
            chunk::encode(&piece, self.next, self.compressed).map_err(|error| Status::internal(error.to_string()))?;
        self.next += piece.num_rows() as u64;
        Ok(Some((data, self)))
    }

    /// The rows of the next message, in the form in which they leave.
    fn piece(&self, shard: &Shard) -> Result<RecordBatch> {
        let (schema, key) = (shard.schema(), self.key);
        let most = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
        let row = u32::try_from(self.next).unwrap_or(u32::MAX);
        let piece = shard.piece(self.split, row, most);
        let piece = piece.ok_or_else(|| shard.no_row(self.split, row))?;
        let rows = chunk::rows_per_message(key, schema, &piece, self.compressed)?;
        let piece = piece.slice(0, rows);
        shard.will_need(&piece);
        if self.compressed { Ok(piece) } else { batch::spread(key, schema, &piece) }
    }
}

fn find(store: &Weak<ShardStore>, run: &str, key: u64) -> std::result::Result<Arc<Shard>, Status> {
    let store = store.upgrade().ok_or_else(|| Status::not_found("the store is gone"))?;
    store.shard_of(run, key).map_err(|error| match error {
        Error::Filling { .. } => Status::failed_precondition(error.to_string()),
        error => Status::not_found(error.to_string()),
    })
}

type Answer<T> = std::result::Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, std::result::Result<T, Status>>;

fn absent<T>() -> Answer<T> {
    Err(Status::unimplemented("Kindling serves DoGet only"))
}

#[tonic::async_trait]
impl FlightService for Rows {
    type HandshakeStream = Stream<HandshakeResponse>;
    type ListFlightsStream = Stream<FlightInfo>;
    type DoGetStream = Stream<FlightData>;
    type DoPutStream = Stream<PutResult>;
    type DoExchangeStream = Stream<FlightData>;
    type DoActionStream = Stream<arrow_flight::Result>;
    type ListActionsStream = Stream<ActionType>;

    async fn do_get(&self, request: Request<FlightTicket>) -> Answer<Self::DoGetStream> {
        let ticket = serde_json::from_slice(&request.into_inner().ticket)
            .map_err(|error| Status::invalid_argument(format!("the ticket is none: {error}")))?;
        let (schema, cursor) = self.open(&ticket)?;
        let rows = stream::try_unfold(cursor, async |cursor: Cursor| {
            // Off the workers: rows may have to come from a disk.
            let message = tokio::task::spawn_blocking(|| cursor.message()).await;
            message.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
        });
        Ok(Response::new(stream::once(async { Ok(schema) }).chain(rows).boxed()))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        absent()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        absent()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        absent()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        absent()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        absent()
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        absent()
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        absent()
    }

    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        absent()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        absent()
    }
}

/// All messages of a ticket's stream.
#[cfg(test)]
pub(super) fn messages(store: &Arc<ShardStore>, ticket: &Ticket) -> Vec<FlightData> {
    let rows = Rows { run: ticket.run.clone(), store: Arc::downgrade(store) };
    let (schema, mut cursor) = rows.open(ticket).unwrap();
    let mut messages = vec![schema];
    while let Some((message, next)) = cursor.message().unwrap() {
        messages.push(message);
        cursor = next;
    }
    messages
}
