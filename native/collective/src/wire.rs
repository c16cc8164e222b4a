//! f32 rounded to 16 bits for the journey, and widened again on arrival.

use crate::operation::Wire;
use crate::reduce::first;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Elements that are converted at once: small enough for the stack and the first-level cache.
const BLOCK: usize = 1024;

/// Bytes of an element on the way.
pub(crate) const NARROW: usize = 2;

/// Bytes of an element at rest.
pub(crate) const BROAD: usize = 4;

macro_rules! by_wire {
    ($wire:expr, $body:ident $args:tt) => {
        match $wire {
            Wire::F16 => $body::<f16> $args,
            // A full wire never comes here; bf16 is as good as any answer.
            Wire::BF16 | Wire::Full => $body::<bf16> $args,
        }
    };
}

/// What both 16-bit types can do.
trait Half: Copy {
    const ZERO: Self;
    fn from_bytes(bytes: [u8; NARROW]) -> Self;
    fn to_bytes(self) -> [u8; NARROW];
    fn narrow(to: &mut [Self], from: &[f32]);
    fn widen(from: &[Self], to: &mut [f32]);
}

macro_rules! half {
    ($type:ty) => {
        impl Half for $type {
            const ZERO: Self = <$type>::ZERO;

            fn from_bytes(bytes: [u8; NARROW]) -> Self {
                <$type>::from_le_bytes(bytes)
            }

            fn to_bytes(self) -> [u8; NARROW] {
                self.to_le_bytes()
            }

            fn narrow(to: &mut [Self], from: &[f32]) {
                to.convert_from_f32_slice(from);
            }

            fn widen(from: &[Self], to: &mut [f32]) {
                from.convert_to_f32_slice(to);
            }
        }
    };
}

half!(f16);
half!(bf16);

/// Rounds the floats `from` into `to`, as many as both have.
pub(crate) fn pack(wire: Wire, from: &[u8], to: &mut [u8]) {
    fn pack<H: Half>(from: &[u8], to: &mut [u8]) {
        let (from, to) = (from.as_chunks::<BROAD>().0, to.as_chunks_mut::<NARROW>().0);
        let (mut floats, mut halves) = ([0f32; BLOCK], [H::ZERO; BLOCK]);
        for (from, to) in from.chunks(BLOCK).zip(to.chunks_mut(BLOCK)) {
            let count = from.len().min(to.len());
            let (floats, halves) = (first(&mut floats, count), first(&mut halves, count));
            floats.iter_mut().zip(from).for_each(|(float, bytes)| *float = f32::from_le_bytes(*bytes));
            H::narrow(halves, floats);
            to.iter_mut().zip(&*halves).for_each(|(bytes, half)| *bytes = half.to_bytes());
        }
    }
    by_wire!(wire, pack(from, to));
}

/// Gives each float of `to` and its counterpart of `from` to `combine`, whose result replaces it.
fn combine<H: Half>(from: &[u8], to: &mut [u8], combine: impl Fn(f32, f32) -> f32) {
    let (from, to) = (from.as_chunks::<NARROW>().0, to.as_chunks_mut::<BROAD>().0);
    let (mut floats, mut halves) = ([0f32; BLOCK], [H::ZERO; BLOCK]);
    for (from, to) in from.chunks(BLOCK).zip(to.chunks_mut(BLOCK)) {
        let count = from.len().min(to.len());
        let (floats, halves) = (first(&mut floats, count), first(&mut halves, count));
        halves.iter_mut().zip(from).for_each(|(half, bytes)| *half = H::from_bytes(*bytes));
        H::widen(halves, floats);
        to.iter_mut().zip(&*floats).for_each(|(bytes, come)| {
            *bytes = combine(*come, f32::from_le_bytes(*bytes)).to_le_bytes();
        });
    }
}

/// Widens what has come over the wire into floats.
pub(crate) fn unpack(wire: Wire, from: &[u8], to: &mut [u8]) {
    by_wire!(wire, combine(from, to, |come, _| come));
}

/// Adds what has come over the wire to floats.
pub(crate) fn add(wire: Wire, from: &[u8], to: &mut [u8]) {
    by_wire!(wire, combine(from, to, |come, kept| come + kept));
}

/// Rounds floats to what the wire would have made of them: the rank that formed a sum must end with the bits of the
/// others.
pub(crate) fn round(wire: Wire, floats: &mut [u8]) {
    let mut narrow = [0; NARROW * BLOCK];
    for part in floats.chunks_mut(BROAD * BLOCK) {
        let narrow = first(&mut narrow, part.len() / BROAD * NARROW);
        pack(wire, part, narrow);
        unpack(wire, narrow, part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn what_is_rounded_here_is_what_arrives_there() {
        let values: Vec<f32> = (0..3 * BLOCK + 5).map(|i| (i as f32 - 1500.0) * 0.731).collect();
        for wire in [Wire::F16, Wire::BF16] {
            let (mut here, mut travelling, mut there) =
                (bytes(&values), vec![0; 2 * values.len()], vec![0; 4 * values.len()]);
            pack(wire, &here, &mut travelling);
            unpack(wire, &travelling, &mut there);
            round(wire, &mut here);
            assert_eq!(here, there);
            let worst = values
                .iter()
                .zip(there.as_chunks::<4>().0)
                .map(|(value, come)| ((f32::from_le_bytes(*come) - value) / value.abs().max(1e-3)).abs())
                .fold(0f32, f32::max);
            // Half a unit in the last of 11 and 8 bits.
            let bound = if wire == Wire::F16 { 1.0 / 2048.0 } else { 1.0 / 256.0 };
            assert!(worst > 0.0 && worst <= bound, "{wire:?} {worst}");
            let mut sum = bytes(&values);
            add(wire, &travelling, &mut sum);
            let twice = f32::from_le_bytes(*sum.as_chunks::<4>().0.last().unwrap());
            assert!((twice / values.last().unwrap() - 2.0).abs() <= bound);
        }
    }
}
