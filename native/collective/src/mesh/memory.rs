//! Memory that two processes share, as two byte rings, one for each direction.
#![allow(unsafe_code, reason = "mapped memory")]
//!
//! # Layout of the file
//! A page of [`Header`], then the ring of direction 0, then that of direction 1. Each ring is mapped twice in a row, so
//! that any `capacity` bytes of it are one slice, wherever they begin.
//!
//! # Protocol
//! A direction has one writer and one reader. `written` and `read` count all bytes ever; the writer alone moves
//! `written` and touches only bytes in `written..read + capacity`, the reader alone moves `read` and touches only bytes
//! in `read..written`. Counters that break this are an error of the peer. The file is sealed against shrinking, so no
//! mapped page can vanish. A peer is a process that has proved to know the run's secret; the protocol, not the hardware,
//! keeps it from writing where it may not, and what it writes is only ever used as numbers.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Room for the header: a page, of the largest size that Linux has, so that the rings begin on one.
const PAGE: usize = 64 * 1024;

/// A counter on a cache line of its own: the two sides move different ones.
#[repr(C, align(64))]
struct Line<T>(T);

#[repr(C)]
struct Direction {
    written: Line<AtomicU64>,
    read: Line<AtomicU64>,
    /// The reader sleeps until something is written, the writer until something is read.
    reader_sleeps: Line<AtomicU32>,
    writer_sleeps: Line<AtomicU32>,
    /// The writer will write no more.
    closed: Line<AtomicU32>,
}

#[repr(C)]
struct Header {
    directions: [Direction; 2],
    /// What the maker has written, for the other side to read back.
    nonce: [AtomicU64; 4],
}

const _: () = assert!(size_of::<Header>() <= PAGE);

struct Mapping {
    base: NonNull<u8>,
    length: usize,
    capacity: usize,
    file: OwnedFd,
}

// SAFETY: the mapping is plain memory that stays where it is; `Writer` and `Reader` say who may touch which bytes.
unsafe impl Send for Mapping {}
// SAFETY: as above; the header is made of atomics.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: OwnedFd, capacity: usize) -> io::Result<Mapping> {
        let length = PAGE + 4 * capacity;
        // SAFETY: no address is asked for, so nothing existing is mapped over.
        let base = unsafe {
            mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // Unmaps whatever there is if a later step fails.
        let mapping = Mapping { base, length, capacity, file };
        let parts = [
            (0, 0, PAGE),
            (PAGE, PAGE, capacity),
            (PAGE + capacity, PAGE, capacity),
            (PAGE + 2 * capacity, PAGE + capacity, capacity),
            (PAGE + 3 * capacity, PAGE + capacity, capacity),
        ];
        for (at, offset, size) in parts {
            // SAFETY: the part lies inside the range reserved above, which nobody else knows.
            unsafe {
                let to = base.as_ptr().add(at).cast();
                let protection = ProtFlags::READ | ProtFlags::WRITE;
                mmap(to, size, protection, MapFlags::SHARED | MapFlags::FIXED, &mapping.file, offset as u64)?;
            }
        }
        Ok(mapping)
    }

    fn header(&self) -> &Header {
        // SAFETY: the first page is mapped for as long as self, is aligned, and any bits are valid atomics.
        unsafe { self.base.cast::<Header>().as_ref() }
    }

    fn direction(&self, number: usize) -> &Direction {
        let [first, second] = &self.header().directions;
        if number == 0 { first } else { second }
    }

    /// The address of byte `position` of a ring; `capacity` bytes from there are mapped.
    fn at(&self, direction: usize, position: u64) -> *mut u8 {
        let offset = (position % self.capacity as u64) as usize;
        // SAFETY: at most PAGE + 2 * capacity + capacity - 1, inside the mapping, with capacity bytes behind it.
        unsafe { self.base.as_ptr().add(PAGE + 2 * self.capacity * (direction & 1) + offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was reserved in `new`, and no slice of it outlives its `Writer` or `Reader`, which own self.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
    }
}

/// A peer has moved a counter where it may not be.
pub(super) fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it broke the protocol of the shared memory")
}

/// Memory that is shared, or about to be.
pub(super) struct Memory(Arc<Mapping>);

impl Memory {
    /// Makes memory with room for `capacity` bytes (a multiple of the page size) in each direction.
    pub(super) fn create(capacity: usize) -> io::Result<Memory> {
        let file = memfd_create("kindling", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, (PAGE + 2 * capacity) as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Memory(Arc::new(Mapping::new(file, capacity)?)))
    }

