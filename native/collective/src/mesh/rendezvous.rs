//! Forming a rank's links: it connects to some ranks and accepts the others, all at once, on the caller's thread, and
//! nothing that strangers do keeps it from that.
//!
//! # Who connects to whom
//! Rank r connects to the ranks in the half of the circle after it, and is connected to by the other half; of two ranks
//! that are opposite, the lower connects. The control links form a ring: each rank connects to the next, and two ranks
//! share one. A rank that is gone refuses connections; whoever waits for one to connect [knocks](Dial::knocking) at its
//! door now and then, to notice that too.
//!
//! When the deadline passes, the error names a rank that has not come. Links that were made by then are told, so that
//! their ranks name the same one.

use super::dial::{Dial, Hopeless};
use super::door::Door;
use super::frame::Frame;
use super::handshake::{CONTROL, Claim};
use super::link::{Link, Moved};
use super::plan::Seat;
use super::socket;
use super::stream::Handle;
use super::tls::Identity;
use super::waker::Waker;
use crate::abort::{Abort, Aborter};
use crate::cause::{Cause, Moment};
use crate::connect::{Endpoint, Listener, Options};
use crate::error::Error;
use crate::lock;
use rustix::event::{PollFd, PollFlags};
use std::net::ToSocketAddrs;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often links through shared memory are looked at: they cannot be polled before the group stands.
const LOOK: Duration = Duration::from_millis(50);

/// How long other links may take to tell why a link has ended.
const GRACE: Duration = Duration::from_millis(200);

/// More than a peer says before the group stands.
const MANY: usize = 64 * 1024;

