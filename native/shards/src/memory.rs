//! The memory of columns: mapped, lent by address to a writer outside Rust, then kept as an immutable Arrow buffer.
//!
//! This is the crate's only unsafe file. A block goes one way through three types, so that no moment exists in which
//! Rust holds a reference to bytes that somebody else may be writing:
//!
//! | type | who writes | who reads |
//! |---|---|---|
//! | [`Block`] | its owner, through `&mut` | its owner |
//! | [`Loan`] | whoever was told the address | nobody: Rust keeps only the address |
//! | [`Buffer`] | nobody | anybody |
//!
//! Blocks are anonymous mappings of their own, not heap memory, for four reasons. Fresh pages are zero, so a row that a
//! writer forgot reads as zeros and never as leftovers, without a pass over the memory of ours. Pages nobody wrote take
//! no memory, so reserving generously is cheap. The spare tail goes back to the system without a copy. A released run
//! leaves the process at once instead of staying in an allocator's free lists, which container limits would count.
//!
//! The system allows a process some 65 000 mappings (`vm.max_map_count`); neighbours merge, but reservations of a
//! megabyte and more keep the count small whatever happens.
#![allow(unsafe_code, reason = "maps memory, lends its address, and wraps it as Arrow buffers without a copy")]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_buffer::Buffer;

/// Bytes mapped by one store now, whoever holds them.
#[derive(Debug, Default)]
pub(crate) struct Ledger(AtomicUsize);

impl Ledger {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Memory that its owner alone knows: zeroed, aligned to a page (so to 64 bytes), given back when dropped.
#[derive(Debug)]
pub(crate) struct Block {
    start: NonNull<u8>,
    mapped: usize,
    ledger: Arc<Ledger>,
}

// SAFETY: a Block owns its mapping as a Box owns its allocation; nothing about it belongs to a thread.
unsafe impl Send for Block {}
// SAFETY: a shared Block gives access to nothing but its address.
unsafe impl Sync for Block {}

impl Block {
    /// Maps at least `bytes` bytes of zeros.
    pub(crate) fn map(bytes: usize, ledger: &Arc<Ledger>) -> io::Result<Block> {
        let mapped = to_pages(bytes.max(1)).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        ledger.0.fetch_add(mapped, Ordering::Relaxed);
        Ok(Block { start, mapped, ledger: Arc::clone(ledger) })
    }

    /// The whole mapping, for an owner that fills it from Rust.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `mapped` readable, writable, initialised bytes, at most isize::MAX of them. A Block was
        // never lent (`lend` consumes it), so `&mut self` is the only way to them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.mapped) }
    }

    /// Gives the address away; from now on Rust keeps no reference to the bytes.
    pub(crate) fn lend(self) -> Loan {
        Loan(self)
    }

    /// Keeps the first `bytes` bytes for good, as an immutable buffer, and gives whole pages behind them back.
    /// None if the block is shorter.
    pub(crate) fn freeze(mut self, bytes: usize) -> Option<Buffer> {
        if bytes > self.mapped {
            return None;
        }
        self.trim(bytes);
        let start = self.start;
        // SAFETY: the first `bytes` bytes are mapped and initialised (the kernel's zeros or what a writer put over
        // them) and stay so until the Block drops, which the Arc given here delays until the last clone of the buffer.
        // Nobody writes them any more: an owner's `&mut` ended when the Block was consumed, and a borrower of the
        // address agreed to stop before the commit that leads here (`ShardStore::reserve` states the terms).
        Some(unsafe { Buffer::from_custom_allocation(start, bytes, Arc::new(self)) })
    }

