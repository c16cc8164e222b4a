//! The deadline, and finding out who is to blame for it.
//!
//! When nothing has moved for the operation timeout, the rank sends a probe to the previous rank. A living rank answers
//! at once, whatever its caller is doing, and passes the probe on when it is waiting itself, in this operation or in an
//! earlier one. So the rank next to the culprit finds out: the culprit does not answer, or answers that it is idle and
//! has not started the operation.

use super::Ring;
use crate::cause::Cause;
use crate::tcp::frame::Frame;
use std::time::{Duration, Instant};

/// How long a living rank may take to answer a probe. Its progress thread has nothing else to do, but may have to wait
/// for a core.
const PATIENCE: Duration = Duration::from_millis(500);

/// A question to the previous rank.
pub(super) struct Probe {
    pub(super) until: Instant,
    answered: bool,
}

impl Ring {
    /// Keeps the deadline.
    pub(super) fn watch(&mut self) -> Result<(), Cause> {
        let now = Instant::now();
        match &self.probe {
            _ if self.flows.is_empty() => self.probe = None,
            Some(probe) if now < probe.until => {}
            Some(Probe { answered: true, .. }) => {
                let detail = "it answers, but waits itself for a rank that cannot be told".into();
                return Err(Cause::Silent { rank: self.previous(), detail });
            }
            Some(_) => return Err(Cause::Silent { rank: self.previous(), detail: "it does not answer".into() }),
            None if now.duration_since(self.active) < self.timeout => {}
            None if self.receiving >= self.flows.len() => {
                return Err(Cause::Silent { rank: self.next(), detail: "it does not take what is sent to it".into() });
            }
            None => self.send_probe(now),
        }
        Ok(())
    }

    fn send_probe(&mut self, now: Instant) {
        if let Some(flow) = self.flows.get(self.receiving) {
            self.inbound.back.push(&Frame::Probe { sequence: flow.sequence });
            self.probe = Some(Probe { until: now + PATIENCE, answered: false });
            self.write_back();
        }
    }

    pub(super) fn write_back(&mut self) {
        if self.inbound.write_back().is_err() {
            // Reading will tell that the previous rank is gone, and its last words first.
            self.inbound.back.clear();
            self.inbound.readable = true;
        }
    }

    /// The next rank waits for us in `sequence` and asks why.
    pub(super) fn probed(&mut self, sequence: u64) {
        // A rank that is held up in an earlier operation has not started this one, and is not to blame either.
        let started = self.next_sequence > sequence || !self.flows.is_empty();
        self.replies.push(Frame::Alive { sequence, started });
        if started && self.probe.is_none() {
            self.send_probe(Instant::now());
        }
    }

    /// The previous rank's answer.
    pub(super) fn alive(&mut self, sequence: u64, started: bool) -> Result<(), Cause> {
        let waiting = self.flows.get(self.receiving).is_some_and(|flow| flow.sequence == sequence);
        if let Some(probe) = self.probe.as_mut().filter(|_| waiting) {
            if !started {
                let detail = "it has not started the operation, but its process answers".into();
                return Err(Cause::Silent { rank: self.previous(), detail });
            }
            if !probe.answered {
                // Now it asks the rank before it; the news of the culprit comes from there.
                probe.answered = true;
                probe.until = Instant::now() + 4 * PATIENCE;
            }
        }
        Ok(())
    }
}
