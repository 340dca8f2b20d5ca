//! The check of the mount: requests whose answers tell how the application mounts this crate.

mod error;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use tower::{BoxError, Service};

use super::{Mx, Sample, send};
use crate::error::{ErrorKind, Receipt};
use crate::job::Status;
use crate::testing::Answer;
use crate::testing::attempt::Reply;
use error::Mistake;
pub use error::MountError;

/// The size of the delivery, about ten times that of MX's sample.
const BODY: usize = 8 * 1024;

/// A segment of paths that no application has a route for.
const OTHER_PATH: &str = "/mx-job-webhook-mount-check";

/// The check of the mount.
impl<B: From<Bytes>> Mx<B> {
    /// Checks how an application mounts this crate, and names the mistake that it finds.
    ///
    /// Unwrap it in a test: the error's `Debug` is a sentence with the mistake and its remedy. It
    /// finds that
    ///
    /// - a route or a fallback answers instead of this crate, because it was added after the layer;
    /// - the path differs, by a trailing slash or a nested router's prefix;
    /// - the layer is not reached, because it is a `route_layer` or on a nested router;
    /// - the credentials of this `Mx` are refused, or those of any sender are accepted;
    /// - a limit in front of the mount refuses a body of 8 KiB;
    /// - deliveries are accepted on other paths or by other methods.
    ///
    /// It sends one delivery that is to be acknowledged, of a random job with the status
    /// `MOUNT_CHECK`. No callback is registered for it, so only `on_unhandled` runs, and its failure
    /// does not count. Where MX's other webhooks go is not checked. A layer around the mount that builds the
    /// response anew has to keep its extensions. A `DedupeLayer` records the event. A handler of your own runs too; it has to
    /// return `Receipt` or `Result<Receipt, Error>`. All other requests are to be refused, or to
    /// reach other routes; `on_error` sees the refusals.
    ///
    /// An `Mx` without [`with_basic`](Self::with_basic) and [`with_bearer`](Self::with_bearer) says
    /// that the application needs no credentials. They are not checked then.
    ///
    /// # Errors
    ///
    /// [`MountError`] with the first mistake.
    ///
    /// # Example
    ///
    /// ```
    /// # use axum::Router;
    /// # use mx_job_webhook::testing::Mx;
    /// # use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, JobRouter::new());
    /// let mx = Mx::new("/admin/webhooks").with_basic("mx", "secret");
    ///
    /// let app: Router = Router::new().layer(webhooks.clone().at("/admin/webhooks"));
    /// mx.check_mount(app).await.unwrap();
    ///
    /// let wrong: Router = Router::new().layer(webhooks.at("/webhooks"));
    /// assert!(mx.check_mount(wrong).await.is_err());
    /// # Ok(()) }
    /// ```
    pub async fn check_mount<S, R>(&self, app: S) -> Result<(), MountError>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
    {
        let check = Check { mx: self, app };
        let mistake = match check.run().await {
            Ok(()) => return Ok(()),
            Err(mistake) => mistake,
        };
        Err(MountError::new(self.uri.path(), &mistake))
    }
}

struct Check<'a, B, S> {
    mx: &'a Mx<B>,
    app: S,
}

