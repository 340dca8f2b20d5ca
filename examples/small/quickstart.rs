//! How do I receive MX's job webhooks in my axum application?
//!
//! Run it with `cargo run --example quickstart`. It serves an application with the layer at
//! `/admin/webhooks`, delivers MX's documented sample to itself, and continues to serve:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! It reads `ADDR`, `MX_USER` and `MX_PASSWORD` from the environment. With `-- --once` it ends after
//! the delivery, and succeeds only if the answer was 204.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mx_job_webhook::{Credentials, Job, JobRouter, JobWebhook};
use tokio::net::TcpListener;

const WEBHOOKS: &str = "/admin/webhooks";
const SAMPLE: &str = include_str!("../../tests/fixtures/completed.json");

/// The application: its own route, and the layer that receives the webhooks.
fn app(credentials: Credentials) -> Router {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { print_line(&event) })
        .on_challenged(|event| async move { print_line(&event) })
        .on_unhandled(|unhandled| async move { print_line(&unhandled) });

    Router::new()
        .route("/", get(|| async { "an application of its own\n" }))
        .layer(JobWebhook::new(credentials, jobs).at(WEBHOOKS))
}

fn print_line(job: &Job) {
    let member = job.member_guid.as_ref().map_or("-", |guid| guid.as_str());
    println!("{} {} {member}", job.status, job.guid);
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let once = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [argument] if argument == "--once" => true,
        _ => return Err("the only argument is --once".into()),
    };
    let address: SocketAddr = variable("ADDR", "127.0.0.1:3000")?
        .parse()
        .map_err(|_| "ADDR must be an address and a port, such as 127.0.0.1:3000")?;
    let (user, password) = (
        variable("MX_USER", "mx")?,
        variable("MX_PASSWORD", "secret")?,
    );
    let app = app(Credentials::basic(&user, &password)?);

    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let address = reachable(listener.local_addr()?);
    println!("listening on http://{address}, webhooks at {WEBHOOKS}");
    let server = tokio::spawn(async move {
        let ctrl_c = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
        axum::serve(listener, app)
            .with_graceful_shutdown(ctrl_c)
            .await
    });

    let status = deliver_sample(address, &user, &password).await?;
    println!("answered {status}");
    if once {
        let acknowledged = status == StatusCode::NO_CONTENT;
        return if acknowledged {
            Ok(())
        } else {
            Err("the sample was not answered 204".into())
        };
    }
    println!(
        "\ndeliver it again from another terminal:\n{}\n",
        curl_line(address)
    );
    Ok(server.await??)
}

/// Plays MX's part: posts the documented sample over the socket.
async fn deliver_sample(
    address: SocketAddr,
    user: &str,
    password: &str,
) -> Result<StatusCode, Box<dyn Error>> {
    let credentials = STANDARD.encode(format!("{user}:{password}"));
    let request = Request::post(format!("http://{address}{WEBHOOKS}"))
        .header(AUTHORIZATION, format!("Basic {credentials}"))
        .header(CONTENT_TYPE, "application/json; charset=utf-8")
        .body(Body::from(SAMPLE))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    Ok(client.request(request).await?.status())
}

/// Returns a curl line without the credentials from the environment: the shell inserts those.
fn curl_line(address: SocketAddr) -> String {
    let set = env::var_os("MX_USER").is_some() || env::var_os("MX_PASSWORD").is_some();
    let credentials = if set {
        r#""${MX_USER:-mx}:${MX_PASSWORD:-secret}""#
    } else {
        "mx:secret"
    };
    let sample: String = SAMPLE.lines().map(str::trim_start).collect();
    format!(
        "curl -i -u {credentials} -H 'content-type: application/json' \
         -d '{sample}' http://{address}{WEBHOOKS}"
    )
}

/// Returns an address at which this machine reaches the server. Not every system connects to `0.0.0.0`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn variable(name: &str, default: &str) -> Result<String, String> {
    match env::var(name) {
        Ok(value) => Ok(value),
        Err(env::VarError::NotPresent) => Ok(default.to_owned()),
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name} must be UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn the_sample_is_acknowledged_and_the_other_route_answers() {
        let app = app(Credentials::basic("mx", "secret").unwrap());
        let delivery = Request::post(WEBHOOKS)
            .header(AUTHORIZATION, "Basic bXg6c2VjcmV0")
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .body(Body::from(SAMPLE))
            .unwrap();
        let response = app.clone().oneshot(delivery).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);

        let other = Request::get("/").body(Body::empty()).unwrap();
        assert_eq!(app.oneshot(other).await.unwrap().status(), StatusCode::OK);
    }

    #[test]
    fn an_unspecified_address_is_reached_on_loopback() {
        let cases = [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("127.0.0.2:1", "127.0.0.2:1"),
        ];
        for (address, expected) in cases {
            assert_eq!(reachable(address.parse().unwrap()).to_string(), expected);
        }
    }
}
