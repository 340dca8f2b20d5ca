//! The ledger on Redis: its own behaviour, and faults that only a Redis has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, Ledger as _, Reconnecting, RedisLedger};
use mx_job_webhook::testing::check_ledger;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncCommands as _, Client, Cmd, Pipeline, RedisError, RedisFuture, ServerErrorKind, Value,
};

use super::outages;
use super::proxy::{Network, Proxy};
use crate::support::{LEASE, granted, name, unique_id};
use harness::servers::{self, Folder};

fn url() -> String {
    std::env::var("MX_TEST_REDIS_URL").unwrap()
}

fn client() -> Client {
    Client::open(url()).unwrap()
}

/// A connection to inspect the ledger's keys.
async fn connection() -> MultiplexedConnection {
    client().get_multiplexed_async_connection().await.unwrap()
}

async fn proxied() -> (RedisLedger<Reconnecting>, Proxy) {
    let server = url().split('/').nth(2).unwrap().parse().unwrap();
    let proxy = Proxy::to(server).await;
    let client = Client::open(format!("redis://{}/", proxy.address)).unwrap();
    (RedisLedger::new(client), proxy)
}

#[tokio::test]
async fn the_redis_ledger_conforms() {
    check_ledger(RedisLedger::new(client())).await;
}

#[tokio::test]
async fn the_redis_ledger_recovers_from_outages() {
    let (ledger, proxy) = proxied().await;
    outages::are_survived(ledger, proxy).await;
}

#[tokio::test]
async fn a_connection_that_broke_while_idle_fails_no_call() {
    let (ledger, proxy) = proxied().await;
    let guid = unique_id();
    for second in 0..3 {
        let event = name(&guid, second);
        let token = granted(ledger.claim(&event, LEASE).await.unwrap());
        proxy.cut().await;
        let commit = ledger.commit(&event, token).await;
        assert_eq!(commit.unwrap(), Commit::Settled);
        proxy.cut().await;
    }
}

/// "With 0, commits do not wait": they need no second connection either.
#[tokio::test]
async fn commits_that_wait_for_no_replica_use_the_connection_of_the_claims() {
    let (ledger, proxy) = proxied().await;
    let ledger = ledger.with_replicated_commits(0, Duration::from_millis(100));
    let event = name(&unique_id(), 1);
    let token = granted(ledger.claim(&event, LEASE).await.unwrap());
    let commit = ledger.commit(&event, token).await;
    assert_eq!(commit.unwrap(), Commit::Settled);
    assert_eq!(proxy.connections(), 1);
}

/// The server has granted the claim and its answer was lost: asked again, it grants the same claim.
#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_granted_on_retry() {
    let (ledger, proxy) = proxied().await;
    let (warm, event) = (name(&unique_id(), 1), name(&unique_id(), 1));
    ledger.claim(&warm, LEASE).await.unwrap();
    proxy.set(Network::LosesOneAnswer);
    let token = granted(ledger.claim(&event, LEASE).await.unwrap());
    let direct = RedisLedger::new(client());
    assert_eq!(direct.claim(&event, LEASE).await.unwrap(), Claim::InFlight);
    assert_eq!(ledger.commit(&event, token).await.unwrap(), Commit::Settled);
}

#[tokio::test]
async fn a_job_is_one_key_with_the_prefix_and_expires_after_the_window() {
    let mut redis = connection().await;
    let guid = unique_id();
    let ledger = RedisLedger::new(client())
        .with_key_prefix("another application:")
        .with_window(Duration::from_secs(2));
    let key = format!("another application:{guid}");
    let (first, second) = (name(&guid, 10), name(&guid, 20));
    for event in [&first, &second] {
        let claim = ledger.claim(event, Duration::from_secs(1)).await.unwrap();
        ledger.commit(event, granted(claim)).await.unwrap();
    }
    let found: Vec<String> = redis.keys(format!("*{guid}*")).await.unwrap();
    assert_eq!(found, std::slice::from_ref(&key));
    let left: i64 = redis.pttl(&key).await.unwrap();
    assert!((1_000..=2_000).contains(&left), "{left} ms");
    // Another prefix is a separate ledger.
    let other = RedisLedger::new(client());
    granted(other.claim(&first, LEASE).await.unwrap());

    tokio::time::sleep(Duration::from_millis(2_100)).await;
    // A claim longer than the window is not shortened by it.
    granted(ledger.claim(&first, LEASE).await.unwrap());
    let left = async || -> i64 { connection().await.pttl(&key).await.unwrap() };
    let lease = 590_000..=600_000;
    assert!(lease.contains(&left().await), "{} ms", left().await);
    // Nor by another event of the job.
    let claim = ledger.claim(&second, Duration::from_secs(1)).await.unwrap();
    assert!(lease.contains(&left().await), "{} ms", left().await);
    ledger.commit(&second, granted(claim)).await.unwrap();
    assert!(lease.contains(&left().await), "{} ms", left().await);
}

