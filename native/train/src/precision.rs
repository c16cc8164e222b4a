//! The precision that a run computes in: float32, or bfloat16 or float16 by PyTorch's autocast.
//!
//! Autocast stands around the forward and the loss, in training and in validation. Parameters, gradients and the
//! optimizer stay float32; a program that has its parameters in half precision trains float32 masters of them (see
//! `parameters`), whatever this setting. Operators that gain from it run in the lower precision. Gradients in float16 are too small
//! for its range, so the loss is scaled up before backward and gradients down after the exchange (`torch.amp.GradScaler`
//! with its defaults). An infinity or NaN in the sum of the ranks' gradients, whichever rank it came from, skips the step
//! on all of them and halves the scale.

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::error::{Doing, Error, Result};
use crate::parameters::ParameterStore;
use crate::shim::Call;
use crate::shim_modes::Autocast;

/// What forward and loss compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As the program was exported.
    #[default]
    Fp32,
    /// Autocast to bfloat16: the range of float32 with 8 bits of precision; no scaling is needed.
    Bf16,
    /// Autocast to float16, with loss scaling.
    Fp16,
}

impl Precision {
    /// Refuses a precision that would do nothing: autocast leaves float64 as it is, and a program in half precision is there
    /// already. One in float16 needs the loss scaling, though.
    pub(crate) fn check(self, parameters: &ParameterStore) -> Result<()> {
        let any = |kind| parameters.views.iter().any(|view| view.kind() == kind);
        if self != Precision::Fp16 && parameters.leaves().iter().any(|leaf| leaf.kind() == Kind::Half) {
            log::warn!(
                "the program trains float16 parameters, whose gradients vanish where they are small: precision fp16 scales the loss"
            );
        }
        if self == Precision::Fp32 || any(Kind::Float) || (self == Precision::Fp16 && any(Kind::Half)) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "precision {self:?} computes float32 programs in fewer bits, and this one has no float32 parameter: leave it out"
        )))
    }

    fn dtype(self) -> Option<kindling_program::DType> {
        match self {
            Precision::Fp32 => None,
            Precision::Bf16 => Some(kindling_program::DType::BFloat16),
            Precision::Fp16 => Some(kindling_program::DType::Float16),
        }
    }
}

/// Autocast on this thread for as long as it lives.
pub(crate) struct Region {
    before: Option<(Autocast, Device)>,
}

impl Region {
    /// Switches on the autocast of `device`.
    pub(crate) fn enter(precision: Precision, device: Device) -> Result<Region> {
        let doing = "switching autocast";
        let Some(dtype) = precision.dtype() else { return Ok(Region { before: None }) };
        let before = Autocast::current(device).doing(doing)?;
        // From here on, dropping the region puts back what was there.
        let region = Region { before: Some((before, device)) };
        before.on(Some(dtype)).set(device).doing(doing)?;
        Ok(region)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let Some((before, device)) = self.before.take() else { return };
        if let Err(error) = before.set(device) {
            log::error!("autocast of this thread could not be put back as it was: {error}");
        }
    }
}

/// The factor of the loss in float16.
pub(crate) struct Scaler {
    pub(crate) scale: f64,
    /// Steps without an overflow since the scale last changed.
    pub(crate) steady: u64,
    unscale: Call,
}

/// PyTorch's defaults.
const FIRST_SCALE: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: u64 = 2000;

impl Scaler {
    /// One for float16; the other precisions need none.
    pub(crate) fn new(precision: Precision) -> Result<Option<Scaler>> {
        if precision != Precision::Fp16 {
            return Ok(None);
        }
        let unscale = || {
            let mut call = Call::new("aten::_amp_foreach_non_finite_check_and_unscale_", "")?;
            call.bind_tensors("self", &[true])?;
            call.bind_tensor("found_inf")?;
            call.bind_tensor("inv_scale")?;
            Ok::<Call, crate::error::Torch>(call)
        };
        Ok(Some(Scaler { scale: FIRST_SCALE, steady: 0, unscale: unscale().doing("finding the loss scaler")? }))
    }

    /// The loss that backward starts from.
    pub(crate) fn scaled(&self, loss: &Tensor) -> Result<Tensor> {
        loss.f_mul_scalar(self.scale).doing("scaling the loss")
    }

