//! What an operation moves, as a plan that is fixed before the first byte: for each link a list of blocks to send and a
//! list of blocks to receive, in order. No memory and no sockets here.
//!
//! # Algorithms, in steps and bytes
//! S is the buffer's length, n the number of ranks, r this rank, indices modulo n.
//!
//! - **Ring** (large all-reduce): block j sent to r + 1 is chunk r - j, block j received from r - 1 is chunk r - 1 - j.
//!   In the first n - 1 blocks what comes is folded into the own chunk, so that chunk c becomes x_c + x_(c+1) + …; the
//!   other n - 1 carry finished chunks and overwrite. A rank may send of block j + 1 what it has received of block j, and
//!   that is the only dependency. A byte is overwritten only after it was sent: what overwrites it was computed from it.
//!   2 (n - 1) / n · S each way. With several channels each carries its part of every chunk. Blocks are cut into
//!   segments, and the segments of successive blocks travel close behind each other ([`LAG`]): what was folded is sent on,
//!   and what was sent is overwritten, while it is still in a core's cache.
//! - **Whole** (small all-reduce): every rank sends its contribution to all, everybody adds them up in the same order.
//!   One step, (n - 1) S each way.
//! - **Scatter** (reduce-scatter): every rank sends chunk c to rank c, which folds them in the order c + 1, c + 2, …:
//!   of rank c + k's bytes only those that rank c + k - 1's have been folded into. One step, (n - 1) / n · S each way.
//! - **Gather** (all-gather): every rank sends its chunk to all. One step, (n - 1) / n · S each way.
//! - **Chain** (broadcast): from the root around, as one stream. S.
//! - **Exchange** (all-to-all): chunk c to rank c, and what comes replaces it; a byte is overwritten only after it was
//!   sent. (n - 1) / n · S each way.
//! - **Meeting** (barrier): no bytes; the operation's announcement is the message.

use crate::operation::{chunk, chunk_range};
use std::ops::Range;

/// The longest segment of a ring's block, in bytes.
const SEGMENT: usize = 128 * 1024;

/// How many segments of a block travel before the first of the next block: that one must have come, been folded and be
/// there to be sent by then, or the link would stand still.
const LAG: usize = 2;

/// Where a rank stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) rank: usize,
    pub(super) size: usize,
}

impl Seat {
    fn after(self, steps: usize) -> usize {
        (self.rank + steps) % self.size
    }

    fn before(self, steps: usize) -> usize {
        (self.rank + 2 * self.size - steps % self.size) % self.size
    }

    fn others(self) -> impl Iterator<Item = usize> {
        (1..self.size).map(move |steps| self.after(steps))
    }
}

/// What becomes of received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// They replace what is there.
    Store,
    /// They are the left operand: what is there becomes bytes ∘ it.
    FoldLeft { last: bool },
    /// They are the right operand: what is there becomes it ∘ bytes.
    FoldRight { last: bool },
}

/// How far a block may go: as far as another has gone, which has the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// What was received of that lane's block.
    Received {
        lane: usize,
        block: usize,
    },
    /// What was sent of that lane's block.
    Sent {
        lane: usize,
        block: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Bytes of the operation's memory.
    pub(super) range: Range<usize>,
    pub(super) act: Act,
    pub(super) gate: Gate,
}

impl Block {
    fn open(range: Range<usize>) -> Block {
        Block { range, act: Act::Store, gate: Gate::Open }
    }
}

/// One link's part of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) peer: usize,
    pub(super) channel: usize,
    /// None: nothing is sent, not even the announcement. Likewise for what is received.
    pub(super) out: Option<Vec<Block>>,
    pub(super) into: Option<Vec<Block>>,
}

impl Route {
    fn both(peer: usize, out: Vec<Block>, into: Vec<Block>) -> Route {
        Route { peer, channel: 0, out: Some(out), into: Some(into) }
    }
}

/// The elements of an operation's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elements {
    pub(super) count: usize,
    /// Bytes of each.
    pub(super) size: usize,
}

impl Elements {
    fn chunk(self, seat: Seat, number: usize) -> Range<usize> {
        chunk_range(self.count, self.size, seat.size, number)
    }

    fn all(self) -> Range<usize> {
        0..self.count * self.size
    }

