//! The connecting side of the rendezvous: reaches the next rank and proves itself to it.
//!
//! A connection that breaks before the peer has answered is tried again until the deadline. A refusal by the peer is
//! final, and so is a port that stays closed: peers listen before the roster is made.

use super::handshake::{self, Claim, HELLO, Nonces, VERDICT, Verdict};
use super::socket;
use super::talk::{CONVERSATION, Talk};
use crate::error::Error;
use crate::secret::Secret;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long a port may be closed before its rank is given up.
const CLOSED_PORT: Duration = Duration::from_secs(2);

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Dial {
    addresses: Vec<SocketAddr>,
    secret: Secret,
    /// What the connection is for.
    claim: Claim,
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
        stream: TcpStream,
        until: Instant,
    },
    /// `nonces` is set once the challenge has come and the proof is out.
    Talking {
        talk: Talk,
        nonces: Option<Nonces>,
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
    Linked(TcpStream),
}

impl Dial {
    pub(super) fn new(addresses: Vec<SocketAddr>, secret: Secret, claim: Claim) -> Dial {
        Dial {
            addresses,
            secret,
            claim,
            state: State::Resting { until: Instant::now() },
            attempts: 0,
            closed_since: None,
            trouble: "it has not answered".into(),
        }
    }

    /// Goes on as far as possible without waiting. Returns the link once it is proved.
    pub(super) fn step(&mut self) -> Result<Option<TcpStream>, Hopeless> {
        loop {
            let next = match std::mem::replace(&mut self.state, State::Over) {
                State::Resting { until } if Instant::now() < until => Next::Wait(State::Resting { until }),
                State::Resting { .. } => self.connect()?,
                State::Connecting { stream, until } => self.connecting(stream, until)?,
                State::Talking { talk, nonces } => self.converse(talk, nonces)?,
                State::Over => return Ok(None),
            };
            match next {
                Next::Now(state) => self.state = state,
                Next::Wait(state) => {
                    self.state = state;
                    return Ok(None);
                }
                Next::Linked(stream) => return Ok(Some(stream)),
            }
        }
    }

    fn connect(&mut self) -> Result<Next, Hopeless> {
        // A name may have several addresses; they are tried in turn.
        let address = self.addresses.get(self.attempts % self.addresses.len().max(1));
        self.attempts += 1;
        match address.ok_or_else(|| ErrorKind::NotFound.into()).and_then(|address| socket::dial(*address)) {
            Ok(stream) => Ok(Next::Now(State::Connecting { stream, until: Instant::now() + CONVERSATION })),
            Err(error) => self.retry(&error),
        }
    }

    fn connecting(&mut self, stream: TcpStream, until: Instant) -> Result<Next, Hopeless> {
        let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::OUT)];
        let ready = socket::wait(&mut fds, Duration::ZERO).is_err() || fds.iter().any(|fd| !fd.revents().is_empty());
        if !ready && Instant::now() < until {
            return Ok(Next::Wait(State::Connecting { stream, until }));
        }
        let connected = if ready { socket::connected(&stream) } else { Err(ErrorKind::TimedOut.into()) };
        if let Err(error) = connected {
            return self.retry(&error);
        }
        self.closed_since = None;
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
            Some(Verdict::Welcome) => Ok(Next::Linked(talk.stream)),
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

    pub(super) fn poll_fd(&self) -> Option<PollFd<'_>> {
        match &self.state {
            State::Resting { .. } | State::Over => None,
            State::Connecting { stream, .. } => Some(PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::OUT)),
            State::Talking { talk, .. } => Some(talk.poll_fd()),
        }
    }

    /// When to step at the latest.
    pub(super) fn until(&self) -> Option<Instant> {
        match &self.state {
            State::Resting { until } | State::Connecting { until, .. } => Some(*until),
            State::Talking { talk, .. } => Some(talk.until),
            State::Over => None,
        }
    }
}
