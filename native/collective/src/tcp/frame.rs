//! The frames of a link, in both directions.
//!
//! A frame is a header of 8 bytes and a body: kind (u8), three zeros, length of the body (u32 little endian).
//!
//! | kind | direction | body |
//! |---|---|---|
//! | 1 operation | to the next rank | sequence (u64), [`Operation`]: what follows belongs to this operation |
//! | 2 data | to the next rank | the operation's next bytes, at most [`SEGMENT`] |
//! | 3 abort | both | [`Cause`]: the group has failed; nothing follows |
//! | 4 probe | to the previous rank | sequence (u64): are you there, and have you started this operation? |
//! | 5 alive | to the next rank | sequence (u64), started (u8): the answer |
//! | 6 farewell | both | nothing: this rank needs nobody any more; nothing follows |
//!
//! Payload goes only to the next rank. The other direction of a link is never filled by payload, so news gets through
//! against the stream even when the stream is stuck.

use crate::cause::Cause;
use crate::operation::Operation;

pub(super) const HEADER: usize = 8;

/// The longest data frame. Other frames can go only between data frames, so it bounds what an abort waits for. Measured:
/// 512 KiB is a little faster than 256 KiB and than 1 MiB, 128 KiB is slower.
pub(super) const SEGMENT: usize = 512 * 1024;

/// The longest body of any other frame.
const BODY: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Operation { sequence: u64, operation: Operation },
    Data { length: usize },
    Abort(Cause),
    Probe { sequence: u64 },
    Alive { sequence: u64, started: bool },
    Farewell,
}

impl Frame {
    /// Appends the frame; of a data frame only the header.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let (kind, body) = match self {
            Frame::Operation { sequence, operation } => {
                let mut body = sequence.to_le_bytes().to_vec();
                body.extend_from_slice(&operation.encode());
                (1, body)
            }
            Frame::Data { length } => return push_header(out, 2, *length),
            Frame::Abort(cause) => {
                let mut body = Vec::new();
                cause.encode(&mut body);
                (3, body)
            }
            Frame::Probe { sequence } => (4, sequence.to_le_bytes().to_vec()),
            Frame::Alive { sequence, started } => {
                let mut body = sequence.to_le_bytes().to_vec();
                body.push(u8::from(*started));
                (5, body)
            }
            Frame::Farewell => (6, Vec::new()),
        };
        push_header(out, kind, body.len());
        out.extend_from_slice(&body);
    }

    /// The frame that `bytes` begin with and its length (of a data frame: the header's). None when bytes are missing.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Frame, usize)>, String> {
        let Some(([kind, _, _, _, length @ ..], rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        let longest = if *kind == 2 { SEGMENT } else { BODY };
        if length > longest {
            return Err(format!("a frame of kind {kind} claims {length} bytes"));
        }
        if *kind == 2 {
            return Ok(Some((Frame::Data { length }, HEADER)));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let frame = decode(*kind, body).ok_or_else(|| format!("a frame of kind {kind} makes no sense"))?;
        Ok(Some((frame, HEADER + length)))
    }
}

fn push_header(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn decode(kind: u8, body: &[u8]) -> Option<Frame> {
    let sequence = || body.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    Some(match kind {
        1 => Frame::Operation {
            sequence: sequence()?,
            operation: Operation::decode(*body.get(8..)?.first_chunk::<{ Operation::ENCODED }>()?)?,
        },
        3 => Frame::Abort(Cause::decode(body)?),
        4 => Frame::Probe { sequence: sequence()? },
        5 => Frame::Alive { sequence: sequence()?, started: *body.get(8)? != 0 },
        6 => Frame::Farewell,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Kind;

    #[test]
    fn frames_survive_the_wire_and_wait_for_their_last_byte() {
        for frame in [
            Frame::Operation { sequence: 7, operation: Operation::plain(Kind::Barrier) },
            Frame::Abort(Cause::Lost { rank: 2, detail: "gone".into() }),
            Frame::Probe { sequence: u64::MAX },
            Frame::Alive { sequence: 1, started: true },
            Frame::Farewell,
            Frame::Data { length: SEGMENT },
        ] {
            let mut bytes = Vec::new();
            frame.push(&mut bytes);
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
    }
}
