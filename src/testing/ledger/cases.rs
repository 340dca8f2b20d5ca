//! The cases of the conformance suite.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::check::{Check, LONG, box_error};
use crate::event::FencingToken;
use crate::job::{Status, Timestamp};
use crate::ledger::{Claim, Commit, Ledger};

/// A lease that no call here outlasts, even with a ledger across a network.
const LEASE: Duration = Duration::from_secs(2);

/// A wait after which the lease has expired, even if the ledger's clock is a little late.
const PAST_THE_LEASE: Duration = Duration::from_millis(2_500);

const PAUSE: Duration = Duration::from_millis(20);

impl<L: Ledger> Check<L> {
    pub(super) async fn settles_once(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted(&event).await;
        self.finds(&event, Claim::InFlight).await;
        self.settles(&event, token).await;
        self.finds(&event, Claim::Settled).await;
        self.finds(&event, Claim::Settled).await;
        // Another time, status or job makes another event.
        self.granted(&self.event("1", Status::Completed, 11)).await;
        self.granted(&self.event("1", Status::Challenged, 10)).await;
        self.granted(&self.event("2", Status::Completed, 10)).await;
    }

    pub(super) async fn releases_claims(self) {
        let event = self.event("1", Status::Completed, 10);
        let mut last = self.granted(&event).await;
        for _ in 0..3 {
            self.release(&event, last).await;
            // A repeated release does no harm.
            self.release(&event, last).await;
            let next = self.granted(&event).await;
            self.assert(last < next, "the token did not grow");
            last = next;
        }
        self.finds(&event, Claim::InFlight).await;
    }

    pub(super) async fn commits_released_claims(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted(&event).await;
        self.release(&event, token).await;
        self.settles(&event, token).await;
        self.finds(&event, Claim::Settled).await;
    }

    pub(super) async fn keeps_settled_events(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted(&event).await;
        self.settles(&event, token).await;
        self.release(&event, token).await;
        self.finds(&event, Claim::Settled).await;
    }

    pub(super) async fn repeats_commits(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted(&event).await;
        self.settles(&event, token).await;
        self.settles(&event, token).await;
        let other = FencingToken::new(token.get() + 1);
        let commit = self.commit(&event, other).await;
        self.assert(
            commit == Commit::Overtaken,
            "a commit with another token was not overtaken",
        );
        self.finds(&event, Claim::Settled).await;
    }

    pub(super) async fn finds_stale_events(self) {
        let last = self.event("1", Status::Completed, 20);
        // While it is in flight, it makes no event stale.
        let token = self.granted(&last).await;
        let overlapping = self.event("1", Status::Challenged, 18);
        let overlaps = self.granted(&overlapping).await;
        self.settles(&last, token).await;
        self.finds(&self.event("1", Status::Challenged, 19), Claim::Stale)
            .await;
        self.finds(&self.event("1", Status::Completed, 10), Claim::Stale)
            .await;
        // An event that was under way may still succeed. The last settled event stays the same.
        self.settles(&overlapping, overlaps).await;
        self.finds(&self.event("1", Status::Challenged, 19), Claim::Stale)
            .await;
        self.granted(&self.event("1", Status::Challenged, 20)).await;
        self.granted(&self.event("1", Status::Challenged, 21)).await;
        self.granted(&self.event("2", Status::Challenged, 1)).await;
    }

    pub(super) async fn finds_settled_and_in_flight_before_stale(self) {
        let settled = self.event("1", Status::Challenged, 10);
        let in_flight = self.event("1", Status::Challenged, 11);
        let token = self.granted(&settled).await;
        self.settles(&settled, token).await;
        self.granted(&in_flight).await;
        let later = self.event("1", Status::Completed, 20);
        let token = self.granted(&later).await;
        self.settles(&later, token).await;
        self.finds(&settled, Claim::Settled).await;
        self.finds(&in_flight, Claim::InFlight).await;
    }

    pub(super) async fn orders_times_exactly(self) {
        let times = [
            (i64::MIN, 0),
            (i64::MIN, 1),
            (i64::MIN + 1, 0),
            (-10, 0),
            (-9, 0),
            (-1, 0),
            (-1, 500_000_000),
            (0, 0),
            (0, 1),
            (0, 90_000_000),
            (0, 100_000_000),
            (9, 0),
            (10, 0),
            (1_471_281_212, 0),
            (1_471_281_212, 100_000_000),
            (1_471_281_212, 100_000_001),
            (1_471_281_212, 900_000_000),
            (1_471_281_213, 0),
        ];
        let times = times.map(|(seconds, nanos)| Timestamp::new(seconds, nanos));
        for (number, pair) in times.windows(2).enumerate() {
            let (earlier, later) = (pair[0], pair[1]);
            let job = number.to_string();
            let last = self.event_at(&job, Status::Completed, later);
            let token = self.granted(&last).await;
            self.settles(&last, token).await;
            self.finds(
                &self.event_at(&job, Status::Challenged, earlier),
                Claim::Stale,
            )
            .await;
            self.granted(&self.event_at(&job, Status::Challenged, later))
                .await;
        }
    }

