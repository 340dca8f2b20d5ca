//! The store of expected jobs on Redis and Valkey.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::ledger::{Reconnecting, Sentinels};
use mx_job_webhook::testing::check_watch_store;
use mx_job_webhook::watch::{
    Counts, Due, Entry, Failsafe, JobWatch, RedisWatchStore, Replaced, Stored, Update, WatchStore,
};
use mx_job_webhook::{ErrorKind, Job, JobRouter, Status};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncCommands as _, Client, Cmd, Pipeline, RedisFuture, Value};
use tokio::time::sleep;
use tower::{Layer as _, ServiceExt as _};

use crate::engines::programs;
use crate::engines::redis::{
    PASSWORD, SENTINEL_PASSWORD, ask, cluster_with_replica, replicated, wait_until, watched,
};
use crate::proxy::{Network, Proxy};
use crate::support::{LEASE, unique_id};
use harness::servers::{self, Folder, Server, free_address};

/// Longer than the watch takes to read entries again without a notification.
const PATIENCE: Duration = Duration::from_secs(20);

/// At most this much passes between a callback and its waiter if a notification arrives.
const AT_ONCE: Duration = Duration::from_secs(1);

fn client(server: &Server) -> Client {
    Client::open(format!("redis://{}/", server.address)).unwrap()
}

fn store(server: &Server) -> RedisWatchStore<Reconnecting> {
    RedisWatchStore::new(client(server))
}

async fn connection(server: &Server) -> MultiplexedConnection {
    let client = client(server);
    client.get_multiplexed_async_connection().await.unwrap()
}

fn guid(name: &str) -> JobGuid {
    name.parse().unwrap()
}

fn new_guid() -> JobGuid {
    guid(&format!("JOB-{}", unique_id()))
}

fn due_now(entry: &Entry) -> Update<'_> {
    Update {
        entry,
        due: Due::In(Duration::ZERO),
        keep: None,
        wakes: false,
    }
}

async fn put<S: WatchStore>(store: &S, job: &JobGuid) {
    let entry = Entry::default();
    let replaced = store.replace(job, None, due_now(&entry)).await;
    let replaced = replaced.map_err(Into::into).unwrap();
    assert!(matches!(replaced, Replaced::Done), "{replaced:?}");
}

async fn get<S: WatchStore>(store: &S, job: &JobGuid) -> Option<Stored> {
    let loaded = store.load(std::slice::from_ref(job)).await;
    loaded.map_err(Into::into).unwrap().pop().map(|(_, it)| it)
}

