//! The two ends of a rank's links: [`Inbound`] from the previous rank, [`Outbound`] to the next.
//!
//! Both only move bytes and remember what is half done; what the bytes mean is the [ring](super::ring)'s business.
//! Every call returns at once.

use super::frame::Frame;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

/// What is read at once and folded from cache: no more than a core's second-level cache holds beside the other operand.
const SCRATCH: usize = 512 * 1024;

/// What a read or write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Bytes(usize),
    /// Nothing now: wait until the socket is ready.
    Later,
    /// The peer has closed its side.
    End,
}

fn moved(result: io::Result<usize>, zero: Moved) -> io::Result<Moved> {
    match result {
        Ok(0) => Ok(zero),
        Ok(count) => Ok(Moved::Bytes(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Moved::Later),
        // The caller comes back: the socket is still ready.
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Moved::Later),
        Err(error) => Err(error),
    }
}

/// Bytes waiting to be written, in order.
#[derive(Default)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    written: usize,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.written >= self.bytes.len()
    }

    pub(super) fn push(&mut self, frame: &Frame) {
        frame.push(&mut self.bytes);
    }

    pub(super) fn push_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or(&[])
    }

    /// Counts `count` bytes as written and returns how many of them were beyond the end.
    pub(super) fn advance(&mut self, count: usize) -> usize {
        let own = count.min(self.rest().len());
        self.written += own;
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
        }
        count - own
    }

    pub(super) fn clear(&mut self) {
        *self = Pending::default();
    }
}

/// Payload from the previous rank; a little news back to it.
pub(super) struct Inbound {
    pub(super) socket: Arc<TcpStream>,
    scratch: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes of the current data frame that have not been consumed.
    pub(super) left: usize,
    /// What goes back against the stream.
    pub(super) back: Pending,
    /// Nothing more will be read.
    pub(super) closed: bool,
    /// The socket may have something to read.
    pub(super) readable: bool,
    /// The next frame belongs to an operation that this rank has not started: nothing more is read until it does.
    pub(super) paused: bool,
    /// The peer has closed behind bytes that nobody wants yet.
    pub(super) ending: bool,
    /// The previous rank has said farewell.
    pub(super) left_group: bool,
}

impl Inbound {
    pub(super) fn new(socket: Arc<TcpStream>) -> Inbound {
        Inbound {
            socket,
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            start: 0,
            end: 0,
            left: 0,
            back: Pending::default(),
            closed: false,
            readable: false,
            paused: false,
            ending: false,
            left_group: false,
        }
    }

    /// Bytes read and not consumed.
    pub(super) fn held(&self) -> &[u8] {
        self.scratch.get(self.start..self.end).unwrap_or(&[])
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Reads what is there into the scratch.
    pub(super) fn fill(&mut self) -> io::Result<Moved> {
        // Only a piece of an element or of a frame is ever held here, so moving it to the front costs nothing.
        self.scratch.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = self.scratch.get_mut(self.end..).unwrap_or_default();
        let result = moved((&*self.socket).read(room), Moved::End)?;
        if let Moved::Bytes(count) = result {
            self.end += count;
        }
        Ok(result)
    }

    /// Reads straight into `target`, and what follows into the scratch, which must be empty. Returns what `target` got.
    pub(super) fn read_into(&mut self, target: &mut [u8]) -> io::Result<Moved> {
        let wanted = target.len();
        let mut slices = [IoSliceMut::new(target), IoSliceMut::new(&mut self.scratch)];
        let result = moved((&*self.socket).read_vectored(&mut slices), Moved::End)?;
        Ok(match result {
            Moved::Bytes(count) => {
                self.end = count.saturating_sub(wanted);
                Moved::Bytes(count.min(wanted))
            }
            other => other,
        })
    }

    /// Writes what is to go back, as far as the socket takes it.
    pub(super) fn write_back(&mut self) -> io::Result<()> {
        flush(&self.socket, &mut self.back)
    }

    /// Reads and throws away. True at the end.
    pub(super) fn discard(&mut self) -> bool {
        self.start = 0;
        self.end = 0;
        drain(&self.socket, &mut self.scratch)
    }
}

/// Payload to the next rank; a little news from it.
pub(super) struct Outbound {
    pub(super) socket: Arc<TcpStream>,
    /// Frames and headers to write before the rest of the data frame.
    pub(super) head: Pending,
    /// Bytes of the current data frame that have not been written.
    pub(super) left: usize,
    /// The socket takes nothing more for now.
    pub(super) full: bool,
    /// The socket may have news to read.
    pub(super) readable: bool,
    news: Vec<u8>,
    /// Nothing more will be read.
    pub(super) closed: bool,
    /// The next rank has said farewell.
    pub(super) left_group: bool,
}

impl Outbound {
    pub(super) fn new(socket: Arc<TcpStream>) -> Outbound {
        Outbound {
            socket,
            head: Pending::default(),
            left: 0,
            full: false,
            readable: false,
            news: Vec::new(),
            closed: false,
            left_group: false,
        }
    }

