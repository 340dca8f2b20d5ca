//! The ledger on the master that the Sentinels name.

use std::time::Duration;

use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, Ledger as _, Reconnecting, RedisLedger, Sentinels};
use mx_job_webhook::testing::check_ledger;

use crate::engines::redis::{
    Load, PASSWORD, SENTINEL_PASSWORD, Watched, ask, pid, signal, storm, wait_until, watched,
};
use crate::support::{LEASE, granted, name, unique_id};
use harness::servers::Folder;

fn ledger(watched: &Watched) -> RedisLedger<Reconnecting> {
    RedisLedger::from_sentinels(sentinels(watched))
}

pub(crate) fn sentinels(watched: &Watched) -> Sentinels {
    let sentinels = watched
        .sentinels
        .iter()
        .map(|sentinel| format!("redis://:{SENTINEL_PASSWORD}@{}/", sentinel.address));
    Sentinels::new(sentinels, "mymaster")
        .unwrap()
        .with_master_login(format!("redis://:{PASSWORD}@any/"))
        .unwrap()
}

pub(crate) fn fail_over(watched: &Watched) {
    // Asks the second Sentinel: the first may be down.
    let sentinel = watched.sentinels[1].address;
    let answer = ask(
        sentinel,
        Some(SENTINEL_PASSWORD),
        "SENTINEL FAILOVER mymaster",
    );
    assert!(answer.starts_with("OK"), "{answer}");
}

pub(crate) fn role(watched: &Watched, server: usize) -> String {
    let answer = ask(watched.servers[server].address, Some(PASSWORD), "ROLE");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_by_sentinel_loses_no_commit_that_waited_for_the_replica() {
    let folder = Folder::new();
    let mut watched = watched(
        &folder,
        1,
        &[
            "--min-replicas-to-write",
            "1",
            "--min-replicas-max-lag",
            "2",
        ],
    );
    let ledger = ledger(&watched);
    check_ledger(ledger.clone()).await;
    // The first Sentinel in the list is down.
    watched.sentinels[0].crash();
    let waiting = ledger
        .clone()
        .with_replicated_commits(1, Duration::from_millis(300));
    let (load, waits) = (Load::on(&ledger), Load::on(&waiting));
    load.acknowledges(200).await;
    waits.acknowledges(200).await;
    fail_over(&watched);
    wait_until("another master", || role(&watched, 1) == "master");
    // The old master refuses writes until Sentinel has made it a replica, after about ten seconds, and the
    // new master refuses them until it has that replica.
    wait_until("a replica that was the master", || {
        role(&watched, 0) == "slave"
    });
    load.acknowledges(200).await;
    waits.acknowledges(200).await;
    let what = "Redis Sentinel, planned failover, min-replicas-to-write 1";
    let outcome = load.stop(&ledger, what).await;
    // The old master acknowledges until it notices that its replica is gone, within milliseconds.
    assert!(outcome.lost <= 50, "{} lost", outcome.lost);
    assert!(outcome.longest_gap < Duration::from_secs(20));
    let what = format!("{what}, commits wait for the replica");
    let outcome = waits.stop(&waiting, &what).await;
    assert_eq!(outcome.lost, 0);
    assert!(outcome.longest_gap < Duration::from_secs(20));
}

/// The answer that another holder has settled the event waits for the replica too: the entry may be on the master alone. So does
/// one for which the replica may take longer than any other call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_on_the_master_alone_is_not_told_to_the_next_holder() {
    let folder = Folder::new();
    let watched = watched(&folder, 1, &["--min-replicas-max-lag", "10"]);
    let waiting = |time| ledger(&watched).with_replicated_commits(1, time);
    let (one, other) = (
        waiting(Duration::from_millis(300)),
        waiting(Duration::from_secs(3)),
    );
    let replica = watched.servers[1].address;
    let event = name(&unique_id(), 1);
    let early = Duration::from_millis(300);
    let first = granted(one.claim(&event, early).await.unwrap());
    tokio::time::sleep(2 * early).await;
    let second = granted(other.claim(&event, LEASE).await.unwrap());
    // The replica says every second how far it is.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let process = pid(replica, Some(PASSWORD));
    signal(replica, &process, "STOP");
    for (ledger, token) in [(&one, first), (&other, second)] {
        let refused = ledger.commit(&event, token).await.unwrap_err();
        assert_eq!(refused.code(), Some("NOREPLICAS"), "{refused}");
    }
    signal(replica, &process, "CONT");
    let outcomes = (
        one.commit(&event, first).await.unwrap(),
        other.commit(&event, second).await.unwrap(),
    );
    assert_eq!(outcomes, (Commit::Settled, Commit::Overtaken));
}

