//! The example as processes: signals, a worker that is killed, and one that is frozen.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use harness::Process;
use http::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::database::Database;
use crate::sample;

/// `DEAD_AFTER_SECONDS` of the processes.
const DEAD_AFTER: Duration = Duration::from_secs(3);

/// Delivers MX's sample with the guid of another job.
async fn deliver(receiver: SocketAddr, guid: &str) {
    let request = Request::post(format!("http://{receiver}/admin/webhooks"))
        .header("authorization", "Basic bXg6c2VjcmV0") // `mx:secret`
        .header("content-type", "application/json")
        .body(Body::from(sample(guid)))
        .unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
}

/// Starts a worker whose callbacks take this long.
fn work(database: &Database, seconds: &str) -> Process {
    let mut command = database.example("work");
    command.env("WORK_SECONDS", seconds);
    let worker = Process::start(command);
    assert_eq!(worker.line(), "working");
    worker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_signal_lets_it_finish() {
    for signal in ["TERM", "INT"] {
        let database = Database::create().await;
        let mut command = database.example("");
        command.env("WORK_SECONDS", "1");
        let (mut all, _) = Process::serve(command);
        deliver(all.address, "JOB-1").await;
        while !all.line().starts_with("started JOB-") {}
        assert!(all.stop(signal).success());
        assert!(all.line().starts_with("finished JOB-"));
        assert_eq!(database.rows("status = 'Done'").await, 1);
        assert_eq!(database.effects().await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_killed_workers_event_is_taken_over_by_another() {
    let database = Database::create().await;
    let (mut receiver, _) = Process::serve(database.example("receive"));
    for _ in 0..2 {
        deliver(receiver.address, "JOB-1").await;
    }
    receiver.kill();
    assert_eq!(database.rows("true").await, 1, "one event is one row");

    let mut killed = work(&database, "60");
    assert_eq!(killed.line(), "started JOB-1");
    let other = work(&database, "0");
    killed.kill();
    let silent_since = Instant::now();
    assert_eq!(other.line(), "started JOB-1");
    let after = silent_since.elapsed();
    println!("taken over after {after:?}");
    // Its last heartbeat may be a second older than its death, and other workers look at intervals.
    assert!(after > DEAD_AFTER / 2, "{after:?}");
    assert!(after < DEAD_AFTER * 3, "{after:?}");
    database.until_ended(1).await;
    assert_eq!(database.effects().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_frozen_worker_does_no_harm_when_it_continues() {
    let database = Database::create().await;
    let (receiver, _) = Process::serve(database.example("receive"));
    deliver(receiver.address, "JOB-1").await;
    let mut frozen = work(&database, "1");
    assert_eq!(frozen.line(), "started JOB-1");
    frozen.signal("STOP");
    let mut other = work(&database, "0");
    database.until_ended(1).await;
    assert_eq!(database.effects().await.len(), 1);
    assert!(other.stop("TERM").success());

    // Its transaction is rolled back, because the other worker has ended the event.
    frozen.signal("CONT");
    deliver(receiver.address, "JOB-2").await;
    assert_eq!(frozen.line(), "started JOB-2");
    assert_eq!(frozen.line(), "finished JOB-2");
    database.until_ended(2).await;
    assert_eq!(database.rows("status = 'Done'").await, 2);
    assert_eq!(database.effects().await.len(), 2);
    assert!(frozen.stop("TERM").success());
}
