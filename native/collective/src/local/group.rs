//! The group inside one process: ranks are threads that meet at each operation.
//!
//! # Protocol
//! - Each rank's n-th start arrives at the n-th *meeting* of its line, with its buffer. Nothing blocks in a start. The
//!   collective operations are one line, at whose meetings all ranks arrive; the transfers from one rank to another are
//!   a line of these two.
//! - The rank that arrives last closes the meeting: it takes it out of `open` and sets its outcome under one lock, so
//!   every failure comes before or after. A closed meeting succeeds on every rank, whatever happens to the group.
//! - Small work is done by the last to arrive, inside its start. Larger work is done by the ranks that wait, together;
//!   there is no thread of the group's own, because it would only take a core from a rank that computes.
//! - All state is behind one mutex; the condition variable is signalled when a meeting closes (one with small work:
//!   when that is done), when its work is finished, and when the group fails. The bytes themselves are worked on
//!   outside the mutex, see [`Lent`]; a closed meeting's rank returns only when nobody works on them any more.
//! - A rank that leaves (its communicator and works dropped) fails only meetings that still lack it.

use super::lent::{Action, Lent};
use crate::buffer::Buffer;
use crate::cause::{Cause, Moment};
use crate::error::Error;
use crate::lock;
use crate::operation::{Kind, Operation};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Up to this many bytes, over all ranks, the last to arrive does the work alone: waking helpers would take longer.
const ALONE: usize = 256 * 1024;

pub(super) struct Group {
    size: usize,
    endpoints: Vec<String>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Which ranks have connected.
    present: Vec<bool>,
    /// Which ranks have left again.
    left: Vec<bool>,
    /// By the two ranks of a transfer; none for the collective operations.
    lines: BTreeMap<Option<[u32; 2]>, Line>,
    /// Why the group failed, once it has.
    cause: Option<Cause>,
}

/// The operations of the same ranks, in order.
struct Line {
    /// Who takes part.
    members: Vec<usize>,
    /// How many operations each member has started.
    started: Vec<u64>,
    /// Meetings that still lack a member, in order; they close in order, as every member arrives in order.
    open: VecDeque<Open>,
}

impl Line {
    fn of(members: Vec<usize>) -> Line {
        Line { started: vec![0; members.len()], members, open: VecDeque::new() }
    }

    fn seat(&self, rank: usize) -> Option<usize> {
        self.members.iter().position(|member| *member == rank)
    }
}

/// The line of an operation.
fn line_of(operation: &Operation) -> Option<[u32; 2]> {
    match operation.kind {
        Kind::Transfer { from, to } => Some([from, to]),
        _ => None,
    }
}

struct Open {
    meeting: Arc<Meeting>,
    /// In the order of the members.
    deposits: Vec<Option<Deposit>>,
}

/// What a rank brings to a meeting.
pub(super) enum Deposit {
    Buffer(Buffer),
    Bytes(Vec<u8>),
    Nothing,
}

/// One operation of all ranks.
pub(super) struct Meeting {
    operation: Operation,
    pub(super) sequence: u64,
    /// The rank that came first.
    opener: usize,
    /// Set exactly when the meeting is closed.
    outcome: OnceLock<Outcome>,
}

#[derive(Clone)]
enum Outcome {
    Buffers(Arc<Lent>),
    Parts(Arc<Vec<Vec<u8>>>),
    Nothing,
}

