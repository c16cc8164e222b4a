//! What comes in on a port.

use super::port::Port;
use super::{Engine, SLICE, left};
use crate::cause::Cause;
use crate::mesh::flow::Taken;
use crate::mesh::frame::Frame;
use crate::mesh::link::{Moved, SCRATCH};
use crate::operation::Kind;

/// What a step of receiving came to.
enum Step {
    /// So many payload bytes or announcements were taken; there may be more.
    Took(usize),
    /// It takes more bytes than are held.
    More,
    /// Nothing can be done now.
    Rest,
}

impl Engine {
    /// Receives about a slice on a port. Returns the payload bytes and announcements that came in.
    pub(super) fn receive(&mut self, index: usize) -> Result<usize, Cause> {
        let mut moved = 0;
        if let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut) {
            port.gated = false;
        }
        while moved < SLICE {
            match self.step(index)? {
                Step::Took(count) => moved += count,
                Step::More if self.fill(index) => {}
                Step::More | Step::Rest => break,
            }
        }
        Ok(moved)
    }

    fn step(&mut self, index: usize) -> Result<Step, Cause> {
        let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut).filter(|port| !port.gone) else {
            return Ok(Step::Rest);
        };
        let Some((id, lane)) = port.incoming.front().copied() else { return self.unasked(index) };
        let Some(flow) = self.flows.get_mut(&id) else { return Ok(Step::Rest) };
        if !flow.confirmed(lane) {
            return self.announcement(index, id, lane);
        }
        if flow.all_received(lane) {
            port.incoming.pop_front();
            if flow.close_side() {
                self.finish(id);
            }
            return Ok(Step::Took(0));
        }
        let rank = self.seat.rank;
        let broken = |detail: String| Cause::Broken { rank, detail };
        if port.link.held().is_empty()
            && port.link.reads_directly()
            && let Some(target) = flow.target(lane)
        {
            let result = port.link.read_into(target);
            match result {
                Ok(Moved::Bytes(count)) => {
                    flow.received(lane, count).map_err(broken)?;
                    return Ok(Step::Took(count));
                }
                Ok(Moved::Later) => {}
                Ok(Moved::End) => self.lost(index, "it closed the connection"),
                Err(error) => self.lost(index, &error.to_string()),
            }
            return Ok(Step::Rest);
        }
        let held = port.link.held();
        let offered = held.get(..SLICE).unwrap_or(held);
        Ok(match flow.take(lane, offered).map_err(broken)? {
            Taken::Bytes(count) => {
                port.link.consume(count);
                Step::Took(count)
            }
            Taken::Gated => {
                port.gated = true;
                Step::Rest
            }
            Taken::Short => Step::More,
        })
    }

    /// The announcement that the front lane of a port waits for.
    fn announcement(&mut self, index: usize, id: u64, lane: usize) -> Result<Step, Cause> {
        let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut) else { return Ok(Step::Rest) };
        let Some((frame, length)) = parse(port)? else { return Ok(Step::More) };
        let Some(flow) = self.flows.get_mut(&id) else { return Ok(Step::Rest) };
        match frame {
            Frame::Operation { sequence, operation } if (sequence, operation) == (flow.sequence, flow.operation) => {
                port.link.consume(length);
                flow.confirm(lane);
                Ok(Step::Took(1))
            }
            Frame::Operation { operation, .. } => Err(Cause::Mismatch {
                sequence: flow.sequence,
                ranks: [self.seat.rank, port.peer],
                operations: [flow.operation, operation],
            }),
            Frame::Farewell => {
                port.left = true;
                Err(left(port.peer))
            }
            other => Err(unexpected(port, &other)),
        }
    }

    /// Something that comes, or has come, on a port that no operation listens to.
    fn unasked(&mut self, index: usize) -> Result<Step, Cause> {
        let sequence = self.sequence;
        let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut).filter(|port| !port.paused) else {
            return Ok(Step::Rest);
        };
        let Some((frame, length)) = parse(port)? else {
            // A look costs a system call on a connection; there, only when the poll has spoken.
            let look = port.link.is_quietly_readable() || port.readable || port.ending;
            return Ok(if look && !port.gone { Step::More } else { Step::Rest });
        };
        match frame {
            Frame::Operation { sequence: theirs, operation } => {
                port.paused = true;
                let collective = !matches!(operation.kind, Kind::Transfer { .. });
                // The rendezvous is 0, and before it the counter is at its end.
                if collective && theirs <= sequence && sequence != u64::MAX {
                    let peer = port.peer;
                    if let Some(ours) = self.recorder.find(theirs) {
                        let (ranks, operations) = ([self.seat.rank, peer], [ours, operation]);
                        return Err(Cause::Mismatch { sequence: theirs, ranks, operations });
                    }
                }
                Ok(Step::Rest)
            }
            Frame::Farewell => {
                port.left = true;
                port.link.consume(length);
                // Nobody needs it, or the next look at what is to be sent tells.
                Ok(Step::Took(0))
            }
            other => Err(unexpected(port, &other)),
        }
    }

    /// Reads what is there. False when nothing came.
    fn fill(&mut self, index: usize) -> bool {
        let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut) else { return false };
        let expected = match port.incoming.front() {
            Some((id, lane)) => self.flows.get(id).map_or(0, |flow| flow.expected(*lane, SCRATCH)),
            None => 0,
        };
        port.readable = false;
        let result = port.link.fill(expected);
        let ended = match result {
            Ok(Moved::Bytes(_)) => return true,
            Ok(Moved::Later) if !port.ending => return false,
            // Shared memory does not show the end of the other process, its connection does.
            Ok(Moved::Later) if port.link.deserted() => "its process has ended".to_owned(),
            Ok(Moved::Later) => return false,
            Ok(Moved::End) => "it closed the connection".to_owned(),
            Err(error) => error.to_string(),
        };
        self.lost(index, &ended);
        false
    }
}

fn parse(port: &Port) -> Result<Option<(Frame, usize)>, Cause> {
    Frame::parse(port.link.held()).map_err(|what| protocol(port, &what))
}

fn protocol(port: &Port, what: &str) -> Cause {
    Cause::Lost { rank: port.peer, detail: format!("it broke the protocol: {what}") }
}

fn unexpected(port: &Port, frame: &Frame) -> Cause {
    match frame {
        Frame::Abort(cause) => cause.clone(),
        _ => protocol(port, "something of a control link on a data link"),
    }
}
