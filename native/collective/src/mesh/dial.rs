//! The connecting side of the rendezvous: reaches another rank and proves itself to it.
//!
//! A rank of the same machine is reached through its local socket, where shared memory is offered. Whatever fails there
//! is logged, and TCP is used instead.
//!
//! A connection that breaks before the peer has answered is tried again until the deadline. A refusal by the peer is
//! final, and so is a port that stays closed: peers listen before the roster is made.

use super::handshake::{self, Claim, HELLO, Nonces, VERDICT, Verdict};
use super::link::{Connection, Link};
use super::offer::Offer;
use super::socket;
use super::stream::{Handle, Stream};
use super::talk::{CONVERSATION, Talk};
use super::tls::{Identity, TlsStream};
use super::waker::Waker;
use crate::error::Error;
use crate::secret::Secret;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a port may be closed before its rank is given up.
const CLOSED_PORT: Duration = Duration::from_secs(2);

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// Between two knocks, and before the first: most peers have come by themselves by then.
const KNOCK: Duration = Duration::from_secs(1);

pub(super) struct Dial {
    addresses: Vec<SocketAddr>,
    /// The name of the peer's local socket, while there is hope to share memory.
    door: Option<String>,
    /// What the peer wakes when memory is shared.
    waker: Arc<Waker>,
    /// This rank's certificate, and the fingerprint of the peer's, where TCP connections are encrypted.
    tls: Option<(Identity, String)>,
    secret: Secret,
    /// What the connection is for.
    claim: Claim,
    /// It only finds out whether the peer still listens.
    knocks: bool,
    state: State,
    attempts: usize,
    closed_since: Option<Instant>,
    /// What the last attempt met.
    pub(super) trouble: String,
}

enum State {
    Resting {
        until: Instant,
    },
    Connecting {
        stream: Arc<TcpStream>,
        until: Instant,
    },
    /// `nonces` is set once the challenge has come and the proof is out.
    Talking {
        talk: Talk,
        nonces: Option<Nonces>,
    },
    /// Proved; shared memory has been offered.
    Offering {
        offer: Box<Offer>,
        until: Instant,
    },
    /// Nothing left to do: the link was handed over, or a failure was.
    Over,
}

/// Why there is no point in trying again.
pub(super) enum Hopeless {
    /// The port stays closed.
    Gone(String),
    /// The peer refused, or is an impostor.
    Refused(String),
    /// This machine could not do its part.
    Own(Box<Error>),
}

/// What follows from a step: another state, now or after waiting; or the link.
enum Next {
    Now(State),
    Wait(State),
    Linked(Box<Link>),
}

impl Dial {
    /// `door` names the local socket of a peer on the same machine.
    pub(super) fn new(
        addresses: Vec<SocketAddr>,
        door: Option<String>,
        waker: Arc<Waker>,
        secret: Secret,
        claim: Claim,
    ) -> Dial {
        Dial {
            addresses,
            door,
            waker,
            tls: None,
            secret,
            claim,
            knocks: false,
            state: State::Resting { until: Instant::now() },
            attempts: 0,
            closed_since: None,
            trouble: "it has not answered".into(),
        }
    }

    /// Only knocks now and then, without a word, at the door of a peer that is to connect by itself: one that has died
    /// before it did would be waited for until the deadline.
    pub(super) fn knocking(mut self) -> Dial {
        self.knocks = true;
        self.state = State::Resting { until: Instant::now() + KNOCK };
        self
    }

    /// Encrypts the connection, if it is over TCP, and accepts no certificate but that of `fingerprint`.
    pub(super) fn encrypted(mut self, identity: Identity, fingerprint: String) -> Dial {
        self.tls = Some((identity, fingerprint));
        self
    }