    /// A segment of the part of a chunk that a channel carries.
    fn segment(self, seat: Seat, number: usize, cut: Cut, channel: usize, segment: usize) -> Range<usize> {
        let whole = chunk(self.count, seat.size, number);
        let part = chunk(whole.len(), cut.channels, channel);
        let segment = chunk(part.len(), cut.segments, segment);
        let start = whole.start + part.start;
        (start + segment.start) * self.size..(start + segment.end) * self.size
    }
}

/// How a ring cuts chunks, alike on all ranks.
#[derive(Clone, Copy)]
struct Cut {
    channels: usize,
    segments: usize,
}

pub(super) fn ring(seat: Seat, elements: Elements, channels: usize) -> Vec<Route> {
    let Seat { rank, size } = seat;
    let blocks = 2 * size - 2;
    // The first part of the first chunk is the longest of all.
    let longest = elements.count.div_ceil(size).div_ceil(channels) * elements.size;
    let cut = Cut { channels, segments: longest.div_ceil(SEGMENT).max(1) };
    // The order in which the segments of all blocks travel: segment s of block j in round s + LAG j.
    let mut order: Vec<(usize, usize)> =
        (0..cut.segments).flat_map(|segment| (0..blocks).map(move |block| (block, segment))).collect();
    order.sort_unstable_by_key(|(block, segment)| (segment + LAG * block, *block));
    let mut places = vec![0; order.len()];
    for (place, (block, segment)) in order.iter().enumerate() {
        if let Some(slot) = places.get_mut(block * cut.segments + segment) {
            *slot = place;
        }
    }
    let item = |base: usize, block: usize| (base + 2 * size - block) % size;
    let mut routes = Vec::new();
    for channel in 0..channels {
        let range = |item: usize, segment: usize| elements.segment(seat, item, cut, channel, segment);
        // Where two ranks are the whole ring, one link is both.
        let receiving = if size == 2 { channel } else { 2 * channel + 1 };
        let before = |block: usize, segment: usize| match block.checked_sub(1) {
            None => Gate::Open,
            Some(block) => Gate::Received {
                lane: receiving,
                block: places.get(block * cut.segments + segment).copied().unwrap_or(usize::MAX),
            },
        };
        let out = order.iter().map(|&(block, segment)| Block {
            range: range(item(rank, block), segment),
            act: Act::Store,
            gate: before(block, segment),
        });
        let into = order.iter().map(|&(block, segment)| Block {
            range: range(item(rank + size - 1, block), segment),
            act: if block + 1 < size { Act::FoldLeft { last: block + 2 == size } } else { Act::Store },
            gate: Gate::Open,
        });
        let (out, into) = (Some(out.collect()), Some(into.collect()));
        if size == 2 {
            routes.push(Route { peer: seat.after(1), channel, out, into });
        } else {
            routes.push(Route { peer: seat.after(1), channel, out, into: None });
            routes.push(Route { peer: seat.before(1), channel, out: None, into });
        }
    }
    routes
}

/// `each` bytes of every rank, one after the other in rank order.
pub(super) fn whole(seat: Seat, each: usize) -> Vec<Route> {
    let item = |rank: usize| vec![Block::open(rank * each..(rank + 1) * each)];
    seat.others().map(|peer| Route::both(peer, item(seat.rank), item(peer))).collect()
}

pub(super) fn scatter(seat: Seat, elements: Elements) -> Vec<Route> {
    let own = elements.chunk(seat, seat.rank);
    let into = |lane: usize| Block {
        range: own.clone(),
        act: Act::FoldRight { last: lane + 2 == seat.size },
        gate: lane.checked_sub(1).map_or(Gate::Open, |lane| Gate::Received { lane, block: 0 }),
    };
    let route = |(lane, peer): (usize, usize)| {
        Route::both(peer, vec![Block::open(elements.chunk(seat, peer))], vec![into(lane)])
    };
    seat.others().enumerate().map(route).collect()
}

pub(super) fn gather(seat: Seat, elements: Elements) -> Vec<Route> {
    let item = |rank: usize| vec![Block::open(elements.chunk(seat, rank))];
    seat.others().map(|peer| Route::both(peer, item(seat.rank), item(peer))).collect()
}

pub(super) fn exchange(seat: Seat, elements: Elements) -> Vec<Route> {
    let route = |(lane, peer): (usize, usize)| {
        let range = elements.chunk(seat, peer);
        let into = Block { range: range.clone(), act: Act::Store, gate: Gate::Sent { lane, block: 0 } };
        Route::both(peer, vec![Block::open(range)], vec![into])
    };
    seat.others().enumerate().map(route).collect()
}

