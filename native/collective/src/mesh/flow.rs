//! One operation on its way: its memory, its [plan](super::plan), and how far each link has got. No sockets here.
//!
//! A *lane* is one link's part. Its outgoing side begins with the announcement of the operation, its incoming side with
//! the peer's; then come the blocks, with nothing between them.

use super::link::Pending;
use super::plan::{self, Act, Block, Elements, Gate, Route, Seat};
use super::promise::Promise;
use super::sums;
use crate::buffer::Buffer;
use crate::operation::{Kind, Operation, Wire};
use crate::transport::LONGEST_PART;
use crate::wire;
use std::time::Instant;

/// All-reduces of up to so many bytes over all ranks go as whole contributions. Measured on loopback: with 2 ranks that
/// is faster up to 128 KiB each, with 4 ranks up to 64 KiB.
const SMALL: usize = 256 * 1024;

/// What may be sent is allowed to gather until it is so much, unless the block ends.
const WINDOW: usize = 32 * 1024;

/// How much is rounded at once for a narrow wire.
const PACK: usize = 64 * 1024;

/// Length prefix of a gathered part.
const PREFIX: usize = 8;

pub(super) struct Flow {
    pub(super) operation: Operation,
    pub(super) sequence: u64,
    /// The flight recorder's.
    pub(super) ticket: u64,
    pub(super) started: Instant,
    /// When its bytes last moved, or it came to be the next in order.
    pub(super) touched: Instant,
    size: usize,
    body: Body,
    lanes: Vec<Lane>,
    /// Sides of lanes that are not through.
    open: usize,
}

enum Body {
    /// Works on the buffer itself.
    Place { buffer: Buffer, promise: Promise<Buffer> },
    /// Collects all ranks' contributions, `each` bytes as they travel, and adds them up in the end.
    Whole { buffer: Buffer, items: Vec<u8>, each: usize, promise: Promise<Buffer> },
    /// Collects all ranks' bytes of any length; `rank` is this one.
    Parts { rank: usize, parts: Vec<Part>, promise: Promise<Vec<Vec<u8>>> },
}

#[derive(Default)]
struct Part {
    prefix: [u8; PREFIX],
    bytes: Vec<u8>,
}

pub(super) struct Lane {
    pub(super) peer: usize,
    pub(super) channel: usize,
    out: Option<Side>,
    into: Option<Side>,
    /// Elements of the current outgoing block in their narrow form, from the wire's byte `packed_from` on.
    packed: Vec<u8>,
    packed_from: usize,
}

impl Lane {
    pub(super) fn sends(&self) -> bool {
        self.out.is_some()
    }

    pub(super) fn receives(&self) -> bool {
        self.into.is_some()
    }
}

#[derive(Default)]
struct Side {
    blocks: Vec<Block>,
    block: usize,
    offset: usize,
    /// The announcement has been made, or the peer's has come.
    met: bool,
}

/// What became of bytes that were offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Bytes(usize),
    /// Another lane must go on first.
    Gated,
    /// It takes more bytes than these to go on.
    Short,
}

impl Flow {
    fn new(operation: Operation, size: usize, body: Body, routes: Vec<Route>) -> Flow {
        let side = |blocks: Vec<Block>| Side { blocks, ..Side::default() };
        let lane = |route: Route| Lane {
            peer: route.peer,
            channel: route.channel,
            out: route.out.map(side),
            into: route.into.map(side),
            packed: Vec::new(),
            packed_from: 0,
        };
        let lanes: Vec<Lane> = routes.into_iter().map(lane).collect();
        let open = lanes.iter().map(|lane| usize::from(lane.out.is_some()) + usize::from(lane.into.is_some())).sum();
        Flow {
            operation,
            sequence: 0,
            ticket: 0,
            started: Instant::now(),
            touched: Instant::now(),
            size,
            body,
            lanes,
            open,
        }
    }

