//! The listeners' side of the rendezvous: finds the expected ranks among all who knock.
//!
//! Every connection has its own place, state and time limit, so that a port scanner, a peer that says nothing and a
//! wrong secret cost only themselves. When all places are taken, the oldest gives way: a peer needs its place for
//! milliseconds, and comes again when it lost it.

use super::handshake::{self, Claim, HELLO, Nonces, PROOF, Verdict};
use super::link::{Connection, Link};
use super::offer::Acceptance;
use super::stream::{Handle, Stream};
use super::talk::{CONVERSATION, Talk};
use super::tls::{Identity, TlsStream};
use super::waker::Waker;
use crate::secret::Secret;
use rustix::event::PollFlags;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections that may talk at the same time.
const PLACES: usize = 64;

/// How long nobody is accepted when the system had no descriptor left.
const REST: Duration = Duration::from_millis(50);

pub(super) struct Door {
    listener: Arc<TcpListener>,
    local: Option<Arc<UnixListener>>,
    waker: Arc<Waker>,
    /// This rank's certificate and the fingerprints of all, by rank, where TCP connections are encrypted.
    tls: Option<(Identity, Vec<String>)>,
    secret: Secret,
    /// What connections are expected for.
    claims: Vec<Claim>,
    candidates: Vec<Candidate>,
    /// Nobody is accepted until then.
    resting: Option<Instant>,
    /// Why those who are missing have not come, as far as it shows here.
    pub(super) trouble: String,
}

/// Somebody at the door.
struct Candidate {
    address: String,
    until: Instant,
    state: State,
}

enum State {
    /// `nonces` is set once it has said hello.
    Talking { talk: Box<Talk>, nonces: Option<Nonces> },
    /// It has proved itself for that claim, and is to offer shared memory.
    Sharing { acceptance: Box<Acceptance>, claim: usize },
}

/// What came of a conversation: the claim and its link, or that it goes on.
enum Outcome {
    Found(usize, Box<Link>),
    Goes(State),
    /// It has gone without a word: a peer that knocked, or somebody who looks which ports are open.
    Left,
}

impl Door {
    /// `local` is the socket for ranks of the same machine, which are to wake `waker` when memory is shared.
    pub(super) fn new(
        listener: TcpListener,
        local: Option<UnixListener>,
        waker: Arc<Waker>,
        secret: Secret,
        claims: Vec<Claim>,
    ) -> Door {
        let (listener, local) = (Arc::new(listener), local.map(Arc::new));
        let trouble = "it has not connected".into();
        Door { listener, local, waker, tls: None, secret, claims, candidates: Vec::new(), resting: None, trouble }
    }

    /// Lets nobody in over TCP who has not one of these certificates, given by rank.
    pub(super) fn encrypted(mut self, identity: Identity, fingerprints: Vec<String>) -> Door {
        self.tls = Some((identity, fingerprints));
        self
    }

    /// Lets everybody speak who has something to say. Returns the links that are proved, each with its claim's number.
    pub(super) fn step(&mut self) -> Vec<(usize, Link)> {
        // Those who are there first: they may be about to leave their places.
        let mut found = self.listen();
        self.accept();
        found.extend(self.listen());
        found
    }

    fn listen(&mut self) -> Vec<(usize, Link)> {
        let mut found = Vec::new();
        for Candidate { address, until, state } in std::mem::take(&mut self.candidates) {
            match self.converse(state) {
                Ok(Outcome::Found(claim, link)) => found.push((claim, *link)),
                Ok(Outcome::Goes(state)) if Instant::now() < until => {
                    self.candidates.push(Candidate { address, until, state });
                }
                Ok(Outcome::Goes(_)) => self.turn_away(&address, "it took too long"),
                Ok(Outcome::Left) => {}
                Err(reason) => self.turn_away(&address, &reason),
            }
        }
        found
    }

    /// Lets in everybody who knocks.
    fn accept(&mut self) {
        if self.resting.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let (listener, local) = (Arc::clone(&self.listener), self.local.clone());
        // Bounded, so that a flood of connections does not keep this rank from its peers, and that nobody loses its place
        // before it was heard once.
        for _ in 0..PLACES / 4 {
            let come =
                listener.accept().and_then(|(stream, address)| Ok((self.over_tcp(stream)?, address.to_string())));
            if !self.welcome_in(come) {
                break;
            }
        }
        if let Some(local) = local {
            for _ in 0..PLACES / 4 {
                let come = local.accept().map(|(stream, _)| (Stream::from(stream), "this machine".to_owned()));
                if !self.welcome_in(come) {
                    break;
                }
            }
        }
    }

