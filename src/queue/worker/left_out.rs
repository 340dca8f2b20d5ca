//! Events that are tried by themselves, because the database may refuse to change their rows, or let the change wait: there is a
//! constraint, a trigger or a lock of the application.

use std::mem::take;
use std::time::Duration;

use sqlx::Error;
use tokio::time::Instant;

use crate::observe;
use crate::util::postgres::{TOOK_TOO_LONG, has_sqlstate};
use crate::util::random::jittered;

/// How long the first statement with such an event may take, and the second one. Later ones have the whole time.
const FIRST_LIMIT: Duration = Duration::from_millis(150);
const SECOND_LIMIT: Duration = Duration::from_millis(1500);

/// After what time an event that was refused is tried again, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// How many events can be left out at the same time. A statement names each of them.
const MOST: usize = 1000;

/// After how much time with events that are refused or slow the others have a turn.
const TURN: Duration = FIRST_LIMIT;

/// How many events one failure makes suspicious.
pub(super) const SUSPECTS: usize = 64;

/// An event that a statement would change.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) id: String,
    pub(super) name: String,
}

/// How often an event, or the end of a try, was refused by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Trial {
    First,
    /// The first one did not end in its time.
    Second,
    /// It was refused, and is tried again after this time.
    Again(Duration),
}

impl Trial {
    /// Returns how long the statement may take, if not as long as any.
    pub(super) fn limit(self) -> Option<Duration> {
        match self {
            Self::First => Some(FIRST_LIMIT),
            Self::Second => Some(SECOND_LIMIT),
            Self::Again(_) => None,
        }
    }

    fn round(self) -> u8 {
        match self {
            Self::First => 1,
            Self::Second => 2,
            Self::Again(_) => 3,
        }
    }

    /// Returns what follows after this error. Those that are only slow do not keep the quick ones.
    pub(super) fn after(self, error: &Error, first: Duration, longest: Duration) -> Self {
        match self {
            Self::First if has_sqlstate(error, &[TOOK_TOO_LONG]) => Self::Second,
            Self::First | Self::Second => Self::Again(first),
            Self::Again(pause) => Self::Again((pause * 2).min(longest)),
        }
    }
}

/// The events that statements leave out, so that none of them keeps the others. Each is tried by itself, the first ones of a
/// failure in their order.
#[derive(Default)]
pub(super) struct LeftOut {
    events: Vec<Event>,
    /// When one of them is tried next at the earliest.
    next_at: Option<Instant>,
    /// How much time those that were refused or slow have taken in this turn.
    spent: Duration,
    /// How many of them have not been logged, and the first one.
    refused: usize,
    first_refused: Option<(String, Error)>,
}

struct Event {
    candidate: Candidate,
    trial: Trial,
    again_at: Instant,
    /// How often in a row it was not found when it was tried. Another worker may have been trying it.
    missed: u32,
}

impl LeftOut {
    /// Leaves events out, one of which may have made a statement fail. Returns whether one of them is new.
    pub(super) fn suspect(&mut self, suspects: Vec<Candidate>) -> bool {
        let (again_at, before) = (Instant::now(), self.events.len());
        for candidate in suspects {
            let is_known = self.events.iter().any(|it| it.candidate.id == candidate.id);
            if !is_known && self.events.len() < MOST {
                self.events.push(Event {
                    candidate,
                    trial: Trial::First,
                    again_at,
                    missed: 0,
                });
            }
        }
        self.events.len() > before
    }

    /// Suspects none any longer, because all statements fail.
    pub(super) fn acquit(&mut self) {
        self.events
            .retain(|event| matches!(event.trial, Trial::Again(_)));
    }

    /// The database has changed the row of this event, after this time. If it had refused that before, all are tried again now:
    /// the cause may be mended for the others too.
    pub(super) fn accepted(&mut self, id: &str, took: Duration) {
        if took >= TURN {
            self.spent += took;
        }
        let Some(index) = self.events.iter().position(|it| it.candidate.id == id) else {
            return;
        };
        if let Trial::Again(_) = self.events.remove(index).trial {
            let now = Instant::now();
            for event in &mut self.events {
                event.again_at = event.again_at.min(now);
            }
        }
    }

