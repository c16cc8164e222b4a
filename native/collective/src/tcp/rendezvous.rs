//! Forming the two links of a rank: it connects to the next rank and accepts the previous one, both at once, on the
//! caller's thread, and nothing that strangers do keeps it from that.
//!
//! When the deadline passes, the error names the rank that has not come. Links that were made by then are told, so that
//! their ranks name the same one.

use super::dial::{Dial, Hopeless};
use super::door::Door;
use super::frame::Frame;
use super::handshake::Claim;
use super::link;
use super::socket::{self, Waker};
use crate::abort::{Abort, Aborter};
use crate::cause::{Cause, Moment};
use crate::connect::{Endpoint, Options};
use crate::error::Error;
use crate::lock;
use rustix::event::{PollFd, PollFlags};
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A rank's two links.
pub(super) struct Links {
    pub(super) previous: TcpStream,
    pub(super) next: TcpStream,
}

/// Why it failed: for the other ranks, and for this one where that says more.
struct Failed {
    cause: Cause,
    error: Option<Error>,
}

impl From<Cause> for Box<Failed> {
    fn from(cause: Cause) -> Box<Failed> {
        Box::new(Failed { cause, error: None })
    }
}

/// Connects both links.
pub(super) fn meet(
    listener: TcpListener,
    roster: &[Endpoint],
    options: &Options,
    aborter: &Aborter,
) -> Result<Links, Error> {
    let alarm = Arc::new(Alarm {
        waker: Waker::new().map_err(|error| Error::io("making the rendezvous' waker", error))?,
        reason: Mutex::new(None),
    });
    aborter.notify(&alarm);
    let mut meeting = Meeting::new(listener, roster, options, alarm)?;
    let Failed { cause, error } = match meeting.run() {
        Ok(links) => return Ok(links),
        Err(failed) => *failed,
    };
    let error = error.unwrap_or_else(|| {
        let moment = Moment { operation: "rendezvous".into(), sequence: 0, elapsed: meeting.began.elapsed() };
        let endpoints: Vec<String> = roster.iter().map(Endpoint::to_string).collect();
        cause.error(&moment, &endpoints)
    });
    log::warn!("rank {}: {error}", options.rank);
    let mut bytes = Vec::new();
    Frame::Abort(cause).push(&mut bytes);
    for mut stream in meeting.previous.into_iter().chain(meeting.next) {
        // A fresh connection has room for these bytes; if it is gone, its rank knows already.
        let _ = stream.write_all(&bytes);
        link::end(&stream);
    }
    Err(error)
}

/// Wakes the rendezvous when the aborter is used.
struct Alarm {
    waker: Waker,
    reason: Mutex<Option<String>>,
}

impl Abort for Alarm {
    fn abort(&self, reason: &str) {
        *lock(&self.reason) = Some(reason.to_owned());
        self.waker.wake();
    }
}

struct Meeting {
    rank: usize,
    world: usize,
    began: Instant,
    timeout: Duration,
    alarm: Arc<Alarm>,
    door: Door,
    dial: Dial,
    previous: Option<TcpStream>,
    next: Option<TcpStream>,
    next_endpoint: String,
    /// False once the next rank has sent what is for the ring: then only its end is watched for.
    next_is_quiet: bool,
}

impl Meeting {
    fn new(listener: TcpListener, roster: &[Endpoint], options: &Options, alarm: Arc<Alarm>) -> Result<Meeting, Error> {
        let (rank, world) = (options.rank, roster.len());
        let (previous, next) = ((rank + world - 1) % world, (rank + 1) % world);
        // The roster's length was checked to fit.
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let claim = |from: usize, to: usize| Claim {
            run: options.run.clone(),
            attempt: options.attempt,
            world: number(world),
            from: number(from),
            to: number(to),
        };
        let began = Instant::now();
        let addresses = match roster.get(next) {
            Some(endpoint) => (endpoint.host.as_str(), endpoint.port)
                .to_socket_addrs()
                .map_err(|error| Error::io(format!("resolving rank {next}'s host \"{}\"", endpoint.host), error))?
                .collect(),
            None => Vec::new(),
        };
        Ok(Meeting {
            rank,
            world,
            began,
            timeout: options.rendezvous_timeout,
            alarm,
            door: Door::new(listener, options.secret.clone(), claim(previous, rank)),
            dial: Dial::new(addresses, options.secret.clone(), claim(rank, next)),
            previous: None,
            next: None,
            next_endpoint: roster.get(next).map(Endpoint::to_string).unwrap_or_default(),
            next_is_quiet: true,
        })
    }

    fn next_rank(&self) -> usize {
        (self.rank + 1) % self.world
    }

    fn previous_rank(&self) -> usize {
        (self.rank + self.world - 1) % self.world
    }

