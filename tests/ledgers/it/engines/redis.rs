//! Redis as in production: a primary with replicas, Sentinels, a cluster whose master has a replica.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger};

use crate::support::{LEASE, name, unique_id};
use harness::servers::{self, Folder, Server, free_address};

/// A generous limit for every step.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const PASSWORD: &str = "of-the-master";
pub(crate) const SENTINEL_PASSWORD: &str = "of-the-sentinels";

/// Returns whether to run tests that take long or load the machine.
pub(crate) fn storm() -> bool {
    std::env::var("MX_TEST_STORM").is_ok_and(|storm| storm == "1")
}

/// Sends a command to a server by `redis-cli`; spaces separate the words.
pub(crate) fn ask(server: SocketAddr, password: Option<&str>, words: &str) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &server.port().to_string()]);
    if let Some(password) = password {
        command.env("REDISCLI_AUTH", password);
    }
    let output = command.args(words.split(' ')).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < patience, "waited for: {what}");
        sleep(Duration::from_millis(50));
    }
}

/// Sends a signal to the server's process.
pub(crate) fn signal(server: SocketAddr, pid: &str, signal: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), pid])
        .status();
    assert!(sent.unwrap().success(), "{server}");
}

pub(crate) fn pid(server: SocketAddr, password: Option<&str>) -> String {
    let info = ask(server, password, "INFO server");
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"));
    line.unwrap().trim().to_owned()
}

/// A primary and the replicas that follow it.
pub(crate) fn replicated(folder: &Folder, replicas: usize, arguments: &[&str]) -> Vec<Server> {
    let arguments = [
        // Replication starts at once instead of after five seconds.
        &[
            "--repl-diskless-sync-delay",
            "0",
            "--repl-ping-replica-period",
            "1",
        ],
        arguments,
    ]
    .concat();
    let primary = servers::redis(folder, &arguments);
    let port = primary.address.port().to_string();
    let of_primary = [&arguments[..], &["--replicaof", "127.0.0.1", &port]].concat();
    let mut all = vec![primary];
    all.extend((0..replicas).map(|_| servers::redis(folder, &of_primary)));
    let password = arguments.contains(&"--requirepass").then_some(PASSWORD);
    wait_until("replicas that have caught up", || {
        let info = ask(all[0].address, password, "INFO replication");
        info.matches("state=online").count() == replicas
    });
    all
}

/// A primary `mymaster` with replicas, and three Sentinels. Servers and Sentinels have different passwords.
pub(crate) struct Watched {
    pub(crate) servers: Vec<Server>,
    pub(crate) sentinels: Vec<Server>,
}

pub(crate) fn watched(folder: &Folder, replicas: usize, arguments: &[&str]) -> Watched {
    let passwords = ["--requirepass", PASSWORD, "--masterauth", PASSWORD];
    let servers = replicated(folder, replicas, &[&passwords, arguments].concat());
    let primary = servers[0].address.port();
    let sentinels: Vec<_> = (0..3)
        .map(|_| {
            let address = free_address();
            let place = folder.path().join(format!("sentinel-{}", address.port()));
            fs::create_dir(&place).unwrap();
            let settings = format!(
                "bind 127.0.0.1\nport {}\ndir {}\nrequirepass {SENTINEL_PASSWORD}\n\
                 sentinel sentinel-pass {SENTINEL_PASSWORD}\n\
                 sentinel monitor mymaster 127.0.0.1 {primary} 2\n\
                 sentinel auth-pass mymaster {PASSWORD}\n\
                 sentinel down-after-milliseconds mymaster 1000\n\
                 sentinel failover-timeout mymaster 10000\n",
                address.port(),
                place.display(),
            );
            let file = place.join("sentinel.conf");
            fs::write(&file, settings).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(file).arg("--sentinel").stdout(Stdio::null());
            Server::start(address, command)
        })
        .collect();
    let watched = Watched { servers, sentinels };
    wait_until("Sentinels that know each other and the replicas", || {
        watched.sentinels.iter().all(|sentinel| {
            let about = ask(
                sentinel.address,
                Some(SENTINEL_PASSWORD),
                "SENTINEL MASTER mymaster",
            );
            let lines: Vec<_> = about.lines().collect();
            let value = |of: &str| {
                let at = lines.iter().position(|line| *line == of);
                at.map_or("", |at| lines[at + 1]).to_owned()
            };
            value("num-other-sentinels") == "2"
                && value("num-slaves") == replicas.to_string()
                && value("flags") == "master"
        })
    });
    // A Sentinel only promotes a replica that it knows.
    for sentinel in &watched.sentinels {
        wait_until("replicas that could take over", || {
            let about = ask(
                sentinel.address,
                Some(SENTINEL_PASSWORD),
                "SENTINEL REPLICAS mymaster",
            );
            about.matches("\nok\n").count() == replicas
        });
    }
    watched
}

