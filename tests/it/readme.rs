//! The README's application and its test, to the letter, and run.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "so does the README's application"
)]
#![allow(dead_code, reason = "its `main` serves for ever")]

// The README's first block.
use axum::{Router, routing::get};
use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook};

async fn challenged(event: JobEvent) -> Result<(), std::io::Error> {
    println!("ask the user the challenges of {:?}", event.member_guid);
    Ok(()) // an `Err` is answered 500, and MX delivers the event again
}

fn app(password: &str) -> Result<Router, Box<dyn std::error::Error>> {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("read accounts of {:?}", event.member_guid) })
        .on_challenged(challenged);
    let webhooks = JobWebhook::new(Credentials::basic("mx", password)?, jobs)
        .on_error(|failure| eprintln!("not acknowledged: {:#}", failure.error()));
    Ok(Router::new()
        .route("/accounts", get(|| async { "your own routes" }))
        .layer(webhooks.at("/admin/webhooks"))) // last
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app("secret")?).await?)
}

// The README's test of it.
#[cfg(test)]
mod tests {
    use mx_job_webhook::Receipt;
    use mx_job_webhook::testing::{Mx, Sample};

    #[tokio::test(start_paused = true)] // MX's day of retries takes no time
    async fn a_completed_job_is_handled() {
        let mx = Mx::new("/admin/webhooks").with_basic("mx", "secret");
        let app = super::app("secret").unwrap();
        let transcript = mx.deliver(app, Sample::completed()).await;
        assert_eq!(transcript.receipts(), [Receipt::Handled], "{transcript}");
    }
}

/// The example is started and stopped as a process.
#[test]
fn the_production_program_is_the_examples_but_for_the_client_of_mxs_api() {
    let readme = include_str!("../../README.md").replace("\r\n", "\n");
    let example = include_str!("../../examples/small/production.rs").replace("\r\n", "\n");
    let blocks = readme.split("```rust,no_run\n").skip(1);
    let mut blocks = blocks.map(|block| block.split("```").next().unwrap());
    let block = blocks
        .find(|block| block.contains("async fn stop()"))
        .unwrap();
    let (before, after) = block.split_once("// Your client of MX's API.").unwrap();
    let after = &after[after.find("async fn connect(").unwrap()..];
    // The example is formatted, and has no comments.
    let letters = |text: &str| {
        let code = text.lines().map(|line| line.split("// ").next().unwrap());
        let code: String = code.collect();
        code.replace([' ', ',', ';', '{', '}'], "")
    };
    let example = letters(&example);
    for part in [before, after] {
        for line in part.lines().map(letters) {
            assert!(example.contains(&line), "{line}");
        }
    }
}

#[test]
fn both_are_the_readmes_to_the_letter() {
    let here = include_str!("readme.rs");
    let readme = include_str!("../../README.md").replace("\r\n", "\n");
    for (fence, start) in [
        ("```rust,no_run\n", "use axum::{Router"),
        ("```rust\n", "#[cfg(test)]"),
    ] {
        let blocks = readme.split(fence).skip(1);
        let mut blocks = blocks.map(|block| block.split("```").next().unwrap());
        let block = blocks.find(|block| block.starts_with(start)).unwrap();
        assert!(here.contains(block), "{start}");
    }
}
