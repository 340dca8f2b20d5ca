//! The sources of the examples, so that their tests run here.
#![allow(dead_code, reason = "tests do not call their `main`")]

#[path = "../../await_job.rs"]
mod await_job;
#[path = "../../axum_around.rs"]
mod axum_around;
#[path = "../../axum_extractor.rs"]
mod axum_extractor;
#[path = "../../axum_layer.rs"]
mod axum_layer;
#[path = "../../axum_nested.rs"]
mod axum_nested;
#[path = "../../axum_route_service.rs"]
mod axum_route_service;
#[path = "../../graceful_shutdown.rs"]
mod graceful_shutdown;
#[path = "../../hyper_plain.rs"]
mod hyper_plain;
#[path = "../../quickstart.rs"]
mod quickstart;
#[path = "../../shared_url.rs"]
mod shared_url;
