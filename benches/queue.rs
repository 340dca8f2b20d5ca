//! Events per second through the durable queue, from storing to done, beside plain apalis; and how soon events run.
//!
//! `cargo bench -p mx-job-webhook-benches --features queue --bench queue`, with `MX_TEST_POSTGRES_URL`. The server must
//! have `fsync`, because the comparison is about commits. The benchmark creates two databases and drops them. It takes
//! about seven minutes. Client and server share the machine, and so its processors.
//!
//! Both systems store the same body, call the same callback, and commit alike. apalis has its default configuration
//! (batches of ten, a pool of ten connections). The queue has its default of four connections, and callbacks have a pool
//! of ten. Systems take turns within each run, and only numbers of the same run are compared.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic fails the benchmark, which prints tables"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use apalis::prelude::{
    BackendExt as _, BoxDynError, Data, Strategy, TaskBuilder, TaskSink as _, WorkerBuilder,
    WorkerBuilderExt as _,
};
use apalis_postgres::PostgresStorage;
use mx_job_webhook::queue::{Enqueue, JobQueue};
use mx_job_webhook::{JobEvent, JobRouter};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tower::{BoxError, ServiceExt as _};

/// The events of a run, and the runs whose median is printed.
const EVENTS: usize = 2_000;
const RUNS: usize = 5;

/// The rate at which latency is measured, and for how many events.
const LOW_RATE: Duration = Duration::from_millis(20);
const LOW_EVENTS: usize = 500;

/// How often workers look for events: this crate's default, and the same for apalis, which has none.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, PartialEq, Eq)]
enum System {
    Queue,
    Apalis,
    ApalisPubsub,
}

const SYSTEMS: [System; 3] = [System::Queue, System::Apalis, System::ApalisPubsub];

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Queue => "this crate",
            Self::Apalis => "apalis",
            Self::ApalisPubsub => "apalis, pubsub",
        }
    }
}

/// What runs at the same time.
#[derive(Clone, Copy)]
enum Order {
    /// All events are stored before a worker starts.
    StoredFirst,
    /// The worker runs while events are stored.
    AtOnce,
}

#[tokio::main]
async fn main() {
    let Ok(url) = std::env::var("MX_TEST_POSTGRES_URL") else {
        println!("not run: MX_TEST_POSTGRES_URL has to name a server");
        return;
    };
    let server = PgPool::connect(&url).await.unwrap();
    let settings = "SELECT 'PostgreSQL ' || current_setting('server_version') || ', fsync '
        || current_setting('fsync') || ', synchronous_commit ' || current_setting('synchronous_commit')";
    let settings: String = sqlx::query_scalar(settings)
        .fetch_one(&server)
        .await
        .unwrap();
    println!("{settings}\n");
    let bench = Bench::new(&server).await;
    let case = std::env::args().nth(1).unwrap_or_default();
    if case != "latency" {
        bench.compare_throughput().await;
    }
    bench.compare_latency().await;
    bench.drop_databases(&server).await;
}

/// A database for each system, so that the indexes of this crate do not slow apalis down.
struct Bench {
    names: [String; 2],
    queue: PgPool,
    apalis: PgPool,
}

impl Bench {
    async fn new(server: &PgPool) -> Self {
        let run = fastrand::u64(..);
        let names = ["queue", "apalis"].map(|name| format!("mx_bench_{name}_{run:016x}"));
        let mut pools = Vec::new();
        for name in &names {
            execute(server, format!("CREATE DATABASE {name}")).await;
            let options: PgConnectOptions = (*server.connect_options()).clone();
            let pool = PgPoolOptions::new().connect_lazy_with(options.database(name));
            let effects = "CREATE TABLE mx_bench_effects (event text NOT NULL)";
            execute(&pool, effects.to_owned()).await;
            pools.push(pool);
        }
        let [queue, apalis] = pools.try_into().unwrap();
        JobQueue::postgres(queue.clone()).migrate().await.unwrap();
        PostgresStorage::setup(&apalis).await.unwrap();
        Self {
            names,
            queue,
            apalis,
        }
    }