impl Group {
    pub(super) fn new(endpoints: Vec<String>) -> Group {
        let size = endpoints.len();
        Group {
            size,
            endpoints,
            state: Mutex::new(State {
                present: vec![false; size],
                left: vec![false; size],
                lines: BTreeMap::from([(None, Line::of((0..size).collect()))]),
                cause: None,
            }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Marks `rank` as present. False when it was already.
    pub(super) fn enter(&self, rank: usize) -> bool {
        let mut state = lock(&self.state);
        let entered = state.present.get_mut(rank).is_some_and(|present| !std::mem::replace(present, true));
        self.changed.notify_all();
        entered
    }

    /// True when all ranks have entered.
    pub(super) fn complete(&self) -> bool {
        lock(&self.state).present.iter().all(|present| *present)
    }

    /// Waits until all ranks have entered.
    pub(super) fn assemble(&self, began: Instant, timeout: Duration) -> Result<(), Error> {
        let moment = || Moment { operation: "rendezvous".into(), sequence: 0, elapsed: began.elapsed() };
        let mut state = lock(&self.state);
        loop {
            // A group that was complete for a moment is connected, even if it has failed since: the next call tells.
            let Some(missing) = state.present.iter().position(|present| !present) else { return Ok(()) };
            if let Some(cause) = &state.cause {
                return Err(cause.error(&moment(), &self.endpoints));
            }
            let Some(left) = timeout.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else {
                let cause = Cause::Silent { rank: missing, detail: "it has not connected".into() };
                let error = cause.error(&moment(), &self.endpoints);
                self.fail_locked(&mut state, cause);
                return Err(error);
            };
            state = self.sleep(state, left);
        }
    }

    /// Brings `rank` to its next meeting.
    pub(super) fn start(&self, rank: usize, operation: Operation, deposit: Deposit) -> Result<Arc<Meeting>, Error> {
        let mut state = lock(&self.state);
        let meeting = match arrive(&mut state, rank, operation, deposit) {
            Ok(meeting) => meeting,
            Err((sequence, cause)) => {
                let moment = Moment { operation: operation.to_string(), sequence, elapsed: Duration::ZERO };
                let error = cause.error(&moment, &self.endpoints);
                self.fail_locked(&mut state, cause);
                return Err(error);
            }
        };
        let Some(outcome) = meeting.outcome.get() else { return Ok(meeting) };
        if let Outcome::Buffers(lent) = outcome
            && lent.weight() <= ALONE
        {
            drop(state);
            lent.help();
            // Whoever saw the work unfinished under the lock sleeps by now, and hears the signal.
            state = lock(&self.state);
        }
        self.changed.notify_all();
        drop(state);
        Ok(meeting)
    }

    /// Waits until `meeting` is closed and its work is done, lending a hand.
    fn finish(&self, rank: usize, meeting: &Meeting, began: Instant, patience: Patience) -> Result<Outcome, Error> {
        let Patience { timeout, stall_warning } = patience;
        let mut warned = stall_warning >= timeout;
        let moment = || Moment {
            operation: meeting.operation.to_string(),
            sequence: meeting.sequence,
            elapsed: began.elapsed(),
        };
        let mut state = lock(&self.state);
        let outcome = loop {
            if let Some(outcome) = meeting.outcome.get() {
                break outcome.clone();
            }
            if let Some(cause) = &state.cause {
                return Err(cause.error(&moment(), &self.endpoints));
            }
            let Some(left) = timeout.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else {
                let cause = late(&state, meeting);
                let error = cause.error(&moment(), &self.endpoints);
                self.fail_locked(&mut state, cause);
                return Err(error);
            };
            let quiet = stall_warning.saturating_sub(began.elapsed());
            if !warned && quiet.is_zero() {
                warned = true;
                let Moment { operation, sequence, .. } = moment();
                let late = late(&state, meeting);
                log::warn!("rank {rank} waits in {operation} (operation {sequence}): {late}");
            }
            state = self.sleep(state, if warned { left } else { left.min(quiet) });
        };
        drop(state);
        if let Outcome::Buffers(lent) = &outcome {
            if lent.help() {
                let _state = lock(&self.state);
                self.changed.notify_all();
            }
            // Pieces that others have claimed take microseconds; no deadline is needed, but none of the waits is open.
            let mut state = lock(&self.state);
            while !lent.finished() {
                state = self.sleep(state, timeout);
            }
        }
        Ok(outcome)
    }

    pub(super) fn finish_buffer(
        &self,
        rank: usize,
        meeting: &Meeting,
        began: Instant,
        patience: Patience,
    ) -> Result<Buffer, Error> {
        match self.finish(rank, meeting, began, patience)? {
            Outcome::Buffers(lent) => {
                lent.take(meeting.seat(rank)).ok_or_else(|| Error::invalid("the buffer was taken before"))
            }
            Outcome::Parts(_) | Outcome::Nothing => Ok(Buffer::empty()),
        }
    }

    pub(super) fn finish_parts(
        &self,
        rank: usize,
        meeting: &Meeting,
        began: Instant,
        patience: Patience,
    ) -> Result<Vec<Vec<u8>>, Error> {
        match self.finish(rank, meeting, began, patience)? {
            // The last to ask need not copy.
            Outcome::Parts(parts) => Ok(Arc::try_unwrap(parts).unwrap_or_else(|parts| (*parts).clone())),
            Outcome::Buffers(_) | Outcome::Nothing => Ok(Vec::new()),
        }
    }

    /// Fails the group; the first cause stays.
    pub(super) fn fail(&self, cause: Cause) {
        self.fail_locked(&mut lock(&self.state), cause);
    }

    /// Takes `rank` out. Only meetings that lack it fail.
    pub(super) fn leave(&self, rank: usize) {
        let mut state = lock(&self.state);
        if let Some(left) = state.left.get_mut(rank) {
            *left = true;
        }
        let lacking = |line: &Line| {
            let lacks = |seat: usize| line.open.iter().any(|open| open.deposits.get(seat).is_some_and(Option::is_none));
            line.seat(rank).is_some_and(lacks)
        };
        if state.lines.values().any(lacking) || !state.present.iter().all(|present| *present) {
            self.fail_locked(&mut state, Cause::Lost { rank, detail: "it has left the group".into() });
        }
    }

    fn fail_locked(&self, state: &mut State, cause: Cause) {
        if state.cause.is_none() {
            log::warn!("the group inside this process failed: {cause}");
            state.cause = Some(cause);
            // The buffers of meetings that will never close; nobody works on them.
            state.lines.values_mut().for_each(|line| line.open.clear());
        }
        self.changed.notify_all();
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>, atmost: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, atmost).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Puts the deposit down at the rank's next meeting and closes it if nobody lacks; or tells, with the number of the
/// operation, why the group cannot go on.
fn arrive(
    state: &mut State,
    rank: usize,
    operation: Operation,
    deposit: Deposit,
) -> Result<Arc<Meeting>, (u64, Cause)> {
    let State { left, lines, cause, .. } = state;
    let line = line_of(&operation);
    let line = lines.entry(line).or_insert_with(|| Line::of(line.into_iter().flatten().map(|r| r as usize).collect()));
    let nobody = || Cause::Broken { rank, detail: "it takes no part in the operation".into() };
    let seat = line.seat(rank).ok_or_else(|| (0, nobody()))?;
    let started = line.started.get_mut(seat).ok_or_else(|| (0, nobody()))?;
    *started += 1;
    let sequence = *started;
    if let Some(cause) = cause {
        return Err((sequence, cause.clone()));
    }
    let known = line.open.iter().position(|open| open.meeting.sequence == sequence);
    let (index, mut open) = match known.and_then(|index| Some((index, line.open.remove(index)?))) {
        Some(found) => found,
        None => {
            let meeting = Arc::new(Meeting { operation, sequence, opener: rank, outcome: OnceLock::new() });
            (line.open.len(), Open { meeting, deposits: line.members.iter().map(|_| None).collect() })
        }
    };
    if open.meeting.operation != operation {
        let (ranks, operations) = ([open.meeting.opener, rank], [open.meeting.operation, operation]);
        return Err((sequence, Cause::Mismatch { sequence, ranks, operations }));
    }
    let gone = |member: &usize| left.get(*member).copied().unwrap_or(false);
    let lacking = line.members.iter().zip(&open.deposits).filter(|(_, deposit)| deposit.is_none());
    if let Some(gone) = lacking.map(|(member, _)| member).find(|member| gone(member)) {
        return Err((sequence, Cause::Lost { rank: *gone, detail: "it has left the group".into() }));
    }
    if let Some(place) = open.deposits.get_mut(seat) {
        *place = Some(deposit);
    }
    let meeting = Arc::clone(&open.meeting);
    if open.deposits.iter().all(Option::is_some) {
        let _ = meeting.outcome.set(combine(&operation, open.deposits));
    } else {
        line.open.insert(index, open);
    }
    Ok(meeting)
}

/// Who keeps the meeting waiting.
fn late(state: &State, meeting: &Meeting) -> Cause {
    let line = state.lines.get(&line_of(&meeting.operation));
    let members = line.into_iter().flat_map(|line| line.members.iter().zip(&line.started));
    let missing: Vec<(u64, usize)> = members
        .filter(|(_, started)| **started < meeting.sequence)
        .map(|(member, started)| (*started, *member))
        .collect();
    let names: Vec<String> = missing.iter().map(|(_, member)| member.to_string()).collect();
    Cause::Silent {
        // The one that is furthest behind: others may be waiting for it.
        rank: missing.iter().min().map_or(0, |(_, member)| *member),
        detail: format!("it has not started the operation (missing: rank {})", names.join(", ")),
    }
}

impl Meeting {
    /// The place of a rank's buffer among those that were lent.
    fn seat(&self, rank: usize) -> usize {
        match self.operation.kind {
            Kind::Transfer { from, .. } => usize::from(from as usize != rank),
            _ => rank,
        }
    }
}

/// How long a rank waits, and when it says for whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) timeout: Duration,
    pub(super) stall_warning: Duration,
}

/// What comes of a meeting at which all ranks have arrived.
fn combine(operation: &Operation, deposits: Vec<Option<Deposit>>) -> Outcome {
    let mut buffers = Vec::new();
    let mut parts = Vec::new();
    for deposit in deposits.into_iter().flatten() {
        match deposit {
            Deposit::Buffer(buffer) => buffers.push(buffer),
            Deposit::Bytes(bytes) => parts.push(bytes),
            Deposit::Nothing => {}
        }
    }
    let action = match operation.kind {
        Kind::AllReduce(op) => Action::Reduce { op, wire: operation.wire },
        Kind::ReduceScatter(op) => Action::Scatter { op },
        Kind::AllGather => Action::Gather,
        Kind::AllToAll => Action::Exchange,
        Kind::Broadcast { root } => Action::Broadcast { root: root as usize },
        Kind::Transfer { .. } => Action::Broadcast { root: 0 },
        Kind::AllGatherBytes => return Outcome::Parts(Arc::new(parts)),
        Kind::Barrier | Kind::Rendezvous => return Outcome::Nothing,
    };
    Outcome::Buffers(Arc::new(Lent::new(buffers, action)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::DType;
    use crate::reduce::ReduceOp;

    const LONG: Duration = Duration::from_secs(20);
    const PATIENT: Patience = Patience { timeout: LONG, stall_warning: LONG };
    const PAST: Patience = Patience { timeout: Duration::ZERO, stall_warning: LONG };

    type Failure = fn(&Group);

    fn group() -> Group {
        let group = Group::new((0..3).map(|rank| format!("host {rank}")).collect());
        assert!((0..3).all(|rank| group.enter(rank)));
        group
    }

    fn sum_of(length: usize) -> Operation {
        Operation { elements: length as u64, ..Operation::plain(Kind::AllReduce(ReduceOp::Sum)) }
    }

    fn ones(length: usize) -> Deposit {
        Deposit::Buffer(Buffer::new(Box::new(vec![1; length]), DType::U8))
    }

    #[test]
    fn what_happens_to_the_group_after_the_last_arrival_reaches_no_rank_of_the_meeting() {
        let failures: [(&str, Failure); 3] = [
            ("abort", |group| group.fail(Cause::Aborted { rank: 2, reason: "the task was killed".into() })),
            ("leave", |group| {
                // It leaves while it lacks in a later meeting, and so fails the group.
                group.start(0, Operation::plain(Kind::Barrier), Deposit::Nothing).unwrap();
                group.leave(2);
            }),
            ("deadline", |group| {
                let later = group.start(0, Operation::plain(Kind::Barrier), Deposit::Nothing).unwrap();
                let cause = late(&lock(&group.state), &later);
                group.fail(cause);
            }),
        ];
        // Small work, and work that the waiting ranks share.
        for length in [100, 1_000_000] {
            for (name, fail) in failures {
                let group = group();
                for rank in [0, 1] {
                    group.start(rank, sum_of(length), ones(length)).unwrap();
                }
                // Rank 2 has arrived and has lost its core before it could do anything else.
                let meeting = { arrive(&mut lock(&group.state), 2, sum_of(length), ones(length)).unwrap() };
                fail(&group);
                assert!(lock(&group.state).cause.is_some(), "{name}");
                for rank in 0..3 {
                    // A deadline that has passed does not matter either.
                    let mut buffer = group.finish_buffer(rank, &meeting, Instant::now(), PAST).unwrap();
                    assert!(buffer.bytes().iter().all(|byte| *byte == 3), "{name} {length}: rank {rank}");
                }
            }
        }
    }

    #[test]
    fn a_rank_that_finds_small_work_under_way_returns_when_the_last_to_arrive_has_done_it() {
        for _ in 0..200 {
            let group = group();
            let meeting = group.start(0, sum_of(60_000), ones(60_000)).unwrap();
            group.start(1, sum_of(60_000), ones(60_000)).unwrap();
            std::thread::scope(|scope| {
                let waiting = [0, 1].map(|rank| {
                    let (group, meeting) = (&group, &meeting);
                    scope.spawn(move || group.finish_buffer(rank, meeting, Instant::now(), PATIENT).unwrap())
                });
                let began = Instant::now();
                group.start(2, sum_of(60_000), ones(60_000)).unwrap();
                for waiter in waiting {
                    assert!(waiter.join().unwrap().bytes().iter().all(|byte| *byte == 3));
                }
                assert!(began.elapsed() < LONG / 2, "a signal was lost");
            });
        }
    }
}
