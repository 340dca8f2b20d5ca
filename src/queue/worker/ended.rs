//! Tries that have ended, and how that is recorded.

use std::mem::replace;
use std::time::Duration;

use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::time::Instant;

use super::attempt::Attempt;
use super::left_out::Trial;
use super::running::RunningGuard;
use crate::dead_letters::error_text;
use crate::error::{Error, ErrorKind};
use crate::event::FencingToken;
use crate::ledger::lease::micros;
use crate::observe;
use crate::queue::statement::{Statement, Value};
use crate::util::random::jittered;

/// How soon to record again, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The same for an end that the database has refused by itself.
const FIRST_REFUSED: Duration = Duration::from_secs(1);
const LONGEST_REFUSED: Duration = Duration::from_secs(30);

/// For how long its row can be locked before that is logged.
const LOCKED: Duration = Duration::from_secs(30);

/// The end of a try that is not recorded yet.
pub(super) struct Ended {
    id: String,
    name: String,
    number: u32,
    /// How many tries the event can have.
    limit: u32,
    token: FencingToken,
    end: End,
    result: String,
    /// The time before the next try.
    pause: Duration,
    /// Until the end is recorded, the worker knows the event.
    _running: RunningGuard,
    failing: Option<Failing>,
}

#[derive(Clone, Copy)]
enum End {
    Done,
    Retry,
    /// An earlier delivery of the event is under way, so no callback ran: the try does not count.
    NotTried,
    /// The callback has failed for the last time.
    TriesUsedUp,
    Permanent,
}

/// Since when the end could not be recorded, and when to try again.
struct Failing {
    since: Instant,
    again_at: Instant,
    pause: Duration,
    /// Set if it is recorded by itself, because it may be the cause.
    alone: Option<Trial>,
    /// Since when its row is locked, and whether that is logged.
    locked_since: Option<Instant>,
    is_logged: bool,
}

impl Ended {
    /// `pause` is the time before the next try, if there is one.
    pub(super) fn new(
        attempt: Attempt,
        error: Option<&Error>,
        pause: Duration,
        running: RunningGuard,
    ) -> Self {
        let end = match error {
            None => End::Done,
            Some(error) if error.is_permanent() || error.kind().is_undecodable() => End::Permanent,
            Some(error) if error.kind() == ErrorKind::InFlight => End::NotTried,
            Some(_) if attempt.tried.is_last() => End::TriesUsedUp,
            Some(_) => End::Retry,
        };
        let result = match error {
            None => json!({ "Ok": null }),
            Some(error) => json!({ "Err": error_text(error) }),
        };
        Self {
            id: attempt.id,
            name: attempt.name,
            number: attempt.tried.number,
            limit: attempt.tried.limit,
            token: attempt.token,
            end,
            result: result.to_string(),
            pause: match end {
                End::Retry | End::NotTried => pause,
                _ => Duration::ZERO,
            },
            _running: running,
            failing: None,
        }
    }