/// Delivers an event until it is acknowledged, as MX does.
async fn deliver(watch: &JobWatch, job: &JobGuid, status: Status) {
    let patience = Instant::now() + PATIENCE;
    let jobs = watch.layer().layer(JobRouter::new());
    let event = || Job::new(job.clone(), status.clone()).into();
    while let Err(error) = jobs.clone().oneshot(event()).await {
        assert_eq!(error.kind(), ErrorKind::WatchUnavailable);
        assert!(Instant::now() < patience, "{error:#}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Expects a job here, completes it there, and returns how long the waiter took to hear of it since the
/// delivery.
///
/// `before` runs while it waits.
async fn heard_after(here: &JobWatch, there: &JobWatch, before: impl Future) -> Duration {
    let job = new_guid();
    let expected = here.expect(&job).await.unwrap();
    let waiting = tokio::spawn(async move {
        let heard = expected.within(PATIENCE).await.unwrap();
        (heard.map(|job| job.status.clone()), Instant::now())
    });
    before.await;
    let delivered = Instant::now();
    deliver(there, &job, Status::Completed).await;
    let (heard, at) = waiting.await.unwrap();
    assert_eq!(heard, Some(Status::Completed));
    at.saturating_duration_since(delivered)
}

/// Waits until this many connections of the server have subscribed.
async fn subscribers(server: &Server, number: usize) {
    let address = server.address;
    let wait = move || {
        wait_until("subscribers", || {
            let found = ask(address, None, "CLIENT LIST TYPE pubsub");
            found.lines().filter(|line| line.contains("id=")).count() == number
        });
    };
    tokio::task::spawn_blocking(wait).await.unwrap();
}

async fn an_engine_works(variable: &str, program: &str) {
    let (folder, address) = (Folder::new(), free_address());
    let mut command = Command::new(programs(variable).join(program));
    command
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--save", "", "--dir"])
        .arg(folder.path())
        .stdout(Stdio::null());
    let server = Server::start(address, command);
    check_watch_store(store(&server)).await;
    // Whatever stays behind expires.
    let mut redis = connection(&server).await;
    let keys: Vec<String> = redis.keys("*").await.unwrap();
    for key in keys.iter().filter(|key| !key.ends_with(":due")) {
        assert!(key.starts_with("mx-job-webhook-watch:{watch}:"), "{key}");
        let left: i64 = redis.pttl(key).await.unwrap();
        let due: Option<f64> = redis
            .zscore(
                "mx-job-webhook-watch:{watch}:due",
                key.split(":entry:").nth(1).unwrap(),
            )
            .await
            .unwrap();
        // -1 is a key that never expires. One that has expired meanwhile has -2.
        assert!(left != -1 || due.is_some(), "{key}");
    }
}

#[tokio::test]
async fn redis_6_works() {
    an_engine_works("MX_TEST_REDIS_6", "redis-server").await;
}

#[tokio::test]
async fn redis_7_works() {
    an_engine_works("MX_TEST_REDIS_7", "redis-server").await;
}

#[tokio::test]
async fn redis_8_works() {
    an_engine_works("MX_TEST_REDIS_8", "redis-server").await;
}

#[tokio::test]
async fn valkey_8_works() {
    an_engine_works("MX_TEST_VALKEY_8", "valkey-server").await;
}

/// The user has what the documentation of the store lists, and nothing else.
#[tokio::test]
async fn the_documented_access_is_enough() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let commands = "+eval +evalsha +exists +hdel +hmget +hset +persist +pexpire +ping +publish \
                    +subscribe +time +zadd +zcard +zcount +zrangebyscore +zrem +zscore";
    let keys = "~mx-job-webhook-watch:* &mx-job-webhook-watch:*";
    let user = |name: &str, rights: &str| {
        let set = format!("ACL SETUSER {name} on >secret resetchannels {rights}");
        assert_eq!(ask(server.address, None, &set).trim(), "OK");
        let url = format!("redis://{name}:secret@{}/", server.address);
        RedisWatchStore::new(Client::open(url).unwrap())
    };
    check_watch_store(user("watch", &format!("{keys} {commands}"))).await;

    // Without the channel, subscribing is an error, and not a silence.
    let deaf = user(
        "deaf",
        &format!("~mx-job-webhook-watch:* {commands} -publish"),
    );
    let (here, there) = (JobWatch::new(deaf), JobWatch::new(store(&server)));
    let took = heard_after(&here, &there, sleep(Duration::from_millis(500))).await;
    assert!(took < Duration::from_secs(7), "{took:?}");
    let subscribed = ask(server.address, None, "PUBSUB CHANNELS");
    assert!(!subscribed.contains("changed"), "{subscribed}");
}

/// An expectation and what was heard of it are there after a crash, and who waits hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_while_a_job_is_waited_for_forgets_nothing() {
    let folder = Folder::new();
    let mut server = servers::redis(&folder, &["--appendfsync", "always"]);
    let (here, there) = (JobWatch::new(store(&server)), JobWatch::new(store(&server)));
    heard_after(&here, &there, async {}).await;
    subscribers(&server, 1).await;
    for _ in 0..3 {
        let took = heard_after(&here, &there, async {
            sleep(Duration::from_millis(50)).await;
            server.crash();
            sleep(Duration::from_millis(300)).await;
            server.restart();
            server.wait_until_it_listens();
        })
        .await;
        println!("Redis crashes while a job is waited for: heard {took:.2?} after the delivery");
        assert!(took < Duration::from_secs(7), "{took:?}");
    }
}

/// Two failsafes read jobs while the server is killed again and again. Each job is read, and ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_while_jobs_are_claimed_forgets_none() {
    const JOBS: usize = 60;
    let folder = Folder::new();
    let mut server = servers::redis(&folder, &["--appendfsync", "always"]);
    let watch = JobWatch::new(store(&server)).with_patience(Duration::ZERO);
    let mut expected = Vec::new();
    for _ in 0..JOBS {
        expected.push(watch.expect(&new_guid()).await.unwrap());
    }
    let (stop, stopped) = tokio::sync::watch::channel(());
    let failsafes: Vec<_> = (0..2)
        .map(|_| {
            let watch = JobWatch::new(store(&server));
            let jobs = watch.layer().layer(JobRouter::new());
            let read = |guid: JobGuid| async move {
                sleep(Duration::from_millis(30)).await;
                Ok::<_, std::io::Error>(Job::new(guid, Status::Completed))
            };
            let failsafe = Failsafe::new(&watch, jobs, read)
                .with_lease(Duration::from_secs(2))
                .with_concurrency(2);
            let mut stopped = stopped.clone();
            tokio::spawn(failsafe.run_until(async move { stopped.changed().await }))
        })
        .collect();
    for _ in 0..3 {
        sleep(Duration::from_millis(150)).await;
        server.crash();
        server.restart();
        server.wait_until_it_listens();
    }
    for expected in expected {
        let heard = expected.within(Duration::from_secs(60)).await.unwrap();
        assert!(heard.is_some(), "{expected:?} was forgotten");
    }
    drop(stop);
    for failsafe in failsafes {
        failsafe.await.unwrap();
    }
    let counts = store(&server).count().await.unwrap();
    assert_eq!(counts, Counts::default());
    let keys: Vec<String> = connection(&server).await.keys("*").await.unwrap();
    assert_eq!(keys.len(), JOBS, "{keys:?}");
    for key in keys {
        let left: i64 = connection(&server).await.pttl(&key).await.unwrap();
        assert!(left > 0, "{key} does not expire");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_wakes_another_watch_at_once() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let (here, there) = (JobWatch::new(store(&server)), JobWatch::new(store(&server)));
    heard_after(&here, &there, async {}).await;
    subscribers(&server, 1).await;
    let mut took = Vec::new();
    for _ in 0..101 {
        took.push(heard_after(&here, &there, sleep(Duration::from_millis(5))).await);
    }
    took.sort();
    println!(
        "Redis, a change wakes another watch: median {:.2?}, slowest {:.2?} after the delivery",
        took[50], took[100],
    );
    assert!(took[50] < Duration::from_millis(50), "{took:?}");
}

/// The subscription is closed, or goes silent, at the moment of the change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_notification_only_delays() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let proxy = Proxy::to(server.address).await;
    let through = Client::open(format!("redis://{}/", proxy.address)).unwrap();
    let here = JobWatch::new(RedisWatchStore::new(through));
    let there = JobWatch::new(store(&server));
    heard_after(&here, &there, async {}).await;
    subscribers(&server, 1).await;

    let job = new_guid();
    let expected = here.expect(&job).await.unwrap();
    let waiting = tokio::spawn(async move { expected.within(PATIENCE).await.unwrap() });
    sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    ask(server.address, None, "CLIENT KILL TYPE pubsub");
    deliver(&there, &job, Status::Completed).await;
    assert!(waiting.await.unwrap().is_some());
    println!(
        "Redis, the subscription is killed: heard after {:.2?}",
        started.elapsed()
    );
    assert!(started.elapsed() < Duration::from_secs(7));

    // The connections exist, and no data passes.
    subscribers(&server, 1).await;
    let connections = proxy.connections();
    let took = heard_after(&here, &there, async {
        sleep(Duration::from_millis(100)).await;
        proxy.stall_existing();
    })
    .await;
    println!("Redis, the subscription stalls: heard after {took:.2?}");
    assert!(took < Duration::from_secs(7), "{took:?}");
    // One new connection for calls, and one that subscribes.
    let patience = Instant::now() + PATIENCE;
    while proxy.connections() < connections + 2 {
        assert!(Instant::now() < patience, "the subscription is not renewed");
        sleep(Duration::from_millis(100)).await;
    }
    for _ in 0..3 {
        let took = heard_after(&here, &there, sleep(Duration::from_millis(300))).await;
        assert!(took < AT_ONCE, "{took:?}");
    }
}