    /// Maps what another process has made.
    pub(super) fn open(file: OwnedFd, capacity: usize) -> io::Result<Memory> {
        let wanted = (PAGE + 2 * capacity) as u64;
        let size = u64::try_from(fstat(&file)?.st_size).unwrap_or(0);
        if size != wanted || !fcntl_get_seals(&file)?.contains(SealFlags::SHRINK) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the shared file is of another size, or not sealed",
            ));
        }
        Ok(Memory(Arc::new(Mapping::new(file, capacity)?)))
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }

    pub(super) fn set_nonce(&self, nonce: &[u8; 32]) {
        for (place, bytes) in self.0.header().nonce.iter().zip(nonce.as_chunks::<8>().0) {
            place.store(u64::from_le_bytes(*bytes), Ordering::SeqCst);
        }
    }

    pub(super) fn nonce(&self) -> [u8; 32] {
        let mut nonce = [0; 32];
        for (place, bytes) in self.0.header().nonce.iter().zip(nonce.as_chunks_mut::<8>().0) {
            *bytes = place.load(Ordering::SeqCst).to_le_bytes();
        }
        nonce
    }

    /// The two ends of this side: it writes direction `writes` and reads the other one.
    pub(super) fn ends(self, writes: usize) -> (Writer, Reader) {
        let reads = 1 - writes.min(1);
        let (writer, reader) = (self.0.direction(writes), self.0.direction(reads));
        (
            Writer {
                mapping: Arc::clone(&self.0),
                direction: writes,
                written: writer.written.0.load(Ordering::Acquire),
                read: writer.read.0.load(Ordering::Acquire),
            },
            Reader {
                mapping: Arc::clone(&self.0),
                direction: reads,
                written: reader.read.0.load(Ordering::Acquire),
                read: reader.read.0.load(Ordering::Acquire),
            },
        )
    }
}

/// The writing end of a direction.
pub(super) struct Writer {
    mapping: Arc<Mapping>,
    direction: usize,
    written: u64,
    /// What the reader was last seen to have read.
    read: u64,
}

impl Writer {
    fn shared(&self) -> &Direction {
        self.mapping.direction(self.direction)
    }

    /// Bytes that can be written now.
    pub(super) fn room(&mut self) -> io::Result<usize> {
        self.read = self.shared().read.0.load(Ordering::Acquire);
        let used = self.written.wrapping_sub(self.read);
        let room = (self.mapping.capacity as u64).checked_sub(used).ok_or_else(broken)?;
        Ok(usize::try_from(room).unwrap_or(0))
    }

    /// Writes as much as there is room for. [`Writer::publish`] shows it to the reader.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room()?);
        // SAFETY: `count` bytes from `written` on are free: the reader has said so, and touches only what was written.
        // They are one range of the mapping (mapped twice), and `bytes` is no part of it: slices of it are only given
        // out by `Reader::held` of the other direction.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.mapping.at(self.direction, self.written), count);
        }
        self.written += count as u64;
        Ok(count)
    }

    /// Shows what was written. True when the reader sleeps and must be woken.
    pub(super) fn publish(&self) -> bool {
        let shared = self.shared();
        shared.written.0.store(self.written, Ordering::Release);
        // Between this and the reader's own fence in `sleep`: one of both sees the other's store.
        fence(Ordering::SeqCst);
        shared.reader_sleeps.0.load(Ordering::Relaxed) != 0 && shared.reader_sleeps.0.swap(0, Ordering::Relaxed) != 0
    }

    /// Says that the writer is about to sleep until there is room. False when there is room already.
    pub(super) fn sleep(&mut self) -> io::Result<bool> {
        self.shared().writer_sleeps.0.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ok(self.room()? == 0)
    }

    /// Nothing more will be written. True when the reader must be woken.
    pub(super) fn close(&self) -> bool {
        self.shared().closed.0.store(1, Ordering::Release);
        self.publish()
    }
}

/// The reading end of a direction.
pub(super) struct Reader {
    mapping: Arc<Mapping>,
    direction: usize,
    /// What the writer was last seen to have written.
    written: u64,
    read: u64,
}

impl Reader {
    fn shared(&self) -> &Direction {
        self.mapping.direction(self.direction)
    }

    /// Looks for more. True when there is.
    pub(super) fn refresh(&mut self) -> io::Result<bool> {
        let written = self.shared().written.0.load(Ordering::Acquire);
        if written.wrapping_sub(self.read) > self.mapping.capacity as u64 {
            return Err(broken());
        }
        Ok(std::mem::replace(&mut self.written, written) != written)
    }

    /// True when the writer will write no more; what it wrote before must be looked for once more after this.
    pub(super) fn closed(&self) -> bool {
        self.shared().closed.0.load(Ordering::Acquire) != 0
    }

