//! The queue in a storm: processes that are killed or frozen, a server that crashes, a pooler that disappears.
//!
//! Receivers and workers are processes of their own, because SIGKILL runs no destructor: this program starts itself.
//! They reach PostgreSQL through PgBouncer, and a sender delivers each event until it is acknowledged, as MX does.
//!
//! `MX_TEST_STORM=1` runs the long storm. `MX_TEST_STORM_SEED` repeats the order of the kills.

use std::collections::BTreeSet;
use std::env;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use mx_job_webhook::queue::{JobQueue, Try};
use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, sleep, timeout};
use tower::BoxError;

use super::{DEAD_AFTER, Fixture, completed, queue, quick};
use crate::engines::pgbouncer;
use crate::engines::postgres::{Postgres, Version, at};
use crate::support::SAMPLE;
use harness::run;
use harness::servers::{Folder, Server, free_address};

/// Longer than the storm keeps any event waiting.
const PATIENCE: Duration = Duration::from_secs(90);

/// How many receivers there are, and how many workers.
const REPLICAS: usize = 3;

/// How many callbacks a worker runs at once.
const CONCURRENCY: usize = 4;

/// How many deliveries are sent at once.
const SENDERS: usize = 8;

const USER: &str = "mx";
const PASSWORD: &str = "secret";

/// The variables that make this program one of the processes.
const ROLE: &str = "MX_TEST_STORM_ROLE";
const DATABASE: &str = "MX_TEST_STORM_DATABASE";
const SERVER: &str = "MX_TEST_STORM_SERVER";
const ADDRESS: &str = "MX_TEST_STORM_ADDRESS";

/// What the storm observes. The triggers note each event that was taken over, and each worker that reports after that,
/// with the time for which it was silent.
const TABLES: &str = "
    CREATE TABLE effects (guid text NOT NULL, try int NOT NULL);
    CREATE TABLE taken_over (worker text NOT NULL);
    CREATE TABLE came_back (worker text NOT NULL, silence interval NOT NULL);
    CREATE FUNCTION note_take_over() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO taken_over VALUES (OLD.lock_by);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_take_over AFTER UPDATE ON apalis.jobs FOR EACH ROW
        WHEN (OLD.status = 'Running' AND NEW.lock_by IS NULL
            AND NEW.last_result ->> 'Err' = 'the worker stopped before the callback ended')
        EXECUTE FUNCTION note_take_over();
    CREATE FUNCTION note_return() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO came_back SELECT NEW.id, NEW.last_seen - OLD.last_seen
            WHERE EXISTS (SELECT FROM taken_over WHERE worker = NEW.id);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_return AFTER UPDATE ON apalis.workers FOR EACH ROW EXECUTE FUNCTION note_return();";

/// The server confirms commits before they are on its disk, unless a statement asks for more. A crash then loses what
/// the queue does not make durable.
const SERVER_SETTINGS: [&str; 2] = ["synchronous_commit=off", "wal_writer_delay=1s"];

