//! The claims that a token needs, with either kind of issuer.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use mx_job_webhook::credentials::InvalidToken;
use serde::Deserialize;

/// The longest token that is read. Common issuers stay below 2 KiB.
pub(super) const LONGEST_TOKEN: usize = 8 * 1024;

/// The claims that a token has to have.
#[derive(Clone)]
pub(super) struct Expected {
    /// `iss`, the URL of the issuer.
    pub(super) issuer: String,
    /// `aud`, the name of this application. It also tells access tokens from ID tokens, whose `aud` is
    /// the client.
    pub(super) audience: String,
    /// `client_id` (RFC 9068) or, without one, `azp`. The issuer may know other clients, too.
    pub(super) client_id: String,
    /// The seconds by which the clocks of two machines may differ.
    pub(super) leeway: u64,
}

#[derive(Deserialize)]
struct Claims {
    // `Validation` accepts a list of issuers, of which one is expected. RFC 7519 has no such list.
    #[serde(rename = "iss")]
    _issuer: String,
    client_id: Option<String>,
    azp: Option<String>,
}

impl Expected {
    /// Checks the signature and the claims.
    pub(super) fn check(
        &self,
        token: &str,
        key: &DecodingKey,
        algorithm: Algorithm,
    ) -> Result<(), InvalidToken> {
        if token.len() > LONGEST_TOKEN {
            return Err(InvalidToken::new("the token is too long"));
        }
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.leeway = self.leeway;
        validation.validate_nbf = true;
        let token = decode::<Claims>(token, key, &validation).map_err(InvalidToken::new)?;
        if token.header.crit.is_some() {
            // RFC 7515, section 4.1.11: extensions that are critical and not known.
            return Err(InvalidToken::new("the token has critical extensions"));
        }
        match token.claims.client_id.or(token.claims.azp) {
            Some(client) if client == self.client_id => Ok(()),
            _ => Err(InvalidToken::new("the token is another client's")),
        }
    }
}
