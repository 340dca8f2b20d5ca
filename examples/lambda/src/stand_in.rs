//! A stand-in for Lambda on this machine: it turns requests into events, which the function fetches.
//!
//! It follows AWS's pages "Using the Lambda runtime API for custom runtimes" and, for the content of an
//! event, "Create AWS Lambda proxy integrations for HTTP APIs". It runs one instance, and so one event
//! at a time.

use std::env;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_http::Error;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

/// The time for which API Gateway waits for a function.
const PATIENCE: Duration = Duration::from_secs(30);

/// An event, and the channel for the function's answer.
type Invocation = (Value, oneshot::Sender<Value>);

#[derive(Clone)]
struct Lambda {
    invoke: mpsc::Sender<Invocation>,
    invoked: Arc<Mutex<mpsc::Receiver<Invocation>>>,
    waiting: Arc<Mutex<Option<oneshot::Sender<Value>>>>,
}

/// Serves, and starts this program a second time as the function.
pub(super) async fn run() -> Result<(), Error> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    let mut function = Command::new(env::current_exe()?)
        .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
        .env("AWS_LAMBDA_FUNCTION_NAME", "lambda")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    tokio::select! {
        served = axum::serve(listener, lambda()) => Ok(served?),
        ended = function.wait() => Err(format!("the function ended: {}", ended?).into()),
    }
}

fn lambda() -> Router {
    let (invoke, invoked) = mpsc::channel(64);
    Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/1/response", post(response))
        .fallback(request)
        .with_state(Lambda {
            invoke,
            invoked: Arc::new(Mutex::new(invoked)),
            waiting: Arc::default(),
        })
}

/// API Gateway's side: passes the request on as an event, and returns the status and the text of the answer.
async fn request(
    State(lambda): State<Lambda>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, String), StatusCode> {
    let headers = headers.iter().filter_map(|(name, value)| {
        let value = value.to_str().ok()?;
        Some((name.to_string(), Value::from(value)))
    });
    let event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": uri.path(),
        "rawQueryString": uri.query().unwrap_or_default(),
        "headers": headers.collect::<serde_json::Map<_, _>>(),
        "requestContext": {
            "http": { "method": method.as_str(), "path": uri.path(), "protocol": "HTTP/1.1" },
            "stage": "$default",
            "timeEpoch": 0,
        },
        "body": STANDARD.encode(body),
        "isBase64Encoded": true,
    });
    let (answered, answer) = oneshot::channel();
    let invoked = lambda.invoke.send((event, answered)).await;
    invoked.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let answer = timeout(PATIENCE, answer).await;
    let answer = answer.map_err(|_| StatusCode::GATEWAY_TIMEOUT)?;
    let answer = answer.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let status = answer["statusCode"].as_u64().unwrap_or_default();
    let status = u16::try_from(status).unwrap_or_default();
    let status = StatusCode::from_u16(status).map_err(|_| StatusCode::BAD_GATEWAY)?;
    let body = answer["body"].as_str().unwrap_or_default().to_owned();
    Ok((status, body))
}

/// The runtime's side: gives the function the next event, for which it may wait long.
async fn next(
    State(lambda): State<Lambda>,
) -> Result<([(&'static str, &'static str); 3], Json<Value>), StatusCode> {
    let next = lambda.invoked.lock().await.recv().await;
    let (event, answered) = next.ok_or(StatusCode::GONE)?;
    *lambda.waiting.lock().await = Some(answered);
    let head = [
        ("lambda-runtime-aws-request-id", "1"),
        ("lambda-runtime-deadline-ms", "32503680000000"),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:us-east-1:0:function:lambda",
        ),
    ];
    Ok((head, Json(event)))
}

/// The runtime's side: takes the function's answer.
async fn response(State(lambda): State<Lambda>, answer: Bytes) -> StatusCode {
    // `Json` would refuse it, because the runtime sends no content type.
    let Ok(answer) = serde_json::from_slice(&answer) else {
        return StatusCode::BAD_REQUEST;
    };
    let waiting = lambda.waiting.lock().await.take();
    // The sender may have hung up. Lambda does not notify the function.
    let _ = waiting.map(|waiting| waiting.send(answer));
    StatusCode::ACCEPTED
}
