//! The control links: a ring of connections apart from the data, with a thread of their own on each rank.
//!
//! The thread has nothing to do but this, so it answers whatever the rank's caller is busy with:
//! - It says every heartbeat that the process is alive, to both neighbours, and gives a neighbour up that has been silent
//!   for several of them. So a rank that computes for minutes is not taken for dead, and a stopped one is.
//! - A neighbour whose connection ends without a farewell has died.
//! - It tells both neighbours why the group has failed, and passes on what they tell. The news runs round the ring both
//!   ways, and everybody blames the same rank.
//! - It carries the [census](super::census) that finds out whom a long wait is for.

use super::census::{Census, Purpose};
use super::frame::Frame;
use super::link::{Link, Moved, Pending};
use super::plan::Seat;
use super::progress::Core;
use super::socket;
use super::waker::Waker;
use crate::cause::Cause;
use crate::lock;
use rustix::event::{PollFd, PollFlags};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a living rank may take to say that it has heard a census. Its control thread has nothing else to do, but may
/// have to wait for a core.
const ATTENTION: Duration = Duration::from_secs(1);

/// How long leaving waits until the neighbours have taken the last words.
const FAREWELL: Duration = Duration::from_secs(1);

/// What others ask of the control thread.
pub(super) struct Desk {
    pub(super) waker: Waker,
    requests: Mutex<Requests>,
}

#[derive(Default)]
struct Requests {
    census: Option<(Purpose, u64)>,
    leave: bool,
}

impl Desk {
    pub(super) fn new() -> std::io::Result<Desk> {
        Ok(Desk { waker: Waker::new()?, requests: Mutex::default() })
    }

    /// Asks who has not started operation `sequence`.
    pub(super) fn ask(&self, purpose: Purpose, sequence: u64) {
        lock(&self.requests).census = Some((purpose, sequence));
        self.waker.wake();
    }

    /// Tells the thread to take leave of the neighbours and end.
    pub(super) fn leave(&self) {
        lock(&self.requests).leave = true;
        self.waker.wake();
    }
}

/// The connection to one neighbour.
struct Side {
    rank: usize,
    link: Link,
    out: Pending,
    /// When something last came. Before the first word: when the rendezvous is over at the latest.
    heard: Instant,
    /// It has said farewell.
    left: bool,
    gone: bool,
}

pub(super) struct Control<'a> {
    core: &'a Core,
    seat: Seat,
    /// The next rank, then the previous one; one side where two ranks are all.
    sides: Vec<Side>,
    heartbeat: Duration,
    patience: Duration,
    next_beat: Instant,
    /// Until when the next rank should have heard a census.
    unheard: Option<Instant>,
    /// This rank's own census, and until when it should have come back. It does not where a rank of the ring has left,
    /// which is in order for one that needs nobody any more.
    asked: Option<(Purpose, u64, Instant)>,
    /// The failure has been told to the neighbours.
    told: bool,
}

