//! A rank's part of the ring: all its operations in flight, its two links, and what ends them.
//!
//! # Turns
//! Whoever holds the ring makes it [`turn`](Ring::turn): it sends and receives as far as the sockets allow, and never
//! blocks. Between turns [`interest`](Ring::interest) says what to wait for. Operations are sent and received strictly
//! in order, but sending may be ahead of receiving by whole operations.
//!
//! # Failing
//! The first [`Cause`] ends everything: it becomes this rank's error, all operations fail with it, and it is told to
//! both neighbours in an abort frame (after the rest of the data frame that is half sent), followed by the end of the
//! stream. Each neighbour fails with the same cause and tells its own, so the news runs round the ring both ways, and
//! everybody blames the same rank. An end without abort or farewell is the death of the neighbour itself.

mod ending;
mod receive;
mod silence;

use super::flow::Flow;
use super::frame::{Frame, SEGMENT};
use super::link::{Inbound, Moved, Outbound};
use crate::cause::Cause;
use crate::error::Error;
use rustix::event::PollFlags;
use silence::Probe;
use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What a ring waits for: readiness of its two sockets, and a moment at which to look at the clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interest {
    pub(super) inbound: Option<PollFlags>,
    pub(super) outbound: Option<PollFlags>,
    pub(super) until: Instant,
}

impl Interest {
    /// True when whoever waits for `self` will notice what `other` waits for.
    pub(super) fn covers(&self, other: &Interest) -> bool {
        let flags = |flags: Option<PollFlags>| flags.unwrap_or(PollFlags::empty());
        flags(self.inbound).contains(flags(other.inbound))
            && flags(self.outbound).contains(flags(other.outbound))
            && self.until <= other.until
    }
}

pub(super) struct Ring {
    rank: usize,
    size: usize,
    endpoints: Vec<String>,
    inbound: Inbound,
    outbound: Outbound,
    /// Operations in flight, in order.
    flows: VecDeque<Flow>,
    /// The first flow that has something to send, and the first that has something to receive.
    sending: usize,
    receiving: usize,
    next_sequence: u64,
    timeout: Duration,
    /// When something last moved.
    active: Instant,
    probe: Option<Probe>,
    /// Answers to the next rank's probes, to go out between two frames.
    replies: Vec<Frame>,
    /// Set once: the error of this rank.
    failure: Arc<OnceLock<Error>>,
    /// What the sleeping progress thread waits for.
    pub(super) slept_on: Option<Interest>,
}

impl Ring {
    pub(super) fn new(
        (rank, endpoints): (usize, Vec<String>),
        previous: Arc<TcpStream>,
        next: Arc<TcpStream>,
        timeout: Duration,
        failure: Arc<OnceLock<Error>>,
    ) -> Ring {
        Ring {
            rank,
            size: endpoints.len(),
            endpoints,
            inbound: Inbound::new(previous),
            outbound: Outbound::new(next),
            flows: VecDeque::new(),
            sending: 0,
            receiving: 0,
            next_sequence: 0,
            timeout,
            active: Instant::now(),
            probe: None,
            replies: Vec::new(),
            failure,
            slept_on: None,
        }
    }

    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    fn previous(&self) -> usize {
        (self.rank + self.size - 1) % self.size
    }

    fn next(&self) -> usize {
        (self.rank + 1) % self.size
    }

    /// Takes an operation in.
    pub(super) fn start(&mut self, mut flow: Flow) {
        if let Some(error) = self.failure.get() {
            return flow.fail(error.clone());
        }
        flow.sequence = self.next_sequence;
        self.next_sequence += 1;
        if self.flows.is_empty() {
            self.active = Instant::now();
        }
        self.flows.push_back(flow);
        self.inbound.paused = false;
        self.inbound.ending = false;
    }

    /// Moves what can be moved, up to about `budget` bytes. True when there is more to move at once.
    pub(super) fn turn(&mut self, budget: usize) -> bool {
        if self.failure.get().is_none() {
            match self.advance(budget) {
                Ok(more) => return more,
                Err(cause) => self.fail(cause),
            }
        } else {
            self.wind_down();
        }
        false
    }

    fn advance(&mut self, budget: usize) -> Result<bool, Cause> {
        if std::mem::take(&mut self.outbound.readable) {
            self.hear()?;
        }
        self.needs_nobody_who_left()?;
        let mut spent = 0;
        while spent < budget {
            let moved = self.send()? + self.receive()?;
            if moved == 0 {
                break;
            }
            spent += moved;
        }
        if spent > 0 {
            self.active = Instant::now();
            self.probe = None;
        }
        self.needs_nobody_who_left()?;
        self.watch()?;
        let more = spent >= budget;
        // A rank that always finds something to move never polls, and must hear of an abort all the same.
        self.outbound.readable |= more && !self.outbound.closed;
        Ok(more)
    }

