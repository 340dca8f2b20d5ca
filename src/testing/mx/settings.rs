//! How it delivers: how often, how fast, and in which order.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;

use super::Mx;

/// How it delivers.
impl<B> Mx<B> {
    /// Sets how often it sends what is not answered 2xx again; 12 times unless set.
    ///
    /// With 0 it never waits for a day to pass, and needs no clock that is paused.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::{Mx, Sample};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let jobs = JobRouter::new().on_halted(|_| async { Err("the database is down") });
    /// let app = JobWebhookEndpoint::new(Credentials::unauthenticated(), jobs);
    /// let transcript = Mx::new("/").with_retries(0).deliver(app, Sample::halted()).await;
    /// assert_eq!(transcript.answers(), [500]);
    /// # }
    /// ```
    #[must_use]
    pub fn with_retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets how long it waits for an answer before it hangs up; 30 s unless set.
    ///
    /// MX does not publish its own.
    ///
    /// # Example
    ///
    /// ```
    /// use std::{future::pending, time::Duration};
    /// use mx_job_webhook::testing::{Answer, Mx, Sample};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let jobs = JobRouter::new().on_halted(|_| pending::<()>());
    /// let app = JobWebhookEndpoint::new(Credentials::unauthenticated(), jobs);
    /// let mx = Mx::new("/").with_retries(0).with_patience(Duration::from_secs(5));
    /// let transcript = mx.deliver(app, Sample::halted()).await;
    /// assert_eq!(transcript.answers(), [Answer::TimedOut]);
    /// # }
    /// ```
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets how long after one sample it sends the next; 1 s unless set.
    ///
    /// It does not wait for an answer before: what takes longer overlaps.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mx_job_webhook::testing::{Mx, Sample};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let app = JobWebhookEndpoint::new(Credentials::unauthenticated(), JobRouter::new());
    /// let mx = Mx::new("/").with_interval(Duration::from_secs(60));
    /// let transcript = mx.deliver(app, [Sample::challenged(), Sample::completed()]).await;
    /// assert_eq!(transcript.attempts()[1].sent_at(), Duration::from_secs(60));
    /// # }
    /// ```
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sends everything so many times more, though it was answered 2xx.
    ///
    /// When all samples were sent they are sent once more from the first, and so on. For
    /// copies that overlap, deliver twice at once (`tokio::join!`).
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::{Mx, Sample};
    /// use mx_job_webhook::{Credentials, DedupeLayer, JobRouter, JobWebhookEndpoint, MemoryLedger};
    /// use tower::Layer;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let jobs = JobRouter::new().on_halted(|_| async {});
    /// let once = DedupeLayer::new(MemoryLedger::new()).layer(jobs);
    /// let app = JobWebhookEndpoint::new(Credentials::unauthenticated(), once);
    /// let transcript = Mx::new("/").with_duplicates(1).deliver(app, Sample::halted()).await;
    /// assert_eq!(transcript.answers(), [204, 204]);
    /// # }
    /// ```
    #[must_use]
    pub fn with_duplicates(mut self, duplicates: u32) -> Self {
        self.duplicates = duplicates;
        self
    }

    /// Sends in an order that it draws from this seed: one seed, one order.
    ///
    /// Each round of copies has an order of its own. To choose the order, give the samples in it.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::testing::{Mx, Sample};
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let app = JobWebhookEndpoint::new(Credentials::unauthenticated(), JobRouter::new());
    /// let samples = Sample::of_each_status();
    /// let transcript = Mx::new("/").with_reordering(7).deliver(app, samples.clone()).await;
    /// let sent = transcript.attempts().iter().map(|attempt| attempt.sample().clone());
    /// assert_ne!(sent.collect::<Vec<_>>(), samples);
    /// # }
    /// ```
    #[must_use]
    pub fn with_reordering(mut self, seed: u64) -> Self {
        self.reordering = Some(seed);
        self
    }

    /// Sets the type of the requests' bodies, for services that take only one.
    ///
    /// # Example
    ///
    /// ```
    /// use axum::body::Body;
    /// use http::Request;
    /// use mx_job_webhook::testing::{Mx, Sample};
    ///
    /// let mx = Mx::new("/").with_body_type::<Body>();
    /// let request: Request<Body> = mx.request(&Sample::completed());
    /// assert_eq!(request.headers()["content-length"], "452");
    /// ```
    #[must_use]
    pub fn with_body_type<Body: From<Bytes>>(self) -> Mx<Body> {
        Mx {
            uri: self.uri,
            headers: self.headers,
            patience: self.patience,
            interval: self.interval,
            retries: self.retries,
            duplicates: self.duplicates,
            reordering: self.reordering,
            body: PhantomData,
        }
    }
}
