//! One connection of the ledger's own, and the statements that run on it.

use std::future::poll_fn;
use std::pin::pin;
use std::slice;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sqlx::postgres::{PgDatabaseError, PgRow, PgSeverity};
use sqlx::{Connection as _, PgConnection, PgPool, Row as _};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::call::{Answer, Call, NotItsAnswer};
use super::connections::{Outcome, Waiting, Worker};

/// How long a connection stays open without a call. Shorter than firewalls and load balancers allow, which forget
/// a connection without a word.
const IDLE: Duration = Duration::from_secs(10);

/// How long, and for how many calls at first, a plan of the server's is used. It plans by the size of the table: of a
/// small one it reads all rows, and would do so still when there are a million.
const PLANNED_FOR: Duration = Duration::from_secs(10);
const PLANNED_FOR_CALLS: usize = 256;

/// The statements wait a moment for a transaction of the application. Then the server says this.
const BUSY: &str = "55P03";

/// How long what no caller waits for may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves calls until there are none for a while.
pub(super) async fn run(mut worker: Worker) {
    let mut session = None;
    while worker.is_wanted(IDLE).await {
        // Before it takes calls, which others may serve meanwhile; and whether or not their callers wait so long.
        if session.is_none() {
            worker.wake_another();
            match Session::connect(worker.pool()).await {
                Ok(connected) => session = Some(connected),
                Err(error) => {
                    worker.refuse(error);
                    if worker.is_dispensable() {
                        return;
                    }
                    continue;
                }
            }
            worker.set_connected(true);
        }
        let calls = worker.take();
        if !calls.is_empty() {
            serve(&mut session, worker.pool(), calls).await;
            worker.set_connected(session.is_some());
        }
    }
    if let Some(session) = session {
        let _ = timeout(PATIENCE, session.connection.close()).await;
    }
}

/// Opens connections as the application's pool does, its hooks included, but takes none of the pool's: callbacks
/// may hold all of those.
pub(super) struct Pool {
    of_the_application: PgPool,
    pool: PgPool,
}

impl Pool {
    pub(super) fn like(pool: &PgPool, most: u32) -> Self {
        let options = pool
            .options()
            .clone()
            .max_connections(most)
            .min_connections(0)
            .acquire_timeout(PATIENCE)
            // Connections are detached: the ledger closes them by itself.
            .idle_timeout(None)
            .max_lifetime(None);
        Self {
            pool: options.connect_lazy_with((*pool.connect_options()).clone()),
            of_the_application: pool.clone(),
        }
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        // The application may have set others since: a new password, say.
        let options = self.of_the_application.connect_options();
        self.pool.set_connect_options((*options).clone());
        Ok(self.pool.acquire().await?.detach())
    }

    /// How old a connection may become.
    fn lifetime(&self) -> Option<Duration> {
        self.of_the_application.options().get_max_lifetime()
    }
}

/// A connection that is good, as far as is known.
struct Session {
    connection: PgConnection,
    since: Instant,
    /// The database isolates transactions so strictly that it sees races where there are none, unless it is told
    /// not to.
    is_isolated: bool,
    /// When the statements were planned, and how many calls there were since and before.
    planned: Instant,
    calls_since: usize,
    calls_before: usize,
}

async fn serve(connection: &mut Option<Session>, pool: &Pool, waiting: Vec<Waiting>) {
    let (calls, mut answers): (Vec<_>, Vec<_>) = waiting
        .into_iter()
        .map(|waiting| (waiting.call, waiting.answer))
        .unzip();
    let outcomes = while_one_waits(&mut answers, ask(connection, pool, &calls)).await;
    let Some(outcomes) = outcomes else { return };
    let abandoned: Vec<_> = calls
        .iter()
        .zip(answers)
        .zip(outcomes)
        .filter_map(|((call, answer), outcome)| match answer.send(outcome) {
            Err(Ok(Answer::Granted(token))) => call.release_of(token),
            _ => None,
        })
        .collect();
    // Claims whose callers have given up. What fails here, the leases end.
    if !abandoned.is_empty() {
        let _ = timeout(PATIENCE, ask(connection, pool, &abandoned)).await;
    }
}