/// A replica's entries may be old, and an old master's too.
#[tokio::test]
async fn a_replica_answers_no_call() {
    let folder = Folder::new();
    let servers = replicated(&folder, 1, &[]);
    let (master, replica) = (store(&servers[0]), store(&servers[1]));
    let (job, entry) = (new_guid(), Entry::default());
    put(&master, &job).await;
    wait_until("a replica that has the entry", || {
        ask(servers[1].address, None, "DBSIZE").trim() == "2"
    });
    assert!(replica.load(std::slice::from_ref(&job)).await.is_err());
    assert!(replica.replace(&job, None, due_now(&entry)).await.is_err());
    assert!(replica.claim_due(0, LEASE).await.is_err());
    assert!(replica.claim_due(1, LEASE).await.is_err());
    assert!(replica.count().await.is_err());
    assert!(get(&master, &job).await.is_some());
}

/// While the server is away, each call is an error in bounded time.
#[tokio::test]
async fn a_server_that_does_not_answer_is_an_error_in_bounded_time() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let proxy = Proxy::to(server.address).await;
    let through = Client::open(format!("redis://{}/", proxy.address)).unwrap();
    let store = RedisWatchStore::new(through);
    let watch = JobWatch::new(store.clone());
    for network in [
        Network::Down,
        Network::Hangs,
        Network::LosesAnswers,
        Network::Garbage,
    ] {
        put(&store, &new_guid()).await;
        proxy.set(network);
        let started = Instant::now();
        let refused = watch.expect(&new_guid()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WatchUnavailable, "{network:?}");
        assert!(started.elapsed() < Duration::from_secs(6), "{network:?}");
        proxy.set(Network::Works);
        let patience = Instant::now() + PATIENCE;
        while watch.expect(&new_guid()).await.is_err() {
            assert!(
                Instant::now() < patience,
                "{network:?}: it does not recover"
            );
        }
    }
}

