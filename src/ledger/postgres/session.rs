//! A connection of the ledger, and the statements that run on it.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::time::{Instant, timeout};

use super::call::{Answer, Call};
use super::queue::Outcome;
use crate::util::postgres::{Opener, UnexpectedAnswer, has_sqlstate, is_fatal};

/// How long the server uses a plan, in time and at first in calls.
///
/// The server plans by the size of the table. For a small table it plans to read all rows, and it
/// would still do so when there are a million.
const PLAN_LIFETIME: Duration = Duration::from_secs(10);
const PLAN_CALLS: usize = 256;

/// The `SQLSTATE` of a statement that waited too long for a lock of an application's transaction.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// The `SQLSTATE` of a race that a strictly isolated transaction detects.
const SERIALISATION_FAILURE: &str = "40001";

/// The `SQLSTATE` of a write on a read-only server.
const READ_ONLY: &str = "25006";

/// How long closing a connection, and asking a server whether it is a standby, may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection without a known fault.
pub(super) struct Session {
    connection: PgConnection,
    since: Instant,
    /// Whether each statement runs in a `READ COMMITTED` transaction. This is needed if the
    /// database's default isolation is stricter, which reports races that do no harm.
    sets_isolation: bool,
    /// When the statements were planned, and how many calls there were since then and before.
    planned: Instant,
    calls_since: usize,
    calls_before: usize,
}

/// Makes these calls with one statement, and returns an outcome for each.
///
/// If the connection in the slot turns out to be broken, the calls are repeated on a new one: every
/// call is idempotent. While this future runs, and if it is dropped, the slot is empty.
pub(super) async fn execute(
    slot: &mut Option<Session>,
    opener: &Opener,
    calls: &[Call],
) -> Vec<Outcome> {
    let lifetime = opener.lifetime();
    let is_fresh =
        |session: &Session| lifetime.is_none_or(|lifetime| session.since.elapsed() < lifetime);
    if let Some(mut session) = slot.take().filter(is_fresh) {
        let answers = session.answers(calls).await;
        if !answers.as_ref().is_err_and(breaks_connection) {
            return session.finish(slot, calls, answers).await;
        }
    }
    match Session::connect(opener).await {
        Ok(mut session) => {
            let answers = session.answers(calls).await;
            session.finish(slot, calls, answers).await
        }
        Err(error) => for_all(calls, error),
    }
}

impl Session {
    pub(super) async fn connect(opener: &Opener) -> Result<Self, sqlx::Error> {
        let connection = opener.open().await?;
        let now = Instant::now();
        Ok(Self {
            connection,
            since: now,
            sets_isolation: false,
            planned: now,
            calls_since: 0,
            calls_before: 0,
        })
    }

    pub(super) async fn close(self) {
        let _ = timeout(TIMEOUT, self.connection.close()).await;
    }

    /// Returns the outcomes, and puts the session back into the slot if it is still usable.
    async fn finish(
        mut self,
        slot: &mut Option<Self>,
        calls: &[Call],
        answers: Result<Vec<Answer>, sqlx::Error>,
    ) -> Vec<Outcome> {
        let outcomes = match answers {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(error) if calls.len() > 1 && may_concern_one_call(&error) => {
                self.one_by_one(calls).await
            }
            Err(error) => for_all(calls, error),
        };
        let is_usable = match outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
            Some(error) => !breaks_connection(error) && !self.is_on_standby(error).await,
            None => true,
        };
        *slot = is_usable.then_some(self);
        outcomes
    }

    async fn one_by_one(&mut self, calls: &[Call]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for call in calls {
            let answers = self.answers(slice::from_ref(call)).await;
            let answer = answers.map(|answers| answers[0]);
            outcomes.push(answer.map_err(Arc::new));
        }
        outcomes
    }

    /// Returns one answer for each call.
    async fn answers(&mut self, calls: &[Call]) -> Result<Vec<Answer>, sqlx::Error> {
        let rows = match self.rows(calls).await {
            Err(error) if sqlstate(&error) == SERIALISATION_FAILURE && !self.sets_isolation => {
                self.sets_isolation = true;
                self.rows(calls).await?
            }
            Err(error) if sqlstate(&error) == LOCK_NOT_AVAILABLE && calls.len() == 1 => {
                return Ok(calls
                    .iter()
                    .map(|call| call.kind.answer_for_locked_event())
                    .collect());
            }
            rows => rows?,
        };
        let Some(Call { kind, .. }) = calls.first() else {
            return Ok(Vec::new());
        };
        let mut answers = vec![None; calls.len()];
        for row in rows {
            let (index, answer) = Answer::read(*kind, row.try_get(0)?)?;
            let slot = answers
                .get_mut(index)
                .ok_or(UnexpectedAnswer(kind.name()))?;
            *slot = Some(answer);
        }
        let answers: Option<Vec<_>> = answers.into_iter().collect();
        Ok(answers.ok_or(UnexpectedAnswer(kind.name()))?)
    }

    async fn rows(&mut self, calls: &[Call]) -> Result<Vec<PgRow>, sqlx::Error> {
        let Some(Call { kind, .. }) = calls.first() else {
            return Ok(Vec::new());
        };
        self.replan_if_due().await?;
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
        if !self.sets_isolation {
            return statement.fetch_all(&mut self.connection).await;
        }
        // The timeout releases the locks if this process dies.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '5s'";
        let mut transaction = self.connection.begin_with(begin).await?;
        let rows = statement.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    /// Makes the server plan the statements again, because the table may have grown.
    ///
    /// It does so after some hundred calls, then each time their total has doubled, and at the
    /// latest after [`PLAN_LIFETIME`].
    async fn replan_if_due(&mut self) -> Result<(), sqlx::Error> {
        let calls = self.calls_before.max(PLAN_CALLS);
        if self.calls_since < calls && self.planned.elapsed() < PLAN_LIFETIME {
            return Ok(());
        }
        self.calls_before += self.calls_since;
        self.calls_since = 0;
        self.planned = Instant::now();
        self.connection.clear_cached_statements().await
    }

    /// Returns whether the server is read-only because it is a standby.
    ///
    /// A new connection may then lead to its successor. One new connection a second is enough.
    async fn is_on_standby(&mut self, error: &sqlx::Error) -> bool {
        if sqlstate(error) != READ_ONLY || self.since.elapsed() < Duration::from_secs(1) {
            return false;
        }
        let query = sqlx::raw_sql("SELECT pg_is_in_recovery()").fetch_one(&mut self.connection);
        match timeout(TIMEOUT, query).await {
            Ok(Ok(row)) => row.try_get(0).unwrap_or(true),
            _ => true,
        }
    }
}

fn for_all(calls: &[Call], error: sqlx::Error) -> Vec<Outcome> {
    let error = Arc::new(error);
    calls.iter().map(|_| Err(error.clone())).collect()
}

/// Returns whether the calls may succeed one by one.
///
/// They may if the database rejected a value of one call, or if a statement waited for a lock.
fn may_concern_one_call(error: &sqlx::Error) -> bool {
    const DEADLOCK_DETECTED: &str = "40P01";
    let sqlstate = sqlstate(error);
    sqlstate.starts_with("22")
        || sqlstate.starts_with("23")
        || [DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE].contains(&sqlstate.as_str())
}

/// Returns whether the connection is broken, or its prepared statements differ from the server's.
fn breaks_connection(error: &sqlx::Error) -> bool {
    error.as_database_error().is_none()
        || is_fatal(error)
        || has_sqlstate(error, &["08P01", "26000", "42P05"])
}

fn sqlstate(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    code.unwrap_or_default().into_owned()
}