impl<B, S, R> Check<'_, B, S>
where
    B: From<Bytes>,
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
{
    async fn run(&self) -> Result<(), Mistake> {
        self.check_delivery().await?;
        self.check_credentials().await?;
        self.check_other_requests().await
    }

    /// Sends a delivery with the credentials, which has to be received.
    async fn check_delivery(&self) -> Result<(), Mistake> {
        let reply = self.send(self.delivery()).await;
        match (&reply.error, reply.receipt) {
            (Some(error), _) => match error.kind() {
                _ if reply.answer.is_success() => Err(Mistake::ErrorChanged(reply.answer)),
                // The mount has passed the event on, to `on_unhandled`.
                ErrorKind::CallbackFailed
                | ErrorKind::CallbackPanicked
                | ErrorKind::CallbackCancelled
                | ErrorKind::TimedOut
                | ErrorKind::AnswerDeadline => Ok(()),
                ErrorKind::Unauthorized => Err(Mistake::CredentialsRefused {
                    sent: self.has_credentials(),
                }),
                ErrorKind::BodyTooLarge => Err(Mistake::OwnBodyLimit),
                ErrorKind::BodyInterrupted | ErrorKind::ReadTimeout => Err(Mistake::BodyCut),
                kind if kind.is_undecodable() => Err(Mistake::BodyChanged),
                _ => Err(Mistake::Refused(error.clone())),
            },
            (None, Some(Receipt::Undecodable)) => Err(Mistake::BodyChanged),
            (None, Some(_)) if reply.answer.is_success() => Ok(()),
            (None, Some(_)) => Err(Mistake::AnswerChanged(reply.answer)),
            (None, None) => Err(self.explain(reply.answer).await),
        }
    }

    /// Explains why another component has answered the delivery, or none has.
    async fn explain(&self, answer: Answer) -> Mistake {
        let Answer::Status(status) = answer else {
            return Mistake::NoAnswer(answer);
        };
        if status.as_u16() == 413 {
            return Mistake::BodyLimitInFront;
        }
        for (path, difference) in similar_paths(self.mx.uri.path()) {
            if self.is_ours(Method::POST, &path).await {
                return Mistake::OtherPath { path, difference };
            }
        }
        match status.as_u16() {
            404 => Mistake::NotFound,
            405 => Mistake::MethodNotAllowed,
            401 | 403 => Mistake::RefusedInFront(status),
            200..=299 => Mistake::AnsweredByAnother(status),
            _ => Mistake::AnsweredInFront(status),
        }
    }

    /// Sends deliveries without credentials and with wrong ones, which have to be refused.
    async fn check_credentials(&self) -> Result<(), Mistake> {
        if !self.has_credentials() {
            return Ok(());
        }
        let wrong = self.wrong();
        let cases = [
            (None, Mistake::NoCredentialsNeeded),
            (Some(wrong), Mistake::AnyCredentialsAccepted),
        ];
        for (authorization, mistake) in cases {
            // A layer in front can want one of the other headers, and another can be a credential.
            let others = self
                .mx
                .headers
                .keys()
                .filter(|name| **name != AUTHORIZATION);
            for kept in std::iter::once(None).chain(others.map(Some)) {
                let request = self.unauthenticated(authorization.as_ref(), kept);
                let reply = self.send(request).await;
                if !is_ours(&reply) {
                    continue;
                }
                if passed(&reply) {
                    return Err(mistake);
                }
                if reply.answer.is_success() {
                    return Err(Mistake::ErrorChanged(reply.answer));
                }
                break;
            }
        }
        Ok(())
    }

    /// Returns a delivery with this header instead of the credentials, and with one header of
    /// `with_header` or none.
    fn unauthenticated(
        &self,
        authorization: Option<&HeaderValue>,
        kept: Option<&HeaderName>,
    ) -> Request<B> {
        let mut request = without_headers(self.mx, self.delivery());
        let headers = request.headers_mut();
        if let Some((name, value)) = kept.and_then(|name| Some((name, self.mx.headers.get(name)?)))
        {
            headers.insert(name, value.clone());
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }

    /// Sends requests to other paths and with other methods. None is a delivery.
    async fn check_other_requests(&self) -> Result<(), Mistake> {
        let own = self.mx.uri.path().trim_end_matches('/');
        let parent = own.rsplit_once('/').map_or("", |(parent, _)| parent);
        for prefix in ["", own, parent] {
            // Deep, because a route can have captures.
            let path = format!("{prefix}{}", OTHER_PATH.repeat(6));
            if self.is_ours(Method::POST, &path).await {
                return Err(Mistake::OtherPathsAccepted);
            }
        }
        for method in [
            Method::GET,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ] {
            let mut request = self.delivery();
            *request.method_mut() = method.clone();
            // A page can answer with an error of this crate.
            if self.send(request).await.receipt.is_some() {
                return Err(Mistake::OtherMethodsAccepted(method));
            }
        }
        Ok(())
    }

    async fn send(&self, request: Request<B>) -> Reply {
        send::attempt(self.mx, &self.app, request).await
    }

    /// Returns whether this crate answers on a path. The request has no credentials, so that it runs
    /// no callback.
    async fn is_ours(&self, method: Method, path: &str) -> bool {
        let mut request = without_headers(self.mx, self.delivery());
        *request.method_mut() = method;
        *request.uri_mut() = with_path(&self.mx.uri, path);
        let reply = self.send(request).await;
        // A page can answer with other errors of this crate.
        let checks_credentials = reply.error.as_ref().is_some_and(|error| {
            let kind = error.kind();
            matches!(
                kind,
                ErrorKind::Unauthorized | ErrorKind::AuthenticationUnavailable
            )
        });
        reply.receipt.is_some() || checks_credentials
    }

    /// Returns a delivery that no callback is registered for.
    fn delivery(&self) -> Request<B> {
        // Random, so that tests that share a ledger do not wait for each other.
        let number = fastrand::u64(..1 << 48);
        let guid = format!("JOB-00000000-0000-4000-8000-{number:012x}");
        let sample = Sample::new(Status::from("MOUNT_CHECK")).with_guid(&guid);
        let padding = " ".repeat(BODY.saturating_sub(sample.body().len()));
        self.mx.request(&sample.with_field("padding", padding))
    }

    fn has_credentials(&self) -> bool {
        self.mx.headers.contains_key(AUTHORIZATION)
    }

    /// Returns credentials of the same scheme that no application accepts.
    fn wrong(&self) -> HeaderValue {
        let own = self.mx.headers.get(AUTHORIZATION);
        match own.is_some_and(|own| own.as_bytes().starts_with(b"Basic ")) {
            // `mx-job-webhook:mount-check`
            true => HeaderValue::from_static("Basic bXgtam9iLXdlYmhvb2s6bW91bnQtY2hlY2s="),
            false => HeaderValue::from_static("Bearer mx-job-webhook-mount-check"),
        }
    }
}

/// Returns whether this crate has answered.
fn is_ours(reply: &Reply) -> bool {
    reply.receipt.is_some() || reply.error.is_some()
}

/// Returns whether a delivery has passed the check of the credentials.
fn passed(reply: &Reply) -> bool {
    let refused = |kind| {
        matches!(
            kind,
            ErrorKind::Unauthorized
                | ErrorKind::AuthenticationUnavailable
                | ErrorKind::MethodNotAllowed
        )
    };
    match &reply.error {
        Some(error) => !refused(error.kind()),
        None => reply.receipt.is_some(),
    }
}

/// Removes the credentials and all headers of `with_header`, because those can be credentials too.
fn without_headers<B>(mx: &Mx<B>, mut request: Request<B>) -> Request<B> {
    for name in mx.headers.keys() {
        request.headers_mut().remove(name);
    }
    request
}

fn with_path(uri: &Uri, path: &str) -> Uri {
    let mut parts = uri.clone().into_parts();
    let path = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    parts.path_and_query = path.parse::<PathAndQuery>().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// The difference between the path of MX and that of the application.
#[derive(Debug, PartialEq)]
enum Difference {
    TrailingSlash,
    /// The application lacks this prefix.
    Prefix(String),
    /// The application has this prefix twice.
    PrefixTwice(String),
}

/// Returns the paths of common mistakes.
fn similar_paths(path: &str) -> Vec<(String, Difference)> {
    let slash = match path.strip_suffix('/') {
        Some(without) => without.to_owned(),
        None => format!("{path}/"),
    };
    let mut paths = Vec::new();
    if !slash.is_empty() {
        paths.push((slash, Difference::TrailingSlash));
    }
    let slashes = path.match_indices('/').map(|(index, _)| index);
    for index in slashes.filter(|index| (1..path.len() - 1).contains(index)) {
        let (prefix, rest) = path.split_at(index);
        paths.push((rest.to_owned(), Difference::Prefix(prefix.to_owned())));
        let twice = format!("{prefix}{path}");
        paths.push((twice, Difference::PrefixTwice(prefix.to_owned())));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_paths_differ_by_a_slash_or_a_prefix() {
        let paths = |path| similar_paths(path).into_iter().map(|(path, _)| path);
        assert!(paths("/").eq([""; 0]));
        assert!(paths("/a").eq(["/a/"]));
        assert!(paths("/a/").eq(["/a"]));
        assert!(paths("/a/b").eq(["/a/b/", "/b", "/a/a/b"]));
        let deep = ["/a/b", "/b/", "/a/a/b/"];
        assert!(paths("/a/b/").eq(deep));
    }

    #[test]
    fn another_path_keeps_the_rest_of_the_uri() {
        let with_path = |uri: &'static str| with_path(&Uri::from_static(uri), "/b").to_string();
        assert_eq!(with_path("/a"), "/b");
        assert_eq!(with_path("http://mx:1/a?c=d"), "http://mx:1/b?c=d");
    }
}