    /// Any operation that gives a buffer back.
    pub(super) fn of(
        operation: Operation,
        mut buffer: Buffer,
        seat: Seat,
        channels: usize,
        promise: Promise<Buffer>,
    ) -> Flow {
        // The operation was made from the buffer, so its number of elements fits.
        let count = usize::try_from(operation.elements).unwrap_or(0);
        let elements = Elements { count, size: operation.dtype.size() };
        let routes = match operation.kind {
            Kind::AllReduce(_) => {
                let each = if operation.wire == Wire::Full { count * elements.size } else { count * wire::NARROW };
                if each.saturating_mul(seat.size) <= SMALL {
                    let items = sums::contribution(operation.wire, buffer.bytes(), each, seat);
                    let body = Body::Whole { buffer, items, each, promise };
                    return Flow::new(operation, seat.size, body, plan::whole(seat, each));
                }
                plan::ring(seat, elements, channels)
            }
            Kind::ReduceScatter(_) => plan::scatter(seat, elements),
            Kind::AllGather => plan::gather(seat, elements),
            Kind::Broadcast { root } => plan::chain(seat, elements, root as usize),
            Kind::AllToAll => plan::exchange(seat, elements),
            Kind::Transfer { from, to } if from as usize == seat.rank => plan::send(elements, to as usize),
            Kind::Transfer { from, .. } => plan::receive(elements, from as usize),
            Kind::Barrier | Kind::Rendezvous | Kind::AllGatherBytes => plan::meeting(seat),
        };
        Flow::new(operation, seat.size, Body::Place { buffer, promise }, routes)
    }

    pub(super) fn gather_bytes(
        operation: Operation,
        bytes: Vec<u8>,
        seat: Seat,
        promise: Promise<Vec<Vec<u8>>>,
    ) -> Flow {
        let block = |length: usize| Block { range: 0..length, act: Act::Store, gate: Gate::Open };
        let routes = (1..seat.size).map(|steps| Route {
            peer: (seat.rank + steps) % seat.size,
            channel: 0,
            out: Some(vec![block(PREFIX), block(bytes.len())]),
            // The second block is added when the prefix has told its length.
            into: Some(vec![block(PREFIX)]),
        });
        let routes = routes.collect();
        let mut parts: Vec<Part> = (0..seat.size).map(|_| Part::default()).collect();
        if let Some(own) = parts.get_mut(seat.rank) {
            *own = Part { prefix: (bytes.len() as u64).to_le_bytes(), bytes };
        }
        let body = Body::Parts { rank: seat.rank, parts, promise };
        Flow::new(operation, seat.size, body, routes)
    }

    /// Notes that it has gone on.
    pub(super) fn touch(&mut self) {
        self.touched = Instant::now();
    }

    pub(super) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// Whether all is done as soon as this rank has sent its part and read what came: nobody waits for this rank to
    /// pass anything on.
    pub(super) fn is_selfish(&self) -> bool {
        matches!(self.body, Body::Whole { .. } | Body::Parts { .. })
            || matches!(self.operation.kind, Kind::Barrier | Kind::Rendezvous)
    }

    /// Announces the operation on a lane, if that is still to be done.
    pub(super) fn announce(&mut self, lane: usize, head: &mut Pending) -> bool {
        let (sequence, operation) = (self.sequence, self.operation);
        match self.lanes.get_mut(lane).and_then(|lane| lane.out.as_mut()) {
            Some(side) if !side.met => {
                side.met = true;
                head.push(&super::frame::Frame::Operation { sequence, operation });
                self.settle(lane);
                true
            }
            _ => false,
        }
    }

    /// Whether the peer's announcement has come on a lane.
    pub(super) fn confirmed(&self, lane: usize) -> bool {
        self.lanes.get(lane).and_then(|lane| lane.into.as_ref()).is_some_and(|side| side.met)
    }

    /// The peer's announcement has come, and agrees.
    pub(super) fn confirm(&mut self, lane: usize) {
        self.touch();
        if let Some(side) = self.lanes.get_mut(lane).and_then(|lane| lane.into.as_mut()) {
            side.met = true;
        }
        self.settle(lane);
    }

