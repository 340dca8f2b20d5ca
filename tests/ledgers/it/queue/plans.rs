//! PostgreSQL's plans for the queue's statements at 100,000 rows: each uses an index.
//!
//! The server itself explains every statement that it runs, so these are the plans of what the crate really sends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mx_job_webhook::dead_letters::{LetterFilter, LetterPage};
use mx_job_webhook::job::Timestamp;
use mx_job_webhook::queue::{JobQueue, Try};
use mx_job_webhook::{JobEvent, JobRouter, Status};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tokio::time::sleep;
use tower::BoxError;

use super::{Running, completed, queue, quick, slow, store, until_logged};
use crate::engines::postgres::{Postgres, Version};
use crate::support::Log;
use harness::servers::Folder;

const ROWS: i64 = 100_000;

/// In pages: a call reads a few rows through the index, and a new connection reads the catalogue.
const FEW: i64 = 300;

/// Autovacuum would renew the statistics at any moment.
const SETTINGS: [&str; 8] = [
    "fsync=off",
    "autovacuum=off",
    "session_preload_libraries=auto_explain",
    "auto_explain.log_min_duration=0",
    "auto_explain.log_analyze=on",
    "auto_explain.log_buffers=on",
    "auto_explain.log_timing=off",
    "auto_explain.log_triggers=off",
];

/// The rows of a table, in numbers from 1 to 100,000.
struct Mix {
    name: &'static str,
    /// As SQL.
    queue: &'static str,
    status: &'static str,
}

const DONE: Mix = Mix {
    name: "Done",
    queue: "'mx-jobs'",
    status: "'Done'",
};
const DEAD: Mix = Mix {
    name: "dead",
    queue: "'mx-jobs'",
    status: "CASE number % 3 WHEN 0 THEN 'Killed' ELSE 'Failed' END",
};
const WAITING: Mix = Mix {
    name: "waiting",
    queue: "'mx-jobs'",
    status: "'Pending'",
};
/// Of each queue, half are handled; there are 5,000 dead letters, 10,000 waiting events, and 5,000 that pause.
const MIXED: Mix = Mix {
    name: "mixed",
    queue: "CASE number % 2 WHEN 0 THEN 'mx-jobs' ELSE 'other' END",
    status: "CASE (number / 2) % 10 WHEN 0 THEN 'Failed' WHEN 1 THEN 'Pausing' WHEN 2 THEN 'Pending' \
             WHEN 3 THEN 'Pending' ELSE 'Done' END",
};

/// Whether the server has statistics of the rows.
#[derive(Clone, Copy, Debug)]
enum Statistics {
    None,
    /// As autovacuum leaves them.
    Fresh,
    /// Those of a table in which every row was handled, although none of the present ones is.
    Stale,
}

/// A server with a queue of 100,000 rows.
struct Filled {
    server: Postgres,
    pool: PgPool,
    queue: JobQueue,
    _folder: Folder,
}

impl Filled {
    async fn with(mix: &Mix, statistics: Statistics) -> Self {
        let folder = Folder::new();
        let server = Postgres::primary(&folder, Version::V15, &SETTINGS);
        let (pool, queue) = queue(server.options());
        queue.migrate().await.unwrap();
        let mut connection = PgConnection::connect_with(&server.options()).await.unwrap();
        // Without apalis' trigger, which notifies of each row.
        execute(
            &mut connection,
            "SET session_replication_role = replica; SET auto_explain.log_min_duration = -1",
        )
        .await;
        if matches!(statistics, Statistics::Stale) {
            execute(&mut connection, &fill(&DONE)).await;
            execute(&mut connection, "VACUUM ANALYZE apalis.jobs").await;
            execute(&mut connection, "DELETE FROM apalis.jobs").await;
        }
        execute(&mut connection, &fill(mix)).await;
        execute(
            &mut connection,
            "INSERT INTO apalis.workers (id, worker_type, storage_name, last_seen)
             SELECT 'worker-' || number, CASE number % 2 WHEN 0 THEN 'mx-jobs' ELSE 'other' END, '',
                 now() - interval '2 days'
             FROM generate_series(1, 1000) AS number;
             INSERT INTO apalis.workers (id, worker_type, storage_name, last_seen)
             VALUES ('worker-dead', 'mx-jobs', '', now() - interval '1 hour');
             UPDATE apalis.jobs SET status = 'Running', attempts = 1, max_attempts = 5, lock_by = 'worker-dead',
                 lock_at = now(), done_at = NULL
             WHERE idempotency_key IN (SELECT 'JOB-' || 2 * n || ' COMPLETED 1' FROM generate_series(30000, 30009) n)",
        )
        .await;
        if matches!(statistics, Statistics::Fresh) {
            execute(&mut connection, "VACUUM ANALYZE apalis.jobs").await;
            execute(&mut connection, "VACUUM ANALYZE apalis.workers").await;
        }
        connection.close().await.unwrap();
        Self {
            server,
            pool,
            queue,
            _folder: folder,
        }
    }

