//! Calls of ATen's fused optimizers, which step a list of tensors at once.

use std::collections::BTreeMap;

use tch::Tensor;

use super::parts::Part;
use crate::error::{Doing, Result, Torch};
use crate::shim::{Call, Constant};

/// One fused operator with the settings that never change. A call's lists have a fixed length, so there is one call for
/// every number of parts that was met: nearly always one.
pub(super) struct Fused {
    operator: &'static str,
    /// Arguments that take one tensor of every part.
    lists: Vec<&'static str>,
    /// List arguments that stay empty.
    empty: Vec<&'static str>,
    settings: Vec<(&'static str, Constant<'static>)>,
    calls: BTreeMap<usize, Call>,
}

impl Fused {
    pub(super) fn new(
        operator: &'static str,
        lists: Vec<&'static str>,
        empty: Vec<&'static str>,
        settings: Vec<(&'static str, Constant<'static>)>,
    ) -> Fused {
        Fused { operator, lists, empty, settings, calls: BTreeMap::new() }
    }

    fn call(&self, parts: usize) -> std::result::Result<Call, Torch> {
        let mut call = Call::new(self.operator, "")?;
        for list in &self.lists {
            call.bind_tensors(list, &vec![true; parts])?;
        }
        for list in &self.empty {
            call.bind_tensors(list, &[])?;
        }
        for &(name, value) in &self.settings {
            call.set(name, value)?;
        }
        call.set("maximize", Constant::Bool(false))?;
        Ok(call)
    }

    /// Steps `parts`: `settings` are those of this step, and `tensors` gives each part's tensors in the lists' order.
    pub(super) fn run<'a>(
        &mut self,
        parts: &[&'a Part],
        settings: &[(&str, f64)],
        tensors: impl Fn(&'a Part) -> Vec<&'a Tensor>,
    ) -> Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        if !self.calls.contains_key(&parts.len()) {
            let call = self.call(parts.len()).doing("finding the fused optimizer")?;
            self.calls.insert(parts.len(), call);
        }
        let Some(call) = self.calls.get_mut(&parts.len()) else { return Ok(()) };
        for &(name, value) in settings {
            call.set(name, Constant::Float(value)).doing("setting up the optimizer")?;
        }
        let by_part: Vec<Vec<&Tensor>> = parts.iter().map(|&part| tensors(part)).collect();
        let arguments: Vec<&Tensor> = (0..self.lists.len())
            .flat_map(|list| by_part.iter().filter_map(move |own| own.get(list).copied()))
            .collect();
        call.run(&arguments, &[], None).map(drop).doing("stepping the optimizer")
    }
}
