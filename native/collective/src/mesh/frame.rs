//! The frames of data links and control links.
//!
//! A frame is a header of 8 bytes and a body: kind (u8), three zeros, length of the body (u32 little endian).
//!
//! | kind | link | body |
//! |---|---|---|
//! | 1 operation | data | sequence (u64), [`Operation`]: the operation's bytes for this link follow, as many as both know |
//! | 2 abort | both | [`Cause`]: the group has failed; nothing follows |
//! | 3 farewell | both | nothing: this rank needs nobody any more; nothing follows |
//! | 4 heartbeat | control | nothing: this rank's process is alive |
//! | 5 census | control | [`Census`]: a question that goes round the ring of control links |
//! | 6 heard | control | nothing: the census has come and is on its way |

use super::census::Census;
use crate::cause::Cause;
use crate::operation::Operation;
use std::ops::RangeInclusive;

pub(super) const HEADER: usize = 8;

/// The longest body: a census of a large world. A header that claims more is nobody's of ours.
const BODY: usize = 64 * 1024;

/// The body of an announcement.
const OPERATION: usize = 8 + Operation::ENCODED;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Operation { sequence: u64, operation: Operation },
    Abort(Cause),
    Farewell,
    Heartbeat,
    Census(Census),
    Heard,
}

impl Frame {
    /// Appends the frame.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        let kind = match self {
            Frame::Operation { sequence, operation } => {
                out.extend_from_slice(&sequence.to_le_bytes());
                out.extend_from_slice(&operation.encode());
                1
            }
            Frame::Abort(cause) => {
                cause.encode(out);
                2
            }
            Frame::Farewell => 3,
            Frame::Heartbeat => 4,
            Frame::Census(census) => {
                census.encode(out);
                5
            }
            Frame::Heard => 6,
        };
        let length = u32::try_from(out.len() - start - HEADER).unwrap_or(u32::MAX).to_le_bytes();
        let header = [kind, 0, 0, 0].into_iter().chain(length);
        out.iter_mut().skip(start).zip(header).for_each(|(to, byte)| *to = byte);
    }

    /// The frame that `bytes` begin with, and its length. None when bytes are missing.
    ///
    /// A header that is not exactly what its kind has is refused at once: were a wrong length believed, payload would be
    /// taken for a frame, and later frames for payload.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Frame, usize)>, String> {
        let Some(([kind, zeros @ .., l0, l1, l2, l3], rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        if *zeros != [0; 3] || !lengths(*kind).contains(&length) {
            return Err(format!("a frame of kind {kind} claims {length} bytes"));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let frame = decode(*kind, body).ok_or_else(|| format!("a frame of kind {kind} makes no sense"))?;
        Ok(Some((frame, HEADER + length)))
    }
}

/// The lengths that a body of this kind may have; none where there is no such kind.
fn lengths(kind: u8) -> RangeInclusive<usize> {
    match kind {
        1 => OPERATION..=OPERATION,
        2 | 5 => 0..=BODY,
        3 | 4 | 6 => 0..=0,
        _ => RangeInclusive::new(1, 0),
    }
}

fn decode(kind: u8, body: &[u8]) -> Option<Frame> {
    Some(match kind {
        1 => {
            let (sequence, rest) = body.split_first_chunk::<8>()?;
            Frame::Operation {
                sequence: u64::from_le_bytes(*sequence),
                operation: Operation::decode(*rest.first_chunk::<{ Operation::ENCODED }>()?)?,
            }
        }
        2 => Frame::Abort(Cause::decode(body)?),
        3 => Frame::Farewell,
        4 => Frame::Heartbeat,
        5 => Frame::Census(Census::decode(body)?),
        6 => Frame::Heard,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::census::Purpose;
    use super::*;
    use crate::operation::Kind;
    use proptest::prelude::*;

    #[test]
    fn frames_survive_the_wire_and_wait_for_their_last_byte() {
        for frame in [
            Frame::Operation { sequence: 7, operation: Operation::plain(Kind::Barrier) },
            Frame::Abort(Cause::Lost { rank: 2, detail: "gone".into() }),
            Frame::Farewell,
            Frame::Heartbeat,
            Frame::Census(Census { origin: 3, purpose: Purpose::Deadline, sequence: 9, behind: vec![(1, 8), (2, 0)] }),
            Frame::Heard,
        ] {
            let mut bytes = vec![77];
            frame.push(&mut bytes);
            bytes.remove(0);
            for cut in 0..bytes.len() {
                assert_eq!(Frame::parse(&bytes[..cut]), Ok(None));
            }
            let length = bytes.len();
            bytes.push(99);
            assert_eq!(Frame::parse(&bytes), Ok(Some((frame, length))));
        }
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(Frame::parse(&[2, 0, 0, 0, 255, 255, 255, 255]).is_err());
        assert!(Frame::parse(&[77, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(Frame::parse(&[1, 0, 0, 0, 1, 0, 0, 0, 5]).is_err());
        // Before the body that it claims has come.
        assert!(Frame::parse(&[1, 0, 0, 0, 29, 0, 0, 0]).is_err());
        assert!(Frame::parse(&[4, 0, 0, 0, 1, 0, 0, 0]).is_err());
        assert!(Frame::parse(&[4, 0, 1, 0, 0, 0, 0, 0]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_a_frame_or_an_error_or_too_few(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some((frame, length))) = Frame::parse(&bytes) {
                prop_assert!(length <= bytes.len());
                let mut again = Vec::new();
                frame.push(&mut again);
                prop_assert_eq!(Frame::parse(&again), Ok(Some((frame, again.len()))));
            }
        }
    }
}
