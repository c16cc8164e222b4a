//! TLS for links over a network: each rank has a certificate of its own for one run, and the roster pins it.
//!
//! There are no names, no clocks and no authorities. A rank makes a key and a self-signed certificate when it starts,
//! publishes the certificate's SHA-256 in the roster, and both ends of a connection accept exactly the certificates
//! whose fingerprints the roster has. The handshake's signature is verified as ever, so a copied certificate is worth
//! nothing without its key. Only TLS 1.3 is spoken, nothing is resumed, and the keys die with the process.
//!
//! # What a stream promises
//! - **It never blocks.** Reading and writing fail with [`ErrorKind::WouldBlock`] when nothing can be done now. The
//!   handshake goes on inside both; until it is over, no byte of the caller's is taken or given.
//! - **It buffers little.** A write takes bytes only when all earlier ciphertext has left, and at most [`BACKLOG`] of
//!   them. What the socket did not take is sent by the next write, read or [`TlsStream::flush_backlog`].
//! - **An end is an end only if the peer said so.** Its close_notify reads as 0 bytes. A connection that just ends, in
//!   the middle of a record or between two, is [`ErrorKind::UnexpectedEof`]: whoever cuts the wire cannot shorten the
//!   data unnoticed.
//!
//! # Waiting for it
//! Poll the socket for input always, and for output while [`TlsStream::wants_write`]. But first read while
//! [`TlsStream::has_buffered`]: bytes that the stream has taken from the socket are not seen by poll.
//!
//! A client has finished the handshake before the server has judged its certificate: a refusal shows in its first
//! read, as [`ErrorKind::PermissionDenied`].

mod failure;
mod identity;

use crate::error::Error;
use failure::Failure;
use identity::Fingerprint;
pub(crate) use identity::Identity;
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::pki_types::ServerName;
use rustls::server::{NoServerSessionStorage, ServerConfig, ServerConnection};
use rustls::{Connection, version};
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Bytes that one write takes at most: whole records of 16 KiB. More would wait in memory instead of in the socket.
pub(crate) const BACKLOG: usize = 256 * 1024;

/// Ciphertext that one system call takes from the socket. rustls alone asks for 4 KiB at a time.
const INBOX: usize = 64 * 1024;

/// A TCP connection under TLS, with both ends' certificates pinned. See the [module](self).
pub(crate) struct TlsStream {
    tcp: TcpStream,
    session: Connection,
    inbox: Inbox,
    /// Decrypted bytes that the session holds.
    waiting: usize,
    /// The peer has sent its close_notify.
    peer_closed: bool,
    /// We have.
    closed: bool,
    failure: Option<Failure>,
}

