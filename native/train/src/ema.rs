//! Averaged weights: an exponential moving average of the parameters beside the ones that are trained.
//!
//! As `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn(decay)`: the first step copies the parameters,
//! every later one moves the average by `1 - decay` of the way to them. Buffers are not averaged, and neither are frozen
//! parameters, which do not move. Of parameters with float32 masters these are averaged. A fitted model and validation use the averages; training goes on with its own weights.

use tch::Tensor;

use crate::check::below_one;
use crate::error::{Doing, Result};
use crate::parameters::{ParameterStore, place};

/// The averages of all trained parameters, laid out like them.
pub(crate) struct Averages {
    decay: f64,
    /// Laid out like the parameters.
    pub(crate) flats: Vec<Tensor>,
    /// Steps that have entered.
    pub(crate) updates: u64,
}

impl Averages {
    /// Refuses a decay that is no share.
    pub(crate) fn check(decay: f64) -> Result<()> {
        below_one("emaDecay", decay)
    }

    pub(crate) fn new(decay: f64, parameters: &ParameterStore) -> Result<Averages> {
        Averages::check(decay)?;
        let copy = |values: &Tensor| -> std::result::Result<Tensor, tch::TchError> {
            let mut copy = values.f_empty_like()?;
            copy.f_copy_(values)?;
            Ok(copy)
        };
        let flats = parameters.flats.iter().map(|flat| copy(&flat.values)).collect::<std::result::Result<_, _>>();
        Ok(Averages { decay, flats: flats.doing("averaging the weights")?, updates: 0 })
    }

    /// Takes the parameters after a step in.
    pub(crate) fn update(&mut self, parameters: &ParameterStore) -> Result<()> {
        let doing = "averaging the weights";
        for (average, flat) in self.flats.iter_mut().zip(&parameters.flats) {
            if self.updates == 0 {
                average.f_copy_(&flat.values).doing(doing)?;
            } else {
                average.f_lerp_(&flat.values, 1.0 - self.decay).map(drop).doing(doing)?;
            }
        }
        self.updates += 1;
        Ok(())
    }

    /// Swaps the averages and the parameters; a second time puts them back.
    pub(crate) fn swap(&self, parameters: &ParameterStore) -> Result<()> {
        let doing = "swapping the averaged weights";
        for (average, flat) in self.flats.iter().zip(&parameters.flats) {
            let mut kept = average.f_empty_like().doing(doing)?;
            kept.f_copy_(average).doing(doing)?;
            average.shallow_clone().f_copy_(&flat.values).doing(doing)?;
            flat.values.shallow_clone().f_copy_(&kept).doing(doing)?;
        }
        parameters.lower()
    }

    /// The average of every trained parameter in its shape, by the parameter's index in the program.
    pub(crate) fn tensors(&self, parameters: &ParameterStore) -> Result<Vec<(usize, Tensor)>> {
        let mut tensors = Vec::new();
        for (average, flat) in self.flats.iter().zip(&parameters.flats) {
            for segment in &flat.segments {
                let Some(view) = parameters.views.get(segment.parameter) else { continue };
                tensors.push((segment.parameter, place(average, segment.offset, view)?));
            }
        }
        Ok(tensors)
    }
}
