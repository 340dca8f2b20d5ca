//! The ledger on a Redis Cluster whose masters change.

use std::time::Duration;

use mx_job_webhook::ledger::RedisLedger;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;

use crate::engines::redis::{
    Load, ask, cluster_with_replica, pid, signal, tag_of_first_master, wait_until,
};
use harness::servers::{Folder, Server};

/// All jobs are in a slot of the first master, which alone answers for them.
async fn ledger(servers: &[Server]) -> RedisLedger<ClusterConnection> {
    let connection = connection(servers).await;
    RedisLedger::from_connection(connection).with_key_prefix(tag_of_first_master(servers))
}

pub(crate) async fn connection(servers: &[Server]) -> ClusterConnection {
    let nodes = servers
        .iter()
        .map(|server| format!("redis://{}/", server.address));
    let client = ClusterClient::builder(nodes)
        .response_timeout(Duration::from_secs(1))
        .connection_timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    client.get_async_connection().await.unwrap()
}

/// The demoted node runs scripts on connections that may read from it, and answers READONLY.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_of_a_cluster_loses_no_event_and_is_short() {
    let folder = Folder::new();
    let servers = cluster_with_replica(&folder);
    let ledger = ledger(&servers).await;
    let load = Load::on(&ledger);
    load.acknowledges(200).await;
    let replica = servers[3].address;
    assert!(ask(replica, None, "CLUSTER FAILOVER").starts_with("OK"));
    wait_until("another master", || {
        ask(replica, None, "INFO replication").contains("role:master")
    });
    // The load pauses while the old master hands over, and then continues.
    tokio::time::sleep(Duration::from_secs(1)).await;
    load.acknowledges(500).await;
    let outcome = load.stop(&ledger, "Redis Cluster, planned failover").await;
    assert_eq!(outcome.lost, 0);
    assert!(outcome.longest_gap < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_cluster_that_hangs_and_returns_is_replaced() {
    let folder = Folder::new();
    let servers = cluster_with_replica(&folder);
    let ledger = ledger(&servers).await;
    let load = Load::on(&ledger);
    load.acknowledges(200).await;
    let (master, replica) = (servers[0].address, servers[3].address);
    let process = pid(master, None);
    signal(master, &process, "STOP");
    wait_until("another master", || {
        ask(replica, None, "INFO replication").contains("role:master")
    });
    signal(master, &process, "CONT");
    wait_until("a replica that was the master", || {
        ask(master, None, "INFO replication").contains("role:slave")
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    load.acknowledges(500).await;
    let outcome = load.stop(&ledger, "Redis Cluster, master hangs").await;
    // The replica may lack the latest events that the master acknowledged before it hung.
    assert!(outcome.lost <= 20, "{} lost", outcome.lost);
    assert!(outcome.longest_gap < Duration::from_secs(15));
}
