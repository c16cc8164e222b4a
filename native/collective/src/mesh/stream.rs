//! A connection to a peer, whatever it is made of. Nonblocking.

use super::tls::{BACKLOG, TlsStream};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// What can be waited for while somebody else reads and writes the stream.
pub(super) type Handle = Arc<dyn AsFd + Send + Sync>;

pub(super) enum Stream {
    Tcp(Arc<TcpStream>),
    Unix(Arc<UnixStream>),
    /// With another handle to the same socket, to wait on.
    Tls(Box<TlsStream>, Arc<TcpStream>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream::Tcp(Arc::new(stream))
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Stream {
        Stream::Unix(Arc::new(stream))
    }
}

impl Stream {
    /// The connection under TLS.
    pub(super) fn tls(stream: TlsStream) -> io::Result<Stream> {
        let handle = Arc::new(stream.tcp().try_clone()?);
        Ok(Stream::Tls(Box::new(stream), handle))
    }

    pub(super) fn handle(&self) -> Handle {
        match self {
            Stream::Tcp(stream) => Arc::clone(stream) as Handle,
            Stream::Unix(stream) => Arc::clone(stream) as Handle,
            Stream::Tls(_, handle) => Arc::clone(handle) as Handle,
        }
    }

    /// Whether bytes that were written are not yet with the kernel: the stream must be flushed when it is writable.
    pub(super) fn backlog(&self) -> bool {
        matches!(self, Stream::Tls(stream, _) if stream.wants_write())
    }

    /// Whether there may be something to read although the socket shows nothing.
    pub(super) fn has_buffered(&self) -> bool {
        matches!(self, Stream::Tls(stream, _) if stream.has_buffered())
    }

    /// Whether to wait until the socket is writable, where something is `pending` that the stream has not taken.
    pub(super) fn waits_to_write(&self, pending: bool) -> bool {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => pending,
            // It takes nothing more before the handshake is over, whatever the socket says.
            Stream::Tls(stream, _) => stream.wants_write(),
        }
    }

    /// Writes both, as far as possible at once.
    pub(super) fn write_both(&mut self, head: &[u8], payload: &[u8]) -> io::Result<usize> {
        if payload.is_empty() {
            return self.write(head);
        }
        if head.is_empty() {
            return self.write(payload);
        }
        // Not `write_vectored`: that raises SIGPIPE where the process does not ignore it.
        let slices = [IoSlice::new(head), IoSlice::new(payload)];
        let mut control = SendAncillaryBuffer::default();
        match self {
            Stream::Tcp(stream) => sendmsg(&**stream, &slices, &mut control, SendFlags::NOSIGNAL),
            Stream::Unix(stream) => sendmsg(&**stream, &slices, &mut control, SendFlags::NOSIGNAL),
            Stream::Tls(stream, _) => return stream.write_vectored(&slices),
        }
        .map_err(io::Error::from)
    }

    /// Says that nothing more will be written. The peer reads what was written before, then the end.
    pub(super) fn end(&mut self) {
        // Fails only when the connection is gone already.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tls(stream, handle) => stream.shutdown_write().and_then(|_| handle.shutdown(Shutdown::Write)),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&**stream).read(into),
            Stream::Unix(stream) => (&**stream).read(into),
            Stream::Tls(stream, _) => stream.read(into),
        }
    }

    fn read_vectored(&mut self, into: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&**stream).read_vectored(into),
            Stream::Unix(stream) => (&**stream).read_vectored(into),
            // What follows comes with the next read.
            Stream::Tls(stream, _) => match into.iter_mut().find(|slice| !slice.is_empty()) {
                // It reads until nothing more comes: not for ever, while others wait.
                Some(slice) => {
                    let length = slice.len().min(BACKLOG);
                    stream.read(slice.get_mut(..length).unwrap_or_default())
                }
                None => Ok(0),
            },
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&**stream).write(bytes),
            Stream::Unix(stream) => (&**stream).write(bytes),
            Stream::Tls(stream, _) => stream.write(bytes),
        }
    }

    /// Gives the kernel what it takes of the backlog.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => Ok(()),
            Stream::Tls(stream, _) => stream.flush_backlog().map(|_| ()),
        }
    }
}