    /// The database has not found this event, after this time. It is left out for as long as before, because another worker may be
    /// trying it, but no longer if it is not found then either.
    pub(super) fn missing(&mut self, id: &str, took: Duration) {
        self.spent += took;
        let event = self.events.iter_mut().find(|it| it.candidate.id == id);
        if event.is_some_and(|event| event.missed > 0) {
            self.forget(id);
        } else {
            self.try_again_after(id, |_| jittered(SECOND_LIMIT));
        }
    }

    /// Another session has locked the row of this event, which took this time to find out. It is left out for as long as before. One
    /// that was not refused is tried soon, so that the order changes as little as possible.
    pub(super) fn locked(&mut self, id: &str, took: Duration) {
        self.spent += took;
        let pause = |missed: u32| (FIRST_LIMIT * 2_u32.pow(missed.min(4))).min(SECOND_LIMIT);
        self.try_again_after(id, pause);
    }

    /// `pause` is that of an event which was not refused, and was not found as often as this before.
    fn try_again_after(&mut self, id: &str, pause: impl FnOnce(u32) -> Duration) {
        let Some(event) = self.events.iter_mut().find(|it| it.candidate.id == id) else {
            return;
        };
        let pause = match event.trial {
            Trial::Again(pause) => jittered(pause),
            _ => pause(event.missed),
        };
        event.missed = event.missed.saturating_add(1);
        event.again_at = Instant::now() + pause;
    }

    /// The event is not left out any longer, because it is gone.
    pub(super) fn forget(&mut self, id: &str) {
        self.events.retain(|it| it.candidate.id != id);
    }

    /// The database has refused this event by itself, after this time.
    pub(super) fn refused(&mut self, id: &str, error: Error, took: Duration) {
        self.spent += took;
        let Some(event) = self.events.iter_mut().find(|it| it.candidate.id == id) else {
            return;
        };
        event.trial = event.trial.after(&error, FIRST_PAUSE, LONGEST_PAUSE);
        event.again_at = Instant::now();
        event.missed = 0;
        if let Trial::Again(pause) = event.trial {
            // Several workers leave it out, and would wait for each other.
            event.again_at += jittered(pause);
            self.refused += 1;
            let name = || (event.candidate.name.clone(), error);
            self.first_refused.get_or_insert_with(name);
        }
    }

    /// A statement has changed the row of this event, but the row is as before: a trigger has kept it so. The statement has taken this time
    /// if it was for this event alone. Returns whether it is new that the event is left out.
    pub(super) fn unchanged(&mut self, candidate: Candidate, took: Duration) -> bool {
        let id = candidate.id.clone();
        let is_new = self.suspect(vec![candidate]);
        let error = Error::Protocol("a trigger has kept the row as it was".to_owned());
        self.refused(&id, error, took);
        is_new
    }

    /// Gives the others as much time as these have taken, and logs the first one that was refused.
    pub(super) fn end_turn(&mut self, queue: &str) {
        let (spent, refused) = (take(&mut self.spent), take(&mut self.refused));
        if !spent.is_zero() {
            self.next_at = Some(Instant::now() + spent);
        }
        if let Some((name, error)) = self.first_refused.take() {
            observe::left_out(queue, refused, &name, &error.into());
        }
    }

    pub(super) fn ids(&self) -> Vec<&str> {
        self.events.iter().map(|it| &*it.candidate.id).collect()
    }

    /// Returns the event that has to be tried first, if it is time, and the turn has not ended. One that may be refused for the first
    /// time does not wait for those that were.
    pub(super) fn due(&self) -> Option<(String, Trial)> {
        let now = Instant::now();
        let is_time = self.next_at.is_none_or(|next_at| next_at <= now) && self.spent < TURN;
        let due = self.events.iter().filter(|event| event.again_at <= now);
        let first = due.min_by_key(|event| (event.trial.round(), event.again_at));
        let first = first.filter(|_| is_time)?;
        Some((first.candidate.id.clone(), first.trial))
    }

    /// Returns when an event has to be tried, if one is left out.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let first = self.events.iter().map(|event| event.again_at).min()?;
        Some(self.next_at.map_or(first, |next_at| next_at.max(first)))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use tokio::time::advance;

    use super::*;
    use crate::util::postgres::tests::Refused;

