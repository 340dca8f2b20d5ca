//! The watch on the Redis master that the Sentinels name.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mx_job_webhook::ledger::Reconnecting;
use mx_job_webhook::testing::check_watch_store;
use mx_job_webhook::watch::{JobWatch, RedisWatchStore, WatchStore as _};
use mx_job_webhook::{Error, ErrorKind};
use tokio::time::{sleep, timeout};

use crate::engines::programs;
use crate::engines::redis::{PASSWORD, Watched, ask, pid, signal, storm, wait_until, watched};
use crate::redis_sentinel::{fail_over, role, sentinels};
use crate::watch_load::{Load, deliver, new_guid, watch};
use harness::servers::{Folder, Server, free_address};

/// How long a change waits for the replicas.
const WAIT: Duration = Duration::from_millis(300);

fn store(watched: &Watched) -> RedisWatchStore<Reconnecting> {
    RedisWatchStore::from_sentinels(sentinels(watched))
}

/// The same servers, and other keys.
fn another_store(watched: &Watched) -> RedisWatchStore<Reconnecting> {
    store(watched).with_key_prefix("another:")
}

fn waiting(store: RedisWatchStore<Reconnecting>, replicas: usize) -> RedisWatchStore<Reconnecting> {
    store.with_replicated_changes(replicas, WAIT)
}

/// Without `min-replicas-to-write`, an old master still acknowledges. The store leaves it within about a second, and
/// what was acknowledged until then is forgotten, unless it waited for the replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_master_forgets_nothing_that_waited_for_the_replica() {
    let folder = Folder::new();
    let mut watched = watched(&folder, 1, &[]);
    // The first Sentinel in the list is down.
    watched.sentinels[0].crash();
    let replica = || watch(waiting(store(&watched), 1));
    let mut waits = Load::on(&replica(), &replica());
    let replica = || watch(another_store(&watched));
    let mut load = Load::on(&replica(), &replica());
    waits.wait_through(20).await;
    load.wait_through(20).await;
    tokio::join!(waits.records(100), load.records(100));
    let before = load.recorded();
    fail_over(&watched);
    wait_until("another master", || role(&watched, 1) == "master");
    sleep(Duration::from_secs(6)).await;
    assert_eq!(role(&watched, 0), "master", "the old master still runs");
    let during = load.recorded();
    load.records(100).await;
    let what = "the watch, Sentinel, planned failover";
    let outcome = load.stop(another_store(&watched), what).await;
    for (forgotten, before, during) in [
        (&outcome.forgotten_jobs, before.0, during.0),
        (&outcome.forgotten_events, before.1, during.1),
    ] {
        // Without a loss, this would show nothing about the changes that wait.
        assert!(!forgotten.is_empty());
        let is_then = |number: &usize| (before..during).contains(number);
        assert!(
            forgotten.iter().all(is_then),
            "{before} {forgotten:?} {during}"
        );
        assert!(forgotten.len() < (during - before) / 2, "{outcome}");
    }
    outcome.every_waiter_hears();
    assert!(outcome.silence < Duration::from_secs(5), "{outcome}");
    // The new master has no replica until then.
    wait_until("a replica that was the master", || {
        role(&watched, 0) == "slave"
    });
    waits.records(100).await;
    let what = format!("{what}, changes wait for the replica");
    let outcome = waits.stop(store(&watched), &what).await;
    outcome.nothing_is_forgotten();
    assert!(outcome.silence < Duration::from_secs(20), "{outcome}");
}

/// Returns the entries of the watch on a server, by their keys.
async fn entries(server: &Server) -> HashMap<String, Vec<u8>> {
    let url = format!("redis://:{PASSWORD}@{}/", server.address);
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let keys = redis::cmd("KEYS").arg("*:entry:*").to_owned();
    let keys: Vec<String> = keys.query_async(&mut connection).await.unwrap();
    let mut entries = HashMap::new();
    for key in keys {
        let entry = redis::cmd("HGET").arg(&key).arg("entry").to_owned();
        entries.insert(key, entry.query_async(&mut connection).await.unwrap());
    }
    entries
}