    /// Goes on as far as possible without waiting. Returns the link once it is proved.
    pub(super) fn step(&mut self) -> Result<Option<Link>, Hopeless> {
        loop {
            let next = match std::mem::replace(&mut self.state, State::Over) {
                State::Resting { until } if Instant::now() < until => Next::Wait(State::Resting { until }),
                State::Resting { .. } => self.connect()?,
                State::Connecting { stream, until } => self.connecting(stream, until)?,
                State::Talking { talk, nonces } => self.converse(talk, nonces)?,
                State::Offering { offer, until } => self.offering(offer, until),
                State::Over => return Ok(None),
            };
            match next {
                Next::Now(state) => self.state = state,
                Next::Wait(state) => {
                    self.state = state;
                    return Ok(None);
                }
                Next::Linked(link) => return Ok(Some(*link)),
            }
        }
    }

    fn connect(&mut self) -> Result<Next, Hopeless> {
        if let Some(door) = &self.door {
            match socket::dial_locally(door).map(Stream::from) {
                Ok(stream) => return self.talk(stream),
                // Its queue is full: it comes to that.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.retry(&error),
                Err(error) => self.give_up_sharing(&error),
            }
        }
        // A name may have several addresses; they are tried in turn.
        let address = self.addresses.get(self.attempts % self.addresses.len().max(1));
        self.attempts += 1;
        match address.ok_or_else(|| ErrorKind::NotFound.into()).and_then(|address| socket::dial(*address)) {
            Ok(stream) => {
                Ok(Next::Now(State::Connecting { stream: Arc::new(stream), until: Instant::now() + CONVERSATION }))
            }
            Err(error) => self.retry(&error),
        }
    }

    fn give_up_sharing(&mut self, error: &io::Error) {
        let Claim { from, to, .. } = self.claim;
        log::warn!("rank {from}: no shared memory with rank {to} of the same machine, using TCP: {error}");
        self.door = None;
    }