/// With `noeviction`, a full server refuses new expectations, and hands out the old ones once it has memory.
#[tokio::test]
async fn a_full_server_refuses_and_forgets_nothing() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &["--maxmemory-policy", "noeviction"]);
    let (store, job) = (store(&server), new_guid());
    put(&store, &job).await;
    ask(server.address, None, "CONFIG SET maxmemory 1");
    let watch = JobWatch::new(store.clone());
    let refused = watch.expect(&new_guid()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WatchUnavailable);
    assert!(get(&store, &job).await.is_some());
    assert!(store.claim_due(1, LEASE).await.is_err());
    let counts = store.count().await.unwrap();
    assert_eq!((counts.outstanding, counts.overdue), (1, 1));
    ask(server.address, None, "CONFIG SET maxmemory 0");
    let claimed = store.claim_due(2, LEASE).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].0, job);
}

/// The answer is lost after the server has replaced the entry. The repeated call is not a conflict.
#[tokio::test]
async fn a_replacement_whose_answer_is_lost_is_done() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let proxy = Proxy::to(server.address).await;
    let through = Client::open(format!("redis://{}/", proxy.address)).unwrap();
    let store = RedisWatchStore::new(through);
    put(&store, &new_guid()).await;
    proxy.set(Network::LosesOneAnswer);
    let job = new_guid();
    put(&store, &job).await;
    assert!(get(&store, &job).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_and_its_subscription_follow_a_failover_by_sentinel() {
    let folder = Folder::new();
    let watched = watched(&folder, 1, &[]);
    let store = || {
        let addresses = watched
            .sentinels
            .iter()
            .map(|it| format!("redis://:{SENTINEL_PASSWORD}@{}/", it.address));
        let sentinels = Sentinels::new(addresses, "mymaster").unwrap();
        let login = format!("redis://:{PASSWORD}@any/");
        RedisWatchStore::from_sentinels(sentinels.with_master_login(login).unwrap())
    };
    check_watch_store(store()).await;
    let (here, there) = (JobWatch::new(store()), JobWatch::new(store()));
    heard_after(&here, &there, async {}).await;
    let new = watched.servers[1].address;
    let answer = ask(
        watched.sentinels[0].address,
        Some(SENTINEL_PASSWORD),
        "SENTINEL FAILOVER mymaster",
    );
    assert!(answer.starts_with("OK"), "{answer}");
    wait_until("another master", || {
        ask(new, Some(PASSWORD), "ROLE").starts_with("master")
    });
    sleep(Duration::from_secs(3)).await;
    // The old master still runs for some seconds, and hears nothing of the new one.
    let old = watched.servers[0].address;
    assert!(ask(old, Some(PASSWORD), "ROLE").starts_with("master"));
    let channels = ask(new, Some(PASSWORD), "PUBSUB CHANNELS *changed");
    assert!(channels.contains("changed"), "{channels}");
    for _ in 0..3 {
        let took = heard_after(&here, &there, sleep(Duration::from_millis(300))).await;
        assert!(took < AT_ONCE, "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_works_and_its_failover_is_followed() {
    let folder = Folder::new();
    let servers = cluster_with_replica(&folder);
    let urls = || {
        servers
            .iter()
            .map(|server| format!("redis://{}/", server.address))
    };
    let cluster = redis::cluster::ClusterClient::builder(urls())
        .response_timeout(Duration::from_secs(1))
        .connection_timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    let tag = crate::engines::redis::tag_of_first_master(&servers);
    let mut stores = Vec::new();
    for server in &servers {
        let connection = cluster.get_async_connection().await.unwrap();
        let nodes = [client(server)];
        stores.push(RedisWatchStore::from_connection(connection, nodes).with_key_prefix(&tag));
    }
    check_watch_store(stores[0].clone()).await;
    // A change reaches the subscribers of every node, the replica's too.
    let there = JobWatch::new(stores[0].clone());
    for store in &stores {
        let here = JobWatch::new(store.clone());
        heard_after(&here, &there, async {}).await;
        sleep(Duration::from_millis(300)).await;
        let took = heard_after(&here, &there, sleep(Duration::from_millis(300))).await;
        assert!(took < AT_ONCE, "{took:?}");
    }
    let job = new_guid();
    put(&stores[0], &job).await;
    let replica = servers[3].address;
    assert!(ask(replica, None, "CLUSTER FAILOVER").starts_with("OK"));
    wait_until("another master", || {
        ask(replica, None, "ROLE").starts_with("master")
    });
    let patience = Instant::now() + PATIENCE;
    let claimed = loop {
        match stores[0].claim_due(1, LEASE).await {
            Ok(claimed) => break claimed,
            Err(error) => assert!(Instant::now() < patience, "{error}"),
        }
    };
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].0, job);
    let took = heard_after(&JobWatch::new(stores[1].clone()), &there, sleep(AT_ONCE)).await;
    assert!(took < AT_ONCE, "{took:?}");
}

/// A node that is gone is not asked twice in a row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_gone_is_replaced_by_the_next_one() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let gone = Client::open("redis://127.0.0.1:1/").unwrap();
    let connection = connection(&server).await;
    let store =
        || RedisWatchStore::from_connection(connection.clone(), [gone.clone(), client(&server)]);
    let (here, there) = (JobWatch::new(store()), JobWatch::new(store()));
    let subscribed = async {
        subscribers(&server, 1).await;
    };
    let took = heard_after(&here, &there, subscribed).await;
    assert!(took < AT_ONCE, "{took:?}");
}