    async fn drop_databases(self, server: &PgPool) {
        for name in &self.names {
            execute(server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
        }
    }

    fn pool(&self, system: System) -> &PgPool {
        match system {
            System::Queue => &self.queue,
            System::Apalis | System::ApalisPubsub => &self.apalis,
        }
    }

    async fn compare_throughput(&self) {
        println!(
            "| callback | at once | order | system | events/s | to apalis | stored/s | run/s | median | 99 % |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        for inserts in [false, true] {
            for concurrency in [4, 32] {
                for order in [Order::StoredFirst, Order::AtOnce] {
                    let mut runs = [const { Vec::new() }; SYSTEMS.len()];
                    for number in 0..RUNS {
                        for turn in 0..SYSTEMS.len() {
                            let index = (number + turn) % SYSTEMS.len();
                            let system = SYSTEMS[index];
                            let run = self.run(system, order, concurrency, inserts).await;
                            runs[index].push(run);
                        }
                    }
                    print(&runs, order, concurrency, inserts);
                }
            }
        }
    }

    /// Measures how long events of other processes wait at a low rate.
    async fn compare_latency(&self) {
        println!("\n| system | store, median | store, 99 % | effect, median | effect, 99 % |");
        println!("|---|---|---|---|---|");
        for system in SYSTEMS {
            self.clear(system).await;
            let app = App::new(self.pool(system), true, LOW_EVENTS);
            // Pools of its own, as in another process.
            let other = (*self.pool(system).connect_options()).clone();
            let other = PgPoolOptions::new().connect_lazy_with(other);
            let store = Store::new(system, &other);
            let worker = Worker::start(system, &app, 4).await;
            let mut ticks = interval(LOW_RATE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut stores = JoinSet::new();
            for number in 0..LOW_EVENTS {
                ticks.tick().await;
                let (mut store, app) = (store.clone(), app.clone());
                stores.spawn(async move {
                    let started = app.sent(number);
                    store.store(body(number)).await;
                    started.elapsed()
                });
            }
            let mut stored = stores.join_all().await;
            app.ran().await;
            worker.stop().await;
            stored.sort_unstable();
            let effects = app.latencies();
            let [store, store_99] = percentiles(&stored);
            let [effect, effect_99] = percentiles(&effects);
            println!(
                "| {} | {store:.1?} | {store_99:.1?} | {effect:.1?} | {effect_99:.1?} |",
                system.name()
            );
        }
    }

    async fn clear(&self, system: System) {
        let clear = "TRUNCATE apalis.jobs, mx_bench_effects; CHECKPOINT";
        execute(self.pool(system), clear.to_owned()).await;
    }

    async fn run(
        &self,
        system: System,
        order: Order,
        concurrency: usize,
        inserts: bool,
    ) -> Measured {
        self.clear(system).await;
        let pool = self.pool(system);
        let app = App::new(pool, inserts, EVENTS);
        let store = Store::new(system, pool);
        let (stored, took) = match order {
            Order::StoredFirst => {
                let stored = send(&app, &store, concurrency).await;
                let started = Instant::now();
                let worker = Worker::start(system, &app, concurrency).await;
                app.done().await;
                let took = started.elapsed() + stored;
                worker.stop().await;
                (stored, took)
            }
            Order::AtOnce => {
                let worker = Worker::start(system, &app, concurrency).await;
                sleep(Duration::from_millis(200)).await;
                let started = Instant::now();
                let stored = send(&app, &store, concurrency).await;
                app.done().await;
                let took = started.elapsed();
                worker.stop().await;
                (stored, took)
            }
        };
        let [median, slow] = percentiles(&app.latencies());
        let rate = |time: Duration| EVENTS as f64 / time.as_secs_f64();
        Measured {
            rate: rate(took),
            stored: rate(stored),
            run: rate(took - stored),
            median,
            slow,
        }
    }
}

struct Measured {
    rate: f64,
    stored: f64,
    run: f64,
    median: Duration,
    slow: Duration,
}

fn print(runs: &[Vec<Measured>], order: Order, concurrency: usize, inserts: bool) {
    let callback = if inserts { "one row" } else { "nothing" };
    for (system, own) in SYSTEMS.into_iter().zip(runs) {
        // The faster of apalis' two ways, in the same run.
        let ratios = own.iter().enumerate().map(|(number, run)| {
            let apalis = runs[1..].iter().map(|runs| runs[number].rate);
            run.rate / apalis.fold(0.0, f64::max)
        });
        let median = |value: fn(&Measured) -> f64| middle(own.iter().map(value));
        let milliseconds = |time: Duration| time.as_secs_f64() * 1_000.0;
        let (order, phases, times) = match order {
            Order::StoredFirst => {
                let phases = (median(|run| run.stored), median(|run| run.run));
                let phases = format!("{:.0} | {:.0}", phases.0, phases.1);
                ("stored first", phases, "|".to_owned())
            }
            Order::AtOnce => {
                let times = [
                    middle(own.iter().map(|run| milliseconds(run.median))),
                    middle(own.iter().map(|run| milliseconds(run.slow))),
                ];
                let times = format!("{:.1} ms | {:.1} ms", times[0], times[1]);
                ("at once", "|".to_owned(), times)
            }
        };
        println!(
            "| {callback} | {concurrency} | {order} | {} | {:.0} | {:.2} × | {phases} | {times} |",
            system.name(),
            median(|run| run.rate),
            middle(ratios)
        );
    }
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the median and the 99th percentile.
fn percentiles(times: &[Duration]) -> [Duration; 2] {
    [50, 99].map(|percent| times[times.len() * percent / 100])
}

/// Stores the events, as many at a time as there are senders, each by a call of its own.
async fn send(app: &App, store: &Store, senders: usize) -> Duration {
    let started = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..senders {
        let (mut store, app, next) = (store.clone(), app.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= EVENTS {
                    return;
                }
                app.sent(number);
                store.store(body(number)).await;
            }
        });
    }
    tasks.join_all().await;
    started.elapsed()
}

/// What MX sends, with a guid that ends with the number.
fn body(number: usize) -> String {
    format!(
        r#"{{"job": {{"guid": "JOB-1e5d2a9c-70f1-4b1c-9d3e-{number:012}", "member_guid": "MBR-7c6f361b-e582-15b6-60c0-358f12466b4b", "status": 6, "user_guid": "USR-d74cb14f-fd0a-449f-991b-e0362a63d9c6", "is_authenticated": true, "updated_at": "2016-08-15T17:13:38Z", "finished_at": "2016-08-15T17:13:38Z", "started_at": "2016-08-15T17:13:38Z"}}}}"#
    )
}

#[derive(Clone)]
enum Store {
    Queue(Enqueue),
    Apalis(PostgresStorage<String>),
}

impl Store {
    fn new(system: System, pool: &PgPool) -> Self {
        match system {
            System::Queue => Self::Queue(JobQueue::postgres(pool.clone()).enqueue()),
            System::Apalis | System::ApalisPubsub => Self::Apalis(PostgresStorage::new(pool)),
        }
    }