/// `None` if all callers give up before that: a connection that stalls is closed then. Its statement may run on.
async fn while_one_waits(
    callers: &mut [oneshot::Sender<Outcome>],
    asked: impl Future<Output = Vec<Outcome>>,
) -> Option<Vec<Outcome>> {
    let mut asked = pin!(asked);
    poll_fn(|context| {
        if let Poll::Ready(outcomes) = asked.as_mut().poll(context) {
            return Poll::Ready(Some(outcomes));
        }
        let mut are_gone = true;
        for caller in &mut *callers {
            are_gone &= caller.poll_closed(context).is_ready();
        }
        if are_gone {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Asks the database; once more on a new connection if the one that was there turns out to be of no use: every
/// call may be made twice. While this runs, and if it is dropped, `kept` is empty.
async fn ask(kept: &mut Option<Session>, pool: &Pool, calls: &[Call]) -> Vec<Outcome> {
    let lifetime = pool.lifetime();
    let is_fresh =
        |session: &Session| lifetime.is_none_or(|lifetime| session.since.elapsed() < lifetime);
    if let Some(mut session) = kept.take().filter(is_fresh) {
        let answers = session.answers(calls).await;
        if !answers.as_ref().is_err_and(is_useless_after) {
            return session.keep_and_give(kept, calls, answers).await;
        }
    }
    match Session::connect(pool).await {
        Ok(mut session) => {
            let answers = session.answers(calls).await;
            session.keep_and_give(kept, calls, answers).await
        }
        Err(error) => to_all(calls, error),
    }
}

impl Session {
    async fn connect(pool: &Pool) -> Result<Self, sqlx::Error> {
        let connection = pool.connect().await?;
        let now = Instant::now();
        Ok(Self {
            connection,
            since: now,
            is_isolated: false,
            planned: now,
            calls_since: 0,
            calls_before: 0,
        })
    }

    async fn keep_and_give(
        mut self,
        kept: &mut Option<Self>,
        calls: &[Call],
        answers: Result<Vec<Answer>, sqlx::Error>,
    ) -> Vec<Outcome> {
        let outcomes = match answers {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(error) if calls.len() > 1 && is_of_some_of_the_calls(&error) => {
                let mut outcomes = Vec::new();
                for call in calls {
                    let answers = self.answers(slice::from_ref(call)).await;
                    let answer = answers.map(|answers| answers[0]);
                    outcomes.push(answer.map_err(Arc::new));
                }
                outcomes
            }
            Err(error) => to_all(calls, error),
        };
        let is_useful = match outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
            Some(error) => !is_useless_after(error) && !self.leads_to_a_standby(error).await,
            None => true,
        };
        *kept = is_useful.then_some(self);
        outcomes
    }

    /// As many answers as calls.
    async fn answers(&mut self, calls: &[Call]) -> Result<Vec<Answer>, sqlx::Error> {
        let rows = match self.rows(calls).await {
            Err(error) if code(&error) == "40001" && !self.is_isolated => {
                self.is_isolated = true;
                self.rows(calls).await?
            }
            Err(error) if code(&error) == BUSY && calls.len() == 1 => {
                return Ok(calls
                    .iter()
                    .map(|call| call.kind.answer_of_a_locked_event())
                    .collect());
            }
            rows => rows?,
        };
        let Some(Call { kind, .. }) = calls.first() else {
            return Ok(Vec::new());
        };
        let mut answers = vec![None; calls.len()];
        for row in rows {
            let (number, answer) = Answer::read(*kind, row.try_get(0)?)?;
            let place = answers.get_mut(number).ok_or(NotItsAnswer(kind.name()))?;
            *place = Some(answer);
        }
        let answers: Option<Vec<_>> = answers.into_iter().collect();
        Ok(answers.ok_or(NotItsAnswer(kind.name()))?)
    }

    async fn rows(&mut self, calls: &[Call]) -> Result<Vec<PgRow>, sqlx::Error> {
        let Some(Call { kind, .. }) = calls.first() else {
            return Ok(Vec::new());
        };
        self.plan_anew_if_due().await?;
        self.calls_since += calls.len();
        let texts = |of: fn(&Call) -> &String| calls.iter().map(of).cloned().collect::<Vec<_>>();
        let times: Vec<_> = calls.iter().map(|call| call.time.clone()).collect();
        let numbers: Vec<_> = calls.iter().map(|call| call.number).collect();
        let statement = sqlx::query(kind.statement())
            .bind(kind.name())
            .bind(texts(|call| &call.job))
            .bind(texts(|call| &call.event))
            .bind(times)
            .bind(numbers);
        if !self.is_isolated {
            return statement.fetch_all(&mut self.connection).await;
        }
        // Its locks must not outlive this process for long.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '5s'";
        let mut transaction = self.connection.begin_with(begin).await?;
        let rows = statement.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    /// Has the server forget its plans, at first after some hundred calls, then after as many as there were before:
    /// the table may have doubled since.
    async fn plan_anew_if_due(&mut self) -> Result<(), sqlx::Error> {
        let calls = self.calls_before.max(PLANNED_FOR_CALLS);
        if self.calls_since < calls && self.planned.elapsed() < PLANNED_FOR {
            return Ok(());
        }
        self.calls_before += self.calls_since;
        self.calls_since = 0;
        self.planned = Instant::now();
        self.connection.clear_cached_statements().await
    }

    /// Whether the server may not write because another has taken over from it. Then a new connection may lead
    /// to the other; but one a second is enough.
    async fn leads_to_a_standby(&mut self, error: &sqlx::Error) -> bool {
        if code(error) != "25006" || self.since.elapsed() < Duration::from_secs(1) {
            return false;
        }
        let asked = sqlx::raw_sql("SELECT pg_is_in_recovery()").fetch_one(&mut self.connection);
        match timeout(PATIENCE, asked).await {
            Ok(Ok(row)) => row.try_get(0).unwrap_or(true),
            _ => true,
        }
    }
}

fn to_all(calls: &[Call], error: sqlx::Error) -> Vec<Outcome> {
    let error = Arc::new(error);
    calls.iter().map(|_| Err(error.clone())).collect()
}

/// Whether the calls may succeed one by one: the database cannot take a value of one of them, or two statements waited
/// for each other.
fn is_of_some_of_the_calls(error: &sqlx::Error) -> bool {
    let code = code(error);
    code.starts_with("22") || code.starts_with("23") || ["40P01", BUSY].contains(&code.as_str())
}

/// Whether the connection is broken, or has prepared statements of which the server does not know.
fn is_useless_after(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else {
        return true;
    };
    let severity = error
        .try_downcast_ref::<PgDatabaseError>()
        .map(PgDatabaseError::severity);
    matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic))
        || ["08P01", "26000", "42P05"].contains(&error.code().as_deref().unwrap_or_default())
}

fn code(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    code.unwrap_or_default().into_owned()
}