    async fn page(&self, filter: &LetterFilter) -> LetterPage {
        self.queue.dead_letters(filter).await.unwrap()
    }

    /// Uses the whole queue.
    async fn use_all(&self) {
        let queue = &self.queue;
        // Ten events that this worker handles, if there are none before them: by both ways, or after a failure.
        for number in 0..10 {
            store(queue, completed(&format!("NEW-{number}"))).await;
            store(queue, completed(&format!("NEW-{number}"))).await;
        }
        let (log, pool, queue) = (Log::default(), self.pool.clone(), queue.clone());
        let calls = Arc::new(AtomicUsize::new(0));
        let (logs, commits) = (log.clone(), queue.clone());
        let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
            let (log, pool, queue) = (logs.clone(), pool.clone(), commits.clone());
            let call = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                log.push(event.guid.as_str());
                if call.is_multiple_of(3) && Try::of(&event).unwrap().number() == 1 {
                    return Err("the bank did not answer".into());
                }
                if call % 3 == 1 {
                    let mut transaction = pool.begin().await?;
                    queue.commit_in(&mut transaction, &event).await?;
                    transaction.commit().await?;
                }
                // So that a worker does not empty the table within the test.
                sleep(Duration::from_millis(20)).await;
                Ok::<(), BoxError>(())
            }
        });
        let worker = quick(&queue, jobs).with_dead_after(Duration::from_secs(1));
        let worker = Running::start(worker);
        until_logged(&log, 10).await;
        // Long enough to take over events of the dead worker.
        sleep(Duration::from_millis(1800)).await;
        worker.end().await;
        self.refuse_some(log).await;
        queue.counts().await.unwrap();
        self.read_and_replay().await;
        queue.prune(Duration::from_secs(49 * 3600)).await.unwrap();
        queue.prune(Duration::from_secs(40 * 3600)).await.unwrap();
    }

    /// Runs events of which a constraint refuses one in ten, if any wait.
    async fn refuse_some(&self, log: Log) {
        store(&self.queue, completed("NEW-refused")).await;
        for constraint in [
            "ADD CONSTRAINT refuse CHECK (right(id, 1) NOT IN ('4', '7') AND idempotency_key NOT LIKE 'NEW-r%') NOT VALID",
            "DROP CONSTRAINT refuse",
        ] {
            let sql = AssertSqlSafe(format!("ALTER TABLE apalis.jobs {constraint}"));
            sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
            let jobs = slow(&log, Duration::from_millis(20));
            let worker = Running::start(quick(&self.queue, jobs).with_concurrency(4));
            sleep(Duration::from_millis(500)).await;
            worker.end().await;
        }
    }

    async fn read_and_replay(&self) {
        let queue = &self.queue;
        let all = LetterFilter::new;
        let page = self.page(&all()).await;
        let mut next = page.next();
        // A page near the end is as cheap as the first.
        for _ in 0..30 {
            let Some(cursor) = next else { break };
            next = self
                .page(&all().after(cursor).with_limit(1_000))
                .await
                .next();
        }
        if let Some(cursor) = next {
            self.page(&all().after(cursor)).await;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let ago = |hours: i64| {
            let now = i64::try_from(now.as_secs()).unwrap();
            Timestamp::from_unix_seconds(now - hours * 3600)
        };
        for filter in [
            all().failed_until(ago(40)),
            all().failed_since(ago(41)).failed_until(ago(40)),
            all().with_status(Status::Completed),
            all().with_error_containing("bank"),
        ] {
            self.page(&filter).await;
        }
        if let [one, two, ..] = page.letters() {
            queue.dead_letter_body(one.name()).await.unwrap();
            assert!(queue.replay(one.name()).await.unwrap());
            assert!(queue.discard(two.name()).await.unwrap());
        }
        queue.discard("NEW-0 COMPLETED 1").await.unwrap();
        queue.replay("NEW-0 COMPLETED 1").await.unwrap();
        queue.run_now("NEW-0 COMPLETED 1").await.unwrap();
        let some = all().failed_since(ago(41)).failed_until(ago(40));
        queue.replay_all(&some).await.unwrap();
    }
}