const DUE: &str = "mx-job-webhook-watch:{watch}:due";

fn entry_key(job: &JobGuid) -> String {
    format!("mx-job-webhook-watch:{{watch}}:entry:{job}")
}

/// Values that this version did not write are an error and stay unchanged. They hold up no other job.
#[tokio::test]
async fn values_of_later_versions_are_errors_and_stay_unchanged() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let (store, mut redis) = (store(&server), connection(&server).await);
    let good = [("version", "1"), ("stored", "1"), ("revision", "1")];
    let entry = ("entry", r#"{"version": 1, "names": []}"#);
    let mut cases: Vec<Vec<(&str, &str)>> = ["", "0", "2", "1 ", "-1", "1\0", "nan"]
        .map(|version| vec![("version", version), good[1], good[2], entry])
        .to_vec();
    cases.push(vec![("another", "field")]);
    cases.push(good.to_vec());
    for (field, value) in [
        ("stored", "soon"),
        ("stored", "1e5"),
        ("revision", ""),
        ("revision", "-1"),
        ("revision", "99999999999999999999"),
    ] {
        let others = good.iter().filter(|(name, _)| *name != field).copied();
        cases.push(others.chain([entry, (field, value)]).collect());
    }
    // These are claimed and then an error, until the lease expires.
    let mut documents = Vec::new();
    for document in ["", "\0", "{}", "[1]", r#"{"version": 2, "names": []}"#] {
        documents.push([&good[..], &[("entry", document)]].concat());
    }
    let last = cases.len();
    for (number, fields) in cases.iter().chain(&documents).enumerate() {
        let (job, other) = (new_guid(), new_guid());
        let key = entry_key(&job);
        let _: () = redis.hset_multiple(&key, fields).await.unwrap();
        let _: () = redis.zadd(DUE, job.as_str(), 1).await.unwrap();
        let jobs = std::slice::from_ref(&job);
        assert!(store.load(jobs).await.is_err(), "{fields:?}");
        let new = Entry::default();
        let replaced = store.replace(&job, None, due_now(&new)).await;
        assert!(replaced.is_err(), "{fields:?}");
        assert!(store.claim_due(1, LEASE).await.is_err(), "{fields:?}");
        put(&store, &other).await;
        let loaded = store.load(&[job.clone(), other.clone()]).await.unwrap();
        assert_eq!(loaded.len(), 1, "{fields:?}");
        let claimed = store.claim_due(1, LEASE).await.unwrap();
        assert_eq!(claimed.len(), 1, "{fields:?}");
        assert_eq!(claimed[0].0, other, "{fields:?}");
        let mut found: HashMap<String, String> = redis.hgetall(&key).await.unwrap();
        if number >= last {
            assert_ne!(found.insert("revision".into(), "1".into()), None);
        }
        let written = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        assert_eq!(found, written.collect(), "{fields:?}");
        let _: () = redis.zrem(DUE, job.as_str()).await.unwrap();
    }
}

