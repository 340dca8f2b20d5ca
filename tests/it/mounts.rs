//! Mounts that the tables leave out: nesting, plain hyper, other bodies.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use mx_job_webhook::mount::JobWebhookLayer;
use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook, Receipt};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::support::{BASIC, PATH, SAMPLE, credentials, delivery};

fn layer() -> JobWebhookLayer<JobRouter> {
    JobWebhook::new(credentials(), JobRouter::new().on_completed(|_| async {})).at(PATH)
}

async fn status(app: Router, uri: &str) -> StatusCode {
    let mut request = delivery(SAMPLE);
    *request.uri_mut() = uri.parse().unwrap();
    app.oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn a_layer_of_the_outermost_router_sees_every_full_path() {
    let part = || Router::new().route("/other", get(|| async {}));
    let app: Router = Router::new()
        .nest("/admin", part())
        .merge(part())
        .layer(layer());
    assert_eq!(status(app, PATH).await, StatusCode::NO_CONTENT);
}

/// A layer does not wrap routes that are added after it; the documentation says to add it last.
#[tokio::test]
async fn a_route_added_after_the_layer_takes_its_deliveries() {
    let last: Router = Router::new()
        .route("/{*rest}", get(|| async { "a page" }))
        .fallback(|| async { "another" })
        .layer(layer());
    assert_eq!(status(last, PATH).await, StatusCode::NO_CONTENT);
    let then_a_fallback = Router::new()
        .route("/other", get(|| async {}))
        .layer(layer())
        .fallback(|| async { "a page" });
    assert_eq!(status(then_a_fallback, PATH).await, StatusCode::OK);
}

/// axum applies the layers of a nested router only to its own routes and strips the prefix, as the
/// layer's documentation states.
#[tokio::test]
async fn a_layer_of_a_nested_router_sees_only_that_routers_routes() {
    let within = || Router::new().route("/other", get(|| async {}));
    let nested = Router::new().nest("/api", within().layer(layer()));
    assert_eq!(
        status(nested, "/api/admin/webhooks").await,
        StatusCode::NOT_FOUND
    );
    let with_fallback = within().fallback(|| async {}).layer(layer());
    let nested = Router::new().nest("/api", with_fallback);
    assert_eq!(
        status(nested.clone(), "/api/admin/webhooks").await,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        status(nested, "/admin/webhooks").await,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn the_terminal_service_answers_on_every_path_routed_to_it() {
    let endpoint = JobWebhook::new(credentials(), JobRouter::new());
    let app: Router = Router::new()
        .route_service("/hooks/{tenant}", endpoint.clone())
        .nest_service("/deep", endpoint.clone())
        .nest(
            "/nested",
            Router::new().route_service(PATH, endpoint.clone()),
        );
    for uri in [
        "/nested/admin/webhooks",
        "/hooks/a",
        "/hooks/b?x=1",
        "/deep",
        "/deep/er/still",
    ] {
        assert_eq!(
            status(app.clone(), uri).await,
            StatusCode::NO_CONTENT,
            "{uri}"
        );
    }
    let app = Router::new().fallback_service(endpoint);
    assert_eq!(status(app, "/anywhere").await, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_application_route_on_the_same_path_keeps_its_other_methods() {
    let app: Router = Router::new()
        .route(
            PATH,
            get(|| async { "status page" }).post(|| async { "shadowed" }),
        )
        .layer(layer());
    assert_eq!(status(app.clone(), PATH).await, StatusCode::NO_CONTENT);
    let page = app
        .oneshot(Request::get(PATH).body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(
        page.into_body().collect().await.unwrap().to_bytes(),
        "status page"
    );
}

#[tokio::test]
async fn two_layers_serve_two_paths() {
    let second = JobWebhook::new(
        Credentials::unauthenticated(),
        JobRouter::new().on_completed(|_| async { Err("sandbox") }),
    )
    .at("/sandbox");
    let app: Router = Router::new()
        .route("/x", post(|| async {}))
        .layer(layer())
        .layer(second);
    assert_eq!(status(app.clone(), PATH).await, StatusCode::NO_CONTENT);
    assert_eq!(
        status(app, "/sandbox").await,
        StatusCode::INTERNAL_SERVER_ERROR
    );
}

#[tokio::test]
async fn the_layer_works_without_axum_and_with_any_body() {
    let within = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let request = Request::post(PATH)
        .header("authorization", BASIC)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(SAMPLE.as_bytes())))
        .unwrap();
    let response = layer().layer(within).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn any_event_service_can_replace_the_router() {
    let unit = service_fn(|event: JobEvent| async move {
        assert_eq!(event.status.name(), Some("COMPLETED"));
        Ok::<_, Infallible>(())
    });
    let receipt = service_fn(|_| async { Ok::<_, std::io::Error>(Receipt::Unhandled) });
    let endpoint = JobWebhook::new(credentials(), unit);
    assert_eq!(
        endpoint.oneshot(delivery(SAMPLE)).await.unwrap().status(),
        204
    );
    let endpoint = JobWebhook::new(credentials(), receipt);
    assert_eq!(
        endpoint.oneshot(delivery(SAMPLE)).await.unwrap().status(),
        204
    );
}

#[cfg(feature = "axum")]
mod extractor {
    use axum::extract::{FromRef, State};
    use axum::response::IntoResponse;
    use mx_job_webhook::mount::JobEventRejection;

    use super::*;

    fn panics() {
        panic!("on purpose")
    }

    #[derive(Clone, FromRef)]
    struct App {
        webhooks: JobWebhook,
    }

    #[axum::debug_handler(state = App)]
    async fn webhook(State(webhooks): State<JobWebhook>, event: JobEvent) -> impl IntoResponse {
        webhooks.run(event).await
    }

    #[tokio::test]
    async fn the_readmes_handler_answers_as_the_table_states() {
        let jobs = JobRouter::new()
            .on_completed(|_| async {})
            .on_halted(|_| async { Err("no") })
            .on_denied(|_| async { panics() });
        let app: Router = Router::new().route(PATH, post(webhook)).with_state(App {
            webhooks: JobWebhook::new(credentials(), jobs).boxed(),
        });
        for (code, name, status) in [
            (6, "COMPLETED", 204),
            (2, "CHALLENGED", 204),
            (9, "HALTED", 500),
            (8, "DENIED", 500),
        ] {
            let request = delivery(crate::support::sample_with_status(code, name));
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{name}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(body.is_empty(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_rejection_gives_only_bytes_without_a_job() {
        async fn handler(event: Result<JobEvent, JobEventRejection>) -> String {
            match event.unwrap_err().into_undecodable() {
                Ok(undecodable) => {
                    assert!(!undecodable.headers().contains_key("authorization"));
                    assert!(!format!("{undecodable:?}").contains("nothing"));
                    String::from_utf8(undecodable.body().to_vec()).unwrap()
                }
                Err(rejection) => match rejection.into_other_webhook() {
                    Ok(webhook) => {
                        assert!(!webhook.headers().contains_key("authorization"));
                        webhook.type_name().unwrap().to_owned()
                    }
                    Err(rejection) => rejection.to_string(),
                },
            }
        }
        let app: Router = Router::new()
            .route(PATH, post(handler))
            .with_state(JobWebhook::new(credentials(), JobRouter::new()).boxed());
        for (body, authorization, expected) in [
            (r#"{"nothing":1}"#, BASIC, r#"{"nothing":1}"#),
            (r#"{"type":"BALANCE"}"#, BASIC, "BALANCE"),
            (r#"{"type":"BALANCE"}"#, "Basic eA==", "unauthorized"),
        ] {
            let mut request = delivery(body);
            request
                .headers_mut()
                .insert("authorization", authorization.parse().unwrap());
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(
                response.into_body().collect().await.unwrap().to_bytes(),
                expected
            );
        }
    }
}
