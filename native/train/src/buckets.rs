//! The flat gradients cut into buckets, each of which is summed over the ranks as one.
//!
//! Buckets are cut from the end of each flat buffer, where backward begins, and never through a parameter. Their order
//! depends on the program and the bucket size alone, so it is the same on all ranks: first the buckets whose parameters
//! are all used late in forward, because backward completes those first.

use tch::{Kind, Tensor};

use crate::error::{Doing, Result};
use crate::parameters::{Flat, ParameterStore};

/// A range of a flat gradient.
pub(crate) struct Bucket {
    pub(crate) grads: Tensor,
    pub(crate) kind: Kind,
    /// How many parameters it holds.
    pub(crate) parameters: usize,
}

/// All buckets, in the order in which they are sent.
pub(crate) struct Buckets {
    pub(crate) buckets: Vec<Bucket>,
    /// Per position of a parameter: its bucket.
    pub(crate) of: Vec<usize>,
}

/// A bucket while it is planned.
#[derive(Debug, PartialEq)]
struct Cut {
    flat: usize,
    start: i64,
    end: i64,
    positions: Vec<usize>,
    /// When forward first uses one of its parameters; backward completes it then.
    first_use: Option<usize>,
}

impl Buckets {
    /// Cuts `parameters` into buckets of at most `bytes`, or of one parameter that is larger.
    pub(crate) fn new(parameters: &ParameterStore, bytes: u64) -> Result<Buckets> {
        let mut of = vec![0; parameters.places.len()];
        let mut buckets = Vec::new();
        for (number, cut) in plan(&parameters.flats, bytes).into_iter().enumerate() {
            let Some(flat) = parameters.flats.get(cut.flat) else { continue };
            let Some(grads) = &flat.grads else { continue };
            let grads = grads.f_narrow(0, cut.start, cut.end - cut.start).doing("cutting the gradients")?;
            buckets.push(Bucket { grads, kind: flat.kind, parameters: cut.positions.len() });
            for position in cut.positions {
                if let Some(bucket) = of.get_mut(position) {
                    *bucket = number;
                }
            }
        }
        Ok(Buckets { buckets, of })
    }
}

fn plan(flats: &[Flat], bytes: u64) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let mut position = 0;
    for (index, flat) in flats.iter().enumerate() {
        let most = i64::try_from(bytes / flat.kind.elt_size_in_bytes() as u64).unwrap_or(i64::MAX);
        let mut open: Option<Cut> = None;
        let mut end = flat.length;
        for (within, segment) in flat.segments.iter().enumerate().rev() {
            let full = open.take_if(|cut| cut.end - segment.offset > most);
            cuts.extend(full);
            let cut = open.get_or_insert(Cut { flat: index, start: end, end, positions: Vec::new(), first_use: None });
            cut.start = segment.offset;
            cut.first_use = segment.first_use;
            cut.positions.push(position + within);
            end = segment.offset;
        }
        cuts.extend(open);
        position += flat.segments.len();
    }
    // Stable: buckets of one flat buffer stay in their order, from its end.
    cuts.sort_by_key(|cut| std::cmp::Reverse(cut.first_use));
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Segment;
    use tch::Device;

    /// A flat of f32 whose segments have these lengths and first uses.
    fn flat(kind: Kind, segments: &[(i64, Option<usize>)]) -> Flat {
        let mut length = 0;
        let segments: Vec<Segment> = segments
            .iter()
            .map(|&(elements, first_use)| {
                let segment = Segment { parameter: 0, offset: length, first_use };
                length += elements;
                segment
            })
            .collect();
        let tensor = Tensor::zeros([length], (kind, Device::Cpu));
        Flat { kind, values: tensor.shallow_clone(), grads: Some(tensor), lowered: None, segments, length }
    }

    fn ranges(cuts: &[Cut]) -> Vec<(usize, i64, i64)> {
        cuts.iter().map(|cut| (cut.flat, cut.start, cut.end)).collect()
    }

    #[test]
    fn buckets_are_cut_from_the_end_and_hold_what_fits() {
        let flats = [flat(Kind::Float, &[(16, Some(0)), (16, Some(1)), (32, Some(2)), (16, Some(3)), (16, Some(4))])];
        assert_eq!(ranges(&plan(&flats, 32 * 4)), [(0, 64, 96), (0, 32, 64), (0, 0, 32)]);
        assert_eq!(ranges(&plan(&flats, 1)), [(0, 80, 96), (0, 64, 80), (0, 32, 64), (0, 16, 32), (0, 0, 16)]);
        assert_eq!(ranges(&plan(&flats, u64::MAX)), [(0, 0, 96)]);
    }

    #[test]
    fn a_parameter_larger_than_a_bucket_has_one_of_its_own() {
        let flats = [flat(Kind::Float, &[(16, Some(0)), (100, Some(1)), (16, Some(2))])];
        let cuts = plan(&flats, 32 * 4);
        assert_eq!(ranges(&cuts), [(0, 116, 132), (0, 16, 116), (0, 0, 16)]);
        assert_eq!(cuts.iter().map(|cut| cut.positions.clone()).collect::<Vec<_>>(), [[2], [1], [0]]);
    }

    #[test]
    fn buckets_of_several_dtypes_go_in_the_order_in_which_backward_completes_them() {
        let flats = [
            flat(Kind::Float, &[(16, None), (16, Some(1)), (16, Some(9))]),
            flat(Kind::Double, &[(8, Some(0)), (8, Some(5))]),
        ];
        let cuts = plan(&flats, 64);
        assert_eq!(ranges(&cuts), [(0, 32, 48), (1, 8, 16), (0, 16, 32), (1, 0, 8), (0, 0, 16)]);
        assert_eq!(cuts.iter().map(|cut| cut.positions.clone()).collect::<Vec<_>>(), [[2], [4], [1], [3], [0]]);
    }
}
