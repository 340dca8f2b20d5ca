//! One Redis behind an address that moves or a server that refuses; connections are counted.

use std::time::{Duration, Instant};

use mx_job_webhook::ledger::{Ledger as _, Reconnecting, RedisLedger};
use redis::Client;

use super::proxy::Proxy;
use crate::engines::redis::{Load, ask, replicated, wait_until};
use crate::support::{LEASE, name, unique_id};
use harness::servers::{self, Folder, Server};

async fn behind(server: &Server, login: &str) -> (RedisLedger<Reconnecting>, Proxy) {
    let proxy = Proxy::to(server.address).await;
    let client = Client::open(format!("redis://{login}{}/", proxy.address)).unwrap();
    (RedisLedger::new(client), proxy)
}

/// The old primary continues as a replica, and its connections stay open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_follows_an_address_that_moves() {
    let folder = Folder::new();
    let servers = replicated(&folder, 1, &[]);
    let (old, new) = (servers[0].address, servers[1].address);
    let (ledger, proxy) = behind(&servers[0], "").await;
    let load = Load::on(&ledger);
    load.acknowledges(200).await;
    // In this order, the replica has every acknowledged event.
    ask(old, None, "CONFIG SET min-replicas-to-write 2");
    wait_until("a replica that has caught up", || {
        let offset = |server| {
            let info = ask(server, None, "INFO replication");
            let line = info
                .lines()
                .find(|line| line.starts_with("master_repl_offset"));
            line.map(str::to_owned)
        };
        offset(old) == offset(new)
    });
    ask(new, None, "REPLICAOF NO ONE");
    ask(old, None, &format!("REPLICAOF 127.0.0.1 {}", new.port()));
    proxy.lead_to(new);
    let moved = Instant::now();
    load.acknowledges(1).await;
    let took = moved.elapsed();
    load.acknowledges(200).await;
    let outcome = load.stop(&ledger, "Redis, the address moves").await;
    println!("Redis, the address moves: back after {took:.2?}");
    assert_eq!(outcome.lost, 0);
    assert!(took < Duration::from_secs(3), "back after {took:?}");
    // The first connection, the one to the new primary, and those made in between.
    assert!(
        proxy.connections() <= 4,
        "{} connections",
        proxy.connections()
    );
}

/// Makes calls for two seconds, all of which fail. Returns the number of connections they took.
async fn connections_while_it_refuses(server: &Server, login: &str, error: &str) -> usize {
    let (ledger, proxy) = behind(server, login).await;
    let until = Instant::now() + Duration::from_secs(2);
    let mut calls = 0;
    while Instant::now() < until {
        let claim = ledger.claim(&name(&unique_id(), 1), LEASE).await;
        let refused = claim.unwrap_err();
        assert!(
            refused.code() == Some(error) || format!("{refused:?}").contains(error),
            "{error}: {refused}"
        );
        calls += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let made = proxy.connections();
    println!("Redis, {error}: {calls} calls, {made} connections");
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_errors_that_a_new_connection_can_fix_cause_one() {
    let folder = Folder::new();
    let server = |arguments: &[&str]| servers::redis(&folder, arguments);
    let full = server(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let alone = server(&["--min-replicas-to-write", "1"]);
    let locked = server(&["--requirepass", "unknown"]);
    let busy = server(&["--lua-time-limit", "1"]);
    let address = busy.address;
    let spinning = Client::open(format!("redis://{address}/")).unwrap();
    let mut connection = spinning.get_multiplexed_async_connection().await.unwrap();
    let spin = tokio::spawn(async move {
        let script = redis::Script::new("while true do end");
        let _: redis::RedisResult<()> = script.invoke_async(&mut connection).await;
    });
    wait_until("a busy server", || {
        ask(address, None, "PING").contains("BUSY")
    });
    let (busy, full, alone, locked) = tokio::join!(
        connections_while_it_refuses(&busy, "", "BUSY"),
        connections_while_it_refuses(&full, "", "OOM"),
        connections_while_it_refuses(&alone, "", "NOREPLICAS"),
        connections_while_it_refuses(&locked, "", "NOAUTH"),
    );
    ask(address, None, "SCRIPT KILL");
    spin.abort();
    assert_eq!([busy, full, alone, locked], [1; 4]);
}

/// With any number of calls, a server that stays unusable causes at most five connections a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_unusable_causes_few_connections() {
    let folder = Folder::new();
    let servers = replicated(&folder, 1, &[]);
    let locked = servers::redis(&folder, &["--requirepass", "another"]);
    let (readonly, login) = tokio::join!(
        connections_while_it_refuses(&servers[1], "", "READONLY"),
        connections_while_it_refuses(&locked, ":wrong@", "AuthenticationFailed"),
    );
    for made in [readonly, login] {
        assert!((2..=14).contains(&made), "{made} connections");
    }
}
