//! The NCCL transport: ranks are GPUs, one each, and the bytes never touch the CPU.
//!
//! A group is made from a *bootstrap* group on CPUs, of the same ranks. It carries NCCL's unique id, the bytes of
//! [`start_all_gather_bytes`](Communicator::start_all_gather_bytes) and the barrier, and a group split from it carries
//! what the ranks tell each other all the time (`watch.rs`). Gathered bytes and barriers concern the CPU's callers,
//! come seldom and are small: over device buffers they would cost two copies, a launch and a wait for the GPU, and a
//! barrier would also wait for all that is running. So a barrier ends when every rank has *started* it, whatever its
//! GPU does; a work's wait is what waits for the GPU.
//!
//! # What differs from the CPU transports
//! - Only buffers [on the device](crate::Buffer::on_device) of the rank are taken. [`Wire`] other than full is refused:
//!   what travels over NVLink or InfiniBand needs no rounding, and NCCL offers none.
//! - NCCL chooses the order of summation. All ranks get the same bits from an all-reduce, but not the bits of the CPU
//!   transports, and a reduce-scatter may differ from an all-reduce in the last place.
//! - Whether the largest and smallest hand NaN on is NCCL's choice.
//! - That two ranks started different operations is found out in the background, within about a tenth of a second
//!   (`ledger.rs`). Until then NCCL may hang, or hand out numbers that mean nothing; whatever is not over by then
//!   fails.
//! - A send completes when NCCL has taken the bytes, as the trait allows.
//! - **A failure uses the aborter**: all waits of this rank and its peers that share it end too. A group of which one
//!   rank failed is of no use to any, and waits in the bootstrap group could be ended by nothing else.
//! - Each direction between two ranks that send makes a communicator of its own at its first use, which takes about two
//!   rounds of the watch. Communicators whose operations run at once share the GPU; NCCL asks that all ranks launch
//!   them in an order that cannot block, which two directions of transfer and one collective do while there is room on
//!   the GPU for all their kernels.
//!
//! # Failing
//! Waiting threads look at the GPU and at NCCL's state themselves, so every wait ends: at the operation's end, its
//! deadline, an error of NCCL, an abort, or when another rank has failed. Then every rank aborts its communicators, on
//! a thread that may hang, and the buffers are dropped only after. An abort that does not return within 5 s is told in
//! the error, and its buffers are never freed: the executor must be restarted.
//!
//! # Splitting
//! A split makes a new bootstrap group and a new communicator over it, also where `ncclCommSplit` exists: that one
//! comes with 2.18 only, and waits for the parent's operations. A communicator that fails is aborted alone, but by the
//! shared aborter the groups that it was split from then end too.

mod api;
mod cuda;
mod group;
mod lane;
mod ledger;
mod load;
mod member;
mod table;
mod watch;

#[cfg(test)]
mod tests;

use self::api::{Api, Fault};
use self::group::{Group, Parts, cause_of};
use self::lane::{Lane, Phase};
use self::member::Member;
use self::table::UniqueId;
use crate::abort::Aborter;
use crate::cause::{Cause, Moment};
use crate::communicator::Communicator;
use crate::error::Error;
use crate::operation::Wire;
use crate::transport::{Place, Reach};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How a rank joins an NCCL group.
#[derive(Clone, Debug)]
pub struct NcclOptions {
    /// How long an operation may take, from its start to its end on the GPU. Default: 30 min.
    pub operation_timeout: Duration,
    /// How long to wait until the communicator is complete. Default: 60 s.
    pub rendezvous_timeout: Duration,
    /// How long an abort may take before the executor is given up. Default: 5 s.
    pub abort_timeout: Duration,
    /// Where `libnccl.so.2` is, should it be neither mapped already nor found by name. Default: none.
    pub library: Option<PathBuf>,
}

impl Default for NcclOptions {
    fn default() -> NcclOptions {
        NcclOptions {
            operation_timeout: Duration::from_secs(30 * 60),
            rendezvous_timeout: Duration::from_secs(60),
            abort_timeout: Duration::from_secs(5),
            library: None,
        }
    }
}

