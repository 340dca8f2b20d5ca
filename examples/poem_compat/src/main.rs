//! How do I mount the webhooks in a framework that is not built on tower, such as poem?
//!
//! Run it with `cargo run -p poem_compat`, and deliver something:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! Use poem's adapter: `compat()` turns the terminal service into an endpoint. Two things do not work:
//!
//! - The layer. poem's adapter for layers gives them poem's own requests instead of `http`'s. So poem
//!   routes, and the service answers a `GET` to the path with 405.
//! - Data that poem keeps beside the request: `Credentials::verify` does not see the sender's address.
//!   It sees the headers and the request's extensions. The response has the reason of a refusal.

#![allow(clippy::print_stdout, reason = "the example prints what happens")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;

use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use poem::endpoint::{TowerCompatExt as _, make_sync};
use poem::listener::TcpAcceptor;
use poem::{Route, Server, get};
use tokio::net::TcpListener;

/// The application, built with poem.
fn app(credentials: Credentials) -> Route {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("completed {}", event.guid) })
        .on_unhandled(|unhandled| async move { println!("{} unhandled", unhandled.status) });
    let webhooks = JobWebhook::new(credentials, jobs).compat();
    Route::new()
        .at("/", get(make_sync(|_| "an application of its own\n")))
        .at("/admin/webhooks", webhooks)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let server = Server::new_with_acceptor(TcpAcceptor::from_tokio(listener)?);
    Ok(server.run(app(Credentials::basic("mx", "secret")?)).await?)
}

#[cfg(test)]
mod tests {
    use http::{Extensions, Method, StatusCode};
    use mx_job_webhook::ErrorKind;
    use poem::{Endpoint as _, Request, Response};

    use super::*;

    /// Credentials that use a value from the application's middleware.
    #[derive(Clone)]
    struct Tenant(&'static str);

    async fn send(credentials: Credentials, method: Method, tenant: Tenant) -> Response {
        let request = Request::builder()
            .method(method)
            .uri_str("/admin/webhooks")
            .header("authorization", "Basic bXg6c2VjcmV0")
            .header("content-type", "application/json")
            .extension(tenant)
            .body(include_str!("../../../tests/fixtures/completed.json"));
        app(credentials).get_response(request).await
    }

    fn reason(extensions: &Extensions) -> Option<ErrorKind> {
        let error = extensions.get::<mx_job_webhook::Error>();
        error.map(mx_job_webhook::Error::kind)
    }

    #[tokio::test]
    async fn a_delivery_is_acknowledged_and_a_refusal_has_its_reason() {
        for (password, status, why) in [
            ("secret", StatusCode::NO_CONTENT, None),
            (
                "other",
                StatusCode::UNAUTHORIZED,
                Some(ErrorKind::Unauthorized),
            ),
        ] {
            let credentials = Credentials::basic("mx", password).unwrap();
            let answer = send(credentials, Method::POST, Tenant("acme")).await;
            assert_eq!(answer.status(), status);
            assert_eq!(reason(answer.extensions()), why);
        }
    }

    #[tokio::test]
    async fn a_get_is_answered_405() {
        let credentials = Credentials::basic("mx", "secret").unwrap();
        let answer = send(credentials, Method::GET, Tenant("acme")).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn credentials_see_values_of_poems_middleware() {
        let credentials = Credentials::verify(|head| {
            let acme = head
                .extensions
                .get()
                .is_some_and(|Tenant(name)| *name == "acme");
            async move { acme }
        });
        for (tenant, status) in [
            ("acme", StatusCode::NO_CONTENT),
            ("other", StatusCode::UNAUTHORIZED),
        ] {
            let answer = send(credentials.clone(), Method::POST, Tenant(tenant)).await;
            assert_eq!(answer.status(), status);
        }
    }
}
