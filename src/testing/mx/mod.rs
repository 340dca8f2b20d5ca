//! A stand-in for MX: what it sends, and to whom.

mod request;
mod send;
mod settings;

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::Full;
use tower::{BoxError, Service};

use super::{Sample, Transcript};

/// A stand-in for MX, which delivers to an application as MX does.
///
/// It posts samples to any `Service<Request<B>>`: a router, the layer around one, a mock. What
/// is not answered 2xx it sends again, as MX does up to 12 times in 24 hours, each wait twice
/// the one before (MX's page on webhooks, *best practices*, says no more of its schedule than
/// that). On demand it sends everything several times, or in another order.
///
/// **Use it with tokio's clock paused** (`#[tokio::test(start_paused = true)]`, of tokio's
/// feature `test-util`): a day of retries then takes no time. With a clock that runs, a retry
/// that had to be waited for panics and says so.
///
/// `B` is the body of its requests: `Full<Bytes>`, which a router of axum takes, or what
/// [`with_body_type`](Self::with_body_type) sets.
///
/// `Debug` shows no credential.
///
/// # Example
///
/// ```
/// use axum::Router;
/// use mx_job_webhook::testing::{Mx, Sample};
/// use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
///
/// fn app() -> Result<Router, Box<dyn std::error::Error>> {
///     let jobs = JobRouter::new().on_completed(|_| async {});
///     let credentials = Credentials::basic("mx", "secret")?;
///     Ok(Router::new().layer(JobWebhook::new(credentials, jobs).at("/admin/webhooks")))
/// }
///
/// #[tokio::main(flavor = "current_thread", start_paused = true)]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let mx = Mx::new("/admin/webhooks").with_basic("mx", "secret");
///     let transcript = mx.deliver(app()?, Sample::completed()).await;
///     assert_eq!(transcript.answers(), [204]);
///     Ok(())
/// }
/// ```
pub struct Mx<B = Full<Bytes>> {
    uri: Uri,
    headers: HeaderMap,
    patience: Duration,
    interval: Duration,
    retries: u32,
    duplicates: u32,
    reordering: Option<u64>,
    body: PhantomData<fn() -> B>,
}

impl Mx {
    /// A sender to this path or URL, without credentials.
    ///
    /// # Panics
    ///
    /// If it is no URI.
    #[must_use]
    #[track_caller]
    pub fn new(uri: &str) -> Self {
        let Ok(uri) = uri.parse() else {
            panic!("{uri:?} is no URI");
        };
        Self {
            uri,
            headers: HeaderMap::new(),
            patience: Duration::from_secs(30),
            interval: Duration::from_secs(1),
            retries: 12,
            duplicates: 0,
            reordering: None,
            body: PhantomData,
        }
    }
}

impl<B: From<Bytes>> Mx<B> {
    /// Delivers one sample or several to an application, and tells what came of it.
    ///
    /// It returns when each was answered 2xx or given up. Each attempt is made on a clone of
    /// `app`, made ready before it is called. An attempt that is not answered in time is
    /// dropped, as a web server drops the response of a sender that hangs up; an error of the
    /// service counts as a connection that broke.
    ///
    /// # Panics
    ///
    /// If a retry had to be waited for, and tokio's clock was not paused. If the service does.
    ///
    /// # Cancellation
    ///
    /// Dropping it hangs up whatever is under way.
    pub async fn deliver<S, R, I>(&self, app: S, samples: I) -> Transcript
    where
        S: Service<Request<B>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
        I: IntoIterator<Item = Sample>,
    {
        send::deliver(self, app, samples.into_iter().collect()).await
    }
}

// By hand, because `derive` would ask `B: Clone`.
impl<B> Clone for Mx<B> {
    fn clone(&self) -> Self {
        Self {
            uri: self.uri.clone(),
            headers: self.headers.clone(),
            body: PhantomData,
            ..*self
        }
    }
}

impl<B> fmt::Debug for Mx<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mx")
            .field("uri", &self.uri)
            .field("patience", &self.patience)
            .field("interval", &self.interval)
            .field("retries", &self.retries)
            .field("duplicates", &self.duplicates)
            .field("reordering", &self.reordering)
            .finish_non_exhaustive()
    }
}