    /// Bytes written and not consumed, as far as was last seen.
    pub(super) fn held(&self) -> &[u8] {
        let length = usize::try_from(self.written.wrapping_sub(self.read)).unwrap_or(0);
        // SAFETY: `refresh` has seen that the writer wrote these (at most `capacity`) bytes, and it leaves them alone
        // until `consume`, which needs this borrow to have ended. They are one range of the mapping.
        unsafe { std::slice::from_raw_parts(self.mapping.at(self.direction, self.read), length) }
    }

    /// Gives the first `count` held bytes back to the writer. True when it sleeps and must be woken.
    pub(super) fn consume(&mut self, count: usize) -> bool {
        self.read = self.written.min(self.read + count as u64);
        let shared = self.shared();
        shared.read.0.store(self.read, Ordering::Release);
        fence(Ordering::SeqCst);
        shared.writer_sleeps.0.load(Ordering::Relaxed) != 0 && shared.writer_sleeps.0.swap(0, Ordering::Relaxed) != 0
    }

    /// Says that the reader is about to sleep until something comes. False when something has come already.
    pub(super) fn sleep(&mut self) -> io::Result<bool> {
        self.shared().reader_sleeps.0.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ok(!self.refresh()? && !self.closed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 2 * PAGE;

    fn pair() -> ((Writer, Reader), (Writer, Reader)) {
        let made = Memory::create(CAPACITY).unwrap();
        let opened = Memory::open(made.file().try_clone_to_owned().unwrap(), CAPACITY).unwrap();
        (made.ends(0), opened.ends(1))
    }

    #[test]
    fn bytes_pass_in_both_directions_and_around_the_end_of_the_ring() {
        let ((mut to, mut back), (mut answers, mut from)) = pair();
        let (mut sent, mut got) = (0u32, 0u32);
        for round in 0..1000usize {
            let bytes: Vec<u8> = (0..round % 700).map(|i| (sent + i as u32) as u8).collect();
            let count = to.write(&bytes).unwrap();
            sent += count as u32;
            let _ = to.publish();
            from.refresh().unwrap();
            let take = from.held().len().min(round % 800);
            assert!(from.held()[..take].iter().enumerate().all(|(i, byte)| *byte == (got + i as u32) as u8));
            got += take as u32;
            let _ = from.consume(take);
        }
        assert!(got > 2 * CAPACITY as u32);
        assert_eq!(answers.write(b"yes").unwrap(), 3);
        let _ = answers.publish();
        back.refresh().unwrap();
        assert_eq!(back.held(), b"yes");
    }

    #[test]
    fn a_full_ring_takes_nothing_and_a_sleeper_is_woken_once() {
        let ((mut to, _back), (_answers, mut from)) = pair();
        assert!(from.sleep().unwrap());
        assert_eq!(to.write(&[7; 3 * CAPACITY]).unwrap(), CAPACITY);
        assert!(to.publish(), "the reader sleeps");
        assert!(!to.publish(), "it has been woken");
        assert_eq!(to.write(&[7]).unwrap(), 0);
        assert!(to.sleep().unwrap());
        from.refresh().unwrap();
        assert!(from.consume(1), "the writer sleeps");
        assert_eq!(to.write(&[7, 7]).unwrap(), 1);
        let _ = to.publish();
        assert!(!from.sleep().unwrap(), "there is something to read");
        assert!(!from.closed());
        let _ = to.close();
        assert!(from.closed());
    }

    #[test]
    fn counters_that_cannot_be_are_an_error_and_a_nonce_is_read_through_the_memory() {
        let made = Memory::create(CAPACITY).unwrap();
        let opened = Memory::open(made.file().try_clone_to_owned().unwrap(), CAPACITY).unwrap();
        made.set_nonce(&[5; 32]);
        assert_eq!(opened.nonce(), [5; 32]);
        let shared = Arc::clone(&made.0);
        let (mut writer, _) = made.ends(0);
        let (_, mut reader) = opened.ends(1);
        shared.direction(0).written.0.store(CAPACITY as u64 + 1, Ordering::Release);
        assert!(reader.refresh().is_err());
        shared.direction(0).read.0.store(1, Ordering::Release);
        assert!(writer.room().is_err());
    }

    #[test]
    fn a_file_of_another_size_or_without_a_seal_is_refused() {
        let made = Memory::create(CAPACITY).unwrap();
        assert!(Memory::open(made.file().try_clone_to_owned().unwrap(), 2 * CAPACITY).is_err());
        let unsealed = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, (PAGE + 2 * CAPACITY) as u64).unwrap();
        assert!(Memory::open(unsealed, CAPACITY).is_err());
    }
}
