//! The HTTP client: sends one request and returns its answer.

use std::error::Error;
use std::iter::successors;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::Arguments;

pub(super) struct Client {
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

/// The answer to a request, and its duration.
pub(super) struct Outcome {
    /// The status, or the reason for which there is none.
    pub(super) answer: Result<StatusCode, String>,
    pub(super) took: Duration,
}

impl Client {
    pub(super) fn new(arguments: &Arguments) -> Result<Self, Box<dyn Error>> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        let authorization = arguments.authorization()?;
        let authorization = authorization
            .map(|value| HeaderValue::from_str(&value))
            .transpose()
            .map_err(|_| "no header can hold the bearer token")?;
        Ok(Self {
            client: legacy::Client::builder(TokioExecutor::new()).build(connector),
            url: arguments.url.clone(),
            authorization,
            timeout: arguments.timeout,
        })
    }

    /// Sends a body, and waits for the whole answer. Redirects are not followed.
    pub(super) async fn post(&self, body: Bytes) -> Outcome {
        let started = Instant::now();
        let answer = match timeout(self.timeout, self.send(body)).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(innermost(&*error)),
            Err(_) => Err(format!("none within {:?}", self.timeout)),
        };
        Outcome {
            answer,
            took: started.elapsed(),
        }
    }

    async fn send(&self, body: Bytes) -> Result<StatusCode, Box<dyn Error + Send + Sync>> {
        let mut request = Request::post(&self.url)
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .header(ACCEPT, "application/json")
            .body(Full::new(body))?;
        if let Some(authorization) = &self.authorization {
            request
                .headers_mut()
                .insert(AUTHORIZATION, authorization.clone());
        }
        let response = self.client.request(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok(status)
    }
}

/// Returns the text of the innermost error, which names the cause.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let chain = successors(Some(error), |&error| error.source());
    chain.last().map_or_else(String::new, ToString::to_string)
}
