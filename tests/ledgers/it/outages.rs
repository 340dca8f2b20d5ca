//! A ledger that is down, slow or answers nonsense: 503 in bounded time, nothing acknowledged,
//! and it goes on by itself when the server is back. The same for every ledger on a server.

use std::time::{Duration, Instant};

use mx_job_webhook::ledger::Ledger;
use mx_job_webhook::{Credentials, DedupeLayer, JobRouter, JobWebhook};
use tower::{Layer as _, ServiceExt as _};

use super::proxy::{Network, Proxy};
use crate::support::{Log, SAMPLE, delivery, one_of_a_kind};

const LIMIT: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(2);

/// Far more than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

const BROKEN: [Network; 4] = [
    Network::Down,
    Network::Hangs,
    Network::LosesAnswers,
    Network::Nonsense,
];

/// A delivery of a job that nobody has had yet: the status and how long it took.
async fn deliver<L: Ledger>(layer: &DedupeLayer<L>, jobs: JobRouter, guid: &str) -> u16 {
    let endpoint = JobWebhook::new(Credentials::unauthenticated(), layer.layer(jobs));
    let body = SAMPLE.replace("a177e002-e5b8-0680-3427-39556fa93c6e", guid);
    let started = Instant::now();
    let answer = endpoint.oneshot(delivery(body)).await.unwrap();
    let took = started.elapsed();
    // A claim, a commit that is tried twice: each has its limit. The rest is a slow machine's.
    assert!(took < LIMIT * 5, "{guid}: answered after {took:?}");
    answer.status().as_u16()
}

/// Delivers until it is acknowledged, as MX does.
async fn deliver_until_acknowledged<L: Ledger>(
    layer: &DedupeLayer<L>,
    jobs: JobRouter,
    guid: &str,
) {
    let started = Instant::now();
    loop {
        match deliver(layer, jobs.clone(), guid).await {
            204 => return,
            503 => assert!(started.elapsed() < PATIENCE, "{guid}: it did not recover"),
            other => panic!("{guid}: {other}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn are_survived<L: Ledger>(ledger: L, proxy: Proxy) {
    let layer = DedupeLayer::new(ledger)
        .with_lease(LEASE)
        .with_ledger_timeout(LIMIT);
    let run = one_of_a_kind();
    for network in BROKEN {
        let log = Log::default();
        let seen = log.clone();
        let jobs = JobRouter::new().on_completed(move |_| {
            seen.push("ran");
            async {}
        });
        // Whatever was broken before, it works now.
        let guid = format!("{run}-{network:?}");
        deliver_until_acknowledged(&layer, jobs.clone(), &format!("{guid}-before")).await;
        assert_eq!(log.entries().len(), 1, "{network:?}");

        // Broken before the claim: nothing runs and nothing is acknowledged.
        proxy.set(network);
        for _ in 0..3 {
            assert_eq!(
                deliver(&layer, jobs.clone(), &guid).await,
                503,
                "{network:?}"
            );
        }
        assert_eq!(log.entries().len(), 1, "{network:?}");
        proxy.set(Network::Works);
        deliver_until_acknowledged(&layer, jobs.clone(), &guid).await;
        assert_eq!(log.entries().len(), 2, "{network:?}");
        assert_eq!(deliver(&layer, jobs, &guid).await, 204);
        assert_eq!(log.entries().len(), 2, "{network:?}: it is a duplicate");

        // Broken while the callback runs: it has succeeded, and still nothing is acknowledged that
        // the ledger does not know.
        let guid = format!("{guid}-commit");
        let (log, seen, switch) = (Log::default(), Log::default(), proxy.switch());
        let (ran, breaks) = (log.clone(), seen.clone());
        let jobs = JobRouter::new().on_completed(move |_| {
            ran.push("ran");
            if breaks.entries().is_empty() {
                breaks.push("broken");
                switch.send_replace(network);
            }
            async {}
        });
        assert_eq!(
            deliver(&layer, jobs.clone(), &guid).await,
            503,
            "{network:?}"
        );
        proxy.set(Network::Works);
        deliver_until_acknowledged(&layer, jobs, &guid).await;
        // Once more at the most, when the lease is over: the commit may have got through.
        let times = log.entries().len();
        assert!((1..=2).contains(&times), "{network:?}: {times} times");
    }
}
