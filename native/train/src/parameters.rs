//! The parameters of a replica as views into flat buffers.
//!
//! All trainable parameters of one dtype share one flat buffer, their gradients another of the same layout, and the
//! optimizer keeps its state beside them: one all-reduce, one fused optimizer call and one copy handle them all.
//! Each parameter is a *segment* that starts on a 64-byte boundary; the padding between segments stays zero. A
//! parameter keeps its strides where they are dense. Backward accumulates straight into the flat gradient.
//!
//! The first gradient buffer has a *tail* behind its parameters, which travels with the gradients in the same
//! all-reduce: a flag per parameter (whether this rank's backward reached it), then the loss and the number of right
//! answers, each already weighted so that sums over ranks are the batch's.

use kindling_program::Program;
use tch::{Device, Kind, Tensor};

use crate::error::{Doing, Error, Result};
use crate::shim::{self, AccumulationFlags};
use crate::tensors;

/// Where one parameter lies in its flat buffer, in elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    /// Index of the parameter in the program.
    parameter: usize,
    pub(crate) offset: i64,
}

/// The flat buffers of one dtype.
pub(crate) struct Flat {
    pub(crate) kind: Kind,
    /// Parameter values, `length` elements.
    pub(crate) values: Tensor,
    /// Gradients, `length` elements, and behind them the tail (first buffer only).
    pub(crate) reduced: Tensor,
    /// The first `length` elements of `reduced`.
    pub(crate) grads: Tensor,
    pub(crate) segments: Vec<Segment>,
    pub(crate) length: i64,
}

/// All parameters of a replica.
pub(crate) struct ParameterStore {
    pub(crate) flats: Vec<Flat>,
    /// Per parameter of the program: a view into a flat buffer, or a tensor of its own if frozen.
    pub(crate) views: Vec<Tensor>,
    /// Flags of the trainable parameters, in the order of `trainable`.
    flags: AccumulationFlags,
    /// Program indices of the trainable parameters, flat by flat.
    trainable: Vec<usize>,
    tail: Tensor,
}

/// What the tail says after the all-reduce.
pub(crate) struct Tail {
    /// Per trainable parameter, in the order of the flats' segments: whether any rank's backward reached it.
    pub(crate) used: Vec<bool>,
    pub(crate) loss: f64,
    pub(crate) correct: f64,
}

const ALIGNMENT: i64 = 64;
/// The loss and the right answers.
const FIGURES: i64 = 2;

impl ParameterStore {
    /// Lays the program's parameters out. A trainable parameter that is not float32 or float64 is refused by name.
    pub(crate) fn new(program: &Program) -> Result<ParameterStore> {
        let mut views: Vec<Tensor> = Vec::new();
        for parameter in &program.parameters {
            views.push(tensors::from_data(&parameter.tensor)?);
        }
        let trainable_of = |kind: Kind| -> Vec<usize> {
            let chosen = |(index, view): (usize, &Tensor)| {
                let trains = program.parameters.get(index).is_some_and(|parameter| parameter.requires_grad);
                (trains && view.kind() == kind).then_some(index)
            };
            views.iter().enumerate().filter_map(chosen).collect()
        };
        let by_kind = [(Kind::Float, trainable_of(Kind::Float)), (Kind::Double, trainable_of(Kind::Double))];
        let trainable: Vec<usize> = by_kind.iter().flat_map(|(_, indices)| indices.iter().copied()).collect();
        for (index, (parameter, view)) in program.parameters.iter().zip(&views).enumerate() {
            if parameter.requires_grad && !trainable.contains(&index) {
                return Err(Error::Config(format!(
                    "parameter {} is of dtype {:?}; float32 and float64 parameters can be trained, others only frozen \
                     (requires_grad=False)",
                    parameter.name,
                    view.kind()
                )));
            }
        }
        if trainable.is_empty() {
            return Err(Error::Config("the program has no parameter that requires a gradient".to_owned()));
        }
        let tail_length = trainable.len() as i64 + FIGURES;
        let mut flats = Vec::new();
        for (kind, indices) in by_kind {
            if !indices.is_empty() {
                let tail = if flats.is_empty() { tail_length } else { 0 };
                flats.push(Flat::new(kind, &indices, tail, &mut views)?);
            }
        }
        let tail = match flats.first() {
            Some(first) => first.reduced.f_narrow(0, first.length, tail_length).doing("cutting the tail")?,
            None => return Err(Error::Config("the program has no parameter to train".to_owned())),
        };
        let leaves: Vec<Tensor> =
            trainable.iter().filter_map(|&index| views.get(index)).map(Tensor::shallow_clone).collect();
        let flags = AccumulationFlags::watch(&leaves).doing("watching the gradients")?;
        Ok(ParameterStore { flats, views, flags, trainable, tail })
    }

