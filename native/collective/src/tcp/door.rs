//! The listener's side of the rendezvous: finds the previous rank among all who knock.
//!
//! Every connection has its own place, state and time limit, so that a port scanner, a peer that says nothing and a
//! wrong secret cost only themselves. When all places are taken, the oldest gives way: a peer needs its place for
//! milliseconds, and comes again when it lost it.

use super::handshake::{self, Claim, HELLO, Nonces, PROOF, Verdict};
use super::talk::Talk;
use crate::secret::Secret;
use rustix::event::{PollFd, PollFlags};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

/// Connections that may talk at the same time.
const PLACES: usize = 32;

pub(super) struct Door {
    listener: TcpListener,
    secret: Secret,
    /// What the previous rank's connection is for.
    claim: Claim,
    candidates: Vec<Candidate>,
    /// Why the previous rank has not come, as far as it shows here.
    pub(super) trouble: String,
}

/// Somebody at the door. `nonces` is set once it has said hello.
struct Candidate {
    talk: Talk,
    address: SocketAddr,
    nonces: Option<Nonces>,
}

impl Door {
    pub(super) fn new(listener: TcpListener, secret: Secret, claim: Claim) -> Door {
        Door { listener, secret, claim, candidates: Vec::new(), trouble: "it has not connected".into() }
    }

    /// Lets everybody speak who has something to say. Returns the previous rank's connection when it has proved itself.
    pub(super) fn step(&mut self) -> Option<TcpStream> {
        self.accept();
        let mut found = None;
        for mut candidate in std::mem::take(&mut self.candidates) {
            match self.converse(&mut candidate) {
                Ok(true) => found = Some(candidate.talk.stream),
                Ok(false) if Instant::now() < candidate.talk.until => self.candidates.push(candidate),
                Ok(false) => self.turn_away(&candidate.address, "it took too long"),
                Err(reason) => self.turn_away(&candidate.address, &reason),
            }
        }
        found
    }

    /// Lets in everybody who knocks.
    fn accept(&mut self) {
        // Bounded, so that a flood of connections does not keep this rank from its peers.
        for _ in 0..PLACES {
            match self.listener.accept() {
                Ok((stream, address)) => self.admit(stream, address),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // A connection that was reset before it was accepted, or no descriptor left for it: its loss.
                Err(error) => {
                    self.trouble = format!("it has not connected; the last connection failed: {error}");
                    return;
                }
            }
        }
    }

    /// Gives somebody a place. A connection that cannot be prepared is lost, and nothing else is: were the fault this
    /// machine's, this rank's own connection to the next would meet it too and say so.
    fn admit(&mut self, stream: TcpStream, address: SocketAddr) {
        let talk = match Talk::new(stream) {
            Ok(talk) => talk,
            Err(error) => return self.turn_away(&address, &error.to_string()),
        };
        if self.candidates.len() >= PLACES {
            let oldest = self.candidates.remove(0);
            self.turn_away(&oldest.address, "too many connections came at once");
        }
        self.candidates.push(Candidate { talk, address, nonces: None });
    }

    fn turn_away(&mut self, address: &SocketAddr, reason: &str) {
        log::warn!("rank {}: turned a connection from {address} away: {reason}", self.claim.to);
        self.trouble = format!("it has not connected; a connection from {address} was turned away because {reason}");
    }

    /// One or two exchanges with somebody at the door. True when it is the previous rank.
    fn converse(&self, candidate: &mut Candidate) -> Result<bool, String> {
        let talk = &mut candidate.talk;
        if candidate.nonces.is_none() {
            let Some(message) = talk.pump(HELLO).map_err(|error| error.to_string())? else { return Ok(false) };
            let connector = handshake::read_hello(&message)?;
            candidate.nonces = Some(Nonces { connector, acceptor: talk.nonce });
            talk.say(&handshake::hello(&talk.nonce));
        }
        let Some(nonces) = &candidate.nonces else { return Ok(false) };
        let Some(proof) = talk.pump(PROOF).map_err(|error| error.to_string())? else { return Ok(false) };
        let verdict = handshake::judge(&self.secret, &self.claim, nonces, &proof);
        talk.say(&verdict.encode(&self.secret, &self.claim, nonces));
        // 40 bytes into an empty send buffer: they go out now or the connection is broken.
        talk.pump(0).map_err(|error| error.to_string())?;
        match verdict {
            Verdict::Welcome => Ok(true),
            Verdict::Unproven => Err("it does not know the run's secret".into()),
            Verdict::OtherAttempt { .. } => Err("it belongs to another attempt".into()),
            Verdict::OtherPlace => Err("it is not the previous rank of the same roster".into()),
        }
    }

    pub(super) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let talks = self.candidates.iter().map(|candidate| candidate.talk.poll_fd());
        std::iter::once(PollFd::new(&self.listener, PollFlags::IN)).chain(talks)
    }

    /// When the first of the conversations has taken too long.
    pub(super) fn until(&self) -> Option<Instant> {
        self.candidates.iter().map(|candidate| candidate.talk.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dial::Dial;
    use super::super::socket;
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn a_connection_that_cannot_be_prepared_is_turned_away_and_the_previous_rank_still_gets_in() {
        let secret = Secret::generate().unwrap();
        let claim = Claim { run: "run".into(), attempt: 0, world: 2, from: 0, to: 1 };
        let listener = socket::listen("127.0.0.1").unwrap();
        let address = listener.local_addr().unwrap();
        let mut door = Door::new(listener, secret.clone(), claim.clone());

        // TCP's options do not fit a socket of another family.
        let (stranger, _other) = UnixStream::pair().unwrap();
        door.admit(TcpStream::from(OwnedFd::from(stranger)), address);
        assert!(door.candidates.is_empty());
        assert!(door.trouble.contains("preparing a connection"), "{}", door.trouble);

        let mut dial = Dial::new(vec![address], secret, claim);
        let (mut came, mut linked) = (None, None);
        let began = Instant::now();
        while came.is_none() || linked.is_none() {
            assert!(began.elapsed() < Duration::from_secs(20), "{}; {}", door.trouble, dial.trouble);
            linked = linked.or(dial.step().ok().unwrap());
            came = came.or(door.step());
            let mut fds: Vec<PollFd<'_>> = door.poll_fds().chain(dial.poll_fd()).collect();
            socket::wait(&mut fds, Duration::from_millis(20)).unwrap();
        }
        assert_eq!(came.unwrap().peer_addr().unwrap(), linked.unwrap().local_addr().unwrap());
    }
}
