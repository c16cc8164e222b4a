//! The run's secret, and the token by which a client shows that it belongs to the run.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::de::{Deserialize, Deserializer};
use sha2::Sha256;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::error::{Error, Result};

/// What the MAC is over, before the run: another use of the secret has another label.
const LABEL: &[u8] = b"kindling flight 1\0";
const HEADER: &str = "authorization";
const SCHEME: &str = "Bearer ";

/// 256 bits, made once per run on the driver. Never printed: its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::Secret`] for anything else.
    pub fn from_hex(text: &str) -> Result<Secret> {
        decode(text).map(Secret).ok_or(Error::Secret)
    }

    /// The token for a run: 64 hexadecimal digits, to be sent as `authorization: Bearer <token>`.
    pub fn token(&self, run: &str) -> String {
        self.mac(run).finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether a request carries the token. Takes the same time for every wrong one.
    pub(super) fn check(&self, run: &str, metadata: &MetadataMap) -> std::result::Result<(), Status> {
        let token = metadata.get(HEADER).and_then(|value| value.to_str().ok()?.strip_prefix(SCHEME));
        let given = token.and_then(decode);
        match given.map(|given| self.mac(run).verify_slice(&given)) {
            Some(Ok(())) => Ok(()),
            _ => Err(Status::unauthenticated("the token of the run is missing or wrong")),
        }
    }

    /// Puts the token into a request.
    pub(super) fn sign(&self, run: &str, metadata: &mut MetadataMap) -> std::result::Result<(), Status> {
        let value = format!("{SCHEME}{}", self.token(run)).parse();
        metadata.insert(HEADER, value.map_err(|_| Status::internal("the token makes no header"))?);
        Ok(())
    }

    fn mac(&self, run: &str) -> Hmac<Sha256> {
        // A key of the block's length or less, which 32 bytes are, is taken as it is.
        let mut block = [0; 64];
        for (place, byte) in block.iter_mut().zip(self.0) {
            *place = byte;
        }
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(LABEL);
        mac.update(run.as_bytes());
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Secret::from_hex(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn decode(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? * 16 + digit(*low)?)).collect();
    bytes.filter(|_| rest.is_empty())?.try_into().ok()
}
