//! What a driver needs to know of a program before anything runs, as JSON.

use serde::Serialize;

use crate::dtype::DType;
use crate::ir::{Dim, Program, Source};
use crate::tensor::TensorData;

/// A program's inputs, outputs and size. Serialises with the names of its fields in camel case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// Where the program came from.
    pub source: Source,
    /// What it takes, in order.
    pub inputs: Vec<InputDescription>,
    /// What it returns, in order.
    pub outputs: Vec<OutputDescription>,
    /// Number of parameters; a tied one counts once.
    pub parameters: u64,
    /// Number of the parameters' elements.
    pub elements: u64,
    /// Number of the elements that are trained.
    pub trainable_elements: u64,
    /// Bytes of what is saved: parameters and persistent buffers.
    pub state_bytes: u64,
    /// See [`Program::final_activation`].
    pub final_activation: Option<String>,
}

/// One input of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InputDescription {
    /// Name of the model's argument.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Size of every dimension, the batch first; `None` where it varies.
    pub shape: Vec<Option<i64>>,
}

/// One output of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputDescription {
    /// Name, or position where the program gives none.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Size of every dimension; `None` where it varies.
    pub shape: Vec<Option<i64>>,
    /// The inputs, by position, that it needs: those of [`Program::pruned`].
    pub inputs: Vec<usize>,
    /// See [`Program::activation`].
    pub activation: Option<String>,
}

impl Program {
    /// What the program takes and returns, and how large it is.
    #[must_use]
    pub fn describe(&self) -> Description {
        let elements = |trained: bool| {
            let counted = self.parameters.iter().filter(|parameter| parameter.requires_grad || !trained);
            // Saturating: an archive may claim 2^62 elements of a tensor that is expanded from one.
            counted.map(|parameter| parameter.tensor.elements()).fold(0, u64::saturating_add)
        };
        let persistent = self.buffers.iter().filter(|buffer| buffer.persistent).map(|buffer| &buffer.tensor);
        let state = self.parameters.iter().map(|parameter| &parameter.tensor).chain(persistent);
        Description {
            source: self.source,
            inputs: self
                .inputs
                .iter()
                .map(|input| InputDescription {
                    name: input.name.clone(),
                    dtype: input.dtype,
                    shape: sizes(&input.shape),
                })
                .collect(),
            outputs: self
                .outputs
                .iter()
                .enumerate()
                .filter_map(|(index, &output)| {
                    let meta = self.meta(output)?;
                    Some(OutputDescription {
                        name: self.output_names.get(index).cloned().unwrap_or_else(|| index.to_string()),
                        dtype: meta.dtype,
                        shape: sizes(&meta.shape),
                        inputs: self.needed_inputs(index),
                        activation: self.activation(output).map(str::to_owned),
                    })
                })
                .collect(),
            parameters: self.parameters.len() as u64,
            elements: elements(false),
            trainable_elements: elements(true),
            state_bytes: state.map(TensorData::size_in_bytes).fold(0, u64::saturating_add),
            final_activation: self.final_activation().map(str::to_owned),
        }
    }
}

fn sizes(shape: &[Dim]) -> Vec<Option<i64>> {
    shape.iter().map(Dim::as_static).collect()
}
