//! Form b, with an authorization server that is not ours: the npm package `oidc-provider`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, fs};

use harness::servers::{Server, free_address};
use harness::{repository, run};
use tokio::time::sleep;

use super::mx::Mx;
use super::*;

/// Installs the versions of `package-lock.json`, once. Returns the folder with the script.
fn installed() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let source = repository().join("examples/oauth/tests/issuer");
        let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let folder = target
            .unwrap_or_else(|| repository().join("target"))
            .join("oidc-provider");
        fs::create_dir_all(&folder).unwrap();
        for file in ["package.json", "package-lock.json", "issuer.mjs"] {
            fs::copy(source.join(file), folder.join(file)).unwrap();
        }
        let output = run(Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&folder));
        assert!(output.status.success(), "{output:?}");
        folder
    })
}

/// Starts the issuer, with a new key of this name.
fn start(address: SocketAddr, kid: &str, lifetime: u32, algorithm: &str) -> Server {
    let mut command = Command::new("node");
    command
        .current_dir(installed())
        .args([
            "issuer.mjs",
            &address.port().to_string(),
            kid,
            AUDIENCE,
            CLIENT,
            SECRET,
        ])
        .args([&lifetime.to_string(), algorithm])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Server::start(address, command)
}

fn receiver(issuer: SocketAddr, leeway: u64, limits: Limits) -> Router {
    let expected = Expected {
        leeway,
        ..expected(&format!("http://{issuer}"))
    };
    jwks(&Jwks::new(&format!("http://{issuer}/jwks"), expected, limits).unwrap())
}

fn mx(issuer: SocketAddr) -> Mx {
    Mx::new(format!("http://{issuer}/token"), CLIENT, SECRET)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node and npm: apt-get install nodejs npm"]
async fn its_tokens_of_every_algorithm_are_accepted_until_they_expire() {
    for algorithm in ["RS256", "PS256", "ES256", "EdDSA"] {
        let issuer = free_address();
        let _server = start(issuer, "a", 2, algorithm);
        let receiver = serve(receiver(issuer, 0, Limits::default())).await;
        let mut mx = mx(issuer);
        assert_eq!(mx.deliver(receiver).await, 204, "{algorithm}");
        assert_eq!(mx.deliver(receiver).await, 204, "{algorithm}");
        assert_eq!(mx.fetches, 1);
        sleep(Duration::from_secs(4)).await;
        let expired = (401, INVALID_TOKEN.to_owned());
        assert_eq!(mx.attempt(receiver).await, expired, "{algorithm}");
        assert_eq!(mx.deliver(receiver).await, 204, "{algorithm}");
        assert_eq!(mx.fetches, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node and npm: apt-get install nodejs npm"]
async fn its_rotated_keys_are_found_and_while_it_is_down_the_answer_is_503() {
    let limits = Limits {
        time_to_live: Duration::from_secs(3),
        interval: Duration::from_millis(200),
    };
    let issuer = free_address();
    let mut server = start(issuer, "first", 300, "RS256");
    let receiver = serve(receiver(issuer, 30, limits)).await;
    let mut first = mx(issuer);
    assert_eq!(first.deliver(receiver).await, 204);

    server.crash();
    let mut server = start(issuer, "second", 300, "RS256");
    sleep(limits.interval).await;
    let mut second = mx(issuer);
    assert_eq!(second.deliver(receiver).await, 204);
    // The second has withdrawn the key of the first.
    assert_eq!(
        first.attempt(receiver).await,
        (401, INVALID_TOKEN.to_owned())
    );
    assert_eq!(first.deliver(receiver).await, 204);

    // A new server signs by a third key, and ends before this application has read its keys.
    server.crash();
    let mut server = start(issuer, "third", 300, "RS256");
    let mut third = mx(issuer);
    third.fetch().await.unwrap();
    server.crash();
    sleep(limits.interval).await;
    assert_eq!(third.attempt(receiver).await.0, 503);
    assert_eq!(second.attempt(receiver).await.0, 204);
    sleep(limits.time_to_live).await;
    assert_eq!(second.attempt(receiver).await.0, 503);
}
