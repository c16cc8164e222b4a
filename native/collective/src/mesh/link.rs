//! A link to one peer: a stream of bytes each way, over a connection or through shared memory.
//!
//! A link only moves bytes; what they mean is the [engine](super::engine)'s business. Every call returns at once.
//!
//! What comes in is *held* until it is consumed: by a connection in a scratch buffer that should stay in a core's cache,
//! by shared memory where the peer has put it, so that it is folded from there without a copy.

use super::memory::{Reader, Writer};
use super::stream::{Handle, Stream};
use super::waker::Waker;
use rustix::event::PollFlags;
use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::sync::Arc;

/// The most that a connection reads at once. No more than a core's second-level cache holds beside the other operand.
pub(super) const SCRATCH: usize = 512 * 1024;

/// Read at once where no long message is expected.
const GLANCE: usize = 4096;

/// What a read or write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Bytes(usize),
    /// Nothing now: wait until the link is ready.
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

    pub(super) fn push(&mut self, frame: &super::frame::Frame) {
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

pub(super) enum Link {
    Connection(Connection),
    Shared(Shared),
}

impl Link {
    /// Writes as much of `head`, then of `payload`, as goes now. Returns the bytes of both that were taken.
    pub(super) fn write(&mut self, head: &[u8], payload: &[u8]) -> io::Result<Moved> {
        match self {
            Link::Connection(link) => moved(link.stream.write_both(head, payload), Moved::Later),
            Link::Shared(link) => link.write(head, payload),
        }
    }

    /// Whether bytes that were written have not left: [`Link::flush`] goes on with them.
    pub(super) fn backlog(&self) -> bool {
        matches!(self, Link::Connection(link) if link.stream.backlog())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Link::Connection(link) => link.stream.flush(),
            Link::Shared(_) => Ok(()),
        }
    }

    /// Whether there may be something to read although no poll shows it.
    pub(super) fn is_quietly_readable(&self) -> bool {
        match self {
            Link::Connection(link) => link.stream.has_buffered(),
            Link::Shared(_) => true,
        }
    }

    /// Bytes that have come and are not consumed.
    pub(super) fn held(&self) -> &[u8] {
        match self {
            Link::Connection(link) => link.scratch.get(link.start..link.end).unwrap_or(&[]),
            Link::Shared(link) => link.reader.held(),
        }
    }

    pub(super) fn consume(&mut self, count: usize) {
        match self {
            Link::Connection(link) => {
                link.start = link.end.min(link.start + count);
                if link.start == link.end {
                    link.start = 0;
                    link.end = 0;
                }
            }
            Link::Shared(link) => {
                if link.reader.consume(count) {
                    link.peer.wake();
                }
            }
        }
    }

    /// Looks for more bytes to hold, where about `expected` are to come.
    pub(super) fn fill(&mut self, expected: usize) -> io::Result<Moved> {
        match self {
            Link::Connection(link) => link.fill(expected),
            Link::Shared(link) => link.fill(),
        }
    }

    /// Whether [`Link::read_into`] saves a copy. Through shared memory it does not.
    pub(super) fn reads_directly(&self) -> bool {
        matches!(self, Link::Connection(_))
    }

    /// Reads straight into `target`, and what follows is held. Nothing may be held before.
    pub(super) fn read_into(&mut self, target: &mut [u8]) -> io::Result<Moved> {
        match self {
            Link::Connection(link) => link.read_into(target),
            Link::Shared(_) => Ok(Moved::Later),
        }
    }

    /// Says that this side is about to sleep, until bytes come (`reading`), or there is room (`writing`). False when
    /// there is no need to sleep.
    pub(super) fn sleep(&mut self, reading: bool, writing: bool) -> io::Result<bool> {
        match self {
            // The kernel tells, of what it has.
            Link::Connection(link) => Ok(!reading || !link.stream.has_buffered()),
            Link::Shared(link) => Ok((!reading || link.reader.sleep()?) && (!writing || link.writer.sleep()?)),
        }
    }

    /// Whether the peer's process is gone, where reading does not tell: from shared memory. What it has written before is
    /// there to be read all the same.
    pub(super) fn deserted(&mut self) -> bool {
        match self {
            Link::Connection(_) => false,
            Link::Shared(link) => {
                matches!(moved(link.presence.read(&mut [0; 16]), Moved::End), Ok(Moved::End) | Err(_))
            }
        }
    }

    /// What to poll, and for what. Shared memory has a waker for the rest; its connection only tells of the end.
    pub(super) fn interest(&self, reading: bool, writing: bool) -> PollFlags {
        let mut flags = PollFlags::RDHUP;
        if let Link::Connection(link) = self {
            flags.set(PollFlags::IN, reading);
            flags.set(PollFlags::OUT, link.stream.waits_to_write(writing));
        }
        flags
    }

    pub(super) fn handle(&self) -> Handle {
        match self {
            Link::Connection(link) => link.stream.handle(),
            Link::Shared(link) => link.presence.handle(),
        }
    }

    /// How it is made, for the log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Link::Connection(Connection { stream: Stream::Tcp(_), .. }) => "TCP",
            Link::Connection(Connection { stream: Stream::Unix(_), .. }) => "a local socket",
            Link::Connection(Connection { stream: Stream::Tls(..), .. }) => "TLS",
            Link::Shared(_) => "shared memory",
        }
    }

    /// Says that nothing more will be written.
    pub(super) fn end(&mut self) {
        match self {
            Link::Connection(link) => link.stream.end(),
            Link::Shared(link) => {
                if link.writer.close() {
                    link.peer.wake();
                }
                link.presence.end();
            }
        }
    }

    /// Reads and throws away. True at the end.
    pub(super) fn discard(&mut self) -> bool {
        // Bounded, so that a peer that goes on sending does not hold this thread.
        for _ in 0..16 {
            let held = self.held().len();
            self.consume(held);
            match self.fill(SCRATCH) {
                Ok(Moved::Bytes(_)) => {}
                Ok(Moved::Later) => return false,
                Ok(Moved::End) | Err(_) => return true,
            }
        }
        false
    }
}