/// The old master refuses writes until Sentinel has made it a replica, after about ten seconds, and the new master
/// refuses them until it has that replica. Both refuse to be read by the store too, so a waiter hears afterwards of an
/// event from before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_lacks_its_replica_forgets_what_it_acknowledges_in_milliseconds() {
    let folder = Folder::new();
    let settings = [
        "--min-replicas-to-write",
        "1",
        "--min-replicas-max-lag",
        "2",
    ];
    let watched = watched(&folder, 1, &settings);
    let replica = || watch(store(&watched));
    let mut load = Load::on(&replica(), &replica());
    load.wait_through(20).await;
    load.records(100).await;
    let before = load.recorded();
    fail_over(&watched);
    wait_until("another master", || role(&watched, 1) == "master");
    load.refuses(4).await;
    assert_eq!(role(&watched, 0), "master", "the old master still runs");
    let during = load.recorded();
    let old = entries(&watched.servers[0]).await;
    let new = entries(&watched.servers[1]).await;
    wait_until("a replica that was the master", || {
        role(&watched, 0) == "slave"
    });
    load.records(100).await;
    let what = "the watch, Sentinel, planned failover, min-replicas-to-write 1";
    let outcome = load.stop(store(&watched), what).await;
    // What is forgotten was acknowledged by the old master, in the milliseconds until it noticed.
    for (forgotten, before, during) in [
        (&outcome.forgotten_jobs, before.0, during.0),
        (&outcome.forgotten_events, before.1, during.1),
    ] {
        let is_then = |number: &usize| (before..during).contains(number);
        assert!(
            forgotten.iter().all(is_then),
            "{before} {forgotten:?} {during}"
        );
        assert!(forgotten.len() <= 20, "{outcome}");
    }
    // An event can be lost before its waiter hears of it. The old master had it, and the new one lacks it.
    for job in &outcome.lost {
        let key = format!("mx-job-webhook-watch:{{watch}}:entry:{job}");
        assert_ne!(
            old.get(&key).expect("an acknowledgement"),
            new.get(&key).map_or(&Vec::new(), |it| it)
        );
    }
    outcome.every_waiter_hears();
    assert!(outcome.slowest < Duration::from_secs(7), "{outcome}");
    assert!(outcome.silence < Duration::from_secs(20), "{outcome}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_masters_crash_forgets_nothing_that_waited_for_the_best_replica() {
    let folder = Folder::new();
    let mut watched = watched(&folder, 2, &[]);
    // Sentinel promotes the most advanced replica: with one replica, it has every acknowledged change.
    let replica = || watch(waiting(store(&watched), 1));
    let (here, there) = (replica(), replica());
    let mut load = Load::on(&here, &there);
    load.wait_through(20).await;
    load.records(100).await;
    watched.sentinels[0].crash();
    watched.servers[0].crash();
    load.records(100).await;
    let what = "the watch, Sentinel, the master dies, changes wait for 1 of 2 replicas";
    let outcome = load.stop(store(&watched), what).await;
    outcome.nothing_is_forgotten();
    // On a busy machine, the Sentinels may have to vote again, twice `failover-timeout` later.
    assert!(outcome.silence < Duration::from_secs(35), "{outcome}");
}

/// Starts a server of an engine.
fn engine(folder: &Folder, program: (&str, &str), arguments: &[&str]) -> Server {
    let address = free_address();
    let (variable, program) = program;
    let mut command = Command::new(programs(variable).join(program));
    command
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--save", "", "--repl-diskless-sync-delay", "0", "--dir"])
        .arg(folder.path())
        .args(arguments)
        .stdout(Stdio::null());
    Server::start(address, command)
}

/// A master and its replica.
fn pair(folder: &Folder, program: (&str, &str)) -> [Server; 2] {
    let master = engine(folder, program, &[]);
    let port = master.address.port().to_string();
    let replica = engine(folder, program, &["--replicaof", "127.0.0.1", &port]);
    wait_until("a replica that has caught up", || {
        ask(master.address, None, "INFO replication").contains("state=online")
    });
    [master, replica]
}

fn store_of(master: &Server) -> RedisWatchStore<Reconnecting> {
    let url = format!("redis://{}/", master.address);
    RedisWatchStore::new(redis::Client::open(url).unwrap())
}

#[tokio::test]
async fn the_contract_holds_if_changes_wait() {
    let folder = Folder::new();
    let [master, _replica] = pair(&folder, ("MX_TEST_REDIS_8", "redis-server"));
    check_watch_store(waiting(store_of(&master), 1)).await;
}

/// A call that finds the change of another process waits for the replicas too. The engines differ in which writes
/// `WAIT` covers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_reaches_no_replica_fails_and_can_be_repeated() {
    for program in [
        ("MX_TEST_REDIS_6", "redis-server"),
        ("MX_TEST_REDIS_7", "redis-server"),
        ("MX_TEST_REDIS_8", "redis-server"),
        ("MX_TEST_VALKEY_8", "valkey-server"),
    ] {
        let folder = Folder::new();
        let [master, replica] = pair(&folder, program);
        let plain = store_of(&master);
        let known = [0; 2].map(|_| watch(waiting(plain.clone(), 1)));
        for watch in &known {
            wait_until_it_works(watch).await;
        }
        // One that has changed nothing yet.
        let new = watch(waiting(plain.clone(), 1));
        let all = || known.iter().chain([&new]);
        let (expected, heard) = (new_guid(), new_guid());
        let process = pid(replica.address, None);
        signal(replica.address, &process, "STOP");
        for watch in all() {
            refused(watch.expect(&expected).await.map(|_| ()), program.0);
            refused(deliver(watch, &heard).await, program.0);
        }
        // Reads are not delayed.
        let load = plain.load(std::slice::from_ref(&heard));
        let loaded = timeout(WAIT, load).await.unwrap().unwrap();
        assert_eq!(loaded.len(), 1, "the master has it");
        signal(replica.address, &process, "CONT");
        for watch in all() {
            wait_until_it_works(watch).await;
            let _ = watch.expect(&expected).await.unwrap();
            deliver(watch, &heard).await.unwrap();
            let expected = watch.expect(&heard).await.unwrap();
            assert!(expected.within(Duration::ZERO).await.unwrap().is_some());
        }
    }
}

