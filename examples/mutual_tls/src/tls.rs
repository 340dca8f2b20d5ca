//! TLS with rustls: the accepted CAs, and the names in certificates.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tokio_rustls::TlsAcceptor;
use webpki::EndEntityCert;

type BoxError = Box<dyn Error + Send + Sync>;

/// The names in a client's certificate; empty if it showed no certificate.
#[derive(Clone)]
pub(super) struct ClientNames(Arc<[String]>);

impl ClientNames {
    /// Call it after the handshake, in which rustls verifies the certificate.
    pub(super) fn of(connection: &ServerConnection) -> Result<Self, webpki::Error> {
        let Some([certificate, ..]) = connection.peer_certificates() else {
            return Ok(Self([].into()));
        };
        let certificate = EndEntityCert::try_from(certificate)?;
        let names = certificate.valid_dns_names();
        Ok(Self(names.map(str::to_owned).collect()))
    }

    /// Returns whether `name` is one of them, literally: `*.mx.example` in a certificate matches only itself.
    pub(super) fn contain(&self, name: &str) -> bool {
        self.0.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// A certificate with its intermediate certificates, and its key.
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Identity {
    pub(super) fn from_pem(chain: &str, key: &str) -> Result<Self, BoxError> {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
        Ok(Self {
            chain: chain.collect::<Result<_, _>>()?,
            key: PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        })
    }
}

/// Returns the CAs whose certificates are accepted.
pub(super) fn roots(pem: &str) -> Result<RootCertStore, BoxError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

/// Returns an acceptor of mutual TLS, with the files of a folder.
pub(super) fn read(folder: &Path) -> Result<TlsAcceptor, BoxError> {
    let read = |name| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let identity = Identity::from_pem(&read("server.pem")?, &read("server.key")?)?;
    acceptor(identity, Some(roots(&read("ca.pem")?)?))
}

/// Returns an acceptor of plain TLS, or of mutual TLS if there are CAs of clients.
pub(super) fn acceptor(
    server: Identity,
    clients: Option<RootCertStore>,
) -> Result<TlsAcceptor, BoxError> {
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                // The application has other users too, whose connections need no certificate.
                // Without a certificate a sender has no name, and its deliveries are refused.
                .allow_unauthenticated();
            config.with_client_cert_verifier(verifier.build()?)
        }
    };
    let config = config.with_single_cert(server.chain, server.key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
