//! A stand-in for MX.

mod clock;
mod jobs;
mod mount;
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
pub use jobs::{MxJobs, NoSuchJob};
pub use mount::MountError;

/// A stand-in for MX, which delivers to an application as MX does.
///
/// It posts samples to any `Service<Request<B>>`: a router, the layer around one, or a mock. A
/// delivery that is not answered 2xx is retried, up to 12 times in 24 hours, and each wait is twice
/// as long as the one before. MX's page on webhooks (*best practices*) describes its schedule no
/// further than that. `Mx` can also send everything several times, or in another order.
///
/// # Clock
///
/// **Use it with tokio's clock paused**, by `#[tokio::test(start_paused = true)]` of tokio's
/// feature `test-util`. A day of retries then takes no time. If the clock is not paused, a retry
/// that has to wait panics.
///
/// A paused clock jumps to the next timer when the runtime is idle, also while a callback waits for
/// a socket. The timer is often a timeout, such as the answer deadline. `Mx` therefore holds the clock
/// still for 500 ms of real time whenever an attempt waits, and for at most 2 s of each attempt, so a
/// callback may use a local database.
/// A longer wait for a socket ends in [`Answer::TimedOut`](super::Answer::TimedOut), or in the
/// application's own timeout. **For slower callbacks, let the clock run** and set
/// [`with_first_wait`](Self::with_first_wait) to a few milliseconds: retries then take seconds.
///
/// # Body
///
/// `B` is the body of its requests. It defaults to `Full<Bytes>`, which axum's router takes;
/// [`with_body_type`](Self::with_body_type) sets another.
///
/// `Debug` prints no credential.
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
    first_wait: Option<Duration>,
    duplicates: u32,
    reordering: Option<u64>,
    losses: Option<Losses>,
    jobs: MxJobs,
    body: PhantomData<fn() -> B>,
}

impl Mx {
    /// Returns a sender to this path or URL, without credentials.
    ///
    /// # Panics
    ///
    /// If `uri` is neither a path that starts with a slash, such as `/admin/webhooks`, nor a URL with
    /// a scheme and a host.
    #[must_use]
    #[track_caller]
    pub fn new(uri: &str) -> Self {
        let Ok(parsed) = uri.parse::<Uri>() else {
            panic!("{uri:?} is not a URI");
        };
        assert!(
            uri.starts_with('/') || parsed.scheme().is_some(),
            "{uri:?} must start with a slash, as in \"/admin/webhooks\", or be a whole URL"
        );
        let uri = parsed;
        Self {
            uri,
            headers: HeaderMap::new(),
            patience: Duration::from_secs(30),
            interval: Duration::from_secs(1),
            retries: 12,
            first_wait: None,
            duplicates: 0,
            reordering: None,
            losses: None,
            jobs: MxJobs::default(),
            body: PhantomData,
        }
    }
}

/// The deliveries that are lost.
#[derive(Clone, Copy, Debug)]
struct Losses {
    share: f64,
    seed: u64,
}

impl<B> Mx<B> {
    /// Returns the jobs whose samples it sends, as *Read job* of MX's API shows them.
    ///
    /// Clones of this `Mx` share them.
    #[must_use]
    pub fn jobs(&self) -> MxJobs {
        self.jobs.clone()
    }
}

impl<B: From<Bytes>> Mx<B> {
    /// Delivers samples to an application, and returns a transcript of all attempts.
    ///
    /// It returns when each sample was answered 2xx or given up. Each attempt calls a clone of
    /// `app`, which is made ready first. An attempt that is not answered in time is dropped, as a
    /// web server drops the response future when a sender hangs up. An error of the service counts
    /// as a broken connection.
    ///
    /// # Panics
    ///
    /// If a retry has to wait, tokio's clock is not paused and
    /// [`with_first_wait`](Self::with_first_wait) is not set; or if the service panics.
    ///
    /// # Cancellation
    ///
    /// Dropping the future hangs up all requests that are under way.
    pub async fn deliver<S, R, I>(&self, app: S, samples: I) -> Transcript
    where
        S: Service<Request<B>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
        I: IntoIterator<Item = Sample>,
    {
        send::deliver(self, app, samples.into_iter().collect()).await
    }
}

// By hand, because `derive` would require `B: Clone`.
impl<B> Clone for Mx<B> {
    fn clone(&self) -> Self {
        Self {
            uri: self.uri.clone(),
            headers: self.headers.clone(),
            jobs: self.jobs.clone(),
            body: PhantomData,
            ..*self
        }
    }
}

impl<B> fmt::Debug for Mx<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mx")
            // A URL can contain credentials.
            .field("path", &self.uri.path())
            .field("patience", &self.patience)
            .field("interval", &self.interval)
            .field("retries", &self.retries)
            .field("first_wait", &self.first_wait)
            .field("duplicates", &self.duplicates)
            .field("reordering", &self.reordering)
            .field("losses", &self.losses)
            .finish_non_exhaustive()
    }
}