    fn over_tcp(&self, stream: TcpStream) -> io::Result<Stream> {
        match &self.tls {
            None => Ok(Stream::from(stream)),
            Some((identity, known)) => {
                Stream::tls(TlsStream::accept(stream, identity, known).map_err(io::Error::other)?)
            }
        }
    }

    /// Admits whoever has come. False when there is nobody else.
    fn welcome_in(&mut self, come: io::Result<(Stream, String)>) -> bool {
        match come {
            Ok((stream, address)) => {
                self.admit(stream, address);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            // A connection that was reset before it was accepted, or no descriptor left for it: its loss. In the latter
            // case the listener stays readable, so it is left alone for a moment.
            Err(error) => {
                self.resting = Some(Instant::now() + REST);
                self.trouble = format!("it has not connected; the last connection failed: {error}");
                false
            }
        }
    }

    /// Gives somebody a place. A connection that cannot be prepared is lost, and nothing else is: were the fault this
    /// machine's, this rank's own connections would meet it too and say so.
    fn admit(&mut self, stream: Stream, address: String) {
        let talk = match Talk::new(stream) {
            Ok(talk) => talk,
            Err(error) => return self.turn_away(&address, &error.to_string()),
        };
        if self.candidates.len() >= PLACES {
            // Who has proved itself keeps its place.
            let talking = |candidate: &Candidate| matches!(candidate.state, State::Talking { .. });
            match self.candidates.iter().position(talking) {
                Some(oldest) => {
                    let oldest = self.candidates.remove(oldest);
                    self.turn_away(&oldest.address, "too many connections came at once");
                }
                None => return self.turn_away(&address, "too many connections came at once"),
            }
        }
        let state = State::Talking { talk: Box::new(talk), nonces: None };
        self.candidates.push(Candidate { address, until: Instant::now() + CONVERSATION, state });
    }

    fn turn_away(&mut self, address: &str, reason: &str) {
        let rank = self.claims.first().map_or(0, |claim| claim.to);
        log::warn!("rank {rank}: turned a connection from {address} away: {reason}");
        self.trouble = format!("it has not connected; a connection from {address} was turned away because {reason}");
    }

    /// The next exchanges with somebody at the door.
    fn converse(&self, state: State) -> Result<Outcome, String> {
        let say = |error: io::Error| error.to_string();
        let (mut talk, mut nonces) = match state {
            State::Talking { talk, nonces } => (talk, nonces),
            State::Sharing { mut acceptance, claim } => {
                return Ok(match acceptance.step(&self.waker).map_err(say)? {
                    Some(link) => Outcome::Found(claim, Box::new(link)),
                    None => Outcome::Goes(State::Sharing { acceptance, claim }),
                });
            }
        };
        if nonces.is_none() {
            let message = match talk.pump(HELLO) {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(Outcome::Goes(State::Talking { talk, nonces })),
                Err(_) if talk.has_heard_nothing() => return Ok(Outcome::Left),
                Err(error) => return Err(say(error)),
            };
            let connector = handshake::read_hello(&message)?;
            nonces = Some(Nonces { connector, acceptor: talk.nonce });
            talk.say(&handshake::hello(&talk.nonce));
        }
        let proof = talk.pump(PROOF).map_err(say)?;
        let (Some(used), Some(proof)) = (&nonces, proof) else {
            return Ok(Outcome::Goes(State::Talking { talk, nonces }));
        };
        let (mut verdict, mut number) = handshake::judge(&self.secret, &self.claims, used, &proof);
        let from = number.and_then(|number| self.claims.get(number)).map(|claim| claim.from as usize);
        if let (Stream::Tls(stream, _), Some((_, fingerprints)), Some(from)) = (&talk.stream, &self.tls, from)
            && stream.peer_fingerprint().as_ref() != fingerprints.get(from)
        {
            // It knows the secret, but has the certificate of another rank.
            (verdict, number) = (Verdict::OtherPlace, None);
        }
        if let Some(claim) = self.claims.get(number.unwrap_or(0)) {
            talk.say(&verdict.encode(&self.secret, claim, used));
        }
        // 40 bytes into an empty send buffer: they go out now or the connection is broken.
        talk.pump(0).map_err(say)?;
        match (verdict, number) {
            (Verdict::Welcome, Some(claim)) => Ok(match &talk.stream {
                Stream::Unix(stream) => {
                    let acceptance = Box::new(Acceptance::new(Arc::clone(stream)));
                    Outcome::Goes(State::Sharing { acceptance, claim })
                }
                _ => Outcome::Found(claim, Box::new(Link::Connection(Connection::new(talk.stream)))),
            }),
            (Verdict::Welcome | Verdict::Unproven, _) => Err("it does not know the run's secret".into()),
            (Verdict::OtherAttempt { .. }, _) => Err("it belongs to another attempt".into()),
            (Verdict::OtherPlace, _) => Err("it is not an expected rank of the same roster".into()),
        }
    }

    pub(super) fn watches(&self) -> Vec<(Handle, PollFlags)> {
        let mut watches: Vec<(Handle, PollFlags)> = Vec::new();
        if self.resting.is_none_or(|until| Instant::now() >= until) {
            watches.push((Arc::clone(&self.listener) as Handle, PollFlags::IN));
            watches.extend(self.local.iter().map(|local| (Arc::clone(local) as Handle, PollFlags::IN)));
        }
        watches.extend(self.candidates.iter().map(|candidate| match &candidate.state {
            State::Talking { talk, .. } => talk.watch(),
            State::Sharing { acceptance, .. } => (acceptance.stream().handle(), PollFlags::IN),
        }));
        watches
    }

    /// When the first of the conversations has taken too long, or new ones may begin again.
    pub(super) fn until(&self) -> Option<Instant> {
        let resting = self.resting.filter(|until| Instant::now() < *until);
        self.candidates.iter().map(|candidate| candidate.until).chain(resting).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dial::Dial;
    use super::super::socket;
    use super::*;
    use rustix::event::PollFd;
    use std::os::fd::AsFd;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    /// A door for rank 1 and the dial of rank 0.
    fn door_and_dial(local: Option<UnixListener>, name: Option<&str>) -> (Door, Dial) {
        let secret = Secret::generate().unwrap();
        let claim = Claim { run: "run".into(), attempt: 0, world: 2, from: 0, to: 1, channel: 0 };
        let listener = socket::listen("127.0.0.1").unwrap();
        let address = listener.local_addr().unwrap();
        let waker = || Arc::new(Waker::new().unwrap());
        let door = Door::new(listener, local, waker(), secret.clone(), vec![claim.clone()]);
        (door, Dial::new(vec![address], name.map(str::to_owned), waker(), secret, claim))
    }

    fn meet(door: &mut Door, dial: &mut Dial) -> (Link, Link) {
        let (mut came, mut linked) = (None, None);
        let began = Instant::now();
        while came.is_none() || linked.is_none() {
            assert!(began.elapsed() < Duration::from_secs(20), "{}; {}", door.trouble, dial.trouble);
            linked = linked.or(dial.step().ok().unwrap());
            came = came.or(door.step().pop());
            let watches: Vec<_> = door.watches().into_iter().chain(dial.watch()).collect();
            let mut fds: Vec<PollFd<'_>> =
                watches.iter().map(|(handle, flags)| PollFd::from_borrowed_fd(handle.as_fd(), *flags)).collect();
            socket::wait(&mut fds, Duration::from_millis(20)).unwrap();
        }
        let (claim, came) = came.unwrap();
        assert_eq!(claim, 0);
        (came, linked.unwrap())
    }

    #[test]
    fn a_connection_that_cannot_be_prepared_is_turned_away_and_the_expected_rank_still_gets_in() {
        let (mut door, mut dial) = door_and_dial(None, None);
        // TCP's options do not fit a socket of another family.
        let (stranger, _other) = UnixStream::pair().unwrap();
        door.admit(Stream::from(TcpStream::from(OwnedFd::from(stranger))), "somewhere".into());
        assert!(door.candidates.is_empty());
        assert!(door.trouble.contains("preparing a connection"), "{}", door.trouble);
        let (came, linked) = meet(&mut door, &mut dial);
        assert_eq!((came.name(), linked.name()), ("TCP", "TCP"));
    }

    #[test]
    fn ranks_of_one_machine_share_memory_and_use_tcp_where_the_local_socket_is_not_to_be_found() {
        let name = "kindling-test-of-the-door";
        let (mut door, mut dial) = door_and_dial(Some(socket::listen_locally(name).unwrap()), Some(name));
        let (came, linked) = meet(&mut door, &mut dial);
        assert_eq!((came.name(), linked.name()), ("shared memory", "shared memory"));

        let (mut door, mut dial) = door_and_dial(None, Some("kindling-test-nobody-listens-here"));
        let (came, linked) = meet(&mut door, &mut dial);
        assert_eq!((came.name(), linked.name()), ("TCP", "TCP"));
    }
}
