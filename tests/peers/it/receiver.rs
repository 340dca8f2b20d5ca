//! A receiver with a larger limit on bodies than the quickstart's, and with slow callbacks.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::{Credentials, DedupeLayer, JobRouter, JobWebhook};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceBuilder;

use crate::PATH;

/// The callback of a job whose guid begins with this waits for [`Receiver::finish`].
pub(crate) const SLOW: &str = "JOB-SLOW";

/// A running receiver, stopped when dropped.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Seen {
    /// The jobs whose callbacks have started.
    started: Vec<String>,
    /// The slow jobs whose callbacks may finish.
    released: HashSet<String>,
    /// The jobs whose callbacks have finished.
    finished: Vec<String>,
    /// The connections on which requests with this query came.
    connections: HashMap<String, HashSet<SocketAddr>>,
}

impl Receiver {
    /// Starts it on a free port of this address.
    pub(crate) fn start_on(address: &str) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::default();
        let app = app(&seen).into_make_service_with_connect_info::<SocketAddr>();
        runtime.spawn(async { axum::serve(listener, app).await });
        Self {
            address,
            seen,
            _runtime: runtime,
        }
    }

    /// Returns on how many connections requests with this query came.
    pub(crate) fn connections(&self, query: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.connections.get(query).map_or(0, HashSet::len)
    }

    /// Lets the callback of a slow job finish, waits for it, and returns how often callbacks of the job started
    /// and finished.
    pub(crate) fn finish(&self, job: &str) -> (usize, usize) {
        self.seen.lock().unwrap().released.insert(job.to_owned());
        let patience = Instant::now() + Duration::from_secs(5);
        while Instant::now() < patience && self.runs(job).1 == 0 {
            sleep(Duration::from_millis(10));
        }
        self.runs(job)
    }

    /// Returns how often callbacks of the job started and finished.
    pub(crate) fn runs(&self, job: &str) -> (usize, usize) {
        let seen = self.seen.lock().unwrap();
        let count = |jobs: &[String]| jobs.iter().filter(|guid| *guid == job).count();
        (count(&seen.started), count(&seen.finished))
    }
}

fn app(seen: &Arc<Mutex<Seen>>) -> Router {
    let callbacks = Arc::clone(seen);
    let jobs = JobRouter::new().on_completed(move |event| {
        let seen = Arc::clone(&callbacks);
        async move {
            let job = event.guid.as_str().to_owned();
            seen.lock().unwrap().started.push(job.clone());
            while job.starts_with(SLOW) && !seen.lock().unwrap().released.contains(&job) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            seen.lock().unwrap().finished.push(job);
        }
    });
    let jobs = ServiceBuilder::new()
        .layer(DedupeLayer::new(MemoryLedger::new()))
        .service(jobs);
    let credentials = Credentials::basic("mx", "secret").unwrap();
    let webhooks = JobWebhook::new(credentials, jobs)
        .with_body_limit(6_000_000)
        // A body of an accepted length is discarded all the same.
        .with_discard_limit(1)
        .at(PATH);
    Router::new()
        .layer(webhooks)
        .layer(from_fn_with_state(Arc::clone(seen), note_connection))
}

async fn note_connection(
    State(seen): State<Arc<Mutex<Seen>>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(query) = request.uri().query() {
        let connections = &mut seen.lock().unwrap().connections;
        connections
            .entry(query.to_owned())
            .or_default()
            .insert(peer);
    }
    next.run(request).await
}