    pub(super) async fn ignores_times_in_the_future(self) {
        // A date in milliseconds, and the last date that there is.
        for (job, future) in [("1", 1_471_281_212_000), ("2", i64::MAX)] {
            let future = self.event(job, Status::Challenged, future);
            self.claims_and_settles(&future).await;
            let past = self.event(job, Status::Completed, 1_471_281_212);
            self.claims_and_settles(&past).await;
            self.finds(&future, Claim::Settled).await;
            // It is not stale itself, and the last plausible date of the job still counts.
            self.granted(&self.event(job, Status::Completed, i64::MAX - 1))
                .await;
            self.finds(
                &self.event(job, Status::Challenged, 1_471_281_211),
                Claim::Stale,
            )
            .await;
        }
    }

    pub(super) async fn ignores_missing_times(self) {
        let dated = self.event("1", Status::Completed, 20);
        let undated = self.event("1", Status::Completed, None);
        for event in [&dated, &undated] {
            let token = self.granted(event).await;
            self.settles(event, token).await;
        }
        self.finds(&undated, Claim::Settled).await;
        self.granted(&self.event("1", Status::Challenged, None))
            .await;
        // Events without a time differ by their other fields.
        self.claims_and_settles(&self.undated("1", "a")).await;
        self.claims_and_settles(&self.undated("1", "b")).await;
        // After an event without a time, the last date of the job still counts.
        self.finds(&self.event("1", Status::Challenged, 19), Claim::Stale)
            .await;
    }

    pub(super) async fn keeps_names_apart(self) {
        let long = "x".repeat(60_000);
        let statuses = ["FAILED", "failed now", "", "{}", "a\"b\\", "статус", &long];
        for status in statuses {
            self.claims_and_settles(&self.event("1", Status::from(status), 1))
                .await;
        }
        let longer = format!("{long}x");
        let jobs = [
            "a", "a b", "a\0b", "a\0c", "a'b", "{a}", "a}b{", "%s", "\\0", "é", "\n", "🏦", &long,
            &longer,
        ];
        for job in jobs {
            self.claims_and_settles(&self.event(job, Status::Completed, 1))
                .await;
        }
        self.finds(&self.event("1", Status::from("Failed"), 1), Claim::Settled)
            .await;
        // Events of one job and status that differ only by a fraction of a second.
        for nanos in [0, 1, 100_000_000, 900_000_000] {
            let moment = Timestamp::new(1, nanos);
            let event = self.event_at("fractions", Status::Challenged, moment);
            self.claims_and_settles(&event).await;
        }
    }

    pub(super) async fn grants_one_of_many(self) {
        let event = self.event("1", Status::Completed, 10);
        for _ in 0..8 {
            let mut claims = JoinSet::new();
            for _ in 0..16 {
                let (ledger, event) = (self.ledger.clone(), event.clone());
                claims.spawn(async move { box_error(ledger.claim(&event, LONG).await) });
            }
            let mut granted = Vec::new();
            while let Some(claim) = claims.join_next().await {
                match claim {
                    Ok(Ok(Claim::Granted(token))) => granted.push(token),
                    Ok(Ok(Claim::InFlight)) => {}
                    other => self.fail(&format!("expected a claim, found {other:?}")),
                }
            }
            self.assert(
                granted.len() == 1,
                &format!("{} claims were granted", granted.len()),
            );
            self.release(&event, granted[0]).await;
        }
    }

    pub(super) async fn survives_dropped_calls(self) {
        let event = self.event("1", Status::Completed, 10);
        for wait in [0, 50, 200, 500, 1_000] {
            let claim = self.ledger.claim(&event, Duration::ZERO);
            let _ = timeout(Duration::from_micros(wait), claim).await;
        }
        // The store may still grant each dropped claim, but its lease has expired by then.
        let deadline = Instant::now() + PAST_THE_LEASE;
        let token = loop {
            match self.claim(&event, LONG).await {
                Claim::InFlight if Instant::now() < deadline => sleep(PAUSE).await,
                Claim::Granted(token) => break token,
                other => self.fail(&format!("expected a granted claim, found {other:?}")),
            }
        };
        let _ = timeout(Duration::ZERO, self.ledger.commit(&event, token)).await;
        self.settles(&event, token).await;
        self.finds(&event, Claim::Settled).await;
    }

