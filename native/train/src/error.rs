//! The one error type of the training side. It carries the values that a user needs to act, and its kind decides which
//! exception the JVM sees.

use kindling_collective as collective;
use kindling_shards as shards;

/// What went wrong while opening, training or predicting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that does not fit the program, the data or the machine.
    #[error("{0}")]
    Config(String),
    /// A value of the data that the program or the loss cannot take.
    #[error("{0}")]
    Data(String),
    /// An operation that this state of the session or predictor does not allow.
    #[error("{what} needs a session that is {needed}; this one is {found}")]
    State {
        /// What was asked for.
        what: &'static str,
        /// The state it needs.
        needed: &'static str,
        /// The state it found.
        found: &'static str,
    },
    /// A node of the program failed in libtorch.
    #[error("node {node} ({op}) failed: {source}")]
    Node {
        /// The node's name in the program.
        node: String,
        /// The operator it calls.
        op: String,
        /// What libtorch said.
        source: Torch,
    },
    /// libtorch failed outside the program.
    #[error("{doing}: {source}")]
    Torch {
        /// What was being done.
        doing: &'static str,
        /// What libtorch said.
        source: Torch,
    },
    /// The program could not be read.
    #[error(transparent)]
    Program(#[from] kindling_program::Error),
    /// A rank was lost, a deadline passed, or the run was aborted.
    #[error(transparent)]
    Collective(#[from] collective::Error),
    /// The shard store refused.
    #[error(transparent)]
    Shards(#[from] kindling_shards::Error),
    /// Weights could not be read or written.
    #[error("{0}")]
    Weights(String),
    /// The run was aborted before or between collective operations.
    #[error("the run was aborted: {0}")]
    Aborted(String),
    /// The listener of events wants no more of them.
    #[error("the listener of events ended the fit: {0}")]
    Listener(String),
}

/// What libtorch said, first line only: the rest is its C++ stack.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Torch(pub String);

impl Torch {
    pub(crate) fn new(message: &str) -> Torch {
        let message = message.trim();
        Torch(message.lines().next().unwrap_or("libtorch gave no reason").to_owned())
    }
}

/// The kinds of error that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller's setting, program or data is at fault.
    Config,
    /// The operation came at the wrong time.
    State,
    /// A peer was lost, a deadline passed, or the run was aborted: another attempt may succeed.
    PeerLost,
    /// Anything else.
    Native,
}

impl Error {
    /// The kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Config(_) | Error::Data(_) | Error::Program(_) | Error::Weights(_) => ErrorKind::Config,
            Error::State { .. } => ErrorKind::State,
            Error::Aborted(_) => ErrorKind::PeerLost,
            Error::Collective(error) => match error.kind() {
                collective::ErrorKind::PeerLost | collective::ErrorKind::Deadline | collective::ErrorKind::Aborted => {
                    ErrorKind::PeerLost
                }
                collective::ErrorKind::Invalid => ErrorKind::Config,
                // Refused, mismatched, refused by the system, and kinds to come: nothing that another attempt mends.
                _ => ErrorKind::Native,
            },
            Error::Shards(error) => match error.kind() {
                shards::ErrorKind::Spec | shards::ErrorKind::Argument => ErrorKind::Config,
                shards::ErrorKind::UnknownShard | shards::ErrorKind::State => ErrorKind::State,
                shards::ErrorKind::Peer => ErrorKind::PeerLost,
                shards::ErrorKind::Memory | shards::ErrorKind::System => ErrorKind::Native,
            },
            Error::Node { .. } | Error::Torch { .. } | Error::Listener(_) => ErrorKind::Native,
        }
    }
}

/// This crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Names what was being done when tch failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, tch::TchError> {
    fn doing(self, what: &'static str) -> Result<T> {
        self.map_err(|error| Error::Torch { doing: what, source: Torch::new(&error.to_string()) })
    }
}

impl<T> Doing<T> for std::result::Result<T, Torch> {
    fn doing(self, what: &'static str) -> Result<T> {
        self.map_err(|source| Error::Torch { doing: what, source })
    }
}
