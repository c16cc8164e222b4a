//! Why a TLS connection is of no more use.

use super::identity::Fingerprint;
use rustls::{AlertDescription, CertificateError, OtherError};
use std::io::{self, ErrorKind};

/// Why a stream is of no more use. It is the answer to every later read and write.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the peer's certificate has the fingerprint {found}, which the roster does not have")]
    Stranger { found: Fingerprint },
    #[error("the peer refused this rank's certificate ({alert:?}): its roster has another fingerprint")]
    Refused { alert: AlertDescription },
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] rustls::Error),
    #[error("the TLS connection broke: {0}")]
    Broken(#[source] rustls::Error),
    #[error("the connection ended in the TLS handshake")]
    CutInHandshake,
    #[error("the connection ended without the peer's close_notify")]
    Cut,
}

impl Failure {
    pub(super) fn new(error: rustls::Error, handshake: bool) -> Failure {
        use AlertDescription::{AccessDenied, BadCertificate, CertificateUnknown, UnknownCA};
        match &error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
                if let Some(stranger) = cause.downcast_ref::<Failure>() {
                    return stranger.clone();
                }
            }
            rustls::Error::AlertReceived(alert @ (AccessDenied | BadCertificate | CertificateUnknown | UnknownCA)) => {
                return Failure::Refused { alert: *alert };
            }
            _ => {}
        }
        if handshake { Failure::Handshake(error) } else { Failure::Broken(error) }
    }

    pub(super) fn to_io(&self) -> io::Error {
        let kind = match self {
            Failure::Stranger { .. } | Failure::Refused { .. } => ErrorKind::PermissionDenied,
            Failure::Handshake(_) | Failure::Broken(_) => ErrorKind::InvalidData,
            Failure::CutInHandshake | Failure::Cut => ErrorKind::UnexpectedEof,
        };
        io::Error::new(kind, self.clone())
    }
}
