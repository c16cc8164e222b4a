//! A connection whose handshake is under way.

use super::handshake::{self, Nonce};
use super::link::Pending;
use super::socket;
use super::stream::{Handle, Stream};
use crate::error::Error;
use rustix::event::PollFlags;
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// How long one conversation may take. Peers answer within milliseconds unless their machine is overloaded.
pub(super) const CONVERSATION: Duration = Duration::from_secs(10);

pub(super) struct Talk {
    pub(super) stream: Stream,
    heard: Vec<u8>,
    say: Pending,
    /// When it has taken too long.
    pub(super) until: Instant,
    /// Our nonce.
    pub(super) nonce: Nonce,
}

impl Talk {
    pub(super) fn new(stream: Stream) -> Result<Talk, Error> {
        socket::tune(&stream).map_err(|error| Error::io("preparing a connection", error))?;
        Ok(Talk {
            stream,
            heard: Vec::new(),
            say: Pending::default(),
            until: Instant::now() + CONVERSATION,
            nonce: handshake::nonce()?,
        })
    }

    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.say.push_bytes(bytes);
    }

    /// Writes what is to be said, and reads a message of `length` bytes but not one more: what follows is not the
    /// handshake's. None: not yet.
    pub(super) fn pump(&mut self, length: usize) -> io::Result<Option<Vec<u8>>> {
        while !self.say.is_empty() {
            match self.stream.write(self.say.rest()) {
                Ok(count) => {
                    self.say.advance(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.stream.flush().or_else(|error| if error.kind() == ErrorKind::WouldBlock { Ok(()) } else { Err(error) })?;
        let mut buffer = [0; 64];
        while self.heard.len() < length {
            let room = buffer.get_mut(..(length - self.heard.len()).min(64)).unwrap_or_default();
            match self.stream.read(room) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.heard.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(std::mem::take(&mut self.heard)))
    }

    /// Whether the other side has not said a word.
    pub(super) fn has_heard_nothing(&self) -> bool {
        self.heard.is_empty()
    }

    pub(super) fn watch(&self) -> (Handle, PollFlags) {
        let writing = self.stream.waits_to_write(!self.say.is_empty());
        (self.stream.handle(), if writing { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN })
    }
}
