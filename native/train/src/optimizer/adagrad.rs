//! Adagrad (`torch.optim.Adagrad`), fused.

use super::fused::Fused;
use super::parts::Part;
use super::{Family, Group};
use crate::error::Result;
use crate::shim::Constant;

pub(super) struct Adagrad {
    initial: f64,
    fused: Fused,
}

impl Adagrad {
    pub(super) fn new(learning_rate_decay: f64, initial: f64, epsilon: f64) -> Adagrad {
        let settings = vec![("lr_decay", Constant::Float(learning_rate_decay)), ("eps", Constant::Float(epsilon))];
        let lists = vec!["self", "grads", "state_sums", "state_steps"];
        let fused = Fused::new("aten::_fused_adagrad_", lists, Vec::new(), settings);
        Adagrad { initial, fused }
    }
}

impl Family for Adagrad {
    fn slots(&self) -> Vec<&'static str> {
        vec!["sum"]
    }

    fn initial(&self) -> f64 {
        self.initial
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