    const ONE: Duration = Duration::from_millis(1);

    fn candidates(numbers: Range<usize>) -> Vec<Candidate> {
        let candidate = |number: usize| Candidate {
            id: number.to_string(),
            name: "JOB-1 COMPLETED -".to_owned(),
        };
        numbers.map(candidate).collect()
    }

    fn refuse(left_out: &mut LeftOut, id: &str) {
        left_out.refused(id, Error::RowNotFound, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_left_out_until_they_are_tried_again() {
        let mut left_out = LeftOut::default();
        assert!(left_out.next_at().is_none());
        assert!(left_out.suspect(candidates(0..1)));
        assert_eq!(left_out.due(), Some(("0".to_owned(), Trial::First)));
        let mut longest = FIRST_PAUSE;
        for _ in 0..8 {
            refuse(&mut left_out, "0");
            let pause = left_out.next_at().unwrap() - Instant::now();
            assert!(longest / 2 <= pause && pause <= longest, "{pause:?}");
            assert!(left_out.due().is_none());
            advance(pause).await;
            let due = left_out.due();
            assert_eq!(due, Some(("0".to_owned(), Trial::Again(longest))));
            assert_eq!(left_out.ids(), ["0"]);
            assert!(!left_out.suspect(candidates(0..1)));
            longest = (longest * 2).min(LONGEST_PAUSE);
        }
        left_out.accepted("0", ONE);
        assert!(left_out.ids().is_empty());
    }

    /// An event that is slow has a second try with more time, before it counts as refused.
    #[test]
    fn only_the_first_try_that_took_too_long_is_followed_by_a_second_one() {
        let refused = |code| Error::Database(Box::new(Refused(code)));
        let after = |trial: Trial, code| trial.after(&refused(code), ONE, 3 * ONE);
        let (first, second) = (Trial::First, Trial::Second);
        assert_eq!(after(first, TOOK_TOO_LONG), second);
        assert_eq!(after(first, "23514"), Trial::Again(ONE));
        assert_eq!(after(second, TOOK_TOO_LONG), Trial::Again(ONE));
        assert_eq!(after(Trial::Again(ONE), "23514"), Trial::Again(2 * ONE));
        assert_eq!(after(Trial::Again(2 * ONE), "23514"), Trial::Again(3 * ONE));
    }

    /// Another worker may be trying it.
    #[tokio::test(start_paused = true)]
    async fn an_event_that_is_not_found_is_left_out_until_it_is_not_found_again() {
        let mut left_out = LeftOut::default();
        assert!(left_out.suspect(candidates(0..2)));
        refuse(&mut left_out, "1");
        for (id, longest) in [("0", SECOND_LIMIT), ("1", FIRST_PAUSE)] {
            left_out.missing(id, Duration::ZERO);
            assert!(left_out.due().is_none());
            let pause = left_out.next_at().unwrap() - Instant::now();
            assert!(longest / 2 <= pause && pause <= longest, "{pause:?}");
            advance(pause).await;
            assert_eq!(left_out.due().unwrap().0, id);
            refuse(&mut left_out, id);
            left_out.missing(id, Duration::ZERO);
            assert!(left_out.ids().contains(&id), "it was found in between");
            left_out.missing(id, Duration::ZERO);
            assert!(!left_out.ids().contains(&id));
        }
    }

    /// They are tried again in their order, as soon as they can be free. Time for that is limited, as for others.
    #[tokio::test(start_paused = true)]
    async fn locked_events_are_tried_soon_until_they_are_free_or_gone() {
        let mut left_out = LeftOut::default();
        assert!(left_out.suspect(candidates(0..3)));
        refuse(&mut left_out, "2");
        for pause in [150, 300, 600, 1200, 1500, 1500].map(|pause| pause * ONE) {
            for id in ["0", "1"] {
                assert_eq!(left_out.due().unwrap().0, id);
                left_out.locked(id, ONE);
            }
            assert_eq!(left_out.next_at(), Some(Instant::now() + pause));
            advance(pause).await;
        }
        left_out.forget("0");
        assert_eq!(left_out.due().unwrap().0, "1");
        left_out.locked("1", TURN);
        advance(FIRST_PAUSE).await;
        assert!(left_out.due().is_none(), "it is the turn of the others");
        left_out.locked("2", ONE);
        let pause = left_out.events[1].again_at - Instant::now();
        assert!(
            FIRST_PAUSE / 2 <= pause && pause <= FIRST_PAUSE,
            "{pause:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn suspects_do_not_wait_for_those_that_were_refused() {
        let mut left_out = LeftOut::default();
        assert!(left_out.suspect(candidates(0..3)));
        for id in ["0", "1", "2"] {
            refuse(&mut left_out, id);
        }
        advance(FIRST_PAUSE).await;
        assert!(left_out.suspect(candidates(3..4)));
        assert_eq!(left_out.due(), Some(("3".to_owned(), Trial::First)));
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_are_refused_in_a_turn_are_counted_for_its_log_line() {
        let mut left_out = LeftOut::default();
        assert!(left_out.suspect(candidates(0..4)));
        for id in ["0", "1", "2"] {
            refuse(&mut left_out, id);
        }
        left_out.accepted("3", ONE);
        assert_eq!(left_out.refused, 3);
        left_out.end_turn("jobs");
        assert_eq!(left_out.refused, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn suspects_are_tried_in_their_order() {
        let mut left_out = LeftOut::default();
        assert!(left_out.suspect(candidates(0..12)));
        for id in 0..12 {
            let (due, _) = left_out.due().unwrap();
            assert_eq!(due, id.to_string());
            left_out.accepted(&due, ONE);
        }
        assert!(left_out.due().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn others_have_as_much_time_as_those_that_are_refused() {
        let mut left_out = LeftOut::default();
        assert!(left_out.suspect(candidates(0..4)));
        for id in 0..3 {
            assert_eq!(left_out.due().unwrap().0, id.to_string());
            left_out.refused(
                &id.to_string(),
                Error::RowNotFound,
                TURN / 2 - ONE + id * ONE,
            );
        }
        assert!(left_out.due().is_none(), "its time is used up");
        left_out.end_turn("jobs");
        assert!(left_out.due().is_none(), "the others have a turn");
        advance(TURN * 3 / 2 - ONE).await;
        assert!(left_out.due().is_none());
        assert_eq!(left_out.next_at(), Some(Instant::now() + ONE));
        advance(ONE).await;
        assert_eq!(left_out.due().unwrap().0, "3");
        left_out.accepted("3", SECOND_LIMIT);
        assert!(left_out.suspect(candidates(4..5)));
        assert!(left_out.due().is_none(), "a slow one has used it up");
        left_out.end_turn("jobs");
        assert_eq!(left_out.next_at(), Some(Instant::now() + SECOND_LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_once_its_time_is_used_up() {
        let mut left_out = LeftOut::default();
        assert!(left_out.suspect(candidates(0..3)));
        left_out.refused("0", Error::RowNotFound, TURN - ONE);
        assert_eq!(left_out.due().unwrap().0, "1");
        left_out.refused("1", Error::RowNotFound, ONE);
        assert!(left_out.due().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_is_accepted_has_those_tried_that_were_refused() {
        let mut left_out = LeftOut::default();
        assert!(left_out.suspect(candidates(0..4)));
        for id in ["0", "1", "2"] {
            refuse(&mut left_out, id);
        }
        left_out.accepted("3", ONE);
        assert!(left_out.due().is_none(), "it was only suspected");
        left_out.missing("0", Duration::ZERO);
        assert!(left_out.due().is_none(), "its row was not changed");
        left_out.accepted("1", ONE);
        assert!(["0", "2"].contains(&&*left_out.due().unwrap().0));
    }

    #[tokio::test(start_paused = true)]
    async fn only_those_that_were_refused_stay_left_out_if_all_fails() {
        let mut left_out = LeftOut::default();
        assert!(left_out.suspect(candidates(0..3)));
        refuse(&mut left_out, "1");
        left_out.acquit();
        assert_eq!(left_out.ids(), ["1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bounded_number_of_events_is_left_out() {
        let mut left_out = LeftOut::default();
        assert!(left_out.suspect(candidates(0..MOST - 1)));
        assert!(left_out.suspect(candidates(0..MOST + 1)));
        assert_eq!(left_out.ids().len(), MOST);
        assert!(!left_out.suspect(candidates(0..MOST + 1)));
    }
}
