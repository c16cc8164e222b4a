//! Tensors at rest: shared bytes, and the strided view of them.
//!
//! Nothing here copies. A [`TensorData`] that a program holds has been checked: every element its sizes, strides and
//! offset can reach lies inside its bytes. Bytes are little-endian and not aligned to anything: who computes with
//! them copies them into memory of their own first.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::dtype::DType;
use crate::error::Error;

/// A shared, immutable piece of memory. Cloning it copies nothing.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// All bytes of an owner.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let range = 0..owner.as_ref().len();
        Self { owner: Arc::new(owner), range }
    }

    /// A part of these bytes, sharing their owner; `None` if it does not lie inside them.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end).then(|| Self { owner: Arc::clone(&self.owner), range: start..end })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // The range was checked when the value was made; an owner whose length changes reads as empty, not as a panic.
        self.owner.as_ref().as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

/// A strided tensor over shared bytes.
#[derive(Debug, Clone)]
pub struct TensorData {
    /// Element type.
    pub dtype: DType,
    /// Size of every dimension; empty for a single number.
    pub sizes: Vec<i64>,
    /// Distance between neighbours in every dimension, in elements; as many as sizes.
    pub strides: Vec<i64>,
    /// Where the first element lies in `bytes`, in elements.
    pub offset: i64,
    /// The storage, which may be larger than the tensor. Empty once [`Program::release_bytes`] let it go.
    ///
    /// [`Program::release_bytes`]: crate::Program::release_bytes
    pub bytes: Bytes,
}

impl TensorData {
    /// A view that has been checked: every element lies inside the bytes.
    ///
    /// `name` is only for the message.
    ///
    /// # Errors
    /// [`Error::TensorLayout`] for negative sizes, strides or offsets, unequal numbers of them, sizes beyond 64 bits,
    /// or an element outside the bytes.
    pub fn checked(
        name: &str,
        dtype: DType,
        sizes: Vec<i64>,
        strides: Vec<i64>,
        offset: i64,
        bytes: Bytes,
    ) -> Result<Self, Error> {
        match layout_problem(dtype, &sizes, &strides, offset, bytes.len()) {
            None => Ok(Self { dtype, sizes, strides, offset, bytes }),
            Some(problem) => Err(Error::TensorLayout { name: name.to_owned(), sizes, strides, offset, dtype, problem }),
        }
    }

    /// A row-major tensor that fills its bytes.
    ///
    /// # Errors
    /// As [`Self::checked`].
    pub fn contiguous(name: &str, dtype: DType, sizes: Vec<i64>, bytes: Bytes) -> Result<Self, Error> {
        let strides = contiguous_strides(&sizes);
        Self::checked(name, dtype, sizes, strides, 0, bytes)
    }

    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        // Checked when the tensor was made; a hand-made one saturates.
        self.sizes.iter().fold(1_u64, |product, &size| product.saturating_mul(u64::try_from(size).unwrap_or(0)))
    }

    /// Bytes of its elements, without gaps and without the rest of the storage.
    #[must_use]
    pub fn size_in_bytes(&self) -> u64 {
        self.elements().saturating_mul(self.dtype.size() as u64)
    }

    /// Whether the elements lie without gaps in row-major order.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1_i64;
        self.elements() == 0
            || self.sizes.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
                let fits = size == 1 || stride == expected;
                expected = expected.saturating_mul(size);
                fits
            })
    }

    /// The elements' bytes if they lie without gaps in row-major order.
    #[must_use]
    pub fn contiguous_bytes(&self) -> Option<&[u8]> {
        if !self.is_contiguous() {
            return None;
        }
        if self.elements() == 0 {
            return Some(&[]);
        }
        let start = usize::try_from(self.offset).ok()?.checked_mul(self.dtype.size())?;
        let length = usize::try_from(self.size_in_bytes()).ok()?;
        self.bytes.get(start..start.checked_add(length)?)
    }

    /// First and one past the last element of the storage that the tensor can reach; empty if it has no element.
    pub(crate) fn extent(&self) -> Range<i64> {
        if self.elements() == 0 {
            return self.offset..self.offset;
        }
        let reach = self.sizes.iter().zip(&self.strides).map(|(size, stride)| (size - 1).saturating_mul(*stride));
        self.offset..reach.fold(self.offset, i64::saturating_add).saturating_add(1)
    }

    /// Whether two indices may reach the same element, as in an expanded tensor. Exact for every tensor that slicing,
    /// transposing and expanding make; a more tangled one counts as overlapping.
    pub(crate) fn overlaps_itself(&self) -> bool {
        if self.elements() < 2 {
            return false;
        }
        let mut dimensions: Vec<(i64, i64)> =
            self.strides.iter().copied().zip(self.sizes.iter().copied()).filter(|&(_, size)| size > 1).collect();
        dimensions.sort_unstable();
        let mut reach = 0_i64;
        for (stride, size) in dimensions {
            if stride <= reach {
                return true;
            }
            reach = reach.saturating_add((size - 1).saturating_mul(stride));
        }
        false
    }
}

pub(crate) fn contiguous_strides(sizes: &[i64]) -> Vec<i64> {
    let mut next = 1_i64;
    let mut strides: Vec<i64> = sizes
        .iter()
        .rev()
        .map(|&size| {
            let stride = next;
            next = next.saturating_mul(size.max(1));
            stride
        })
        .collect();
    strides.reverse();
    strides
}

