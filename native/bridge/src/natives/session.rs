//! Natives about sessions: one rank of a run.
//!
//! Who may be where: the thread that opened a session calls its functions one after another; any other thread may
//! abort it at any time. Nothing here is locked across a call, so the abort reaches a rank that waits for a peer.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock};

use jni::objects::{JByteArray, JClass, JObject, JValue};
use jni::sys::jlong;
use jni::{Env, jni_sig, jni_str};
use kindling_collective::Endpoint;
use kindling_program::Program;
use kindling_train::{Event, FitReport, Session, SessionConfig};

use super::shards::store;
use super::{bytes, json, json_array, native, optional_bytes, text};
use crate::error::{Failure, Kind, Throw, panic_sentence};
use crate::registry::Registry;

/// The open sessions. Process-wide because a watcher thread must find the session that another thread opened.
static SESSIONS: Registry<Rank> = Registry::new("session");

/// A session and the failure that ended it.
struct Rank {
    session: Session,
    first: OnceLock<(Kind, String)>,
}

impl Rank {
    /// Runs one function of the session, unless an earlier one ended it: then that failure is the answer again. A later
    /// symptom ("it is failed") would hide the cause ("rank 3 is lost"). A call out of order ends nothing.
    fn run<T>(&self, call: impl FnOnce(&Session) -> kindling_train::Result<T>) -> Result<T, Failure> {
        if let Some((kind, message)) = self.first.get() {
            return Err(Failure::Earlier { kind: *kind, message: message.clone() });
        }
        match catch_unwind(AssertUnwindSafe(|| call(&self.session))) {
            Ok(outcome) => outcome.map_err(|error| {
                let failure = Failure::from(error);
                if failure.kind() != Kind::State {
                    self.keep(failure.kind(), failure.sentence());
                }
                failure
            }),
            Err(panic) => {
                self.keep(Kind::Native, panic_sentence(&*panic));
                resume_unwind(panic)
            }
        }
    }

    fn keep(&self, kind: Kind, message: String) {
        // Taken already means that another thread's failure came first.
        let _ = self.first.set((kind, message));
    }
}

native! { fn session_open(config: jbyte[], program: jbyte[], weights: jbyte[]) -> jlong }

fn session_open<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    config: JByteArray<'local>,
    program: JByteArray<'local>,
    weights: JByteArray<'local>,
) -> Result<jlong, Failure> {
    let config: SessionConfig = json(env, &config, "the configuration of the session")?;
    let program = Program::read(Arc::from(bytes(env, &program, "the program")?))?;
    let weights = optional_bytes(env, &weights)?;
    let session = Session::open(config, program, weights.as_deref(), Arc::clone(store()))?;
    Ok(SESSIONS.insert(Rank { session, first: OnceLock::new() }))
}

native! { fn session_endpoint(key: jlong) -> jbyte[] }

fn session_endpoint<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    key: jlong,
) -> Result<JByteArray<'local>, Failure> {
    let endpoint = SESSIONS.get(key)?.run(Session::endpoint)?;
    json_array(env, &endpoint, "the endpoint of the session")
}

native! { fn session_connect(key: jlong, roster: jbyte[]) }

fn session_connect<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    key: jlong,
    roster: JByteArray<'local>,
) -> Result<(), Failure> {
    let rank = SESSIONS.get(key)?;
    let roster: Vec<Endpoint> = json(env, &roster, "the roster")?;
    rank.run(|session| session.connect(&roster))
}

native! { fn session_fit(key: jlong, sink: kindling.internal.EventSink) -> jbyte[] }

fn session_fit<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    key: jlong,
    sink: JObject<'local>,
) -> Result<JByteArray<'local>, Failure> {
    let rank = SESSIONS.get(key)?;
    if sink.is_null() {
        return Err(Failure::Null { what: "the event sink" });
    }
    let report: FitReport = rank.run(|session| {
        session.fit(&mut |event| {
            deliver(env, &sink, event).map_err(|failure| match failure {
                Failure::Jni(jni::errors::Error::JavaException) => "it threw an exception".to_owned(),
                failure => failure.sentence(),
            })
        })
    })?;
    json_array(env, &report, "the report of the fit")
}

/// Calls `sink.onEvent`. An exception it throws stays pending: it ends the fit, and the error policy leaves it be.
fn deliver(env: &Env<'_>, sink: &JObject<'_>, event: &Event) -> Result<(), Failure> {
    let json = serde_json::to_vec(event).map_err(|source| Failure::Unwritable { what: "an event", source })?;
    // A frame of its own: the native's frame ends only with the fit, and would collect one array per event until then.
    env.with_local_frame(LOCALS_PER_EVENT, |env| {
        let array = env.byte_array_from_slice(&json)?;
        env.call_method(sink, jni_str!("onEvent"), jni_sig!((json: jbyte[]) -> void), &[JValue::Object(&array)])?;
        Ok(())
    })
}

/// The array, the sink's class, and room for what jni-rs looks up beside them.
const LOCALS_PER_EVENT: usize = 16;

native! { fn session_weights(key: jlong) -> jbyte[] }

fn session_weights<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    key: jlong,
) -> Result<JByteArray<'local>, Failure> {
    let weights = SESSIONS.get(key)?.run(Session::weights)?;
    Ok(env.byte_array_from_slice(&weights)?)
}

native! { fn session_abort(key: jlong, reason: jbyte[]) }

fn session_abort<'local>(
    env: &mut Env<'local>,
    _: JClass<'local>,
    key: jlong,
    reason: JByteArray<'local>,
) -> Result<(), Failure> {
    let rank = SESSIONS.get(key)?;
    rank.session.abort(&text(env, &reason, "the reason")?);
    Ok(())
}

native! { fn session_close(key: jlong) }

fn session_close<'local>(_: &mut Env<'local>, _: JClass<'local>, key: jlong) -> Result<(), Failure> {
    if let Some(rank) = SESSIONS.remove(key) {
        // Out of the registry nobody can join, so a second holder is a call still running. It could wait for its peers
        // up to a deadline, and nobody would have the key to abort it.
        if Arc::strong_count(&rank) > 1 {
            rank.session.abort("the session was closed while it was in use");
        }
    }
    Ok(())
}
