//! Stochastic gradient descent (`torch.optim.SGD`), fused.

use super::fused::Fused;
use super::parts::Part;
use super::{Family, Group};
use crate::error::Result;
use crate::shim::Constant;

/// The first step of a parameter takes the whole gradient as its momentum, whatever the dampening; hence two operators.
pub(super) struct Sgd {
    momentum: bool,
    first: Fused,
    later: Fused,
}

impl Sgd {
    pub(super) fn new(momentum: f64, dampening: f64, nesterov: bool) -> Sgd {
        let kept = momentum != 0.0;
        let fused = |first: bool| {
            let buffer = "momentum_buffer_list";
            let (mut lists, mut empty) = (vec!["self", "grads"], Vec::new());
            if kept { &mut lists } else { &mut empty }.push(buffer);
            let settings = vec![
                ("momentum", Constant::Float(momentum)),
                ("dampening", Constant::Float(dampening)),
                ("nesterov", Constant::Bool(nesterov)),
                ("is_first_step", Constant::Bool(first)),
            ];
            Fused::new("aten::_fused_sgd_", lists, empty, settings)
        };
        Sgd { momentum: kept, first: fused(true), later: fused(false) }
    }
}

impl Family for Sgd {
    fn slots(&self) -> Vec<&'static str> {
        if self.momentum { vec!["momentum_buffer"] } else { Vec::new() }
    }

    fn rounds_by_place(&self) -> bool {
        true
    }

    fn step(&mut self, parts: &[Part], group: Group) -> Result<()> {
        let settings = [("lr", group.learning_rate), ("weight_decay", group.weight_decay)];
        let (first, later): (Vec<&Part>, Vec<&Part>) = parts.iter().partition(|part| part.steps == 1);
        for (fused, parts) in [(&mut self.first, first), (&mut self.later, later)] {
            fused
                .run(&parts, &settings, |part| [&part.values, &part.grads].into_iter().chain(&part.slots).collect())?;
        }
        Ok(())
    }
}