#[tokio::test]
async fn tokens_keep_growing_when_the_servers_clock_is_set_back() {
    const LATER: u64 = 4_000_000_000_000_000;
    let guid = unique_id();
    let ledger = RedisLedger::new(client());
    let event = name(&guid, 10);
    let token = granted(ledger.claim(&event, LEASE).await.unwrap());
    ledger.release(&event, token).await.unwrap();
    let key = format!("mx-job-webhook:{guid}");
    let _: () = connection().await.hset(key, "token", LATER).await.unwrap();
    let token = granted(ledger.claim(&event, LEASE).await.unwrap());
    assert_eq!(token, FencingToken::new(LATER + 1));
    assert_eq!(ledger.commit(&event, token).await.unwrap(), Commit::Settled);
}

#[tokio::test]
async fn an_event_that_the_server_lost_can_be_settled_and_tokens_keep_growing() {
    let mut redis = connection().await;
    let guid = unique_id();
    let ledger = RedisLedger::new(client());
    let event = name(&guid, 10);
    let before = granted(ledger.claim(&event, LEASE).await.unwrap());
    let _: () = redis.del(format!("mx-job-webhook:{guid}")).await.unwrap();
    let after = granted(ledger.claim(&event, LEASE).await.unwrap());
    assert!(before < after);
    let _: () = redis.del(format!("mx-job-webhook:{guid}")).await.unwrap();
    assert_eq!(ledger.commit(&event, after).await.unwrap(), Commit::Settled);
    assert_eq!(ledger.claim(&event, LEASE).await.unwrap(), Claim::Settled);
    let earlier = ledger.claim(&name(&guid, 9), LEASE).await.unwrap();
    assert_eq!(earlier, Claim::Stale);
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
async fn each_call_is_one_round_trip_once_the_server_knows_the_scripts() {
    let sent = Arc::new(AtomicUsize::new(0));
    let ledger = RedisLedger::from_connection(Counting(connection().await, sent.clone()));
    for warm in [true, false] {
        let (settled, released) = (name(&unique_id(), 1), name(&unique_id(), 1));
        sent.store(0, Ordering::SeqCst);
        let token = granted(ledger.claim(&settled, LEASE).await.unwrap());
        ledger.commit(&settled, token).await.unwrap();
        let token = granted(ledger.claim(&released, LEASE).await.unwrap());
        ledger.release(&released, token).await.unwrap();
        if !warm {
            assert_eq!(sent.load(Ordering::SeqCst), 4);
        }
    }
    // A restarted server knows no scripts.
    let _: () = redis::cmd("SCRIPT")
        .arg("FLUSH")
        .query_async(&mut connection().await)
        .await
        .unwrap();
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
}

/// "An error of a call that got the reply to another one": the next call uses another connection.
#[tokio::test]
async fn a_connection_that_mixes_up_replies_is_replaced() {
    let (ledger, proxy) = proxied().await;
    let event = name(&unique_id(), 1);
    let token = granted(ledger.claim(&event, LEASE).await.unwrap());
    proxy.mix_up_existing();
    ledger.commit(&event, token).await.unwrap_err();
    assert_eq!(ledger.commit(&event, token).await.unwrap(), Commit::Settled);

    // Commits that wait for replicas have a connection of their own. This server has no replicas.
    let ledger = ledger.with_replicated_commits(2, Duration::from_millis(10));
    assert!(format!("{ledger:?}").contains("replicas: 2"));
    let lacks_replicas = async || {
        let refused = ledger.commit(&event, token).await.unwrap_err();
        refused.code() == Some("NOREPLICAS")
    };
    assert!(lacks_replicas().await);
    proxy.mix_up_existing();
    assert!(!lacks_replicas().await);
    assert!(lacks_replicas().await);
}

/// A connection to a cluster whose first scripts are answered by a node that is no longer the master.
#[derive(Clone)]
struct Moved {
    connection: MultiplexedConnection,
    /// How many scripts are refused, and how many were called.
    refusals: Arc<AtomicUsize>,
    scripts: Arc<AtomicUsize>,
}

impl ConnectionLike for Moved {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let is_script = command
            .get_packed_command()
            .windows(7)
            .any(|it| it == b"EVALSHA");
        let less = |left: usize| left.checked_sub(1);
        self.scripts
            .fetch_add(usize::from(is_script), Ordering::SeqCst);
        let (ordering, left) = (Ordering::SeqCst, &self.refusals);
        if is_script && left.fetch_update(ordering, ordering, less).is_ok() {
            let kind = ServerErrorKind::ReadOnly.into();
            let error = RedisError::from((kind, "You can't write against a read only replica."));
            return Box::pin(async { Err(error) });
        }
        self.connection.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

/// A cluster's client may need some attempts to learn a new master. A call waits for that, and not for long.
#[tokio::test]
async fn a_call_is_repeated_until_the_client_of_a_cluster_knows_the_master() {
    let (refusals, scripts) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let ledger = RedisLedger::from_connection(Moved {
        connection: connection().await,
        refusals: refusals.clone(),
        scripts: scripts.clone(),
    });
    for count in 1..=4 {
        refusals.store(count, Ordering::SeqCst);
        granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
        assert_eq!(refusals.load(Ordering::SeqCst), 0);
    }
    // Another error is no reason to repeat it.
    let guid = unique_id();
    let key = format!("mx-job-webhook:{guid}");
    let _: () = connection()
        .await
        .set_ex(key, "no entry", 60)
        .await
        .unwrap();
    for count in [0, 1] {
        refusals.store(count, Ordering::SeqCst);
        scripts.store(0, Ordering::SeqCst);
        ledger.claim(&name(&guid, 1), LEASE).await.unwrap_err();
        assert_eq!(scripts.load(Ordering::SeqCst), count + 1);
    }
    refusals.store(usize::MAX, Ordering::SeqCst);
    let event = name(&unique_id(), 1);
    let claim = tokio::time::timeout(Duration::from_secs(2), ledger.claim(&event, LEASE));
    assert_eq!(claim.await.unwrap().unwrap_err().code(), Some("READONLY"));
}

/// A connection that stalls for good, as behind a firewall that dropped it, delays the calls that
/// wait for it by a second. Other calls use a new connection.
#[tokio::test]
async fn a_connection_that_stalls_is_replaced() {
    let (ledger, proxy) = proxied().await;
    ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap();
    proxy.stall_existing();
    let started = std::time::Instant::now();
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_secs(1), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    let next = name(&unique_id(), 1);
    let claim = ledger.claim(&next, LEASE);
    granted(
        tokio::time::timeout(Duration::from_secs(1), claim)
            .await
            .unwrap()
            .unwrap(),
    );
}

/// Calls that are cancelled while they wait for a connection do not prevent it from being established.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_recovers_with_its_server_under_load() {
    let server = url().split('/').nth(2).unwrap().parse().unwrap();
    let proxy = Proxy::slow_to_connect(server, Duration::from_millis(30)).await;
    let client = Client::open(format!("redis://{}/", proxy.address)).unwrap();
    let ledger = RedisLedger::new(client);
    ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap();
    proxy.set(Network::Hangs);
    let answered = Arc::new(AtomicUsize::new(0));
    let load = tokio::spawn({
        let answered = answered.clone();
        async move {
            loop {
                let (ledger, answered) = (ledger.clone(), answered.clone());
                tokio::spawn(async move {
                    let event = name(&unique_id(), 1);
                    let claim = ledger.claim(&event, LEASE);
                    if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), claim).await {
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                });
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(answered.load(Ordering::SeqCst), 0);
    proxy.set(Network::Works);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(
        answered.load(Ordering::SeqCst) > 100,
        "the ledger has not recovered"
    );
    load.abort();
}

/// A slow call is repeated, granted and released. The first call, which arrives now, is not
/// granted, because its caller is gone.
#[tokio::test]
async fn a_late_claim_is_not_granted_after_its_release() {
    let (ledger, guid) = (RedisLedger::new(client()), unique_id());
    let event = name(&guid, 10);
    let claim = async |claim: &str| {
        let script = redis::Script::new(include_str!("../../../src/ledger/redis/claim.lua"));
        let mut script = script.key(format!("mx-job-webhook:{guid}"));
        script
            .arg("COMPLETED 10")
            .arg("")
            .arg(60_000_000)
            .arg(60_000)
            .arg(claim);
        let answer: (String, String, String, u64) =
            script.invoke_async(&mut connection().await).await.unwrap();
        (answer.2, answer.3)
    };
    let (answer, token) = claim("a").await;
    assert_eq!(answer, "granted");
    ledger
        .release(&event, FencingToken::new(token))
        .await
        .unwrap();
    assert_eq!(claim("a").await, ("in flight".to_owned(), 0));
    assert_eq!(claim("b").await.0, "granted");
}

#[test]
fn printing_a_ledger_does_not_show_its_connection() {
    let ledger = RedisLedger::from_connection("redis://user:secret@host/").with_key_prefix("a:");
    let shown = format!("{ledger:?}");
    assert!(
        shown.contains("\"a:\"") && !shown.contains("secret"),
        "{shown}"
    );
}

/// Each job is in one slot, and the jobs are spread over all three servers.
#[tokio::test]
async fn the_redis_ledger_conforms_on_a_cluster() {
    let folder = Folder::new();
    let servers = servers::redis_cluster(&folder);
    let nodes = servers
        .iter()
        .map(|server| format!("redis://{}/", server.address));
    let cluster = redis::cluster::ClusterClient::new(nodes).unwrap();
    let shared = cluster.get_async_connection().await.unwrap();
    check_ledger(RedisLedger::from_connection(shared)).await;
    for server in &servers {
        let node = Client::open(format!("redis://{}/", server.address)).unwrap();
        let mut node = node.get_multiplexed_async_connection().await.unwrap();
        let keys: usize = redis::cmd("DBSIZE").query_async(&mut node).await.unwrap();
        assert!(keys > 0);
    }
}
