//! Runs three replicas of the example behind a load balancer, with each ledger in turn. Meanwhile the
//! test kills replicas, restarts the ledger's server and cuts its connections.
#![cfg(unix)]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it prints the results of a run; a panic fails the test"
)]

mod faults;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions, read_to_string};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use faults::{Faults, cut_postgres, cut_redis};
use harness::example;
use harness::servers::{self, Folder, Server, free_address};
use http::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use mx_job_webhook::job::Timestamp;
use mx_job_webhook::ledger::{Claim, EventName, Ledger, PostgresLedger, RedisLedger};
use mx_job_webhook::{Job, JobEvent, Status};
use sqlx::{PgPool, Row as _};
use tokio::time::sleep;

const PATH: &str = "/admin/webhooks";
/// `mx:secret`
const BASIC: &str = "Basic bXg6c2VjcmV0";

const CONNECTIONS: usize = 32;
const LEASE: Duration = Duration::from_secs(3);
const BETWEEN_FAULTS: Duration = Duration::from_millis(200);
/// A limit that is far longer than a run takes.
const PATIENCE: Duration = Duration::from_secs(240);

/// Returns the number of jobs that are CHALLENGED and then COMPLETED. `MX_TEST_STORM=1` raises it.
fn jobs() -> usize {
    if is_storm() { 4_000 } else { 1_200 }
}

/// Returns the number of further jobs, which are COMPLETED only.
fn more_jobs() -> usize {
    jobs() / 2
}

