//! Failures, and the exceptions the JVM sees for them.
//!
//! [`Failure`] is what any native may end in. Its [`Kind`], never its text, chooses the exception class.
//! [`Throw`] is what happens then, and what happens if that fails too:
//!
//! 1. An exception that is pending already (thrown by an `EventSink`, or an `OutOfMemoryError` of the JVM) is the
//!    first failure: it stays, and ours is logged.
//! 2. Else the exception of the failure's kind is thrown. Its class is found through the loader of
//!    `kindling.internal.Native`, not through the thread's context loader: the caller's `catch` means that class.
//! 3. If that class cannot be found, a plain `RuntimeException` with the same text is thrown.
//! 4. If not even that can be thrown, the text is logged and the native returns 0 or null, which no caller takes
//!    for a key or for bytes.
//!
//! A panic is a failure of kind [`Kind::Native`]. It never unwinds into the JVM: `native_method!` catches it around
//! every native, and once more around this policy.

use std::any::Any;

use jni::Env;
use jni::errors::ErrorPolicy;
use jni::jni_str;
use jni::strings::{JNIStr, JNIString};
use kindling_train::ErrorKind;

/// The kinds of failure that the JVM tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A configuration, program or argument is wrong.
    Config,
    /// The call does not fit the state.
    State,
    /// A peer is lost, a deadline has passed, or the session was aborted.
    PeerLost,
    /// The rest.
    Native,
}

impl Kind {
    fn class(self) -> &'static JNIStr {
        match self {
            Kind::Config => jni_str!("java/lang/IllegalArgumentException"),
            Kind::State => jni_str!("java/lang/IllegalStateException"),
            Kind::PeerLost => jni_str!("kindling/internal/PeerLostException"),
            Kind::Native => jni_str!("kindling/internal/NativeException"),
        }
    }
}