    /// Returns when to record it again, if that has failed.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.failing.as_ref().map(|failing| failing.again_at)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.again_at().is_none_or(|again_at| again_at <= now)
    }

    /// Returns for how long it could not be recorded.
    pub(super) fn failing_for(&self) -> Duration {
        let failing = self.failing.as_ref();
        failing.map_or(Duration::ZERO, |failing| failing.since.elapsed())
    }

    /// Says that it could not be recorded, for a reason that concerns all.
    pub(super) fn try_again_later(&mut self) {
        let failing = self.failing();
        if let Some(Trial::First | Trial::Second) = failing.alone {
            failing.alone = None;
        }
        failing.locked_since = None;
        failing.pause = (failing.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        failing.again_at = Instant::now() + jittered(failing.pause);
    }

    /// Says that it may be the reason why a statement has failed.
    pub(super) fn suspect(&mut self) {
        self.failing().alone.get_or_insert(Trial::First);
    }

    /// Says that the database has refused to record it by itself, so that it keeps no other one. Logs that for the first time.
    pub(super) fn refused(&mut self, queue: &str, error: sqlx::Error) {
        let failing = self.failing();
        let before = failing.alone.unwrap_or(Trial::First);
        let after = before.after(&error, FIRST_REFUSED, LONGEST_REFUSED);
        failing.alone = Some(after);
        failing.again_at = Instant::now();
        if let Trial::Again(pause) = after {
            failing.again_at += jittered(pause);
            if !matches!(before, Trial::Again(_)) {
                observe::left_out(queue, 1, &self.name, &error.into());
            }
        }
    }

    fn failing(&mut self) -> &mut Failing {
        let now = Instant::now();
        self.failing.get_or_insert(Failing {
            since: now,
            again_at: now,
            pause: Duration::ZERO,
            alone: None,
            locked_since: None,
            is_logged: false,
        })
    }

    /// Says that its row did not change: it is locked, or a trigger has kept it as it was.
    fn locked(&mut self) {
        let since = self.failing().locked_since;
        self.try_again_later();
        self.failing().locked_since = since.or_else(|| Some(Instant::now()));
    }

    /// Returns whether to log that its row has been locked for long. That is once.
    pub(super) fn is_locked_for_long(&mut self) -> bool {
        let Some(failing) = &mut self.failing else {
            return false;
        };
        let since = failing.locked_since;
        since.is_some_and(|since| since.elapsed() >= LOCKED)
            && !replace(&mut failing.is_logged, true)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns how it is recorded by itself, if it is.
    pub(super) fn alone(&self) -> Option<Trial> {
        self.failing.as_ref().and_then(|failing| failing.alone)
    }

    fn token(&self) -> i64 {
        i64::try_from(self.token.get()).unwrap_or(i64::MAX)
    }

    /// Reports the end, which is recorded.
    fn report(&self) {
        if let End::TriesUsedUp | End::Permanent = self.end {
            observe::dead_lettered(&self.name);
        }
    }

    /// Reads the answer for this try. Returns it again if it has to be recorded once more.
    pub(super) fn recorded(mut self, rows: &[PgRow]) -> Result<Option<Self>, sqlx::Error> {
        for row in rows {
            // After a take-over, a worker can have two tries of an event.
            if row.try_get::<&str, _>(1)? != self.id || row.try_get::<i64, _>(2)? != self.token() {
                continue;
            }
            match row.try_get(3)? {
                "settled" => self.report(),
                // A transaction of the application has locked the row. It ends the event, or is rolled back. Or this worker's
                // own one has, which waits for an absent standby.
                "locked" => {
                    self.locked();
                    return Ok(Some(self));
                }
                // The event is done, or another worker has taken it over.
                _ => {}
            }
        }
        Ok(None)
    }
}

/// Returns the statement that records these ends.
pub(super) fn settle(worker: &str, ended: &[Ended]) -> Statement {
    let ids: Vec<&str> = ended.iter().map(|ended| &*ended.id).collect();
    let numbers: Vec<i64> = ended.iter().map(|ended| ended.number.into()).collect();
    let tokens: Vec<i64> = ended.iter().map(Ended::token).collect();
    let status = |ended: &Ended| match ended.end {
        End::Done => "Done",
        // A row that has failed as often as it may would be a dead letter.
        End::NotTried if ended.number == 1 || ended.number > ended.limit => "Pending",
        End::NotTried => "Failed",
        End::Retry | End::TriesUsedUp => "Failed",
        End::Permanent => "Killed",
    };
    let tries = |ended: &Ended| match ended.end {
        End::NotTried => i64::from(ended.number) - 1,
        _ => ended.number.into(),
    };
    let tries: Vec<i64> = ended.iter().map(tries).collect();
    let statuses: Vec<&str> = ended.iter().map(status).collect();
    let results: Vec<&str> = ended.iter().map(|ended| &*ended.result).collect();
    let pauses: Vec<i64> = ended.iter().map(|ended| micros(ended.pause)).collect();
    let values = [
        Value::Text(worker),
        Value::Texts(&ids),
        Value::Numbers(&numbers),
        Value::Texts(&statuses),
        Value::Texts(&results),
        Value::Numbers(&pauses),
        Value::Numbers(&tokens),
        Value::Numbers(&tries),
    ];
    Statement::new("settle", include_str!("../sql/settle.sql"), &values)
}

#[cfg(test)]
impl Ended {
    pub(super) fn sample() -> Self {
        Self {
            id: "1".to_owned(),
            name: "JOB-1".to_owned(),
            number: 1,
            limit: 1,
            token: FencingToken::new(1),
            end: End::Done,
            result: "{}".to_owned(),
            pause: Duration::ZERO,
            _running: std::sync::Arc::<super::running::Running>::default().add("1"),
            failing: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_not_recorded_pauses_for_longer_and_longer() {
        let mut ended = Ended::sample();
        assert!(ended.is_due(Instant::now()));
        let start = Instant::now();
        for longest in [10, 20, 40, 80, 160, 320, 500, 500] {
            ended.try_again_later();
            let (now, again_at) = (Instant::now(), ended.again_at().unwrap());
            let pause = again_at - now;
            let longest = Duration::from_millis(longest);
            assert!(longest / 2 <= pause && pause <= longest, "{pause:?}");
            assert!(!ended.is_due(now) && ended.is_due(again_at));
            tokio::time::advance(pause).await;
            assert_eq!(ended.failing_for(), start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_refused_by_itself_stays_alone_and_pauses_for_longer() {
        let mut ended = Ended::sample();
        ended.try_again_later();
        assert_eq!(ended.alone(), None);
        for longest in [1, 2, 4, 8, 16, 30, 30] {
            ended.refused("mx-jobs", sqlx::Error::PoolTimedOut);
            assert!(matches!(ended.alone(), Some(Trial::Again(_))));
            let pause = ended.again_at().unwrap() - Instant::now();
            let longest = Duration::from_secs(longest);
            assert!(longest / 2 <= pause && pause <= longest, "{pause:?}");
            tokio::time::advance(pause).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_whose_row_is_locked_for_long_is_logged_once() {
        let mut ended = Ended::sample();
        ended.try_again_later();
        tokio::time::advance(LOCKED).await;
        assert!(!ended.is_locked_for_long(), "nothing could be recorded");
        ended.locked();
        tokio::time::advance(LOCKED - Duration::from_millis(1)).await;
        ended.locked();
        assert!(!ended.is_locked_for_long());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(ended.is_locked_for_long() && !ended.is_locked_for_long());
        let mut ended = Ended::sample();
        ended.locked();
        tokio::time::advance(LOCKED).await;
        ended.try_again_later();
        ended.locked();
        assert!(!ended.is_locked_for_long(), "meanwhile it was not locked");
    }

    /// It is tried by itself at once. If nothing can be recorded, it is with the others again, unless it was refused before.
    #[tokio::test(start_paused = true)]
    async fn an_end_is_suspected_until_nothing_can_be_recorded() {
        let mut ended = Ended::sample();
        ended.suspect();
        assert_eq!(ended.alone(), Some(Trial::First));
        assert!(ended.is_due(Instant::now()));
        ended.try_again_later();
        assert_eq!(ended.alone(), None);
        ended.refused("mx-jobs", sqlx::Error::PoolTimedOut);
        let refused = ended.alone();
        ended.suspect();
        ended.try_again_later();
        assert!(refused.is_some() && ended.alone() == refused);
    }

    /// Guide: "tries that fail with `InFlight` do not count". The event waits as before, but does not become a dead letter.
    #[tokio::test]
    async fn a_try_that_does_not_count_leaves_its_event_as_it_was() {
        let tried = |(number, limit)| Ended {
            number,
            limit,
            end: End::NotTried,
            ..Ended::sample()
        };
        let settle = settle("worker", &[(1, 3), (2, 3), (3, 3), (4, 3)].map(tried));
        for value in [
            Value::Texts(&["Pending", "Failed", "Failed", "Pending"]),
            Value::Numbers(&[0, 1, 2, 3]),
        ] {
            let value = Statement::new("value", "$1", &[value]).sql;
            assert!(settle.sql.contains(value.trim()), "{}", settle.sql);
        }
    }
}
