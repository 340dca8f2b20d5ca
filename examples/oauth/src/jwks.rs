//! Form b: an existing authorization server issues the tokens, and publishes its keys as a JWKS
//! (RFC 7517).
//!
//! - Fetched keys are used for ten minutes. A key that the issuer withdraws is refused after that time.
//! - If the issuer is down, older keys are not used: the answer is 503. MX retries for a day, and could
//!   not fetch a new token from such an issuer either. A withdrawn key would be the greater harm.
//! - An unknown `kid` fetches the keys before the ten minutes are over, because the issuer may have
//!   rotated them. Strangers can send any `kid`, so this happens at most every ten seconds. In between,
//!   the answer is 401 if the last fetch succeeded, and 503 if it failed.
//! - There is one fetch at a time. It is bounded in time and size, and follows no redirect.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, decode_header};
use mx_job_webhook::Credentials;
use mx_job_webhook::credentials::{InvalidToken, bearer_token};
use rustls::crypto::aws_lc_rs;
use serde::Deserialize;
use tokio::time::timeout;

use super::BoxError;
use super::claims::{Expected, LONGEST_TOKEN};

/// The algorithms of tokens. All of them are asymmetric: a public key must never verify an HMAC.
const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::RS256,
    Algorithm::PS256,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// The limits of a fetch. The time is less than the read timeout of the webhooks, 10 s, in which a
/// request has to be authenticated. The size is that of about a hundred keys.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
const LARGEST_SET: usize = 64 * 1024;

/// The keys of an issuer. Clones share them.
#[derive(Clone)]
pub(super) struct Jwks(Arc<Inner>);

struct Inner {
    url: Uri,
    http: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    expected: Expected,
    limits: Limits,
    cache: Mutex<Cache>,
    /// Held during a fetch, so that there is one at a time.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// How long fetched keys are used.
    pub(super) time_to_live: Duration,
    /// The least time between the starts of two fetches. It is longer than a fetch, so that of the requests
    /// that wait for a slow issuer only the first fetches.
    pub(super) interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time_to_live: Duration::from_secs(600),
            interval: Duration::from_secs(10),
        }
    }
}

#[derive(Default)]
struct Cache {
    keys: Vec<Key>,
    fetched: Option<Instant>,
    /// The start of the last fetch, even of one that failed.
    tried: Option<Instant>,
}

impl Jwks {
    /// Fails if the URL is neither HTTPS nor on this machine, or if the system has no CAs.
    pub(super) fn new(url: &str, expected: Expected, limits: Limits) -> Result<Self, BoxError> {
        let url: Uri = url.parse()?;
        let is_here = matches!(url.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(aws_lc_rs::default_provider())?;
        let connector = match url.scheme_str() {
            Some("https") => connector.https_only(),
            Some("http") if is_here => connector.https_or_http(),
            // Anyone on the way could replace the keys.
            _ => return Err("the URL of the keys has to be https".into()),
        };
        Ok(Self(Arc::new(Inner {
            url,
            http: Client::builder(TokioExecutor::new()).build(connector.enable_http1().build()),
            expected,
            limits,
            cache: Mutex::default(),
            fetching: Arc::default(),
        })))
    }

    /// Accepts the tokens of this issuer. If the keys cannot be had, the answer is 503.
    pub(super) fn credentials(&self) -> Credentials {
        let jwks = self.clone();
        Credentials::verify(move |head| {
            let token = bearer_token(head).map(str::to_owned);
            let jwks = jwks.clone();
            async move {
                let Some(token) = token else { return Ok(false) };
                jwks.check(&token).await.map(|()| true)
            }
        })
    }

    async fn check(&self, token: &str) -> Result<(), BoxError> {
        let invalid = |why: &'static str| InvalidToken::new(why);
        if token.len() > LONGEST_TOKEN {
            return Err(invalid("the token is too long").into());
        }
        // Before the signature is verified, this serves to find the key and for nothing else.
        let header = decode_header(token).map_err(InvalidToken::new)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(invalid("the algorithm is not accepted").into());
        }
        let kid = header.kid.ok_or(invalid("the token names no key"))?;
        let key = self.key(&kid, header.alg).await?;
        let key = key.ok_or(invalid("the issuer has no such key"))?;
        Ok(self.0.expected.check(token, &key, header.alg)?)
    }

