//! From a roster to a group: listener, options, and the choice of the transport.

use crate::abort::Aborter;
use crate::communicator::Communicator;
use crate::error::Error;
use crate::local;
use crate::mesh;
use crate::mesh::tls::Identity;
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where a rank can be reached, as the roster tells it to the other ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Names the rank's process; ranks whose endpoints all name one process meet inside it.
    pub process: String,
    /// The host as the other ranks know it.
    pub host: String,
    /// The port of the rank's listener.
    pub port: u16,
    /// Names the machine: ranks whose endpoints name one machine share memory where they can. Empty where it cannot be
    /// told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine: String,
    /// The name (in the abstract namespace) of the socket at which ranks of the same machine come in. Empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub door: String,
    /// SHA-256 of the rank's certificate in hex, where what goes over the network is encrypted; else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate: String,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Endpoint { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// How a rank joins its group. [`Options::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// The run: any name, the same on all ranks.
    pub run: String,
    /// The attempt within the run. Ranks of another attempt are refused.
    pub attempt: u32,
    /// This rank's place in the roster.
    pub rank: usize,
    /// What proves that a peer belongs to the run.
    pub secret: Secret,
    /// How long to wait until all ranks are there. Default: 60 s.
    pub rendezvous_timeout: Duration,
    /// How long an operation may wait for a rank that is alive but does not come, or whose bytes do not. Default: 30 min.
    pub operation_timeout: Duration,
    /// How often ranks tell each other that they are alive, whatever their callers do. Default: 5 s.
    pub heartbeat: Duration,
    /// A rank is given up after so many heartbeats that did not come. Default: 3.
    pub heartbeats_missed: u32,
    /// After so long, an operation that waits is logged, with the ranks that are missing. Default: 60 s.
    pub stall_warning: Duration,
    /// TCP connections between each two ranks that share the bytes of long operations. Default: 1. Same on all ranks.
    pub sockets_per_link: usize,
    /// Whether ranks of one machine but several processes share memory; else they use TCP. Default: true. Same on all
    /// ranks.
    pub shared_memory: bool,
    /// Where a rank that fails writes its [records](crate::Record): a folder. Default: none.
    pub record_folder: Option<PathBuf>,
}

impl Options {
    /// The defaults for `rank` of `attempt` at `run`.
    pub fn new(run: impl Into<String>, attempt: u32, rank: usize, secret: Secret) -> Options {
        Options {
            run: run.into(),
            attempt,
            rank,
            secret,
            rendezvous_timeout: Duration::from_secs(60),
            operation_timeout: Duration::from_secs(30 * 60),
            heartbeat: Duration::from_secs(5),
            heartbeats_missed: 3,
            stall_warning: Duration::from_secs(60),
            sockets_per_link: 1,
            shared_memory: true,
            record_folder: None,
        }
    }
}

/// A bound port, opened before the roster is known so that it can be in the roster.
#[derive(Debug)]
pub struct Listener {
    pub(crate) socket: TcpListener,
    /// Where ranks of the same machine come in; none where such a socket cannot be made.
    pub(crate) local: Option<UnixListener>,
    /// This rank's certificate, where what goes over the network is encrypted.
    pub(crate) identity: Option<Identity>,
    door: String,
    host: String,
    port: u16,
}

impl Listener {
    /// Binds a port chosen by the system, on `host` where it is an address of this machine or `localhost`.
    ///
    /// A name is bound on all interfaces: many machines resolve their own name to a loopback address, which no peer
    /// could reach. So is an address that this machine does not have (behind address translation). Peers are told
    /// `host` as it stands.
    pub fn bind(host: &str) -> Result<Listener, Error> {
        let socket =
            mesh::socket::listen(host).map_err(|error| Error::io(format!("listening as host \"{host}\""), error))?;
        let address = socket.local_addr().map_err(|error| Error::io("reading the listener's port", error))?;
        let door = format!("kindling-{}", Secret::generate()?.to_hex());
        let local = mesh::socket::listen_locally(&door)
            .inspect_err(|error| log::warn!("no socket for ranks of this machine, they will use TCP: {error}"))
            .ok();
        Ok(Listener { socket, local, identity: None, door, host: host.to_owned(), port: address.port() })
    }