fn is_storm() -> bool {
    std::env::var("MX_TEST_STORM").is_ok_and(|storm| storm == "1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server and haproxy to start: set MX_TEST_REDIS_URL"]
async fn with_redis() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let url = format!("redis://{}/", server.address);
    let cut = cut_redis(&server);
    let run = Run::of(&folder, server, &url, cut).await;

    for event in &run.acknowledged {
        assert!(run.printed.contains_key(event), "{event} had no effect");
    }
    let ledger = RedisLedger::new(redis::Client::open(url).unwrap());
    run.nothing_is_in_flight(&ledger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs postgres and haproxy to start: set MX_TEST_POSTGRES_URL"]
async fn with_postgres() {
    let folder = Folder::new();
    let (server, url) = servers::postgres(&folder);
    let pool = PgPool::connect_lazy(&url).unwrap();
    let cut = cut_postgres(&pool);
    let run = Run::of(&folder, server, &url, cut).await;

    // Each effect in the ledger's database stands once.
    let rows = sqlx::query("SELECT event, count(*) FROM handled GROUP BY event")
        .fetch_all(&pool)
        .await
        .unwrap();
    let rows: HashMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let twice = rows.values().filter(|count| **count > 1).count();
    assert_eq!(twice, 0, "{twice} effects stand twice");
    assert_eq!(rows.len(), jobs() + more_jobs());
    for event in &run.acknowledged {
        let found = rows.contains_key(event) || run.printed.contains_key(event);
        assert!(found, "{event} had no effect");
    }
    run.nothing_is_in_flight(&PostgresLedger::new(pool)).await;
}

/// The results of a run.
struct Run {
    /// The checks need it.
    _server: Server,
    events: Vec<JobEvent>,
    acknowledged: HashSet<String>,
    /// The number of times that each event was printed, as handled or as stale.
    printed: HashMap<String, usize>,
}

impl Run {
    async fn of(
        folder: &Folder,
        server: Server,
        url: &str,
        cut: impl Fn() + Send + 'static,
    ) -> Self {
        let seed = fastrand::u64(..);
        fastrand::seed(seed);
        let logs: Vec<_> = (0..3)
            .map(|number| folder.path().join(format!("replica-{number}")))
            .collect();
        let replicas: Vec<Server> = logs
            .iter()
            .map(|log| {
                let log = OpenOptions::new().create(true).append(true).open(log);
                replica(url, log.unwrap())
            })
            .collect();
        let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
        let balancer = servers::load_balancer(folder, &addresses);

        let events = events();
        let sender = Sender::new(format!("http://{}{PATH}", balancer.address), &events);
        let over = Arc::new(AtomicBool::new(false));
        let faults = {
            let over = over.clone();
            std::thread::spawn(move || {
                fastrand::seed(seed);
                Faults::cause(BETWEEN_FAULTS, replicas, server, cut, &over)
            })
        };
        let started = Instant::now();
        let sent = sender.send_until_all_are_acknowledged();
        tokio::time::timeout(PATIENCE, sent).await.unwrap();
        let took = started.elapsed();
        over.store(true, Ordering::SeqCst);
        // Running callbacks end by themselves. The replicas stay until all leases have expired.
        let (faults, replicas, server) = tokio::task::spawn_blocking(|| faults.join().unwrap())
            .await
            .unwrap();
        sleep(LEASE + Duration::from_secs(1)).await;
        drop(replicas);
        let printed = printed(&logs);
        let handled = printed.values().map(|times| times.handled);
        let doubles: usize = handled.map(|times| times.saturating_sub(1)).sum();
        println!(
            "seed {seed}: {} events in {took:.1?}, {:.0} per second; {faults:?}; \
             answers {:?}; printed twice {doubles}, stale {}",
            events.len(),
            events.len() as f64 / took.as_secs_f64(),
            sender.answers.lock().unwrap(),
            printed.values().filter(|times| times.stale > 0).count(),
        );
        assert!(faults.replicas_killed >= 5 && faults.servers_restarted >= 1);
        // An effect is repeated only if a process died between it and its commit. Each death repeats at
        // most the events that one of three replicas has in flight; half of all is a generous bound.
        // Without a ledger there were twice as many repetitions, and no stale events.
        let died = faults.replicas_killed + faults.servers_restarted;
        assert!(doubles <= died * CONNECTIONS / 2, "{doubles} doubles");
        assert!(printed.values().any(|times| times.stale > 0));
        let acknowledged = std::mem::take(&mut *sender.acknowledged.lock().unwrap());
        assert_eq!(acknowledged.len(), events.len());
        Self {
            _server: server,
            events,
            acknowledged,
            printed: printed
                .into_iter()
                .map(|(event, times)| (event, times.handled + times.stale))
                .collect(),
        }
    }

    async fn nothing_is_in_flight(&self, ledger: &impl Ledger) {
        for event in &self.events {
            let name = EventName::of(event);
            let claim = ledger.claim(&name, Duration::ZERO).await;
            let claim = claim.unwrap_or_else(|error| panic!("{name}: {}", error.into()));
            assert_ne!(claim, Claim::InFlight, "{name}");
        }
    }
}

fn replica(url: &str, log: File) -> Server {
    let address = free_address();
    let mut command = example(env!("CARGO_BIN_EXE_replicas"));
    command
        .env("ADDR", address.to_string())
        .env("LEDGER_URL", url)
        .env("LEASE_SECONDS", LEASE.as_secs().to_string())
        // Long enough that the test kills some replicas between an effect and its commit.
        .env("WORK_MILLISECONDS", "10")
        .stdout(log);
    Server::start(address, command)
}

/// Returns the events to send, reordered as MX's retries are.
fn events() -> Vec<JobEvent> {
    let event = |job: usize, status, updated_at| {
        let mut job = Job::new(format!("JOB-{job:05}").parse().unwrap(), status);
        job.updated_at = Some(Timestamp::from_unix_seconds(updated_at));
        JobEvent::from(job)
    };
    let mut events = Vec::new();
    for job in 0..jobs() {
        events.push(event(job, Status::Challenged, 1));
        events.push(event(job, Status::Completed, 2));
    }
    for job in jobs()..jobs() + more_jobs() {
        events.push(event(job, Status::Completed, 1));
    }
    let mut reordered: Vec<_> = events
        .into_iter()
        .enumerate()
        .map(|(place, event)| (place + fastrand::usize(..200), event))
        .collect();
    reordered.sort_by_key(|(place, _)| *place);
    reordered.into_iter().map(|(_, event)| event).collect()
}

#[derive(Default)]
struct Times {
    handled: usize,
    stale: usize,
}

fn printed(logs: &[std::path::PathBuf]) -> HashMap<String, Times> {
    let mut printed: HashMap<String, Times> = HashMap::new();
    for log in logs {
        for line in read_to_string(log).unwrap().lines() {
            if let Some(event) = line.strip_prefix("handled ") {
                printed.entry(event.to_owned()).or_default().handled += 1;
            } else if let Some(event) = line.strip_prefix("stale ") {
                printed.entry(event.to_owned()).or_default().stale += 1;
            }
        }
    }
    printed
}

/// Delivers in MX's place, with shorter pauses: duplicates, and retries until each event is acknowledged.
#[derive(Clone)]
struct Sender {
    client: Client<HttpConnector, Body>,
    url: String,
    queue: Arc<Mutex<VecDeque<JobEvent>>>,
    acknowledged: Arc<Mutex<HashSet<String>>>,
    answers: Arc<Mutex<HashMap<u16, usize>>>,
    events: usize,
}

impl Sender {
    fn new(url: String, events: &[JobEvent]) -> Self {
        let with_duplicates = events.iter().flat_map(|event| {
            let times = if fastrand::u8(..10) == 0 { 2 } else { 1 };
            std::iter::repeat_n(event.clone(), times)
        });
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            url,
            queue: Arc::new(Mutex::new(with_duplicates.collect())),
            acknowledged: Arc::default(),
            answers: Arc::default(),
            events: events.len(),
        }
    }

    async fn send_until_all_are_acknowledged(&self) {
        let mut connections = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let sender = self.clone();
            connections.spawn(async move {
                while sender.acknowledged.lock().unwrap().len() < sender.events {
                    let next = sender.queue.lock().unwrap().pop_front();
                    match next {
                        Some(event) => sender.deliver(event).await,
                        None => sleep(Duration::from_millis(10)).await,
                    }
                }
            });
        }
        while let Some(connection) = connections.join_next().await {
            connection.unwrap();
        }
    }

    async fn deliver(&self, event: JobEvent) {
        let request = Request::post(&self.url)
            .header("authorization", BASIC)
            .header("content-type", "application/json")
            .body(Body::from(event.body().clone()))
            .unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(15), self.client.request(request));
        // 0 stands for a broken connection or a missing answer.
        let status = match answer.await {
            Ok(Ok(answer)) => answer.status().as_u16(),
            _ => 0,
        };
        *self.answers.lock().unwrap().entry(status).or_default() += 1;
        match status {
            204 => {
                let name = EventName::of(&event).to_string();
                self.acknowledged.lock().unwrap().insert(name);
            }
            // These include the load balancer's own answers.
            0 | 500 | 502 | 503 | 504 => {
                self.queue.lock().unwrap().push_back(event);
                sleep(Duration::from_millis(20)).await;
            }
            other => panic!("answered {other}"),
        }
    }
}