    /// Returns the issuer's key for this algorithm, or `None` if the issuer has no such key.
    async fn key(&self, kid: &str, algorithm: Algorithm) -> Result<Option<DecodingKey>, BoxError> {
        if let Some(outcome) = self.cached(kid, algorithm) {
            return outcome;
        }
        let fetching = self.0.fetching.clone().lock_owned().await;
        // Another request may have fetched the keys in the meantime.
        if let Some(outcome) = self.cached(kid, algorithm) {
            return outcome;
        }
        // A task of its own, because a sender that hangs up must not cancel the fetch for all others.
        let jwks = self.clone();
        let fetch = tokio::spawn(async move {
            let _fetching = fetching;
            jwks.fetch().await
        });
        fetch.await??;
        Ok(self.0.cache().key(kid, algorithm))
    }

    /// Returns what is known without a fetch, or `None` if there has to be one.
    fn cached(
        &self,
        kid: &str,
        algorithm: Algorithm,
    ) -> Option<Result<Option<DecodingKey>, BoxError>> {
        let Limits {
            time_to_live,
            interval,
        } = self.0.limits;
        let cache = self.0.cache();
        let is_within = |at: Option<Instant>, limit| at.is_some_and(|at| at.elapsed() < limit);
        let key = match is_within(cache.fetched, time_to_live) {
            true => cache.key(kid, algorithm),
            false => None,
        };
        match key {
            Some(key) => Some(Ok(Some(key))),
            None if !is_within(cache.tried, interval) => None,
            None if cache.fetched == cache.tried => Some(Ok(None)),
            None => Some(Err("the last fetch of the issuer's keys failed".into())),
        }
    }

    async fn fetch(&self) -> Result<(), BoxError> {
        let start = Instant::now();
        let outcome = timeout(FETCH_TIMEOUT, self.0.download()).await;
        let mut cache = self.0.cache();
        cache.tried = Some(start);
        cache.keys = outcome.map_err(|_| "the issuer is slow")??;
        cache.fetched = cache.tried;
        Ok(())
    }
}

impl Inner {
    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Downloads the keys. The client follows no redirect.
    async fn download(&self) -> Result<Vec<Key>, BoxError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let answer = self.http.get(self.url.clone()).await?;
        if answer.status() != StatusCode::OK {
            return Err(format!("the issuer answered {}", answer.status()).into());
        }
        let body = Limited::new(answer.into_body(), LARGEST_SET);
        let set: Set = serde_json::from_slice(&body.collect().await?.to_bytes())
            .map_err(|error| format!("the issuer answered no key set: {error}"))?;
        // RFC 7517, section 5: a set may contain keys of other kinds, which are ignored.
        let keys: Vec<_> = set.keys.into_iter().filter_map(Key::read).collect();
        match keys.is_empty() {
            true => Err("the issuer has no key that can be used".into()),
            false => Ok(keys),
        }
    }
}

impl Cache {
    fn key(&self, kid: &str, algorithm: Algorithm) -> Option<DecodingKey> {
        let mut keys = self.keys.iter();
        let key = keys.find(|key| key.kid == kid && key.algorithms.contains(&algorithm))?;
        Some(key.key.clone())
    }
}

/// A public key of the issuer.
struct Key {
    kid: String,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl Key {
    /// Returns `None` for a key that verifies no tokens.
    fn read(key: serde_json::Value) -> Option<Self> {
        let key: Jwk = serde_json::from_value(key).ok()?;
        let is_for_signatures = matches!(
            key.common.public_key_use,
            None | Some(PublicKeyUse::Signature)
        );
        let verifies = |uses: &Vec<_>| uses.contains(&KeyOperations::Verify);
        if !is_for_signatures || !key.common.key_operations.as_ref().is_none_or(verifies) {
            return None;
        }
        let mut algorithms = match &key.algorithm {
            AlgorithmParameters::RSA(_) => vec![Algorithm::RS256, Algorithm::PS256],
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 => vec![Algorithm::ES256],
                EllipticCurve::P384 => vec![Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                vec![Algorithm::EdDSA]
            }
            _ => return None,
        };
        if let Some(only) = key.common.key_algorithm {
            let only = only.to_string().parse().ok()?;
            algorithms.retain(|&algorithm| algorithm == only);
        }
        Some(Self {
            key: DecodingKey::from_jwk(&key).ok()?,
            kid: key.common.key_id?,
            algorithms,
        })
    }
}
