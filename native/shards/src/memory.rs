//! The memory of columns: mapped, lent by address to a writer outside Rust, then kept as immutable Arrow buffers.
//!
//! This is the crate's only unsafe file. A block is of one of three types, so that no moment exists in which Rust holds a
//! reference to bytes that somebody else may be writing:
//!
//! | type | who writes | who reads |
//! |---|---|---|
//! | [`Block`] | its owner, through `&mut` | its owner |
//! | [`Loan`] | whoever was told the address | nobody: Rust keeps only the address |
//! | [`Buffer`] | nobody | anybody |
//!
//! Blocks are anonymous mappings of their own, not heap memory, for three reasons. Pages nobody wrote take no memory, so
//! reserving generously is cheap. A block can begin where a huge page does. When a released run leaves the process is ours
//! to say and not an allocator's. A block reads as zeros when it is mapped, so a row that a writer forgot is zeros and never
//! leftovers.
//!
//! **Huge pages.** The first touch of a fresh page costs more than the bytes that are written to it: with pages of 4 KiB
//! that was a quarter of an ingest. So blocks of 2 MiB and more ask for pages of 2 MiB (`MADV_HUGEPAGE`) for all that they
//! fill. Only those are asked for that lie in the block as a whole: what the process has in memory is never more than what
//! is mapped. A huge page goes back as a whole or, in effect, not at all (the system keeps what was unmapped of it until it
//! runs out of memory), so a block has no tail to give back: it is freed as one.
//!
//! **Pages are used again.** Even so, fresh pages were more than half of an ingest's own time where a hypervisor had taken
//! the free ones and had to find new ones (0.6 GB/s; a machine of its own clears 11 GB/s, and zeroing pages that are there goes at
//! 25). So pages of large blocks stay with the process for a while, as [`Spare`] says.
//!
//! The system allows a process some 65 000 mappings (`vm.max_map_count`); neighbours merge, but reservations of a
//! megabyte and more keep the count small whatever happens.
//!
//! What does not fit into memory comes back as a [`map_file`] buffer: pages of a file that nobody else can reach, which
//! the system drops when it needs room and reads again when they are looked at.
#![allow(unsafe_code, reason = "maps memory, lends its address, and wraps it as Arrow buffers without a copy")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_buffer::Buffer;

use crate::spare::Spare;

/// Bytes mapped by one store now, whoever holds them, and the pages that nobody holds.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    memory: AtomicUsize,
    files: AtomicUsize,
    spare: Arc<Spare>,
}

impl Ledger {
    /// Bytes of memory, without those that are spare.
    pub(crate) fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    pub(crate) fn spare(&self) -> &Arc<Spare> {
        &self.spare
    }

    /// Bytes of spilled files, mapped or still being written.
    pub(crate) fn files(&self) -> usize {
        self.files.load(Ordering::Relaxed)
    }
}

/// Bytes of one file on a ledger, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Written {
    bytes: usize,
    ledger: Arc<Ledger>,
}

impl Written {
    pub(crate) fn none(ledger: &Arc<Ledger>) -> Written {
        Written { bytes: 0, ledger: Arc::clone(ledger) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.ledger.files.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.ledger.files.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Pages of a file, given back when dropped.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    written: Written,
}

// SAFETY: a Mapping owns its address range; nothing about it belongs to a thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared Mapping gives access to nothing.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, `bytes` long, and this is its last owner.
        let failed = unsafe { libc::munmap(self.start.as_ptr().cast(), self.written.bytes) } != 0;
        if failed {
            log::error!("a file of spilled rows could not be unmapped: {}", io::Error::last_os_error());
        }
    }
}

/// The bytes of a file as an immutable buffer that begins on a page; the file must not be empty.
///
/// The file must have no name and no other descriptor, so that nobody can change or shorten it. Its bytes live until
/// the last clone of the buffer is dropped, and no longer than the process, however that ends. A disk that fails under
/// a mapping ends the process (SIGBUS): there is no error to return from a load.
pub(crate) fn map_file(file: File, written: Written) -> io::Result<Buffer> {
    let bytes = written.bytes;
    // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
    let mapping = Mapping { start, written };
    // SAFETY: `bytes` bytes are mapped and readable, and stay so until the Mapping drops, which the Arc given here delays
    // until the last clone of the buffer. They do not change: the caller gave us the file's only descriptor, which is
    // closed when `file` drops here, and `spill` removed its name before it wrote.
    Ok(unsafe { Buffer::from_custom_allocation(start, bytes, Arc::new(mapping)) })
}

