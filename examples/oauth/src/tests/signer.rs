//! Keys of an issuer, and tokens that are right or wrong in one point.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};

use super::{AUDIENCE, CLIENT};

pub(super) struct Signer {
    pub(super) kid: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    public: Value,
}

impl Signer {
    pub(super) fn new(kid: &'static str, algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        let key = match algorithm {
            Algorithm::ES256 => {
                let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
                EncodingKey::from_ec_der(pkcs8.as_ref())
            }
            Algorithm::ES384 => {
                let curve = &ECDSA_P384_SHA384_FIXED_SIGNING;
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
                EncodingKey::from_ec_der(pkcs8.as_ref())
            }
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::generate().unwrap();
                let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
                // `Jwk::from_encoding_key` does not take such a key.
                let public = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x});
                let key = EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref());
                return Self {
                    kid,
                    algorithm,
                    key,
                    public,
                };
            }
            _ => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                // PKCS #8 puts 26 bytes in front of such a key.
                EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..])
            }
        };
        let jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
        Self {
            kid,
            algorithm,
            key,
            public: serde_json::to_value(jwk).unwrap(),
        }
    }

    /// Returns the same key, for tokens of another algorithm.
    pub(super) fn with_algorithm(&self, algorithm: Algorithm) -> Self {
        Self {
            kid: self.kid,
            algorithm,
            key: self.key.clone(),
            public: self.public.clone(),
        }
    }

    /// Returns the public key, as an issuer publishes it.
    pub(super) fn jwk(&self) -> Value {
        let mut jwk = self.public.clone();
        jwk["kid"] = self.kid.into();
        jwk["use"] = "sig".into();
        jwk
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.to_owned());
        encode(&header, claims, &self.key).unwrap()
    }

    /// Signs with another header.
    pub(super) fn sign_with(&self, change: impl FnOnce(&mut Header), claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.to_owned());
        change(&mut header);
        encode(&header, claims, &self.key).unwrap()
    }
}

/// Returns a token whose signature is no signature.
pub(super) fn forged(header: &Value, claims: &Value, signature: &str) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{header}.{claims}.{signature}")
}

/// Returns claims that are accepted.
pub(super) fn claims(issuer: &str) -> Value {
    let now = get_current_timestamp();
    json!({
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": CLIENT,
        "client_id": CLIENT,
        "iat": now,
        "exp": now + 300,
    })
}

/// Claims that differ from the accepted ones in one point, and whether they are accepted.
pub(super) fn variants(issuer: &str) -> Vec<(&'static str, Value, bool)> {
    let now = get_current_timestamp();
    let with = |changes: Value| {
        let mut claims = claims(issuer);
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let without = |names: &[&str]| {
        let mut claims = claims(issuer);
        for name in names {
            claims.as_object_mut().unwrap().remove(*name);
        }
        claims
    };
    let only_azp = |azp| {
        let mut claims = without(&["client_id"]);
        claims["azp"] = Value::from(azp);
        claims
    };
    vec![
        ("all is right", claims(issuer), true),
        (
            "expired within the leeway",
            with(json!({"exp": now - 20})),
            true,
        ),
        ("expired", with(json!({"exp": now - 40})), false),
        ("expired since 1970", with(json!({"exp": 0})), false),
        ("never expires", without(&["exp"]), false),
        ("exp is null", with(json!({"exp": null})), false),
        ("exp is text", with(json!({"exp": "9999999999"})), false),
        ("exp is negative", with(json!({"exp": -1})), false),
        ("exp is infinite", with(json!({"exp": 1e300})), false),
        (
            "exp has a fraction",
            with(json!({"exp": now as f64 + 60.5})),
            true,
        ),
        (
            "not yet valid, within the leeway",
            with(json!({"nbf": now + 20})),
            true,
        ),
        ("not yet valid", with(json!({"nbf": now + 60})), false),
        ("nbf is text", with(json!({"nbf": "now"})), false),
        (
            "another audience",
            with(json!({"aud": "https://other.example"})),
            false,
        ),
        (
            "a prefix of the audience",
            with(json!({"aud": "https://app.example"})),
            false,
        ),
        (
            "the audience in a list",
            with(json!({"aud": ["https://other.example", AUDIENCE]})),
            true,
        ),
        (
            "other audiences",
            with(json!({"aud": ["https://other.example"]})),
            false,
        ),
        ("no audiences", with(json!({"aud": []})), false),
        ("no audience", without(&["aud"]), false),
        ("the audience is null", with(json!({"aud": null})), false),
        (
            "the audience is the client, as in an ID token",
            with(json!({"aud": CLIENT})),
            false,
        ),
        (
            "another issuer",
            with(json!({"iss": "https://evil.example"})),
            false,
        ),
        (
            "the issuer with a slash",
            with(json!({"iss": format!("{issuer}/")})),
            false,
        ),
        (
            "the issuer in a list",
            with(json!({"iss": [issuer, "https://evil.example"]})),
            false,
        ),
        ("no issuer", without(&["iss"]), false),
        ("another client", with(json!({"client_id": "other"})), false),
        (
            "another client, azp is right",
            with(json!({"client_id": "other", "azp": CLIENT})),
            false,
        ),
        ("no client", without(&["client_id"]), false),
        ("the client as azp", only_azp(CLIENT), true),
        ("another client as azp", only_azp("other"), false),
        ("claims are a list", json!([1, 2]), false),
        ("claims are text", json!("mx"), false),
    ]
}
