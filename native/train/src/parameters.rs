//! The parameters of a replica as views into flat buffers.
//!
//! All trainable parameters of one dtype share one flat buffer, their gradients another of the same layout, and the
//! optimizer keeps its state beside them: one fused optimizer call and a few all-reduces handle them all.
//! Each parameter is a *segment* that starts on a 64-byte boundary; the padding between segments stays zero. A
//! parameter keeps its strides where they are dense.
//!
//! Parameters that the program has in float16 or bfloat16 are trained as float32 *masters*: values, gradients and optimizer
//! state are float32, and the program reads a copy in its own dtype, which [`ParameterStore::lower`] brings up to date. A
//! step too small for the low precision adds up in the masters. A gradient is widened as it arrives: parts of a batch, and
//! ranks, are summed in float32.
//!
//! Between ranks gradients must lie flat, so each is copied once as it arrives. A rank that trains alone copies only small
//! ones: the gradient of a *large* parameter is the tensor that autograd made, and there is none between steps. Large
//! parameters have flat buffers of their own, without a flat gradient.
//!
//! Segments lie in the order in which the program first uses their parameters. A gradient is complete when backward has
//! passed the first use, so backward completes the flat gradient from its end, however the module registered them.

use std::collections::BTreeMap;

use kindling_program::{Parameter, Program};
use tch::{Device, Kind, Tensor};

use crate::error::{Doing, Error, Result};
use crate::tensors;

/// Where one parameter lies in its flat buffer, in elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    /// Index of the parameter in the program.
    pub(crate) parameter: usize,
    pub(crate) offset: i64,
    /// The first node that reads it; none if no node does.
    pub(crate) first_use: Option<usize>,
}

/// The flat buffers of one dtype.
pub(crate) struct Flat {
    /// Of values, gradients, and all that is kept beside them.
    pub(crate) kind: Kind,
    /// Parameter values, `length` elements.
    pub(crate) values: Tensor,
    /// Gradients, `length` elements; none where each is a tensor of its own.
    pub(crate) grads: Option<Tensor>,
    /// What the program reads in place of `values`, if its dtype is a lower one: `values` are masters then.
    pub(crate) lowered: Option<Tensor>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) length: i64,
}

/// All parameters of a replica. *Positions* number the trainable ones: flat by flat, segment by segment.
pub(crate) struct ParameterStore {
    pub(crate) flats: Vec<Flat>,
    /// Per parameter of the program: a view into a flat buffer, or a tensor of its own if frozen.
    pub(crate) views: Vec<Tensor>,
    /// Per position: its part of a flat gradient, shaped like the parameter; or a tensor that becomes its gradient when that
    /// arrives, and is empty until then.
    pub(crate) places: Vec<Tensor>,
}

const ALIGNMENT: i64 = 64;

/// A parameter of as many bytes is large: copying its gradient takes longer than to step it apart from the others.
const LARGE: u64 = 64 << 10;

/// The dtypes of a program's parameters that can be trained, in the order of their flats.
const TRAINABLE: [Kind; 4] = [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half];