/// Tells the system that `bytes` are about to be read in order. A hint: nothing depends on it.
pub(crate) fn will_need(bytes: &[u8]) {
    let start = bytes.as_ptr().addr();
    let first = start - start % page();
    let length = bytes.len().saturating_add(start - first);
    // SAFETY: MADV_WILLNEED changes no memory; the range is that of a live slice, extended to the start of its page.
    let failed =
        unsafe { libc::madvise(bytes.as_ptr().with_addr(first).cast_mut().cast(), length, libc::MADV_WILLNEED) } != 0;
    if failed {
        log::debug!("reading ahead was refused: {}", io::Error::last_os_error());
    }
}

/// Begins to load the first [`PREFETCHED`] of these bytes into the cache: the processor itself goes on with those behind. A hint.
#[inline]
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.get(..PREFETCHED).unwrap_or(bytes).chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, and the address is that of a live slice.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;
#[cfg(target_arch = "x86_64")]
const PREFETCHED: usize = 8 * LINE;

/// Whole pages of memory that nobody else knows, given back to the system when dropped.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: Pages own their mapping as a Box owns its allocation; nothing about it belongs to a thread.
unsafe impl Send for Pages {}
// SAFETY: shared Pages give access to nothing but their address.
unsafe impl Sync for Pages {}

impl Pages {
    /// Fresh ones, which read as zeros.
    pub(crate) fn map(bytes: usize) -> io::Result<Pages> {
        let start = if bytes < HUGE { anonymous(bytes)? } else { aligned(bytes)? };
        Ok(Pages { start, bytes })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether they are worth keeping: small ones cost little to touch first, and differ in size.
    fn large(&self) -> bool {
        self.bytes >= HUGE
    }

    /// What they hold is not wanted any more: should the system need room before they are written again, it takes them
    /// and finds fresh ones then. They read as zeros or as they were.
    pub(crate) fn forget(&mut self) {
        // SAFETY: the mapping is ours, and whoever reads it expects either.
        if unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, libc::MADV_FREE) } != 0 {
            // They are kept all the same, and the time after which they go back is short.
            log::debug!("pages could not be offered to the system: {}", io::Error::last_os_error());
        }
    }

    fn zero(&mut self) {
        // SAFETY: the mapping is ours alone, and `bytes` long.
        unsafe { self.start.as_ptr().write_bytes(0, self.bytes) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and this is its last owner.
        if unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) } != 0 {
            // Nothing can be done about it here.
            log::error!("{} bytes of a shard could not be given back: {}", self.bytes, io::Error::last_os_error());
        }
    }
}

/// Memory that its owner alone knows: zeroed, aligned to a page (so to 64 bytes), given back when dropped.
#[derive(Debug)]
pub(crate) struct Block {
    /// Always there, but while the block drops.
    pages: Option<Pages>,
    start: NonNull<u8>,
    mapped: usize,
    ledger: Arc<Ledger>,
}

// SAFETY: a Block owns its Pages; its pointer is into them.
unsafe impl Send for Block {}
// SAFETY: a shared Block gives access to nothing but its address.
unsafe impl Sync for Block {}

impl Block {
    /// Maps at least `bytes` bytes of zeros.
    pub(crate) fn map(bytes: usize, ledger: &Arc<Ledger>) -> io::Result<Block> {
        let mapped = size(bytes.max(1)).ok_or(io::ErrorKind::OutOfMemory)?;
        let pages = match ledger.spare.take(mapped, ledger.memory()) {
            Some(mut pages) => {
                pages.zero();
                pages
            }
            None => Pages::map(mapped)?,
        };
        ledger.memory.fetch_add(mapped, Ordering::Relaxed);
        Ok(Block { start: pages.start, pages: Some(pages), mapped, ledger: Arc::clone(ledger) })
    }