/// Whether NCCL and the CUDA runtime can be loaded: NCCL's version, or why not and what to install.
///
/// Says nothing of GPUs.
pub fn version(library: Option<&std::path::Path>) -> Result<String, Error> {
    Api::load(library).map(|api| api.version_name())
}

/// Makes an NCCL group of the ranks of `bootstrap`, this one on the GPU with CUDA ordinal `device`.
///
/// All ranks call it, in the order of the bootstrap group's operations. `bootstrap` and `aborter` should have been made
/// together: a failure of the group ends the bootstrap group's waits through the aborter. Fails on all ranks if it
/// fails on one, naming it.
///
/// ```no_run
/// use kindling_collective::{Aborter, Buffer, Communicator, Error, ReduceOp, nccl};
/// use std::sync::Arc;
///
/// /// `bootstrap` was connected with `aborter`; `gradients` are on GPU 0.
/// fn mean(bootstrap: Arc<dyn Communicator>, aborter: &Aborter, gradients: Buffer) -> Result<Buffer, Error> {
///     let group = nccl::connect(bootstrap, 0, &nccl::NcclOptions::default(), aborter)?;
///     group.start_all_reduce(gradients, ReduceOp::Mean)?.wait()
/// }
/// ```
pub fn connect(
    bootstrap: Arc<dyn Communicator>,
    device: i32,
    options: &NcclOptions,
    aborter: &Aborter,
) -> Result<Arc<dyn Communicator>, Error> {
    let api = Api::load(options.library.as_deref()).map(Arc::new);
    connect_with(api, bootstrap, device, options, aborter)
}

/// The same with a given interface, or the reason why this rank has none.
fn connect_with(
    api: Result<Arc<Api>, Error>,
    bootstrap: Arc<dyn Communicator>,
    device: i32,
    options: &NcclOptions,
    aborter: &Aborter,
) -> Result<Arc<dyn Communicator>, Error> {
    let began = Instant::now();
    let place = Place { rank: bootstrap.rank(), size: bootstrap.size(), reach: Reach::Device };
    let prepared = api.and_then(|api| prepare(api, place, device));
    let hello = Hello::of(&prepared, device);
    let hellos = bootstrap.start_all_gather_bytes(hello.encode())?.wait()?;
    // A rank that cannot take part has told so by now, and all fail alike.
    let (api, _) = prepared?;
    let (id, endpoints) = Hello::agreed(&hellos, &hello, place.rank)?;
    // Every rank splits before anything can fail on one alone.
    let talk = bootstrap.split(Some(0), 0)?;
    let talk = talk.ok_or_else(|| Error::invalid("the bootstrap group's split gave no group"))?;
    let lane = api
        .on_device(device, || Lane::new(&api, ledger::Lane::Group, place.rank, place.size, Phase::Named(id)))
        .map_err(|fault| refused(&fault))?;
    log::info!(
        "rank {} of {} joins an NCCL group on {} (NCCL {}, with {})",
        place.rank,
        place.size,
        endpoints.get(place.rank).map_or("", String::as_str),
        api.version_name(),
        api.extras.join(", ")
    );
    let group = Group::new(Parts {
        api,
        place,
        device,
        endpoints,
        timeout: options.operation_timeout,
        patience: options.abort_timeout,
        bootstrap,
        aborter: aborter.clone(),
        lane,
    });
    // From here on the member's end is the group's.
    let member = Member::new(&group, talk, options)?;
    aborter.notify(&group);
    complete(&group, began, options.rendezvous_timeout)?;
    Ok(Arc::new(member))
}

/// Waits until the communicator is complete on every rank.
fn complete(group: &Arc<Group>, began: Instant, timeout: Duration) -> Result<(), Error> {
    let moment = || Moment { operation: "rendezvous".into(), sequence: 0, elapsed: began.elapsed() };
    loop {
        if let Some(cause) = group.failure() {
            return Err(group.failed(cause.clone(), &moment()));
        }
        group.try_pump();
        if group.enter().is_ok_and(|state| state.lanes.first().is_some_and(|lane| lane.comm().is_some())) {
            break;
        }
        if began.elapsed() > timeout {
            let detail = format!(
                "NCCL did not complete the communicator of {} ranks; this rank is only the one that noticed \
                 (NCCL_DEBUG=INFO tells more)",
                group.place.size
            );
            return Err(group.failed(Cause::Silent { rank: group.place.rank, detail }, &moment()));
        }
        thread::sleep(Duration::from_millis(1));
    }
    // Complete here is not yet complete elsewhere. A rank that fails instead of coming ends this wait by the aborter.
    let met = group.bootstrap.start_barrier().and_then(|barrier| barrier.wait());
    met.map(drop).map_err(|error| group.failed(cause_of(&error, group.place.rank), &moment()))
}