impl<'a> Control<'a> {
    /// `begun`: when the neighbours have begun to speak at the latest.
    pub(super) fn new(
        core: &'a Core,
        seat: Seat,
        links: Vec<(usize, Link)>,
        heartbeat: Duration,
        missed: u32,
        begun: Instant,
    ) -> Control<'a> {
        let side = |(rank, link)| Side { rank, link, out: Pending::default(), heard: begun, left: false, gone: false };
        Control {
            core,
            seat,
            sides: links.into_iter().map(side).collect(),
            heartbeat,
            patience: heartbeat.saturating_mul(missed.max(1)),
            next_beat: Instant::now(),
            unheard: None,
            asked: None,
            told: false,
        }
    }

    /// The thread. Ends when it is told to leave.
    pub(super) fn run(mut self) {
        loop {
            self.tell();
            let (census, leave) = {
                let mut requests = lock(&self.core.desk.requests);
                (requests.census.take(), requests.leave)
            };
            if leave {
                return self.leave();
            }
            if let Some((purpose, sequence)) = census {
                self.begin(purpose, sequence);
            }
            for index in 0..self.sides.len() {
                if let Err(cause) = self.hear(index) {
                    self.core.fail(cause);
                }
            }
            self.tell();
            self.beat();
            self.judge();
            self.flush();
            let answer = self.asked.map(|(_, _, until)| until);
            let until = self.unheard.into_iter().chain(answer).fold(self.next_beat, Instant::min);
            self.sleep(until, true);
            let late = Instant::now().saturating_duration_since(until);
            if late > self.heartbeat {
                // This thread was kept from its work, so it has heard nobody: that is not their fault.
                self.sides.iter_mut().for_each(|side| side.heard += late);
            }
        }
    }

    /// Tells the neighbours why the group has failed, once.
    fn tell(&mut self) {
        if self.told {
            return;
        }
        if let Some(cause) = self.core.cause() {
            self.told = true;
            self.say(&Frame::Abort(cause));
            self.flush();
            self.core.write_records();
        }
    }

    fn say(&mut self, frame: &Frame) {
        self.sides.iter_mut().filter(|side| !side.gone).for_each(|side| side.out.push(frame));
    }

    fn beat(&mut self) {
        let now = Instant::now();
        if now >= self.next_beat {
            self.next_beat = now + self.heartbeat;
            self.say(&Frame::Heartbeat);
        }
    }

    /// Gives up who has been silent for too long.
    fn judge(&mut self) {
        if self.told {
            // No answer matters any more, and a deadline that has passed would keep this thread from sleeping.
            self.unheard = None;
            self.asked = None;
            return;
        }
        let now = Instant::now();
        if self.core.complete.load(Ordering::SeqCst) {
            // From now on everybody is expected to give signs of life.
            self.sides.iter_mut().for_each(|side| side.heard = side.heard.min(now));
        }
        let silent =
            |side: &&Side| !side.left && !side.gone && now.saturating_duration_since(side.heard) > self.patience;
        if let Some(side) = self.sides.iter().find(silent) {
            let detail = format!("it has given no sign of life for {:.1} s", self.patience.as_secs_f64());
            return self.core.fail(Cause::Silent { rank: side.rank, detail });
        }
        if self.unheard.is_some_and(|unheard| now > unheard) {
            self.unheard = None;
            if let Some(next) = self.sides.first().filter(|next| !next.left) {
                self.core.fail(Cause::Silent { rank: next.rank, detail: "it does not answer".into() });
            }
        }
        if let Some((purpose, sequence, _)) = self.asked.take_if(|(_, _, until)| now >= *until)
            && let Err(cause) = self.settle(purpose, sequence, None)
        {
            self.core.fail(cause);
        }
    }

    /// Reads what a neighbour has to say.
    fn hear(&mut self, index: usize) -> Result<(), Cause> {
        'again: loop {
            let Some(side) = self.sides.get_mut(index).filter(|side| !side.gone) else { return Ok(()) };
            let rank = side.rank;
            let protocol = |what: String| Cause::Lost { rank, detail: format!("it broke the protocol: {what}") };
            while let Some((frame, length)) = Frame::parse(side.link.held()).map_err(protocol)? {
                side.link.consume(length);
                side.heard = Instant::now();
                match frame {
                    Frame::Heartbeat => {}
                    Frame::Abort(cause) => return Err(cause),
                    Frame::Farewell => side.left = true,
                    Frame::Heard => self.unheard = None,
                    Frame::Census(census) if census.origin as usize >= self.seat.size => {
                        // It would go round and round.
                        return Err(protocol(format!("rank {} asks, and there is none", census.origin)));
                    }
                    Frame::Census(census) => {
                        side.out.push(&Frame::Heard);
                        self.pass_on(census)?;
                        continue 'again;
                    }
                    Frame::Operation { .. } => return Err(protocol("payload on a control link".into())),
                }
            }
            let detail = match side.link.fill(0) {
                Ok(Moved::Bytes(_)) => continue,
                Ok(Moved::Later) => return Ok(()),
                Ok(Moved::End) => "its process has ended".to_owned(),
                Err(error) => error.to_string(),
            };
            side.gone = true;
            return if side.left { Ok(()) } else { Err(Cause::Lost { rank, detail }) };
        }
    }

    fn begin(&mut self, purpose: Purpose, sequence: u64) {
        let origin = u32::try_from(self.seat.rank).unwrap_or(u32::MAX);
        // Whoever takes longer than that to pass it on is given up by the rank before.
        let attention = ATTENTION.saturating_mul(u32::try_from(self.seat.size).unwrap_or(u32::MAX));
        let gap = self.sides.first().is_none_or(|next| next.left || next.gone);
        self.asked = Some((purpose, sequence, Instant::now() + if gap { Duration::ZERO } else { attention }));
        self.send_on(Census { origin, purpose, sequence, behind: Vec::new() });
    }

    fn send_on(&mut self, census: Census) {
        if census.purpose == Purpose::Deadline {
            // A question that is only asked for the log fails nobody.
            self.unheard = Some(Instant::now() + ATTENTION);
        }
        if let Some(next) = self.sides.first_mut() {
            next.out.push(&Frame::Census(census));
        }
    }

    /// A census has come: this rank's own is complete, another's is completed and sent on.
    fn pass_on(&mut self, mut census: Census) -> Result<(), Cause> {
        if census.origin as usize == self.seat.rank {
            // The answer to an earlier question leaves a later one open.
            let answered = (census.purpose, census.sequence);
            self.asked.take_if(|(purpose, sequence, _)| (*purpose, *sequence) == answered);
            return self.settle(census.purpose, census.sequence, Some(&census));
        }
        // The rendezvous is operation 0, so a rank that is in it has started one.
        let started = self.core.started.load(Ordering::SeqCst);
        if started <= census.sequence {
            census.behind.push((u32::try_from(self.seat.rank).unwrap_or(u32::MAX), started));
        }
        self.send_on(census);
        Ok(())
    }

    /// Judges this rank's wait by its census, or without one that could not come round.
    fn settle(&self, purpose: Purpose, sequence: u64, census: Option<&Census>) -> Result<(), Cause> {
        let Some((operation, awaited)) = self.core.waiting(sequence) else { return Ok(()) };
        let verdict = census.and_then(Census::verdict).or_else(|| {
            // All have started it, so bytes are missing; or nobody knows.
            let detail = match census {
                Some(_) => "it has started the operation, but its bytes do not come",
                None => "its bytes do not come, and a rank that has left keeps the others from being asked",
            };
            awaited.map(|rank| (rank, detail.to_owned()))
        });
        let Some((rank, detail)) = verdict else { return Ok(()) };
        match purpose {
            Purpose::Stall => {
                let mine = self.seat.rank;
                log::warn!("rank {mine} waits for rank {rank} in {operation} (operation {sequence}): {detail}");
                Ok(())
            }
            Purpose::Deadline => Err(Cause::Silent { rank, detail }),
        }
    }

    fn flush(&mut self) {
        for side in self.sides.iter_mut().filter(|side| !side.gone) {
            // That it fails shows in the reading.
            let _ = side.link.flush();
            while !side.out.is_empty() {
                match side.link.write(side.out.rest(), &[]) {
                    Ok(Moved::Bytes(count)) => {
                        side.out.advance(count);
                    }
                    Ok(Moved::Later | Moved::End) => break,
                    // Reading will tell that the neighbour is gone, and its last words first.
                    Err(_) => side.out.clear(),
                }
            }
        }
    }

    /// Waits until `until`, for what is to be written, and, if `reading`, for what neighbours say.
    fn sleep(&self, until: Instant, reading: bool) {
        let handles: Vec<_> = self
            .sides
            .iter()
            .filter(|side| !side.gone)
            .map(|side| (side.link.handle(), side.link.interest(reading, !side.out.is_empty())))
            .map(|(handle, flags)| (handle, if reading { flags } else { flags & PollFlags::OUT }))
            .collect();
        let mut fds = vec![self.core.desk.waker.poll_fd()];
        fds.extend(handles.iter().map(|(handle, flags)| PollFd::from_borrowed_fd(handle.as_fd(), *flags)));
        let atmost = until.saturating_duration_since(Instant::now());
        if let Err(error) = socket::wait(&mut fds, atmost) {
            // Nothing but a lack of kernel memory; without a wait nobody hears of failures.
            let detail = format!("waiting for its neighbours: {error}");
            self.core.fail(Cause::Broken { rank: self.seat.rank, detail });
            std::thread::sleep(self.heartbeat.min(Duration::from_millis(100)));
        }
        if fds.first().is_some_and(|fd| fd.revents().contains(PollFlags::IN)) {
            self.core.desk.waker.clear();
        }
    }

    /// Says farewell, or why the group has failed, and stays until the neighbours have taken it. Bounded.
    fn leave(mut self) {
        self.tell();
        if !self.told {
            self.say(&Frame::Farewell);
        }
        let until = Instant::now() + FAREWELL;
        loop {
            self.flush();
            let spoken = self.sides.iter().all(|side| side.gone || (side.out.is_empty() && !side.link.backlog()));
            if spoken || Instant::now() >= until {
                break;
            }
            self.sleep(until, false);
        }
        for side in &mut self.sides {
            side.link.end();
        }
    }
}