    /// Forgets the gradients of the last step.
    pub(crate) fn zero_grads(&mut self) -> Result<()> {
        self.flags.reset();
        for flat in &mut self.flats {
            let _ = flat.reduced.f_zero_().doing("clearing the gradients")?;
        }
        Ok(())
    }

    /// Writes this rank's part of the tail: which parameters backward reached, and the batch's figures.
    pub(crate) fn write_tail(&mut self, loss: f64, correct: f64) -> Result<()> {
        let flag = |position| f64::from(u8::from(self.flags.raised(position)));
        let figures: Vec<f64> = (0..self.trainable.len()).map(flag).chain([loss, correct]).collect();
        self.tail.f_copy_(&Tensor::from_slice(&figures)).doing("writing the tail")
    }

    /// Reads the tail after the all-reduce.
    pub(crate) fn read_tail(&self) -> Result<Tail> {
        let tail = self.tail.f_to_kind(Kind::Double).doing("reading the tail")?;
        let values = Vec::<f64>::try_from(&tail).doing("reading the tail")?;
        let (flags, figures) = values.split_at(self.trainable.len().min(values.len()));
        let figure = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        Ok(Tail { used: flags.iter().map(|&flag| flag > 0.0).collect(), loss: figure(0), correct: figure(1) })
    }
}

impl Flat {
    fn new(kind: Kind, indices: &[usize], tail: i64, views: &mut [Tensor]) -> Result<Flat> {
        let per_line = ALIGNMENT / kind.elt_size_in_bytes() as i64;
        let mut segments = Vec::new();
        let mut length = 0;
        for &parameter in indices {
            let elements = views.get(parameter).map_or(0, |view| view.numel() as i64);
            segments.push(Segment { parameter, offset: length });
            // Up to the next line of 64 bytes.
            length += (elements + per_line - 1) / per_line * per_line;
        }
        let options = (kind, Device::Cpu);
        let values = Tensor::f_zeros([length], options).doing("allocating the parameters")?;
        let reduced = Tensor::f_zeros([length + tail], options).doing("allocating the gradients")?;
        let grads = reduced.f_narrow(0, 0, length).doing("cutting the gradients")?;
        for segment in &segments {
            let Some(view) = views.get_mut(segment.parameter) else { continue };
            let (sizes, strides) = (view.size(), dense_strides(view));
            let place = |flat: &Tensor| flat.f_as_strided(&sizes, &strides, segment.offset);
            let mut value = place(&values).and_then(|value| value.f_detach()).doing("placing a parameter")?;
            value.f_copy_(view).doing("filling a parameter")?;
            let value = value.f_set_requires_grad(true).doing("placing a parameter")?;
            let grad = place(&grads).and_then(|grad| grad.f_detach()).doing("placing a gradient")?;
            shim::set_grad(&value, &grad).doing("placing a gradient")?;
            *view = value;
        }
        Ok(Flat { kind, values, reduced, grads, segments, length })
    }
}

/// The tensor's strides if it is dense (a permutation of a contiguous one), else the contiguous strides of its sizes.
fn dense_strides(tensor: &Tensor) -> Vec<i64> {
    let (sizes, strides) = (tensor.size(), tensor.stride());
    let mut order: Vec<(i64, i64)> =
        strides.iter().copied().zip(sizes.iter().copied()).filter(|&(_, size)| size != 1).collect();
    order.sort_unstable();
    let mut expected = 1;
    let dense = order.iter().all(|&(stride, size)| {
        let fits = stride == expected;
        expected *= size.max(1);
        fits
    });
    if dense {
        return strides;
    }
    let mut contiguous = vec![0; sizes.len()];
    let mut stride = 1;
    for (slot, size) in contiguous.iter_mut().zip(&sizes).rev() {
        *slot = stride;
        stride *= (*size).max(1);
    }
    contiguous
}
