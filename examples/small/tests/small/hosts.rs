//! Runs the examples of hosts, and delivers with the curl line of each one's head.

use harness::curl;

use crate::example;

#[test]
fn the_curl_line_of_every_host_delivers() {
    for (host, source) in [
        ("axum_around", include_str!("../../axum_around.rs")),
        ("axum_extractor", include_str!("../../axum_extractor.rs")),
        ("axum_layer", include_str!("../../axum_layer.rs")),
        ("axum_nested", include_str!("../../axum_nested.rs")),
        (
            "axum_route_service",
            include_str!("../../axum_route_service.rs"),
        ),
        ("hyper_plain", include_str!("../../hyper_plain.rs")),
        ("shared_url", include_str!("../../shared_url.rs")),
    ] {
        let _server = curl::assert_delivers(host, example(host), &curl::line(source));
    }
}