    /// The same, for a group whose TCP connections are encrypted: TLS 1.3 with a certificate that is made here, and whose
    /// fingerprint is in the endpoint. All ranks of a group do so, or none.
    pub fn bind_encrypted(host: &str) -> Result<Listener, Error> {
        Ok(Listener { identity: Some(Identity::generate()?), ..Listener::bind(host)? })
    }

    /// The endpoint to put into the roster, for a rank in `process`.
    pub fn endpoint(&self, process: &str) -> Endpoint {
        let local = self.local.is_some();
        Endpoint {
            process: process.to_owned(),
            host: self.host.clone(),
            port: self.port,
            machine: if local { machine() } else { String::new() },
            door: if local { self.door.clone() } else { String::new() },
            certificate: self.identity.as_ref().map(Identity::fingerprint).unwrap_or_default(),
        }
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.identity.is_some()
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

/// Names this machine as far as sharing memory goes: the running kernel, and the namespace in which the names of local
/// sockets count. Host names are no use: containers share or change them at will. Empty where it cannot be told.
fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).ok();
    match (boot.trim(), space("net"), space("ipc")) {
        ("", _, _) => String::new(),
        (boot, Some(net), Some(ipc)) => format!("{boot} {} {}", net.display(), ipc.display()),
        _ => String::new(),
    }
}

/// Meets the other ranks of `roster` (all endpoints, in rank order) and returns this rank's communicator.
///
/// All endpoints in one process make a local group. Else each two ranks are linked by themselves: through shared memory
/// where they are on one machine, over TCP where not. Returns when every rank is there; fails when one is not within the
/// rendezvous timeout (naming it), when a peer refuses, or when `aborter` is used.
pub fn connect(
    listener: Listener,
    roster: &[Endpoint],
    options: Options,
    aborter: &Aborter,
) -> Result<Arc<dyn Communicator>, Error> {
    let Some(mine) = roster.get(options.rank) else {
        return Err(Error::invalid(format!("rank {} is not in a roster of {} ranks", options.rank, roster.len())));
    };
    if mine.port != listener.port || mine.host != listener.host {
        return Err(Error::invalid(format!(
            "the roster has rank {} at {mine}, but its listener is at {}",
            options.rank,
            listener.endpoint("")
        )));
    }
    if options.run.len() > 1024 {
        return Err(Error::invalid(format!("a run's name has at most 1024 bytes, not {}", options.run.len())));
    }
    let plain = |endpoint: &Endpoint| endpoint.certificate.is_empty() == listener.is_encrypted();
    if let Some(rank) = roster.iter().position(plain) {
        let (mine, theirs) = if listener.is_encrypted() { ("is", "is not") } else { ("is not", "is") };
        return Err(Error::invalid(format!(
            "rank {} {mine} encrypted and rank {rank} {theirs}: bind all listeners alike",
            options.rank
        )));
    }
    if !(1..=64).contains(&options.sockets_per_link) {
        return Err(Error::invalid(format!("sockets per link must be 1 to 64, not {}", options.sockets_per_link)));
    }
    if options.heartbeat < Duration::from_millis(10) || options.heartbeats_missed == 0 {
        return Err(Error::invalid("the heartbeat must be at least 10 ms, and at least one must be missed"));
    }
    if u32::try_from(roster.len()).is_err() {
        return Err(Error::invalid(format!("a roster of {} ranks is too long", roster.len())));
    }
    // So long that it never passes, and short enough to be added to a point in time.
    const LONG: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    let options = Options {
        rendezvous_timeout: options.rendezvous_timeout.min(LONG),
        operation_timeout: options.operation_timeout.min(LONG),
        heartbeat: options.heartbeat.min(LONG),
        stall_warning: options.stall_warning.min(LONG),
        ..options
    };
    if let Some(reason) = aborter.reason() {
        return Err(Error::Aborted { rank: options.rank, reason });
    }
    let local = roster.iter().all(|endpoint| endpoint.process == mine.process);
    log::info!(
        "rank {} of {} joins run {} attempt {} ({})",
        options.rank,
        roster.len(),
        options.run,
        options.attempt,
        if local { "inside this process" } else { "between processes" }
    );
    if local {
        local::connect(&listener, roster, options, aborter)
    } else {
        mesh::connect(listener, roster, options, aborter)
    }
}
