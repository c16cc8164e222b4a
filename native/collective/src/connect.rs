//! From a roster to a group: listener, options, and the choice of the transport.

use crate::abort::Aborter;
use crate::communicator::Communicator;
use crate::error::Error;
use crate::local;
use crate::secret::Secret;
use crate::tcp;
use serde::{Deserialize, Serialize};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

/// Where a rank can be reached, as the roster tells it to the other ranks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Names the rank's process; ranks whose endpoints all name one process meet inside it.
    pub process: String,
    /// The host as the other ranks know it.
    pub host: String,
    /// The port of the rank's listener.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Endpoint { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// How a rank joins its group.
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
    /// How long to wait until all ranks are there.
    pub rendezvous_timeout: Duration,
    /// How long a peer may be silent while an operation waits for it.
    pub operation_timeout: Duration,
}

/// A bound port, opened before the roster is known so that it can be in the roster.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
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
            tcp::socket::listen(host).map_err(|error| Error::io(format!("listening as host \"{host}\""), error))?;
        let address = socket.local_addr().map_err(|error| Error::io("reading the listener's port", error))?;
        Ok(Listener { socket, host: host.to_owned(), port: address.port() })
    }

    /// The endpoint to put into the roster, for a rank in `process`.
    pub fn endpoint(&self, process: &str) -> Endpoint {
        Endpoint { process: process.to_owned(), host: self.host.clone(), port: self.port }
    }
}

/// Meets the other ranks of `roster` (all endpoints, in rank order) and returns this rank's communicator.
///
/// All endpoints in one process make a local group, anything else a TCP ring. Returns when every rank is there;
/// fails when one is not within the rendezvous timeout (naming it), when a peer refuses, or when `aborter` is used.
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
    if u32::try_from(roster.len()).is_err() {
        return Err(Error::invalid(format!("a roster of {} ranks is too long", roster.len())));
    }
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
        if local { "inside this process" } else { "TCP ring" }
    );
    if local {
        local::connect(roster, options, aborter)
    } else {
        tcp::connect(listener.socket, roster, options, aborter)
    }
}
