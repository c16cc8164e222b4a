//! Batches on their way to a GPU, while the one before trains.
//!
//! A [`Room`] is memory for one batch after the other: a tensor per column in the host's memory, which the loader's thread
//! fills. Without a device that is all. With one, the host's memory is pinned, and the room has tensors of the same size on
//! the device. Two queues of the device work on it, and neither waits for the host:
//!
//! | who | does | after |
//! |---|---|---|
//! | the thread | fills the host's memory ([`Room::ready`]) | the copies of the batch before are done: it waits |
//! | copies | take the host's memory to the device ([`Room::send`]) | the steps on the batch before: the queue waits |
//! | steps | read the device's memory ([`Room::receive`]) | the copies: the queue waits |
//!
//! What must have come is a [`Mark`] in a queue: `copied` behind the copies, `used` behind the steps ([`Room::release`]). So
//! the copies of a batch run beside the steps on the batches before, and the loop meets them done.

use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::data::Batch;
use crate::device::Place;
use crate::error::{Doing, Result};
use crate::shim_cuda::{self, Event, Queue};

/// The queues of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// What is copied to the device.
    Copies,
    /// What the device computes.
    Steps,
}

/// A device with its two queues.
pub(crate) trait Port: Send + Sync {
    /// An uninitialised tensor that copies read while the host goes on.
    fn host(&self, sizes: &[i64], kind: Kind) -> Result<Tensor>;
    /// An uninitialised tensor on the device.
    fn device(&self, sizes: &[i64], kind: Kind) -> Result<Tensor>;
    /// Puts a copy on the queue of copies.
    fn copy(&self, to: &Tensor, from: &Tensor) -> Result<()>;
    /// A mark behind all that the queue has to do now.
    fn mark(&self, line: Line) -> Result<Box<dyn Mark>>;
}

/// A place in a queue.
pub(crate) trait Mark: Send {
    /// Whatever is put on `line` from now on waits for it.
    fn before(&self, line: Line) -> Result<()>;
    /// The calling thread waits for it.
    fn wait(&self) -> Result<()>;
}

/// Memory for batches, one after the other: tensors per column, as long as the longest batch so far. See the file.
#[derive(Default)]
pub(crate) struct Room {
    columns: Vec<Option<Tensor>>,
    /// The device, if batches go to one.
    port: Option<Arc<dyn Port>>,
    /// On the device: the tensors of a batch, in their order.
    there: Vec<Option<Tensor>>,
    copied: Option<Box<dyn Mark>>,
    used: Option<Box<dyn Mark>>,
}

impl Room {
    pub(crate) fn new(port: Option<Arc<dyn Port>>) -> Room {
        Room { port, ..Room::default() }
    }

    /// The first `rows` rows of the memory for column `index`, whose rows have the sizes `row`, for the caller to fill.
    pub(crate) fn take(&mut self, index: usize, row: &[i64], kind: Kind, rows: i64) -> Result<Tensor> {
        let port = self.port.as_ref();
        let allocate = |sizes: &[i64]| match port {
            Some(port) => port.host(sizes, kind),
            None => Tensor::f_empty(sizes, (kind, tch::Device::Cpu)).doing("allocating a batch"),
        };
        let sizes: Vec<i64> = std::iter::once(rows).chain(row.iter().copied()).collect();
        first_rows(&mut self.columns, index, &sizes, allocate)
    }

    /// Waits until the host's memory may be filled again.
    pub(crate) fn ready(&mut self) -> Result<()> {
        self.copied.take().map_or(Ok(()), |copied| copied.wait())
    }

    /// Sends a batch that fills this room on its way; what comes back is the batch on the device.
    pub(crate) fn send(&mut self, batch: Batch) -> Result<Batch> {
        let Some(port) = self.port.clone() else { return Ok(batch) };
        if let Some(used) = self.used.take() {
            used.before(Line::Copies)?;
        }
        let mut index = 0;
        let mut send = |from: &Tensor| {
            let to = first_rows(&mut self.there, index, &from.size(), |sizes| port.device(sizes, from.kind()))?;
            index += 1;
            port.copy(&to, from)?;
            Ok(to)
        };
        let sent = Batch {
            inputs: batch.inputs.iter().map(&mut send).collect::<Result<_>>()?,
            labels: batch.labels.as_ref().map(&mut send).transpose()?,
            weights: batch.weights.as_ref().map(&mut send).transpose()?,
            rows: batch.rows,
        };
        self.copied = Some(port.mark(Line::Copies)?);
        Ok(sent)
    }