/// Why a native did not return.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{kind} {key} is not open: it was closed, or this process never opened it")]
    NotOpen { kind: &'static str, key: i64 },
    #[error("{kind} {key} is in use by another thread: call one function of a {kind} at a time")]
    InUse { kind: &'static str, key: i64 },
    #[error("{what} is null")]
    Null { what: &'static str },
    #[error("{what} is not UTF-8: {source}")]
    NotUtf8 { what: &'static str, source: std::string::FromUtf8Error },
    #[error("{what} cannot be read: {source}")]
    Json { what: &'static str, source: serde_json::Error },
    #[error("{what} cannot be written as JSON: {source}")]
    Unwritable { what: &'static str, source: serde_json::Error },
    #[error("{what} is {found}; it must be {expected}")]
    OutOfRange { what: &'static str, found: i64, expected: &'static str },
    #[error("{what} has room for {found} addresses; this call needs room for {needed}")]
    Addresses { what: &'static str, found: usize, needed: usize },
    #[error("there is no self test named {0:?}; there is \"panic\"")]
    UnknownSelfTest(String),
    #[error(transparent)]
    Program(#[from] kindling_program::Error),
    #[error(transparent)]
    Shards(#[from] kindling_shards::Error),
    #[error("the picture {0}")]
    Image(#[from] kindling_images::Error),
    #[error(transparent)]
    Train(#[from] kindling_train::Error),
    #[error("the JVM refused a call: {0}")]
    Jni(#[from] jni::errors::Error),
    /// The first failure of an object, repeated for every later call on it.
    #[error("{message}")]
    Earlier { kind: Kind, message: String },
}

impl Failure {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Failure::Null { .. }
            | Failure::NotUtf8 { .. }
            | Failure::Json { .. }
            | Failure::OutOfRange { .. }
            | Failure::Addresses { .. }
            | Failure::UnknownSelfTest(_)
            | Failure::Image(_)
            | Failure::Program(_) => Kind::Config,
            Failure::NotOpen { .. } | Failure::InUse { .. } => Kind::State,
            Failure::Shards(error) => match error.kind() {
                kindling_shards::ErrorKind::UnknownShard | kindling_shards::ErrorKind::State => Kind::State,
                kindling_shards::ErrorKind::Spec | kindling_shards::ErrorKind::Argument => Kind::Config,
                kindling_shards::ErrorKind::Peer => Kind::PeerLost,
                kindling_shards::ErrorKind::Memory | kindling_shards::ErrorKind::System => Kind::Native,
            },
            Failure::Train(error) => match error.kind() {
                ErrorKind::Config => Kind::Config,
                ErrorKind::State => Kind::State,
                ErrorKind::PeerLost => Kind::PeerLost,
                ErrorKind::Native => Kind::Native,
            },
            Failure::Unwritable { .. } | Failure::Jni(_) => Kind::Native,
            Failure::Earlier { kind, .. } => *kind,
        }
    }

    /// The text the JVM sees: this failure and those causes that it does not quote already.
    pub(crate) fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let reason = error.to_string();
            if !text.contains(&reason) {
                text = format!("{text}: {reason}");
            }
            cause = error.source();
        }
        text
    }
}

/// Throws a failure or a panic as the exception of its kind; see the module's steps.
pub(crate) struct Throw;

impl<T: Default> ErrorPolicy<T, Failure> for Throw {
    type Captures<'unowned_env_local: 'native_method, 'native_method> = ();

    fn on_error<'unowned_env_local: 'native_method, 'native_method>(
        env: &mut Env<'unowned_env_local>,
        _captures: &mut (),
        failure: Failure,
    ) -> jni::errors::Result<T> {
        throw(env, failure.kind(), &failure.sentence());
        Ok(T::default())
    }

    fn on_panic<'unowned_env_local: 'native_method, 'native_method>(
        env: &mut Env<'unowned_env_local>,
        _captures: &mut (),
        payload: Box<dyn Any + Send + 'static>,
    ) -> jni::errors::Result<T> {
        let sentence = panic_sentence(&*payload);
        // Dropping a payload runs code we do not know; one that panics must not hide the panic we report.
        if let Err(second) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(payload))) {
            std::mem::forget(second);
        }
        throw(env, Kind::Native, &sentence);
        Ok(T::default())
    }
}

/// What a panic is called towards the JVM. Where it happened is on stderr, as for any panic.
pub(crate) fn panic_sentence(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&'static str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given");
    format!("Kindling's native code panicked, which is a bug in Kindling: {text}")
}

fn throw(env: &mut Env<'_>, kind: Kind, message: &str) {
    if env.exception_check() {
        log::debug!("a Java exception is on its way already, so this is not thrown: {message}");
        return;
    }
    let text = JNIString::from(message);
    for class in [kind.class(), jni_str!("java/lang/RuntimeException")] {
        // `throw_new` answers with an error after it has thrown; what counts is whether an exception is pending.
        if let Ok(class) = env.find_class(class) {
            let _ = env.throw_new(class, &text);
        }
        if env.exception_check() {
            return;
        }
    }
    log::error!("no exception could be thrown for: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken_json() -> Failure {
        let source = serde_json::from_str::<u8>("").unwrap_err();
        Failure::Json { what: "the roster", source }
    }

    #[test]
    fn an_error_keeps_its_kind_through_every_crate() {
        let config = kindling_train::Error::Config("threads".to_owned());
        let lost = kindling_train::Error::Aborted("test".to_owned());
        let state = kindling_shards::Error::UnknownShard { key: 3 };
        let spec = kindling_shards::Error::NoRun { partition: 3 };
        assert_eq!(Failure::from(config).kind(), Kind::Config);
        assert_eq!(Failure::from(lost).kind(), Kind::PeerLost);
        assert_eq!(Failure::from(state).kind(), Kind::State);
        assert_eq!(Failure::from(spec).kind(), Kind::Config);
        assert_eq!(broken_json().kind(), Kind::Config);
        assert_eq!(Failure::Jni(jni::errors::Error::JavaException).kind(), Kind::Native);
        assert_eq!(Failure::Earlier { kind: Kind::PeerLost, message: String::new() }.kind(), Kind::PeerLost);
    }

    #[test]
    fn a_sentence_names_each_cause_once() {
        let sentence = broken_json().sentence();
        assert!(sentence.starts_with("the roster cannot be read: EOF"), "{sentence}");
        assert_eq!(sentence.matches("EOF").count(), 1, "{sentence}");
    }

    #[test]
    fn a_panic_is_told_with_its_text() {
        assert!(panic_sentence(&"plain").ends_with(": plain"));
        assert!(panic_sentence(&"formatted".to_owned()).ends_with(": formatted"));
        assert!(panic_sentence(&7).ends_with(": no reason given"));
    }
}