    async fn store(&mut self, body: String) {
        match self {
            Self::Queue(enqueue) => {
                let event = JobEvent::decode(body).unwrap();
                enqueue.clone().oneshot(event).await.unwrap();
            }
            Self::Apalis(storage) => storage
                .push_task(TaskBuilder::new(body).build())
                .await
                .unwrap(),
        }
    }
}

struct Worker {
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Worker {
    async fn start(system: System, app: &App, concurrency: usize) -> Self {
        let stop = Arc::new(Notify::new());
        let (stopped, app) = (stop.clone(), app.clone());
        let task = tokio::spawn(async move {
            let storage = PostgresStorage::<String>::new(&app.pool);
            let every = Strategy::new().interval(POLL_INTERVAL);
            let name = format!("worker-{:016x}", fastrand::u64(..));
            let stopped = async move {
                stopped.notified().await;
                Ok::<_, std::io::Error>(())
            };
            match system {
                System::Queue => {
                    let queue = JobQueue::postgres(app.pool.clone());
                    let jobs = JobRouter::with_state(app)
                        .on_completed(|app: App, event| async move { app.effect(event).await })
                        .build();
                    let worker = queue.worker(jobs).with_concurrency(concurrency);
                    worker.run_until(stopped).await.unwrap();
                }
                System::Apalis => WorkerBuilder::new(name)
                    .backend(storage.poll_with_strategy(every))
                    .data(app)
                    .concurrency(concurrency)
                    .build(task)
                    .run_until(stopped)
                    .await
                    .unwrap(),
                System::ApalisPubsub => WorkerBuilder::new(name)
                    .backend(storage.with_pubsub().poll_with_strategy(every))
                    .data(app)
                    .concurrency(concurrency)
                    .build(task)
                    .run_until(stopped)
                    .await
                    .unwrap(),
            }
        });
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.notify_one();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

/// apalis' task. It decodes the body, as the queue does.
async fn task(body: String, app: Data<App>) -> Result<(), BoxDynError> {
    let event = JobEvent::decode(body)?;
    app.effect(event).await
}

/// The application, with the times of one run.
#[derive(Clone)]
struct App {
    pool: PgPool,
    inserts: bool,
    events: Arc<[Times]>,
    left: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Times {
    sent: OnceLock<Instant>,
    effect: OnceLock<Instant>,
}

impl App {
    fn new(pool: &PgPool, inserts: bool, events: usize) -> Self {
        Self {
            pool: pool.clone(),
            inserts,
            events: (0..events).map(|_| Times::default()).collect(),
            left: Arc::new(AtomicUsize::new(events)),
        }
    }

    fn sent(&self, number: usize) -> Instant {
        *self.events[number].sent.get_or_init(Instant::now)
    }

    /// The callback.
    async fn effect(&self, event: JobEvent) -> Result<(), BoxError> {
        if self.inserts {
            let effect = sqlx::query("INSERT INTO mx_bench_effects VALUES ($1)");
            effect
                .bind(event.guid.to_string())
                .execute(&self.pool)
                .await?;
        }
        let number = event.guid.to_string();
        let number: usize = number.rsplit('-').next().unwrap().parse().unwrap();
        if self.events[number].effect.set(Instant::now()).is_ok() {
            self.left.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until all callbacks have run.
    async fn ran(&self) {
        let started = Instant::now();
        while self.left.load(Ordering::Relaxed) > 0 {
            assert!(started.elapsed() < PATIENCE, "events are left");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until all events are done.
    async fn done(&self) {
        self.ran().await;
        let done = "SELECT count(*) FROM apalis.jobs WHERE status = 'Done'";
        let expected = i64::try_from(self.events.len()).unwrap();
        let started = Instant::now();
        loop {
            let done: i64 = sqlx::query_scalar(done)
                .fetch_one(&self.pool)
                .await
                .unwrap();
            if done == expected {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{done} events are done");
            sleep(Duration::from_millis(2)).await;
        }
    }

    fn latencies(&self) -> Vec<Duration> {
        let took = |times: &Times| *times.effect.get().unwrap() - *times.sent.get().unwrap();
        let mut took: Vec<Duration> = self.events.iter().map(took).collect();
        took.sort_unstable();
        took
    }
}

async fn execute(pool: &PgPool, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(pool)
        .await
        .unwrap();
}
