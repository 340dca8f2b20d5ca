//! Reading jobs from MX's API.

use std::pin::Pin;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::Request;
use axum::http::header::ACCEPT;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mx_job_webhook::job::JobGuid;
use tower::BoxError;

/// The longest answer that is read.
const MAX_LENGTH: usize = 256 * 1024;

/// Returns the failsafe's reader: *Read job* at this base URL.
///
/// The client speaks `http://` only. MX needs one with TLS and the credentials of the API.
pub(crate) fn read_job(
    mx_api: String,
) -> impl FnMut(JobGuid) -> Pin<Box<dyn Future<Output = Result<Bytes, BoxError>> + Send>> {
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build_http();
    move |guid| {
        let (client, url) = (client.clone(), format!("{mx_api}/jobs/{guid}"));
        Box::pin(async move {
            let request = Request::get(url).header(ACCEPT, "application/vnd.mx.api.v1+json");
            let answer = client.request(request.body(Body::empty())?).await?;
            if !answer.status().is_success() {
                return Err(format!("MX answered {}", answer.status()).into());
            }
            Ok(to_bytes(Body::new(answer.into_body()), MAX_LENGTH).await?)
        })
    }
}