impl ParameterStore {
    /// Lays the program's parameters out on `device`, for a rank that trains `alone` or beside others.
    pub(crate) fn new(program: &Program, device: Device, alone: bool) -> Result<ParameterStore> {
        let kind_of = |parameter: &Parameter| tensors::kind_of(parameter.tensor.dtype);
        let first_uses = first_uses(program);
        let trainable_of = |kind: Kind| -> Vec<Segment> {
            let chosen = |(index, parameter): (usize, &Parameter)| {
                let first_use = first_uses.get(index).copied().flatten();
                let trains = parameter.requires_grad && kind_of(parameter) == kind;
                trains.then_some(Segment { parameter: index, offset: 0, first_use })
            };
            let mut segments: Vec<Segment> = program.parameters.iter().enumerate().filter_map(chosen).collect();
            segments.sort_by_key(|segment| segment.first_use);
            segments
        };
        let by_kind = TRAINABLE.map(|kind| (kind, trainable_of(kind)));
        let laid = |index: usize| {
            by_kind.iter().any(|(_, segments)| segments.iter().any(|segment| segment.parameter == index))
        };
        for (index, parameter) in program.parameters.iter().enumerate() {
            if parameter.requires_grad && !laid(index) {
                return Err(Error::Config(format!(
                    "parameter {} is of dtype {:?}; float32, float64, float16 and bfloat16 parameters can be trained, others \
                     only frozen (requires_grad=False)",
                    parameter.name,
                    kind_of(parameter)
                )));
            }
        }
        let (mut flats, mut places) = (Vec::new(), Vec::new());
        let mut laid_out = BTreeMap::new();
        for (kind, segments) in by_kind {
            let (large, small): (Vec<Segment>, Vec<Segment>) =
                segments.into_iter().partition(|segment| alone && is_large(program, kind, segment));
            for (segments, adopt) in [(small, false), (large, true)] {
                if !segments.is_empty() {
                    flats.push(Flat::new(kind, segments, adopt, (program, device), &mut laid_out, &mut places)?);
                }
            }
        }
        if flats.is_empty() {
            return Err(Error::Config("the program has no parameter that requires a gradient".to_owned()));
        }
        let view = |(index, parameter): (usize, &Parameter)| match laid_out.remove(&index) {
            Some(view) => Ok(view),
            None => tensors::from_data(&parameter.tensor)?.f_to_device(device).doing("placing a parameter"),
        };
        let views = program.parameters.iter().enumerate().map(view).collect::<Result<_>>()?;
        Ok(ParameterStore { flats, views, places })
    }

    /// Makes what the program reads equal to the values, after these have changed. Costs nothing without masters.
    pub(crate) fn lower(&self) -> Result<()> {
        for flat in &self.flats {
            if let Some(lowered) = &flat.lowered {
                lowered.shallow_clone().f_copy_(&flat.values).doing("rounding the parameters")?;
            }
        }
        Ok(())
    }

    /// Makes the values equal to what the program reads, after that was replaced.
    pub(crate) fn raise(&self) -> Result<()> {
        for flat in &self.flats {
            if let Some(lowered) = &flat.lowered {
                flat.values.shallow_clone().f_copy_(lowered).doing("widening the parameters")?;
            }
        }
        Ok(())
    }

    /// The masters in their parameters' shapes, by the parameter's index in the program.
    pub(crate) fn masters(&self) -> Result<Vec<(usize, Tensor)>> {
        let mut masters = Vec::new();
        for flat in self.flats.iter().filter(|flat| flat.lowered.is_some()) {
            for segment in &flat.segments {
                let Some(view) = self.views.get(segment.parameter) else { continue };
                masters.push((segment.parameter, place(&flat.values, segment.offset, view)?));
            }
        }
        Ok(masters)
    }

    /// All gradients that there are: flat ones, and those that are tensors of their own.
    pub(crate) fn gradients(&self) -> impl Iterator<Item = &Tensor> {
        let flat = self.flats.iter().filter_map(|flat| flat.grads.as_ref());
        let own = self.adopted().zip(&self.places).filter(|&(adopted, place)| adopted && place.numel() > 0);
        flat.chain(own.map(|(_, place)| place))
    }

    /// Per position: whether its gradient is a tensor of its own.
    pub(crate) fn adopted(&self) -> impl Iterator<Item = bool> {
        self.flats.iter().flat_map(|flat| flat.segments.iter().map(|_| flat.grads.is_none()))
    }

    /// Per position: the parameter, a leaf of the graph.
    pub(crate) fn leaves(&self) -> Vec<&Tensor> {
        let segments = self.flats.iter().flat_map(|flat| &flat.segments);
        segments.filter_map(|segment| self.views.get(segment.parameter)).collect()
    }
}