    pub(super) fn all_sent(&self, lane: usize) -> bool {
        self.lanes.get(lane).and_then(|lane| lane.out.as_ref()).is_none_or(Side::through)
    }

    pub(super) fn all_received(&self, lane: usize) -> bool {
        self.lanes.get(lane).and_then(|lane| lane.into.as_ref()).is_none_or(Side::through)
    }

    /// Counts a side of a lane as through. True when it was the last.
    pub(super) fn close_side(&mut self) -> bool {
        self.open = self.open.saturating_sub(1);
        self.open == 0
    }

    /// True when nothing is to be sent or received.
    pub(super) fn is_over(&self) -> bool {
        self.open == 0
    }

    /// The first rank whose bytes this one waits for.
    pub(super) fn awaited(&self) -> Option<usize> {
        let receiving = self.lanes.iter().find(|lane| lane.into.as_ref().is_some_and(|side| !side.through()));
        let sending = || self.lanes.iter().find(|lane| lane.out.as_ref().is_some_and(|side| !side.through()));
        receiving.or_else(sending).map(|lane| lane.peer)
    }

    /// How many bytes are still to come on a lane, as far as is known, and up to `most`.
    pub(super) fn expected(&self, lane: usize, most: usize) -> usize {
        let Some(side) = self.lanes.get(lane).and_then(|lane| lane.into.as_ref()) else { return 0 };
        let mut expected = 0;
        for block in side.blocks.iter().skip(side.block) {
            expected += self.travels(block.range.len());
            if expected >= most {
                break;
            }
        }
        expected.min(most)
    }

    /// The length on the wire of so many bytes of a block.
    fn travels(&self, length: usize) -> usize {
        if self.is_narrow() { length / wire::BROAD * wire::NARROW } else { length }
    }

    /// True where blocks are f32 in memory and 16 bits on the way.
    fn is_narrow(&self) -> bool {
        self.operation.wire != Wire::Full && matches!(self.body, Body::Place { .. })
    }

    /// Moves both sides of a lane past blocks of which nothing is left.
    fn settle(&mut self, lane: usize) {
        let narrow = self.is_narrow();
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        for side in lane.out.iter_mut().chain(&mut lane.into) {
            side.settle(narrow);
        }
    }

    /// How far a gated block may go.
    fn limit(&self, gate: Gate) -> usize {
        let side = |lane: usize, out: bool| {
            self.lanes.get(lane).and_then(|lane| if out { lane.out.as_ref() } else { lane.into.as_ref() })
        };
        match gate {
            Gate::Open => usize::MAX,
            Gate::Received { lane, block } => side(lane, false).map_or(0, |side| side.passed(block)),
            Gate::Sent { lane, block } => side(lane, true).map_or(0, |side| side.passed(block)),
        }
    }

    /// Up to `most` of the next bytes to send; none when there are none, or not yet.
    pub(super) fn outlet(&mut self, lane: usize, most: usize) -> &[u8] {
        let Some(side) = self.lanes.get(lane).and_then(|lane| lane.out.as_ref()) else { return &[] };
        let (index, offset) = (side.block, side.offset);
        let Some(Block { range, gate, .. }) = side.blocks.get(index).filter(|_| side.met) else { return &[] };
        let (range, length) = (range.clone(), self.travels(range.len()));
        let ready = self.limit(*gate).min(length);
        let window = ready.saturating_sub(offset);
        if window < WINDOW && ready < length {
            return &[];
        }
        let count = window.min(most);
        if self.is_narrow() {
            return self.packed(lane, range, offset, count);
        }
        let memory: &[u8] = match &mut self.body {
            Body::Place { buffer, .. } => buffer.bytes(),
            Body::Whole { items, .. } => items,
            Body::Parts { rank, parts, .. } => match parts.get(*rank) {
                Some(part) if index == 0 => &part.prefix,
                Some(part) => &part.bytes,
                None => &[],
            },
        };
        memory.get(range).and_then(|bytes| bytes.get(offset..offset + count)).unwrap_or(&[])
    }