/// A rank's links.
pub(super) struct Links {
    /// One per peer and channel, peer by peer; none for the rank itself.
    pub(super) data: Vec<Option<Link>>,
    /// The links to the next and to the previous rank; one link where two ranks are all.
    pub(super) control: Vec<(usize, Link)>,
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

/// Makes all links. `waker` is what peers wake where memory is shared.
pub(super) fn meet(
    listener: Listener,
    roster: &[Endpoint],
    options: &Options,
    aborter: &Aborter,
    waker: &Arc<Waker>,
) -> Result<Links, Error> {
    let alarm = Arc::new(Alarm { waker: Arc::clone(waker), reason: Mutex::new(None) });
    aborter.notify(&alarm);
    let mut meeting = Meeting::new(listener, roster, options, alarm)?;
    let Failed { cause, error } = match meeting.run() {
        Ok(()) => return Ok(meeting.links()),
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
    for place in &mut meeting.places {
        if let Some(link) = &mut place.link {
            // A fresh link has room for these bytes; if it is gone, its rank knows already.
            let _ = link.write(&bytes, &[]);
            link.end();
        }
    }
    Err(error)
}

/// Wakes the rendezvous when the aborter is used.
struct Alarm {
    waker: Arc<Waker>,
    reason: Mutex<Option<String>>,
}

impl Abort for Alarm {
    fn abort(&self, reason: &str) {
        *lock(&self.reason) = Some(reason.to_owned());
        self.waker.wake();
    }
}

/// A link that is to be made.
struct Place {
    peer: usize,
    channel: u32,
    dial: Option<Dial>,
    /// Watches a peer that is to connect, until it has.
    knock: Option<Dial>,
    link: Option<Link>,
    /// Since when the link has been seen to have ended, and how that showed.
    ended: Option<(Instant, String)>,
}

struct Meeting {
    seat: Seat,
    channels: usize,
    began: Instant,
    timeout: Duration,
    alarm: Arc<Alarm>,
    door: Door,
    places: Vec<Place>,
    /// The place of each claim at the door.
    expected: Vec<usize>,
    endpoints: Vec<String>,
}

/// Whether `from` connects to `to`, of two ranks among `size`.
fn connects(from: usize, to: usize, size: usize) -> bool {
    let (ahead, behind) = ((to + size - from) % size, (from + size - to) % size);
    ahead < behind || (ahead == behind && from < to)
}

impl Meeting {
    fn new(listener: Listener, roster: &[Endpoint], options: &Options, alarm: Arc<Alarm>) -> Result<Meeting, Error> {
        let seat = Seat { rank: options.rank, size: roster.len() };
        let channels = options.sockets_per_link;
        // The roster's length was checked to fit.
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let claim = |from: usize, to: usize, channel: u32| Claim {
            run: options.run.clone(),
            attempt: options.attempt,
            world: number(seat.size),
            from: number(from),
            to: number(to),
            channel,
        };
        let began = Instant::now();
        let mine = roster.get(seat.rank).cloned().unwrap_or_default();
        let (mut places, mut claims, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        let (next, previous) = ((seat.rank + 1) % seat.size, (seat.rank + seat.size - 1) % seat.size);
        let data = (0..seat.size).filter(|peer| *peer != seat.rank).flat_map(|peer| {
            (0..channels).map(move |channel| (peer, number(channel), connects(seat.rank, peer, seat.size)))
        });
        let mut control = vec![(next, CONTROL, seat.size > 2 || seat.rank == 0)];
        if seat.size > 2 {
            control.push((previous, CONTROL, false));
        }
        for (peer, channel, dials) in data.chain(control) {
            let mut place = Place { peer, channel, dial: None, knock: None, link: None, ended: None };
            let there = claim(seat.rank, peer, channel);
            let dial = |claim| dial(roster, &mine, peer, claim, options, &alarm.waker, listener.identity.as_ref());
            if dials {
                place.dial = Some(dial(there)?);
            } else {
                claims.push(claim(peer, seat.rank, channel));
                expected.push(places.len());
                if channel == 0 {
                    // Over TCP, as for a control link: a local socket that is gone looks like one that never was.
                    place.knock = Some(dial(Claim { channel: CONTROL, ..there })?.knocking());
                }
            }
            places.push(place);
        }
        let Listener { socket, local, identity, .. } = listener;
        let mut door = Door::new(socket, local, Arc::clone(&alarm.waker), options.secret.clone(), claims);
        if let Some(identity) = identity {
            door = door.encrypted(identity, roster.iter().map(|endpoint| endpoint.certificate.clone()).collect());
        }
        Ok(Meeting {
            seat,
            channels,
            began,
            timeout: options.rendezvous_timeout,
            alarm,
            door,
            places,
            expected,
            endpoints: roster.iter().map(Endpoint::to_string).collect(),
        })
    }

    fn run(&mut self) -> Result<(), Box<Failed>> {
        let broken = |rank: usize, error: Error| {
            Box::new(Failed { cause: Cause::Broken { rank, detail: error.to_string() }, error: Some(error) })
        };
        let rank = self.seat.rank;
        loop {
            if let Some(reason) = lock(&self.alarm.reason).take() {
                return Err(Cause::Aborted { rank, reason }.into());
            }
            for place in &mut self.places {
                if place.link.is_some() {
                    place.knock = None;
                }
                let Some(dial) = place.dial.as_mut().or(place.knock.as_mut()) else { continue };
                match dial.step() {
                    Ok(None) => {}
                    Ok(link) => place.link = link,
                    Err(Hopeless::Gone(detail)) => return Err(Cause::Lost { rank: place.peer, detail }.into()),
                    Err(Hopeless::Own(error)) => return Err(broken(rank, *error)),
                    Err(Hopeless::Refused(reason)) => {
                        let endpoint = self.endpoints.get(place.peer).cloned().unwrap_or_default();
                        return Err(broken(rank, Error::Refused { rank: place.peer, endpoint, reason }));
                    }
                }
            }
            for (claim, link) in self.door.step() {
                let place = self.expected.get(claim).and_then(|place| self.places.get_mut(*place));
                // If a rank has come twice, its first connection broke on its side.
                if let Some(place) = place {
                    place.link = Some(link);
                    place.ended = None;
                }
            }
            self.watch_links().map_err(Box::<Failed>::from)?;
            if self.places.iter().all(|place| place.link.is_some() && place.ended.is_none()) {
                return Ok(());
            }
            if self.began.elapsed() >= self.timeout {
                return Err(self.too_late().into());
            }
            self.sleep().map_err(|error| broken(rank, Error::io("waiting for the other ranks", error)))?;
        }
    }

    /// The deadline has passed: names who is missing. Of several, the one that misses most links here.
    fn too_late(&self) -> Cause {
        let missing = || self.places.iter().filter(|place| place.link.is_none());
        let count = |peer: usize| missing().filter(|place| place.peer == peer).count();
        // The next rank may only be waiting for somebody else to answer this one's control link.
        let Some(place) = missing().max_by_key(|place| count(place.peer)) else {
            return Cause::Silent { rank: self.seat.rank, detail: "it was complete too late".into() };
        };
        let trouble = place.dial.as_ref().map_or(&self.door.trouble, |dial| &dial.trouble);
        let mut ranks: Vec<usize> = missing().map(|place| place.peer).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let names: Vec<String> = ranks.iter().map(usize::to_string).collect();
        let detail =
            if ranks.len() > 1 { format!("{trouble} (missing: rank {})", names.join(", ")) } else { trouble.clone() };
        Cause::Silent { rank: place.peer, detail }
    }

    /// Ends the wait when a rank that is linked already has failed. One that ends without a word may have been told of a
    /// failure that is on its way here as well, on another link: only after [`GRACE`] is it the one to blame.
    fn watch_links(&mut self) -> Result<(), Cause> {
        for place in &mut self.places {
            match place.link.as_mut().filter(|_| place.ended.is_none()).and_then(last_words) {
                None => {}
                Some(LastWords::Abort(cause)) => return Err(cause),
                Some(LastWords::End(detail)) => place.ended = Some((Instant::now(), detail)),
            }
        }
        let mut ended = self.places.iter().filter_map(|place| Some((place.peer, place.ended.as_ref()?)));
        match ended.find(|(_, (since, _))| since.elapsed() >= GRACE) {
            Some((rank, (_, detail))) => Err(Cause::Lost { rank, detail: detail.clone() }),
            None => Ok(()),
        }
    }

    fn sleep(&self) -> std::io::Result<()> {
        let deadline = self.began + self.timeout;
        let dials = || self.places.iter().filter_map(|place| place.dial.as_ref().or(place.knock.as_ref()));
        let grace = self.places.iter().filter_map(|place| Some(place.ended.as_ref()?.0 + GRACE));
        let until = dials().filter_map(Dial::until).chain(self.door.until()).chain(grace).fold(deadline, Instant::min);
        let mut watches = self.door.watches();
        watches.extend(dials().filter_map(Dial::watch));
        // The poll would go on telling of an end.
        let links = || self.places.iter().filter(|place| place.ended.is_none()).filter_map(|place| place.link.as_ref());
        watches.extend(links().map(|link| (link.handle(), link.interest(true, false))));
        let sharing = links().any(|link| matches!(link, Link::Shared(_)));
        let mut fds = vec![self.alarm.waker.poll_fd()];
        fds.extend(
            watches
                .iter()
                .map(|(handle, flags): &(Handle, PollFlags)| PollFd::from_borrowed_fd(handle.as_fd(), *flags)),
        );
        let left = until.saturating_duration_since(Instant::now());
        socket::wait(&mut fds, if sharing { left.min(LOOK) } else { left })?;
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            self.alarm.waker.clear();
        }
        Ok(())
    }

    fn links(self) -> Links {
        let mut data: Vec<Option<Link>> = (0..self.seat.size * self.channels).map(|_| None).collect();
        let mut control = Vec::new();
        for Place { peer, channel, link, .. } in self.places {
            let Some(link) = link else { continue };
            if channel == CONTROL {
                control.push((peer, link));
            } else if let Some(place) = data.get_mut(peer * self.channels + channel as usize) {
                *place = Some(link);
            }
        }
        Links { data, control }
    }
}

/// The connection to be made to `peer`.
fn dial(
    roster: &[Endpoint],
    mine: &Endpoint,
    peer: usize,
    claim: Claim,
    options: &Options,
    waker: &Arc<Waker>,
    identity: Option<&Identity>,
) -> Result<Dial, Error> {
    let theirs = roster.get(peer).cloned().unwrap_or_default();
    let addresses = (theirs.host.as_str(), theirs.port)
        .to_socket_addrs()
        .map_err(|error| Error::io(format!("resolving rank {peer}'s host \"{}\"", theirs.host), error))?
        .collect();
    let same = !mine.machine.is_empty() && mine.machine == theirs.machine;
    let sharing = options.shared_memory && same && claim.channel != CONTROL && !theirs.door.is_empty();
    let door = sharing.then_some(theirs.door);
    let dial = Dial::new(addresses, door, Arc::clone(waker), options.secret.clone(), claim);
    Ok(match identity {
        Some(identity) => dial.encrypted(identity.clone(), theirs.certificate),
        None => dial,
    })
}

enum LastWords {
    Abort(Cause),
    /// None, and how the end showed.
    End(String),
}

/// Looks, without taking anything, for the end of a link or an abort in it.
fn last_words(link: &mut Link) -> Option<LastWords> {
    let ended = loop {
        match link.fill(0) {
            Ok(Moved::Bytes(_)) if link.held().len() < MANY => {}
            Ok(Moved::Bytes(_)) => break None,
            Ok(Moved::Later) => break link.deserted().then(|| "its process has ended".to_owned()),
            Ok(Moved::End) => break Some("it closed the connection".to_owned()),
            Err(error) => break Some(error.to_string()),
        }
    };
    let mut rest = link.held();
    // Before the group stands, a peer sends no more than a few short frames.
    while let Ok(Some((frame, length))) = Frame::parse(rest) {
        if let Frame::Abort(cause) = frame {
            return Some(LastWords::Abort(cause));
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    ended.map(LastWords::End)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_any_two_ranks_one_connects_and_every_rank_connects_to_the_next() {
        for size in 2..=9 {
            for from in 0..size {
                for to in (0..size).filter(|to| *to != from) {
                    assert!(connects(from, to, size) != connects(to, from, size), "{from} {to} {size}");
                }
                assert!(size == 2 || connects(from, (from + 1) % size, size));
            }
        }
    }
}