/// The master refuses writes before the waiter has read the event, which is what a failover can do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_hears_of_an_event_when_the_master_serves_again() {
    let folder = Folder::new();
    let [master, _replica] = pair(&folder, ("MX_TEST_REDIS_8", "redis-server"));
    let client = redis::Client::open(format!("redis://{}/", master.address)).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    // Without a subscription it reads now and then.
    let here = watch(RedisWatchStore::from_connection(connection, []));
    let there = watch(store_of(&master));
    let needs = |replicas: usize| {
        let words = format!("CONFIG SET min-replicas-to-write {replicas}");
        assert!(ask(master.address, None, &words).starts_with("OK"));
    };
    let job = new_guid();
    let expected = here.expect(&job).await.unwrap();
    let waiting = tokio::spawn(async move { expected.within(Duration::from_secs(60)).await });
    sleep(Duration::from_millis(100)).await;
    deliver(&there, &job).await.unwrap();
    needs(2);
    sleep(Duration::from_secs(11)).await;
    assert!(deliver(&there, &new_guid()).await.is_err());
    needs(1);
    let heard = timeout(Duration::from_secs(7), waiting).await;
    assert!(heard.expect("in time").unwrap().unwrap().is_some());
}

/// Redis 6 applies `min-replicas-to-write` to no script.
#[tokio::test]
async fn a_master_without_its_replica_refuses_changes_since_redis_7() {
    for (variable, program, refuses) in [
        ("MX_TEST_REDIS_6", "redis-server", false),
        ("MX_TEST_REDIS_7", "redis-server", true),
        ("MX_TEST_REDIS_8", "redis-server", true),
        ("MX_TEST_VALKEY_8", "valkey-server", true),
    ] {
        let folder = Folder::new();
        let settings = ["--min-replicas-to-write", "1"];
        let master = engine(&folder, (variable, program), &settings);
        let watch = watch(store_of(&master));
        let expected = watch.expect(&new_guid()).await;
        assert_eq!(expected.is_err(), refuses, "{variable}");
        let delivered = deliver(&watch, &new_guid()).await;
        assert_eq!(delivered.is_err(), refuses, "{variable}");
    }
}

/// The replica may take a moment until it acknowledges.
async fn wait_until_it_works(watch: &JobWatch) {
    let patience = Instant::now() + Duration::from_secs(20);
    while let Err(error) = watch.expect(&new_guid()).await {
        assert!(Instant::now() < patience, "{error:#}");
    }
}

fn refused(answer: Result<(), Error>, engine: &str) {
    let error = answer.expect_err(engine);
    assert_eq!(error.kind(), ErrorKind::WatchUnavailable);
    let causes = format!("{error:#}");
    assert!(causes.contains("0 of 1 replicas"), "{causes}");
}

/// Measurements for the guide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sentinel_failovers_forget_is_measured() {
    if !storm() {
        println!("MX_TEST_STORM=1 runs it");
        return;
    }
    for replicas in [1, 2] {
        for waits in [false, true] {
            let folder = Folder::new();
            let watched = watched(&folder, replicas, &[]);
            let replica = || match waits {
                true => watch(waiting(store(&watched), replicas)),
                false => watch(store(&watched)),
            };
            let mut load = Load::on(&replica(), &replica());
            load.wait_through(20).await;
            load.records(500).await;
            fail_over(&watched);
            wait_until("a replica that was the master", || {
                role(&watched, 0) == "slave"
            });
            load.records(500).await;
            let what = format!(
                "the watch, Sentinel, planned failover, {replicas} replicas, waits: {waits}"
            );
            let outcome = load.stop(store(&watched), &what).await;
            if waits {
                outcome.nothing_is_forgotten();
            }
        }
    }
    let folder = Folder::new();
    let mut watched = watched(&folder, 2, &[]);
    let (here, there) = (watch(store(&watched)), watch(store(&watched)));
    let mut load = Load::on(&here, &there);
    load.wait_through(20).await;
    load.records(500).await;
    watched.servers[0].crash();
    load.records(500).await;
    let what = "the watch, Sentinel, the master dies, 2 replicas, changes do not wait";
    load.stop(store(&watched), what).await;
}
