//! The watch on a Redis Cluster whose masters change.

use std::time::Duration;

use mx_job_webhook::watch::RedisWatchStore;
use redis::Client;
use redis::cluster_async::ClusterConnection;
use tokio::time::sleep;

use crate::engines::redis::{
    ask, cluster_with_replica, pid, signal, tag_of_first_master, wait_until,
};
use crate::redis_cluster::connection;
use crate::watch_load::{Load, watch};
use harness::servers::{Folder, Server};

/// All keys are on the first master, where the first subscription is too.
async fn store(servers: &[Server], tag: &str) -> RedisWatchStore<ClusterConnection> {
    let nodes = servers.iter().map(|server| {
        let url = format!("redis://{}/", server.address);
        Client::open(url).unwrap()
    });
    RedisWatchStore::from_connection(connection(servers).await, nodes).with_key_prefix(tag)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_of_a_cluster_forgets_nothing() {
    let folder = Folder::new();
    let servers = cluster_with_replica(&folder);
    let tag = tag_of_first_master(&servers);
    let here = watch(store(&servers, &tag).await);
    let there = watch(store(&servers, &tag).await);
    let mut load = Load::on(&here, &there);
    load.wait_through(20).await;
    load.records(100).await;
    let replica = servers[3].address;
    assert!(ask(replica, None, "CLUSTER FAILOVER").starts_with("OK"));
    wait_until("another master", || {
        ask(replica, None, "INFO replication").contains("role:master")
    });
    // The load pauses while the old master hands over, and then continues.
    sleep(Duration::from_secs(1)).await;
    load.records(200).await;
    let what = "the watch, Redis Cluster, planned failover";
    let outcome = load.stop(store(&servers, &tag).await, what).await;
    outcome.nothing_is_forgotten();
    assert!(outcome.silence < Duration::from_secs(5), "{outcome}");
}

/// The process that subscribed at that node subscribes at the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_cluster_that_dies_forgets_only_what_it_acknowledged_last() {
    let folder = Folder::new();
    let mut servers = cluster_with_replica(&folder);
    let tag = tag_of_first_master(&servers);
    let here = watch(store(&servers, &tag).await);
    let there = watch(store(&servers, &tag).await);
    let mut load = Load::on(&here, &there);
    load.wait_through(20).await;
    load.records(100).await;
    servers[0].crash();
    load.records(200).await;
    let checked = store(&servers, &tag).await;
    let what = "the watch, Redis Cluster, a master dies";
    let outcome = load.stop(checked, what).await;
    assert!(outcome.forgotten_jobs.len() <= 10, "{outcome}");
    assert!(outcome.forgotten_events.len() <= 10, "{outcome}");
    outcome.every_waiter_hears();
    assert!(outcome.silence < Duration::from_secs(15), "{outcome}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_cluster_that_hangs_forgets_only_what_it_acknowledged_last() {
    let folder = Folder::new();
    let servers = cluster_with_replica(&folder);
    let tag = tag_of_first_master(&servers);
    let here = watch(store(&servers, &tag).await);
    let there = watch(store(&servers, &tag).await);
    let mut load = Load::on(&here, &there);
    load.wait_through(20).await;
    load.records(100).await;
    let (master, replica) = (servers[0].address, servers[3].address);
    let process = pid(master, None);
    signal(master, &process, "STOP");
    wait_until("another master", || {
        ask(replica, None, "INFO replication").contains("role:master")
    });
    // The client stays at a master that hangs for longer: it looks for another one when its connection breaks.
    signal(master, &process, "CONT");
    wait_until("a replica that was the master", || {
        ask(master, None, "INFO replication").contains("role:slave")
    });
    load.records(100).await;
    let what = "the watch, Redis Cluster, a master hangs";
    let outcome = load.stop(store(&servers, &tag).await, what).await;
    // The replica may lack the latest changes that the master acknowledged before it hung.
    assert!(outcome.forgotten_jobs.len() <= 10, "{outcome}");
    assert!(outcome.forgotten_events.len() <= 10, "{outcome}");
    outcome.every_waiter_hears();
    assert!(outcome.silence < Duration::from_secs(15), "{outcome}");
}
