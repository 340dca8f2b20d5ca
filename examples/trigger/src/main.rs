//! How do I send my application a job webhook, without waiting for MX?
//!
//! It posts requests to a URL, in MX's shape, and prints a summary of the answers. The first line sends
//! one request. The second sends four hundred, in two rounds of random order. The third sends three of
//! MX's other webhooks, and the last a body from a file (`-` reads standard input):
//!
//! ```text
//! cargo run -p trigger -- http://127.0.0.1:3000/admin/webhooks --status CHALLENGED --user mx --password secret
//! cargo run -p trigger -- http://127.0.0.1:3000/admin/webhooks --status CHALLENGED,COMPLETED \
//!     --count 100 --rate 50 --duplicate 1 --reorder --user mx --password secret
//! cargo run -p trigger -- http://127.0.0.1:3000/admin/webhooks --webhook AGGREGATION,BALANCE,CONNECTION_STATUS \
//!     --user mx --password secret
//! cargo run -p trigger -- http://127.0.0.1:3000/admin/webhooks --file tests/fixtures/completed.json \
//!     --user mx --password secret
//! ```
//!
//! Without Rust, send one with curl:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! It succeeds if every answer is 2xx. It does not retry.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

mod arguments;
mod client;
mod plan;
mod summary;
mod webhook;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::ctrl_c;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use arguments::Arguments;
use client::Client;
use summary::Summary;

/// The number of requests in flight. When it is reached, the receiver determines the rate.
const UNDER_WAY: usize = 256;

/// The number of requests from which a progress bar is shown.
const LONG: usize = 20;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(summary) => {
            println!("{summary}");
            match summary.all_acknowledged() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("trigger: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Summary, Box<dyn Error>> {
    let client = Arc::new(Client::new(arguments)?);
    let bodies = plan::bodies(arguments)?;
    let bar = progress_bar(bodies.len());
    let mut ticks = interval(Duration::from_secs_f64(1.0 / arguments.rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let started = Instant::now();
    let places = Arc::new(Semaphore::new(UNDER_WAY));
    let mut under_way = JoinSet::new();
    let mut summary = Summary::new(bodies.len());
    let sending = async {
        for body in bodies {
            ticks.tick().await;
            let place = places.clone().acquire_owned().await?;
            let client = client.clone();
            under_way.spawn(async move {
                let outcome = client.post(body).await;
                drop(place);
                outcome
            });
            while let Some(outcome) = under_way.try_join_next() {
                summary.add(outcome?);
                bar.inc(1);
            }
        }
        while let Some(outcome) = under_way.join_next().await {
            summary.add(outcome?);
            bar.inc(1);
        }
        Ok::<_, Box<dyn Error>>(())
    };
    // If the user stops it, it prints a summary of the answers so far.
    tokio::select! {
        sent = sending => sent?,
        stopped = ctrl_c() => stopped?,
    }
    bar.finish_and_clear();
    summary.took(started.elapsed());
    Ok(summary)
}

/// Returns a bar that is visible on a terminal, and for `LONG` requests or more.
fn progress_bar(requests: usize) -> ProgressBar {
    let target = match requests >= LONG {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(u64::try_from(requests).ok(), target);
    match ProgressStyle::with_template("{bar:40} {pos} of {len}, {per_sec}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
    use tokio::net::TcpListener;

    use super::*;

    /// Serves an application that refuses HALTED jobs.
    async fn serve() -> String {
        let jobs = JobRouter::new()
            .on_completed(|_| async {})
            .on_halted(|_| async { Err("the database is down") });
        let credentials = Credentials::basic("mx", "secret").unwrap();
        let app: Router = Router::new().layer(JobWebhook::new(credentials, jobs).at("/hooks"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}/hooks")
    }

    async fn trigger(url: &str, more: &str) -> Summary {
        let line = format!("trigger {url} --rate 1000 {more}");
        let arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
        run(&arguments).await.unwrap()
    }

    #[tokio::test]
    async fn all_requests_are_sent_and_counted_by_answer() {
        let url = serve().await;
        let cases = [
            (
                "--user mx --password secret",
                true,
                vec!["1  204 No Content"],
            ),
            (
                "--user mx --password no",
                false,
                vec!["1  401 Unauthorized"],
            ),
            ("", false, vec!["1  401 Unauthorized"]),
            (
                "--user mx --password secret --count 20 --duplicate 2 --status COMPLETED,HALTED --reorder",
                false,
                vec!["60  204 No Content", "60  500 Internal Server Error"],
            ),
        ];
        for (more, acknowledged, lines) in cases {
            let summary = trigger(&url, more).await;
            assert_eq!(summary.all_acknowledged(), acknowledged, "{more}");
            let printed = summary.to_string();
            for line in lines {
                assert!(printed.contains(line), "{more}: {printed}");
            }
        }
    }

    #[tokio::test]
    async fn a_refused_connection_counts_as_no_answer() {
        // The port of the service `discard`, which does not run here.
        let summary = trigger("http://127.0.0.1:9/", "").await;
        assert!(!summary.all_acknowledged());
        assert!(summary.to_string().contains("1  no answer: "), "{summary}");
    }
}
