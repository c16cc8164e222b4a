//! Gradients between a device and the communicator: lent where they are, or by way of the host's memory.
//!
//! A [`Staged`] bucket is copied off a GPU into pinned memory while backward goes on, summed over the ranks there, and copied
//! back. Nobody waits for the copy within backward: the sum starts when the copy is found to be done.

use kindling_collective::{Buffer, Communicator, DeviceRegion, ReduceOp, Work};
use tch::{Kind, Tensor};

use crate::device::Place;
use crate::error::{Doing, Error, Result};
use crate::shim_cuda::{self, Event, Queue};
use crate::tensors::{self, Lent};

/// Starts the sum of `grads`, in the host's memory, over the ranks, and lends it to the communicator until then.
pub(crate) fn start(communicator: &dyn Communicator, grads: &Tensor, kind: Kind) -> Result<Work> {
    let buffer = Buffer::new(Box::new(Lent::new(grads)?), tensors::wire_dtype(kind)?);
    Ok(communicator.start_all_reduce(buffer, ReduceOp::Sum)?)
}

/// The same with gradients on a GPU, in a group of GPUs. The sum joins the order of the place's stream.
pub(crate) fn start_on_gpu(gpus: &dyn Communicator, grads: &Tensor, kind: Kind, place: &Place) -> Result<Work> {
    let buffer = Buffer::on_device(Box::new(OnGpu::new(grads, place)?), tensors::wire_dtype(kind)?);
    Ok(gpus.start_all_reduce(buffer, ReduceOp::Sum)?)
}

/// A flat tensor on a GPU, lent to a collective operation.
struct OnGpu {
    /// Keeps the memory.
    _tensor: Tensor,
    address: u64,
    length: usize,
    gpu: i32,
    stream: u64,
}

impl OnGpu {
    fn new(grads: &Tensor, place: &Place) -> Result<OnGpu> {
        let (Some(queue), tch::Device::Cuda(gpu), true) = (place.queue(), grads.device(), grads.is_contiguous()) else {
            return Err(Error::Config("gradients that are not on the rank's GPU cannot be sent from there".to_owned()));
        };
        Ok(OnGpu {
            address: grads.data_ptr() as u64,
            length: grads.numel() * grads.kind().elt_size_in_bytes(),
            gpu: i32::try_from(gpu).unwrap_or(-1),
            stream: queue.handle().doing("naming a stream")?,
            _tensor: grads.shallow_clone(),
        })
    }
}

impl DeviceRegion for OnGpu {
    fn address(&self) -> u64 {
        self.address
    }
    fn length(&self) -> usize {
        self.length
    }
    fn device(&self) -> i32 {
        self.gpu
    }
    fn stream(&self) -> u64 {
        self.stream
    }
}

/// A bucket that is summed in the host's memory.
pub(crate) struct Staged {
    grads: Tensor,
    kind: Kind,
    host: Tensor,
    /// Behind the copy; none where copies are done at once.
    copied: Option<Event>,
}

impl Staged {
    /// Queues the copy off the device behind what `queue` has to do now.
    pub(crate) fn take(grads: &Tensor, kind: Kind, queue: Option<Queue>) -> Result<Staged> {
        let doing = "copying gradients to the host";
        let host = match queue {
            Some(_) => shim_cuda::pinned(&grads.size(), grads.kind()).doing(doing)?,
            None => grads.f_empty_like().doing(doing)?,
        };
        let _queued = queue.map(Queue::enter).transpose().doing(doing)?;
        shim_cuda::copy(&host, grads).doing(doing)?;
        let copied = queue.map(Event::record).transpose().doing(doing)?;
        Ok(Staged { grads: grads.shallow_clone(), kind, host, copied })
    }

    /// Whether the copy is done.
    pub(crate) fn is_copied(&self) -> Result<bool> {
        self.copied.as_ref().map_or(Ok(true), Event::has_come).doing("looking for a copy of gradients")
    }

    /// Waits for the copy, and starts the sum.
    pub(crate) fn start(&self, communicator: &dyn Communicator) -> Result<Work> {
        self.copied.as_ref().map_or(Ok(()), Event::wait).doing("waiting for a copy of gradients")?;
        start(communicator, &self.host, self.kind)
    }

    /// Queues the copy of the sum back to the device, on this thread's stream.
    pub(crate) fn give_back(&self) -> Result<()> {
        shim_cuda::copy(&self.grads, &self.host).doing("copying gradients to the device")
    }
}
