//! Runs the example as processes on a real server: no acknowledged event is lost, whichever process is
//! killed.
#![cfg(unix)]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it prints the measurements and the seed; a panic fails the test"
)]

mod database;
mod mistakes;
mod sender;

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Process, repository, run};
use http::StatusCode;
use tokio::time::{sleep, timeout};

use self::database::Database;
use self::sender::{body, deliver, deliver_until_acknowledged};

const DURABLE_QUEUE: &str = env!("CARGO_BIN_EXE_durable_queue");
const SAMPLE: &str = include_str!("../../../../tests/fixtures/completed.json");
const PATH: &str = "/admin/webhooks";
/// `mx:secret`
const BASIC: &str = "Basic bXg6c2VjcmV0";
/// The example's number of tries.
const CONCURRENCY: usize = 4;
const TRIES: i32 = 5;
/// `DEAD_AFTER_SECONDS` of the processes: a worker that is silent for longer counts as dead.
const DEAD_AFTER: Duration = Duration::from_secs(3);
/// A limit that is far longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(40);

/// Returns whether `MX_TEST_STORM=1` requests a longer run.
fn is_storm() -> bool {
    std::env::var("MX_TEST_STORM").is_ok_and(|storm| storm == "1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn no_acknowledged_event_is_lost_when_processes_are_killed_at_random() {
    let events_sent: usize = if is_storm() { 400 } else { 160 };
    // Kills of workers, of receivers, and of all connections to the database.
    let kills_of_each: usize = if is_storm() { 10 } else { 4 };
    let database = Database::create().await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let receive = || Process::serve(database.example("receive", 0.2)).0;
    let work = || Process::start(database.example("work", 0.2));
    let (mut receivers, mut workers) = ([receive(), receive()], [work(), work()]);
    let addresses = Arc::new(Mutex::new(receivers.each_ref().map(|one| one.address)));
    let deliveries: Vec<_> = (0..events_sent)
        .map(|event| {
            tokio::spawn(deliver_until_acknowledged(
                addresses.clone(),
                body(event),
                random.fork(),
            ))
        })
        .collect();

    let mut kills = ["worker", "receiver", "connections"].repeat(kills_of_each);
    random.shuffle(&mut kills);
    for kill in kills {
        sleep(Duration::from_millis(random.u64(100..600))).await;
        let which = random.usize(..2);
        match kill {
            "worker" => {
                workers[which].kill();
                workers[which] = work();
            }
            "receiver" => {
                receivers[which].kill();
                receivers[which] = receive();
                addresses.lock().unwrap()[which] = receivers[which].address;
            }
            _ => database.cut_connections().await,
        }
    }
    for delivery in deliveries {
        timeout(PATIENCE, delivery).await.unwrap().unwrap();
    }
    database.settle().await;
    for process in receivers.iter_mut().chain(&mut workers) {
        assert!(process.stop("TERM").success());
    }

    assert_eq!(database.tasks("true").await, events_sent as i64);
    assert_eq!(database.tasks("status = 'Done'").await, events_sent as i64);
    let worked = database.worked().await;
    let mut events = worked.clone();
    events.dedup();
    assert_eq!(events.len(), events_sent);
    let doubles = worked.len() - events_sent;
    let taken_over = database.tasks("attempts > 1").await;
    println!("{events_sent} events, {taken_over} of them taken over, {doubles} repeated effects");
    assert!(taken_over > 0, "no process was killed during a callback");
    // A worker that is cut off from the database ends, and its callbacks continue.
    let ended_workers = kills_of_each + 2 * kills_of_each;
    assert!(doubles <= ended_workers * CONCURRENCY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_killed_workers_task_is_taken_over_by_another() {
    let database = Database::create().await;
    let (mut receiver, _) = Process::serve(database.example("receive", 0.0));
    for _ in 0..2 {
        let status = deliver(receiver.address, SAMPLE).await;
        assert_eq!(status, Some(StatusCode::NO_CONTENT));
    }
    receiver.kill();
    assert_eq!(database.tasks("true").await, 1, "one event is one task");

    let mut killed = Process::start(database.example("work", 60.0));
    assert_eq!(killed.line(), "working");
    assert!(killed.line().starts_with("started JOB-"));
    let other = Process::start(database.example("work", 0.0));
    killed.kill();
    let silent_since = Instant::now();
    assert_eq!(other.line(), "working");
    assert!(other.line().starts_with("started JOB-"));
    let after = silent_since.elapsed();
    println!("taken over after {after:?}");
    // Its last heartbeat may be a second older than its death, and other workers poll at intervals.
    assert!(after > DEAD_AFTER / 2, "{after:?}");
    assert!(after < DEAD_AFTER * 3, "{after:?}");
    database.settle().await;
    assert_eq!(database.worked().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_frozen_worker_does_no_harm_when_it_continues() {
    let database = Database::create().await;
    let (receiver, _) = Process::serve(database.example("receive", 0.0));
    deliver(receiver.address, &body(0)).await.unwrap();
    let mut frozen = Process::start(database.example("work", 1.0));
    assert_eq!(frozen.line(), "working");
    assert!(frozen.line().starts_with("started JOB-"));
    frozen.signal("STOP");
    let mut other = Process::start(database.example("work", 0.0));
    database.settle().await;
    assert_eq!(database.worked().await.len(), 1);
    assert!(other.stop("TERM").success());

    frozen.signal("CONT");
    assert!(frozen.line().starts_with("finished JOB-"));
    assert_eq!(database.tasks("status = 'Done'").await, 1);
    deliver(receiver.address, &body(1)).await.unwrap();
    database.settle().await;
    assert_eq!(database.tasks("status = 'Done'").await, 2);
    assert!(frozen.stop("TERM").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_with_slow_callbacks_does_not_count_as_dead() {
    let database = Database::create().await;
    let work = DEAD_AFTER.as_secs_f64() * 1.5;
    let (receiver, _) = Process::serve(database.example("receive", 0.0));
    // More events than it holds at a time.
    let events = CONCURRENCY + 2;
    for event in 0..events {
        let status = deliver(receiver.address, &body(event)).await;
        assert_eq!(status, Some(StatusCode::NO_CONTENT));
    }
    let _worker = Process::start(database.example("work", work));
    sleep(Duration::from_secs(1)).await;
    let _other = Process::start(database.example("work", work));
    database.settle().await;
    assert_eq!(database.worked().await.len(), events);
    assert_eq!(database.tasks("attempts > 1").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_callback_that_fails_twice_runs_a_third_time() {
    let database = Database::create().await;
    let mut command = database.example("", 0.0);
    command.env("FAILING_TRIES", "2");
    let (mut both, _) = Process::serve(command);
    deliver(both.address, SAMPLE).await.unwrap();
    database.settle().await;
    assert!(both.stop("TERM").success());
    assert_eq!(database.tasks("status = 'Done' AND attempts = 3").await, 1);
    assert_eq!(database.worked().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn only_permanent_or_repeated_failures_are_dead_letters() {
    let database = Database::create().await;
    let mut command = database.example("", 0.0);
    command.env("FAILING_TRIES", "99");
    let (mut both, _) = Process::serve(command);
    for webhook in [&body(1), &without_a_member()] {
        deliver(both.address, webhook).await.unwrap();
    }
    database.settle().await;
    // Long enough for a worker to run it again by mistake.
    sleep(Duration::from_secs(2)).await;
    for (fate, reason) in [
        ("'Killed' AND attempts = 1", "%the job names no member%"),
        (
            "'Failed' AND attempts = max_attempts",
            "%the bank did not answer%",
        ),
    ] {
        let fate = format!("status = {fate} AND last_result::text LIKE '{reason}'");
        assert_eq!(database.tasks(&fate).await, 1, "{fate}");
    }
    assert_eq!(database.tasks("true").await, 2);
    assert_eq!(database.tasks(&format!("attempts > {TRIES}")).await, 0);
    assert_eq!(database.worked().await.len(), 0);
    assert!(both.stop("TERM").success());

    // The bank answers again.
    let _worker = Process::start(database.example("work", 0.0));
    database.revive("status = 'Failed'").await;
    database.settle().await;
    assert_eq!(database.worked().await.len(), 1);
    assert_eq!(database.tasks("status = 'Killed'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn vacuum_keeps_dead_letters_and_rows_that_identify_duplicates() {
    let database = Database::create().await;
    let (mut both, _) = Process::serve(database.example("", 0.0));
    for webhook in [&body(1), &body(2), &without_a_member()] {
        deliver(both.address, webhook).await.unwrap();
    }
    database.settle().await;
    let failed =
        "status = 'Failed', attempts = max_attempts WHERE idempotency_key LIKE '%00000002%'";
    database
        .execute(&format!("UPDATE apalis.jobs SET {failed}"))
        .await;
    let other_queue = "(id, job_type, job, status) VALUES ('OTHER', 'other', '', 'Done')";
    database
        .execute(&format!("INSERT INTO apalis.jobs {other_queue}"))
        .await;

    database.vacuum().await;
    for status in ["Done", "Killed", "Failed"] {
        let kept = format!("status = '{status}' AND job_type = 'mx-jobs'");
        assert_eq!(database.tasks(&kept).await, 1, "{status}");
    }
    assert_eq!(database.tasks("job_type = 'other'").await, 0);

    // MX delivers a handled event again.
    let status = deliver(both.address, &body(1)).await;
    assert_eq!(status, Some(StatusCode::NO_CONTENT));
    database.settle().await;
    assert_eq!(database.worked().await.len(), 2);

    // MX no longer delivers any of them. The process has restarted in the meantime.
    assert!(both.stop("TERM").success());
    let (_both, _) = Process::serve(database.example("", 0.0));
    let aged = "UPDATE apalis.jobs SET done_at = done_at - interval '49 hours'";
    database.execute(aged).await;
    database.vacuum().await;
    assert_eq!(database.tasks("status = 'Done'").await, 0);
    assert_eq!(database.tasks("status IN ('Killed', 'Failed')").await, 2);
    database.revive("status = 'Failed'").await;
    database.execute("DELETE FROM apalis.jobs").await;
    database.settle().await;
    assert_eq!(database.worked().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_start_deletes_the_rows_of_old_workers() {
    let database = Database::create().await;
    let (receiver, _) = Process::serve(database.example("receive", 0.0));
    let worker = |work| {
        let mut command = database.example("work", work);
        // For a day, no worker takes an event over.
        command.env("DEAD_AFTER_SECONDS", "60");
        Process::start(command)
    };
    let start = async |workers| {
        let worker = worker(0.0);
        assert_eq!(worker.line(), "working");
        while database.workers().await != workers {
            sleep(Duration::from_millis(20)).await;
        }
        worker
    };
    deliver(receiver.address, &body(0)).await.unwrap();
    let mut handled_one = start(1).await;
    database.settle().await;
    handled_one.kill();
    // Another worker needs its row to find the event that it held.
    deliver(receiver.address, &body(1)).await.unwrap();
    let mut died_with_one = worker(60.0);
    assert_eq!(died_with_one.line(), "working");
    assert!(died_with_one.line().starts_with("started JOB-"));
    died_with_one.kill();
    for workers in 3..6 {
        start(workers).await.kill();
    }
    let other_queue = "INSERT INTO apalis.workers (id, worker_type, storage_name)
        VALUES ('other', 'other', '')";
    database.execute(other_queue).await;

    let aged = "UPDATE apalis.workers SET last_seen = last_seen - interval '25 hours'";
    database.execute(aged).await;
    // The rows of the other queue's worker, of the worker that holds an event, and of the new worker.
    let mut next = timeout(PATIENCE, start(3)).await.unwrap();
    database.settle().await;
    assert_eq!(database.worked().await.len(), 2);
    assert_eq!(database.tasks("status = 'Done'").await, 2);
    next.kill();
    database.execute(aged).await;
    let _last = timeout(PATIENCE, start(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_whose_row_is_deleted_ends_and_another_continues() {
    let database = Database::create().await;
    let (both, _) = Process::serve(database.example("", 0.0));
    assert_eq!(both.line(), "working");
    while database.workers().await == 0 {
        sleep(Duration::from_millis(20)).await;
    }
    // As the start of another worker does after this one was frozen for a day.
    database.execute("DELETE FROM apalis.workers").await;
    deliver(both.address, &body(0)).await.unwrap();
    assert_eq!(both.line(), "working");
    database.settle().await;
    assert_eq!(database.worked().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn locks_of_the_application_do_not_delay_a_start() {
    const OF_THE_LEDGERS_TABLE: i64 = 0x6d78_6a6f_6277_6562;
    let database = Database::create().await;
    let numbers =
        format!("SELECT generate_series(-100, 100) UNION ALL SELECT {OF_THE_LEDGERS_TABLE}");
    let application = database.hold_advisory_locks(&numbers).await;
    // Both start at once, on a database without tables.
    let starting = [(); 4].map(|()| Process::start(database.example("work", 0.0)));
    for process in starting {
        assert_eq!(process.line(), "working");
    }
    drop(application);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_signal_lets_it_finish_the_events_that_it_holds() {
    for signal in ["TERM", "INT"] {
        let database = Database::create().await;
        let (mut both, printed) = Process::serve(database.example("", 2.0));
        let pasted = run(Command::new("sh")
            .current_dir(repository())
            .args(["-c", printed.last().unwrap()]));
        assert!(pasted.stdout.starts_with(b"HTTP/1.1 204"), "{pasted:?}");
        while !both.line().starts_with("started JOB-") {}
        assert!(both.stop(signal).success());
        assert!(both.line().starts_with("finished JOB-"));
        assert_eq!(database.tasks("status = 'Done'").await, 1);
    }
}

/// Returns a webhook whose callback fails permanently.
fn without_a_member() -> String {
    let body = body(0).replace("\"MBR-", "null, \"other\": \"");
    assert!(body.contains("\"member_guid\": null"));
    body
}
