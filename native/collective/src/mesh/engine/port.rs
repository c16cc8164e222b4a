//! A link with what waits for it.

use crate::mesh::link::{Link, Pending};
use std::collections::VecDeque;

pub(super) struct Port {
    pub(super) link: Link,
    pub(super) peer: usize,
    /// Lanes to send and to receive, in order: the flow, and the lane's number in it.
    pub(super) outgoing: VecDeque<(u64, usize)>,
    pub(super) incoming: VecDeque<(u64, usize)>,
    /// Frames to write before anything else.
    pub(super) head: Pending,
    /// The link takes nothing more for now.
    pub(super) full: bool,
    /// What has come can only be used when another lane has gone on.
    pub(super) gated: bool,
    /// What has come belongs to an operation that this rank has not started.
    pub(super) paused: bool,
    /// The poll has seen something to read.
    pub(super) readable: bool,
    /// The poll has seen an end; there may be bytes before it.
    pub(super) ending: bool,
    /// The peer has said farewell.
    pub(super) left: bool,
    /// Nothing more will be read or written.
    pub(super) gone: bool,
    /// This side has said that nothing more will be written.
    pub(super) ended: bool,
}

impl Port {
    pub(super) fn new(link: Link, peer: usize) -> Port {
        Port {
            link,
            peer,
            outgoing: VecDeque::new(),
            incoming: VecDeque::new(),
            head: Pending::default(),
            full: false,
            gated: false,
            paused: false,
            // What came with the handshake is there without a poll.
            readable: true,
            ending: false,
            left: false,
            gone: false,
            ended: false,
        }
    }

    /// Whether there is something to write.
    pub(super) fn has_unsent(&self) -> bool {
        let anything = !self.outgoing.is_empty() || !self.head.is_empty() || self.link.backlog();
        anything && !self.gone
    }
}
