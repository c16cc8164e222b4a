//! Bounds on the gradient of the global batch, after the exchange and before the step.
//!
//! As `torch.nn.utils.clip_grad_value_` and `clip_grad_norm_`, in this order: every element to [-value, value], then the
//! whole times `norm / (total + 1e-6)` if that is below 1. The norm is the one of the parameters that have a gradient;
//! padding is no part of it. A gradient that is not finite makes the norm so too, and the step: as in PyTorch.

use tch::{Kind, Tensor};

use crate::check::positive;
use crate::error::{Doing, Result};
use crate::parameters::ParameterStore;

/// What gradients are bounded by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clip {
    norm: Option<f64>,
    value: Option<f64>,
}

/// PyTorch's, so that a gradient of norm 0 has a factor.
const EPSILON: f64 = 1e-6;

impl Clip {
    pub(crate) fn new(norm: Option<f64>, value: Option<f64>) -> Result<Clip> {
        positive("clipNorm", norm.unwrap_or(1.0))?;
        positive("clipValue", value.unwrap_or(1.0))?;
        Ok(Clip { norm, value })
    }

    /// Bounds the gradients in place. Those of parameters without gradient are zero and stay so.
    pub(crate) fn apply(&self, parameters: &ParameterStore) -> Result<()> {
        let doing = "clipping the gradients";
        if let Some(value) = self.value {
            for grads in parameters.gradients() {
                grads.shallow_clone().f_clamp_(-value, value).map(drop).doing(doing)?;
            }
        }
        let Some(most) = self.norm else { return Ok(()) };
        let factor = most / (global_norm(parameters)? + EPSILON);
        // PyTorch multiplies by 1 too; what is not finite fails the comparison and is multiplied.
        if factor >= 1.0 {
            return Ok(());
        }
        for grads in parameters.gradients() {
            grads.shallow_clone().f_mul_scalar_(factor).map(drop).doing(doing)?;
        }
        Ok(())
    }
}

/// The norm of all gradients. Norms are taken tensor by tensor, as PyTorch does: a single sum over a long float32 buffer
/// would lose what small elements add.
fn global_norm(parameters: &ParameterStore) -> Result<f64> {
    let doing = "taking the norm of the gradients";
    let norm = |place: &Tensor| place.f_norm().and_then(|norm| norm.f_to_kind(Kind::Double));
    let norms = parameters.places.iter().map(norm).collect::<std::result::Result<Vec<_>, _>>();
    let all = Tensor::f_stack(&norms.doing(doing)?, 0).doing(doing)?;
    all.f_norm().and_then(|norm| norm.f_double_value(&[])).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_program::Program;

    fn store() -> ParameterStore {
        let layers = r#"{"inputShape":[3],"seed":1,"layers":[{"type":"dense","units":2}]}"#;
        let program = Program::read(layers.as_bytes().to_vec()).unwrap();
        let store = ParameterStore::new(&program, tch::Device::Cpu, false).unwrap();
        // Eight elements: six of 3 and two of -1.
        for (place, value) in store.places.iter().zip([3.0, -1.0]) {
            let _ = place.shallow_clone().fill_(value);
        }
        store
    }

    fn grads(store: &ParameterStore) -> Vec<f32> {
        let of = |place: &Tensor| Vec::<f32>::try_from(place.reshape([-1])).unwrap();
        store.places.iter().flat_map(of).collect()
    }

    #[test]
    fn a_long_gradient_is_scaled_to_the_norm_and_a_short_one_left_alone() {
        let store = store();
        Clip::new(Some(8.0), None).unwrap().apply(&store).unwrap();
        assert_eq!(grads(&store), [3.0, 3.0, 3.0, 3.0, 3.0, 3.0, -1.0, -1.0]);
        Clip::new(Some(2.0), None).unwrap().apply(&store).unwrap();
        let factor = 2.0 / (56.0f64.sqrt() + 1e-6);
        assert_eq!(grads(&store)[0], (3.0 * factor) as f32);
        assert_eq!(grads(&store)[7], (-factor) as f32);
    }

    #[test]
    fn values_are_bounded_before_the_norm() {
        let store = store();
        Clip::new(Some(1.0), Some(2.0)).unwrap().apply(&store).unwrap();
        let factor = 1.0 / (26.0f64.sqrt() + 1e-6);
        assert_eq!(grads(&store)[0], (2.0 * factor) as f32);
        assert_eq!(grads(&store)[7], (-factor) as f32);
    }

    #[test]
    fn what_is_not_finite_is_not_hidden() {
        let store = store();
        let _ = store.places[1].shallow_clone().fill_(f64::INFINITY);
        Clip::new(Some(1.0), None).unwrap().apply(&store).unwrap();
        assert_eq!(grads(&store)[0], 0.0);
        assert!(grads(&store)[7].is_nan());
    }

    #[test]
    fn bounds_must_be_above_zero() {
        assert!(Clip::new(Some(0.0), None).unwrap_err().to_string().contains("clipNorm"));
        assert!(Clip::new(None, Some(-1.0)).unwrap_err().to_string().contains("clipValue"));
    }
}
