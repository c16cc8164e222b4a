//! The handles the JVM holds: keys into a table of this process, never addresses.
//!
//! What a caller may rely on:
//!
//! - A key comes from one counter for all kinds, starts at 1 and is never used again. So 0, a key of another
//!   kind and a key from before a close are all *not found*, never somebody else's object.
//! - [`Registry::get`] hands out a share of the object. The lock covers the look-up only: one thread may abort a
//!   session while another is inside it, and a long call on one object delays nobody.
//! - [`Registry::remove`] is the one way an object leaves. Doing it twice is fine. A call still running on the
//!   object keeps it alive and is the one that frees it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Failure;

/// The next key of any kind. Process-wide because a key must mean one thing in all of it.
static NEXT: AtomicI64 = AtomicI64::new(1);

/// All open objects of one kind.
pub(crate) struct Registry<T> {
    kind: &'static str,
    open: Mutex<BTreeMap<i64, Arc<T>>>,
}

impl<T> Registry<T> {
    /// An empty table; `kind` is the noun of its error messages.
    pub(crate) const fn new(kind: &'static str) -> Self {
        Self { kind, open: Mutex::new(BTreeMap::new()) }
    }

    /// Takes `object` in and returns its key.
    pub(crate) fn insert(&self, object: T) -> i64 {
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        self.table().insert(key, Arc::new(object));
        key
    }

    /// A share of the object, or an error that names the kind and the key.
    pub(crate) fn get(&self, key: i64) -> Result<Arc<T>, Failure> {
        self.table().get(&key).cloned().ok_or(Failure::NotOpen { kind: self.kind, key })
    }

    /// Takes the object out, or `None` when it is closed already. Key 0 and unknown keys count as closed.
    pub(crate) fn remove(&self, key: i64) -> Option<Arc<T>> {
        self.table().remove(&key)
    }

    /// A panic cannot leave the map half changed, so a poisoned lock is as good as a clean one.
    fn table(&self) -> MutexGuard<'_, BTreeMap<i64, Arc<T>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_key_finds_its_object_until_it_is_removed() {
        let registry = Registry::new("session");
        let key = registry.insert("rank 0");
        assert_eq!(*registry.get(key).unwrap(), "rank 0");
        assert!(registry.remove(key).is_some());
        let failure = registry.get(key).unwrap_err();
        assert_eq!(failure.kind(), Kind::State);
        assert!(failure.to_string().contains(&format!("session {key} ")), "{failure}");
    }

    #[test]
    fn removing_twice_is_quiet() {
        let registry = Registry::new("model");
        let key = registry.insert(());
        assert!(registry.remove(key).is_some());
        assert!(registry.remove(key).is_none());
    }

    #[test]
    fn zero_and_keys_of_another_kind_are_not_open() {
        let sessions = Registry::new("session");
        let models = Registry::new("model");
        let key = sessions.insert(1_u8);
        models.insert(2_u8);
        assert!(matches!(models.get(key), Err(Failure::NotOpen { kind: "model", .. })));
        assert!(matches!(sessions.get(0), Err(Failure::NotOpen { kind: "session", key: 0 })));
    }

    #[test]
    fn an_object_in_use_outlives_its_removal() {
        let registry = Registry::new("session");
        let key = registry.insert(7_u8);
        let inside = registry.get(key).unwrap();
        let removed = registry.remove(key).unwrap();
        assert_eq!(Arc::strong_count(&removed), 2);
        drop(removed);
        assert_eq!(*inside, 7);
    }
}