/// Rows of the last 48 hours.
fn fill(mix: &Mix) -> String {
    let Mix { queue, status, .. } = mix;
    format!(
        "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, done_at, last_result,
             priority, idempotency_key)
         SELECT lpad(number::text, 26, '0'), {queue},
             convert_to(format('{{\"job\": {{\"guid\": \"JOB-%s\", \"status\": 6}}}}', number), 'UTF8'),
             CASE status WHEN 'Pausing' THEN 'Failed' ELSE status END,
             CASE status WHEN 'Pending' THEN 0 WHEN 'Pausing' THEN 1 ELSE 3 END,
             CASE status WHEN 'Pending' THEN 0 WHEN 'Pausing' THEN 3 ELSE 3 END,
             CASE status WHEN 'Pausing' THEN now() + interval '1 hour' ELSE time END,
             CASE status WHEN 'Pending' THEN NULL ELSE time END,
             CASE status WHEN 'Pending' THEN NULL WHEN 'Done' THEN '{{\"Ok\": null}}'::jsonb
                 ELSE '{{\"Err\": \"the bank did not answer\"}}' END,
             0, format('JOB-%s COMPLETED 1', number)
         FROM (
             SELECT number, {status} AS status, now() - number * interval '1.728 seconds' AS time
             FROM generate_series(1, {ROWS}) AS number
         ) AS numbers"
    )
}

async fn execute(connection: &mut PgConnection, statement: &str) {
    let statement = AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(statement).execute(connection).await.unwrap();
}

/// A statement that the server ran.
struct Explained {
    millis: f64,
    plan: String,
    buffers: i64,
}

impl Explained {
    /// Reads the server's log: the statements by their names.
    fn read(log: &str) -> BTreeMap<String, Vec<Self>> {
        let mut found: BTreeMap<String, Vec<Self>> = BTreeMap::new();
        // A message continues on lines with a tab.
        let log = log.replace("\n\t", "\u{b}");
        for message in log.lines() {
            let Some((_, message)) = message.split_once("duration: ") else {
                continue;
            };
            let Some((millis, text)) = message.split_once(" ms  plan:") else {
                continue;
            };
            let Some(name) = name(text) else { continue };
            let lines: Vec<_> = text.split('\u{b}').collect();
            let is_node = |line: &&str| line.contains("(cost=");
            let head = lines.iter().position(is_node).unwrap();
            let (plan, millis) = (lines[head..].join("\n"), millis.parse().unwrap());
            let buffers = buffers(&plan);
            let explained = Self {
                millis,
                plan,
                buffers,
            };
            found.entry(name).or_default().push(explained);
        }
        found
    }
}

fn name(query: &str) -> Option<String> {
    if query.contains("SELECT 'commit_in'") {
        return Some("commit_in".to_owned());
    }
    let (_, after) = query.split_once("/* mx-job-webhook ")?;
    let (name, _) = after.split_once(" */")?;
    Some(name.to_owned())
}

/// Of the whole plan: its first such line is the total.
fn buffers(plan: &str) -> i64 {
    let line = plan.lines().find(|line| line.contains("Buffers: shared"));
    let shared = line
        .and_then(|line| line.split(',').next())
        .unwrap_or_default();
    let counts = shared.split(' ').filter_map(|word| word.split_once('='));
    let counts = counts.filter(|(kind, _)| ["hit", "read"].contains(kind));
    counts.map(|(_, count)| count.parse::<i64>().unwrap()).sum()
}