    /// The narrow form of a block's bytes from `offset` on. What was packed and not taken stays packed, because a
    /// connection may take half an element.
    fn packed(&mut self, lane: usize, range: std::ops::Range<usize>, offset: usize, count: usize) -> &[u8] {
        let (Body::Place { buffer, .. }, Some(lane)) = (&mut self.body, self.lanes.get_mut(lane)) else { return &[] };
        let held = lane.packed_from..lane.packed_from + lane.packed.len();
        if !held.contains(&offset) {
            // Received whole elements open the gate, so `count` is whole where it is not cut; packing may go beyond.
            let elements = count.min(PACK) / wire::NARROW;
            let from = range.start + offset / wire::NARROW * wire::BROAD;
            let floats = buffer.bytes().get(from..from + elements * wire::BROAD).unwrap_or(&[]);
            lane.packed.clear();
            lane.packed.resize(elements * wire::NARROW, 0);
            wire::pack(self.operation.wire, floats, &mut lane.packed);
            lane.packed_from = offset;
        }
        lane.packed.get(offset - lane.packed_from..).unwrap_or(&[])
    }

    /// Counts bytes of the outlet as sent.
    pub(super) fn sent(&mut self, lane: usize, count: usize) {
        self.touch();
        if let Some(lane) = self.lanes.get_mut(lane) {
            let block = lane.out.as_ref().map(|side| side.block);
            if let Some(side) = &mut lane.out {
                side.offset += count;
            }
            let narrow = self.operation.wire != Wire::Full && matches!(self.body, Body::Place { .. });
            if let Some(side) = &mut lane.out {
                side.settle(narrow);
            }
            if lane.out.as_ref().map(|side| side.block) != block {
                lane.packed.clear();
            }
        }
    }

    /// Where the next bytes of a lane may be read to as they are; none where they must be offered to [`Flow::take`].
    pub(super) fn target(&mut self, lane: usize) -> Option<&mut [u8]> {
        if self.is_narrow() {
            return None;
        }
        let (peer, side) = self.lanes.get(lane).and_then(|lane| Some((lane.peer, lane.into.as_ref()?)))?;
        let (index, offset) = (side.block, side.offset);
        let Block { range, act, gate } = side.blocks.get(index)?;
        let (range, act, gate) = (range.clone(), *act, *gate);
        let limit = self.limit(gate).min(range.len());
        if act != Act::Store || limit <= offset {
            return None;
        }
        memory(&mut self.body, peer, index)?.get_mut(range)?.get_mut(offset..limit)
    }

    /// Takes what it can of the bytes that have come on a lane. Fails when a gathered part is too long for this machine.
    pub(super) fn take(&mut self, lane: usize, bytes: &[u8]) -> Result<Taken, String> {
        let Some(side) = self.lanes.get(lane).and_then(|lane| lane.into.as_ref()) else { return Ok(Taken::Short) };
        let (index, offset) = (side.block, side.offset);
        let Some(Block { range, act, gate }) = side.blocks.get(index) else { return Ok(Taken::Short) };
        let (range, act, gate) = (range.clone(), *act, *gate);
        let allowed = self.limit(gate).min(self.travels(range.len())).saturating_sub(offset);
        if allowed == 0 {
            return Ok(Taken::Gated);
        }
        let narrow = self.is_narrow();
        let unit = match act {
            _ if narrow => wire::NARROW,
            Act::Store => 1,
            Act::FoldLeft { .. } | Act::FoldRight { .. } => self.operation.dtype.size(),
        };
        let count = bytes.len().min(allowed) / unit * unit;
        let Some(come) = bytes.get(..count).filter(|come| !come.is_empty()) else { return Ok(Taken::Short) };
        let (operation, size) = (self.operation, self.size);
        let Some(peer) = self.lanes.get(lane).map(|lane| lane.peer) else { return Ok(Taken::Short) };
        let broad = |wire: usize| if narrow { wire / wire::NARROW * wire::BROAD } else { wire };
        let kept = memory(&mut self.body, peer, index)
            .and_then(|memory| memory.get_mut(range)?.get_mut(broad(offset)..broad(offset + count)))
            .ok_or("a block lies outside the operation's memory")?;
        sums::apply(operation, act, narrow, kept, come, size);
        self.received(lane, count)?;
        Ok(Taken::Bytes(count))
    }