    /// The whole mapping, for an owner that reads it.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `mapped` readable, initialised bytes, at most isize::MAX of them. Nobody writes them: an
        // owner's `&mut` excludes this `&self`, and a borrower of the address has stopped (`Loan::settle`).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.mapped) }
    }

    /// The whole mapping, for an owner that fills it from Rust.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `mapped` readable, writable, initialised bytes, at most isize::MAX of them. While a Block
        // is lent nobody has it (`lend` consumes it), so `&mut self` is the only way to them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.mapped) }
    }

    /// Gives the address away; until the loan is settled Rust keeps no reference to the bytes.
    pub(crate) fn lend(self) -> Loan {
        Loan(self)
    }

    /// Keeps the block for good: these ranges of it become immutable buffers, and the last of them to drop gives the block
    /// back. None if the block is shorter.
    pub(crate) fn freeze(self, ranges: &[Range<usize>]) -> Option<Vec<Buffer>> {
        let (start, mapped, block) = (self.start, self.mapped, Arc::new(self));
        let buffer = |range: &Range<usize>| {
            let bytes = range.end.checked_sub(range.start).filter(|_| range.end <= mapped)?;
            // SAFETY: the range lies inside the mapping, whose bytes are initialised (the kernel's zeros or what a writer
            // put over them) and stay so until the Block drops, which the Arc given here delays until the last clone of the
            // buffer. Nobody writes them any more: an owner's `&mut` ended when the Block was consumed, and a borrower of
            // the address has stopped (`Loan::settle`).
            Some(unsafe { Buffer::from_custom_allocation(start.add(range.start), bytes, Arc::clone(&block) as _) })
        };
        ranges.iter().map(buffer).collect()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let used = self.ledger.memory.fetch_sub(self.mapped, Ordering::Relaxed);
        if let Some(pages) = self.pages.take().filter(Pages::large) {
            self.ledger.spare.give(pages, used);
        }
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

    /// Ends the loan: the borrower will not write again (`ShardStore::reserve` states the terms).
    pub(crate) fn settle(self) -> Block {
        self.0
    }
}

/// Bytes of a huge page of x86-64.
const HUGE: usize = 2 << 20;

/// Bytes to map for `bytes`: whole pages, or whole huge pages where that adds little. None if there is no such size.
fn size(bytes: usize) -> Option<usize> {
    let little = |rounded: &usize| bytes >= HUGE && *rounded - bytes <= bytes / 16;
    let rounded = bytes.checked_next_multiple_of(HUGE).filter(little).or_else(|| to_pages(bytes));
    rounded.filter(|rounded| isize::try_from(*rounded).is_ok())
}

fn to_pages(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(page())
}

