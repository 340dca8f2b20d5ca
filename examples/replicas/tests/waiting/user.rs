//! The users, who ask any replica for their jobs.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::http::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use mx_job_webhook::ledger::EventName;
use mx_job_webhook::{JobEvent, Status};
use tokio::time::{sleep, timeout};

use super::mx::{Mx, guid};

#[derive(Clone)]
pub(crate) struct User {
    mx: Arc<Mx>,
    replicas: Arc<Vec<SocketAddr>>,
    client: Client<HttpConnector, Body>,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    /// The answers. 0 stands for a broken connection, mostly of a replica that was killed.
    answers: HashMap<u16, usize>,
    left: usize,
    heard: Vec<Heard>,
    not_yet: Vec<NotYet>,
}

struct Heard {
    event: String,
    asked: Instant,
    answered: Instant,
}

/// A request that was answered 202.
struct NotYet {
    job: usize,
    /// How many events of the job the user has seen.
    seen: usize,
    /// The replica waited at least until then.
    until: Instant,
}

impl User {
    pub(crate) fn new(mx: Arc<Mx>, replicas: Vec<SocketAddr>) -> Self {
        Self {
            mx,
            replicas: Arc::new(replicas),
            client: Client::builder(TokioExecutor::new()).build_http(),
            log: Arc::default(),
        }
    }

    /// Asks for a job until it is COMPLETED, and answers its challenges.
    ///
    /// A user who leaves only makes sure that the job is expected.
    pub(crate) async fn follow(&self, job: usize, leaves: bool) {
        let (mut seen, mut body) = (0, Bytes::new());
        loop {
            let wait = if leaves { 0 } else { fastrand::u64(1..=5) };
            let asked = Instant::now();
            let patience = if fastrand::u8(..10) == 0 {
                Duration::from_millis(fastrand::u64(10..500))
            } else {
                Duration::from_secs(wait + 15)
            };
            let Ok(answer) = timeout(patience, self.ask(job, wait, body.clone())).await else {
                self.log.lock().unwrap().left += 1;
                continue;
            };
            let (status, answer) = answer.unwrap_or_default();
            *self.log.lock().unwrap().answers.entry(status).or_default() += 1;
            match status {
                200 => {
                    let event = self.heard(job, seen, asked, answer.clone());
                    if event.status == Status::Completed {
                        return;
                    }
                    assert_eq!(event.status, Status::Challenged);
                    (seen, body) = (seen + 1, answer);
                    self.mx.resume(job);
                }
                202 => {
                    let until = asked + Duration::from_secs(wait);
                    let mut log = self.log.lock().unwrap();
                    log.not_yet.push(NotYet { job, seen, until });
                    if leaves {
                        return;
                    }
                }
                // A replica was killed, or their server.
                0 | 503 => sleep(Duration::from_millis(50)).await,
                other => panic!("answered {other}"),
            }
        }
    }

    /// Asks a replica, and returns the status and the body of its answer.
    async fn ask(&self, job: usize, wait: u64, seen: Bytes) -> Option<(u16, Bytes)> {
        let replica = self.replicas[fastrand::usize(..self.replicas.len())];
        let request = Request::post(format!(
            "http://{replica}/connect/{}?wait={wait}",
            guid(job)
        ));
        let request = request.body(Body::from(seen)).unwrap();
        let answer = self.client.request(request).await.ok()?;
        let status = answer.status().as_u16();
        let body = to_bytes(Body::new(answer.into_body()), 10_000).await.ok()?;
        Some((status, body))
    }

    fn heard(&self, job: usize, seen: usize, asked: Instant, answer: Bytes) -> JobEvent {
        let event = JobEvent::decode(answer).unwrap();
        let name = EventName::of(&event).to_string();
        // It is the next event, neither an older one nor the one after it.
        assert_eq!(self.mx.events_of(job).get(seen), Some(&name));
        self.log.lock().unwrap().heard.push(Heard {
            event: name,
            asked,
            answered: Instant::now(),
        });
        event
    }

    /// Checks that each event that was acknowledged while a replica waited for it was answered 200.
    ///
    /// An event that was acknowledged before counts too.
    pub(crate) fn nobody_waited_for_what_was_heard(&self) {
        for NotYet { job, seen, until } in &self.log.lock().unwrap().not_yet {
            for event in self.mx.events_of(*job).iter().skip(*seen) {
                let acknowledged = self.mx.acknowledged(event);
                assert!(
                    acknowledged.is_none_or(|acknowledged| acknowledged > *until),
                    "{event} was acknowledged {:?} before the end of a wait for it",
                    acknowledged.map(|acknowledged| *until - acknowledged)
                );
            }
        }
    }

    /// Returns the numbers of a run, after checking that enough happened.
    pub(crate) fn numbers(&self) -> String {
        let log = self.log.lock().unwrap();
        // From the answer to the webhook to that of the user, who waited for it.
        let mut wakes: Vec<_> = log
            .heard
            .iter()
            .filter_map(|heard| {
                let acknowledged = self.mx.acknowledged(&heard.event)?;
                let late = heard.answered + Duration::from_millis(100);
                let is_wake = (heard.asked..late).contains(&acknowledged);
                is_wake.then(|| heard.answered.saturating_duration_since(acknowledged))
            })
            .collect();
        wakes.sort_unstable();
        assert!(!wakes.is_empty() && !log.not_yet.is_empty());
        let median = wakes[wakes.len() / 2];
        assert!(median < Duration::from_secs(1), "{median:?}");
        format!(
            "users heard {}, {} of them by a webhook while they waited, after {median:.1?} \
             (median), {:.1?} (90 %), {:.1?} (longest); left {}; answers {:?}",
            log.heard.len(),
            wakes.len(),
            wakes[wakes.len() * 9 / 10],
            wakes[wakes.len() - 1],
            log.left,
            log.answers,
        )
    }
}