    fn connecting(&mut self, stream: Arc<TcpStream>, until: Instant) -> Result<Next, Hopeless> {
        let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::OUT)];
        let ready = socket::wait(&mut fds, Duration::ZERO).is_err() || fds.iter().any(|fd| !fd.revents().is_empty());
        if !ready && Instant::now() < until {
            return Ok(Next::Wait(State::Connecting { stream, until }));
        }
        let connected = if ready { socket::connected(&*stream) } else { Err(ErrorKind::TimedOut.into()) };
        if let Err(error) = connected {
            return self.retry(&error);
        }
        self.closed_since = None;
        if self.knocks {
            return Ok(Next::Wait(State::Resting { until: Instant::now() + KNOCK }));
        }
        let Some((identity, fingerprint)) = &self.tls else { return self.talk(Stream::Tcp(stream)) };
        let own = |error: Error| Hopeless::Own(Box::new(error));
        let tls = stream
            .try_clone()
            .map_err(|error| Error::io("preparing a connection for TLS", error))
            .and_then(|stream| TlsStream::connect(stream, identity, fingerprint))
            .and_then(|stream| Stream::tls(stream).map_err(|error| Error::io("preparing a connection for TLS", error)))
            .map_err(own)?;
        self.talk(tls)
    }

    fn talk(&self, stream: Stream) -> Result<Next, Hopeless> {
        let mut talk = Talk::new(stream).map_err(|error| Hopeless::Own(Box::new(error)))?;
        talk.say(&handshake::hello(&talk.nonce));
        Ok(Next::Now(State::Talking { talk, nonces: None }))
    }

    /// One exchange, if the peer's message has come.
    fn converse(&mut self, mut talk: Talk, nonces: Option<Nonces>) -> Result<Next, Hopeless> {
        let message = match talk.pump(if nonces.is_none() { HELLO } else { VERDICT }) {
            Ok(Some(message)) => message,
            Ok(None) if Instant::now() < talk.until => return Ok(Next::Wait(State::Talking { talk, nonces })),
            Ok(None) => return self.retry(&ErrorKind::TimedOut.into()),
            // A certificate that the roster does not have: no other attempt will change that.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(Hopeless::Refused(format!("cannot be trusted: {error}")));
            }
            Err(error) => return self.retry(&error),
        };
        let Some(nonces) = nonces else {
            let acceptor = handshake::read_hello(&message)
                .map_err(|what| Hopeless::Refused(format!("cannot be a peer of this rank: {what}")))?;
            let nonces = Nonces { connector: talk.nonce, acceptor };
            talk.say(&handshake::proof(&self.secret, &self.claim, &nonces));
            return Ok(Next::Now(State::Talking { talk, nonces: Some(nonces) }));
        };
        let refused = |reason: &str| Err(Hopeless::Refused(reason.to_owned()));
        match Verdict::decode(&message, &self.secret, &self.claim, &nonces) {
            Some(Verdict::Welcome) => Ok(self.welcomed(talk)),
            Some(Verdict::Unproven) => {
                refused("refused this rank: it was given another secret, or belongs to another run")
            }
            Some(Verdict::OtherAttempt { attempt }) => refused(&format!(
                "refused this rank: it is at attempt {attempt} of the run, this rank at attempt {}",
                self.claim.attempt
            )),
            Some(Verdict::OtherPlace) => refused("refused this rank: its roster has other ranks in other places"),
            None => refused("could not prove that it knows the run's secret"),
        }
    }

    /// Proved: the connection is the link, or the way to agree on shared memory.
    fn welcomed(&mut self, talk: Talk) -> Next {
        let Stream::Unix(stream) = &talk.stream else {
            return Next::Linked(Box::new(Link::Connection(Connection::new(talk.stream))));
        };
        match Offer::new(Arc::clone(stream), &self.waker) {
            Ok(offer) => Next::Now(State::Offering { offer: Box::new(offer), until: talk.until }),
            Err(error) => self.turn_to_tcp(&error),
        }
    }

    fn offering(&mut self, mut offer: Box<Offer>, until: Instant) -> Next {
        match offer.step() {
            Ok(Some(link)) => Next::Linked(Box::new(link)),
            Ok(None) if Instant::now() < until => Next::Wait(State::Offering { offer, until }),
            Ok(None) => self.turn_to_tcp(&ErrorKind::TimedOut.into()),
            Err(error) => self.turn_to_tcp(&error),
        }
    }

    fn turn_to_tcp(&mut self, error: &io::Error) -> Next {
        self.give_up_sharing(error);
        Next::Now(State::Resting { until: Instant::now() })
    }

    /// Rests before the next attempt; or gives up, when the port has been closed for long.
    fn retry(&mut self, error: &io::Error) -> Result<Next, Hopeless> {
        self.trouble = format!("it could not be reached: {error}");
        log::debug!("rank {}: connecting to rank {}: {error}", self.claim.from, self.claim.to);
        if error.kind() == ErrorKind::ConnectionRefused {
            let since = *self.closed_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= CLOSED_PORT {
                return Err(Hopeless::Gone(format!("its port stays closed: {error}")));
            }
        }
        Ok(Next::Wait(State::Resting { until: Instant::now() + PAUSE }))
    }

    pub(super) fn watch(&self) -> Option<(Handle, PollFlags)> {
        match &self.state {
            State::Resting { .. } | State::Over => None,
            State::Connecting { stream, .. } => Some((Arc::clone(stream) as Handle, PollFlags::OUT)),
            State::Talking { talk, .. } => Some(talk.watch()),
            State::Offering { offer, .. } => Some((offer.stream().handle(), PollFlags::IN)),
        }
    }

    /// When to step at the latest.
    pub(super) fn until(&self) -> Option<Instant> {
        match &self.state {
            State::Resting { until } | State::Connecting { until, .. } | State::Offering { until, .. } => Some(*until),
            State::Talking { talk, .. } => Some(talk.until),
            State::Over => None,
        }
    }
}
