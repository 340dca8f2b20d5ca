//! Events in AWS's formats, converted by the runtime.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;

const SAMPLE: &str = include_str!("../../../tests/fixtures/completed.json");

/// Returns the status of the function's answer to an event.
async fn status(event: Value) -> StatusCode {
    let request = lambda_http::request::from_str(&event.to_string()).unwrap();
    let app = app(Credentials::basic("mx", "secret").unwrap());
    app.oneshot(request).await.unwrap().status()
}

fn headers(password: &str) -> Value {
    json!({
        "authorization": format!("Basic {}", STANDARD.encode(format!("mx:{password}"))),
        "content-type": "application/json; charset=utf-8",
        "host": "abc.execute-api.us-east-1.amazonaws.com",
    })
}

/// An event of API Gateway's HTTP API, in the payload format 2.0.
fn http_api(method: &str, stage: &str, body: Value, is_base64: bool) -> Value {
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/admin/webhooks",
        "rawQueryString": "",
        "headers": headers("secret"),
        "requestContext": {
            "http": {
                "method": method,
                "path": "/admin/webhooks",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "",
            },
            "stage": stage,
            "timeEpoch": 1_700_000_000_000_u64,
        },
        "body": body,
        "isBase64Encoded": is_base64,
    })
}

/// An event of an Application Load Balancer.
fn load_balancer(password: &str) -> Value {
    json!({
        "requestContext": { "elb": {
            "targetGroupArn": "arn:aws:elasticloadbalancing:us-east-1:0:targetgroup/lambda/1",
        } },
        "httpMethod": "POST",
        "path": "/admin/webhooks",
        "queryStringParameters": {},
        "headers": headers(password),
        "body": SAMPLE,
        "isBase64Encoded": false,
    })
}

#[tokio::test]
async fn events_of_api_gateway_are_deliveries() {
    let text = status(http_api("POST", "$default", json!(SAMPLE), false)).await;
    assert_eq!(text, StatusCode::NO_CONTENT);
    let encoded = json!(STANDARD.encode(SAMPLE));
    let base64 = status(http_api("POST", "$default", encoded.clone(), true)).await;
    assert_eq!(base64, StatusCode::NO_CONTENT);
    let not_decoded = status(http_api("POST", "$default", encoded, false)).await;
    assert_eq!(not_decoded, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn events_of_a_load_balancer_are_deliveries() {
    assert_eq!(status(load_balancer("secret")).await, 204);
    assert_eq!(status(load_balancer("guess")).await, 401);
}

#[tokio::test]
async fn the_function_answers_other_methods_and_stages() {
    let page = status(http_api("GET", "$default", Value::Null, false)).await;
    assert_eq!(page, StatusCode::NOT_FOUND);
    let stage = status(http_api("POST", "test", json!(SAMPLE), false)).await;
    assert_eq!(stage, StatusCode::NOT_FOUND);
}
