//! Events whose rows the database refuses to change, because of a constraint or a trigger of the application.

use std::collections::HashMap;
use std::iter;
use std::time::Duration;

use sqlx::Error;
use tokio::time::Instant;

use crate::observe;

/// For how long such an event is left out before the worker tries again.
const TIME: Duration = Duration::from_secs(30);

/// How many events can be left out at the same time. A statement names each of them.
const MOST: usize = 1000;

/// An event that a statement would change.
pub(super) struct Candidate {
    pub(super) id: String,
    pub(super) name: String,
}

/// The ids of events that statements leave out, so that one of them does not keep the others.
#[derive(Default)]
pub(super) struct LeftOut {
    until: HashMap<String, Instant>,
}

impl LeftOut {
    /// Leaves these events out for a while, and logs the first one. Returns whether there was room for all.
    pub(super) fn add(&mut self, queue: &str, refused: Vec<(Candidate, Error)>) -> bool {
        let now = Instant::now();
        self.until.retain(|_, until| now < *until);
        let (events, room) = (refused.len(), MOST - self.until.len());
        let mut refused = refused.into_iter();
        let Some((first, error)) = refused.next() else {
            return true;
        };
        observe::left_out(queue, events, &first.name, &error.into());
        let ids = iter::once(first.id).chain(refused.map(|(event, _)| event.id));
        self.until.extend(ids.take(room).map(|id| (id, now + TIME)));
        events <= room
    }

    pub(super) fn ids(&self) -> Vec<&str> {
        let now = Instant::now();
        self.until
            .iter()
            .filter(|(_, until)| now < **until)
            .map(|(id, _)| &**id)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_are_left_out_for_a_while_and_not_without_limit() {
        let mut left_out = LeftOut::default();
        let mut add = |numbers: std::ops::Range<usize>| {
            let event = |number: usize| Candidate {
                id: number.to_string(),
                name: "JOB-1 COMPLETED -".to_owned(),
            };
            let events = numbers.map(|number| (event(number), Error::RowNotFound));
            let has_room = left_out.add("jobs", events.collect());
            (has_room, left_out.ids().len())
        };
        assert_eq!(add(0..1), (true, 1));
        tokio::time::advance(TIME / 2).await;
        assert_eq!(add(1..MOST), (true, MOST));
        assert_eq!(add(MOST..MOST + 1), (false, MOST));
        tokio::time::advance(TIME / 2).await;
        assert_eq!(add(0..0), (true, MOST - 1));
        assert_eq!(add(MOST..MOST + 1), (true, MOST));
    }
}
