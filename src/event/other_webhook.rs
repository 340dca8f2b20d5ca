//! MX's other webhooks, which arrive at the same URL.

use std::fmt;

use bytes::Bytes;
use http::{Extensions, HeaderMap};

use crate::job::other_webhook::{Kind, read_kind};
use crate::util::catch_panic::CatchDrop;

/// One of MX's other webhooks: an authenticated JSON object without a job.
///
/// Unless you ask MX for separate URLs, it sends all webhooks to one (MX's page on webhooks). Those
/// without a job have a root key `type`, such as `AGGREGATION`, `BALANCE` or `CONNECTION_STATUS`, or
/// a root key `action`.
///
/// The hook [`on_other_webhook`](crate::JobWebhook::on_other_webhook) takes it as its argument, and
/// the extractor's rejection contains it.
///
/// `Debug` shows the type, the action and the length of the body.
///
/// # Example
///
/// ```
/// use mx_job_webhook::event::OtherWebhook;
/// use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
///
/// async fn other(webhook: OtherWebhook) -> Result<(), serde_json::Error> {
///     match webhook.type_name() {
///         Some("BALANCE") => {
///             let balance: serde_json::Value = serde_json::from_slice(webhook.body())?;
///             println!("read the account {}", balance["account_guid"]);
///         }
///         other => println!("MX sends {other:?} too"),
///     }
///     Ok(())
/// }
///
/// let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, JobRouter::new())
///     .on_other_webhook(other);
/// # drop(webhooks); Ok::<(), mx_job_webhook::credentials::CredentialsError>(())
/// ```
#[derive(Clone)]
pub struct OtherWebhook {
    kind: Kind,
    // These can contain values of the application, whose destructors can panic.
    body: CatchDrop<Bytes>,
    headers: CatchDrop<HeaderMap>,
    extensions: CatchDrop<Extensions>,
}

impl OtherWebhook {
    pub(crate) fn new(body: Bytes, headers: HeaderMap, extensions: Extensions) -> Self {
        Self {
            kind: read_kind(&body),
            body: CatchDrop::new(body),
            headers: CatchDrop::new(headers),
            extensions: CatchDrop::new(extensions),
        }
    }

    /// Returns the text of the root key `type`, as MX writes it.
    #[must_use]
    pub fn type_name(&self) -> Option<&str> {
        self.kind.type_name.as_deref()
    }

    /// Returns the text of the root key `action`, as MX writes it.
    #[must_use]
    pub fn action(&self) -> Option<&str> {
        self.kind.action.as_deref()
    }

    /// Returns the body as it was received.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the headers of the request, without `Authorization`.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the extensions of the request.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    pub(crate) fn into_parts(self) -> (Bytes, HeaderMap, Extensions) {
        (
            self.body.into_inner(),
            self.headers.into_inner(),
            self.extensions.into_inner(),
        )
    }
}

impl fmt::Debug for OtherWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtherWebhook")
            .field("type", &self.kind.type_name)
            .field("action", &self.kind.action)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}