#[tokio::test]
async fn keys_of_another_type_are_errors_and_stay_unchanged() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let (store, mut redis) = (store(&server), connection(&server).await);
    let (job, new) = (new_guid(), Entry::default());
    let _: () = redis.set(entry_key(&job), "text").await.unwrap();
    assert!(store.load(std::slice::from_ref(&job)).await.is_err());
    assert!(store.replace(&job, None, due_now(&new)).await.is_err());
    let text: String = redis.get(entry_key(&job)).await.unwrap();
    assert_eq!(text, "text");

    let other = new_guid();
    let _: () = redis.set(DUE, "text").await.unwrap();
    assert!(store.replace(&other, None, due_now(&new)).await.is_err());
    assert!(store.claim_due(1, LEASE).await.is_err());
    assert!(store.count().await.is_err());
    let text: String = redis.get(DUE).await.unwrap();
    assert_eq!(text, "text");
    let exists: bool = redis.exists(entry_key(&other)).await.unwrap();
    assert!(!exists, "an entry that is never due was written");
}

/// The server has lost an entry, which it does with another `maxmemory-policy`.
#[tokio::test]
async fn a_job_whose_entry_is_lost_is_removed_when_it_is_due() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let (store, mut redis) = (store(&server), connection(&server).await);
    let (lost, kept) = (new_guid(), new_guid());
    put(&store, &lost).await;
    put(&store, &kept).await;
    let _: () = redis.del(entry_key(&lost)).await.unwrap();
    let claimed = store.claim_due(1, LEASE).await.unwrap();
    assert_eq!(claimed[0].0, kept);
    let left: Vec<String> = redis.zrange(DUE, 0, -1).await.unwrap();
    assert_eq!(left, [kept.as_str()]);
    // A new entry is not due at the time of the lost one.
    put(&store, &lost).await;
    let _: () = redis.del(entry_key(&lost)).await.unwrap();
    let new = Entry::default();
    let update = Update {
        due: Due::Unchanged,
        ..due_now(&new)
    };
    store.replace(&lost, None, update).await.unwrap();
    let left: Vec<String> = redis.zrange(DUE, 0, -1).await.unwrap();
    assert_eq!(left, [kept.as_str()]);
}