const POOLER_SETTINGS: [(&str, &str); 4] = [
    ("pool_mode", "transaction"),
    // sqlx sends this parameter when it connects, and PgBouncer does not know it.
    ("ignore_startup_parameters", "extra_float_digits"),
    ("default_pool_size", "20"),
    // How soon it tries again to reach the server.
    ("server_login_retry", "0.2"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    Worker,
    Receiver,
    Postgres,
    PgBouncer,
}

/// What a seed stands for.
struct Plan {
    seed: u64,
    random: fastrand::Rng,
    /// The events in the order in which they are delivered, some of them more than once.
    deliveries: Vec<usize>,
    events: usize,
    kills: Vec<Kill>,
}

impl Plan {
    fn new() -> Self {
        let seed = env::var("MX_TEST_STORM_SEED")
            .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        let mut random = fastrand::Rng::with_seed(seed);
        let (events, kills) = match env::var_os("MX_TEST_STORM") {
            None => (400, [5, 4, 2, 2]),
            Some(_) => (2_000, [30, 20, 12, 12]),
        };
        let kinds = [
            Kill::Worker,
            Kill::Receiver,
            Kill::Postgres,
            Kill::PgBouncer,
        ];
        let kills = kinds.into_iter().zip(kills);
        let mut kills: Vec<_> = kills.flat_map(|(kind, times)| vec![kind; times]).collect();
        random.shuffle(&mut kills);
        let mut deliveries = Vec::new();
        for event in 0..events {
            deliveries.push((event, event));
            // Some deliveries are repeated at the same time, others later.
            for distance in [1, events / 4] {
                if random.u8(..10) == 0 {
                    deliveries.push((event + random.usize(0..=distance), event));
                }
            }
        }
        deliveries.sort_unstable();
        Self {
            seed,
            random,
            deliveries: deliveries.into_iter().map(|(_, event)| event).collect(),
            events,
            kills,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the engines: `.ci/servers engines` prints where they are"]
async fn a_storm_loses_nothing_and_no_event_is_stuck() {
    let mut plan = Plan::new();
    println!("MX_TEST_STORM_SEED={}", plan.seed);
    let start = Instant::now();
    let mut storm = Storm::new().await;
    let tally = Arc::new(Tally::default());
    let mut senders = send(&plan, &storm.addresses, &tally);
    let mut late = Vec::new();

    for (number, kill) in plan.kills.iter().enumerate() {
        // The kills are spread over the deliveries, so that each happens while there is work.
        let due = (number + 1) * plan.deliveries.len() / (plan.kills.len() + 1);
        tally.until_acknowledged(due).await;
        if tally.acknowledged() == plan.deliveries.len() {
            late.push(*kill);
        }
        storm.strike(*kill, &mut plan.random).await;
    }
    while let Some(sent) = senders.join_next().await {
        sent.unwrap();
    }
    while let Some(restarted) = storm.restarts.join_next().await {
        restarted.unwrap();
    }
    let delivered = start.elapsed();
    let counts = until_handled(&storm.pool, &storm.queue, plan.events).await;
    let handled = start.elapsed();
    storm.end().await;

    let killed = |kind| plan.kills.iter().filter(|kill| **kill == kind).count();
    println!(
        "{} events in {} deliveries, {} answered 503, {} broken off; killed: {} workers, {} receivers, \
         {} times PostgreSQL, {} times PgBouncer; {counts:?}; delivered after {delivered:.1?}, handled after {handled:.1?}",
        plan.events,
        plan.deliveries.len(),
        tally.unavailable.load(Ordering::Relaxed),
        tally.broken.load(Ordering::Relaxed),
        killed(Kill::Worker),
        killed(Kill::Receiver),
        killed(Kill::Postgres),
        killed(Kill::PgBouncer),
    );
    assert_each_event_is_done_once(&storm.pool, &storm.queue, plan.events).await;
    assert_eq!(late, [], "kills after the last delivery");
    assert!(
        counts.taken_over > 0,
        "no worker was killed during a callback"
    );
    assert!(
        tally.broken.load(Ordering::Relaxed) > 0,
        "no receiver was killed during a delivery"
    );
    assert!(
        tally.unavailable.load(Ordering::Relaxed) > 0,
        "the database was never away during a delivery"
    );
}

/// A worker that is frozen for longer than the time after which it counts as dead neither undoes what others did
/// meanwhile, nor does it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn workers_that_freeze_and_continue_do_no_harm() {
    const EVENTS: usize = 300;
    const ROUNDS: usize = 4;
    let fixture = Fixture::new().await;
    fixture.execute(TABLES).await;
    let folder = Folder::new();
    let pooler = pgbouncer::start(
        &folder,
        pgbouncer::Version::V1_24,
        fixture.database.server(),
        &POOLER_SETTINGS,
    );
    let options = at(pooler.address).database(&fixture.database.name);
    let mut workers: Vec<_> = (0..REPLICAS)
        .map(|_| Process::start("worker", &options, None))
        .collect();
    let start = Instant::now();
    let mut stored = 0;
    for round in 0..ROUNDS {
        while stored < EVENTS * (round + 1) / ROUNDS {
            fixture.store(completed(&guid(stored))).await;
            stored += 1;
        }
        let frozen = &workers[round % REPLICAS];
        fixture.until_a_worker_runs().await;
        frozen.signal("STOP");
        sleep(DEAD_AFTER * 2).await;
        frozen.signal("CONT");
        sleep(DEAD_AFTER / 4).await;
    }
    let counts = until_handled(&fixture.pool, &fixture.queue, EVENTS).await;
    println!(
        "{EVENTS} events; frozen: {ROUNDS} workers; {counts:?}; after {:.1?}",
        start.elapsed()
    );
    for worker in &workers {
        worker.signal("TERM");
    }
    for worker in &mut workers {
        worker.ended().await;
    }
    assert_each_event_is_done_once(&fixture.pool, &fixture.queue, EVENTS).await;
    assert!(
        counts.taken_over > 0,
        "no worker was frozen during a callback"
    );
    assert!(
        counts.came_back > 0,
        "no worker continued after others had taken its events over"
    );
}

impl Fixture {
    async fn until_a_worker_runs(&self) {
        let start = Instant::now();
        while self.rows("status = 'Running'").await == 0 {
            assert!(start.elapsed() < PATIENCE, "no event runs");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// PostgreSQL, PgBouncer in front of it, and the processes in front of that.
struct Storm {
    workers: Vec<Arc<Mutex<Process>>>,
    receivers: Vec<Arc<Mutex<Process>>>,
    addresses: Vec<SocketAddr>,
    restarts: JoinSet<()>,
    /// Past PgBouncer.
    pool: PgPool,
    queue: JobQueue,
    pgbouncer: Server,
    postgres: Postgres,
    _folder: Folder,
}

impl Storm {
    async fn new() -> Self {
        let folder = Folder::new();
        let postgres = Postgres::primary(&folder, Version::V15, &SERVER_SETTINGS);
        let (pool, queue) = queue(postgres.options());
        queue.migrate().await.unwrap();
        sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
        let pgbouncer = pgbouncer::start(
            &folder,
            pgbouncer::Version::V1_24,
            postgres.address(),
            &POOLER_SETTINGS,
        );
        let options = at(pgbouncer.address);
        let addresses: Vec<_> = (0..REPLICAS).map(|_| free_address()).collect();
        let shared = |process| Arc::new(Mutex::new(process));
        let receivers = addresses
            .iter()
            .map(|address| Process::start("receiver", &options, Some(*address)));
        let workers = (0..REPLICAS).map(|_| Process::start("worker", &options, None));
        Self {
            receivers: receivers.map(shared).collect(),
            workers: workers.map(shared).collect(),
            addresses,
            restarts: JoinSet::new(),
            pool,
            queue,
            pgbouncer,
            postgres,
            _folder: folder,
        }
    }

    async fn strike(&mut self, kill: Kill, random: &mut fastrand::Rng) {
        let chosen = random.usize(..REPLICAS);
        // Some outages are longer than a worker may be silent.
        let longest = DEAD_AFTER.as_millis() * 3 / 2;
        let outage = Duration::from_millis(random.u64(..=u64::try_from(longest).unwrap()));
        sleep(Duration::from_millis(random.u64(..50))).await;
        println!("{kill:?} {chosen} for {outage:.1?}");
        match kill {
            Kill::Worker => self.restart(self.workers[chosen].clone(), outage),
            Kill::Receiver => self.restart(self.receivers[chosen].clone(), outage),
            Kill::Postgres => {
                block_in_place(|| self.postgres.crash());
                sleep(outage).await;
                block_in_place(|| self.postgres.start_again());
            }
            Kill::PgBouncer => {
                block_in_place(|| self.pgbouncer.crash());
                sleep(outage).await;
                self.pgbouncer.restart();
                block_in_place(|| self.pgbouncer.wait_until_it_listens());
            }
        }
    }

    /// Kills a process, and starts it again while the storm continues.
    fn restart(&mut self, process: Arc<Mutex<Process>>, pause: Duration) {
        self.restarts.spawn(async move {
            let mut process = process.lock().await;
            process.kill();
            sleep(pause / 2).await;
            process.start_again();
        });
    }

    /// Ends the processes as a deployment does.
    async fn end(&mut self) {
        for process in self.workers.iter().chain(&self.receivers) {
            process.lock().await.signal("TERM");
        }
        for process in self.workers.iter().chain(&self.receivers) {
            process.lock().await.ended().await;
        }
    }
}

/// What the triggers noted.
///
/// In the storm, workers that came back were silent because the machine was busy, or because they found a server later
/// than others did. `dying` tests that an outage alone is no reason.
#[derive(Debug)]
#[allow(dead_code, reason = "the numbers are printed")]
struct Counts {
    taken_over: i64,
    came_back: i64,
    longest_silences: Vec<String>,
    tries: i64,
}

/// Waits until every event is done, and stays so for longer than a worker may be silent.
async fn until_handled(pool: &PgPool, queue: &JobQueue, events: usize) -> Counts {
    let start = Instant::now();
    let mut calm_since = None;
    while calm_since.is_none_or(|since: Instant| since.elapsed() < DEAD_AFTER * 3 / 2) {
        let left = number(
            pool,
            "SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'",
        )
        .await;
        if left == 0 {
            calm_since.get_or_insert_with(Instant::now);
        } else {
            calm_since = None;
            if start.elapsed() > PATIENCE {
                let stuck = "SELECT concat_ws(' ', idempotency_key, status, attempts, lock_by, now() - last_seen)
                    FROM apalis.jobs LEFT JOIN apalis.workers ON lock_by = workers.id WHERE status <> 'Done'";
                panic!(
                    "stuck: {:#?} {:?}",
                    texts(pool, stuck).await,
                    queue.counts().await
                );
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    println!(
        "{events} events expected, {} stored",
        number(pool, "SELECT count(*) FROM apalis.jobs").await
    );
    Counts {
        taken_over: number(pool, "SELECT count(*) FROM taken_over").await,
        came_back: number(pool, "SELECT count(DISTINCT worker) FROM came_back").await,
        longest_silences: texts(
            pool,
            "SELECT max(silence)::text FROM came_back GROUP BY worker",
        )
        .await,
        tries: number(pool, "SELECT sum(attempts) FROM apalis.jobs").await,
    }
}

/// Every event was acknowledged, so each has one row, which is done, and one effect.
async fn assert_each_event_is_done_once(pool: &PgPool, queue: &JobQueue, events: usize) {
    let expected: BTreeSet<_> = (0..events).map(guid).collect();
    let stored = "SELECT convert_from(job, 'UTF8')::jsonb -> 'job' ->> 'guid' FROM apalis.jobs WHERE status = 'Done'";
    let stored = texts(pool, stored).await;
    let done: BTreeSet<_> = stored.iter().cloned().collect();
    let lost: Vec<_> = expected.difference(&done).collect();
    assert!(lost.is_empty(), "acknowledged, and lost: {lost:?}");
    assert_eq!(stored.len(), events, "each event has one row");
    let effects = texts(pool, "SELECT guid FROM effects").await;
    let distinct: BTreeSet<_> = effects.iter().cloned().collect();
    let missing: Vec<_> = expected.difference(&distinct).collect();
    assert!(missing.is_empty(), "done without their effect: {missing:?}");
    let twice = "SELECT guid || ' in the tries ' || string_agg(try::text, ', ') FROM effects
        GROUP BY guid HAVING count(*) > 1";
    assert_eq!(
        texts(pool, twice).await,
        [""; 0],
        "effects that stand more than once"
    );

    let counts = queue.counts().await.unwrap();
    assert_eq!((counts.waiting, counts.running, counts.dead), (0, 0, 0));
    let not_done = "SELECT count(*) FROM apalis.jobs WHERE status <> 'Done' OR lock_by IS NOT NULL";
    assert_eq!(
        number(pool, not_done).await,
        0,
        "every row is done, and no worker holds it"
    );
    let unlocked =
        "SELECT count(*) FROM (SELECT FROM apalis.jobs FOR UPDATE SKIP LOCKED) AS unlocked";
    assert_eq!(
        number(pool, unlocked).await,
        i64::try_from(events).unwrap(),
        "no row is locked"
    );
    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    assert_eq!(number(pool, open).await, 0, "no transaction is open");
}

async fn number(pool: &PgPool, sql: &str) -> i64 {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

async fn texts(pool: &PgPool, sql: &str) -> Vec<String> {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap()
}

fn guid(event: usize) -> String {
    format!("JOB-{event:05}")
}

/// The answers to deliveries.
#[derive(Default)]
struct Tally {
    acknowledged: AtomicUsize,
    unavailable: AtomicUsize,
    /// Deliveries without an answer.
    broken: AtomicUsize,
}

impl Tally {
    fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    async fn until_acknowledged(&self, deliveries: usize) {
        let (start, before) = (Instant::now(), self.acknowledged());
        while self.acknowledged() < deliveries {
            let found = self.acknowledged();
            assert!(
                start.elapsed() < PATIENCE,
                "{found} deliveries are acknowledged, after {before}"
            );
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Sends the deliveries of a plan, each until it is acknowledged.
fn send(plan: &Plan, receivers: &[SocketAddr], tally: &Arc<Tally>) -> JoinSet<()> {
    let deliveries: Arc<[usize]> = plan.deliveries.clone().into();
    let next = Arc::new(AtomicUsize::new(0));
    let mut senders = JoinSet::new();
    for number in 0..SENDERS {
        let (deliveries, next) = (deliveries.clone(), next.clone());
        let mut sender = Sender {
            receivers: receivers.to_vec(),
            connection: None,
            connections: number,
            tally: tally.clone(),
        };
        senders.spawn(async move {
            while let Some(event) = deliveries.get(next.fetch_add(1, Ordering::Relaxed)) {
                sender.deliver_until_acknowledged(&guid(*event)).await;
                sleep(Duration::from_millis(fastrand::u64(..100))).await;
            }
        });
    }
    senders
}

/// A connection of the sender, which stays open as long as it works.
struct Sender {
    receivers: Vec<SocketAddr>,
    connection: Option<SendRequest<Full<Bytes>>>,
    /// How many connections there have been. Each is to the next receiver.
    connections: usize,
    tally: Arc<Tally>,
}

impl Sender {
    async fn deliver_until_acknowledged(&mut self, guid: &str) {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "{guid} is never acknowledged");
            let answer = timeout(Duration::from_secs(20), self.deliver(guid)).await;
            let count = match answer {
                Ok(Ok(204)) => {
                    self.tally.acknowledged.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(Ok(503)) => &self.tally.unavailable,
                Ok(Ok(other)) => panic!("answered {other}"),
                Ok(Err(_)) | Err(_) => {
                    self.connection = None;
                    &self.tally.broken
                }
            };
            count.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(fastrand::u64(20..200))).await;
        }
    }

    async fn deliver(&mut self, guid: &str) -> Result<u16, BoxError> {
        // Receivers that were killed get their share of connections back.
        if self.connection.is_none() || fastrand::u8(..10) == 0 {
            let receiver = self.receivers[self.connections % self.receivers.len()];
            self.connections += 1;
            let stream = TcpStream::connect(receiver).await?;
            let (connection, task) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(task);
            self.connection = Some(connection);
        }
        let connection = self.connection.as_mut().unwrap();
        connection.ready().await?;
        let body = SAMPLE.replace("JOB-a177e002-e5b8-0680-3427-39556fa93c6e", guid);
        let delivery = Request::post("/admin/webhooks")
            .header("host", "localhost")
            .header("authorization", "Basic bXg6c2VjcmV0")
            .header("content-type", "application/json; charset=utf-8")
            .body(Full::new(body.into()))?;
        let answer = connection.send_request(delivery).await?;
        let status = answer.status().as_u16();
        answer.into_body().collect().await?;
        Ok(status)
    }
}

/// A receiver or a worker. It is killed when dropped.
struct Process {
    command: Command,
    child: Child,
}

impl Process {
    fn start(role: &str, database: &PgConnectOptions, address: Option<SocketAddr>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args([
                "--ignored",
                "--exact",
                "queue::storm::process",
                "--nocapture",
            ])
            .env(ROLE, role)
            .env(SERVER, format!("127.0.0.1:{}", database.get_port()))
            .env(DATABASE, database.get_database().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        if let Some(address) = address {
            command.env(ADDRESS, address.to_string());
        }
        let child = command.spawn().unwrap();
        Self { command, child }
    }

    fn start_again(&mut self) {
        self.child = self.command.spawn().unwrap();
    }

    /// Kills it by SIGKILL.
    fn kill(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "a process has ended by itself: {ended:?}");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let signalled =
            run(Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]));
        assert!(signalled.status.success(), "{signalled:?}");
    }

    /// Waits until it has ended after a signal.
    async fn ended(&mut self) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status:?}");
                return;
            }
            assert!(start.elapsed() < PATIENCE, "a process does not end");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of the processes, if the variables say which.
#[test]
#[ignore = "the other tests start it"]
fn process() {
    let Ok(role) = env::var(ROLE) else { return };
    // It ends with the test that started it.
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let server = env::var(SERVER).unwrap().parse().unwrap();
    let options = at(server).database(&env::var(DATABASE).unwrap());
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate()).unwrap();
        let (pool, queue) = queue(options);
        match role.as_str() {
            "receiver" => {
                tokio::select! {
                    () = receive(&queue) => {}
                    _ = stop.recv() => {}
                }
            }
            "worker" => {
                let worker = quick(&queue, jobs(pool, queue.clone()));
                let worker = worker.with_concurrency(CONCURRENCY).with_tries(1_000);
                worker.run_until(stop.recv()).await.unwrap();
            }
            other => panic!("{other}"),
        }
    });
    runtime.shutdown_background();
}

async fn receive(queue: &JobQueue) {
    let address: SocketAddr = env::var(ADDRESS).unwrap().parse().unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let credentials = Credentials::basic(USER, PASSWORD).unwrap();
    let webhooks = JobWebhook::new(credentials, queue.enqueue());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(webhooks.clone());
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

/// Callbacks that take a while, and fail now and then at every step.
fn jobs(pool: PgPool, queue: JobQueue) -> JobRouter {
    JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, queue) = (pool.clone(), queue.clone());
        async move { callback(&pool, &queue, &event).await }
    })
}

async fn callback(pool: &PgPool, queue: &JobQueue, event: &JobEvent) -> Result<(), BoxError> {
    let time = match fastrand::u8(..100) {
        0 => DEAD_AFTER + DEAD_AFTER / 2,
        1..10 => Duration::from_millis(fastrand::u64(200..800)),
        _ => Duration::from_millis(fastrand::u64(5..60)),
    };
    sleep(time).await;
    fails_sometimes("before the transaction")?;
    let mut transaction = pool.begin().await?;
    let number = Try::of(event).ok_or("the event has no try")?.number();
    sqlx::query("INSERT INTO effects VALUES ($1, $2)")
        .bind(event.guid.as_str())
        .bind(i32::try_from(number)?)
        .execute(&mut *transaction)
        .await?;
    fails_sometimes("before the end of the event")?;
    queue.commit_in(&mut transaction, event).await?;
    sleep(Duration::from_millis(fastrand::u64(..10))).await;
    fails_sometimes("before the commit")?;
    transaction.commit().await?;
    fails_sometimes("after the commit")?;
    Ok(())
}

fn fails_sometimes(when: &str) -> Result<(), BoxError> {
    if fastrand::u8(..20) == 0 {
        return Err(when.into());
    }
    Ok(())
}
