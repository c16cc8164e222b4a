//! Step counts as ATen's fused kernels read them: scalars, one for all parts that have taken as many steps.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::error::{Doing, Result};

/// By the steps that had been taken when the plan was made.
#[derive(Default)]
pub(super) struct Counters {
    tensors: BTreeMap<u64, Tensor>,
    /// Steps taken since.
    since: u64,
}

impl Counters {
    /// The counter of parts that have taken `steps` steps. PyTorch counts in float32 too.
    pub(super) fn of(&mut self, steps: u64, device: Device) -> Result<Tensor> {
        if let Some(tensor) = self.tensors.get(&steps) {
            return Ok(tensor.shallow_clone());
        }
        let tensor = Tensor::f_zeros([], (Kind::Float, device)).doing("counting steps")?;
        self.tensors.insert(steps, tensor.shallow_clone());
        Ok(tensor)
    }

    /// Counts the step that is about to be taken.
    pub(super) fn count(&mut self) -> Result<()> {
        self.since += 1;
        for (before, tensor) in &mut self.tensors {
            #[expect(clippy::cast_precision_loss, reason = "steps stay far below 2^53")]
            let steps = (before + self.since) as f64;
            tensor.f_fill_(steps).map(drop).doing("counting steps")?;
        }
        Ok(())
    }
}
