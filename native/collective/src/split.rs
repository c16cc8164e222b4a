//! New groups out of an old one: its ranks gather who wants to be with whom, and connect afresh.
//!
//! A new group has links of its own, so that operations of several groups never wait for each other on one.

use crate::communicator::Communicator;
use crate::connect::{Endpoint, Listener, Options, connect};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a rank was connected with.
pub(crate) struct Origin {
    options: Options,
    host: String,
    process: String,
    encrypted: bool,
    splits: AtomicU32,
}

impl Origin {
    pub(crate) fn of(listener: &Listener, roster: &[Endpoint], options: &Options) -> Origin {
        Origin {
            options: options.clone(),
            host: listener.host().to_owned(),
            process: roster.get(options.rank).map(|mine| mine.process.clone()).unwrap_or_default(),
            encrypted: listener.is_encrypted(),
            splits: AtomicU32::new(0),
        }
    }
}

/// What a rank wants, as it tells the others.
#[derive(Serialize, Deserialize)]
struct Wish {
    color: Option<u32>,
    key: i64,
    endpoint: Endpoint,
}

/// See [`Communicator::split`].
pub(crate) fn split(
    group: &dyn Communicator,
    origin: &Origin,
    color: Option<u32>,
    key: i64,
) -> Result<Option<Arc<dyn Communicator>>, Error> {
    let listener =
        if origin.encrypted { Listener::bind_encrypted(&origin.host) } else { Listener::bind(&origin.host) }?;
    let wish = Wish { color, key, endpoint: listener.endpoint(&origin.process) };
    let unreadable = |error: serde_json::Error| Error::io("reading what the ranks of a split want", error.into());
    let wishes: Vec<Wish> = group
        .start_all_gather_bytes(serde_json::to_vec(&wish).map_err(unreadable)?)?
        .wait()?
        .iter()
        .map(|wish| serde_json::from_slice(wish))
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    // Counted by every rank alike, also by those that join no group.
    let number = origin.splits.fetch_add(1, Ordering::Relaxed);
    let Some(color) = color else { return Ok(None) };
    let mut members: Vec<(i64, usize)> = wishes
        .iter()
        .enumerate()
        .filter(|(_, wish)| wish.color == Some(color))
        .map(|(rank, wish)| (wish.key, rank))
        .collect();
    members.sort_unstable();
    let roster: Vec<Endpoint> =
        members.iter().filter_map(|(_, rank)| wishes.get(*rank)).map(|wish| wish.endpoint.clone()).collect();
    let rank = members.iter().position(|(_, rank)| *rank == group.rank()).unwrap_or(usize::MAX);
    let run = format!("{}/{number}.{color}", origin.options.run);
    connect(listener, &roster, Options { run, rank, ..origin.options.clone() }, &group.aborter()).map(Some)
}
