//! Trained values on their way into a storage.
//!
//! PyTorch stores each storage once and describes weights as views of it. The views stay as they are (a transposed
//! weight is transposed afterwards, a slice lies where it lay), and so does what no trained weight reaches.

use std::borrow::Cow;
use std::ops::Range;

use crate::tensor::TensorData;

/// The bytes of a storage after `values` (row-major) have replaced the elements of their views. Every value must have as
/// many bytes as its view. The storage is copied unless one view is all of it.
pub(super) fn filled<'a>(storage: &'a [u8], views: &[(&TensorData, &'a [u8])]) -> Cow<'a, [u8]> {
    let whole = |(view, values): &&(&TensorData, &'a [u8])| {
        view.offset == 0 && values.len() == storage.len() && view.is_contiguous()
    };
    if views.is_empty() {
        return Cow::Borrowed(storage);
    }
    // Several views of everything are names of one tensor, and have one value.
    if views.iter().all(|view| whole(&view))
        && let Some((_, values)) = views.first()
    {
        return Cow::Borrowed(values);
    }
    let mut bytes = storage.to_vec();
    for (view, values) in views {
        scatter(&mut bytes, view, values);
    }
    Cow::Owned(bytes)
}

fn scatter(storage: &mut [u8], view: &TensorData, values: &[u8]) {
    let (outer, run) = runs(view);
    let length = usize::try_from(run).unwrap_or(0).saturating_mul(view.dtype.size());
    if length == 0 || view.elements() == 0 {
        return;
    }
    let mut index = vec![0_i64; outer.len()];
    for source in values.chunks_exact(length) {
        let steps = index.iter().zip(&outer).map(|(index, (_, stride))| index * stride);
        let place = range(view.offset + steps.sum::<i64>(), view.dtype.size(), length);
        if let Some(target) = place.and_then(|place| storage.get_mut(place)) {
            target.copy_from_slice(source);
        }
        // The next index, the last dimension fastest.
        for (index, (size, _)) in index.iter_mut().zip(&outer).rev() {
            *index += 1;
            if *index < *size {
                break;
            }
            *index = 0;
        }
    }
}

/// The dimensions (size, stride) that are stepped through, and the elements that lie together at each step.
fn runs(view: &TensorData) -> (Vec<(i64, i64)>, i64) {
    let mut outer: Vec<(i64, i64)> = view.sizes.iter().copied().zip(view.strides.iter().copied()).collect();
    let mut run = 1_i64;
    while let Some(&(size, stride)) = outer.last()
        && (stride == run || size == 1)
    {
        run *= size;
        outer.pop();
    }
    (outer, run)
}

fn range(element: i64, size: usize, length: usize) -> Option<Range<usize>> {
    let start = usize::try_from(element).ok()?.checked_mul(size)?;
    Some(start..start.checked_add(length)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::tensor::Bytes;

    fn view(sizes: &[i64], strides: &[i64], offset: i64, storage: &[u8]) -> TensorData {
        let bytes = Bytes::new(storage.to_vec());
        TensorData::checked("w", DType::Int16, sizes.to_vec(), strides.to_vec(), offset, bytes).unwrap()
    }

    fn numbers(range: Range<u8>) -> Vec<u8> {
        range.flat_map(|number| [number, 0]).collect()
    }

    #[test]
    fn a_view_of_everything_is_taken_without_a_copy() {
        let (storage, values) = (numbers(0..6), numbers(10..16));
        let whole = view(&[2, 3], &[3, 1], 0, &storage);
        let filled = filled(&storage, &[(&whole, &values), (&whole, &values)]);
        assert!(matches!(filled, Cow::Borrowed(bytes) if std::ptr::eq(bytes, values.as_slice())));
    }

    #[test]
    fn an_untrained_storage_stays() {
        let storage = numbers(0..6);
        assert!(matches!(filled(&storage, &[]), Cow::Borrowed(bytes) if std::ptr::eq(bytes, storage.as_slice())));
    }

    #[test]
    fn a_transposed_view_is_filled_along_its_strides() {
        let (storage, values) = (numbers(0..6), numbers(10..16));
        // Row-major [3, 2] of a tensor stored as [2, 3]: 10 11 / 12 13 / 14 15.
        let transposed = view(&[3, 2], &[1, 3], 0, &storage);
        assert_eq!(*filled(&storage, &[(&transposed, &values)]), [10, 0, 12, 0, 14, 0, 11, 0, 13, 0, 15, 0]);
    }

    #[test]
    fn an_offset_slice_leaves_its_neighbours() {
        let (storage, values) = (numbers(0..8), numbers(10..14));
        // The middle two columns of a [2, 4] matrix.
        let slice = view(&[2, 2], &[4, 1], 1, &storage);
        assert_eq!(*filled(&storage, &[(&slice, &values)]), [0, 0, 10, 0, 11, 0, 3, 0, 4, 0, 12, 0, 13, 0, 7, 0]);
    }

    #[test]
    fn views_of_one_storage_are_all_filled() {
        let storage = numbers(0..5);
        let (front, back) = (view(&[2], &[1], 0, &storage), view(&[2], &[2], 2, &storage));
        let (first, second) = (numbers(20..22), numbers(30..32));
        assert_eq!(*filled(&storage, &[(&front, &first), (&back, &second)]), [20, 0, 21, 0, 30, 0, 3, 0, 31, 0]);
    }

    #[test]
    fn single_numbers_and_tensors_without_elements_are_filled_too() {
        let storage = numbers(0..3);
        let one = view(&[], &[], 1, &storage);
        assert_eq!(*filled(&storage, &[(&one, &[9, 0])]), [0, 0, 9, 0, 2, 0]);
        let none = view(&[0, 4], &[4, 1], 0, &storage);
        assert_eq!(*filled(&storage, &[(&none, &[])]), *storage);
        let column = view(&[3, 1], &[1, 7], 0, &storage);
        assert_eq!(*filled(&storage, &[(&column, &numbers(4..7))]), *numbers(4..7));
    }
}
