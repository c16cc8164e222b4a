//! What every rank has started, compared in the background.
//!
//! Ranks tell each other the operations that they started, with every round of the [watch](super::watch). Each rank
//! compares what it hears with what it did itself: a difference is found within about two rounds, whether NCCL hangs on
//! it (other lengths) or not (sum here, maximum there), and nothing is exchanged on the way to the GPU.
//!
//! Bounded: the last [`KEPT`] operations of each lane can be compared, and a rank tells at most [`TOLD`] per round. A
//! rank that starts more between two rounds leaves the oldest of them unchecked.

use crate::cause::Cause;
use crate::operation::{Kind, Operation};
use std::collections::{HashMap, VecDeque};

const KEPT: usize = 4096;
pub(super) const TOLD: usize = 1024;

/// Operations with an order of their own: those of the group, and the transfers from one rank to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Group,
    Transfer { from: u32, to: u32 },
}

impl Lane {
    pub(super) fn of(operation: &Operation) -> Lane {
        match operation.kind {
            Kind::Transfer { from, to } => Lane::Transfer { from, to },
            _ => Lane::Group,
        }
    }

    fn has(self, rank: usize) -> bool {
        match self {
            Lane::Group => true,
            Lane::Transfer { from, to } => [from, to].iter().any(|end| usize::try_from(*end) == Ok(rank)),
        }
    }
}

/// An operation and its number in its lane.
pub(super) type Entry = (u64, Operation);

pub(super) struct Ledger {
    rank: usize,
    own: HashMap<Lane, VecDeque<Entry>>,
    /// The last number that each rank told, by lane.
    heard: Vec<HashMap<Lane, u64>>,
    /// What a rank told that this one has not reached.
    ahead: Vec<VecDeque<Entry>>,
    /// Own operations to be told in the next round.
    fresh: VecDeque<Entry>,
    /// Ranks that have left the group.
    left: Vec<usize>,
}

impl Ledger {
    pub(super) fn new(rank: usize, size: usize) -> Ledger {
        Ledger {
            rank,
            own: HashMap::new(),
            heard: (0..size).map(|_| HashMap::new()).collect(),
            ahead: (0..size).map(|_| VecDeque::new()).collect(),
            fresh: VecDeque::new(),
            left: Vec::new(),
        }
    }

    /// Notes an operation of this rank and gives its number, or how another rank contradicts it.
    pub(super) fn start(&mut self, operation: Operation) -> Result<u64, Cause> {
        let lane = Lane::of(&operation);
        let sequence = self.latest(lane) + 1;
        push(self.own.entry(lane).or_default(), (sequence, operation), KEPT);
        push(&mut self.fresh, (sequence, operation), TOLD);
        for (peer, ahead) in self.ahead.iter_mut().enumerate() {
            let Some(place) = ahead.iter().position(|(n, theirs)| *n == sequence && Lane::of(theirs) == lane) else {
                continue;
            };
            if let Some((_, theirs)) = ahead.remove(place)
                && theirs != operation
            {
                return Err(difference(sequence, self.rank, operation, peer, theirs));
            }
        }
        Ok(sequence)
    }

    /// The number of this rank's last operation in `lane`.
    pub(super) fn latest(&self, lane: Lane) -> u64 {
        self.own.get(&lane).and_then(VecDeque::back).map_or(0, |(sequence, _)| *sequence)
    }

    /// Notes what `peer` told; or how it contradicts what this rank did.
    pub(super) fn hear(&mut self, peer: usize, (sequence, theirs): Entry) -> Result<(), Cause> {
        let lane = Lane::of(&theirs);
        if peer == self.rank || !lane.has(self.rank) || !lane.has(peer) {
            return Ok(());
        }
        if let Some(heard) = self.heard.get_mut(peer) {
            heard.insert(lane, sequence);
        }
        if sequence > self.latest(lane) {
            if let Some(ahead) = self.ahead.get_mut(peer) {
                push(ahead, (sequence, theirs), KEPT);
            }
            return Ok(());
        }
        let own = self.own.get(&lane).and_then(|own| own.iter().find(|(n, _)| *n == sequence));
        match own {
            Some((_, operation)) if *operation != theirs => {
                Err(difference(sequence, self.rank, *operation, peer, theirs))
            }
            _ => Ok(()),
        }
    }

    /// What is to be told in the next round.
    pub(super) fn take_fresh(&mut self) -> Vec<Entry> {
        self.fresh.drain(..).collect()
    }

    /// Notes that `peer` has left the group. What it started before it has told, and it is over.
    pub(super) fn leave(&mut self, peer: usize) {
        if peer != self.rank && !self.left.contains(&peer) {
            self.left.push(peer);
        }
    }

    pub(super) fn anybody_left(&self) -> bool {
        !self.left.is_empty()
    }