/// A release that a replica answers is an error, also if the replica does not have the claim yet: the claim is still held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_releases_no_claim() {
    let folder = Folder::new();
    let watched = watched(&folder, 1, &[]);
    let replica = watched.servers[1].address;
    let client = redis::Client::open(format!("redis://:{PASSWORD}@{replica}/")).unwrap();
    let ledger = RedisLedger::new(client);
    let event = name(&unique_id(), 1);
    let released = ledger.release(&event, FencingToken::new(1)).await;
    assert_eq!(released.unwrap_err().code(), Some("READONLY"));
}

/// An application's user may lack the right to ask the server for its role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_ask_for_the_role_can_use_the_master() {
    let folder = Folder::new();
    let watched = watched(&folder, 1, &[]);
    let user = "ACL SETUSER webhooks on >secret ~* &* +@all -role";
    let answer = ask(watched.servers[0].address, Some(PASSWORD), user);
    assert!(answer.starts_with("OK"), "{answer}");
    let sentinels = sentinels(&watched)
        .with_master_login("redis://webhooks:secret@any/")
        .unwrap();
    let ledger = RedisLedger::from_sentinels(sentinels);
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
}

/// Without `min-replicas-to-write`, an old master continues to acknowledge for about ten seconds. The
/// ledger leaves it within about a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_leaves_an_old_master_that_still_answers() {
    let folder = Folder::new();
    let watched = watched(&folder, 1, &[]);
    let ledger = ledger(&watched);
    let load = Load::on(&ledger);
    load.acknowledges(200).await;
    fail_over(&watched);
    wait_until("another master", || role(&watched, 1) == "master");
    tokio::time::sleep(Duration::from_secs(4)).await;
    // The old master still runs and would acknowledge.
    assert_eq!(role(&watched, 0), "master");
    let new = watched.servers[1].address;
    let keys = || {
        ask(new, Some(PASSWORD), "DBSIZE")
            .trim()
            .parse::<usize>()
            .unwrap()
    };
    let before = keys();
    load.acknowledges(200).await;
    assert!(keys() >= before + 200, "the load is on the old master");
    let outcome = load
        .stop(
            &ledger,
            "Redis Sentinel, planned failover, no min-replicas-to-write",
        )
        .await;
    assert!(outcome.lost < outcome.acknowledged / 2);
    assert!(outcome.longest_gap < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_masters_crash_loses_no_commit_that_all_replicas_had() {
    let folder = Folder::new();
    let mut watched = watched(&folder, 2, &[]);
    // Sentinel promotes the most advanced replica: with one replica, it has every acknowledged event.
    let ledger = ledger(&watched).with_replicated_commits(1, Duration::from_millis(300));
    let load = Load::on(&ledger);
    load.acknowledges(200).await;
    watched.sentinels[0].crash();
    watched.servers[0].crash();
    load.acknowledges(200).await;
    let outcome = load
        .stop(
            &ledger,
            "Redis Sentinel, the master dies, commits wait for 1 of 2 replicas",
        )
        .await;
    assert_eq!(outcome.lost, 0);
    assert!(outcome.longest_gap < Duration::from_secs(20));
}

#[tokio::test]
async fn a_commit_that_reaches_no_replica_fails_and_can_be_retried() {
    let folder = Folder::new();
    let watched = watched(&folder, 1, &["--min-replicas-max-lag", "2"]);
    let ledger = ledger(&watched).with_replicated_commits(1, Duration::from_millis(300));
    let (guid, replica) = (unique_id(), watched.servers[1].address);
    let event = name(&guid, 1);
    let token = granted(ledger.claim(&event, LEASE).await.unwrap());
    let process = pid(replica, Some(PASSWORD));
    signal(replica, &process, "STOP");
    let refused = ledger.commit(&event, token).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOREPLICAS"), "{refused}");
    assert!(refused.to_string().contains("0 of 1 replicas"), "{refused}");
    // The commit is on the master and is still not acknowledged.
    let refused = ledger.claim(&event, LEASE).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOREPLICAS"), "{refused}");
    // Other claims are not delayed.
    let other = name(&unique_id(), 1);
    let claim = ledger.claim(&other, LEASE);
    granted(
        tokio::time::timeout(Duration::from_millis(250), claim)
            .await
            .unwrap()
            .unwrap(),
    );
    signal(replica, &process, "CONT");
    assert_eq!(ledger.commit(&event, token).await.unwrap(), Commit::Settled);
    assert_eq!(ledger.claim(&event, LEASE).await.unwrap(), Claim::Settled);
}

#[tokio::test]
async fn an_unknown_master_name_is_an_error_without_addresses_or_passwords() {
    let sentinels = Sentinels::new(["redis://:secret@127.0.0.1:1/"], "mymaster").unwrap();
    let shown = format!(
        "{sentinels:?} {:?}",
        RedisLedger::from_sentinels(sentinels.clone())
    );
    let ledger = RedisLedger::from_sentinels(sentinels);
    let refused = ledger.claim(&name("JOB-1", 1), LEASE).await.unwrap_err();
    let shown = format!("{shown} {refused} {refused:?}");
    assert!(
        shown.contains("Sentinels") && !shown.contains("secret") && !shown.contains("127.0.0.1"),
        "{shown}"
    );
}

/// Measurements for the guide: the number of events that an old master loses, and the duration of 503 answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losses_and_outages_of_sentinel_failovers_are_measured() {
    if !storm() {
        println!("MX_TEST_STORM=1 runs it");
        return;
    }
    let lag = ["--min-replicas-max-lag", "2"];
    let cases = [
        ("1 replica", 1, vec![]),
        (
            "1 replica, min-replicas-to-write 1",
            1,
            vec!["--min-replicas-to-write", "1"],
        ),
        (
            "2 replicas, min-replicas-to-write 1",
            2,
            vec!["--min-replicas-to-write", "1"],
        ),
        (
            "2 replicas, min-replicas-to-write 2",
            2,
            vec!["--min-replicas-to-write", "2"],
        ),
        ("1 replica, WAIT", 1, vec![]),
        ("2 replicas, WAIT", 2, vec![]),
    ];
    for (case, replicas, settings) in cases {
        let folder = Folder::new();
        let watched = watched(&folder, replicas, &[&settings[..], &lag].concat());
        let mut ledger = ledger(&watched);
        if settings.is_empty() && case.ends_with("WAIT") {
            ledger = ledger.with_replicated_commits(replicas, Duration::from_millis(200));
        }
        let load = Load::on(&ledger);
        load.acknowledges(2_000).await;
        fail_over(&watched);
        wait_until("a replica that was the master", || {
            role(&watched, 0) == "slave"
        });
        load.acknowledges(2_000).await;
        let what = format!("Redis Sentinel, planned failover, {case}");
        let outcome = load.stop(&ledger, &what).await;
        if case.ends_with("WAIT") {
            assert_eq!(outcome.lost, 0, "{case}");
        }
    }
    let folder = Folder::new();
    let watched = watched(&folder, 2, &[]);
    let process = pid(watched.servers[0].address, Some(PASSWORD));
    let ledger = ledger(&watched);
    let load = Load::on(&ledger);
    load.acknowledges(2_000).await;
    let master = watched.servers[0].address;
    signal(master, &process, "STOP");
    tokio::time::sleep(Duration::from_secs(10)).await;
    signal(master, &process, "CONT");
    load.acknowledges(2_000).await;
    load.stop(
        &ledger,
        "Redis Sentinel, the master hangs for 10 s, 2 replicas",
    )
    .await;
}

/// Measures the cost of commits that wait for replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cost_of_commits_that_wait_for_replicas_is_measured() {
    if !storm() {
        println!("MX_TEST_STORM=1 runs it");
        return;
    }
    let folder = Folder::new();
    let watched = watched(&folder, 1, &[]);
    let plain = ledger(&watched);
    let waiting = ledger(&watched).with_replicated_commits(1, Duration::from_millis(200));
    for (case, ledger) in [("does not wait", plain), ("waits for 1 replica", waiting)] {
        for at_once in [1, 16, 128] {
            let started = std::time::Instant::now();
            let events = 6_400;
            let workers = (0..at_once).map(|_| {
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    for _ in 0..events / at_once {
                        let event = name(&unique_id(), 1);
                        let token = granted(ledger.claim(&event, LEASE).await.unwrap());
                        ledger.commit(&event, token).await.unwrap();
                    }
                })
            });
            for worker in workers.collect::<Vec<_>>() {
                worker.await.unwrap();
            }
            let a_second = f64::from(events) / started.elapsed().as_secs_f64();
            println!("Redis, a commit {case}, {at_once} at once: {a_second:.0} events a second");
        }
    }
}
