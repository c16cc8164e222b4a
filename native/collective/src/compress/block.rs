//! One compression: a block and its residual become codes and a new residual.

use super::codec::{BLOCK, Codec, Fill, largest};
use super::packet::part_mut;
use super::residual::{compensate, remain};

/// Room for one block between the passes over it: 24 KiB, which stay in the first-level cache.
pub(super) struct Scratch {
    sum: [f32; BLOCK],
    rest: [f32; BLOCK],
    output: [f32; BLOCK],
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch { sum: [0.0; BLOCK], rest: [0.0; BLOCK], output: [0.0; BLOCK] }
    }

    /// Compresses a block of `values` and its residual; false, with garbage in all outputs, if a number is not finite.
    pub(super) fn compress(
        &mut self,
        codec: Codec,
        values: &[f32],
        (high, low): (&[f32], &[f32]),
        scale: &mut [u8],
        bits: &mut [u8],
        (new_high, new_low): (&mut [f32], &mut [f32]),
    ) -> bool {
        let range = 0..values.len();
        let sum = part_mut(&mut self.sum, &range);
        let rest = part_mut(&mut self.rest, &range);
        let output = part_mut(&mut self.output, &range);
        let inputs = values.iter().zip(high).zip(low);
        for (((value, high), low), (sum, rest)) in inputs.zip(sum.iter_mut().zip(&mut *rest)) {
            (*sum, *rest) = compensate(*value, *high, *low);
        }
        let largest = largest(sum);
        if !largest.is_finite() {
            return false;
        }
        let chosen = codec.scale(sum, largest);
        scale.copy_from_slice(&chosen.to_le_bytes());
        codec.pack(sum, chosen, bits);
        // What the receivers will see, by the very code that they run.
        codec.expand(chosen, bits, output, Fill::Set);
        let inputs = sum.iter().zip(&*rest).zip(&*output);
        for (((sum, rest), output), (high, low)) in inputs.zip(new_high.iter_mut().zip(new_low)) {
            (*high, *low) = remain(*sum, *rest, *output);
        }
        true
    }
}
