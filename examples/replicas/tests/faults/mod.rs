//! The faults that a test causes: it kills replicas and their server, and cuts connections.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::servers::Server;
use sqlx::PgPool;
use tokio::runtime::Handle;

#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) replicas_killed: usize,
    pub(crate) servers_restarted: usize,
    connections_cut: usize,
}

impl Faults {
    /// Causes one fault after each pause, in the same order each time, until `over` is set.
    ///
    /// It returns what it was given, once all of it listens again.
    pub(crate) fn cause(
        pause: Duration,
        mut replicas: Vec<Server>,
        mut server: Server,
        cut: impl Fn(),
        over: &AtomicBool,
    ) -> (Self, Vec<Server>, Server) {
        let mut faults = Self::default();
        for turn in 0.. {
            std::thread::sleep(pause);
            if over.load(Ordering::SeqCst) {
                break;
            }
            match turn % 6 {
                1 | 5 => {
                    cut();
                    faults.connections_cut += 1;
                }
                3 => {
                    if faults.servers_restarted % 2 == 0 {
                        server.stop();
                    } else {
                        server.crash();
                    }
                    server.restart();
                    server.wait_until_it_listens();
                    faults.servers_restarted += 1;
                }
                _ => {
                    let replica = fastrand::usize(..replicas.len());
                    replicas[replica].crash();
                    replicas[replica].restart();
                    faults.replicas_killed += 1;
                }
            }
            // An orchestrator does the same in production.
            replicas.iter_mut().for_each(Server::restart_if_it_ended);
        }
        for replica in &mut replicas {
            replica.wait_until_it_listens();
        }
        (faults, replicas, server)
    }
}

/// Cuts the connections of a Redis.
pub(crate) fn cut_redis(server: &Server) -> impl Fn() + Send + 'static {
    let port = server.address.port().to_string();
    move || {
        for kind in ["normal", "pubsub"] {
            let _ = Command::new("redis-cli")
                .args(["-p", &port, "client", "kill", "type", kind])
                .output();
        }
    }
}

/// Cuts the connections of a Postgres.
pub(crate) fn cut_postgres(pool: &PgPool) -> impl Fn() + Send + 'static {
    let (runtime, pool) = (Handle::current(), pool.clone());
    move || {
        let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
        let _ = runtime.block_on(sqlx::query(all).execute(&pool));
    }
}
