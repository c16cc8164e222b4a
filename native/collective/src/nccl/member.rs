//! A rank's handle on its NCCL group: the [`Communicator`], its works, and how the rank leaves.

use super::group::{Group, Started, cause_of};
use super::{NcclOptions, connect_with, full, watch};
use crate::abort::Aborter;
use crate::buffer::Buffer;
use crate::cause::Moment;
use crate::communicator::{Communicator, Gather, Pending, Work};
use crate::error::Error;
use crate::lock;
use crate::operation::{Kind, Operation};
use crate::record::{Record, RecordState};
use crate::transport::{Place, Transport};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Leaving the group is dropping this: the member and its works hold it.
struct Seat {
    group: Arc<Group>,
    watch: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Seat {
    /// Waits, bounded, until the communicators are destroyed (all ranks leave) or aborted. Operations whose works were
    /// dropped before go on; what cannot be waited for is left to the watch.
    fn drop(&mut self) {
        self.group.leaving.raise();
        self.group.watch.poke();
        let Some(watch) = lock(&self.watch).take() else { return };
        if self.group.told.wait(watch::LINGER + Duration::from_secs(3)) {
            if watch.join().is_err() {
                log::error!("the watch of an NCCL group panicked");
            }
        } else {
            log::warn!("rank {} leaves its NCCL group to end by itself", self.group.place.rank);
        }
    }
}

pub(super) struct Member {
    seat: Arc<Seat>,
    options: NcclOptions,
}

impl Member {
    /// Takes the group's seat and starts its watch, which talks over `talk`.
    pub(super) fn new(group: &Arc<Group>, talk: Arc<dyn Communicator>, options: &NcclOptions) -> Result<Member, Error> {
        let watched = Arc::clone(group);
        let watch = thread::Builder::new()
            .name(format!("kindling-nccl-{}", group.place.rank))
            .spawn(move || watch::run(&watched, talk))
            .map_err(|error| Error::io("starting the watch of an NCCL group", error))?;
        let seat = Arc::new(Seat { group: Arc::clone(group), watch: Mutex::new(Some(watch)) });
        Ok(Member { seat, options: options.clone() })
    }

    fn group(&self) -> &Arc<Group> {
        &self.seat.group
    }

    fn launch(&self, buffer: Buffer, operation: Operation) -> Result<Work, Error> {
        let (device, ours) = (buffer.device().map(|region| region.device()), self.group().device);
        if let Some(device) = device.filter(|device| *device != ours) {
            return Err(Error::invalid(format!("the buffer is on GPU {device}, but this rank's is GPU {ours}")));
        }
        let started = self.group().start(buffer, operation)?;
        Ok(Work::new(OnDevice { seat: Arc::clone(&self.seat), started }))
    }

    /// Starts something over the bootstrap group, numbered among this group's operations.
    fn relay<T>(
        &self,
        kind: Kind,
        bytes: u64,
        start: impl FnOnce(&dyn Communicator) -> Result<T, Error>,
    ) -> Result<Relayed<T>, Error> {
        let group = self.group();
        let operation = Operation::plain(kind);
        group.note(operation, bytes, |_, sequence, ticket| {
            let work = start(&*group.bootstrap).map_err(|error| cause_of(&error, group.place.rank))?;
            Ok(Relayed { seat: Arc::clone(&self.seat), operation, sequence, ticket, began: Instant::now(), work })
        })
    }
}

impl Transport for Member {
    fn place(&self) -> Place {
        self.group().place
    }

    fn start(&self, operation: Operation, buffer: Buffer) -> Result<Work, Error> {
        full(operation.wire)?;
        match operation.kind {
            Kind::Barrier => self.relay(Kind::Barrier, 0, |bootstrap| bootstrap.start_barrier()).map(Work::new),
            _ => self.launch(buffer, operation),
        }
    }

    fn start_gather(&self, operation: Operation, bytes: Vec<u8>) -> Result<Gather, Error> {
        let length = bytes.len() as u64;
        self.relay(operation.kind, length, |bootstrap| bootstrap.start_all_gather_bytes(bytes)).map(Gather::new)
    }

    fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Arc<dyn Communicator>>, Error> {
        let group = self.group();
        let Some(bootstrap) = group.bootstrap.split(color, key)? else { return Ok(None) };
        let api = Ok(Arc::clone(&group.api));
        connect_with(api, bootstrap, group.device, &self.options, group.aborter()).map(Some)
    }

    fn aborter(&self) -> Aborter {
        self.group().aborter().clone()
    }

    fn records(&self) -> Vec<Record> {
        lock(&self.group().recorder).records()
    }
}

/// A started operation on the GPU.
struct OnDevice {
    seat: Arc<Seat>,
    started: Started,
}

impl Pending<Buffer> for OnDevice {
    fn wait(self: Box<Self>) -> Result<Buffer, Error> {
        self.seat.group.wait(&self.started)
    }
}

/// A started operation of the bootstrap group.
struct Relayed<T> {
    seat: Arc<Seat>,
    operation: Operation,
    sequence: u64,
    ticket: u64,
    began: Instant,
    work: T,
}

impl<T> Relayed<T> {
    fn finish<U>(self, wait: impl FnOnce(T) -> Result<U, Error>) -> Result<U, Error> {
        let group = &self.seat.group;
        let waited = wait(self.work);
        let state = if waited.is_ok() { RecordState::Finished } else { RecordState::Failed };
        lock(&group.recorder).end(self.ticket, state);
        waited.map_err(|error| {
            let moment = Moment {
                operation: self.operation.to_string(),
                sequence: self.sequence,
                elapsed: self.began.elapsed(),
            };
            group.failed(cause_of(&error, group.place.rank), &moment)
        })
    }
}

impl Pending<Buffer> for Relayed<Work> {
    fn wait(self: Box<Self>) -> Result<Buffer, Error> {
        self.finish(Work::wait)
    }
}

impl Pending<Vec<Vec<u8>>> for Relayed<Gather> {
    fn wait(self: Box<Self>) -> Result<Vec<Vec<u8>>, Error> {
        self.finish(Gather::wait)
    }
}