    /// Sends about one segment. Returns the payload bytes and operations that went out.
    fn send(&mut self) -> Result<usize, Cause> {
        let mut moved = 0;
        while moved < SEGMENT {
            if self.outbound.between_frames() && !self.begin_frame(&mut moved) {
                break;
            }
            let payload = match self.flows.get_mut(self.sending) {
                Some(flow) if self.outbound.left > 0 => flow.outlet(self.outbound.left),
                _ => &[],
            };
            match self.outbound.write(payload) {
                Ok(Moved::Bytes(count)) => {
                    moved += count;
                    if let Some(flow) = self.flows.get_mut(self.sending).filter(|_| count > 0) {
                        flow.sent(count);
                    }
                    self.settle();
                }
                Ok(Moved::Later | Moved::End) => break,
                Err(error) => return Err(self.next_lost(&error.to_string())),
            }
        }
        Ok(moved)
    }

    /// Queues the frames that can begin now. False when there is none.
    fn begin_frame(&mut self, moved: &mut usize) -> bool {
        for reply in self.replies.drain(..) {
            self.outbound.head.push(&reply);
        }
        if let Some(flow) = self.flows.get_mut(self.sending) {
            if !flow.announced {
                flow.announced = true;
                self.outbound.head.push(&Frame::Operation { sequence: flow.sequence, operation: flow.operation });
                *moved += 1;
            }
            let length = flow.sendable();
            if length > 0 {
                self.outbound.head.push(&Frame::Data { length });
                self.outbound.left = length;
            }
        }
        !self.outbound.between_frames()
    }

    /// Moves on to the next flows, and keeps the promises of those that are over.
    fn settle(&mut self) {
        while self.outbound.left == 0 && self.flows.get(self.sending).is_some_and(Flow::all_sent) {
            self.sending += 1;
        }
        while self.inbound.left == 0 && self.flows.get(self.receiving).is_some_and(Flow::all_received) {
            self.receiving += 1;
        }
        while self.sending > 0 && self.receiving > 0 {
            let Some(flow) = self.flows.pop_front() else { return };
            self.sending -= 1;
            self.receiving -= 1;
            flow.finish();
        }
    }

    fn protocol(&self, rank: usize, what: &str) -> Cause {
        Cause::Lost { rank, detail: format!("it broke the protocol: {what}") }
    }

    /// A neighbour that has left in order is a loss only when it is still needed.
    fn needs_nobody_who_left(&self) -> Result<(), Cause> {
        if self.outbound.left_group && self.sending < self.flows.len() {
            return Err(left(self.next()));
        }
        if self.inbound.left_group && self.receiving < self.flows.len() {
            return Err(left(self.previous()));
        }
        Ok(())
    }

    /// What the next turn waits for.
    pub(super) fn interest(&self) -> Interest {
        let now = Instant::now();
        let failed = self.failure.get().is_some();
        let mut inbound = PollFlags::empty();
        if !self.inbound.closed && !self.inbound.ending {
            // Also a rank that wants nothing to read learns that its neighbour is gone.
            inbound |= if self.inbound.paused && !failed { PollFlags::RDHUP } else { PollFlags::IN | PollFlags::RDHUP };
        }
        if !self.inbound.back.is_empty() {
            inbound |= PollFlags::OUT;
        }
        let mut outbound = PollFlags::empty();
        if !self.outbound.closed {
            outbound |= PollFlags::IN | PollFlags::RDHUP;
        }
        if self.outbound.full || (failed && !self.outbound.head.is_empty()) {
            outbound |= PollFlags::OUT;
        }
        let idle = now + self.timeout / 2;
        let until = match &self.probe {
            _ if self.flows.is_empty() => idle,
            Some(probe) => probe.until,
            // An operation started meanwhile has its deadline later than half a timeout from now.
            None => (self.active + self.timeout).min(idle),
        };
        let some = |flags: PollFlags| (!flags.is_empty()).then_some(flags);
        Interest { inbound: some(inbound), outbound: some(outbound), until }
    }

    /// Takes note of what the poll said.
    pub(super) fn ready(&mut self, inbound: PollFlags, outbound: PollFlags) {
        let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        if self.inbound.paused && self.failure.get().is_none() {
            self.inbound.ending |= inbound.intersects(gone);
        } else {
            self.inbound.readable |= inbound.intersects(gone | PollFlags::IN);
        }
        self.outbound.readable |= outbound.intersects(gone | PollFlags::IN);
        if outbound.intersects(PollFlags::OUT) {
            self.outbound.full = false;
        }
        if inbound.intersects(PollFlags::OUT) && self.failure.get().is_none() {
            self.write_back();
        }
    }
}

fn left(rank: usize) -> Cause {
    Cause::Lost { rank, detail: "it has left the group".into() }
}
