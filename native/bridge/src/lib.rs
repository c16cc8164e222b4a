//! `libkindling`: the only crate that knows a JVM exists.
//!
//! It translates and keeps hold of things; it trains nothing itself. The Java side is one class,
//! `kindling.internal.Native`, whose natives are the functions of `natives`.
//!
//! # What crosses
//!
//! - **Bytes**, copied at the border: JSON for everything structured, raw for programs and weights.
//! - **Keys** for shards, sessions and models: numbers from a counter, looked up in `registry` on every call.
//! - **Addresses** of row buffers, the one thing that is shared: the JVM writes rows into memory that the shard store
//!   or a predictor owns, and reads predictions from it. Where an address ends to be valid is said in the Java class.
//! - **Events**: `sessionFit` calls an `EventSink` on the thread that called it.
//!
//! # Who owns
//!
//! Native memory belongs to the native side, Java objects to the JVM; neither keeps a reference to the other's beyond
//! one call. An object lives until its key is closed and the last call inside it has returned.
//!
//! # Promises
//!
//! - No thread is ever attached to the JVM: an attached thread would keep it from ending and does not see user classes.
//! - Every native catches panics; a failure becomes an exception by its kind, and the first failure is kept (`error`).
//! - No rank's state is global: several ranks may share one JVM. The statics (`registry`'s counter, the tables of
//!   sessions and models, the shard store, the logger) each say why they outlive a call.

mod error;
mod logging;
mod natives;
mod registry;
