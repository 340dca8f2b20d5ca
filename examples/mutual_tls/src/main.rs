//! How do I serve TLS, and authenticate the sender by its certificate?
//!
//! Issue certificates with a CA for tests, and serve with them:
//! `cargo run -p mutual_tls -- --write-certificates target/certificates`. Then deliver
//! something:
//!
//! ```text
//! curl -i --cacert target/certificates/ca.pem \
//!     --cert target/certificates/client.pem --key target/certificates/client.key \
//!     -H 'content-type: application/json' --data @tests/fixtures/completed.json \
//!     https://localhost:3443/admin/webhooks
//! ```
//!
//! rustls verifies that the CA issued the certificate, and `Credentials::verify` decides by the names
//! in it. Ask MX for the CA and the name of its certificate. Without `--write-certificates`, the
//! example serves with the files in the folder.

#![allow(clippy::print_stdout, reason = "the example prints what happens")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

mod certificates;
#[cfg(test)]
mod tests;
mod tls;

use std::env;
use std::error::Error;
use std::future::ready;
use std::path::Path;
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::Layer as _;

use tls::ClientNames;

/// The name in MX's certificate, in this example.
const MX: &str = "webhooks.mx.example";

/// The application. It does not depend on TLS: the names are in the request's extensions.
fn app(credentials: Credentials) -> Router {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("completed {}", event.guid) })
        .on_unhandled(|unhandled| async move { println!("{} unhandled", unhandled.status) });
    Router::new()
        .route("/", get(|| async { "a page that needs no certificate\n" }))
        .layer(JobWebhook::new(credentials, jobs).at("/admin/webhooks"))
}

/// Accepts only senders whose certificate has this name.
fn certificate_of(name: &'static str) -> Credentials {
    Credentials::verify(move |head| {
        let names = head.extensions.get::<ClientNames>();
        ready(names.is_some_and(|names| names.contain(name)))
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let folder = match arguments[..] {
        ["--write-certificates", folder] => {
            certificates::write(Path::new(folder), MX)?;
            folder
        }
        [folder] if !folder.starts_with('-') => folder,
        _ => return Err("the arguments are [--write-certificates] FOLDER".into()),
    };
    let acceptor = tls::read(Path::new(folder))?;
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3443".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on https://{}", listener.local_addr()?);
    serve(listener, acceptor, app(certificate_of(MX))).await;
    Ok(())
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, app: Router) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files, for example. The error is temporary.
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        let (acceptor, app) = (acceptor.clone(), app.clone());
        // The handshake runs in the task too, so no connection waits for another's handshake.
        tokio::spawn(async move {
            if let Err(error) = connection(stream, &acceptor, app).await {
                println!("a connection broke: {error}");
            }
        });
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    app: Router,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let stream = timeout(Duration::from_secs(10), acceptor.accept(stream)).await??;
    // The names belong to the connection. Each of its requests gets them.
    let names = ClientNames::of(stream.get_ref().1)?;
    let app = Extension(names).layer(app);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
        .await?;
    Ok(())
}