/// Whether a parameter of the dtype `kind` is large. Gradients that are widened as they arrive are always copied.
fn is_large(program: &Program, kind: Kind, segment: &Segment) -> bool {
    let elements = program.parameters.get(segment.parameter).map_or(0, |parameter| parameter.tensor.elements());
    matches!(kind, Kind::Float | Kind::Double) && elements * kind.elt_size_in_bytes() as u64 >= LARGE
}

/// Per parameter: the first node that reads it.
fn first_uses(program: &Program) -> Vec<Option<usize>> {
    let mut by_value: Vec<Option<usize>> = vec![None; program.values.len()];
    for (index, node) in program.nodes.iter().enumerate() {
        for value in node.uses() {
            if let Some(first) = by_value.get_mut(value.index()) {
                first.get_or_insert(index);
            }
        }
    }
    program.parameters.iter().map(|parameter| by_value.get(parameter.value.index()).copied().flatten()).collect()
}

impl Flat {
    /// Lays `segments` of the dtype `own` out in their order, adds views of them to `views` by the parameter's index, and
    /// appends their gradients to `places`: parts of a flat one, or to `adopt`.
    fn new(
        own: Kind,
        mut segments: Vec<Segment>,
        adopt: bool,
        (program, device): (&Program, Device),
        views: &mut BTreeMap<usize, Tensor>,
        places: &mut Vec<Tensor>,
    ) -> Result<Flat> {
        let data = |segment: &Segment| program.parameters.get(segment.parameter).map(|parameter| &parameter.tensor);
        let per_line = ALIGNMENT / own.elt_size_in_bytes() as i64;
        let mut length = 0;
        for segment in &mut segments {
            let elements = data(segment).map_or(0, |data| i64::try_from(data.elements()).unwrap_or(i64::MAX));
            segment.offset = length;
            // Up to the next line of 64 bytes.
            length += (elements + per_line - 1) / per_line * per_line;
        }
        let low = matches!(own, Kind::Half | Kind::BFloat16);
        let kind = if low { Kind::Float } else { own };
        let options = (kind, device);
        let values = Tensor::f_zeros([length], options).doing("allocating the parameters")?;
        let grads =
            (!adopt).then(|| Tensor::f_zeros([length], options)).transpose().doing("allocating the gradients")?;
        let lowered =
            low.then(|| Tensor::f_zeros([length], (own, device))).transpose().doing("allocating the parameters")?;
        let read = lowered.as_ref().unwrap_or(&values);
        for segment in &segments {
            let Some(data) = data(segment) else { continue };
            let strides = dense_strides(&data.sizes, &data.strides);
            let place = |flat: &Tensor| flat.f_as_strided(&data.sizes, &strides, segment.offset);
            let mut value = place(read).and_then(|value| value.f_detach()).doing("placing a parameter")?;
            // One at a time: a copy of all of them would be most of what memory has to hold before the first step.
            value.f_copy_(&tensors::from_data(data)?).doing("filling a parameter")?;
            views.insert(segment.parameter, value.f_set_requires_grad(true).doing("placing a parameter")?);
            places.push(match &grads {
                Some(grads) => place(grads).doing("placing a gradient")?,
                None => Tensor::f_empty([0], options).doing("placing a gradient")?,
            });
        }
        if let Some(lowered) = &lowered {
            values.shallow_clone().f_copy_(lowered).doing("widening the parameters")?;
        }
        Ok(Flat { kind, values, grads, lowered, segments, length })
    }
}

/// The tensor of the shape of `view` that lies at `offset` in `flat`.
pub(crate) fn place(flat: &Tensor, offset: i64, view: &Tensor) -> Result<Tensor> {
    let elements = i64::try_from(view.numel()).unwrap_or(i64::MAX);
    flat.f_narrow(0, offset, elements)
        .and_then(|range| range.f_as_strided(view.size(), view.stride(), None))
        .doing("cutting the parameters")
}

