//! Runs the example as a process, with the commands of its head.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;

use harness::servers::Folder;
use harness::{Process, example, repository, run};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const KEY: &str = "a signing key of at least 32 characters";

const VARIABLES: [(&str, &str); 6] = [
    ("OAUTH_ISSUER", "http://127.0.0.1:3000"),
    ("OAUTH_AUDIENCE", "http://127.0.0.1:3000/admin/webhooks"),
    ("OAUTH_CLIENT_ID", "mx"),
    ("OAUTH_CLIENT_SECRET", SECRET),
    ("OAUTH_SIGNING_KEY", KEY),
    ("OAUTH_JWKS_URL", "http://127.0.0.1:1/jwks"),
];

fn oauth(form: &str) -> Command {
    let mut command = example(env!("CARGO_BIN_EXE_oauth"));
    command.arg(form).envs(VARIABLES);
    command
}

/// Returns the commands of the head that start with `curl` and contain this text.
fn commands(with: &str) -> Vec<String> {
    let source = include_str!("../src/main.rs");
    let head = source.lines().map_while(|line| line.strip_prefix("//!"));
    let head = head.collect::<Vec<_>>().join("\n").replace("\\\n", "");
    let lines = head.lines().map(str::trim);
    let curls = lines.filter(|line| line.starts_with("curl ") && line.contains(with));
    curls.map(str::to_owned).collect()
}

fn paste(command: &str, server: &Process, token: &str) -> String {
    let command = command.replace(":3000/", &format!(":{}/", server.address.port()));
    let mut shell = Command::new("sh");
    let shell = shell.current_dir(repository()).args(["-c", &command]);
    let Output { stdout, .. } = run(shell.envs(VARIABLES).env("TOKEN", token));
    String::from_utf8(stdout).unwrap()
}

fn serve(command: Command) -> Process {
    let mut server = Process::start(command);
    let listening = server.line();
    server.address = listening.rsplit('/').next().unwrap().parse().unwrap();
    server
}

#[test]
fn the_heads_commands_fetch_a_token_and_deliver() {
    let server = serve(oauth("own"));
    let deliveries = commands("$TOKEN");
    let fetches = commands("/oauth/token");
    assert_eq!((fetches.len(), deliveries.len()), (2, 1));
    for fetch in fetches {
        let answer = paste(&fetch, &server, "");
        let (_, token) = answer.split_once(r#""access_token":""#).unwrap();
        let (token, _) = token.split_once('"').unwrap();
        let answer = paste(&deliveries[0], &server, token);
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        assert!(server.line().starts_with("completed JOB-"));
    }
    let answer = paste(&deliveries[0], &server, "expired").to_lowercase();
    assert!(answer.starts_with("http/1.1 401 "), "{answer}");
    assert!(
        answer.contains(r#"bearer realm="webhooks", error="invalid_token""#),
        "{answer}"
    );
    let line = server.line();
    let reason = "not acknowledged: unauthorized: the bearer token is invalid or expired: ";
    assert!(line.starts_with(reason), "{line}");
}

/// A token of the key `a`, without claims and without a signature.
const UNSIGNED: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.e30.AAAA";

#[test]
fn without_its_authorization_server_the_example_answers_503() {
    let server = serve(oauth("jwks"));
    let answer = paste(&commands("$TOKEN")[0], &server, UNSIGNED);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

/// Serves a key that is not `a` over TLS, with a certificate that it has made itself.
fn serve_keys(key: &CertifiedKey<rcgen::KeyPair>) -> SocketAddr {
    // From RFC 7517, appendix A.1.
    const KEYS: &str = r#"{"keys": [{"kty": "EC", "kid": "1", "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
    let chain = vec![key.cert.der().clone()];
    let private = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private.into())
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move |stream: TcpStream| {
        let connection = ServerConnection::new(config.clone()).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let length = KEYS.len();
        // A client that does not trust the certificate breaks the connection.
        let _ = stream.read(&mut [0; 4096]).and_then(|_| {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{KEYS}"
            )
        });
    };
    thread::spawn(move || listener.incoming().flatten().for_each(answer));
    address
}

#[test]
fn keys_are_taken_only_from_an_issuer_whose_certificate_is_trusted() {
    let key = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let elsewhere = generate_simple_self_signed(["issuer.example".to_owned()]).unwrap();
    let folder = Folder::new();
    let file = folder.path().join("ca.pem");
    for (serves, trusts, status) in [
        (&key, &key, 401), // The issuer has no key `a`.
        (&key, &other, 503),
        (&elsewhere, &elsewhere, 503),
    ] {
        fs::write(&file, trusts.cert.pem()).unwrap();
        let url = format!("https://localhost:{}/jwks", serve_keys(serves).port());
        let mut command = oauth("jwks");
        command
            .env("OAUTH_JWKS_URL", url)
            .env("SSL_CERT_FILE", &file)
            .env_remove("SSL_CERT_DIR");
        let server = serve(command);
        let answer = paste(&commands("$TOKEN")[0], &server, UNSIGNED);
        let line = server.line();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer} {line}"
        );
    }
}

#[test]
fn without_its_settings_the_example_does_not_start() {
    let refuses = |command: &mut Command, reason: &str| {
        let output = run(command);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && error.contains(reason),
            "{reason}: {error}"
        );
        assert!(!error.contains(SECRET) && !error.contains(KEY), "{error}");
    };
    let own = ["OAUTH_CLIENT_SECRET", "OAUTH_SIGNING_KEY"];
    let both = ["OAUTH_ISSUER", "OAUTH_AUDIENCE", "OAUTH_CLIENT_ID"];
    for (form, names) in [
        ("own", &own[..]),
        ("own", &both),
        ("jwks", &both),
        ("jwks", &["OAUTH_JWKS_URL"]),
    ] {
        for name in names {
            refuses(oauth(form).env_remove(name), name);
            refuses(oauth(form).env(name, ""), name);
        }
    }
    for name in own {
        refuses(oauth("own").env(name, "short"), "32 characters");
    }
    refuses(
        oauth("jwks").env("OAUTH_JWKS_URL", "http://issuer.example/jwks"),
        "https",
    );
    refuses(&mut oauth("other"), "`own` or `jwks`");
}
