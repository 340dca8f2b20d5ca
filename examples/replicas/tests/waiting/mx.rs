//! MX: jobs, their webhooks of which many are lost or late, and *Read job*.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::routing::get;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use mx_job_webhook::JobEvent;
use mx_job_webhook::ledger::EventName;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// `mx:secret`
const BASIC: &str = "Basic bXg6c2VjcmV0";

pub(crate) struct Mx {
    jobs: Vec<Job>,
    webhooks: OnceLock<String>,
    client: Client<HttpConnector, Body>,
    /// When each event was acknowledged first.
    acknowledged: Mutex<HashMap<String, Instant>>,
    deliveries: AtomicUsize,
    numbers: Mutex<Numbers>,
}

#[derive(Default)]
struct Job {
    /// What it was, and is.
    states: Mutex<Vec<JobEvent>>,
    resumed: Notify,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    lost: usize,
    late: usize,
    sent_twice: usize,
    reads: usize,
    reads_that_fail: usize,
    /// The answers to deliveries. 0 stands for a broken connection or a missing answer.
    answers: HashMap<u16, usize>,
}

impl Mx {
    /// Starts the API, and returns its base URL.
    pub(crate) async fn start(jobs: usize) -> (Arc<Self>, String) {
        let mx = Arc::new(Self {
            jobs: (0..jobs).map(|_| Job::default()).collect(),
            webhooks: OnceLock::new(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            acknowledged: Mutex::default(),
            deliveries: AtomicUsize::new(0),
            numbers: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/jobs/{guid}", get(read_job))
            .with_state(mx.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (mx, api)
    }

    pub(crate) fn deliver_to(&self, address: SocketAddr) {
        let webhooks = format!("http://{address}/admin/webhooks");
        self.webhooks.set(webhooks).unwrap();
    }

    /// Runs a job to its end.
    pub(crate) async fn run_job(self: Arc<Self>, job: usize, challenges: usize) {
        self.enter(job, "RECEIVED");
        for _ in 0..challenges {
            // Often two challenges within a second.
            sleep(Duration::from_millis(fastrand::u64(50..1_000))).await;
            self.enter(job, "CHALLENGED");
            self.jobs[job].resumed.notified().await;
            self.enter(job, "RESUMED");
        }
        sleep(Duration::from_millis(fastrand::u64(50..3_000))).await;
        self.enter(job, "COMPLETED");
    }

    /// The user answers the challenge.
    pub(crate) fn resume(&self, job: usize) {
        self.jobs[job].resumed.notify_one();
    }

    fn enter(self: &Arc<Self>, job: usize, status: &str) {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let body = format!(
            r#"{{"job": {{"guid": "{}", "status_name": "{status}", "updated_at": {}.{:06}}}}}"#,
            guid(job),
            now.as_secs(),
            now.subsec_micros(),
        );
        let state = JobEvent::decode(body).unwrap();
        let is_delivered = state.status.is_actionable();
        self.jobs[job].states.lock().unwrap().push(state.clone());
        if is_delivered {
            self.deliver_or_lose(&state);
        }
    }

    fn deliver_or_lose(self: &Arc<Self>, event: &JobEvent) {
        let mut numbers = self.numbers.lock().unwrap();
        let delay = match fastrand::u8(..100) {
            0..30 => {
                numbers.lost += 1;
                return;
            }
            30..50 => {
                numbers.late += 1;
                Duration::from_millis(fastrand::u64(500..6_000))
            }
            _ => Duration::ZERO,
        };
        let mut delays = vec![delay];
        if fastrand::u8(..10) == 0 {
            numbers.sent_twice += 1;
            delays.push(delay + Duration::from_millis(fastrand::u64(..1_000)));
        }
        for delay in delays {
            self.deliveries.fetch_add(1, Ordering::SeqCst);
            let (mx, event) = (self.clone(), event.clone());
            tokio::spawn(async move {
                sleep(delay).await;
                mx.deliver(event).await;
                mx.deliveries.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    /// Delivers an event until it is acknowledged, with shorter pauses than MX's.
    async fn deliver(&self, event: JobEvent) {
        let mut pause = Duration::from_millis(50);
        loop {
            let request = Request::post(self.webhooks.get().unwrap())
                .header("authorization", BASIC)
                .header("content-type", "application/json")
                .body(Body::from(event.body().clone()))
                .unwrap();
            let answer = timeout(Duration::from_secs(15), self.client.request(request)).await;
            let status = match answer {
                Ok(Ok(answer)) => answer.status().as_u16(),
                _ => 0,
            };
            self.count_answer(status);
            match status {
                204 => break,
                // These include the load balancer's own answers.
                0 | 500 | 502 | 503 | 504 => {}
                other => panic!("answered {other}"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        let mut acknowledged = self.acknowledged.lock().unwrap();
        let name = EventName::of(&event).to_string();
        acknowledged.entry(name).or_insert_with(Instant::now);
    }

    fn count_answer(&self, status: u16) {
        let mut numbers = self.numbers.lock().unwrap();
        *numbers.answers.entry(status).or_default() += 1;
    }

    /// Waits until no webhook is under way.
    pub(crate) async fn all_is_delivered(&self) {
        while self.deliveries.load(Ordering::SeqCst) > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the events of a job that MX delivers, in order.
    pub(crate) fn events_of(&self, job: usize) -> Vec<String> {
        let states = self.jobs[job].states.lock().unwrap();
        let delivered = states.iter().filter(|state| state.status.is_actionable());
        delivered
            .map(|state| EventName::of(state).to_string())
            .collect()
    }

    /// Returns the events of all jobs.
    pub(crate) fn events(&self) -> Vec<String> {
        (0..self.jobs.len())
            .flat_map(|job| self.events_of(job))
            .collect()
    }

    pub(crate) fn acknowledged(&self, event: &str) -> Option<Instant> {
        self.acknowledged.lock().unwrap().get(event).copied()
    }

    pub(crate) fn numbers(&self) -> Numbers {
        self.numbers.lock().unwrap().clone()
    }
}

pub(crate) fn guid(job: usize) -> String {
    format!("JOB-{job:05}")
}

/// *Read job*, which sometimes fails, takes long, or answers an older state.
async fn read_job(State(mx): State<Arc<Mx>>, Path(guid): Path<String>) -> Result<Body, StatusCode> {
    let job = guid.strip_prefix("JOB-").and_then(|job| job.parse().ok());
    let job: usize = job.ok_or(StatusCode::NOT_FOUND)?;
    let mut states = mx.jobs[job].states.lock().unwrap().clone();
    mx.numbers.lock().unwrap().reads += 1;
    match fastrand::u8(..20) {
        0 | 1 => {
            mx.numbers.lock().unwrap().reads_that_fail += 1;
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        2 => sleep(Duration::from_secs(2)).await,
        3 if states.len() > 1 => drop(states.pop()),
        _ => {}
    }
    let state = states.last().ok_or(StatusCode::NOT_FOUND)?;
    Ok(Body::from(state.body().clone()))
}
