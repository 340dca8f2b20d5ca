//! Runs the example as a process, with the commands of its head.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::process::{Command, Output};

use harness::{Process, example, repository, run};

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

fn serve(form: &str) -> Process {
    let mut server = Process::start(oauth(form));
    let listening = server.line();
    server.address = listening.rsplit('/').next().unwrap().parse().unwrap();
    server
}

#[test]
fn the_heads_commands_fetch_a_token_and_deliver() {
    let server = serve("own");
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

#[test]
fn without_its_authorization_server_the_example_answers_503() {
    let server = serve("jwks");
    // ES256, the key `a`, no claims, and no signature.
    let token = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.e30.AAAA";
    let answer = paste(&commands("$TOKEN")[0], &server, token);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
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
