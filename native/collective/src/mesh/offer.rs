//! How two ranks of one machine agree on shared memory, over a local connection on which both have proved themselves.
//!
//! ```text
//! connector -> acceptor   offer    capacity (u64); with it the memory's file, and the connector's waker
//! acceptor -> connector   proof    the nonce that stands in the memory (32); with it the acceptor's waker
//! connector -> acceptor   go       one byte: the proof is right, use the memory
//! ```
//!
//! Files do not travel between machines, and a nonce that was read through the memory shows that both see the same
//! pages. An acceptor that cannot map the memory sends zeros, and the connector uses TCP instead.

use super::link::{Link, Shared};
use super::memory::Memory;
use super::stream::Stream;
use super::waker::Waker;
use crate::secret::random;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Bytes of the ring in each direction. A page that is never written takes no memory.
pub(crate) const CAPACITY: usize = 1024 * 1024;

const OFFER: usize = 8;
const PROOF: usize = 32;
const GO: usize = 1;

/// The connecting side: it has made its offer.
pub(super) struct Offer {
    stream: Arc<UnixStream>,
    /// None once the link is made.
    memory: Option<Memory>,
    nonce: [u8; PROOF],
    post: Post,
}

impl Offer {
    pub(super) fn new(stream: Arc<UnixStream>, waker: &Waker) -> io::Result<Offer> {
        let memory = Memory::create(CAPACITY)?;
        let nonce = random().map_err(io::Error::other)?;
        memory.set_nonce(&nonce);
        send(&stream, &(CAPACITY as u64).to_le_bytes(), &[memory.file(), waker.as_fd()])?;
        Ok(Offer { stream, memory: Some(memory), nonce, post: Post::default() })
    }

    /// The link, once the proof has come.
    pub(super) fn step(&mut self) -> io::Result<Option<Link>> {
        if !self.post.read(&self.stream, PROOF)? {
            return Ok(None);
        }
        if self.post.bytes != self.nonce {
            return Err(io::Error::other("the other process could not read a nonce through the memory"));
        }
        let waker = self.post.files.pop().ok_or_else(|| io::Error::other("the other process sent no waker"))?;
        send(&self.stream, &[1; GO], &[])?;
        let Some(memory) = self.memory.take() else { return Err(ErrorKind::InvalidData.into()) };
        let presence = Stream::Unix(Arc::clone(&self.stream));
        Ok(Some(Link::Shared(Shared::new(memory.ends(0), presence, Arc::new(Waker::of(waker))))))
    }

    pub(super) fn stream(&self) -> Stream {
        Stream::Unix(Arc::clone(&self.stream))
    }
}

/// The accepting side: an offer is to come.
pub(super) struct Acceptance {
    stream: Arc<UnixStream>,
    post: Post,
    mapped: Option<(Memory, OwnedFd)>,
}

impl Acceptance {
    pub(super) fn new(stream: Arc<UnixStream>) -> Acceptance {
        Acceptance { stream, post: Post::default(), mapped: None }
    }

    /// The link, once the connector has said so.
    pub(super) fn step(&mut self, waker: &Waker) -> io::Result<Option<Link>> {
        if self.mapped.is_none() {
            if !self.post.read(&self.stream, OFFER)? {
                return Ok(None);
            }
            let post = std::mem::take(&mut self.post);
            match map(post) {
                Ok((memory, theirs)) => {
                    send(&self.stream, &memory.nonce(), &[waker.as_fd()])?;
                    self.mapped = Some((memory, theirs));
                }
                Err(error) => {
                    send(&self.stream, &[0; PROOF], &[])?;
                    return Err(error);
                }
            }
        }
        if !self.post.read(&self.stream, GO)? {
            return Ok(None);
        }
        let Some((memory, theirs)) = self.mapped.take() else { return Err(ErrorKind::InvalidData.into()) };
        let presence = Stream::Unix(Arc::clone(&self.stream));
        Ok(Some(Link::Shared(Shared::new(memory.ends(1), presence, Arc::new(Waker::of(theirs))))))
    }

