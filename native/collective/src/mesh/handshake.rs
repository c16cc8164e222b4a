//! How two ranks prove to each other that they belong to the same attempt of the same run.
//!
//! ```text
//! connector -> acceptor   hello      magic (8), version (u32), nonce (32)
//! acceptor -> connector   challenge  magic (8), version (u32), nonce (32)
//! connector -> acceptor   proof      attempt, world, from, to, channel (u32 each), tag (32)
//! acceptor -> connector   verdict    status (u8), three zeros, the acceptor's attempt (u32), tag (32)
//! ```
//!
//! A tag is HMAC-SHA256 under the run's secret over a label (which side speaks), the version, the run, what the proof
//! claims, both nonces, and in the verdict the status and attempt. The connector proves first, so nobody without the
//! secret gets a tag out of an acceptor. Integers are little endian; every message has a fixed length.

use crate::secret::{Secret, random};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub(super) const VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"KINDLING";

pub(super) const HELLO: usize = 44;
pub(super) const PROOF: usize = 52;
pub(super) const VERDICT: usize = 40;

pub(super) type Nonce = [u8; 32];

/// What a connection is for; both sides must mean the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) run: String,
    pub(super) attempt: u32,
    pub(super) world: u32,
    /// The connector's rank.
    pub(super) from: u32,
    /// The acceptor's rank.
    pub(super) to: u32,
    /// Which of the connections between the two: the number of a data channel, or [`CONTROL`].
    pub(super) channel: u32,
}

/// The channel of the control link.
pub(super) const CONTROL: u32 = u32::MAX;

/// The acceptor's answer to a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Welcome,
    /// The tag does not fit: another secret, or another run.
    Unproven,
    /// The connector is of another attempt than the acceptor.
    OtherAttempt {
        attempt: u32,
    },
    /// The connector is not the rank that the acceptor waits for, or counts other ranks.
    OtherPlace,
}

pub(super) fn nonce() -> Result<Nonce, crate::Error> {
    random()
}

/// A hello or a challenge.
pub(super) fn hello(nonce: &Nonce) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(nonce);
    bytes
}

/// Reads a hello or a challenge; the error says what came instead.
pub(super) fn read_hello(bytes: &[u8]) -> Result<Nonce, String> {
    let parts = bytes.split_first_chunk::<8>().and_then(|(magic, rest)| {
        let (version, nonce) = rest.split_first_chunk::<4>()?;
        Some((*magic, u32::from_le_bytes(*version), *nonce.first_chunk::<32>()?))
    });
    match parts {
        Some((MAGIC, VERSION, nonce)) => Ok(nonce),
        Some((MAGIC, version, _)) => Err(format!("it speaks version {version} of the protocol, not {VERSION}")),
        _ => Err("it does not speak the protocol".into()),
    }
}

/// Both nonces, in the order connector, acceptor.
#[derive(Clone, Copy)]
pub(super) struct Nonces {
    pub(super) connector: Nonce,
    pub(super) acceptor: Nonce,
}

pub(super) fn proof(secret: &Secret, claim: &Claim, nonces: &Nonces) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PROOF);
    for number in [claim.attempt, claim.world, claim.from, claim.to, claim.channel] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&tag(secret, b"connector", claim, nonces, &[]).finalize().into_bytes());
    bytes
}

/// Judges a proof against the claims that the acceptor expects, which differ in ranks and channels only. With a welcome
/// comes the number of the claim.
pub(super) fn judge(secret: &Secret, expected: &[Claim], nonces: &Nonces, proof: &[u8]) -> (Verdict, Option<usize>) {
    let nothing = (Verdict::Unproven, None);
    let Some(first) = expected.first() else { return nothing };
    let Some((numbers, proven)) = proof.split_first_chunk::<20>() else { return nothing };
    let ([attempt, world, from, to, channel], _) = numbers.as_chunks::<4>() else { return nothing };
    let claim = Claim {
        run: first.run.clone(),
        attempt: u32::from_le_bytes(*attempt),
        world: u32::from_le_bytes(*world),
        from: u32::from_le_bytes(*from),
        to: u32::from_le_bytes(*to),
        channel: u32::from_le_bytes(*channel),
    };
    // The tag first: only who knows the secret learns anything more. The comparison takes constant time.
    if tag(secret, b"connector", &claim, nonces, &[]).verify_slice(proven).is_err() {
        return nothing;
    }
    if claim.attempt != first.attempt {
        return (Verdict::OtherAttempt { attempt: first.attempt }, None);
    }
    match expected.iter().position(|expected| *expected == claim) {
        Some(index) => (Verdict::Welcome, Some(index)),
        None => (Verdict::OtherPlace, None),
    }
}

impl Verdict {
    fn status(self) -> u8 {
        match self {
            Verdict::Welcome => 0,
            Verdict::Unproven => 1,
            Verdict::OtherAttempt { .. } => 2,
            Verdict::OtherPlace => 3,
        }
    }

    pub(super) fn encode(self, secret: &Secret, claim: &Claim, nonces: &Nonces) -> Vec<u8> {
        let attempt = if let Verdict::OtherAttempt { attempt } = self { attempt } else { claim.attempt };
        let mut bytes = vec![self.status(), 0, 0, 0];
        bytes.extend_from_slice(&attempt.to_le_bytes());
        if self == Verdict::Unproven {
            // Whoever could not prove itself gets no tag to look at.
            bytes.extend_from_slice(&[0; 32]);
        } else {
            let tag = tag(secret, b"acceptor", claim, nonces, &bytes).finalize().into_bytes();
            bytes.extend_from_slice(&tag);
        }
        bytes
    }

