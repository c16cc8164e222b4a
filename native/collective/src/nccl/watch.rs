//! The ranks of an NCCL group keep telling each other, over the CPU, what they are in.
//!
//! NCCL itself cannot say who is missing, does not notice that two ranks started different operations, and a rank that
//! aborts is not surely seen by the others (nccl#279). So a thread per group gathers a [`Status`] of every rank every
//! [`ROUND`], over a group of its own that was split from the bootstrap group. From a round the ranks learn
//! - **why another rank failed**, and fail with the same cause, in a tenth of a second;
//! - **that a rank is gone**: the round itself fails, and names it;
//! - **what the others started**: see [`Ledger`](super::ledger::Ledger);
//! - **the names of new transfer communicators**;
//! - **that a rank leaves**: a communicator is destroyed in order when all do.
//!
//! All ranks end after the same round: the one after the first that carries a cause, or the one in which everybody
//! leaves. A rank that leaves alone stays for [`LINGER`]; the others then go on without rounds, and find out by their
//! deadlines only.
//!
//! The thread also moves operations on that nobody waits for.

use super::api::Progress;
use super::group::{Group, cause_of};
use super::lane::{Lane, Remains};
use super::ledger::{Entry, TOLD};
use super::table::UniqueId;
use crate::cause::Cause;
use crate::communicator::Communicator;
use crate::operation::Operation;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How often the ranks tell each other.
const ROUND: Duration = Duration::from_millis(50);

/// How long a rank that leaves waits for the others to leave too.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// How long communicators may take to end in order before they are aborted.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a rank tells in a round.
#[derive(Default)]
struct Status {
    leaving: bool,
    cause: Option<Cause>,
    offers: Vec<(u32, UniqueId)>,
    started: Vec<Entry>,
}

impl Status {
    /// leaving (u8) · cause: length (u32), bytes · offers: count (u32), then rank (u32) and 128 bytes each · started:
    /// count (u32), then number (u64) and operation each. Little endian.
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.leaving)];
        let mut cause = Vec::new();
        if let Some(known) = &self.cause {
            known.encode(&mut cause);
        }
        out.extend_from_slice(&length(cause.len()));
        out.extend_from_slice(&cause);
        out.extend_from_slice(&length(self.offers.len()));
        for (to, id) in &self.offers {
            out.extend_from_slice(&to.to_le_bytes());
            out.extend_from_slice(&id.0);
        }
        out.extend_from_slice(&length(self.started.len()));
        for (sequence, operation) in &self.started {
            out.extend_from_slice(&sequence.to_le_bytes());
            out.extend_from_slice(&operation.encode());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Status> {
        let (leaving, rest) = bytes.split_first()?;
        let (count, rest) = number(rest)?;
        let (cause, rest) = rest.split_at_checked(count)?;
        let mut status = Status { leaving: *leaving != 0, ..Status::default() };
        if !cause.is_empty() {
            status.cause = Some(Cause::decode(cause)?);
        }
        let (count, mut rest) = number(rest)?;
        for _ in 0..count {
            let (to, after) = rest.split_first_chunk::<4>()?;
            let (id, after) = after.split_first_chunk::<128>()?;
            status.offers.push((u32::from_le_bytes(*to), UniqueId(*id)));
            rest = after;
        }
        let (count, mut rest) = number(rest)?;
        for _ in 0..count {
            let (sequence, after) = rest.split_first_chunk::<8>()?;
            let (operation, after) = after.split_first_chunk::<{ Operation::ENCODED }>()?;
            status.started.push((u64::from_le_bytes(*sequence), Operation::decode(*operation)?));
            rest = after;
        }
        rest.is_empty().then_some(status)
    }
}

fn length(count: usize) -> [u8; 4] {
    u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes()
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*number)).ok()?, rest))
}

/// Runs until the group has failed or all ranks have left it. `talk` is for the rounds alone.
pub(super) fn run(group: &Arc<Group>, talk: Arc<dyn Communicator>) {
    let mut talk = Some(talk);
    let mut left: Option<Instant> = None;
    loop {
        let idle = group.enter().is_ok_and(|state| state.lanes.iter().all(Lane::idle));
        if group.leaving.raised() && idle && left.is_none() {
            left = Some(Instant::now());
        }
        let over = match &talk {
            Some(talk) => round(group, &**talk, left.is_some()),
            None if group.failure().is_some() => After::Failed,
            None => After::Alone,
        };
        match over {
            After::Again => {}
            After::Alone => talk = None,
            After::Failed => break,
            After::Told => {
                // Once more: who comes to this round has the cause from the one before, so that the aborter, which
                // knows less, cannot overtake it.
                if let Some(talk) = &talk {
                    let _ = talk.start_all_gather_bytes(Vec::new()).and_then(|gather| gather.wait());
                }
                break;
            }
            After::Left => return farewell(group),
        }
        if left.is_some_and(|since| since.elapsed() > LINGER) {
            log::debug!("rank {} leaves its NCCL group before the others", group.place.rank);
            group.end();
            break;
        }
        group.try_pump();
        group.watch.sleep(ROUND);
    }
    group.told.raise();
}

