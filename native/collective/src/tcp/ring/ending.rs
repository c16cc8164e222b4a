//! The end: failing with a cause, or leaving in order. Both tell the neighbours.

use super::Ring;
use crate::cause::{Cause, Moment};
use crate::error::Error;
use crate::tcp::frame::Frame;
use crate::tcp::link;
use std::time::Duration;

impl Ring {
    /// Fails everything and tells the neighbours.
    pub(in crate::tcp) fn fail(&mut self, cause: Cause) {
        if self.failure.get().is_some() {
            return;
        }
        let front = self.flows.front();
        let moment = Moment {
            operation: front.map_or_else(|| "no operation".into(), |flow| flow.operation.to_string()),
            sequence: front.map_or(self.next_sequence, |flow| flow.sequence),
            elapsed: front.map_or(Duration::ZERO, |flow| flow.started.elapsed()),
        };
        let error = cause.error(&moment, &self.endpoints);
        log::warn!("rank {}: {error}", self.rank);
        let _ = self.failure.set(error.clone());
        // The data frame that is half sent must be completed, with the right bytes: for the next rank they may be the
        // last of an operation that succeeds there.
        while self.outbound.left > 0
            && let Some(flow) = self.flows.get_mut(self.sending)
        {
            let bytes = flow.outlet(self.outbound.left).to_vec();
            if bytes.is_empty() {
                break;
            }
            flow.sent(bytes.len());
            self.outbound.left -= bytes.len();
            self.outbound.head.push_bytes(&bytes);
        }
        self.outbound.left = 0;
        self.outbound.head.push(&Frame::Abort(cause.clone()));
        self.inbound.back.push(&Frame::Abort(cause));
        self.outbound.readable = true;
        self.inbound.readable = true;
        self.wind_down();
        for flow in self.flows.drain(..) {
            flow.fail(error.clone());
        }
        self.sending = 0;
        self.receiving = 0;
    }

    /// Says farewell, unless there is something to fail.
    pub(in crate::tcp) fn leave(&mut self) {
        if !self.flows.is_empty() {
            let reason = "its communicator was dropped with operations in flight".into();
            self.fail(Cause::Aborted { rank: self.rank, reason });
        } else if self.failure.get().is_none() {
            self.outbound.head.push(&Frame::Farewell);
            self.inbound.back.push(&Frame::Farewell);
            // Later calls cannot come: the communicator is gone.
            let _ = self.failure.set(Error::invalid("the communicator has left its group"));
            self.inbound.readable = true;
            self.wind_down();
        }
    }

    /// Writes the last words, ends both streams, and swallows what still comes so that peers are not stuck in sending.
    pub(super) fn wind_down(&mut self) {
        if !self.outbound.head.is_empty() {
            if self.outbound.write_head().is_err() {
                self.outbound.head.clear();
            }
            if self.outbound.head.is_empty() {
                link::end(&self.outbound.socket);
            }
        }
        if !self.inbound.back.is_empty() {
            if self.inbound.write_back().is_err() {
                self.inbound.back.clear();
            }
            if self.inbound.back.is_empty() {
                link::end(&self.inbound.socket);
            }
        }
        if std::mem::take(&mut self.inbound.readable) && !self.inbound.closed {
            self.inbound.closed = self.inbound.discard();
        }
        if std::mem::take(&mut self.outbound.readable) && !self.outbound.closed {
            self.outbound.closed = self.outbound.discard();
        }
    }

    /// True when the last words are written.
    pub(in crate::tcp) fn spoken(&self) -> bool {
        self.outbound.head.is_empty() && self.inbound.back.is_empty()
    }

    /// True when the neighbours have ended their streams too.
    pub(in crate::tcp) fn ended(&self) -> bool {
        self.spoken() && self.inbound.closed && self.outbound.closed
    }
}
