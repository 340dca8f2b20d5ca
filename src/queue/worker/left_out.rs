//! Events whose rows the database refuses to change, or whose change waits, because of a constraint, a trigger or a lock of the
//! application.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::Error;
use tokio::time::Instant;

use crate::observe;

/// After what time such an event is tried again by itself, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// How many events can be left out at the same time. A statement names each of them.
const MOST: usize = 1000;

/// A statement that takes longer for one event may have waited for another transaction. Others may wait for it too.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// An event that a statement would change.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) id: String,
    pub(super) name: String,
}

/// The events that statements leave out, so that one of them does not keep the others. Each is tried again by itself.
#[derive(Default)]
pub(super) struct LeftOut {
    events: HashMap<String, Refused>,
}

struct Refused {
    name: String,
    pause: Duration,
    again_at: Instant,
}

impl LeftOut {
    /// Leaves these events out, or leaves them out for longer, and logs the first one. Returns whether one of them is new.
    pub(super) fn add(&mut self, queue: &str, mut refused: Vec<(Candidate, Error)>) -> bool {
        let (now, before) = (Instant::now(), self.events.len());
        let mut room = MOST.saturating_sub(before);
        refused.retain(|(event, _)| {
            if self.events.contains_key(&event.id) {
                return true;
            }
            let has_room = room > 0;
            room = room.saturating_sub(1);
            has_room
        });
        let events = refused.len();
        for (index, (event, error)) in refused.into_iter().enumerate() {
            if index == 0 {
                observe::left_out(queue, events, &event.name, &error.into());
            }
            let known = self.events.get(&event.id);
            let pause = known.map_or(FIRST_PAUSE, |known| (known.pause * 2).min(LONGEST_PAUSE));
            let refused = Refused {
                name: event.name,
                pause,
                again_at: now + pause,
            };
            self.events.insert(event.id, refused);
        }
        self.events.len() > before
    }

    /// Leaves an event out no longer.
    pub(super) fn remove(&mut self, id: &str) {
        self.events.remove(id);
    }

    /// Has all events tried again now, because the database has taken one: what refused them may be mended too.
    pub(super) fn try_all(&mut self) {
        let now = Instant::now();
        for event in self.events.values_mut() {
            event.again_at = event.again_at.min(now);
        }
    }

    pub(super) fn ids(&self) -> Vec<&str> {
        self.events.keys().map(|id| &**id).collect()
    }

    /// Returns the event that has to be tried again first, if it is time.
    pub(super) fn due(&self) -> Option<Candidate> {
        let first = self.events.iter().min_by_key(|(_, event)| event.again_at);
        let (id, event) = first.filter(|(_, event)| event.again_at <= Instant::now())?;
        Some(Candidate {
            id: id.clone(),
            name: event.name.clone(),
        })
    }

    /// Returns when an event has to be tried again, if one is left out.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.events.values().map(|event| event.again_at).min()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use tokio::time::advance;

    use super::*;

    fn refused(numbers: Range<usize>) -> Vec<(Candidate, Error)> {
        let event = |number: usize| Candidate {
            id: number.to_string(),
            name: "JOB-1 COMPLETED -".to_owned(),
        };
        numbers
            .map(|number| (event(number), Error::RowNotFound))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_left_out_until_they_are_tried_again() {
        let mut left_out = LeftOut::default();
        assert!(left_out.next_at().is_none());
        assert!(left_out.add("jobs", refused(0..1)));
        let mut pause = FIRST_PAUSE;
        for _ in 0..8 {
            assert_eq!(left_out.next_at(), Some(Instant::now() + pause));
            assert!(left_out.due().is_none());
            advance(pause).await;
            assert_eq!(left_out.due().unwrap().id, "0");
            assert_eq!(left_out.ids(), ["0"]);
            assert!(!left_out.add("jobs", refused(0..1)));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        left_out.remove("0");
        assert!(left_out.ids().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn events_can_be_tried_before_their_pause_has_ended() {
        let mut left_out = LeftOut::default();
        assert!(left_out.add("jobs", refused(0..3)));
        left_out.remove("0");
        assert!(left_out.due().is_none());
        left_out.try_all();
        assert!(left_out.due().is_some());
        assert_eq!(left_out.ids().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bounded_number_of_events_is_left_out() {
        let mut left_out = LeftOut::default();
        assert!(left_out.add("jobs", refused(0..MOST - 1)));
        assert!(left_out.add("jobs", refused(0..MOST + 1)));
        assert_eq!(left_out.ids().len(), MOST);
        assert!(!left_out.add("jobs", refused(0..MOST + 1)));
    }
}
