//! A CA for tests, and its certificates. Its key is never written, so each run has a new CA.

use std::error::Error;
use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};

pub(super) struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Result<Self, rcgen::Error> {
        let mut parameters = CertificateParams::default();
        let name = &mut parameters.distinguished_name;
        name.push(DnType::CommonName, "a CA for tests");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        Ok(Self {
            certificate: parameters.self_signed(&key)?,
            issuer: Issuer::new(parameters, key),
        })
    }

    pub(super) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Returns a certificate and its key, in PEM.
    pub(super) fn issue(&self, name: &str) -> Result<[String; 2], rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new([name.to_owned()])?.signed_by(&key, &self.issuer)?;
        Ok([certificate.pem(), key.serialize_pem()])
    }
}

/// Writes the certificates of the CA, the server and the client, and overwrites existing files.
pub(super) fn write(folder: &Path, client: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let authority = Authority::new()?;
    fs::create_dir_all(folder)?;
    fs::write(folder.join("ca.pem"), authority.pem())?;
    for (file, name) in [("server", "localhost"), ("client", client)] {
        let [certificate, key] = authority.issue(name)?;
        fs::write(folder.join(file).with_extension("pem"), certificate)?;
        fs::write(folder.join(file).with_extension("key"), key)?;
    }
    Ok(())
}
