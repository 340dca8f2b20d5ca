//! The cases, each of which names what it is about.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::check::{Check, LONG, failed};
use crate::event::FencingToken;
use crate::job::{Status, Timestamp};
use crate::ledger::{Claim, Commit, Ledger};

/// Long enough that nothing here takes as long, with a ledger across a network.
const LEASE: Duration = Duration::from_secs(2);

/// Past the end of a lease, also for a clock that is read a little late.
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
        // Another time, another status, another job: another event.
        self.granted(&self.event("1", Status::Completed, 11)).await;
        self.granted(&self.event("1", Status::Challenged, 10)).await;
        self.granted(&self.event("2", Status::Completed, 10)).await;
    }

    pub(super) async fn gives_back(self) {
        let event = self.event("1", Status::Completed, 10);
        let mut last = self.granted(&event).await;
        for _ in 0..3 {
            self.release(&event, last).await;
            // Twice does no harm.
            self.release(&event, last).await;
            let next = self.granted(&event).await;
            self.assert(last < next, "tokens have to grow");
            last = next;
        }
        self.finds(&event, Claim::InFlight).await;
    }

    pub(super) async fn records_a_success_after_its_release(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted(&event).await;
        self.release(&event, token).await;
        self.settles(&event, token).await;
        self.finds(&event, Claim::Settled).await;
    }

    pub(super) async fn keeps_what_is_settled(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted(&event).await;
        self.settles(&event, token).await;
        self.release(&event, token).await;
        self.finds(&event, Claim::Settled).await;
    }

    pub(super) async fn commits_twice(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted(&event).await;
        self.settles(&event, token).await;
        self.settles(&event, token).await;
        let other = FencingToken::new(token.get() + 1);
        let commit = self.commit(&event, other).await;
        self.assert(commit == Commit::Overtaken, "with another token");
        self.finds(&event, Claim::Settled).await;
    }

    pub(super) async fn knows_what_is_stale(self) {
        let last = self.event("1", Status::Completed, 20);
        // In flight, it makes nothing stale.
        let token = self.granted(&last).await;
        let overlapping = self.event("1", Status::Challenged, 18);
        let overlaps = self.granted(&overlapping).await;
        self.settles(&last, token).await;
        self.finds(&self.event("1", Status::Challenged, 19), Claim::Stale)
            .await;
        self.finds(&self.event("1", Status::Completed, 10), Claim::Stale)
            .await;
        // What was under way may still succeed, and makes the last no earlier.
        self.settles(&overlapping, overlaps).await;
        self.finds(&self.event("1", Status::Challenged, 19), Claim::Stale)
            .await;
        self.granted(&self.event("1", Status::Challenged, 20)).await;
        self.granted(&self.event("1", Status::Challenged, 21)).await;
        self.granted(&self.event("2", Status::Challenged, 1)).await;
    }

    pub(super) async fn puts_stale_last(self) {
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

    pub(super) async fn orders_all_times(self) {
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

    pub(super) async fn orders_nothing_by_the_future(self) {
        // Milliseconds, and the end of time.
        for (job, future) in [("1", 1_471_281_212_000), ("2", i64::MAX)] {
            let future = self.event(job, Status::Challenged, future);
            self.claims_and_settles(&future).await;
            let past = self.event(job, Status::Completed, 1_471_281_212);
            self.claims_and_settles(&past).await;
            self.finds(&future, Claim::Settled).await;
            // Nor is it stale itself, nor does it hide how late the job was.
            self.granted(&self.event(job, Status::Completed, i64::MAX - 1))
                .await;
            self.finds(
                &self.event(job, Status::Challenged, 1_471_281_211),
                Claim::Stale,
            )
            .await;
        }
    }

    pub(super) async fn has_no_before_without_a_time(self) {
        let dated = self.event("1", Status::Completed, 20);
        let undated = self.event("1", Status::Completed, None);
        for event in [&dated, &undated] {
            let token = self.granted(event).await;
            self.settles(event, token).await;
        }
        self.finds(&undated, Claim::Settled).await;
        self.granted(&self.event("1", Status::Challenged, None))
            .await;
        // Told apart by what else they say.
        self.claims_and_settles(&self.undated("1", "a")).await;
        self.claims_and_settles(&self.undated("1", "b")).await;
        // An event without a time does not hide how late the job was.
        self.finds(&self.event("1", Status::Challenged, 19), Claim::Stale)
            .await;
    }

    pub(super) async fn tells_names_apart(self) {
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
        // Of one job at one status, and told apart by a fraction of a second alone.
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
                claims.spawn(async move { failed(ledger.claim(&event, LONG).await) });
            }
            let mut granted = Vec::new();
            while let Some(claim) = claims.join_next().await {
                match claim {
                    Ok(Ok(Claim::Granted(token))) => granted.push(token),
                    Ok(Ok(Claim::InFlight)) => {}
                    other => self.fail(&format!("{other:?}")),
                }
            }
            self.assert(
                granted.len() == 1,
                &format!("{} were granted", granted.len()),
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
        // Each of them may still come about in the store, and its lease is over then.
        let deadline = Instant::now() + PAST_THE_LEASE;
        let token = loop {
            match self.claim(&event, LONG).await {
                Claim::InFlight if Instant::now() < deadline => sleep(PAUSE).await,
                Claim::Granted(token) => break token,
                other => self.fail(&format!("{other:?} instead of a claim that is granted")),
            }
        };
        let _ = timeout(Duration::ZERO, self.ledger.commit(&event, token)).await;
        self.settles(&event, token).await;
        self.finds(&event, Claim::Settled).await;
    }

    pub(super) async fn takes_the_longest_lease(self) {
        let event = self.event("1", Status::Completed, 10);
        let claim = self.claim(&event, Duration::MAX).await;
        let Claim::Granted(token) = claim else {
            self.fail(&format!("{claim:?}"));
        };
        self.finds(&event, Claim::InFlight).await;
        self.settles(&event, token).await;
    }

    pub(super) async fn ends_a_lease(self) {
        let event = self.event("1", Status::Completed, 10);
        let first = self.granted_for(&event, LEASE).await;
        self.finds(&event, Claim::InFlight).await;
        sleep(PAST_THE_LEASE).await;
        let second = self.granted_for(&event, LONG).await;
        self.assert(first < second, "tokens have to grow");
        // The second lease is as long as it was asked to be.
        sleep(PAST_THE_LEASE).await;
        self.finds(&event, Claim::InFlight).await;
    }

    pub(super) async fn records_the_success_of_the_overtaken(self) {
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

        // A release of the claim that was overtaken changes nothing.
        self.release(running, slow[0]).await;
        self.finds(running, Claim::InFlight).await;
        // The overtaker has not succeeded: it runs still, or has failed.
        self.settles(running, slow[0]).await;
        self.release(released, fast[1]).await;
        self.settles(released, slow[1]).await;
        for (event, [slow, fast]) in [
            (running, [slow[0], fast[0]]),
            (released, [slow[1], fast[1]]),
        ] {
            self.finds(event, Claim::Settled).await;
            self.settles(event, slow).await;
            // What the overtaker does then changes nothing.
            self.release(event, fast).await;
            self.finds(event, Claim::Settled).await;
            let commit = self.commit(event, fast).await;
            self.assert(commit == Commit::Overtaken, "the later of two successes");
            self.finds(event, Claim::Settled).await;
        }
        let earlier = self.event("running", Status::Challenged, 9);
        self.finds(&earlier, Claim::Stale).await;

        // The overtaker has succeeded first.
        self.settles(succeeded, fast[2]).await;
        let commit = self.commit(succeeded, slow[2]).await;
        self.assert(commit == Commit::Overtaken, "the success that came later");
        self.settles(succeeded, fast[2]).await;
        self.finds(succeeded, Claim::Settled).await;
    }

    pub(super) async fn records_a_success_it_knows_nothing_of(self) {
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
        // It lost a later claim, and has an earlier one: it was restored from a backup.
        let restored = self.event("2", Status::Completed, 10);
        let known = self.granted(&restored).await;
        let later = FencingToken::new(known.get() + 1_000);
        self.settles(&restored, later).await;
        self.finds(&restored, Claim::Settled).await;
        let commit = self.commit(&restored, known).await;
        self.assert(commit == Commit::Overtaken, "the later of two successes");
        self.release(&restored, known).await;
        self.finds(&restored, Claim::Settled).await;
    }

    pub(super) async fn commits_late(self) {
        let event = self.event("1", Status::Completed, 10);
        let token = self.granted_for(&event, LEASE).await;
        sleep(PAST_THE_LEASE).await;
        self.settles(&event, token).await;
        self.finds(&event, Claim::Settled).await;
    }

    pub(super) async fn can_be_stale_after_a_lease(self) {
        let event = self.event("1", Status::Challenged, 10);
        let slow = self.granted_for(&event, LEASE).await;
        self.claims_and_settles(&self.event("1", Status::Completed, 20))
            .await;
        self.finds(&event, Claim::InFlight).await;
        sleep(PAST_THE_LEASE).await;
        self.finds(&event, Claim::Stale).await;
        self.finds(&event, Claim::Stale).await;
        // Its holder was only slow.
        self.settles(&event, slow).await;
        self.finds(&event, Claim::Settled).await;
    }
}
