//! A rank's part of the group: its links, and all its operations in flight.
//!
//! # Turns
//! Whoever holds the engine makes it [`turn`](Engine::turn): it sends and receives on every link as far as that goes, and
//! never blocks. Between turns [`doze`](Engine::doze) says what to wait for.
//!
//! # Order
//! Each link has a queue of lanes to send and one of lanes to receive, in the order in which the operations were started.
//! A lane begins with an announcement, which must be that of the peer's lane; so operations that differ are found where
//! they meet. Links do not wait for each other, unless a plan says so.
//!
//! # Failing
//! The first [`Cause`] ends everything: it becomes this rank's error, and all operations fail with it. Telling the others
//! is the [control thread](super::control)'s business. A link that ends without a farewell is suspicious, but the news
//! of why may be on its way through the control links; only when none has come within [`GRACE`] is the peer lost.

mod port;
mod receive;

use super::flow::Flow;
use super::link::{Link, Moved};
use super::plan::Seat;
use super::stream::Handle;
use crate::cause::{Cause, Moment};
use crate::error::Error;
use crate::operation::{Kind, Operation};
use crate::record::{Record, RecordState, Recorder};
use port::Port;
use rustix::event::PollFlags;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The most that is moved on a link before the other links and directions have their turn: what was written into shared
/// memory should be read before it has left the cache.
const SLICE: usize = 256 * 1024;

/// How long the control links may take to tell why a link has ended.
const GRACE: Duration = Duration::from_millis(200);

/// What the engine asks of whoever drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Operation `sequence` has waited for so long that it should be told whom for.
    Stalled { sequence: u64 },
    /// Nothing has moved for the operation timeout.
    Deadline { sequence: u64 },
}

pub(super) struct Engine {
    seat: Seat,
    endpoints: Vec<String>,
    channels: usize,
    /// One per peer and channel, peer by peer; none for this rank itself.
    ports: Vec<Option<Port>>,
    flows: BTreeMap<u64, Flow>,
    next_flow: u64,
    /// The number of the last collective operation that was started; 0 is the rendezvous.
    sequence: u64,
    /// The numbers of the last sends to and receives from each rank.
    transfers: Vec<[u64; 2]>,
    recorder: Recorder,
    timeout: Duration,
    stall_warning: Duration,
    /// A stall or deadline of the current wait has been reported.
    stalled: bool,
    asked: bool,
    /// A link has ended without a farewell.
    suspicion: Option<(Cause, Instant)>,
    /// Somebody must turn the engine even when nobody waits.
    pub(super) attended: bool,
    /// Set once: the error of this rank.
    failure: Arc<OnceLock<Error>>,
    /// Set with it, unless the rank has left in order.
    pub(super) cause: Option<Cause>,
}

/// How a group is to be run.
pub(super) struct Settings {
    pub(super) seat: Seat,
    pub(super) endpoints: Vec<String>,
    pub(super) channels: usize,
    pub(super) timeout: Duration,
    pub(super) stall_warning: Duration,
}

/// A link to wait on.
pub(super) struct Watch {
    pub(super) port: usize,
    pub(super) flags: PollFlags,
}

impl Engine {
    /// `links`: one per peer and channel, peer by peer; none for this rank itself.
    pub(super) fn new(settings: Settings, links: Vec<Option<Link>>, failure: Arc<OnceLock<Error>>) -> Engine {
        let Settings { seat, endpoints, channels, timeout, stall_warning } = settings;
        Engine {
            seat,
            endpoints,
            channels,
            ports: links
                .into_iter()
                .enumerate()
                .map(|(index, link)| link.map(|link| Port::new(link, index / channels)))
                .collect(),
            flows: BTreeMap::new(),
            next_flow: 0,
            // The first start is the rendezvous.
            sequence: u64::MAX,
            transfers: vec![[0; 2]; seat.size],
            recorder: Recorder::new(),
            timeout,
            stall_warning,
            stalled: false,
            asked: false,
            suspicion: None,
            attended: false,
            failure,
            cause: None,
        }
    }

    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// The last collective operation that was started.
    pub(super) fn started(&self) -> u64 {
        self.sequence
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.recorder.records()
    }