/// The strides if they are dense (a permutation of contiguous ones), else the contiguous strides of the sizes.
fn dense_strides(sizes: &[i64], strides: &[i64]) -> Vec<i64> {
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
        return strides.to_vec();
    }
    let mut contiguous = vec![0; sizes.len()];
    let mut stride = 1;
    for (slot, size) in contiguous.iter_mut().zip(sizes).rev() {
        *slot = stride;
        stride *= (*size).max(1);
    }
    contiguous
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Makes the chosen parameters bfloat16, by cutting bits off.
    pub(crate) fn to_bfloat16(program: &mut Program, chosen: impl Fn(&str) -> bool) {
        for parameter in program.parameters.iter_mut().filter(|parameter| chosen(&parameter.name)) {
            let values = parameter.tensor.bytes.as_chunks::<4>().0;
            let upper: Vec<u8> = values.iter().flat_map(|value| [value[2], value[3]]).collect();
            parameter.tensor.bytes = kindling_program::Bytes::new(upper);
            parameter.tensor.dtype = kindling_program::DType::BFloat16;
        }
    }

    #[test]
    fn parameters_lie_in_the_order_of_their_first_use_whatever_the_modules_order() {
        let layers = r#"{"inputShape":[3],"seed":1,"layers":[{"type":"dense","units":2},{"type":"dense","units":5}]}"#;
        let mut program = Program::read(layers.as_bytes().to_vec()).unwrap();
        program.parameters.reverse();
        let store = ParameterStore::new(&program, Device::Cpu, false).unwrap();
        let names: Vec<&str> =
            store.flats[0].segments.iter().map(|s| program.parameters[s.parameter].name.as_str()).collect();
        assert_eq!(names, ["0.bias", "0.weight", "1.bias", "1.weight"], "one node reads a layer's weight and bias");
        let offsets: Vec<i64> = store.flats[0].segments.iter().map(|segment| segment.offset).collect();
        assert_eq!(offsets, [0, 16, 32, 48]);
        assert_eq!(store.places[3].size(), [5, 2]);
    }

    #[test]
    fn parameters_in_half_precision_have_float32_masters_and_gradients() {
        let layers = r#"{"inputShape":[3],"seed":1,"layers":[{"type":"dense","units":2},{"type":"dense","units":5}]}"#;
        let mut program = Program::read(layers.as_bytes().to_vec()).unwrap();
        let exact = ParameterStore::new(&program, Device::Cpu, false).unwrap();
        tests::to_bfloat16(&mut program, |name| name.starts_with("1."));
        let store = ParameterStore::new(&program, Device::Cpu, false).unwrap();
        let kinds: Vec<(Kind, Option<Kind>)> =
            store.flats.iter().map(|flat| (flat.kind, flat.lowered.as_ref().map(Tensor::kind))).collect();
        assert_eq!(kinds, [(Kind::Float, None), (Kind::Float, Some(Kind::BFloat16))]);
        let offsets: Vec<i64> = store.flats[1].segments.iter().map(|segment| segment.offset).collect();
        assert_eq!(offsets, [0, 32], "64 bytes of what the program reads");
        for (index, parameter) in program.parameters.iter().enumerate() {
            let (view, place) = (&store.views[index], &store.places[index]);
            let low = parameter.name.starts_with("1.");
            assert_eq!(view.kind(), if low { Kind::BFloat16 } else { Kind::Float });
            assert_eq!((place.kind(), place.size()), (Kind::Float, view.size()));
            assert!(view.requires_grad() && view.is_leaf());
            assert!((view.to_kind(Kind::Float) - &exact.views[index]).abs().max().double_value(&[]) < 0.01);
        }
        let masters = store.masters().unwrap();
        let (index, master) = &masters[1];
        assert_eq!((masters.len(), master.kind()), (2, Kind::Float));
        // Far less than bfloat16 can tell from 1.
        let _ = master.shallow_clone().fill_(1.0 + 1e-6);
        store.lower().unwrap();
        assert_eq!(store.views[*index].double_value(&[0]), 1.0);
        assert!(master.double_value(&[0]) > 1.0);
        store.raise().unwrap();
        assert_eq!(master.double_value(&[0]), 1.0);
    }
}
