//! Rows from process to process over Arrow Flight: what balance moves, and what a rank needs that runs elsewhere.
//!
//! Each process that holds shards of a run serves them ([`ShardStore::serve`](crate::ShardStore::serve)); a rank that
//! needs rows a..b of partition p from there fetches them ([`ShardStore::fetch`](crate::ShardStore::fetch)) and has them
//! as a sealed shard of its own store, made of the same blocks, under the same budget, released with the same run.
//!
//! # Protocol
//! It is plain Flight, so that any client of it will do. `DoGet` with a [`Ticket`] (JSON) answers with the schema, then
//! record batches of at most about 2 MB, each of which carries in `app_metadata` the number of its first row and a
//! checksum (16 bytes, `chunk`). All other methods are not there.
//!
//! Rows that are kept compressed are spread out for such clients. A Kindling peer asks for them as they are
//! ([`Ticket::compressed`]): then the form of a column is told by each message and not by the schema.
//!
//! - **Who may ask**: whoever sends the run's token as `authorization: Bearer …` ([`Secret::token`]). It is a MAC under
//!   the run's secret, which travels with Spark's tasks only, and opens nothing but the run's shards.
//! - **Who may listen**: with `encrypted`, nobody. The server makes a certificate for the run; its endpoint carries it,
//!   and the fetcher trusts this certificate alone (`tls`).
//! - **What goes wrong**: a message that is damaged, out of order or longer than it says ends the stream; so does silence
//!   beyond the deadline. The fetcher connects anew and goes on behind the last row that it has stored. Attempts that
//!   bring no row are counted, and the last failure is reported with the peer, the partition and the row.
//!
//! # Who copies
//! The server copies rows once, from their shard into a message; the fetcher once, from the message into its blocks.
//!
//! # Threads and lifetimes
//! One tokio runtime per process, with two workers, from the first server or fetch until the last is gone (`runtime`).
//! A server lives as long as the run has a shard in its process. Its streams hold a shard only while they copy from it,
//! so a client that stalls keeps no rows of a released run.

mod chunk;
mod client;
mod runtime;
mod secret;
mod server;
mod tls;
mod wire;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use client::fetch;
pub use client::{Canceller, FetchSpec, Piece};
pub use secret::Secret;
pub use server::ServeSpec;
pub(crate) use server::Server;

use crate::spec::Split;

/// Where a process serves a run's shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Name or address, as Spark knows the machine.
    pub host: String,
    /// Port, chosen by the system.
    pub port: u16,
    /// The server's certificate (PEM) where it speaks TLS; it is for the name `kindling`. By default it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The rows a client asks for, as the JSON of a Flight ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ticket {
    /// The run.
    pub run: String,
    /// The partition, which must be the one that the shard is of.
    pub partition: u32,
    /// Key of the shard in the server's store.
    pub key: u64,
    /// The split.
    pub split: Split,
    /// The first row, counted within the split from 0.
    pub first: u64,
    /// How many rows.
    pub rows: u64,
    /// Whether columns may come in the form in which they are kept, which each message then tells. By default all are
    /// dense, as the stream's schema says.
    #[serde(default)]
    pub compressed: bool,
}

#[cfg(test)]
mod tests;
