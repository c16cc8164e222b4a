//! Adam and AdamW (`torch.optim.Adam`, `torch.optim.AdamW`), fused. They differ in where the weight decay goes, which is
//! the operator's matter.

use super::fused::Fused;
use super::parts::Part;
use super::{Family, Group};
use crate::error::Result;
use crate::shim::Constant;

pub(super) struct Adam {
    amsgrad: bool,
    fused: Fused,
}

impl Adam {
    pub(super) fn new(operator: &'static str, betas: [f64; 2], epsilon: f64, amsgrad: bool) -> Adam {
        let (mut lists, mut empty) = (vec!["self", "grads", "exp_avgs", "exp_avg_sqs"], Vec::new());
        if amsgrad { &mut lists } else { &mut empty }.push("max_exp_avg_sqs");
        lists.push("state_steps");
        let [beta1, beta2] = betas;
        let settings = vec![
            ("beta1", Constant::Float(beta1)),
            ("beta2", Constant::Float(beta2)),
            ("eps", Constant::Float(epsilon)),
            ("amsgrad", Constant::Bool(amsgrad)),
        ];
        Adam { amsgrad, fused: Fused::new(operator, lists, empty, settings) }
    }
}

impl Family for Adam {
    fn slots(&self) -> Vec<&'static str> {
        let mut slots = vec!["exp_avg", "exp_avg_sq"];
        slots.extend(self.amsgrad.then_some("max_exp_avg_sq"));
        slots
    }

    fn rounds_by_place(&self) -> bool {
        true
    }

    fn step(&mut self, parts: &[Part], group: Group) -> Result<()> {
        let settings = [("lr", group.learning_rate), ("weight_decay", group.weight_decay)];
        self.fused.run(&parts.iter().collect::<Vec<_>>(), &settings, |part| {
            [&part.values, &part.grads].into_iter().chain(&part.slots).chain([&part.state_steps]).collect()
        })
    }
}