    /// The file descriptors of all links, in the order of the ports.
    pub(super) fn handles(&self) -> Vec<Option<Handle>> {
        self.ports.iter().map(|port| port.as_ref().map(|port| port.link.handle())).collect()
    }

    /// Takes an operation in.
    pub(super) fn start(&mut self, mut flow: Flow) {
        let transfer = match flow.operation.kind {
            Kind::Transfer { from, to } if from as usize == self.seat.rank => Some((to, 0)),
            Kind::Transfer { from, .. } => Some((from, 1)),
            _ => None,
        };
        let counter = match transfer {
            Some((peer, direction)) => self.transfers.get_mut(peer as usize).and_then(|pair| pair.get_mut(direction)),
            None => Some(&mut self.sequence),
        };
        if let Some(counter) = counter {
            *counter = counter.wrapping_add(1);
            flow.sequence = *counter;
        }
        flow.ticket = self.recorder.begin(flow.sequence, flow.operation, flow.operation.bytes());
        if let Some(error) = self.failure.get() {
            self.recorder.end(flow.ticket, RecordState::Failed);
            return flow.fail(error.clone());
        }
        if flow.is_over() {
            self.recorder.end(flow.ticket, RecordState::Finished);
            return flow.finish();
        }
        self.attended |= !flow.is_selfish();
        let id = self.next_flow;
        self.next_flow += 1;
        for (index, lane) in flow.lanes().iter().enumerate() {
            if let Some(port) = self.ports.get_mut(lane.peer * self.channels + lane.channel).and_then(Option::as_mut) {
                if lane.sends() {
                    port.outgoing.push_back((id, index));
                }
                if lane.receives() {
                    port.incoming.push_back((id, index));
                }
            }
        }
        for port in self.ports.iter_mut().flatten() {
            port.paused = false;
        }
        self.flows.insert(id, flow);
    }

    /// Moves what can be moved, up to about `budget` bytes. Returns what was moved: bytes and announcements.
    pub(super) fn turn(&mut self, budget: usize) -> usize {
        if self.failure.get().is_some() {
            return 0;
        }
        self.advance(budget).unwrap_or_else(|cause| {
            self.fail(cause);
            0
        })
    }

    fn advance(&mut self, budget: usize) -> Result<usize, Cause> {
        let mut spent = 0;
        loop {
            let mut moved = 0;
            for index in 0..self.ports.len() {
                moved += self.send(index)? + self.receive(index)?;
            }
            spent += moved;
            if moved == 0 || spent >= budget {
                break;
            }
        }
        if self.ports.iter().flatten().any(Port::has_unsent) {
            // Somebody waits for these bytes, even if nobody waits for the operation here.
            self.attended = true;
        } else if self.flows.is_empty() {
            self.attended = false;
        }
        if let Some((cause, since)) = &self.suspicion
            && since.elapsed() >= GRACE
        {
            return Err(cause.clone());
        }
        Ok(spent)
    }