    /// What the acceptor said. A welcome without a valid tag is an impostor's: None. A refusal is believed without: who
    /// answers in the peer's place keeps the ranks apart in any case.
    pub(super) fn decode(bytes: &[u8], secret: &Secret, claim: &Claim, nonces: &Nonces) -> Option<Verdict> {
        let (head, proven) = bytes.split_first_chunk::<8>()?;
        let [status, _, _, _, attempt @ ..] = *head;
        match status {
            0 => tag(secret, b"acceptor", claim, nonces, head).verify_slice(proven).ok().map(|()| Verdict::Welcome),
            1 => Some(Verdict::Unproven),
            2 => Some(Verdict::OtherAttempt { attempt: u32::from_le_bytes(attempt) }),
            3 => Some(Verdict::OtherPlace),
            _ => None,
        }
    }
}

fn tag(secret: &Secret, label: &[u8], claim: &Claim, nonces: &Nonces, more: &[u8]) -> Hmac<Sha256> {
    // A key shorter than the hash's block is padded with zeros: that is HMAC's own definition.
    let mut key = [0; 64];
    key.iter_mut().zip(secret.bytes()).for_each(|(to, from)| *to = *from);
    let mut mac = Hmac::<Sha256>::new(&key.into());
    // Every part of variable length is preceded by its length, so no two inputs look alike.
    for part in [label, claim.run.as_bytes(), more] {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    for number in [VERSION, claim.attempt, claim.world, claim.from, claim.to, claim.channel] {
        mac.update(&number.to_le_bytes());
    }
    mac.update(&nonces.connector);
    mac.update(&nonces.acceptor);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        Claim { run: "run".into(), attempt: 2, world: 4, from: 1, to: 2, channel: 0 }
    }

    fn nonces() -> Nonces {
        Nonces { connector: nonce().unwrap(), acceptor: nonce().unwrap() }
    }

    #[test]
    fn who_knows_the_secret_is_welcome_and_proves_it_back() {
        let (secret, nonces) = (Secret::generate().unwrap(), nonces());
        let proof = proof(&secret, &claim(), &nonces);
        assert_eq!(proof.len(), PROOF);
        let control = Claim { channel: CONTROL, ..claim() };
        let (verdict, number) = judge(&secret, &[control, claim()], &nonces, &proof);
        assert_eq!((verdict, number), (Verdict::Welcome, Some(1)));
        let bytes = verdict.encode(&secret, &claim(), &nonces);
        assert_eq!(bytes.len(), VERDICT);
        assert_eq!(Verdict::decode(&bytes, &secret, &claim(), &nonces), Some(Verdict::Welcome));
    }

    #[test]
    fn another_secret_run_or_nonce_proves_nothing() {
        let (secret, used) = (Secret::generate().unwrap(), nonces());
        let good = proof(&secret, &claim(), &used);
        assert_eq!(judge(&Secret::generate().unwrap(), &[claim()], &used, &good).0, Verdict::Unproven);
        assert_eq!(judge(&secret, &[Claim { run: "other".into(), ..claim() }], &used, &good).0, Verdict::Unproven);
        assert_eq!(judge(&secret, &[claim()], &nonces(), &good).0, Verdict::Unproven);
        let mut forged = good.clone();
        forged[0] ^= 1;
        assert_eq!(judge(&secret, &[claim()], &used, &forged).0, Verdict::Unproven);
        assert_eq!(judge(&secret, &[claim()], &used, &[]).0, Verdict::Unproven);
    }

    #[test]
    fn a_zombie_of_another_attempt_is_told_so() {
        let (secret, nonces) = (Secret::generate().unwrap(), nonces());
        let zombie = Claim { attempt: 1, ..claim() };
        let (verdict, _) = judge(&secret, &[claim()], &nonces, &proof(&secret, &zombie, &nonces));
        assert_eq!(verdict, Verdict::OtherAttempt { attempt: 2 });
        let bytes = verdict.encode(&secret, &claim(), &nonces);
        assert_eq!(Verdict::decode(&bytes, &secret, &zombie, &nonces), Some(verdict));
    }

    #[test]
    fn another_rank_or_world_is_out_of_place() {
        let (secret, nonces) = (Secret::generate().unwrap(), nonces());
        for other in [
            Claim { from: 0, ..claim() },
            Claim { world: 5, ..claim() },
            Claim { to: 3, ..claim() },
            Claim { channel: CONTROL, ..claim() },
        ] {
            let proof = proof(&secret, &other, &nonces);
            assert_eq!(judge(&secret, &[claim()], &nonces, &proof), (Verdict::OtherPlace, None));
        }
    }

    #[test]
    fn an_impostor_cannot_welcome_nor_reflect_the_proof() {
        let (secret, nonces) = (Secret::generate().unwrap(), nonces());
        let mut bytes = vec![0, 0, 0, 0, 2, 0, 0, 0];
        bytes.extend_from_slice(&proof(&secret, &claim(), &nonces)[20..]);
        assert_eq!(Verdict::decode(&bytes, &secret, &claim(), &nonces), None);
    }

    #[test]
    fn a_hello_of_another_version_or_protocol_is_named() {
        let good = hello(&nonce().unwrap());
        assert_eq!(good.len(), HELLO);
        assert!(read_hello(&good).is_ok());
        let mut newer = good.clone();
        newer[8] = 9;
        assert!(read_hello(&newer).unwrap_err().contains("version 9"));
        assert!(read_hello(b"GET / HTTP/1.1\r\nHost: somewhere or other\r\n\r\n").unwrap_err().contains("protocol"));
        assert!(read_hello(&[]).is_err());
    }
}
