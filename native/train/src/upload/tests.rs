//! The ring against a device that does everything as late as it is allowed to, or copies at once: what is not ordered goes
//! wrong in one of the two.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test file: clippy only spares #[test] functions")]

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use super::*;

enum Job {
    Copy(Tensor, Tensor),
    /// A step: what it reads is kept.
    Read(Tensor),
    After(Line, usize),
}

#[derive(Default)]
struct State {
    waiting: [VecDeque<Job>; 2],
    done: [usize; 2],
    read: Vec<Vec<f32>>,
}

impl State {
    fn put(&mut self, line: Line, job: Job) {
        self.waiting[line as usize].push_back(job);
    }

    /// Does the first `until` jobs that the line was ever given.
    fn run(&mut self, line: Line, until: usize) {
        while self.done[line as usize] < until {
            let Some(job) = self.waiting[line as usize].pop_front() else { return };
            match job {
                Job::Copy(mut to, from) => to.copy_(&from),
                Job::Read(tensor) => self.read.push(Vec::try_from(tensor.reshape([-1])).unwrap()),
                Job::After(other, number) => self.run(other, number),
            }
            self.done[line as usize] += 1;
        }
    }
}

/// A device of the CPU's memory, whose queues are run by hand.
pub(crate) struct Lazy {
    state: Arc<Mutex<State>>,
    /// Copies are done as soon as what they wait for allows.
    eager: bool,
}

struct Place {
    state: Arc<Mutex<State>>,
    line: Line,
    number: usize,
}

impl Lazy {
    pub(crate) fn new(eager: bool) -> Arc<Lazy> {
        Arc::new(Lazy { state: Arc::default(), eager })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Queues a step that reads `tensor`.
    pub(crate) fn step(&self, tensor: &Tensor) {
        self.state().put(Line::Steps, Job::Read(tensor.shallow_clone()));
    }

    /// Does all that is left; what the steps have read, in their order.
    pub(crate) fn finish(&self) -> Vec<Vec<f32>> {
        let mut state = self.state();
        // Steps first: one that does not wait for its copies reads before them.
        state.run(Line::Steps, usize::MAX);
        state.run(Line::Copies, usize::MAX);
        std::mem::take(&mut state.read)
    }
}

fn empty(sizes: &[i64], kind: Kind) -> Tensor {
    Tensor::empty(sizes, (kind, tch::Device::Cpu))
}

impl Port for Lazy {
    fn host(&self, sizes: &[i64], kind: Kind) -> Result<Tensor> {
        Ok(empty(sizes, kind))
    }

    fn device(&self, sizes: &[i64], kind: Kind) -> Result<Tensor> {
        Ok(empty(sizes, kind))
    }

    fn copy(&self, to: &Tensor, from: &Tensor) -> Result<()> {
        let mut state = self.state();
        state.put(Line::Copies, Job::Copy(to.shallow_clone(), from.shallow_clone()));
        if self.eager {
            state.run(Line::Copies, usize::MAX);
        }
        Ok(())
    }

    fn mark(&self, line: Line) -> Result<Box<dyn Mark>> {
        let state = self.state();
        let number = state.done[line as usize] + state.waiting[line as usize].len();
        Ok(Box::new(Place { state: Arc::clone(&self.state), line, number }))
    }
}

impl Mark for Place {
    fn before(&self, line: Line) -> Result<()> {
        self.state.lock().unwrap().put(line, Job::After(self.line, self.number));
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        self.state.lock().unwrap().run(self.line, self.number);
        Ok(())
    }
}

/// Fills the room with a batch of `rows` rows of `value`, and sends it.
fn sent(room: &mut Room, rows: i64, value: f64) -> Batch {
    room.ready().unwrap();
    let mut x = room.take(0, &[2], Kind::Float, rows).unwrap();
    let mut labels = room.take(1, &[], Kind::Int64, rows).unwrap();
    let _ = (x.fill_(value), labels.fill_(value));
    let batch = Batch { inputs: vec![x], labels: Some(labels), weights: None, rows };
    room.send(batch).unwrap()
}

#[test]
fn every_step_reads_its_own_batch_however_late_copies_and_steps_are() {
    for eager in [false, true] {
        let device = Lazy::new(eager);
        let port: Arc<dyn Port> = Arc::<Lazy>::clone(&device);
        // Three rooms go round, as in the loader: filled in turn, and given back after their step.
        let mut rooms: VecDeque<Room> = (0..3).map(|_| Room::new(Some(Arc::clone(&port)))).collect();
        let mut loaded = VecDeque::new();
        for number in 0..20 {
            let mut room = rooms.pop_front().unwrap();
            let batch = sent(&mut room, 4 - number % 3, number as f64);
            loaded.push_back((room, batch));
            if loaded.len() == 3 {
                let (mut room, batch) = loaded.pop_front().unwrap();
                room.receive().unwrap();
                device.step(&batch.inputs[0]);
                device.step(&batch.labels.unwrap().to_kind(Kind::Float));
                room.release().unwrap();
                rooms.push_back(room);
            }
        }
        let read = device.finish();
        assert_eq!(read.len(), 2 * 18);
        for (number, read) in read.chunks(2).enumerate() {
            let expected = vec![number as f32; 2 * (4 - number % 3)];
            assert_eq!(read[0], expected, "copies at once: {eager}");
        }
    }
}

#[test]
fn a_batch_on_the_device_has_its_values_and_memory_of_its_own_that_is_used_again() {
    let device = Lazy::new(true);
    let mut room = Room::new(Some(device));
    let first = sent(&mut room, 3, 7.0);
    let values = |tensor: &Tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap();
    assert_eq!((values(&first.inputs[0]), values(first.labels.as_ref().unwrap())), (vec![7.0; 6], vec![7.0; 3]));
    let host = room.take(0, &[2], Kind::Float, 1).unwrap();
    assert_ne!(host.data_ptr(), first.inputs[0].data_ptr());
    let address = first.inputs[0].data_ptr();
    room.release().unwrap();
    let shorter = sent(&mut room, 2, 8.0);
    assert_eq!((shorter.inputs[0].data_ptr(), shorter.inputs[0].size()), (address, vec![2, 2]));
}

#[test]
fn without_a_device_a_batch_stays_where_it_was_gathered() {
    let mut room = Room::default();
    let batch = sent(&mut room, 3, 1.0);
    assert_eq!(room.take(0, &[2], Kind::Float, 3).unwrap().data_ptr(), batch.inputs[0].data_ptr());
    room.receive().unwrap();
    room.release().unwrap();
}
