//! Pages of released blocks, kept a while for the next ones.
//!
//! A process that has just dropped its shards often fills new ones at once: the next fit of a session, the next fold of a
//! validator, the next block of a partition that goes to a file. Pages that are there already spare it the first touch of fresh
//! ones.
//!
//! What is kept does not make the process larger than it was: a block that finds no pages of its size makes spare ones go
//! until both together are no more than what was in use at once before. After [`KEPT`] they go back anyway, and until then the
//! system may take what they hold ([`Pages::forget`]): the limit of a cgroup is met by dropping them, not by killing the
//! process. YARN counts them until they go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::memory::Pages;

/// How long pages are kept: from the end of a fit to the next one's rows.
const KEPT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Spare {
    kept: Duration,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// Oldest first.
    pages: Vec<(Instant, Pages)>,
    /// Of all of them.
    bytes: usize,
    /// The most that was in use at once since there have been any.
    most: usize,
    /// Whether a thread gives them back in time.
    swept: bool,
}

impl Shelf {
    fn remove(&mut self, place: usize) -> Pages {
        let (_, pages) = self.pages.remove(place);
        self.bytes = self.bytes.saturating_sub(pages.bytes());
        pages
    }

    /// The oldest, as long as they are `going`.
    fn remove_first(&mut self, mut going: impl FnMut(&(Instant, Pages)) -> bool) -> Vec<(Instant, Pages)> {
        let count = self.pages.iter().position(|kept| !going(kept)).unwrap_or(self.pages.len());
        let gone: Vec<_> = self.pages.drain(..count).collect();
        self.bytes = gone.iter().fold(self.bytes, |bytes, (_, pages)| bytes.saturating_sub(pages.bytes()));
        gone
    }
}

impl Default for Spare {
    fn default() -> Spare {
        Spare::keeping(KEPT)
    }
}

impl Spare {
    pub(crate) fn keeping(kept: Duration) -> Spare {
        Spare { kept, shelf: Mutex::default() }
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.shelf().bytes
    }

    /// Pages of this many bytes, which hold anything. If there are none, the caller maps fresh ones, and others go to make
    /// room for them beside the `used` bytes that are in use.
    pub(crate) fn take(&self, bytes: usize, used: usize) -> Option<Pages> {
        let mut shelf = self.shelf();
        if let Some(found) = shelf.pages.iter().rposition(|(_, pages)| pages.bytes() == bytes) {
            return Some(shelf.remove(found));
        }
        let mut excess = used.saturating_add(bytes).saturating_add(shelf.bytes).saturating_sub(shelf.most);
        let gone = shelf.remove_first(|(_, pages)| {
            let going = excess > 0;
            excess = excess.saturating_sub(pages.bytes());
            going
        });
        // Giving back takes a while; others need not wait for it.
        drop(shelf);
        drop(gone);
        None
    }

    /// Keeps pages that nobody needs now; until now `used` bytes were in use, these included.
    pub(crate) fn give(self: &Arc<Self>, mut pages: Pages, used: usize) {
        pages.forget();
        let mut shelf = self.shelf();
        shelf.most = if shelf.pages.is_empty() { used } else { shelf.most.max(used) };
        shelf.bytes = shelf.bytes.saturating_add(pages.bytes());
        shelf.pages.push((Instant::now(), pages));
        if !shelf.swept {
            let spare = Arc::downgrade(self);
            let sweeper = thread::Builder::new().name("kindling-spare".into()).spawn(move || sweep(&spare));
            shelf.swept = sweeper.is_ok();
            if let Err(error) = sweeper {
                log::debug!("pages are given back at once, as no thread could be started to do it later: {error}");
                drop(shelf.remove_first(|_| true));
            }
        }
    }

    /// Gives back what was kept long enough, and says when to look again; no time if nothing is left, and the caller ends.
    fn expire(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut shelf = self.shelf();
        let gone = shelf.remove_first(|(since, _)| now.duration_since(*since) >= self.kept);
        let next = shelf.pages.first().map(|(since, _)| self.kept.saturating_sub(now.duration_since(*since)));
        shelf.swept = next.is_some();
        drop(shelf);
        drop(gone);
        next
    }

    /// A panic elsewhere cannot leave it half changed: nothing in here panics.
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs as long as there is something to give back and the store lives.
fn sweep(spare: &Weak<Spare>) {
    while let Some(next) = spare.upgrade().and_then(|spare| spare.expire()) {
        thread::sleep(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 2 << 20;

    fn of(spares: usize, bytes: usize, kept: Duration) -> Arc<Spare> {
        let spare = Arc::new(Spare::keeping(kept));
        let pages: Vec<_> = (0..spares).map(|_| Pages::map(bytes).unwrap()).collect();
        for (place, pages) in pages.into_iter().enumerate() {
            spare.give(pages, (spares - place) * bytes);
        }
        assert_eq!(spare.bytes(), spares * bytes);
        spare
    }

    #[test]
    fn pages_of_the_same_size_are_used_again() {
        let spare = of(3, LARGE, KEPT);
        assert_eq!(spare.take(LARGE, 0).unwrap().bytes(), LARGE);
        assert_eq!(spare.bytes(), 2 * LARGE);
        assert!(spare.take(LARGE - 4096, LARGE).is_none());
    }

    #[test]
    fn other_sizes_make_room_as_far_as_the_process_would_grow() {
        let spare = of(4, LARGE, KEPT);
        // There were four in use, now there are four spare: a small one makes one of them go, and uses up what that gave.
        assert!(spare.take(LARGE / 2, 0).is_none());
        assert_eq!(spare.bytes(), 3 * LARGE);
        assert!(spare.take(LARGE / 2, LARGE / 2).is_none());
        assert_eq!(spare.bytes(), 3 * LARGE);
        assert!(spare.take(1, LARGE).is_none());
        assert_eq!(spare.bytes(), 2 * LARGE);
        assert!(spare.take(100 * LARGE, LARGE).is_none());
        assert_eq!(spare.bytes(), 0);
    }

    #[test]
    fn what_is_in_use_again_is_not_counted_twice() {
        let spare = of(2, LARGE, KEPT);
        let first = spare.take(LARGE, 0).unwrap();
        let second = spare.take(LARGE, LARGE).unwrap();
        assert!(spare.take(LARGE, 2 * LARGE).is_none());
        spare.give(first, 3 * LARGE);
        spare.give(second, 2 * LARGE);
        // There were three, of which one is in use and two are spare: room for two is all of theirs.
        assert!(spare.take(2 * LARGE, LARGE).is_none());
        assert_eq!(spare.bytes(), 0);
    }

    #[test]
    fn pages_go_back_in_time_and_can_be_kept_again_afterwards() {
        let spare = of(2, LARGE, Duration::from_millis(20));
        let empty = |spare: &Spare| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while spare.bytes() > 0 {
                assert!(Instant::now() < deadline, "{} bytes are still kept", spare.bytes());
                thread::sleep(Duration::from_millis(5));
            }
        };
        empty(&spare);
        spare.give(Pages::map(LARGE).unwrap(), LARGE);
        empty(&spare);
    }
}