/// Three masters and a replica of the first master; the replica comes last.
pub(crate) fn cluster_with_replica(folder: &Folder) -> Vec<Server> {
    let mut all = servers::redis_cluster(folder);
    let replica = servers::redis(
        folder,
        &[
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--repl-diskless-sync-delay",
            "0",
        ],
    );
    let master = all[0].address;
    let id = ask(master, None, "CLUSTER MYID").trim().to_owned();
    ask(
        replica.address,
        None,
        &format!("CLUSTER MEET 127.0.0.1 {}", master.port()),
    );
    wait_until("a cluster that the replica knows", || {
        ask(replica.address, None, &format!("CLUSTER REPLICATE {id}")).starts_with("OK")
    });
    all.push(replica);
    wait_until("a replica that all know and that has caught up", || {
        let replica = all[3].address;
        ask(replica, None, "INFO replication").contains("master_link_status:up")
            && ask(replica, None, "CLUSTER INFO").contains("cluster_state:ok")
            && all.iter().all(|server| {
                let nodes = ask(server.address, None, "CLUSTER NODES");
                nodes
                    .lines()
                    .any(|line| line.contains("slave") && line.contains(&id))
            })
    });
    all
}

/// A `{…}` whose slot belongs to the first master of a cluster.
pub(crate) fn tag_of_first_master(servers: &[Server]) -> String {
    let master = servers[0].address;
    let nodes = ask(master, None, "CLUSTER NODES");
    let myself = nodes.lines().find(|line| line.contains("myself")).unwrap();
    let (first, last) = myself.rsplit(' ').next().unwrap().split_once('-').unwrap();
    let slots = first.parse::<u32>().unwrap()..=last.parse().unwrap();
    loop {
        let tag = format!("{{{}}}", unique_id());
        let slot = ask(master, None, &format!("CLUSTER KEYSLOT {tag}"));
        if slots.contains(&slot.trim().parse().unwrap()) {
            return tag;
        }
    }
}

/// Claims and commits new events until it is stopped, and records those acknowledged.
pub(crate) struct Load {
    started: Instant,
    shared: Arc<Shared>,
    workers: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    acknowledged: Mutex<Vec<EventName>>,
    refused: AtomicUsize,
    /// Since the load started, in milliseconds.
    last: AtomicU64,
    longest_gap: AtomicU64,
}

/// The result of a load.
pub(crate) struct Outcome {
    pub(crate) acknowledged: usize,
    pub(crate) refused: usize,
    pub(crate) lost: usize,
    /// The longest time without an acknowledgement.
    pub(crate) longest_gap: Duration,
}

impl Load {
    pub(crate) fn on<L: Ledger<Error: Send> + Clone>(ledger: &L) -> Self {
        let (started, shared) = (Instant::now(), Arc::new(Shared::default()));
        let workers = (0..4)
            .map(|_| tokio::spawn(work(ledger.clone(), shared.clone(), started)))
            .collect();
        Self {
            started,
            shared,
            workers,
        }
    }

    /// Returns the number of acknowledgements so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.shared.acknowledged.lock().unwrap().len()
    }

    /// Waits for this many more acknowledgements.
    pub(crate) async fn acknowledges(&self, more: usize) {
        let goal = self.acknowledged() + more;
        let patience = Instant::now() + PATIENCE;
        while self.acknowledged() < goal {
            let refused = self.shared.refused.load(Ordering::SeqCst);
            assert!(
                Instant::now() < patience,
                "{} of {goal} acknowledged, {refused} refused: the server does not recover",
                self.acknowledged(),
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops the load, and asks the ledger for each acknowledged event.
    pub(crate) async fn stop<L: Ledger>(self, ledger: &L, what: &str) -> Outcome {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for worker in self.workers {
            worker.await.unwrap();
        }
        let ran = self.started.elapsed();
        let acknowledged = std::mem::take(&mut *self.shared.acknowledged.lock().unwrap());
        let mut lost = 0;
        for event in &acknowledged {
            let claim = ledger
                .claim(event, LEASE)
                .await
                .map_err(Into::into)
                .unwrap();
            lost += usize::from(claim != Claim::Settled);
        }
        let outcome = Outcome {
            acknowledged: acknowledged.len(),
            refused: self.shared.refused.load(Ordering::SeqCst),
            lost,
            longest_gap: Duration::from_millis(self.shared.longest_gap.load(Ordering::SeqCst)),
        };
        println!(
            "{what}: {} acknowledged in {ran:.1?}, {} lost, {} refused, none for {:.2?} at most",
            outcome.acknowledged, outcome.lost, outcome.refused, outcome.longest_gap,
        );
        outcome
    }
}

async fn work<L: Ledger<Error: Send>>(ledger: L, shared: Arc<Shared>, started: Instant) {
    while !shared.stopped.load(Ordering::SeqCst) {
        let event = name(&unique_id(), 1);
        if handled(&ledger, &event).await {
            let now = started.elapsed().as_millis() as u64;
            let last = shared.last.swap(now, Ordering::SeqCst);
            shared
                .longest_gap
                .fetch_max(now.saturating_sub(last), Ordering::SeqCst);
            shared.acknowledged.lock().unwrap().push(event);
        } else {
            shared.refused.fetch_add(1, Ordering::SeqCst);
        }
        // The rate is low, because the test measures the recovery time.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn handled<L: Ledger<Error: Send>>(ledger: &L, event: &EventName) -> bool {
    // Waits as long as the layer waits for a ledger.
    let limit = Duration::from_secs(5);
    let claim = tokio::time::timeout(limit, ledger.claim(event, LEASE)).await;
    let Ok(Ok(Claim::Granted(token))) = claim else {
        return false;
    };
    let commit = tokio::time::timeout(limit, ledger.commit(event, token)).await;
    matches!(commit, Ok(Ok(Commit::Settled)))
}