    /// True between two frames: only then may another frame begin.
    pub(super) fn between_frames(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }

    /// Writes what is due and then `payload`, the next bytes of the data frame. Returns how many of those were taken.
    pub(super) fn write(&mut self, payload: &[u8]) -> io::Result<Moved> {
        let result = if payload.is_empty() {
            (&*self.socket).write(self.head.rest())
        } else if self.head.is_empty() {
            (&*self.socket).write(payload)
        } else {
            // Not `write_vectored`: that raises SIGPIPE where the process does not ignore it.
            let slices = [IoSlice::new(self.head.rest()), IoSlice::new(payload)];
            sendmsg(&*self.socket, &slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
                .map_err(io::Error::from)
        };
        let result = moved(result, Moved::Later)?;
        self.full = result == Moved::Later;
        Ok(match result {
            Moved::Bytes(count) => {
                let taken = self.head.advance(count);
                self.left -= taken.min(self.left);
                Moved::Bytes(taken)
            }
            other => other,
        })
    }

    /// Writes what is due; for the time when there is no payload any more.
    pub(super) fn write_head(&mut self) -> io::Result<()> {
        flush(&self.socket, &mut self.head)
    }

    /// Reads news from the next rank.
    pub(super) fn hear(&mut self) -> io::Result<Moved> {
        let mut bytes = [0; 1024];
        let result = moved((&*self.socket).read(&mut bytes), Moved::End)?;
        if let Moved::Bytes(count) = result {
            self.news.extend_from_slice(bytes.get(..count).unwrap_or_default());
        }
        Ok(result)
    }

    /// The next frame of the news.
    pub(super) fn news(&mut self) -> Result<Option<Frame>, String> {
        let Some((frame, length)) = Frame::parse(&self.news)? else { return Ok(None) };
        self.news.drain(..length.min(self.news.len()));
        Ok(Some(frame))
    }

    /// Reads and throws away. True at the end.
    pub(super) fn discard(&mut self) -> bool {
        drain(&self.socket, &mut [0; 1024])
    }
}

/// Says that nothing more will be written. The peer reads what was written before, then the end.
pub(super) fn end(socket: &TcpStream) {
    // Fails only when the connection is gone already.
    let _ = socket.shutdown(Shutdown::Write);
}

fn flush(mut socket: &TcpStream, pending: &mut Pending) -> io::Result<()> {
    while !pending.is_empty() {
        match moved(socket.write(pending.rest()), Moved::Later)? {
            Moved::Bytes(count) => pending.advance(count),
            Moved::Later | Moved::End => return Ok(()),
        };
    }
    Ok(())
}

fn drain(mut socket: &TcpStream, into: &mut [u8]) -> bool {
    // Bounded, so that a peer that goes on sending does not hold this thread.
    for _ in 0..16 {
        match moved(socket.read(into), Moved::End) {
            Ok(Moved::Bytes(_)) => {}
            Ok(Moved::Later) => return false,
            Ok(Moved::End) | Err(_) => return true,
        }
    }
    false
}