pub(super) struct Connection {
    pub(super) stream: Stream,
    scratch: Vec<u8>,
    start: usize,
    end: usize,
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Connection {
        Connection { stream, scratch: Vec::new(), start: 0, end: 0 }
    }

    /// Makes room to hold about `expected` more bytes, and at least some.
    fn make_room(&mut self, expected: usize) {
        // Only a piece of an element or of a frame is held when more is asked for, so moving it to the front is cheap.
        if self.start > 0 {
            self.scratch.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let wanted = self.end + expected.clamp(GLANCE, SCRATCH);
        if self.scratch.len() < wanted {
            self.scratch.resize(wanted, 0);
        }
    }

    fn fill(&mut self, expected: usize) -> io::Result<Moved> {
        self.make_room(expected);
        let room = self.scratch.get_mut(self.end..).unwrap_or_default();
        let result = moved(self.stream.read(room), Moved::End)?;
        if let Moved::Bytes(count) = result {
            self.end += count;
        }
        Ok(result)
    }

    fn read_into(&mut self, target: &mut [u8]) -> io::Result<Moved> {
        self.make_room(0);
        let wanted = target.len();
        let mut slices = [IoSliceMut::new(target), IoSliceMut::new(&mut self.scratch)];
        let result = moved(self.stream.read_vectored(&mut slices), Moved::End)?;
        Ok(match result {
            Moved::Bytes(count) => {
                self.end = count.saturating_sub(wanted);
                Moved::Bytes(count.min(wanted))
            }
            other => other,
        })
    }
}

/// Two rings in shared memory. The connection over which the memory was agreed stays open: its end is the peer's.
pub(super) struct Shared {
    writer: Writer,
    reader: Reader,
    presence: Stream,
    /// Wakes the peer's progress thread.
    peer: Arc<Waker>,
}

impl Shared {
    pub(super) fn new((writer, reader): (Writer, Reader), presence: Stream, peer: Arc<Waker>) -> Shared {
        Shared { writer, reader, presence, peer }
    }

    fn write(&mut self, head: &[u8], payload: &[u8]) -> io::Result<Moved> {
        let mut count = self.writer.write(head)?;
        if count == head.len() {
            count += self.writer.write(payload)?;
        }
        if count == 0 && !(head.is_empty() && payload.is_empty()) {
            return Ok(Moved::Later);
        }
        if self.writer.publish() {
            self.peer.wake();
        }
        Ok(Moved::Bytes(count))
    }

    fn fill(&mut self) -> io::Result<Moved> {
        let before = self.reader.held().len();
        let more = |reader: &mut Reader| -> io::Result<Option<Moved>> {
            Ok(reader.refresh()?.then(|| Moved::Bytes(reader.held().len().saturating_sub(before))))
        };
        if let Some(moved) = more(&mut self.reader)? {
            return Ok(moved);
        }
        if self.reader.closed() {
            // It closed after its last word, so that word is there to be seen now.
            return Ok(more(&mut self.reader)?.unwrap_or(Moved::End));
        }
        Ok(Moved::Later)
    }
}
