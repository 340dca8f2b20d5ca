//! The README's application and its test, to the letter, and run.
#![allow(clippy::print_stdout, reason = "so does the README's application")]

// The README's first block.
use axum::{Router, routing::get};
use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhookLayer};

async fn challenged(event: JobEvent) -> Result<(), std::io::Error> {
    println!("ask the user the challenges of {:?}", event.member_guid);
    Ok(()) // an `Err` is answered 500, and MX delivers the event again
}

fn app(password: &str) -> Result<Router, Box<dyn std::error::Error>> {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("read accounts of {:?}", event.member_guid) })
        .on_challenged(challenged)
        .on_unhandled(|unhandled| async move { println!("not handled: {}", unhandled.status) });

    let credentials = Credentials::basic("mx", password)?;
    Ok(Router::new()
        .route("/accounts", get(|| async { "your own routes" }))
        .layer(JobWebhookLayer::new("/admin/webhooks", credentials, jobs))) // last
}

// The README's test of it.
use mx_job_webhook::testing::{Mx, Sample};

#[tokio::test(start_paused = true)] // MX's day of retries takes no time
async fn a_completed_job_is_acknowledged() {
    let mx = Mx::new("/admin/webhooks").with_basic("mx", "secret");
    let app = app("secret").unwrap();
    let transcript = mx.deliver(app, Sample::completed()).await;
    assert_eq!(transcript.answers(), [204], "{transcript}");
}

#[test]
fn both_are_the_readmes_to_the_letter() {
    let here = include_str!("readme.rs");
    let readme = include_str!("../../README.md").replace("\r\n", "\n");
    let blocks: Vec<&str> = readme
        .split("```rust\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    for start in ["use axum::{Router", "use mx_job_webhook::testing"] {
        let block = blocks.iter().find(|block| block.starts_with(start));
        assert!(here.contains(block.unwrap()), "{start}");
    }
}
