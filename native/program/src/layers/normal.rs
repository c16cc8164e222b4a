//! Random numbers that are the same on every machine: the streams that first weights are drawn from.
//!
//! Each weight has a random stream of its own, so that adding a layer does not change another layer's weights:
//! SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), started at
//! `mix(mix(seed) ^ FNV-1a(name))`. A uniform draw uses its upper 24 bits, which a float holds exactly; a normal one uses
//! 53 bits and the inverse of the distribution (Wichura's algorithm AS 241, 1988). Everything is IEEE addition,
//! multiplication, division and square root, which round alike everywhere; the logarithm is written out below, because
//! those of C libraries differ in their last bit.

/// A SplitMix64 stream.
pub(super) struct Stream {
    state: u64,
}

impl Stream {
    pub(super) fn new(seed: i64, name: &str) -> Self {
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
    pub(super) fn symmetric(&mut self) -> f64 {
        // 24 bits over 2^23: from 0 to just below 2.
        (self.next() >> 40) as f64 / f64::from(1_u32 << 23) - 1.0
    }

    /// Uniform in (0, 1), both ends excluded.
    fn open(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / 9_007_199_254_740_992.0
    }

    /// Standard normal.
    pub(super) fn normal(&mut self) -> f64 {
        quantile(self.open())
    }

    /// Standard normal, drawn again where it lies further than two deviations out.
    pub(super) fn truncated(&mut self) -> f64 {
        // The probability below -2. The inverse of what is left never leaves ±2.
        const TAIL: f64 = 0.022_750_131_948_179_195;
        quantile(TAIL + self.open() * (1.0 - 2.0 * TAIL))
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The standard normal distribution's quantile of `p` in (0, 1), to about 16 digits.
fn quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * polynomial(&CENTRE.0, r) / polynomial(&CENTRE.1, r);
    }
    let r = (-logarithm(if q < 0.0 { p } else { 1.0 - p })).sqrt();
    let value = if r <= 5.0 {
        polynomial(&MIDDLE.0, r - 1.6) / polynomial(&MIDDLE.1, r - 1.6)
    } else {
        polynomial(&FAR.0, r - 5.0) / polynomial(&FAR.1, r - 5.0)
    };
    if q < 0.0 { -value } else { value }
}

fn polynomial(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, &coefficient| sum * x + coefficient)
}

type Rational = ([f64; 8], [f64; 8]);

const CENTRE: Rational = (
    [
        3.387_132_872_796_366_5,
        1.331_416_678_917_843_8e2,
        1.971_590_950_306_551_3e3,
        1.373_169_376_550_946e4,
        4.592_195_393_154_987e4,
        6.726_577_092_700_87e4,
        3.343_057_558_358_813e4,
        2.509_080_928_730_122_7e3,
    ],
    [
        1.0,
        4.231_333_070_160_091e1,
        6.871_870_074_920_579e2,
        5.394_196_021_424_751e3,
        2.121_379_430_158_659_7e4,
        3.930_789_580_009_271e4,
        2.872_908_573_572_194_3e4,
        5.226_495_278_852_545e3,
    ],
);

const MIDDLE: Rational = (
    [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        2.417_807_251_774_506e-1,
        2.272_384_498_926_918_4e-2,
        7.745_450_142_783_414e-4,
    ],
    [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        6.897_673_349_851e-1,
        1.481_039_764_274_800_8e-1,
        1.519_866_656_361_645_7e-2,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ],
);

const FAR: Rational = (
    [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        2.965_605_718_285_048_7e-1,
        2.653_218_952_657_612_4e-2,
        1.242_660_947_388_078_4e-3,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ],
    [
        1.0,
        5.998_322_065_558_88e-1,
        1.369_298_809_227_358e-1,
        1.487_536_129_085_061_5e-2,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_7e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ],
);

/// The natural logarithm of a normal number above 0: `2 atanh((m - 1) / (m + 1)) + e ln 2` with m from √½ to √2.
fn logarithm(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = f64::from(i32::try_from(bits >> 52).unwrap_or(0) - 1023);
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1.0;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    // |s| < 0.172, so that s^23 is below the last bit.
    let (square, mut sum) = (s * s, 0.0);
    for odd in (1_u32..=21).rev().step_by(2) {
        sum = sum * square + 1.0 / f64::from(odd);
    }
    2.0 * s * sum + exponent * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs for state 0, from the authors' reference implementation.
        let mut stream = Stream { state: 0 };
        assert_eq!(stream.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(stream.next(), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(stream.next(), 0x06c4_5d18_8009_454f);
    }

    #[test]
    fn the_logarithm_agrees_with_the_library_s() {
        for x in [1e-300, 1e-16, 0.07, 0.5, 0.707, 0.708, 0.999_999, 1.0, 1.5, 3.0, 1e10] {
            let expected: f64 = f64::ln(x);
            assert!((logarithm(x) - expected).abs() <= 4e-16 * expected.abs().max(1.0), "{x}: {}", logarithm(x));
        }
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        // From scipy.stats.norm.ppf.
        for (p, expected) in [
            (0.5, 0.0),
            (0.25, -0.674_489_750_196_081_7),
            (0.9, 1.281_551_565_544_600_4),
            (0.975, 1.959_963_984_540_054),
            (0.999_999, 4.753_424_308_817_087),
            (1e-20, -9.262_340_089_798_409),
        ] {
            assert!((quantile(p) - expected).abs() < 2e-14, "{p}: {}", quantile(p));
        }
    }

    #[test]
    fn normal_draws_have_the_moments_of_the_distribution() {
        let mut stream = Stream::new(3, "w");
        let draws: Vec<f64> = (0..100_000).map(|_| stream.normal()).collect();
        let moment = |power: i32| draws.iter().map(|draw| draw.powi(power)).sum::<f64>() / 1e5;
        // Standard errors: 0.003, 0.0045 and 0.031.
        assert!(moment(1).abs() < 0.015, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "{}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.15, "{}", moment(4));
    }

    #[test]
    fn truncated_draws_stay_within_two_deviations() {
        let mut stream = Stream::new(3, "w");
        let draws: Vec<f64> = (0..100_000).map(|_| stream.truncated()).collect();
        let square = draws.iter().map(|draw| draw * draw).sum::<f64>() / 1e5;
        assert!(draws.iter().all(|draw| draw.abs() <= 2.0));
        assert!(draws.iter().any(|draw| draw.abs() > 1.99));
        // The deviation that Keras divides by.
        assert!((square.sqrt() - 0.879_625_661_034_239_8).abs() < 0.006, "{}", square.sqrt());
    }
}