impl TlsStream {
    /// Begins the handshake as the end that dialled. Only the certificate of `expected_fingerprint` is accepted.
    ///
    /// Nothing is sent yet: the stream may be still connecting. Makes it nonblocking.
    pub(crate) fn connect(tcp: TcpStream, identity: &Identity, expected_fingerprint: &str) -> Result<TlsStream, Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(identity.provider()))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(unsupported)?
            .dangerous()
            .with_custom_certificate_verifier(identity.pin(&[expected_fingerprint])?)
            .with_client_cert_resolver(identity.credentials());
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        // rustls asks for a name. The pin looks at none, and an address is not sent.
        let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        let session = ClientConnection::new(Arc::new(config), nobody).map_err(unsupported)?;
        TlsStream::new(tcp, session.into())
    }

    /// Begins the handshake as the end that was dialled. Every certificate of `known` is accepted, and none other;
    /// [`TlsStream::peer_fingerprint`] tells which it was. Makes the stream nonblocking.
    pub(crate) fn accept(tcp: TcpStream, identity: &Identity, known: &[String]) -> Result<TlsStream, Error> {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let mut config = ServerConfig::builder_with_provider(Arc::clone(identity.provider()))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(unsupported)?
            .with_client_cert_verifier(identity.pin(&known)?)
            .with_cert_resolver(identity.credentials());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let session = ServerConnection::new(Arc::new(config)).map_err(unsupported)?;
        TlsStream::new(tcp, session.into())
    }

    fn new(tcp: TcpStream, mut session: Connection) -> Result<TlsStream, Error> {
        tcp.set_nonblocking(true).map_err(|error| Error::io("preparing a connection for TLS", error))?;
        session.set_buffer_limit(Some(BACKLOG));
        Ok(TlsStream {
            tcp,
            session,
            inbox: Inbox::new(),
            waiting: 0,
            peer_closed: false,
            closed: false,
            failure: None,
        })
    }

    /// Whether the handshake still goes on, as far as this end can tell.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Whose certificate the peer has shown, once the handshake is over.
    pub(crate) fn peer_fingerprint(&self) -> Option<String> {
        if self.is_handshaking() {
            return None;
        }
        self.session.peer_certificates()?.first().map(|certificate| Fingerprint::of(certificate).to_string())
    }

    /// Whether ciphertext waits until the socket takes it.
    pub(crate) fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    /// Whether the stream holds bytes that poll does not show: a read may give some although the socket is silent.
    /// Never so after a read that would have blocked.
    pub(crate) fn has_buffered(&self) -> bool {
        self.waiting > 0 || !self.inbox.is_empty()
    }

    /// Sends waiting ciphertext; true when none is left.
    pub(crate) fn flush_backlog(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut &self.tcp) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Tells the peer that nothing more will come; later writes fail. What waits goes out first. True when all is sent:
    /// otherwise [`TlsStream::flush_backlog`] goes on. Reading goes on as before.
    pub(crate) fn shutdown_write(&mut self) -> io::Result<bool> {
        if !self.closed {
            self.closed = true;
            self.session.send_close_notify();
        }
        self.flush_backlog()
    }

    /// The connection below, for its options. Reading or writing it would break the TLS.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Carries the handshake on as far as the socket allows; true when it is over.
    ///
    /// Reading and writing do it too; this is for those who want to know the peer before they say anything.
    pub(crate) fn handshake(&mut self) -> io::Result<bool> {
        loop {
            self.check()?;
            self.flush_or_explain()?;
            if !self.is_handshaking() {
                return Ok(true);
            }
            if !self.receive()? {
                return Ok(false);
            }
        }
    }

    /// A peer that refuses this end says why and leaves. Sending may fail before its alert was read: look for it.
    fn flush_or_explain(&mut self) -> io::Result<bool> {
        let failed = match self.flush_backlog() {
            Ok(empty) => return Ok(empty),
            Err(error) => error,
        };
        loop {
            match self.receive() {
                // After its close_notify a peer says nothing more.
                Ok(true) if !self.peer_closed => {}
                Err(alert) if alert.kind() == ErrorKind::PermissionDenied => return Err(alert),
                _ => return Err(failed),
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        self.failure.as_ref().map_or(Ok(()), |failure| Err(failure.to_io()))
    }

    fn fail(&mut self, failure: Failure) -> io::Error {
        let error = failure.to_io();
        self.failure.get_or_insert(failure);
        error
    }

    /// Takes some ciphertext in and decrypts what is complete; false when the socket has nothing now.
    fn receive(&mut self) -> io::Result<bool> {
        let handshaking = self.is_handshaking();
        let count = match self.session.read_tls(&mut self.inbox.over(&self.tcp)) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        match self.session.process_new_packets() {
            Ok(state) => {
                self.waiting = state.plaintext_bytes_to_read();
                self.peer_closed |= state.peer_has_closed();
            }
            Err(error) => {
                // The alert tells the peer why. It may not get through, and this end's failure is the one to report.
                let _ = self.flush_backlog();
                return Err(self.fail(Failure::new(error, handshaking)));
            }
        }
        if count == 0 && !self.peer_closed {
            return Err(self.fail(if handshaking { Failure::CutInHandshake } else { Failure::Cut }));
        }
        if self.wants_write() {
            // An answer of the handshake, or new keys. If the socket fails, the next write says so.
            let _ = self.flush_backlog();
        }
        Ok(true)
    }

    /// Encrypts with `take` once the way is free, and sends.
    fn send(&mut self, take: impl FnOnce(&mut rustls::Writer<'_>) -> io::Result<usize>) -> io::Result<usize> {
        if self.closed {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "this end of the TLS connection was closed"));
        }
        // Only onto an empty backlog: filling what little room is left would cut the data into tiny records.
        if !self.handshake()? || !self.flush_or_explain()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = take(&mut self.session.writer())?;
        // The bytes are taken: were the socket's failure reported now, the caller would not know. The next call fails.
        let _ = self.flush_backlog();
        Ok(taken)
    }
}

fn unsupported(error: rustls::Error) -> Error {
    Error::io("setting TLS 1.3 up", io::Error::other(error))
}

impl Read for TlsStream {
    /// Decrypted bytes, until `buffer` is full or the socket has nothing more now.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            if self.waiting > 0 {
                let count = self.session.reader().read(room)?;
                self.waiting = self.waiting.saturating_sub(count);
                filled += count;
                continue;
            }
            if self.peer_closed {
                break;
            }
            let received = self.check().and_then(|()| {
                if self.is_handshaking() {
                    self.flush_or_explain()?;
                }
                self.receive()
            });
            match received {
                Ok(true) => {}
                // What was read comes first; an end or a failure shows again in the next read.
                _ if filled > 0 => break,
                Ok(false) => return Err(ErrorKind::WouldBlock.into()),
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl Write for TlsStream {
    /// Encrypts some of `buffer`, [`BACKLOG`] at most, and sends it as far as the socket allows.
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.send(|writer| writer.write(buffer))
    }

    /// The same for several slices as if they were one: a short head shares the record of what follows.
    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send(|writer| writer.write_vectored(buffers))
    }

    /// [`TlsStream::flush_backlog`], failing with [`ErrorKind::WouldBlock`] when something is left.
    fn flush(&mut self) -> io::Result<()> {
        if self.flush_backlog()? { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    }
}

impl AsFd for TlsStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("tcp", &self.tcp)
            .field("peer", &self.peer_fingerprint())
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// Ciphertext between the socket and rustls.
struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    fn new() -> Inbox {
        Inbox { bytes: vec![0; INBOX].into_boxed_slice(), start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn over<'a>(&'a mut self, tcp: &'a TcpStream) -> Refill<'a> {
        Refill { inbox: self, tcp }
    }
}

/// Reads the inbox, and the socket when that is empty.
struct Refill<'a> {
    inbox: &'a mut Inbox,
    tcp: &'a TcpStream,
}

impl Read for Refill<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Inbox { bytes, start, end } = &mut *self.inbox;
        while start == end {
            match self.tcp.read(bytes) {
                Ok(0) => return Ok(0),
                Ok(count) => (*start, *end) = (0, count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let count = bytes.get(*start..*end).unwrap_or_default().read(buffer)?;
        *start += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
