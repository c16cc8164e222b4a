//! Everything that can go wrong, with the values that explain it. Match by [`Error::kind`], not by text.

use crate::operation::Operation;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What failed. `Clone`, because the first failure of a communicator is the answer to every later call.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A rank is gone: its process died, or it left while others still needed it.
    #[error("rank {rank} ({endpoint}) was lost in {operation} (operation {sequence}, after {:.3} s): {detail}", elapsed.as_secs_f64())]
    PeerLost {
        /// The rank that is gone.
        rank: usize,
        /// Where it was reached: `host:port`.
        endpoint: String,
        /// What this rank was doing.
        operation: String,
        /// The number of that operation, counted from 1 in the order of starting; 0 is the rendezvous.
        sequence: u64,
        /// How long this rank had been at it.
        elapsed: Duration,
        /// How the loss showed.
        detail: String,
    },
    /// A rank was waited for longer than allowed.
    #[error("rank {rank} ({endpoint}) was waited for in vain in {operation} (operation {sequence}, {:.3} s): {detail}", elapsed.as_secs_f64())]
    Deadline {
        /// The rank that kept the others waiting.
        rank: usize,
        /// Where it is reached: `host:port`.
        endpoint: String,
        /// What this rank was doing.
        operation: String,
        /// The number of that operation, counted from 1 in the order of starting; 0 is the rendezvous.
        sequence: u64,
        /// How long this rank had been at it.
        elapsed: Duration,
        /// What is known of the rank that is late.
        detail: String,
    },
    /// Somebody ended the group on purpose.
    #[error("aborted by rank {rank}: {reason}")]
    Aborted {
        /// The rank whose [`Aborter`](crate::Aborter) was used.
        rank: usize,
        /// Its reason.
        reason: String,
    },
    /// Two ranks started different operations: a bug in the caller.
    #[error(
        "operation {sequence} differs between ranks: rank {rank} started {operation}, rank {peer} started {peer_operation}"
    )]
    Mismatch {
        /// The number of the operation.
        sequence: u64,
        /// One rank.
        rank: usize,
        /// What it started.
        operation: Operation,
        /// The other rank.
        peer: usize,
        /// What that one started.
        peer_operation: Operation,
    },
    /// A peer refused this rank, or could not prove that it belongs to the run.
    #[error("rank {rank} ({endpoint}) {reason}")]
    Refused {
        /// The peer's rank.
        rank: usize,
        /// Where it was reached.
        endpoint: String,
        /// Who refused whom, and why.
        reason: String,
    },
    /// The caller gave something that cannot be right.
    #[error("{what}")]
    Invalid {
        /// What, and what would be right.
        what: String,
    },
    /// The system refused a service, or a peer broke the protocol.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: Arc<io::Error>,
    },
}

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Error::PeerLost`]
    PeerLost,
    /// [`Error::Deadline`]
    Deadline,
    /// [`Error::Aborted`]
    Aborted,
    /// [`Error::Mismatch`]
    Mismatch,
    /// [`Error::Refused`]
    Refused,
    /// [`Error::Invalid`]
    Invalid,
    /// [`Error::Io`]
    Io,
}

impl Error {
    /// The kind, to decide by.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::PeerLost { .. } => ErrorKind::PeerLost,
            Error::Deadline { .. } => ErrorKind::Deadline,
            Error::Aborted { .. } => ErrorKind::Aborted,
            Error::Mismatch { .. } => ErrorKind::Mismatch,
            Error::Refused { .. } => ErrorKind::Refused,
            Error::Invalid { .. } => ErrorKind::Invalid,
            Error::Io { .. } => ErrorKind::Io,
        }
    }

    /// The rank to blame, where one is.
    pub fn culprit(&self) -> Option<usize> {
        match self {
            Error::PeerLost { rank, .. }
            | Error::Deadline { rank, .. }
            | Error::Aborted { rank, .. }
            | Error::Refused { rank, .. } => Some(*rank),
            Error::Mismatch { .. } | Error::Invalid { .. } | Error::Io { .. } => None,
        }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Error {
        Error::Io { what: what.into(), source: Arc::new(source) }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Error {
        Error::Invalid { what: what.into() }
    }
}