    pub(super) fn stream(&self) -> Stream {
        Stream::Unix(Arc::clone(&self.stream))
    }
}

fn map(mut post: Post) -> io::Result<(Memory, OwnedFd)> {
    let missing = || io::Error::other("the offer came without its files");
    let theirs = post.files.pop().ok_or_else(missing)?;
    let file = post.files.pop().ok_or_else(missing)?;
    if post.bytes != (CAPACITY as u64).to_le_bytes() {
        return Err(io::Error::other("the offer is of another size"));
    }
    Ok((Memory::open(file, CAPACITY)?, theirs))
}

/// A message that is coming, and the files that came with it.
#[derive(Default)]
struct Post {
    bytes: Vec<u8>,
    files: Vec<OwnedFd>,
}

impl Post {
    /// Reads up to `length` bytes and not one more. True when they are all there.
    fn read(&mut self, stream: &UnixStream, length: usize) -> io::Result<bool> {
        while self.bytes.len() < length {
            let mut bytes = [0; PROOF];
            let room = bytes.get_mut(..length - self.bytes.len()).unwrap_or_default();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let result = recvmsg(stream, &mut [IoSliceMut::new(room)], &mut control, flags);
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(files) = message {
                    self.files.extend(files);
                }
            }
            match result.map_err(io::Error::from) {
                Ok(message) if message.bytes == 0 => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(message) => self.bytes.extend_from_slice(room.get(..message.bytes).unwrap_or(room)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Sends a few bytes, with files. They fit into an empty send buffer, or the connection is broken.
fn send(stream: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("no room for the files of a message"));
    }
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::link::Moved;

    fn pair() -> (Arc<UnixStream>, Arc<UnixStream>) {
        let (here, there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        there.set_nonblocking(true).unwrap();
        (Arc::new(here), Arc::new(there))
    }

    #[test]
    fn two_sides_agree_on_memory_and_wake_each_other() {
        let (here, there) = pair();
        let (our_waker, their_waker) = (Waker::new().unwrap(), Waker::new().unwrap());
        let mut acceptance = Acceptance::new(there);
        assert!(acceptance.step(&their_waker).unwrap().is_none());
        let mut offer = Offer::new(here, &our_waker).unwrap();
        assert!(acceptance.step(&their_waker).unwrap().is_none());
        let mut ours = offer.step().unwrap().unwrap();
        let mut theirs = acceptance.step(&their_waker).unwrap().unwrap();

        assert!(theirs.sleep(true, false).unwrap());
        assert_eq!(ours.write(b"he", b"llo").unwrap(), Moved::Bytes(5));
        assert!(rustix::io::read(their_waker.as_fd(), &mut [0u8; 8]).is_ok(), "the reader was woken");
        assert_eq!(theirs.fill(0).unwrap(), Moved::Bytes(5));
        assert_eq!(theirs.held(), b"hello");
        theirs.consume(5);
        ours.end();
        assert_eq!(theirs.fill(0).unwrap(), Moved::End);
    }

    #[test]
    fn a_proof_that_was_not_read_through_the_memory_is_refused() {
        let (here, there) = pair();
        let mut offer = Offer::new(here, &Waker::new().unwrap()).unwrap();
        let waker = Waker::new().unwrap();
        send(&there, &[7; PROOF], &[waker.as_fd()]).unwrap();
        assert!(offer.step().err().unwrap().to_string().contains("nonce"));
    }

    #[test]
    fn an_offer_without_files_is_answered_with_zeros() {
        let (here, there) = pair();
        let mut acceptance = Acceptance::new(there);
        send(&here, &(CAPACITY as u64).to_le_bytes(), &[]).unwrap();
        assert!(acceptance.step(&Waker::new().unwrap()).is_err());
        let mut post = Post::default();
        assert!(post.read(&here, PROOF).unwrap());
        assert_eq!(post.bytes, [0; PROOF]);
    }
}
