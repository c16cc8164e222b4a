//! Whom a TLS connection is with: certificates of one run, pinned by their fingerprints.

use super::failure::Failure;
use crate::error::Error;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme,
};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::sync::Arc;

/// A rank's key and certificate for one run. A clone is the same identity.
#[derive(Clone)]
pub(crate) struct Identity(Arc<Own>);

struct Own {
    certified: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    /// Makes a key (Ed25519) and a certificate for it. Neither is ever written anywhere.
    pub(crate) fn generate() -> Result<Identity, Error> {
        let failed = |error: rcgen::Error| Error::io("making a TLS certificate", io::Error::other(error));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(failed)?;
        let certificate = rcgen::CertificateParams::default().self_signed(&key).map_err(failed)?.der().clone();
        let fingerprint = Fingerprint::of(&certificate);
        let provider = provider();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let signer = provider
            .key_provider
            .load_private_key(key.into())
            .map_err(|error| Error::io("using a fresh TLS key", io::Error::other(error)))?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate], signer));
        Ok(Identity(Arc::new(Own { certified, fingerprint, provider: Arc::new(provider) })))
    }

    /// What the roster says of this identity: the SHA-256 of the certificate (DER) as 64 lower-case hexadecimal digits.
    pub(crate) fn fingerprint(&self) -> String {
        self.0.fingerprint.to_string()
    }

    /// This certificate with the key of another: what a thief could make.
    #[cfg(test)]
    pub(super) fn with_key_of(&self, thief: &Identity) -> Identity {
        let certified = CertifiedKey::new(self.0.certified.cert.clone(), Arc::clone(&thief.0.certified.key));
        let (fingerprint, provider) = (self.0.fingerprint, Arc::clone(&thief.0.provider));
        Identity(Arc::new(Own { certified: Arc::new(certified), fingerprint, provider }))
    }

    pub(super) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.0.provider
    }

    pub(super) fn pin(&self, known: &[&str]) -> Result<Arc<Pin>, Error> {
        let known = known.iter().map(|text| Fingerprint::parse(text)).collect::<Result<_, Error>>()?;
        Ok(Arc::new(Pin { known, algorithms: self.0.provider.signature_verification_algorithms }))
    }

    pub(super) fn credentials(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.0.certified)))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.0.fingerprint)
    }
}

/// AES-128 before AES-256: it is faster, and nothing here outlives the run. ChaCha20 is for processors without AES.
fn provider() -> CryptoProvider {
    use ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256};
    CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    }
}

/// The SHA-256 of a certificate. It is public, so it is compared plainly.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        Fingerprint(Sha256::digest(certificate).into())
    }

    fn parse(text: &str) -> Result<Fingerprint, Error> {
        let invalid =
            || Error::invalid(format!("a TLS fingerprint must be 64 lower-case hexadecimal digits, not {text:?}"));
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? * 16 + digit(*low)?)).collect();
        match bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
            Some(bytes) if rest.is_empty() => Ok(Fingerprint(bytes)),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Accepts the certificates it knows, whatever they say.
#[derive(Debug)]
pub(super) struct Pin {
    known: Vec<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pin {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let found = Fingerprint::of(certificate);
        if self.known.contains(&found) {
            return Ok(());
        }
        let stranger = Failure::Stranger { found };
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(stranger)))))
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// Asked by no handshake, as only TLS 1.3 is offered.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Pin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