    pub(super) async fn accepts_the_longest_lease(self) {
        let event = self.event("1", Status::Completed, 10);
        let claim = self.claim(&event, Duration::MAX).await;
        let Claim::Granted(token) = claim else {
            self.fail(&format!("expected a granted claim, found {claim:?}"));
        };
        self.finds(&event, Claim::InFlight).await;
        self.settles(&event, token).await;
    }

    pub(super) async fn expires_leases(self) {
        let event = self.event("1", Status::Completed, 10);
        let first = self.granted_for(&event, LEASE).await;
        self.finds(&event, Claim::InFlight).await;
        sleep(PAST_THE_LEASE).await;
        let second = self.granted_for(&event, LONG).await;
        self.assert(first < second, "the token did not grow");
        // The second lease holds for its own duration.
        sleep(PAST_THE_LEASE).await;
        self.finds(&event, Claim::InFlight).await;
    }

    pub(super) async fn commits_overtaken_claims(self) {
        let jobs = ["running", "released", "succeeded"];
        let events = jobs.map(|job| self.event(job, Status::Completed, 10));
        let mut slow = Vec::new();
        for event in &events {
            slow.push(self.granted_for(event, LEASE).await);
        }
        sleep(PAST_THE_LEASE).await;
        let mut fast = Vec::new();
        for event in &events {
            fast.push(self.granted(event).await);
        }
        let [running, released, succeeded] = &events;

        // A release of an overtaken claim changes nothing.
        self.release(running, slow[0]).await;
        self.finds(running, Claim::InFlight).await;
        // The overtaking claim has not succeeded: its callback still runs, or has failed.
        self.settles(running, slow[0]).await;
        self.release(released, fast[1]).await;
        self.settles(released, slow[1]).await;
        for (event, [slow, fast]) in [
            (running, [slow[0], fast[0]]),
            (released, [slow[1], fast[1]]),
        ] {
            self.finds(event, Claim::Settled).await;
            self.settles(event, slow).await;
            // A later release or commit of the overtaking claim changes nothing.
            self.release(event, fast).await;
            self.finds(event, Claim::Settled).await;
            let commit = self.commit(event, fast).await;
            self.assert(
                commit == Commit::Overtaken,
                "the later of two commits was not overtaken",
            );
            self.finds(event, Claim::Settled).await;
        }
        let earlier = self.event("running", Status::Challenged, 9);
        self.finds(&earlier, Claim::Stale).await;

        // The overtaking claim is committed first.
        self.settles(succeeded, fast[2]).await;
        let commit = self.commit(succeeded, slow[2]).await;
        self.assert(
            commit == Commit::Overtaken,
            "the later of two commits was not overtaken",
        );
        self.settles(succeeded, fast[2]).await;
        self.finds(succeeded, Claim::Settled).await;
    }

    pub(super) async fn commits_lost_claims(self) {
        // The ledger lost the claim.
        let lost = self.event("1", Status::Completed, 10);
        let token = FencingToken::new(1_000);
        self.settles(&lost, token).await;
        self.settles(&lost, token).await;
        self.finds(&lost, Claim::Settled).await;
        self.finds(&self.event("1", Status::Challenged, 9), Claim::Stale)
            .await;
        let undated = self.event("1", Status::Completed, None);
        self.settles(&undated, token).await;
        self.finds(&undated, Claim::Settled).await;
        // The ledger lost a later claim and has an earlier one, as if it was restored from a
        // backup.
        let restored = self.event("2", Status::Completed, 10);
        let known = self.granted(&restored).await;
        let later = FencingToken::new(known.get() + 1_000);
        self.settles(&restored, later).await;
        self.finds(&restored, Claim::Settled).await;
        let commit = self.commit(&restored, known).await;
        self.assert(
            commit == Commit::Overtaken,
            "the later of two commits was not overtaken",
        );
        self.release(&restored, known).await;
        self.finds(&restored, Claim::Settled).await;
    }

    pub(super) async fn commits_after_the_lease(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted_for(&event, LEASE).await;
        sleep(PAST_THE_LEASE).await;
        self.settles(&event, token).await;
        self.finds(&event, Claim::Settled).await;
    }

    pub(super) async fn finds_stale_events_after_the_lease(self) {
        let event = self.event("1", Status::Challenged, 10);
        let slow = self.granted_for(&event, LEASE).await;
        self.claims_and_settles(&self.event("1", Status::Completed, 20))
            .await;
        self.finds(&event, Claim::InFlight).await;
        sleep(PAST_THE_LEASE).await;
        self.finds(&event, Claim::Stale).await;
        self.finds(&event, Claim::Stale).await;
        // Its holder was slow, and has succeeded.
        self.settles(&event, slow).await;
        self.finds(&event, Claim::Settled).await;
    }
}