    fn trim(&mut self, bytes: usize) {
        let Some(kept) = to_pages(bytes.max(1)).filter(|kept| *kept < self.mapped) else { return };
        let spare = self.mapped - kept;
        // SAFETY: `kept` is a whole number of pages inside our own mapping; nothing refers to the bytes behind it.
        let failed = unsafe { libc::munmap(self.start.as_ptr().add(kept).cast(), spare) } != 0;
        if failed {
            // Splitting a mapping can exceed the process's number of mappings. The tail then stays ours, unused.
            log::debug!("{spare} spare bytes could not be given back: {}", io::Error::last_os_error());
            return;
        }
        self.mapped = kept;
        self.ledger.0.fetch_sub(spare, Ordering::Relaxed);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and this is its last owner.
        let failed = unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) } != 0;
        if failed {
            // Nothing can be done about it here; the ledger goes on counting what is still mapped.
            log::error!("{} bytes of a shard could not be given back: {}", self.mapped, io::Error::last_os_error());
            return;
        }
        self.ledger.0.fetch_sub(self.mapped, Ordering::Relaxed);
    }
}

/// A block whose address is known outside Rust.
#[derive(Debug)]
pub(crate) struct Loan(Block);

impl Loan {
    pub(crate) fn address(&self) -> u64 {
        // Exposed, because the address comes back to life as a pointer in the borrower's hands.
        self.0.start.as_ptr().expose_provenance() as u64
    }

    /// Ends the loan: the borrower has written `bytes` bytes and will not write again. None if the block is shorter.
    pub(crate) fn settle(self, bytes: usize) -> Option<Buffer> {
        self.0.freeze(bytes)
    }
}

fn to_pages(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(page()).filter(|rounded| isize::try_from(*rounded).is_ok())
}

/// Bytes of a page. A static because it is a constant of the machine that costs a system call to learn.
fn page() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        // SAFETY: sysconf only reads; -1, its answer to a question it does not know, is handled.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        // 64 KiB is a multiple of every page size in use.
        usize::try_from(bytes).ok().filter(|bytes| *bytes >= 64).unwrap_or(1 << 16)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_aligned_zeroed_and_counted_until_its_last_buffer_drops() {
        let ledger = Arc::new(Ledger::default());
        let mut block = Block::map(3 * page() + 1, &ledger).unwrap();
        assert_eq!(ledger.bytes(), 4 * page());
        assert!(block.bytes_mut().iter().all(|byte| *byte == 0));
        block.bytes_mut()[..3].copy_from_slice(b"abc");
        let loan = block.lend();
        assert_eq!(loan.address() % 64, 0);
        let buffer = loan.settle(3 * page() + 1).unwrap();
        let slice = buffer.slice(1);
        drop(buffer);
        assert_eq!(ledger.bytes(), 4 * page());
        assert_eq!(&slice[..2], b"bc");
        drop(slice);
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn a_borrower_writes_through_the_address_and_readers_see_it() {
        let ledger = Arc::new(Ledger::default());
        let loan = Block::map(100, &ledger).unwrap().lend();
        let address = loan.address();
        let writer = std::thread::spawn(move || {
            let bytes = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).unwrap());
            // SAFETY: the loan is open and 100 bytes long, and nobody else writes.
            unsafe { std::ptr::write_bytes(bytes, 7, 100) };
        });
        writer.join().unwrap();
        assert_eq!(&loan.settle(100).unwrap()[..], &[7; 100]);
    }

    #[test]
    fn freezing_less_than_was_mapped_gives_whole_pages_back() {
        let ledger = Arc::new(Ledger::default());
        let mut block = Block::map(1000 * page(), &ledger).unwrap();
        block.bytes_mut()[page()] = 9;
        let buffer = block.freeze(page() + 1).unwrap();
        assert_eq!((ledger.bytes(), buffer.len(), buffer[page()]), (2 * page(), page() + 1, 9));
    }

    #[test]
    fn more_than_was_mapped_cannot_be_frozen() {
        let ledger = Arc::new(Ledger::default());
        assert!(Block::map(1, &ledger).unwrap().freeze(page() + 1).is_none());
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error() {
        let ledger = Arc::new(Ledger::default());
        assert!(Block::map(usize::MAX, &ledger).is_err());
        assert!(Block::map(isize::MAX as usize - (1 << 20), &ledger).is_err());
        assert_eq!(ledger.bytes(), 0);
    }
}