/// What follows a round.
enum After {
    Again,
    /// All ranks leave.
    Left,
    /// A rank has left before this one; there are no more rounds.
    Alone,
    /// The round has told all ranks of a failure.
    Told,
    /// There can be no more rounds.
    Failed,
}

fn round(group: &Arc<Group>, talk: &dyn Communicator, leaving: bool) -> After {
    let mine = match group.enter() {
        Ok(mut state) => Status {
            leaving,
            cause: group.failure().cloned(),
            offers: std::mem::take(&mut state.offers),
            started: state.ledger.take_fresh(),
        },
        Err(cause) => {
            group.fail(cause);
            Status { leaving, cause: group.failure().cloned(), ..Status::default() }
        }
    };
    let gathered = talk.start_all_gather_bytes(mine.encode()).and_then(|gather| gather.wait());
    let statuses = match gathered {
        Ok(all) => all,
        Err(_) if leaving || group.enter().is_ok_and(|state| state.ledger.anybody_left()) => return After::Alone,
        Err(error) => {
            group.fail(cause_of(&error, group.place.rank));
            return After::Failed;
        }
    };
    let mut all_leave = true;
    let mut failed = false;
    for (peer, bytes) in statuses.iter().enumerate() {
        let Some(status) = Status::decode(bytes) else {
            let detail = format!("rank {peer} told something that is no status");
            group.fail(Cause::Broken { rank: group.place.rank, detail });
            return After::Failed;
        };
        all_leave &= status.leaving;
        failed |= status.cause.is_some();
        if let Err(cause) = heard(group, peer, status) {
            group.fail(cause);
        }
    }
    match (failed, all_leave) {
        (true, _) => After::Told,
        (false, true) => After::Left,
        (false, false) => After::Again,
    }
}

/// Takes in what `peer` told; the error is why the group must end.
fn heard(group: &Arc<Group>, peer: usize, status: Status) -> Result<(), Cause> {
    if let Some(cause) = status.cause {
        return Err(cause);
    }
    let mut state = group.enter()?;
    if group.failure().is_some() {
        return Ok(());
    }
    let from = u32::try_from(peer).unwrap_or(u32::MAX);
    for (to, id) in status.offers {
        if usize::try_from(to) == Ok(group.place.rank) {
            group.offered(&mut state, from, id)?;
        }
    }
    status.started.into_iter().take(TOLD).try_for_each(|entry| state.ledger.hear(peer, entry))?;
    if status.leaving {
        state.ledger.leave(peer);
    }
    Ok(())
}

/// Destroys the communicators in order; what cannot be is aborted.
fn farewell(group: &Arc<Group>) {
    match destroyed(group) {
        Ok(()) => group.ended.raise(),
        Err(why) => {
            log::warn!("rank {} aborts the communicators that it leaves: {why}", group.place.rank);
            group.end();
        }
    }
    group.told.raise();
}

fn destroyed(group: &Arc<Group>) -> Result<(), String> {
    let began = Instant::now();
    let api = &group.api;
    let mut state = group.enter().map_err(|cause| cause.to_string())?;
    // Nothing is taken out before it is known to be over, so that an abort finds it.
    for comm in state.lanes.iter().filter_map(Lane::comm) {
        let mut progress = api.finalize(comm).map_err(|fault| fault.to_string())?;
        while progress == Progress::Going {
            if began.elapsed() > FAREWELL {
                return Err(format!("one was not finalized within {:.1} s", FAREWELL.as_secs_f64()));
            }
            thread::sleep(Duration::from_micros(200));
            progress = api.state(comm).map_err(|fault| fault.to_string())?;
        }
    }
    let lanes = std::mem::take(&mut state.lanes);
    drop(state);
    for Remains { comm, complete, stream, .. } in lanes.into_iter().map(Lane::into_remains) {
        let end = |comm| if complete { api.destroy(comm) } else { api.abort(comm) };
        if let Some(Err(fault)) = comm.map(end) {
            log::warn!("rank {}: {fault}", group.place.rank);
        }
        api.destroy_stream(stream);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Kind;

    #[test]
    fn a_status_survives_the_wire_and_garbage_is_none() {
        let status = Status {
            leaving: true,
            cause: Some(Cause::Lost { rank: 3, detail: "gone".into() }),
            offers: vec![(7, UniqueId([9; 128]))],
            started: vec![(1 << 40, Operation::plain(Kind::Barrier)), (2, Operation::plain(Kind::AllGather))],
        };
        let bytes = status.encode();
        let back = Status::decode(&bytes).unwrap();
        assert_eq!((back.leaving, back.cause, back.started), (true, status.cause, status.started));
        assert!(back.offers.iter().map(|(to, id)| (*to, id.0)).eq([(7, [9; 128])]));
        for length in 0..bytes.len() {
            assert!(Status::decode(&bytes[..length]).is_none(), "{length}");
        }
        assert!(Status::decode(&[0; 13]).is_some_and(|status| !status.leaving && status.cause.is_none()));
    }
}