/// What a rank needs of its own before it can promise to take part: its library, its device and, on rank 0, the id.
fn prepare(api: Arc<Api>, place: Place, device: i32) -> Result<(Arc<Api>, Option<UniqueId>), Error> {
    let count = api.device_count().map_err(|fault| refused(&fault))?;
    if !(0..count).contains(&device) {
        return Err(Error::invalid(format!("there is no GPU {device}: CUDA shows {count} to this process")));
    }
    let id = api
        .on_device(device, || if place.rank == 0 { api.unique_id().map(Some) } else { Ok(None) })
        .map_err(|fault| refused(&fault))?;
    Ok((api, id))
}

fn refused(fault: &Fault) -> Error {
    Error::io("NCCL or CUDA refused a group", std::io::Error::other(fault.to_string()))
}

/// What a rank says of itself before the group is made.
struct Hello {
    /// NCCL's version; or 0 and the reason why the rank cannot take part.
    version: i32,
    /// Rank 0's unique id; zeros on the others.
    id: UniqueId,
    /// Where the rank is, or the reason.
    text: String,
}

impl Hello {
    fn of(prepared: &Result<(Arc<Api>, Option<UniqueId>), Error>, device: i32) -> Hello {
        match prepared {
            Ok((api, id)) => {
                // Only for messages, so that no host is named where it cannot be told.
                let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
                let text = format!("{} GPU {device}", host.trim()).trim().to_owned();
                Hello { version: api.version(), id: id.unwrap_or(UniqueId([0; 128])), text }
            }
            Err(error) => Hello { version: 0, id: UniqueId([0; 128]), text: error.to_string() },
        }
    }

    /// version (i32, little endian) · id (128 bytes) · text (the rest).
    fn encode(&self) -> Vec<u8> {
        [&self.version.to_le_bytes()[..], &self.id.0, self.text.as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Hello> {
        let (version, rest) = bytes.split_first_chunk::<4>()?;
        let (id, text) = rest.split_first_chunk::<128>()?;
        let text = String::from_utf8_lossy(text).into_owned();
        Some(Hello { version: i32::from_le_bytes(*version), id: UniqueId(*id), text })
    }

    /// The id and where the ranks are, if all can take part with one version of NCCL.
    fn agreed(hellos: &[Vec<u8>], mine: &Hello, rank: usize) -> Result<(UniqueId, Vec<String>), Error> {
        let mut id = UniqueId([0; 128]);
        let mut endpoints = Vec::new();
        for (peer, bytes) in hellos.iter().enumerate() {
            let hello = Hello::decode(bytes)
                .ok_or_else(|| Error::invalid(format!("rank {peer} told something that is no greeting")))?;
            if hello.version == 0 {
                let reason = format!("cannot take part in an NCCL group: {}", hello.text);
                return Err(Error::Refused { rank: peer, endpoint: "unknown".into(), reason });
            }
            if hello.version != mine.version {
                return Err(Error::invalid(format!(
                    "all ranks need the same NCCL: rank {rank} has {}, rank {peer} ({}) has {}",
                    mine.version, hello.text, hello.version
                )));
            }
            if peer == 0 {
                id = hello.id;
            }
            endpoints.push(hello.text);
        }
        Ok((id, endpoints))
    }
}

/// The form in which elements travel must be the full one.
fn full(wire: Wire) -> Result<(), Error> {
    match wire {
        Wire::Full => Ok(()),
        other => {
            let wire = other.dtype().name();
            Err(Error::invalid(format!("NCCL sends elements as they are, not as {wire}: ask for the full form")))
        }
    }
}
