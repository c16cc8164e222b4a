//! The secret that the ranks of a run share: whoever knows it belongs to the run.

use crate::error::Error;
use std::fmt;

/// 256 bits, made once per run on the driver. Never printed: its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A fresh secret from the system's random source.
    pub fn generate() -> Result<Secret, Error> {
        random().map(Secret)
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Secret, Error> {
        let invalid = || Error::Invalid { what: "the secret must be 64 hexadecimal digits".into() };
        let digits = text.chars().map(|c| c.to_digit(16)).collect::<Option<Vec<u32>>>().ok_or_else(invalid)?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .filter_map(|pair| pair.iter().try_fold(0u32, |byte, digit| Some(byte * 16 + digit)))
            .filter_map(|byte| u8::try_from(byte).ok())
            .collect();
        if digits.len() != 64 {
            return Err(invalid());
        }
        bytes.try_into().map(Secret).map_err(|_| invalid())
    }

    /// The secret as 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Secret {
    fn from(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// 32 bytes that nobody can guess.
pub(crate) fn random() -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::io("reading the system's random source", std::io::Error::other(error)))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_hexadecimal_and_is_never_printed() {
        let secret = Secret::generate().unwrap();
        assert_eq!(Secret::from_hex(&secret.to_hex()).unwrap(), secret);
        assert!(!format!("{secret:?}").contains(&secret.to_hex()));
    }

    #[test]
    fn anything_but_64_digits_is_refused() {
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66)] {
            assert!(Secret::from_hex(text).is_err(), "{text}");
        }
    }
}