#[tokio::test]
async fn revisions_keep_growing_when_the_servers_clock_is_set_back() {
    const LATER: u64 = 4_000_000_000_000_000;
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let (store, job) = (store(&server), new_guid());
    put(&store, &job).await;
    let mut redis = connection(&server).await;
    let _: () = redis
        .hset(entry_key(&job), "revision", LATER)
        .await
        .unwrap();
    let _: () = redis.hset(entry_key(&job), "stored", LATER).await.unwrap();
    let claimed = store.claim_due(1, LEASE).await.unwrap();
    assert_eq!(claimed[0].1.revision, LATER + 1);
    assert_eq!(claimed[0].1.age, Duration::ZERO);
    let entry = Entry::default();
    let update = due_now(&entry);
    store.replace(&job, Some(LATER + 1), update).await.unwrap();
    let stored = get(&store, &job).await.unwrap();
    assert_eq!(stored.revision, LATER + 2);
    assert!(stored.age < PATIENCE);
}

/// Of 100,000 jobs that are due, a claim touches those that it claims.
#[tokio::test]
async fn a_claim_reads_no_more_entries_than_it_claims() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &["--appendonly", "no"]);
    let (store, mut redis) = (store(&server), connection(&server).await);
    let fill = redis::Script::new(
        "for number = ARGV[1] + 1, ARGV[1] + 1000 do
             redis.call('ZADD', KEYS[1], number, number)
             redis.call('HSET', KEYS[2] .. number, 'version', '1', 'revision', '1', 'stored', '1',
                 'entry', '{\"version\": 1, \"names\": []}')
         end",
    );
    let entries = entry_key(&guid("X"));
    // The client waits for half a second for each.
    for start in 0..100 {
        let mut fill = fill.key(DUE);
        fill.key(entries.trim_end_matches('X')).arg(start * 1_000);
        let _: () = fill.invoke_async(&mut redis).await.unwrap();
    }
    store.claim_due(0, LEASE).await.unwrap();
    let calls = || {
        let stats = ask(server.address, None, "INFO commandstats");
        let lines = stats
            .lines()
            .filter_map(|line| line.strip_prefix("cmdstat_"));
        let calls = lines.map(|line| {
            let (name, rest) = line.split_once(":calls=").unwrap();
            let calls: usize = rest.split(',').next().unwrap().parse().unwrap();
            (name.to_owned(), calls)
        });
        calls.collect::<HashMap<_, _>>()
    };
    for limit in [1, 10, 100] {
        ask(server.address, None, "CONFIG RESETSTAT");
        let claimed = store.claim_due(limit, LEASE).await.unwrap();
        assert_eq!(claimed.len(), limit);
        let calls = calls();
        let of = |name: &str| calls.get(name).copied().unwrap_or(0);
        assert_eq!(of("zrangebyscore"), 1, "{calls:?}");
        for command in ["hmget", "hset", "zadd"] {
            assert_eq!(of(command), limit, "{command}: {calls:?}");
        }
        let all: usize = calls.values().sum();
        assert!(all <= 3 * limit + 6, "{calls:?}");
    }
    ask(server.address, None, "CONFIG SET slowlog-log-slower-than 0");
    ask(server.address, None, "SLOWLOG RESET");
    let started = Instant::now();
    store.claim_due(1, LEASE).await.unwrap();
    let took = started.elapsed();
    let log = ask(server.address, None, "SLOWLOG GET 10");
    let lines: Vec<_> = log.lines().collect();
    let at = lines.iter().position(|line| line.trim() == "EVALSHA");
    let micros = at.map_or("unknown", |at| lines[at - 1]);
    println!(
        "Redis, one of 100,000 due jobs is claimed in {took:.2?}; the server took {micros} µs"
    );
}

