//! TLS with rustls: whose certificates are accepted, and which names they have.

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

/// The names in a client's certificate; none if it showed no certificate.
#[derive(Clone)]
pub(super) struct ClientNames(Arc<[String]>);

impl ClientNames {
    /// After the handshake: rustls has verified the certificate, or there would be no connection.
    pub(super) fn of(connection: &ServerConnection) -> Result<Self, webpki::Error> {
        let Some([certificate, ..]) = connection.peer_certificates() else {
            return Ok(Self([].into()));
        };
        let certificate = EndEntityCert::try_from(certificate)?;
        let names = certificate.valid_dns_names();
        Ok(Self(names.map(str::to_owned).collect()))
    }

    /// Whether this is one of them, in full: `*.mx.example` in a certificate is only itself.
    pub(super) fn contain(&self, name: &str) -> bool {
        self.0.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// A certificate, with those between it and its CA, and its key.
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

/// The CAs whose certificates are accepted.
pub(super) fn roots(pem: &str) -> Result<RootCertStore, BoxError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

/// Mutual TLS, with the files of a folder.
pub(super) fn read(folder: &Path) -> Result<TlsAcceptor, BoxError> {
    let read = |name| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let identity = Identity::from_pem(&read("server.pem")?, &read("server.key")?)?;
    acceptor(identity, Some(roots(&read("ca.pem")?)?))
}

/// Plain TLS, or with the CAs of clients mutual TLS.
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
                // The application has other visitors too. Who has no certificate has no name, and
                // so no right to deliver. Without this line they would get no connection.
                .allow_unauthenticated();
            config.with_client_cert_verifier(verifier.build()?)
        }
    };
    let config = config.with_single_cert(server.chain, server.key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
