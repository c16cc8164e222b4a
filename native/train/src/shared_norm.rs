//! Running a batch norm by the statistics of all ranks (`kindling::sync_batch_norm`, see `norms`).
//!
//! Values are normalised by the mean and the biased variance over all ranks; the running variance takes the unbiased one.
//! That is what `torch.nn.SyncBatchNorm` does.

use std::sync::Arc;

use kindling_program::{Arg, Node, Output, Scalar, ValueId};
use tch::Tensor;

use crate::compile::Operand;
use crate::error::{Doing, Error, Result, Torch};
use crate::norms::{Moments, Norms};
use crate::shim_norm::{Statistics, moments, normalise};
use crate::slots::{Slot, operand, put, tensor_at};
use crate::within::{Remembered, Within};

/// One such node.
pub(crate) struct SharedNorm {
    index: u32,
    input: ValueId,
    weight: Option<ValueId>,
    bias: Option<ValueId>,
    running: Option<[ValueId; 2]>,
    momentum: Operand,
    epsilon: f64,
    output: ValueId,
}

impl SharedNorm {
    pub(crate) fn compile(node: &Node) -> Result<SharedNorm> {
        let odd = |what: &str| Error::Config(format!("syncBatchNorm: node {} has an odd {what}", node.name));
        let tensor = |name: &str| match node.arg(name) {
            Some(Arg::Tensor(value)) => Some(*value),
            _ => None,
        };
        let index = match node.arg("index") {
            Some(Arg::Int(index)) => u32::try_from(*index).map_err(|_| odd("index"))?,
            _ => return Err(odd("index")),
        };
        let momentum = match node.arg("momentum") {
            Some(Arg::Float(momentum)) => Operand::Literal(Scalar::Float(*momentum)),
            Some(Arg::SymFloat(value)) => Operand::Value(*value),
            _ => return Err(odd("momentum")),
        };
        let Some(Arg::Float(epsilon)) = node.arg("eps") else { return Err(odd("eps")) };
        let [Output::Tensor(output)] = node.outputs.as_slice() else { return Err(odd("output")) };
        let running = tensor("running_mean").zip(tensor("running_var")).map(|(mean, variance)| [mean, variance]);
        let input = tensor("input").ok_or_else(|| odd("input"))?;
        let (weight, bias) = (tensor("weight"), tensor("bias"));
        Ok(SharedNorm { index, input, weight, bias, running, momentum, epsilon: *epsilon, output: *output })
    }

    pub(crate) fn run(
        &self,
        node: &str,
        norms: &Arc<Norms>,
        slots: &mut [Slot],
        within: &mut Within<'_>,
    ) -> Result<()> {
        let failed = |source: Torch| Error::Node { node: node.to_owned(), op: "batch_norm".to_owned(), source };
        let input = tensor_at(slots, self.input)?;
        let again = match &mut within.moments {
            Remembered::Given(given) => given.pop_front(),
            Remembered::Nothing | Remembered::Kept(_) => None,
        };
        let first = again.is_none();
        let moments = match again {
            Some(moments) => moments,
            None => {
                let momentum = operand(slots, self.momentum)?.float();
                norms.moments(self.index, momentum, &moments(input).map_err(failed)?)?
            }
        };
        let tensor = |value: Option<ValueId>| value.map(|value| tensor_at(slots, value)).transpose();
        if let (true, [Some(mean), Some(variance)]) =
            (first, [tensor(self.running.map(|[mean, _]| mean))?, tensor(self.running.map(|[_, variance]| variance))?])
        {
            update([mean, variance], &moments)?;
        }
        let (index, norms, trouble) = (self.index, Arc::clone(norms), within.trouble.clone());
        let sum = move |values: &mut [f64]| match norms.sum(index, values) {
            Ok(()) => true,
            Err(error) => {
                trouble.note(error);
                false
            }
        };
        let statistics = Statistics { count: moments.count, mean: &moments.mean, variance: &moments.variance };
        let (weight, bias) = (tensor(self.weight)?, tensor(self.bias)?);
        let output = normalise(input, weight, bias, &statistics, self.epsilon, Box::new(sum)).map_err(failed)?;
        if let Remembered::Kept(kept) = &mut within.moments {
            kept.push(moments);
        }
        put(slots, self.output, Slot::Tensor(output))
    }
}

/// Moves running mean and variance towards those of a step.
pub(crate) fn update(running: [&Tensor; 2], moments: &Moments) -> Result<()> {
    let _no_graph = tch::no_grad_guard();
    let unbiased = moments.count / (moments.count - 1.0);
    let variance: Vec<f64> = moments.variance.iter().map(|variance| variance * unbiased).collect();
    for (running, new) in running.into_iter().zip([&moments.mean, &variance]) {
        let step = |old: Tensor| {
            let new = Tensor::f_from_slice(new)?.f_to_device(old.device())?.f_mul_scalar(moments.momentum)?;
            old.f_mul_scalar(1.0 - moments.momentum)?.f_add(&new)
        };
        let moved = running.f_to_kind(tch::Kind::Double).and_then(step).doing("updating running statistics")?;
        running.shallow_clone().f_copy_(&moved).doing("updating running statistics")?;
    }
    Ok(())
}
