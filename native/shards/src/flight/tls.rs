//! TLS 1.3 between a server and those who fetch from it, with a certificate that lives as long as the server.
//!
//! No authority and no clock is involved: the certificate signs itself, the server's endpoint carries it, and the
//! fetcher trusts this one and no other. The fetcher proves itself by its token, so it needs no certificate.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name in every certificate: who is meant is said by which certificate it is.
const NAME: &str = "kindling";
/// HTTP/2, which gRPC insists on.
const PROTOCOL: &[u8] = b"h2";

/// Makes a key and a certificate: what accepts connections, and the certificate as PEM.
pub(super) fn acceptor() -> io::Result<(TlsAcceptor, String)> {
    // P-256, as Flight clients in C++ and Python refuse Ed25519.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)?;
    let parameters = rcgen::CertificateParams::new(vec![NAME.to_owned()]).map_err(io::Error::other)?;
    let certificate = parameters.self_signed(&key).map_err(io::Error::other)?;
    let secret = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| {
            builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], secret.into())
        })
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), certificate.pem()))
}

/// What connects to the server with this certificate, and the name to ask for.
pub(super) fn connector(pem: &str) -> io::Result<(TlsConnector, ServerName<'static>)> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}
