//! Spans, log lines and metrics of a durable queue, on a real server.

use std::time::Duration;

use mx_job_webhook::queue::JobQueue;
use mx_job_webhook::{Job, JobEvent, JobRouter, Status};
use sqlx::PgPool;
use tokio::time::{sleep, timeout};
use tower::BoxError;
use tracing::Level;

use super::{Capture, answer};
use crate::support::{credentials, delivery, jobs};

/// Stores two events, of which one fails in both of its tries, and counts.
async fn work(queue: &JobQueue) {
    let webhooks = mx_job_webhook::JobWebhook::new(credentials(), jobs(queue.enqueue()));
    for guid in ["JOB-good", "JOB-bad"] {
        let mut job = Job::new(guid.parse().unwrap(), Status::Completed);
        job.user_guid = Some("USR-secret".parse().unwrap());
        let body = String::from_utf8(JobEvent::from(job).body().to_vec()).unwrap();
        assert_eq!(answer(&webhooks, delivery(body)).await, 204);
    }
    let router = JobRouter::new().on_completed(|event: JobEvent| async move {
        if event.guid.as_str() == "JOB-bad" {
            return Err::<(), BoxError>("the bank did not answer".into());
        }
        Ok(())
    });
    let pause = Duration::from_millis(10);
    let until_dead = async {
        while queue.counts().await.unwrap().dead == 0 {
            sleep(pause).await;
        }
    };
    let worker = queue
        .worker(router)
        .with_tries(2)
        .with_backoff(pause, pause);
    worker.run_until(until_dead).await.unwrap();
    // A worker counts when it starts.
    let counting = queue.worker(JobRouter::new());
    counting
        .run_until(sleep(Duration::from_millis(300)))
        .await
        .unwrap();
}

#[test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
fn each_try_is_a_delivery_with_the_source_queue_and_the_queue_is_counted() {
    let url = std::env::var("MX_TEST_POSTGRES_URL").unwrap();
    let name = format!("telemetry-{:016x}", fastrand::u64(..));
    let capture = Capture::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    capture.install(|| {
        runtime.block_on(async {
            let queue = JobQueue::postgres(PgPool::connect(&url).await.unwrap()).named(&*name);
            queue.migrate().await.unwrap();
            timeout(Duration::from_secs(30), work(&queue))
                .await
                .unwrap();
        });
    });

    let spans = capture.deliveries();
    let outcomes = |source: &str| {
        let of_source = spans
            .iter()
            .filter(|span| span.fields.named("source") == Some(source));
        let mut outcomes: Vec<_> = of_source
            .filter_map(|span| span.fields.named("outcome"))
            .collect();
        outcomes.sort_unstable();
        outcomes
    };
    assert_eq!(outcomes("webhook"), ["queued", "queued"]);
    assert_eq!(
        outcomes("queue"),
        ["callback_failed", "callback_failed", "handled"]
    );

    let tries = spans
        .iter()
        .filter_map(|span| Some((span.fields.named("outcome")?, span.fields.named("try")?)));
    let mut tries: Vec<_> = tries.collect();
    tries.sort_unstable();
    let expected = [
        ("callback_failed", "1"),
        ("callback_failed", "2"),
        ("handled", "1"),
    ];
    assert_eq!(tries, expected);

    let metrics = capture.metrics();
    let value = |metric: String| metrics.get(&metric).copied();
    for (state, events) in [("waiting", 0.0), ("running", 0.0), ("dead", 1.0)] {
        let metric = format!("mx_job_webhook_queue_events{{queue={name},state={state}}}");
        assert_eq!(value(metric), Some(events), "{state}: {metrics:?}");
    }
    let oldest = format!("mx_job_webhook_queue_oldest_seconds{{queue={name}}}");
    assert_eq!(value(oldest), Some(0.0), "{metrics:?}");
    assert_eq!(
        value("mx_job_webhook_queue_dead_letters_total{}".into()),
        Some(1.0)
    );
    let handled = "mx_job_webhook_deliveries_total{status=completed,outcome=handled,source=queue}";
    assert_eq!(value(handled.into()), Some(1.0));

    let events = capture.own_events();
    let dead = events
        .iter()
        .find(|event| event.message().ends_with("is a dead letter"));
    let dead = dead.unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!(dead.level, Level::ERROR);
    assert!(
        dead.fields
            .named("event.name")
            .unwrap()
            .starts_with("JOB-bad COMPLETED ")
    );
    let text = capture.text();
    assert!(
        !text.contains("USR-secret") && !text.contains("postgres://"),
        "{text}"
    );
}
