//! What comes in: payload from the previous rank, news from the next.

use super::{Ring, left};
use crate::cause::Cause;
use crate::reduce::fold;
use crate::tcp::flow::Inlet;
use crate::tcp::frame::{Frame, SEGMENT};
use crate::tcp::link::Moved;

/// What a step of receiving came to.
enum Step {
    /// So many payload bytes or operations were taken; there may be more.
    Took(usize),
    /// What is held cannot be used before more is read into the scratch.
    More,
    /// The socket has nothing now.
    Dry,
}

impl Ring {
    /// Receives about one segment. Returns the payload bytes and operations that came in.
    pub(super) fn receive(&mut self) -> Result<usize, Cause> {
        let mut moved = 0;
        while moved < SEGMENT && !self.inbound.closed && !self.inbound.paused {
            let progress = if self.inbound.left > 0 { self.take()? } else { self.next_frame()? };
            match progress {
                Step::Took(count) => moved += count,
                // Without an operation in flight only the poll may say that there is more.
                Step::More if self.receiving >= self.flows.len() && !self.inbound.readable => break,
                Step::More if self.fill()? => {}
                Step::More | Step::Dry => break,
            }
        }
        Ok(moved)
    }

    /// Reads into the scratch. False when nothing came.
    fn fill(&mut self) -> Result<bool, Cause> {
        let result = self.inbound.fill();
        self.inbound.readable = false;
        match result {
            Ok(Moved::Bytes(_)) => Ok(true),
            Ok(Moved::Later) => Ok(false),
            Ok(Moved::End) => self.inbound_ended("it closed the connection").map(|()| false),
            Err(error) => self.inbound_ended(&error.to_string()).map(|()| false),
        }
    }

    fn inbound_ended(&mut self, detail: &str) -> Result<(), Cause> {
        self.inbound.closed = true;
        if self.inbound.left_group {
            return Ok(());
        }
        Err(Cause::Lost { rank: self.previous(), detail: detail.to_owned() })
    }

    /// Handles the next frame, if it is held completely.
    fn next_frame(&mut self) -> Result<Step, Cause> {
        let parsed = Frame::parse(self.inbound.held()).map_err(|what| self.protocol(self.previous(), &what))?;
        let Some((frame, length)) = parsed else { return Ok(Step::More) };
        let mut moved = 0;
        match frame {
            Frame::Operation { sequence, operation } => {
                let previous = self.previous();
                let Some(flow) = self.flows.get_mut(self.receiving) else {
                    self.inbound.paused = true;
                    return Ok(Step::Dry);
                };
                if (flow.sequence, flow.operation) != (sequence, operation) || flow.confirmed {
                    return Err(Cause::Mismatch {
                        sequence: flow.sequence,
                        ranks: [self.rank, previous],
                        operations: [flow.operation, operation],
                    });
                }
                flow.confirmed = true;
                moved = 1;
            }
            Frame::Data { length } => {
                if !self.flows.get(self.receiving).is_some_and(|flow| flow.confirmed) {
                    return Err(self.protocol(self.previous(), "data outside an operation"));
                }
                self.inbound.left = length;
            }
            Frame::Abort(cause) => return Err(cause),
            Frame::Alive { sequence, started } => self.alive(sequence, started)?,
            Frame::Farewell => self.inbound.left_group = true,
            Frame::Probe { .. } => return Err(self.protocol(self.previous(), "a probe against the direction")),
        }
        self.inbound.consume(length);
        self.settle();
        Ok(Step::Took(moved))
    }

    /// Takes bytes of the current data frame.
    fn take(&mut self) -> Result<Step, Cause> {
        let left = self.inbound.left;
        let previous = self.previous();
        let lost = |detail: &str| Cause::Lost { rank: previous, detail: format!("it broke the protocol: {detail}") };
        let Some(flow) = self.flows.get_mut(self.receiving) else { return Err(lost("data outside an operation")) };
        let dtype = flow.operation.dtype;
        let count = match flow.inlet() {
            None => return Err(lost("more data than the operation has")),
            Some(Inlet::Store(target)) => {
                let length = left.min(target.len());
                let target = target.get_mut(..length).unwrap_or_default();
                let held = self.inbound.held();
                if held.is_empty() {
                    let result = self.inbound.read_into(target);
                    match result {
                        Ok(Moved::Bytes(count)) => count,
                        Ok(Moved::Later) => {
                            self.inbound.readable = false;
                            return Ok(Step::Dry);
                        }
                        Ok(Moved::End) => return self.inbound_ended("it closed the connection").map(|()| Step::Dry),
                        Err(error) => return self.inbound_ended(&error.to_string()).map(|()| Step::Dry),
                    }
                } else {
                    let count = length.min(held.len());
                    if let (Some(to), Some(from)) = (target.get_mut(..count), held.get(..count)) {
                        to.copy_from_slice(from);
                    }
                    self.inbound.consume(count);
                    count
                }
            }
            Some(Inlet::Fold(target, dtype, op)) => {
                let held = self.inbound.held();
                let count = held.len().min(left).min(target.len()) / dtype.size() * dtype.size();
                if let (Some(right), Some(left)) = (target.get_mut(..count), held.get(..count)) {
                    fold(op, dtype, left, right);
                }
                self.inbound.consume(count);
                count
            }
        };
        if count == 0 {
            // A frame never ends inside an element that is folded.
            return if left < dtype.size() { Err(lost("a torn element")) } else { Ok(Step::More) };
        }
        self.inbound.left -= count;
        flow.received(count).map_err(|detail| Cause::Broken { rank: self.rank, detail })?;
        self.settle();
        Ok(Step::Took(count))
    }

    /// Reads what the next rank has to say.
    pub(super) fn hear(&mut self) -> Result<(), Cause> {
        let mut end = None;
        while end.is_none() {
            match self.outbound.hear() {
                Ok(Moved::Bytes(_)) => {}
                Ok(Moved::Later) => break,
                Ok(Moved::End) => end = Some("it closed the connection".to_owned()),
                Err(error) => end = Some(error.to_string()),
            }
        }
        while let Some(frame) = self.outbound.news().map_err(|what| self.protocol(self.next(), &what))? {
            match frame {
                Frame::Abort(cause) => return Err(cause),
                Frame::Farewell => self.outbound.left_group = true,
                Frame::Probe { sequence } => self.probed(sequence),
                _ => return Err(self.protocol(self.next(), "payload against the direction")),
            }
        }
        if let Some(detail) = end {
            self.outbound.closed = true;
            if !self.outbound.left_group {
                return Err(Cause::Lost { rank: self.next(), detail });
            }
        }
        Ok(())
    }

    /// The cause when the next rank cannot be written to: what it said last, if it said anything.
    pub(super) fn next_lost(&mut self, detail: &str) -> Cause {
        match self.hear() {
            Err(cause) => cause,
            Ok(()) if self.outbound.left_group => left(self.next()),
            Ok(()) => Cause::Lost { rank: self.next(), detail: detail.to_owned() },
        }
    }
}