/// The number of buffers that a statement may touch.
fn limit(name: &str) -> i64 {
    match name {
        // It counts every waiting event and every dead letter, in the order in which they came.
        "counts" => ROWS / 10,
        // Up to 10,000 rows.
        "prune" => 20 * 10_000,
        // Up to 1,000 rows, each with a new version in every index.
        "replay_all" => 60 * 1_000,
        // The same with up to 64 rows.
        "settle" => 60 * 64,
        // Up to 64 rows behind the 1,000 that can be left out.
        "next" => 2 * 1_064,
        // Up to 1,000 rows.
        "dead_letters" => 2 * 1_000,
        // A look into the index of holders for each of 500 workers.
        "take_over" | "prune_workers" => 500 * 6,
        _ => FEW,
    }
}

async fn use_an_index(mix: &Mix, statistics: Statistics) {
    let filled = Filled::with(mix, statistics).await;
    filled.use_all().await;
    let mut at_fault = Vec::new();
    let mut report = String::new();
    let found = Explained::read(&filled.server.log());
    for (name, statements) in &found {
        let millis = |it: &&Explained| (it.millis * 1_000.0) as i64;
        let slowest = statements.iter().max_by_key(millis).unwrap();
        let widest = statements.iter().max_by_key(|it| it.buffers).unwrap();
        let (times, buffers) = (statements.len(), widest.buffers);
        let mut all: Vec<_> = statements.iter().map(|it| it.millis).collect();
        all.sort_by(f64::total_cmp);
        let median = all[times / 2];
        let _ = writeln!(
            report,
            "{}, {statistics:?}: {name}: {times} times, median {median:.2} ms, at most {:.2} ms, {buffers} buffers",
            mix.name, slowest.millis
        );
        if std::env::var_os("MX_TEST_SHOW_PLANS").is_some() {
            let _ = writeln!(report, "{}", widest.plan);
        }
        let reads_all = |it: &&Explained| it.plan.contains("Seq Scan on jobs");
        if let Some(one) = statements.iter().find(reads_all) {
            at_fault.push(format!("{name} reads the table\n{}", one.plan));
        }
        if buffers > limit(name) {
            at_fault.push(format!("{name}: {buffers} buffers\n{}", widest.plan));
        }
    }
    println!("{report}");
    for name in [
        "commit_in",
        "counts",
        "dead_letters",
        "discard",
        "enqueue",
        "fetch",
        "handled",
        "heartbeat",
        "next",
        "prune",
        "prune_workers",
        "replay",
        "replay_all",
        "run_now",
        "settle",
        "take_over",
    ] {
        assert!(found.contains_key(name), "{name} was not explained");
    }
    assert!(at_fault.is_empty(), "{}", at_fault.join("\n\n"));
}

#[tokio::test]
async fn each_statement_uses_an_index_if_all_events_are_handled() {
    use_an_index(&DONE, Statistics::Fresh).await;
}

#[tokio::test]
async fn each_statement_uses_an_index_if_all_events_are_dead() {
    use_an_index(&DEAD, Statistics::Fresh).await;
}

#[tokio::test]
async fn each_statement_uses_an_index_if_all_events_wait() {
    use_an_index(&WAITING, Statistics::Fresh).await;
}

#[tokio::test]
async fn each_statement_uses_an_index_for_two_queues() {
    use_an_index(&MIXED, Statistics::Fresh).await;
}

/// A burst arrives sooner than autovacuum.
#[tokio::test]
async fn each_statement_uses_an_index_right_after_a_burst() {
    use_an_index(&WAITING, Statistics::None).await;
}

#[tokio::test]
async fn each_statement_uses_an_index_for_two_queues_without_statistics() {
    use_an_index(&MIXED, Statistics::None).await;
}

#[tokio::test]
async fn each_statement_uses_an_index_if_the_statistics_are_of_other_rows() {
    use_an_index(&WAITING, Statistics::Stale).await;
    use_an_index(&DEAD, Statistics::Stale).await;
}
