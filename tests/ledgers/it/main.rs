//! The ledgers that several replicas share, on real servers.
//!
//! They find the shared servers by `MX_TEST_POSTGRES_URL` and `MX_TEST_REDIS_URL`, which `.ci/servers` prints; each
//! test starts the servers that it kills.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod attack_postgres;
mod attack_redis;
mod clocks;
mod dead_letters;
mod encodings;
mod engines;
mod failover;
mod isolation;
mod load;
mod mid_callback;
mod outages;
mod pgbouncer;
mod plans;
mod postgres;
mod postgres_table;
mod postgres_wire;
mod proxy;
mod queue;
mod redis;
mod redis_cluster;
mod redis_moves;
mod redis_sentinel;
mod redis_shapes;
mod settings;
mod support;
mod versions;
mod watch_cluster;
mod watch_failover;
mod watch_load;
mod watch_pgbouncer;
mod watch_postgres;
mod watch_redis;
mod watch_sentinel;