    /// Scales the gradients back and settles the next scale. False if any is not finite: then nothing may be stepped.
    pub(crate) fn unscale(&mut self, parameters: &ParameterStore) -> Result<bool> {
        let doing = "scaling the gradients back";
        let scalar = |value: f64, device: Device| Tensor::f_full([1], value, (Kind::Float, device)).doing(doing);
        let mut finite = true;
        for grads in parameters.gradients() {
            let (found, inverse) = (scalar(0.0, grads.device())?, scalar(1.0 / self.scale, grads.device())?);
            self.unscale.run(&[grads, &found, &inverse], &[], None).map(drop).doing(doing)?;
            finite &= found.f_double_value(&[0]).doing(doing)? == 0.0;
        }
        if !finite {
            self.scale *= BACKOFF;
            self.steady = 0;
            return Ok(false);
        }
        self.steady += 1;
        if self.steady == GROWTH_INTERVAL {
            // As PyTorch: a scale that would leave float32 stays.
            let grown = self.scale * GROWTH;
            self.scale = if grown <= f64::from(f32::MAX) { grown } else { self.scale };
            self.steady = 0;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Batch;
    use crate::fit::TrainingConfig;
    use crate::replica::Replica;
    use crate::sync::Sync;
    use crate::sync::tests::ranks;
    use kindling_program::Program;
    use serde_json::json;

    const LAYERS: &str =
        r#"{"inputShape":[6],"seed":1,"layers":[{"type":"dense","units":8},{"type":"dense","units":3}]}"#;

    fn config(precision: &str) -> TrainingConfig {
        serde_json::from_value(json!({
            "loss": {"name": "crossEntropy"}, "optimizer": {"name": "sgd", "learningRate": 0.1}, "batchSize": 8,
            "maxEpochs": 1, "seed": 0, "shuffle": false, "progressIntervalMs": 1000, "recordRows": false,
            "precision": precision, "emaDecay": 0.5
        }))
        .unwrap()
    }

    fn replica(precision: &str) -> Replica {
        Replica::new(Program::read(LAYERS.as_bytes().to_vec()).unwrap(), None, &config(precision), 0).unwrap()
    }

    fn batch(scale: f64) -> (Vec<Tensor>, Tensor) {
        let x = Tensor::arange(24, (Kind::Float, Device::Cpu)).sin().reshape([4, 6]) * scale;
        (vec![x], Tensor::from_slice(&[0i64, 1, 2, 0]))
    }

    #[test]
    fn the_thread_has_its_own_autocast_again_after_a_region() {
        let before = Autocast::current(Device::Cpu).unwrap();
        {
            let _region = Region::enter(Precision::Bf16, Device::Cpu).unwrap();
            assert!(Autocast::current(Device::Cpu).unwrap().enabled);
        }
        assert_eq!(Autocast::current(Device::Cpu).unwrap(), before);
        let _nothing = Region::enter(Precision::Fp32, Device::Cpu).unwrap();
        assert_eq!(Autocast::current(Device::Cpu).unwrap(), before);
    }

    #[test]
    fn the_gradient_of_a_weight_used_twice_does_not_depend_on_other_ranks_of_the_process() {
        let numbers = |size: i64, shift: f64| {
            (Tensor::arange(size * size, (Kind::Float, Device::Cpu)) + shift).sin().reshape([size, size])
        };
        let gradient = |meanwhile: &dyn Fn()| -> Vec<f32> {
            // No view of another tensor: of those, autocast keeps no copies anyway.
            let weight = numbers(16, 0.0).detach().set_requires_grad(true);
            let region = Region::enter(Precision::Bf16, Device::Cpu).unwrap();
            let first = numbers(16, 1.0).linear::<&Tensor>(&weight, None);
            meanwhile();
            let loss = (first.sin() + numbers(16, 2.0).linear::<&Tensor>(&weight, None).cos()).sum(Kind::Float);
            drop(region);
            loss.backward();
            Vec::try_from(weight.grad().reshape([-1])).unwrap()
        };
        let alone = gradient(&|| {});
        let disturbed = gradient(&|| {
            std::thread::spawn(|| drop(Region::enter(Precision::Bf16, Device::Cpu).unwrap())).join().unwrap();
        });
        assert_eq!(alone, disturbed);
        let _own = Region::enter(Precision::Bf16, Device::Cpu).unwrap();
        assert!(!Autocast::current(Device::Cpu).unwrap().cache, "the cache is the process's");
    }

    /// With parameters of two dtypes, which autocast brings together.
    fn mixed() -> Replica {
        let mut program = Program::read(LAYERS.as_bytes().to_vec()).unwrap();
        crate::parameters::tests::to_bfloat16(&mut program, |name| name.starts_with("0."));
        Replica::new(program, None, &config("bf16"), 0).unwrap()
    }

    fn weight(replica: &Replica, name: &str) -> (safetensors::Dtype, Vec<u8>) {
        let bytes = replica.weights().unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor(name).unwrap();
        (view.dtype(), view.data().to_vec())
    }

    #[test]
    fn steps_too_small_for_bfloat16_add_up_in_the_masters() {
        let mut replica = mixed();
        replica.averages = None;
        let first = weight(&replica, "0.weight");
        assert_eq!(first.0, safetensors::Dtype::BF16, "as the program has it");
        let (x, y) = batch(1e-3);
        let step = |replica: &mut Replica| {
            replica.train(x.iter().map(Tensor::shallow_clone).collect(), y.shallow_clone()).unwrap();
            weight(replica, "0.weight")
        };
        assert!(step(&mut replica) == first, "one step is lost in rounding");
        let steps = (1..2000).find(|_| step(&mut replica) != first);
        assert!(steps.is_some(), "and many are not");
    }

    /// The gradients of bfloat16 parameters after a step on a half of four rows, by one rank alone or by two.
    fn gradients(replica: &mut Replica, half: usize, sync: &mut Sync) -> Vec<f32> {
        let (inputs, labels) = batch(1.0);
        let whole = Batch { inputs, labels: Some(labels), weights: None, rows: 4 };
        let sums = crate::loss::Sums { rows: 4, weight: 4.0, answers: 4.0 };
        replica.begin().unwrap();
        replica.backward(Some(&whole.part(&(2 * half..2 * half + 2)).unwrap()), &sums, sync).unwrap();
        replica.step(sync).unwrap();
        let flat = &replica.parameters.flats[1];
        assert!(flat.lowered.is_some() && flat.kind == Kind::Float);
        Vec::try_from(flat.grads.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn gradients_of_half_precision_are_summed_over_the_ranks_in_float32() {
        let alone = |half| gradients(&mut mixed(), half, &mut Sync::alone());
        let sum: Vec<f32> = alone(0).iter().zip(alone(1)).map(|(one, other)| one + other).collect();
        let rounded = |value: &f32| value.to_bits() & 0xffff == 0;
        assert!(!sum.iter().all(rounded), "bfloat16 could not hold them");
        for received in ranks(2, |rank, mut sync| gradients(&mut mixed(), rank, &mut sync)) {
            assert_eq!(received, sum);
        }
    }

    #[test]
    fn averages_are_of_the_masters_and_training_goes_on_with_its_own() {
        let mut replica = mixed();
        for _ in 0..3 {
            let (x, y) = batch(1.0);
            replica.train(x, y).unwrap();
        }
        let average = replica.averages.as_ref().unwrap().tensors(&replica.parameters).unwrap();
        let index = replica.program.parameters.iter().position(|parameter| parameter.name == "0.weight").unwrap();
        let (_, average) = average.iter().find(|(parameter, _)| *parameter == index).unwrap();
        assert_eq!(average.kind(), Kind::Float);
        let rounded = average.to_kind(Kind::BFloat16).contiguous();
        assert!(weight(&replica, "0.weight").1 == crate::tensors::bytes(&rounded).unwrap());
        let (_, master) = replica.parameters.masters().unwrap().swap_remove(0);
        assert!(replica.parameters.views[index].detach().equal(&master.to_kind(Kind::BFloat16)));
        assert!(!replica.parameters.views[index].detach().equal(&rounded));
    }

    #[test]
    fn an_overflow_skips_the_step_and_halves_the_scale() {
        let mut replica = replica("fp16");
        let state = |replica: &Replica| (replica.weights().unwrap(), replica.position.skipped, replica.steps);
        let (before, ..) = state(&replica);
        let (x, y) = batch(1e6);
        replica.train(x, y).unwrap();
        assert_eq!(replica.scaler.as_ref().unwrap().scale, FIRST_SCALE / 2.0);
        assert!(state(&replica) == (before.clone(), 1, 1), "nothing moved, and the schedule went on");
        let (x, y) = batch(1.0);
        replica.train(x, y).unwrap();
        assert!(state(&replica).0 != before);
        assert_eq!((replica.position.skipped, replica.scaler.as_ref().unwrap().steady), (1, 1));
    }

    #[test]
    fn the_scale_grows_after_long_steadiness() {
        let mut replica = replica("fp16");
        replica.scaler.as_mut().unwrap().steady = GROWTH_INTERVAL - 1;
        let (x, y) = batch(1.0);
        replica.train(x, y).unwrap();
        let scaler = replica.scaler.as_ref().unwrap();
        assert_eq!((scaler.scale, scaler.steady), (FIRST_SCALE * GROWTH, 0));
    }

    #[test]
    fn an_overflow_on_one_rank_skips_the_step_on_all() {
        let outcomes = ranks(2, |rank, mut sync| {
            let mut replica = replica("fp16");
            let before = replica.weights().unwrap();
            for scale in [1.0, [1.0, 1e6][rank], 1.0] {
                let (inputs, labels) = batch(scale);
                let batch = Batch { inputs, labels: Some(labels), weights: None, rows: 4 };
                let sums = crate::loss::Sums { rows: 8, weight: 8.0, answers: 8.0 };
                replica.begin().unwrap();
                replica.backward(Some(&batch), &sums, &sync).unwrap();
                replica.step(&mut sync).unwrap();
            }
            let after = replica.weights().unwrap();
            assert!(after != before);
            (after, replica.position.skipped, replica.scaler.as_ref().unwrap().scale.to_bits())
        });
        assert_eq!(outcomes[0].1, 1);
        assert_eq!(outcomes[0], outcomes[1]);
    }

    #[test]
    fn a_precision_that_would_do_nothing_is_refused() {
        let mut program = Program::read(LAYERS.as_bytes().to_vec()).unwrap();
        for parameter in &mut program.parameters {
            let count = parameter.tensor.sizes.iter().product::<i64>() as usize;
            parameter.tensor.dtype = kindling_program::DType::Float64;
            parameter.tensor.bytes = kindling_program::Bytes::new(vec![0u8; count * 8]);
        }
        let store = ParameterStore::new(&program, Device::Cpu, false).unwrap();
        assert!(Precision::Fp32.check(&store).is_ok());
        assert!(Precision::Bf16.check(&store).unwrap_err().to_string().contains("float32"));
    }
}