    /// Counts bytes as received that were read into the target.
    pub(super) fn received(&mut self, lane: usize, count: usize) -> Result<(), String> {
        self.touch();
        let Some((peer, side)) = self.lanes.get_mut(lane).and_then(|lane| Some((lane.peer, lane.into.as_mut()?)))
        else {
            return Ok(());
        };
        side.offset += count;
        if let Body::Parts { parts, .. } = &mut self.body
            && side.block == 0
            && side.offset == PREFIX
            && let Some(part) = parts.get_mut(peer)
        {
            let length = u64::from_le_bytes(part.prefix);
            let usable = usize::try_from(length).ok().filter(|length| *length <= LONGEST_PART);
            let usable = usable.ok_or_else(|| format!("rank {peer} claims {length} bytes to be gathered"))?;
            let reserved = part.bytes.try_reserve_exact(usable);
            reserved.map_err(|error| format!("no memory for {length} gathered bytes of rank {peer}: {error}"))?;
            part.bytes.resize(usable, 0);
            side.blocks.push(Block { range: 0..usable, act: Act::Store, gate: Gate::Open });
        }
        self.settle(lane);
        Ok(())
    }

    /// Keeps the promise; everything was sent and received.
    pub(super) fn finish(self) {
        match self.body {
            Body::Place { buffer, promise } => promise.keep(Ok(buffer)),
            Body::Parts { parts, promise, .. } => promise.keep(Ok(parts.into_iter().map(|part| part.bytes).collect())),
            Body::Whole { mut buffer, items, each, promise } => {
                let Kind::AllReduce(op) = self.operation.kind else { return promise.keep(Ok(buffer)) };
                if self.operation.wire == Wire::Full {
                    sums::add_up(op, self.operation.dtype, &items, each, self.size, buffer.bytes());
                } else {
                    sums::add_up_narrow(op, self.operation.wire, &items, each, self.size, buffer.bytes());
                }
                promise.keep(Ok(buffer));
            }
        }
    }

    /// Breaks the promise. The buffer is dropped before the waiter wakes.
    pub(super) fn fail(self, error: crate::Error) {
        match self.body {
            Body::Place { buffer, promise } | Body::Whole { buffer, promise, .. } => {
                drop(buffer);
                promise.keep(Err(error));
            }
            Body::Parts { promise, .. } => promise.keep(Err(error)),
        }
    }
}

impl Side {
    fn through(&self) -> bool {
        self.met && self.block >= self.blocks.len()
    }

    /// How many bytes of a block have passed.
    fn passed(&self, block: usize) -> usize {
        match self.block.cmp(&block) {
            std::cmp::Ordering::Greater => usize::MAX,
            std::cmp::Ordering::Equal => self.offset,
            std::cmp::Ordering::Less => 0,
        }
    }

    fn settle(&mut self, narrow: bool) {
        let length = |block: &Block| {
            let length = block.range.len();
            if narrow { length / wire::BROAD * wire::NARROW } else { length }
        };
        while self.blocks.get(self.block).is_some_and(|block| self.offset >= length(block)) {
            self.block += 1;
            self.offset = 0;
        }
    }
}

/// The memory that incoming blocks from `peer` lie in.
fn memory(body: &mut Body, peer: usize, block: usize) -> Option<&mut [u8]> {
    match body {
        Body::Place { buffer, .. } => Some(buffer.bytes()),
        Body::Whole { items, .. } => Some(items),
        Body::Parts { parts, .. } => {
            parts.get_mut(peer).map(|part| if block == 0 { &mut part.prefix[..] } else { &mut part.bytes[..] })
        }
    }
}
