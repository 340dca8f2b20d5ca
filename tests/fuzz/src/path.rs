//! Exactly the deliveries to the layer's path are taken.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Collected, Full};
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::{panics, ready};

/// The input is lines: the path of the layer, the method, and the target of a request. In the target, `{path}` stands
/// for the path.
///
/// `at` panics exactly if no request can have the path, or if it has a capture, a wildcard or a query. A request is
/// a delivery exactly if it is a `POST` and its path has the bytes of the layer's. Every other request reaches the
/// service within, unchanged.
pub(crate) fn check(input: &[u8]) {
    let Ok(input) = std::str::from_utf8(input) else {
        return;
    };
    let mut lines = input.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (path, method, target) = (line(), line(), line());

    let webhooks = JobWebhook::new(Credentials::unauthenticated(), JobRouter::new());
    if !is_possible(path) {
        return assert!(panics(|| webhooks.at(path)), "{path:?} is taken");
    }
    let layer = webhooks.at(path);

    let target = target.replace("{path}", path);
    let body = Bytes::from_static(br#"{"job":{"guid":"JOB-1","status":6}}"#);
    let request = Request::builder().method(method).uri(&target);
    let request = request
        .header("content-type", "application/json")
        .body(Full::new(body.clone()));
    let Ok(request) = request else {
        return;
    };
    let sent = (
        request.method().clone(),
        request.uri().to_string(),
        request.headers().clone(),
    );
    let within = service_fn(async |request: Request<Full<Bytes>>| {
        let seen = (
            request.method().clone(),
            request.uri().to_string(),
            request.headers().clone(),
        );
        let is_unchanged = seen == sent
            && ready(request.into_body().collect()).map(Collected::to_bytes) == Ok(body.clone());
        let status = if is_unchanged { 299 } else { 500 };
        Response::builder()
            .status(status)
            .body(Full::<Bytes>::default())
            .map_err(|_| unreachable!("it is valid"))
    });
    let answer: Result<_, Infallible> = ready(layer.layer(within).oneshot(request));

    let is_delivery = method == Method::POST.as_str() && path_of(&target) == path;
    let expected = if is_delivery { 204 } else { 299 };
    assert_eq!(
        answer.map(|answer| answer.status().as_u16()),
        Ok(expected),
        "{method} {target}"
    );
}

/// Returns whether a request can have the path, and it does not look like a pattern.
fn is_possible(path: &str) -> bool {
    let request = Request::post(path).body(());
    let has_path = request.is_ok_and(|request| request.uri().path() == path);
    path.starts_with('/') && has_path && !path.contains(['{', '}', '*', '?', '#'])
}

/// Returns the path of a request's target (RFC 9112, section 3.2), byte for byte.
fn path_of(target: &str) -> &str {
    let after_authority = match target.split_once("://") {
        _ if target.starts_with('/') => target,
        Some((_, rest)) => &rest[rest.find(['/', '?', '#']).unwrap_or(rest.len())..],
        None if target == "*" => return "*",
        // The host and port of a `CONNECT`.
        None => return "",
    };
    let path = &after_authority[..after_authority
        .find(['?', '#'])
        .unwrap_or(after_authority.len())];
    if path.is_empty() { "/" } else { path }
}
