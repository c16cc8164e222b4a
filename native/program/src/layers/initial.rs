//! First weights that are the same on every machine and in every release.
//!
//! Each weight has a random stream of its own, so that adding a layer does not change another layer's weights:
//! SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), started at
//! `mix(mix(seed) ^ FNV-1a(name))`. A draw uses its upper 24 bits, which a float holds exactly; everything after is
//! IEEE multiplication and square root, which round alike everywhere. The golden numbers below pin the streams.

use crate::error::Error;
use crate::tensor::Bytes;

/// Glorot and Bengio's uniform distribution: ±sqrt(6 / (fan in + fan out)).
#[derive(Debug, Clone, Copy)]
pub(super) struct Fans {
    pub(super) input: i64,
    pub(super) output: i64,
}

/// How a weight starts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Initial {
    Constant(f32),
    Uniform { limit: f64 },
    Glorot(Fans),
}

impl Initial {
    /// `elements` little-endian floats.
    pub(super) fn values(self, seed: i64, name: &str, elements: i64) -> Result<Bytes, Error> {
        let memory = || Error::Memory { name: name.to_owned(), elements };
        let count = usize::try_from(elements).map_err(|_| memory())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(count.checked_mul(size_of::<f32>()).ok_or_else(memory)?).map_err(|_| memory())?;
        match self {
            Self::Constant(value) => (0..count).for_each(|_| bytes.extend_from_slice(&value.to_le_bytes())),
            Self::Uniform { limit } => fill(&mut bytes, count, limit, Stream::new(seed, name)),
            Self::Glorot(Fans { input, output }) => {
                let limit = (6.0 / (input as f64 + output as f64)).sqrt();
                fill(&mut bytes, count, limit, Stream::new(seed, name));
            }
        }
        Ok(Bytes::new(bytes))
    }
}

fn fill(bytes: &mut Vec<u8>, count: usize, limit: f64, mut stream: Stream) {
    for _ in 0..count {
        let value = stream.next_symmetric() * limit;
        bytes.extend_from_slice(&(value as f32).to_le_bytes());
    }
}

/// A SplitMix64 stream.
struct Stream {
    state: u64,
}

impl Stream {
    fn new(seed: i64, name: &str) -> Self {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Self { state: mix(mix(seed.cast_unsigned()) ^ hash) }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Uniform in [-1, 1).
    fn next_symmetric(&mut self) -> f64 {
        // 24 bits over 2^23: from 0 to just below 2.
        (self.next() >> 40) as f64 / f64::from(1_u32 << 23) - 1.0
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(initial: Initial, seed: i64, name: &str, count: i64) -> Vec<f32> {
        let bytes = initial.values(seed, name, count).unwrap();
        bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap())).collect()
    }

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs for state 0, from the authors' reference implementation.
        let mut stream = Stream { state: 0 };
        assert_eq!(stream.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(stream.next(), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(stream.next(), 0x06c4_5d18_8009_454f);
    }

    #[test]
    fn streams_depend_on_seed_and_name_and_on_nothing_else() {
        let draw = |seed, name| floats(Initial::Uniform { limit: 1.0 }, seed, name, 4);
        assert_eq!(draw(0, "0.weight"), draw(0, "0.weight"));
        assert_ne!(draw(0, "0.weight"), draw(1, "0.weight"));
        assert_ne!(draw(0, "0.weight"), draw(0, "1.weight"));
        assert_ne!(draw(0, "0.weight"), draw(-1, "0.weight"));
    }

    #[test]
    fn values_fill_their_range_evenly() {
        let values = floats(Initial::Glorot(Fans { input: 2, output: 4 }), 3, "w", 100_000);
        // The standard error of the mean is 1/sqrt(3 * 100 000) = 0.0018, of the second moment 0.0009.
        let mean = values.iter().sum::<f32>() / 1e5;
        let square = values.iter().map(|value| value * value).sum::<f32>() / 1e5;
        assert!(values.iter().all(|value| (-1.0..1.0).contains(value)));
        assert!(mean.abs() < 0.01, "{mean}");
        assert!((square - 1.0 / 3.0).abs() < 0.005, "{square}");
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error() {
        let error = Initial::Constant(0.0).values(0, "w", i64::MAX / 8).unwrap_err();
        assert!(matches!(error, Error::Memory { .. }), "{error}");
    }
}