/// What is wrong with a view of `length` bytes, if anything.
fn layout_problem(dtype: DType, sizes: &[i64], strides: &[i64], offset: i64, length: usize) -> Option<String> {
    if sizes.len() != strides.len() {
        return Some(format!("has {} sizes but {} strides", sizes.len(), strides.len()));
    }
    if sizes.iter().chain(strides).chain([&offset]).any(|&number| number < 0) {
        return Some("has a negative size, stride or offset".into());
    }
    let elements = sizes.iter().try_fold(1_i64, |product, &size| product.checked_mul(size));
    let size = dtype.size() as i64;
    if elements.and_then(|elements| elements.checked_mul(size)).is_none() {
        return Some("has more elements than 64 bits can count".into());
    }
    if elements == Some(0) {
        return None;
    }
    let last = sizes.iter().zip(strides).try_fold(offset, |index, (&size, &stride)| {
        (size - 1).checked_mul(stride).and_then(|step| index.checked_add(step))
    });
    let end = last.and_then(|last| last.checked_add(1)).and_then(|count| count.checked_mul(size));
    match end {
        Some(end) if u64::try_from(end).is_ok_and(|end| end <= length as u64) => None,
        Some(end) => Some(format!("reaches to byte {end}, but only {length} bytes are stored")),
        None => Some(format!("reaches beyond 64 bits, but only {length} bytes are stored")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(sizes: &[i64], strides: &[i64], offset: i64, length: usize) -> Result<TensorData, Error> {
        let bytes = Bytes::new(vec![0_u8; length]);
        TensorData::checked("w", DType::Float32, sizes.to_vec(), strides.to_vec(), offset, bytes)
    }

    #[test]
    fn a_view_that_ends_with_its_bytes_is_accepted_and_one_element_more_is_refused() {
        assert!(view(&[2, 3], &[3, 1], 4, 40).is_ok());
        for (sizes, strides, offset) in [([2, 3], [3, 1], 5), ([2, 4], [3, 1], 4), ([2, 3], [4, 1], 4)] {
            let error = view(&sizes, &strides, offset, 40).unwrap_err();
            assert!(matches!(&error, Error::TensorLayout { problem, .. } if problem.contains("byte 44")), "{error}");
        }
    }

    #[test]
    fn numbers_beyond_64_bits_are_refused_rather_than_wrapped() {
        let huge = i64::MAX / 2;
        assert!(view(&[huge, 4], &[0, 0], 0, 8).is_err());
        assert!(view(&[3], &[huge], 0, 8).is_err());
        assert!(view(&[1], &[1], i64::MAX, 8).is_err());
        assert!(view(&[2, 2], &[huge, huge], huge, 8).is_err());
    }

    #[test]
    fn negative_numbers_and_unequal_lengths_are_refused() {
        assert!(view(&[-1], &[1], 0, 8).is_err());
        assert!(view(&[2], &[-1], 1, 8).is_err());
        assert!(view(&[1], &[1], -1, 8).is_err());
        assert!(view(&[1, 1], &[1], 0, 8).is_err());
    }

    #[test]
    fn a_tensor_without_elements_needs_no_bytes() {
        let empty = view(&[0, 5], &[5, 1], 9, 0).unwrap();
        assert_eq!(empty.elements(), 0);
        assert_eq!(empty.contiguous_bytes(), Some(&[][..]));
        assert_eq!(empty.extent(), 9..9);
    }

    #[test]
    fn contiguous_bytes_are_given_only_for_row_major_tensors() {
        assert_eq!(view(&[2, 2], &[2, 1], 1, 40).unwrap().contiguous_bytes().map(<[u8]>::len), Some(16));
        assert_eq!(view(&[2, 2], &[1, 2], 1, 40).unwrap().contiguous_bytes(), None);
        assert_eq!(view(&[1, 2], &[7, 1], 1, 40).unwrap().contiguous_bytes().map(<[u8]>::len), Some(8));
        assert_eq!(view(&[], &[], 1, 40).unwrap().contiguous_bytes().map(<[u8]>::len), Some(4));
    }

    #[test]
    fn an_expanded_tensor_overlaps_itself_and_a_transposed_one_does_not() {
        assert!(view(&[4], &[0], 0, 40).unwrap().overlaps_itself());
        assert!(view(&[2, 2], &[1, 1], 0, 40).unwrap().overlaps_itself());
        assert!(!view(&[2, 3], &[1, 2], 0, 40).unwrap().overlaps_itself());
        assert!(!view(&[3], &[2], 0, 40).unwrap().overlaps_itself());
        assert!(!view(&[1], &[0], 0, 40).unwrap().overlaps_itself());
    }

    #[test]
    fn a_slice_shares_its_owner_and_stays_inside_it() {
        let bytes = Bytes::new(Arc::<[u8]>::from(&b"kindling"[..]));
        let part = bytes.slice(2..6).unwrap();
        assert_eq!(&*part, b"ndli");
        assert_eq!(&*part.slice(1..3).unwrap(), b"dl");
        assert!(part.slice(1..5).is_none());
        assert!(part.slice(usize::MAX..usize::MAX).is_none());
    }
}