    /// The steps queued from now on may read the batch that was sent.
    pub(crate) fn receive(&self) -> Result<()> {
        self.copied.as_ref().map_or(Ok(()), |copied| copied.before(Line::Steps))
    }

    /// No step queued from now on reads the batch.
    pub(crate) fn release(&mut self) -> Result<()> {
        if let Some(port) = &self.port {
            self.used = Some(port.mark(Line::Steps)?);
        }
        Ok(())
    }
}

/// The first rows of the tensor in place `index`, of these sizes; made anew if there are too few.
fn first_rows(
    tensors: &mut Vec<Option<Tensor>>,
    index: usize,
    sizes: &[i64],
    allocate: impl Fn(&[i64]) -> Result<Tensor>,
) -> Result<Tensor> {
    if tensors.len() <= index {
        tensors.resize_with(index + 1, || None);
    }
    let rows = sizes.first().copied().unwrap_or(0);
    let long_enough = |tensor: &Tensor| tensor.size().first().is_some_and(|&room| room >= rows);
    let kept = tensors.get_mut(index).and_then(Option::take).filter(long_enough);
    let tensor = kept.map_or_else(|| allocate(sizes), Ok)?;
    let part = tensor.f_narrow(0, 0, rows).doing("making room for a batch")?;
    if let Some(place) = tensors.get_mut(index) {
        *place = Some(tensor);
    }
    Ok(part)
}

/// A GPU: its steps are queued where the replica lives, its copies on a stream beside.
struct Streams {
    steps: Queue,
    copies: Queue,
    device: tch::Device,
}

/// The port of a replica's device; none on the processor, which reads batches where they are gathered.
pub(crate) fn port(place: &Place) -> Result<Option<Arc<dyn Port>>> {
    let (Some(steps), Some(copies)) = (place.queue(), place.another()?.queue()) else { return Ok(None) };
    Ok(Some(Arc::new(Streams { steps, copies, device: place.tch() })))
}

impl Streams {
    fn queue(&self, line: Line) -> Queue {
        match line {
            Line::Copies => self.copies,
            Line::Steps => self.steps,
        }
    }
}

impl Port for Streams {
    fn host(&self, sizes: &[i64], kind: Kind) -> Result<Tensor> {
        shim_cuda::pinned(sizes, kind).doing("allocating a batch")
    }

    fn device(&self, sizes: &[i64], kind: Kind) -> Result<Tensor> {
        // On the stream of the copies, which writes it first: memory that another stream has freed is not handed out here.
        let _copies = self.copies.enter().doing("entering a stream")?;
        Tensor::f_empty(sizes, (kind, self.device)).doing("allocating a batch on the GPU")
    }

    fn copy(&self, to: &Tensor, from: &Tensor) -> Result<()> {
        let _copies = self.copies.enter().doing("entering a stream")?;
        shim_cuda::copy(to, from).doing("copying a batch to the GPU")
    }

    fn mark(&self, line: Line) -> Result<Box<dyn Mark>> {
        let event = Event::record(self.queue(line)).doing("marking a stream")?;
        Ok(Box::new(Recorded { event, steps: self.steps, copies: self.copies }))
    }
}

struct Recorded {
    event: Event,
    steps: Queue,
    copies: Queue,
}

impl Mark for Recorded {
    fn before(&self, line: Line) -> Result<()> {
        let queue = if line == Line::Copies { self.copies } else { self.steps };
        self.event.block(queue).doing("ordering two streams")
    }

    fn wait(&self) -> Result<()> {
        self.event.wait().doing("waiting for a copy to the GPU")
    }
}

#[cfg(test)]
pub(crate) mod tests;
