//! The weights and buffers of an epoch, kept until the run is over.
//!
//! What is kept is what the validation rows judged: with `emaDecay` the averaged weights. It takes as much memory as the
//! trained parameters and the buffers that training writes; the same memory serves every epoch that is kept.

use tch::Tensor;

use crate::error::{Doing, Result};
use crate::replica::Replica;

/// See the module.
pub(crate) struct Kept {
    flats: Vec<Tensor>,
    buffers: Vec<Tensor>,
}

impl Kept {
    /// Takes what the replica holds, into the place of `earlier`.
    pub(crate) fn take(replica: &Replica, earlier: Option<Kept>) -> Result<Kept> {
        let flats: Vec<&Tensor> = replica.parameters.flats.iter().map(|flat| &flat.values).collect();
        let buffers = replica.written_buffers();
        let doing = "keeping the weights of the best epoch";
        let room =
            |like: &[&Tensor]| like.iter().map(|tensor| tensor.f_empty_like().doing(doing)).collect::<Result<_>>();
        let mut kept = match earlier {
            Some(kept) => kept,
            None => Kept { flats: room(&flats)?, buffers: room(&buffers)? },
        };
        let places = kept.flats.iter_mut().chain(&mut kept.buffers);
        for (place, value) in places.zip(flats.into_iter().chain(buffers)) {
            place.f_copy_(value).doing(doing)?;
        }
        Ok(kept)
    }

    /// Makes it what a fitted model has. Training does not go on from there.
    pub(crate) fn restore(&self, replica: &Replica) -> Result<()> {
        let fitted: Vec<&Tensor> = match &replica.averages {
            Some(averages) => averages.flats.iter().collect(),
            None => replica.parameters.flats.iter().map(|flat| &flat.values).collect(),
        };
        let kept = self.flats.iter().chain(&self.buffers);
        for (place, value) in fitted.into_iter().chain(replica.written_buffers()).zip(kept) {
            place.shallow_clone().f_copy_(value).doing("restoring the weights of the best epoch")?;
        }
        // What the program reads in place of float32 masters.
        replica.parameters.lower()
    }
}