    /// Sends about a slice on a port. Returns what went out: bytes, and one for each announcement.
    fn send(&mut self, index: usize) -> Result<usize, Cause> {
        let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut) else { return Ok(0) };
        if port.link.backlog()
            && let Err(error) = port.link.flush()
        {
            let detail = error.to_string();
            self.lost(index, &detail);
            return Ok(0);
        }
        let mut moved = self.pop_sent(index);
        let Some(mut port) = self.ports.get_mut(index).and_then(Option::as_mut) else { return Ok(0) };
        if port.left && !(port.outgoing.is_empty() && port.incoming.is_empty()) {
            // Its farewell was its last word.
            return Err(left(port.peer));
        }
        while moved < SLICE && !port.gone {
            let lane = port.outgoing.front().copied();
            let flow = lane.and_then(|(id, lane)| Some((self.flows.get_mut(&id)?, lane)));
            let payload = match flow {
                Some((flow, lane)) => {
                    if flow.announce(lane, &mut port.head) {
                        moved += 1;
                    }
                    flow.outlet(lane, SLICE)
                }
                None => &[],
            };
            if payload.is_empty() && port.head.is_empty() {
                break;
            }
            match port.link.write(port.head.rest(), payload) {
                Ok(Moved::Bytes(count)) => {
                    port.full = false;
                    let taken = port.head.advance(count);
                    moved += taken;
                    if let Some((flow, lane)) = lane.and_then(|(id, lane)| Some((self.flows.get_mut(&id)?, lane))) {
                        flow.sent(lane, taken);
                    }
                }
                Ok(Moved::Later | Moved::End) => {
                    port.full = true;
                    break;
                }
                Err(error) => {
                    let detail = error.to_string();
                    self.lost(index, &detail);
                    break;
                }
            }
            moved += self.pop_sent(index);
            let Some(again) = self.ports.get_mut(index).and_then(Option::as_mut) else { break };
            port = again;
        }
        Ok(moved)
    }

    /// Takes the lanes off a port's queue that are sent, to the last byte that the kernel or the shared memory must take.
    /// Returns how many.
    fn pop_sent(&mut self, index: usize) -> usize {
        let mut popped = 0;
        while let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut)
            && port.head.is_empty()
            && !port.link.backlog()
            && let Some((id, lane)) = port.outgoing.front().copied()
            && let Some(flow) = self.flows.get_mut(&id)
            && flow.all_sent(lane)
        {
            port.outgoing.pop_front();
            popped += 1;
            if flow.close_side() {
                self.finish(id);
            }
        }
        popped
    }

    /// Keeps the promise of a flow that is through.
    fn finish(&mut self, id: u64) {
        if let Some(flow) = self.flows.remove(&id) {
            // The next of its kind has its turn now, and its deadline from now.
            let transfer = flow.operation.is_transfer();
            self.flows.values_mut().filter(|other| other.operation.is_transfer() == transfer).for_each(Flow::touch);
            if !transfer {
                self.stalled = false;
                self.asked = false;
            }
            self.recorder.end(flow.ticket, RecordState::Finished);
            flow.finish();
        }
    }

    /// A link has ended. If the peer has said farewell before, that is in order, until it is needed again.
    fn lost(&mut self, index: usize, detail: &str) {
        let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut) else { return };
        let rank = port.peer;
        port.gone = true;
        if !port.left && self.suspicion.is_none() {
            self.attended = true;
            self.suspicion = Some((Cause::Lost { rank, detail: detail.to_owned() }, Instant::now()));
        }
    }

    /// The operation that is waited for: the first collective one, or the first transfer where there is no other. Others
    /// have their turn after it.
    fn front(&self) -> Option<&Flow> {
        self.flows.values().find(|flow| !flow.operation.is_transfer()).or_else(|| self.flows.values().next())
    }

    /// What is overdue and has not been told yet.
    pub(super) fn overdue(&mut self) -> Option<Overdue> {
        if self.failure.get().is_some() || !self.attended {
            return None;
        }
        let (waited, sequence) = self.front().map(|flow| (flow.touched.elapsed(), flow.sequence))?;
        if waited < self.stall_warning.min(self.timeout) {
            self.stalled = false;
            self.asked = false;
        } else if waited >= self.timeout && !self.asked {
            self.asked = true;
            return Some(Overdue::Deadline { sequence });
        } else if waited >= self.stall_warning && !self.stalled {
            self.stalled = true;
            return Some(Overdue::Stalled { sequence });
        }
        None
    }

    /// The number and kind of the operation that is waited for, and the rank whose bytes it waits for.
    pub(super) fn waiting(&self) -> Option<(u64, Operation, Option<usize>)> {
        self.front().map(|flow| (flow.sequence, flow.operation, flow.awaited()))
    }

    /// Prepares to sleep: what to wait for, and until when. None when there is something to do now.
    pub(super) fn doze(&mut self) -> Option<(Vec<Watch>, Instant)> {
        let never = Instant::now() + Duration::from_secs(3600);
        let over = self.failure.get().is_some();
        if !self.attended && !over {
            return Some((Vec::new(), never));
        }
        let mut watches = Vec::new();
        for (index, port) in self.ports.iter_mut().enumerate() {
            let Some(port) = port.as_mut().filter(|port| !port.gone) else { continue };
            let (reading, writing) = if over { (false, port.full) } else { (!port.gated && !port.paused, port.full) };
            if over && !writing || port.ending && !reading {
                // Nothing to be learned that would not keep the poll awake.
                continue;
            }
            // An error shows itself in the next turn.
            if !port.link.sleep(reading, writing).unwrap_or(false) {
                return None;
            }
            watches.push(Watch { port: index, flags: port.link.interest(reading, writing) });
        }
        let mut until = never;
        if let Some(flow) = self.front().filter(|_| !over) {
            let (warning, deadline) = (flow.touched + self.stall_warning, flow.touched + self.timeout);
            until = match (self.stalled, self.asked) {
                // The control thread finds out whom to blame, and fails the group.
                (_, true) => never,
                (true, false) => deadline,
                (false, false) => warning.min(deadline),
            };
        }
        if let Some((_, since)) = self.suspicion.as_ref().filter(|_| !over) {
            until = until.min(*since + GRACE);
        }
        Some((watches, until))
    }

    /// Takes note of what the poll said of a port.
    pub(super) fn ready(&mut self, index: usize, events: PollFlags) {
        let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut) else { return };
        if events.intersects(PollFlags::OUT | gone) {
            port.full = false;
        }
        port.readable |= events.intersects(PollFlags::IN | gone);
        port.ending |= events.intersects(gone);
    }

    /// Fails everything. The first cause stays.
    pub(super) fn fail(&mut self, cause: Cause) {
        if self.failure.get().is_some() {
            return;
        }
        let front = self.flows.first_key_value().map(|(_, flow)| flow);
        let moment = Moment {
            operation: front.map_or_else(|| "no operation".into(), |flow| flow.operation.to_string()),
            sequence: front.map_or(self.sequence, |flow| flow.sequence),
            elapsed: front.map_or(Duration::ZERO, |flow| flow.started.elapsed()),
        };
        let error = cause.error(&moment, &self.endpoints);
        log::warn!("rank {}: {error}", self.seat.rank);
        self.cause = Some(cause);
        let _ = self.failure.set(error.clone());
        for (_, flow) in std::mem::take(&mut self.flows) {
            self.recorder.end(flow.ticket, RecordState::Failed);
            flow.fail(error.clone());
        }
        for port in self.ports.iter_mut().flatten() {
            port.outgoing.clear();
            port.incoming.clear();
            // A piece of an announcement may have gone out; nothing may follow it. The links stay open until the
            // communicator is dropped: their end would be noticed before the reason.
            port.head.clear();
        }
    }

    /// Begins to say farewell on every link, unless the group has failed, or there is something to fail. False then.
    pub(super) fn leave(&mut self) -> bool {
        if !self.flows.is_empty() {
            let reason = "its communicator was dropped with operations in flight".into();
            self.fail(Cause::Aborted { rank: self.seat.rank, reason });
        }
        // Later calls cannot come: the communicator is gone.
        if self.failure.set(Error::invalid("the communicator has left its group")).is_err() {
            return false;
        }
        for port in self.ports.iter_mut().flatten() {
            port.head.push(&super::frame::Frame::Farewell);
        }
        true
    }

    /// Writes the last words and ends the links, and swallows what still comes so that peers are not stuck in sending.
    /// True when all is said.
    pub(super) fn say_farewell(&mut self) -> bool {
        for port in self.ports.iter_mut().flatten().filter(|port| !port.gone) {
            while !port.head.is_empty() {
                match port.link.write(port.head.rest(), &[]) {
                    Ok(Moved::Bytes(count)) => {
                        port.head.advance(count);
                    }
                    Ok(Moved::Later | Moved::End) => break,
                    Err(_) => port.head.clear(),
                }
            }
            // That it fails shows in the reading.
            let _ = port.link.flush();
            port.full = port.has_unsent();
            if !port.full && !port.ended {
                port.ended = true;
                port.link.end();
            }
            port.gone = port.link.discard();
        }
        !self.ports.iter().flatten().any(Port::has_unsent)
    }
}

fn left(rank: usize) -> Cause {
    Cause::Lost { rank, detail: "it has left the group".into() }
}