    /// Why operation `sequence` of `lane` can never be: a rank has left without having started it.
    pub(super) fn lost(&self, lane: Lane, sequence: u64) -> Option<Cause> {
        let rank = *self.left.iter().find(|peer| lane.has(**peer) && self.told(**peer, lane) < sequence)?;
        Some(Cause::Lost { rank, detail: "it has left the group".into() })
    }

    /// The last number in `lane` that `peer` told.
    fn told(&self, peer: usize, lane: Lane) -> u64 {
        self.heard.get(peer).and_then(|heard| heard.get(&lane)).copied().unwrap_or(0)
    }

    /// Why operation `sequence` of `lane` is late, as far as the last round knows.
    pub(super) fn late(&self, lane: Lane, sequence: u64) -> Cause {
        let behind: Vec<(usize, u64)> = (0..self.heard.len())
            .filter(|peer| *peer != self.rank && lane.has(*peer))
            .map(|peer| (peer, self.told(peer, lane)))
            .filter(|(_, latest)| *latest < sequence)
            .collect();
        match behind.first() {
            Some((rank, latest)) => {
                let names: Vec<String> = behind.iter().map(|(peer, _)| peer.to_string()).collect();
                let names = names.join(", ");
                let detail = format!("it has not started the operation, its last is {latest} (missing: rank {names})");
                Cause::Silent { rank: *rank, detail }
            }
            // No rank is to blame, but a blame is asked for: the observer names itself.
            None => Cause::Silent {
                rank: self.rank,
                detail: "every rank has started the operation, but its GPU has not finished it; this rank is only the \
                         one that noticed"
                    .into(),
            },
        }
    }
}

fn push(entries: &mut VecDeque<Entry>, entry: Entry, most: usize) {
    if entries.len() >= most {
        entries.pop_front();
    }
    entries.push_back(entry);
}

/// Told in the order of the ranks, so that every rank says the same.
fn difference(sequence: u64, rank: usize, operation: Operation, peer: usize, theirs: Operation) -> Cause {
    let (ranks, operations) =
        if rank < peer { ([rank, peer], [operation, theirs]) } else { ([peer, rank], [theirs, operation]) };
    Cause::Mismatch { sequence, ranks, operations }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::DType;
    use crate::operation::Wire;
    use crate::reduce::ReduceOp;

    fn operation(kind: Kind, elements: u64) -> Operation {
        Operation { kind, dtype: DType::F32, wire: Wire::Full, elements }
    }

    #[test]
    fn a_difference_is_found_whichever_rank_was_first() {
        let (sum, max) = (operation(Kind::AllReduce(ReduceOp::Sum), 8), operation(Kind::AllReduce(ReduceOp::Max), 8));
        let expected = Cause::Mismatch { sequence: 1, ranks: [0, 1], operations: [max, sum] };

        let mut behind = Ledger::new(1, 2);
        behind.hear(0, (1, max)).unwrap();
        assert_eq!(behind.start(sum), Err(expected.clone()));

        let mut before = Ledger::new(1, 2);
        before.start(sum).unwrap();
        assert_eq!(before.hear(0, (1, max)), Err(expected));
    }

    #[test]
    fn transfers_are_counted_apart_and_concern_their_two_ranks_only() {
        let mut ledger = Ledger::new(1, 3);
        let transfer = |from, to, elements| operation(Kind::Transfer { from, to }, elements);
        assert_eq!(ledger.start(operation(Kind::Barrier, 0)), Ok(1));
        assert_eq!(ledger.start(transfer(1, 0, 4)), Ok(1));
        assert_eq!(ledger.start(transfer(0, 1, 4)), Ok(1));
        assert_eq!(ledger.start(transfer(1, 0, 4)), Ok(2));
        ledger.hear(0, (1, transfer(0, 2, 99))).unwrap();
        assert!(matches!(ledger.hear(0, (2, transfer(1, 0, 5))), Err(Cause::Mismatch { sequence: 2, .. })));
    }

    #[test]
    fn the_rank_that_has_not_started_is_the_late_one() {
        let mut ledger = Ledger::new(0, 3);
        let barrier = operation(Kind::Barrier, 0);
        for sequence in 1..=3 {
            assert_eq!(ledger.start(barrier), Ok(sequence));
        }
        for (peer, last) in [(1, 3), (2, 2)] {
            for sequence in 1..=last {
                ledger.hear(peer, (sequence, barrier)).unwrap();
            }
        }
        let Cause::Silent { rank, detail } = ledger.late(Lane::Group, 3) else { panic!() };
        assert_eq!((rank, detail.contains("its last is 2")), (2, true), "{detail}");
        let Cause::Silent { rank, detail } = ledger.late(Lane::Group, 2) else { panic!() };
        assert_eq!((rank, detail.contains("only the one that noticed")), (0, true), "{detail}");
    }
}
