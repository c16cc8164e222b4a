//! Why a group failed, as one rank tells it to the others.
//!
//! A cause knows the culprit but not the observer: each rank turns it into its own [`Error`], with the operation that
//! it was in itself. Between processes causes travel in abort frames, so they have an encoding.

use crate::error::Error;
use crate::operation::Operation;
use std::fmt;
use std::time::Duration;

/// Why the group failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The rank's connection or seat is gone.
    Lost { rank: usize, detail: String },
    /// The rank kept the others waiting for too long.
    Silent { rank: usize, detail: String },
    /// The rank's aborter was used.
    Aborted { rank: usize, reason: String },
    /// Two ranks started different operations.
    Mismatch { sequence: u64, ranks: [usize; 2], operations: [Operation; 2] },
    /// The rank met something that is nobody's loss: a refused system call, a broken protocol, a refusal.
    Broken { rank: usize, detail: String },
}

/// What a rank was doing when the group failed.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) operation: String,
    pub(crate) sequence: u64,
    pub(crate) elapsed: Duration,
}

/// Longest text that travels, in bytes; the rest is cut off.
const TEXT: usize = 1024;

impl Cause {
    /// This rank's error. `endpoints` are the ranks' addresses as `host:port`.
    pub(crate) fn error(&self, moment: &Moment, endpoints: &[String]) -> Error {
        let Moment { operation, sequence, elapsed } = moment.clone();
        let endpoint = |rank: usize| endpoints.get(rank).cloned().unwrap_or_else(|| "unknown".into());
        match self {
            Cause::Lost { rank, detail } => Error::PeerLost {
                rank: *rank,
                endpoint: endpoint(*rank),
                operation,
                sequence,
                elapsed,
                detail: detail.clone(),
            },
            Cause::Silent { rank, detail } => Error::Deadline {
                rank: *rank,
                endpoint: endpoint(*rank),
                operation,
                sequence,
                elapsed,
                detail: detail.clone(),
            },
            Cause::Aborted { rank, reason } => Error::Aborted { rank: *rank, reason: reason.clone() },
            Cause::Mismatch { sequence, ranks: [rank, peer], operations: [operation, peer_operation] } => {
                Error::Mismatch {
                    sequence: *sequence,
                    rank: *rank,
                    operation: *operation,
                    peer: *peer,
                    peer_operation: *peer_operation,
                }
            }
            Cause::Broken { rank, detail } => Error::io(
                format!("rank {rank} ({}) ended the group in {operation} (operation {sequence})", endpoint(*rank)),
                std::io::Error::other(detail.clone()),
            ),
        }
    }

    /// Appends: kind (u8), rank (u32), then text (the rest) or, for a mismatch, the other rank and both operations.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut begin = |kind: u8, rank: usize| {
            out.push(kind);
            out.extend_from_slice(&u32::try_from(rank).unwrap_or(u32::MAX).to_le_bytes());
        };
        match self {
            Cause::Lost { rank, detail } => {
                begin(0, *rank);
                out.extend_from_slice(shortened(detail));
            }
            Cause::Silent { rank, detail } => {
                begin(1, *rank);
                out.extend_from_slice(shortened(detail));
            }
            Cause::Aborted { rank, reason } => {
                begin(2, *rank);
                out.extend_from_slice(shortened(reason));
            }
            Cause::Mismatch { sequence, ranks: [rank, peer], operations: [operation, peer_operation] } => {
                begin(3, *rank);
                out.extend_from_slice(&u32::try_from(*peer).unwrap_or(u32::MAX).to_le_bytes());
                out.extend_from_slice(&sequence.to_le_bytes());
                out.extend_from_slice(&operation.encode());
                out.extend_from_slice(&peer_operation.encode());
            }
            Cause::Broken { rank, detail } => {
                begin(4, *rank);
                out.extend_from_slice(shortened(detail));
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Cause> {
        let ([kind, r0, r1, r2, r3], rest) = bytes.split_first_chunk::<5>()?;
        let rank = usize::try_from(u32::from_le_bytes([*r0, *r1, *r2, *r3])).ok()?;
        let text = || String::from_utf8_lossy(rest).into_owned();
        Some(match kind {
            0 => Cause::Lost { rank, detail: text() },
            1 => Cause::Silent { rank, detail: text() },
            2 => Cause::Aborted { rank, reason: text() },
            3 => {
                let (peer, rest) = rest.split_first_chunk::<4>()?;
                let (sequence, rest) = rest.split_first_chunk::<8>()?;
                let (operation, rest) = rest.split_first_chunk::<{ Operation::ENCODED }>()?;
                let peer_operation = rest.first_chunk::<{ Operation::ENCODED }>()?;
                Cause::Mismatch {
                    sequence: u64::from_le_bytes(*sequence),
                    ranks: [rank, usize::try_from(u32::from_le_bytes(*peer)).ok()?],
                    operations: [Operation::decode(*operation)?, Operation::decode(*peer_operation)?],
                }
            }
            4 => Cause::Broken { rank, detail: text() },
            _ => return None,
        })
    }
}

fn shortened(text: &str) -> &[u8] {
    let bytes = text.as_bytes();
    bytes.get(..text.floor_char_boundary(TEXT)).unwrap_or(bytes)
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Lost { rank, detail } => write!(f, "rank {rank} lost: {detail}"),
            Cause::Silent { rank, detail } => write!(f, "rank {rank} silent: {detail}"),
            Cause::Aborted { rank, reason } => write!(f, "aborted by rank {rank}: {reason}"),
            Cause::Mismatch { sequence, ranks: [rank, peer], .. } => {
                write!(f, "operation {sequence} differs between ranks {rank} and {peer}")
            }
            Cause::Broken { rank, detail } => write!(f, "ended by rank {rank}: {detail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Kind;

    #[test]
    fn every_cause_survives_the_wire() {
        let operation = Operation::plain(Kind::Barrier);
        for cause in [
            Cause::Lost { rank: 3, detail: "gone".into() },
            Cause::Silent { rank: 70_000, detail: String::new() },
            Cause::Aborted { rank: 0, reason: "né".into() },
            Cause::Mismatch { sequence: 9, ranks: [1, 2], operations: [operation, Operation::plain(Kind::AllGather)] },
            Cause::Broken { rank: 1, detail: "x".into() },
        ] {
            let mut bytes = Vec::new();
            cause.encode(&mut bytes);
            assert_eq!(Cause::decode(&bytes), Some(cause));
        }
    }

    #[test]
    fn a_long_reason_is_cut_and_garbage_is_no_cause() {
        let mut bytes = Vec::new();
        Cause::Aborted { rank: 0, reason: "é".repeat(5000) }.encode(&mut bytes);
        assert_eq!(bytes.len(), 5 + TEXT);
        assert!(matches!(Cause::decode(&bytes), Some(Cause::Aborted { .. })));
        assert_eq!(Cause::decode(&[3, 0, 0, 0, 0, 1]), None);
        assert_eq!(Cause::decode(&[200, 0, 0, 0, 0]), None);
        assert_eq!(Cause::decode(&[]), None);
    }
}