fn anonymous(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing memory.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast::<u8>()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// A mapping that begins with a huge page and asks for as many of them as lie in it.
fn aligned(bytes: usize) -> io::Result<NonNull<u8>> {
    // One huge page more, of which what is before and behind goes back untouched. Kernels from 6.7 on align a mapping of
    // this size by themselves, but make no promise of it.
    let wide = bytes.checked_add(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
    let first = anonymous(wide)?;
    let before = first.as_ptr().align_offset(HUGE);
    let behind = wide.saturating_sub(before).saturating_sub(bytes);
    // SAFETY: all three are inside the mapping that was just made, as `before` is less than a huge page.
    let (start, end) = unsafe { (first.add(before), first.add(before + bytes)) };
    for (part, length) in [(first, before), (end, behind)] {
        // SAFETY: the part is ours, whole pages, and nobody knows of it yet.
        if length > 0 && unsafe { libc::munmap(part.as_ptr().cast(), length) } != 0 {
            // Untouched pages take no memory; only addresses are lost.
            log::debug!("{length} bytes of addresses could not be given back: {}", io::Error::last_os_error());
        }
    }
    // SAFETY: MADV_HUGEPAGE changes no byte; the range is ours.
    if unsafe { libc::madvise(start.as_ptr().cast(), bytes - bytes % HUGE, libc::MADV_HUGEPAGE) } != 0 {
        // A kernel without them: the block has ordinary pages.
        log::debug!("huge pages were refused: {}", io::Error::last_os_error());
    }
    Ok(start)
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
        assert_eq!(ledger.memory(), 4 * page());
        assert!(block.bytes().iter().all(|byte| *byte == 0));
        block.bytes_mut()[..3].copy_from_slice(b"abc");
        block.bytes_mut()[64] = b'd';
        let loan = block.lend();
        assert_eq!(loan.address() % 64, 0);
        let [first, second] = loan.settle().freeze(&[0..3, 64..3 * page()]).unwrap().try_into().unwrap();
        let slice = first.slice(1);
        drop(first);
        assert_eq!((&slice[..], second[0], second.len()), (&b"bc"[..], b'd', 3 * page() - 64));
        drop(second);
        assert_eq!(ledger.memory(), 4 * page());
        drop(slice);
        assert_eq!(ledger.memory(), 0);
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
        let block = loan.settle();
        assert_eq!(block.bytes()[..101], [[7; 100].as_slice(), &[0]].concat());
        assert_eq!(&block.freeze(&[0..100, 100..101]).unwrap()[0][..], &[7; 100]);
    }

    #[test]
    fn a_large_block_whose_pages_were_used_before_reads_as_zeros() {
        let ledger = Arc::new(Ledger::default());
        let mut first = Block::map(HUGE, &ledger).unwrap();
        first.bytes_mut().fill(7);
        let buffers = first.freeze(&[0..HUGE / 2, HUGE / 2..HUGE]).unwrap();
        let address = buffers[0].as_ptr().addr();
        drop(buffers);
        assert_eq!((ledger.memory(), ledger.spare().bytes()), (0, HUGE));
        let second = Block::map(HUGE, &ledger).unwrap();
        assert_eq!((second.bytes().as_ptr().addr(), ledger.memory(), ledger.spare().bytes()), (address, HUGE, 0));
        assert!(second.bytes().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn small_blocks_leave_the_process_at_once() {
        let ledger = Arc::new(Ledger::default());
        drop(Block::map(HUGE / 2, &ledger).unwrap());
        assert_eq!((ledger.memory(), ledger.spare().bytes()), (0, 0));
    }

    #[test]
    fn more_than_was_mapped_cannot_be_frozen() {
        let ledger = Arc::new(Ledger::default());
        assert!(Block::map(1, &ledger).unwrap().freeze(&[0..1, 0..page() + 1]).is_none());
        assert_eq!(ledger.memory(), 0);
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error() {
        let ledger = Arc::new(Ledger::default());
        assert!(Block::map(usize::MAX, &ledger).is_err());
        assert!(Block::map(isize::MAX as usize - (1 << 20), &ledger).is_err());
        assert_eq!(ledger.memory(), 0);
    }

    #[test]
    fn a_size_is_rounded_to_huge_pages_only_where_that_adds_little() {
        assert_eq!(size(1), Some(page()));
        assert_eq!(size(HUGE - 1), Some(HUGE));
        assert_eq!(size(HUGE + 1), Some(HUGE + page()));
        assert_eq!(size(2 * HUGE - 100_000), Some(2 * HUGE));
        assert_eq!(size(2 * HUGE - 16 * page() - HUGE / 8), Some(2 * HUGE - 16 * page() - HUGE / 8));
        assert_eq!(size(isize::MAX as usize + 1), None);
    }

    /// Flags of the mapping at this address, as the system shows them: `hg` is a request for huge pages.
    fn flags(address: usize) -> Vec<String> {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let bound = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let begins = |line: &&str| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            range.is_some_and(|(start, end)| (bound(start)..bound(end)).contains(&address))
        };
        let flags = text.lines().skip_while(|line| !begins(line)).find_map(|line| line.strip_prefix("VmFlags: "));
        flags.unwrap().split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_large_block_asks_for_the_huge_pages_that_it_fills_and_no_more() {
        let ledger = Arc::new(Ledger::default());
        let mut block = Block::map(2 * HUGE + HUGE / 2, &ledger).unwrap();
        assert_eq!((ledger.memory(), block.bytes().len()), (2 * HUGE + HUGE / 2, 2 * HUGE + HUGE / 2));
        let address = block.bytes().as_ptr().addr();
        assert_eq!(address % HUGE, 0);
        block.bytes_mut().fill(1);
        if std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            let asks = |offset: usize| flags(address + offset).contains(&"hg".to_owned());
            assert_eq!([0, 2 * HUGE - 1, 2 * HUGE].map(asks), [true, true, false]);
        }
        drop(block);
        assert_eq!(ledger.memory(), 0);
    }
}
