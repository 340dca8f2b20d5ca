//! Tests every ledger on a server with a server that is down, slow or sends garbage: deliveries are
//! answered 503 in bounded time, none is acknowledged, and the ledger recovers with the server.

use std::time::{Duration, Instant};

use mx_job_webhook::ledger::Ledger;
use mx_job_webhook::{Credentials, DedupeLayer, JobRouter, JobWebhook};
use tower::{Layer as _, ServiceExt as _};

use super::proxy::{Network, Proxy};
use crate::support::{Log, SAMPLE, delivery, unique_id};

const LIMIT: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(2);

/// A generous limit for every step.
const PATIENCE: Duration = Duration::from_secs(20);

const BROKEN: [Network; 4] = [
    Network::Down,
    Network::Hangs,
    Network::LosesAnswers,
    Network::Garbage,
];

/// Delivers a new job's event and returns the status and the time taken.
async fn deliver<L: Ledger>(layer: &DedupeLayer<L>, jobs: JobRouter, guid: &str) -> u16 {
    let endpoint = JobWebhook::new(Credentials::unauthenticated(), layer.layer(jobs));
    let body = SAMPLE.replace("a177e002-e5b8-0680-3427-39556fa93c6e", guid);
    let started = Instant::now();
    let answer = endpoint.oneshot(delivery(body)).await.unwrap();
    let took = started.elapsed();
    // A claim and a commit that is tried twice have a limit each. The rest allows for a slow machine.
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
            503 => assert!(
                started.elapsed() < PATIENCE,
                "{guid}: the ledger did not recover"
            ),
            other => panic!("{guid}: {other}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn are_survived<L: Ledger>(ledger: L, proxy: Proxy) {
    let layer = DedupeLayer::new(ledger)
        .with_lease(LEASE)
        .with_ledger_timeout(LIMIT);
    let run = unique_id();
    for network in BROKEN {
        let log = Log::default();
        let seen = log.clone();
        let jobs = JobRouter::new().on_completed(move |_| {
            seen.push("ran");
            async {}
        });
        // After any earlier fault, the ledger works now.
        let guid = format!("{run}-{network:?}");
        deliver_until_acknowledged(&layer, jobs.clone(), &format!("{guid}-before")).await;
        assert_eq!(log.entries().len(), 1, "{network:?}");

        // If the network breaks before the claim, no callback runs and no delivery is acknowledged.
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
        assert_eq!(
            log.entries().len(),
            2,
            "{network:?}: the delivery is a duplicate"
        );

        // If the network breaks while the callback runs, the callback succeeds, and the delivery is acknowledged only
        // once the ledger knows.
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
        // At most one more run, after the lease expires: the commit may have reached the server.
        let times = log.entries().len();
        assert!((1..=2).contains(&times), "{network:?}: {times} times");
    }
}