/// Counts the requests sent.
#[derive(Clone)]
struct Counting(MultiplexedConnection, Arc<AtomicUsize>);

impl ConnectionLike for Counting {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

#[tokio::test]
async fn round_trips_are_few() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let sent = Arc::new(AtomicUsize::new(0));
    let counting = Counting(connection(&server).await, sent.clone());
    let store = RedisWatchStore::from_connection(counting, []);
    let watch = JobWatch::new(store.clone());
    for warm in [true, false] {
        let job = new_guid();
        let mut trips = Vec::new();
        let mut count = |what: &str| trips.push((what.to_owned(), sent.swap(0, Ordering::SeqCst)));
        store.load(std::slice::from_ref(&job)).await.unwrap();
        count("load");
        let expected = watch.expect(&job).await.unwrap();
        count("expect");
        drop(expected);
        let expected = watch.expect(&job).await.unwrap();
        count("expect again");
        deliver(&watch, &job, Status::Completed).await;
        count("heard, expected");
        drop(expected);
        deliver(&watch, &job, Status::Completed).await;
        count("heard again");
        deliver(&watch, &new_guid(), Status::Completed).await;
        count("heard, not expected");
        store.claim_due(1, LEASE).await.unwrap();
        count("claim");
        store.count().await.unwrap();
        count("count");
        if !warm {
            println!("Redis, round trips: {trips:?}");
            let trips: Vec<_> = trips.iter().map(|(_, trips)| *trips).collect();
            assert_eq!(trips, [1, 1, 1, 2, 1, 1, 1, 1]);
        }
    }
}

#[tokio::test]
async fn changes_that_wait_for_no_replica_use_the_connection_of_the_reads() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let proxy = Proxy::to(server.address).await;
    let client = Client::open(format!("redis://{}/", proxy.address)).unwrap();
    let store = RedisWatchStore::new(client).with_replicated_changes(0, Duration::from_secs(1));
    put(&store, &new_guid()).await;
    store.count().await.unwrap();
    assert_eq!(proxy.connections(), 1);
}

/// As for the ledger: after the reply to another call, the store uses another connection.
#[tokio::test]
async fn a_connection_that_mixes_up_replies_is_replaced() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let proxy = Proxy::to(server.address).await;
    let client = Client::open(format!("redis://{}/", proxy.address)).unwrap();
    let store = RedisWatchStore::new(client);
    store.count().await.unwrap();
    proxy.mix_up_existing();
    store.count().await.unwrap_err();
    store.count().await.unwrap();

    // Changes that wait for replicas have a connection of their own. This server has no replicas.
    let store = store.with_replicated_changes(1, Duration::from_millis(10));
    let lacks_replicas = async || {
        let entry = Entry::default();
        let refused = store.replace(&new_guid(), None, due_now(&entry)).await;
        refused.unwrap_err().code() == Some("NOREPLICAS")
    };
    assert!(lacks_replicas().await);
    proxy.mix_up_existing();
    assert!(!lacks_replicas().await);
    assert!(lacks_replicas().await);
}

#[test]
fn printing_a_store_does_not_show_its_connection() {
    let node = Client::open("redis://user:secret@host/").unwrap();
    let from = "redis://user:secret@host/";
    let stores = [
        format!(
            "{:?}",
            RedisWatchStore::from_connection(from, [node.clone()])
        ),
        format!("{:?}", RedisWatchStore::new(node).with_key_prefix("a:")),
    ];
    assert!(stores[1].contains("\"a:\""), "{stores:?}");
    for shown in stores {
        assert!(
            !shown.contains("secret") && !shown.contains("host/"),
            "{shown}"
        );
    }
}