pub(super) fn chain(seat: Seat, elements: Elements, root: usize) -> Vec<Route> {
    let mut routes = Vec::new();
    let (first, last) = (seat.rank == root, seat.after(1) == root);
    if !first {
        let into = Some(vec![Block::open(elements.all())]);
        routes.push(Route { peer: seat.before(1), channel: 0, out: None, into });
    }
    if !last {
        let gate = if first { Gate::Open } else { Gate::Received { lane: 0, block: 0 } };
        let out = Some(vec![Block { gate, ..Block::open(elements.all()) }]);
        routes.push(Route { peer: seat.after(1), channel: 0, out, into: None });
    }
    routes
}

pub(super) fn send(elements: Elements, to: usize) -> Vec<Route> {
    vec![Route { peer: to, channel: 0, out: Some(vec![Block::open(elements.all())]), into: None }]
}

pub(super) fn receive(elements: Elements, from: usize) -> Vec<Route> {
    vec![Route { peer: from, channel: 0, out: None, into: Some(vec![Block::open(elements.all())]) }]
}

pub(super) fn meeting(seat: Seat) -> Vec<Route> {
    seat.others().map(|peer| Route::both(peer, Vec::new(), Vec::new())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Planner = fn(Seat, Elements) -> Vec<Route>;

    /// What one rank sends to another over a channel is what the other expects, block by block; and every block that
    /// another one waits for has its length.
    fn agree(name: &str, size: usize, plan: &dyn Fn(Seat) -> Vec<Route>) {
        let plans: Vec<Vec<Route>> = (0..size).map(|rank| plan(Seat { rank, size })).collect();
        for (rank, routes) in plans.iter().enumerate() {
            for route in routes {
                let others: Vec<&Route> = plans[route.peer]
                    .iter()
                    .filter(|other| (other.peer, other.channel) == (rank, route.channel))
                    .collect();
                let into: Vec<&Vec<Block>> = others.iter().filter_map(|other| other.into.as_ref()).collect();
                match &route.out {
                    Some(out) => {
                        assert_eq!(into.len(), 1, "{name} {size}: {rank} to {}", route.peer);
                        let lengths = |blocks: &[Block]| blocks.iter().map(|b| b.range.len()).collect::<Vec<_>>();
                        assert_eq!(lengths(out), lengths(into[0]), "{name} {size}: {rank} to {}", route.peer);
                    }
                    None => assert!(into.is_empty()),
                }
                for block in route.out.iter().chain(&route.into).flatten() {
                    let other = match block.gate {
                        Gate::Open => continue,
                        Gate::Received { lane, block } => &routes[lane].into.as_ref().unwrap()[block],
                        Gate::Sent { lane, block } => &routes[lane].out.as_ref().unwrap()[block],
                    };
                    assert_eq!(other.range.len(), block.range.len(), "{name} {size}: {rank}");
                }
            }
        }
    }

    #[test]
    fn what_a_rank_sends_is_what_its_peer_expects() {
        let planners: [(&str, Planner); 3] = [("scatter", scatter), ("gather", gather), ("exchange", exchange)];
        for size in 2..=9 {
            for count in [0, 1, size - 1, size, 1000, 1001, 300_001] {
                let elements = Elements { count, size: 4 };
                for channels in 1..=3 {
                    agree("ring", size, &|seat| ring(seat, elements, channels));
                }
                for (name, planner) in planners {
                    let count = if name == "exchange" { count / size * size } else { count };
                    agree(name, size, &|seat| planner(seat, Elements { count, ..elements }));
                }
                for root in 0..size {
                    agree("chain", size, &|seat| chain(seat, elements, root));
                }
                agree("whole", size, &|seat| whole(seat, count));
                agree("meeting", size, &meeting);
            }
        }
    }

    #[test]
    fn a_ring_moves_no_more_than_it_must() {
        for size in 2..=9 {
            let elements = Elements { count: 1000 * size, size: 4 };
            for rank in 0..size {
                let routes = ring(Seat { rank, size }, elements, 2);
                let sent: usize = routes.iter().flat_map(|r| r.out.iter().flatten()).map(|b| b.range.len()).sum();
                assert_eq!(sent, 2 * (size - 1) * 1000 * 4);
            }
        }
    }
}