    fn run(&mut self) -> Result<Links, Box<Failed>> {
        let broken = |rank: usize, error: Error| {
            Box::new(Failed { cause: Cause::Broken { rank, detail: error.to_string() }, error: Some(error) })
        };
        loop {
            if let Some(reason) = lock(&self.alarm.reason).take() {
                return Err(Cause::Aborted { rank: self.rank, reason }.into());
            }
            match self.dial.step() {
                Ok(None) => {}
                Ok(link) => self.next = link,
                Err(Hopeless::Gone(detail)) => return Err(Cause::Lost { rank: self.next_rank(), detail }.into()),
                Err(Hopeless::Own(error)) => return Err(broken(self.rank, *error)),
                Err(Hopeless::Refused(reason)) => {
                    let rank = self.next_rank();
                    return Err(broken(
                        self.rank,
                        Error::Refused { rank, endpoint: self.next_endpoint.clone(), reason },
                    ));
                }
            }
            if let Some(link) = self.door.step() {
                // If the previous rank has come twice, its first connection broke on its side.
                self.previous = Some(link);
            }
            self.watch_links().map_err(Box::<Failed>::from)?;
            match (self.previous.take(), self.next.take()) {
                (Some(previous), Some(next)) => return Ok(Links { previous, next }),
                (previous, next) => (self.previous, self.next) = (previous, next),
            }
            if self.began.elapsed() >= self.timeout {
                return Err(self.too_late().into());
            }
            self.sleep().map_err(|error| broken(self.rank, Error::io("waiting for the other ranks", error)))?;
        }
    }

    /// The deadline has passed: names who is missing.
    fn too_late(&self) -> Cause {
        let came = &self.door.trouble;
        match (&self.previous, &self.next) {
            (None, None) if self.world > 2 => Cause::Silent {
                rank: self.previous_rank(),
                detail: format!("{came}; and of rank {}: {}", self.next_rank(), self.dial.trouble),
            },
            (None, _) => Cause::Silent { rank: self.previous_rank(), detail: came.clone() },
            (Some(_), _) => Cause::Silent { rank: self.next_rank(), detail: self.dial.trouble.clone() },
        }
    }

    /// Ends the wait when a rank that is linked already has failed.
    fn watch_links(&mut self) -> Result<(), Cause> {
        let ranks = [self.previous_rank(), self.next_rank()];
        for (link, rank) in [&mut self.previous, &mut self.next].into_iter().zip(ranks) {
            if let Some(cause) = link.as_ref().and_then(|stream| last_words(stream, rank)) {
                *link = None;
                return Err(cause);
            }
        }
        self.next_is_quiet = self.next.as_ref().is_some_and(|stream| stream.peek(&mut [0]).is_err());
        Ok(())
    }

    fn sleep(&self) -> std::io::Result<()> {
        let deadline = self.began + self.timeout;
        let until = [self.door.until(), self.dial.until()].into_iter().flatten().fold(deadline, Instant::min);
        let mut fds = vec![self.alarm.waker.poll_fd()];
        fds.extend(self.door.poll_fds());
        fds.extend(self.dial.poll_fd());
        let news = if self.next_is_quiet { PollFlags::IN } else { PollFlags::empty() };
        fds.extend(self.previous.as_ref().map(|stream| PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::RDHUP)));
        fds.extend(self.next.as_ref().map(|stream| PollFd::from_borrowed_fd(stream.as_fd(), news | PollFlags::RDHUP)));
        socket::wait(&mut fds, until.saturating_duration_since(Instant::now()))
    }
}

/// Looks, without taking anything, for the end of a link's stream or an abort in it.
fn last_words(stream: &TcpStream, rank: usize) -> Option<Cause> {
    let mut buffer = [0; 2048];
    let lost = |detail: String| Some(Cause::Lost { rank, detail });
    // Asked first: whatever came before the end is then there to be looked at.
    let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::RDHUP)];
    let ended = socket::wait(&mut fds, Duration::ZERO).is_err() || fds.iter().any(|fd| !fd.revents().is_empty());
    let count = match stream.peek(&mut buffer) {
        Ok(0) => return lost("it closed the connection".into()),
        Ok(count) => count,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return None,
        Err(error) => return lost(error.to_string()),
    };
    let mut rest = buffer.get(..count)?;
    // Before the ring is closed, a peer sends no more than its rendezvous: a few short frames.
    while let Ok(Some((frame, length))) = Frame::parse(rest) {
        let payload = match frame {
            Frame::Abort(cause) => return Some(cause),
            Frame::Data { length } => length,
            _ => 0,
        };
        rest = rest.get(length + payload..).unwrap_or_default();
    }
    if ended { lost("it closed the connection".into()) } else { None }
}
