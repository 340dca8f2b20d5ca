//! The cases of the suite.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::BoxError;

use super::check::{Check, LEASE, LONG, entry, update};
use crate::job::{JobGuid, Status};
use crate::watch::{Counts, Due, JobWatch, Replaced, WatchStore};

/// A wait after which the lease has expired, even if the store's clock is a little late.
const PAST_THE_LEASE: Duration = Duration::from_millis(2_500);

impl<S: WatchStore> Check<S> {
    pub(super) async fn keeps_entries(self) {
        let (job, other) = (self.job("1"), self.job("2"));
        self.assert(self.get(&job).await.is_none(), "there is an entry at first");
        self.stores(&job, None, &entry("a"), Due::Never, Some(LONG))
            .await;
        sleep(Duration::from_millis(300)).await;
        let stored = self.found(&job).await;
        self.assert(stored.entry == entry("a"), "the entry is another one");
        let age = stored.age.as_millis();
        self.assert((250..60_000).contains(&age), "the age is wrong");
        self.assert(self.get(&other).await.is_none(), "another job has an entry");
        self.stores(&other, None, &entry("b"), Due::In(LONG), None)
            .await;
        let jobs = [other.clone(), self.job("3"), job.clone()];
        let loaded = self.answer(self.store.load(&jobs).await);
        let mut names: Vec<_> = loaded.iter().map(|(job, _)| job.clone()).collect();
        names.sort();
        let mut expected = vec![job, other];
        expected.sort();
        self.assert(
            names == expected,
            "it loaded other jobs than it was asked for",
        );
        self.assert(
            self.answer(self.store.load(&[]).await).is_empty(),
            "`load` returned entries of jobs that were not asked for",
        );
    }

    pub(super) async fn refuses_outdated_revisions(self) {
        let job = self.job("1");
        self.conflicts(&job, Some(1), None).await;
        self.stores(&job, None, &entry("a"), Due::Never, Some(LONG))
            .await;
        self.conflicts(&job, None, Some("a")).await;
        let first = self.found(&job).await.revision;
        self.stores(&job, Some(first), &entry("b"), Due::Never, Some(LONG))
            .await;
        self.conflicts(&job, Some(first), Some("b")).await;
        self.conflicts(&job, None, Some("b")).await;
    }

    pub(super) async fn replaces_atomically(self) {
        for round in 0..5 {
            let job = self.job(&format!("{round}"));
            let revision = if round > 2 {
                self.stores(&job, None, &entry("first"), Due::Never, Some(LONG))
                    .await;
                Some(self.found(&job).await.revision)
            } else {
                None
            };
            let mut calls = JoinSet::new();
            for caller in 0..16 {
                let (store, job) = (self.store.clone(), job.clone());
                calls.spawn(async move {
                    let entry = entry(&format!("{caller}"));
                    let update = update(&entry, Due::In(LONG), None);
                    let replaced = store.replace(&job, revision, update).await;
                    replaced.map_err(Into::into)
                });
            }
            let mut done = 0;
            while let Some(call) = calls.join_next().await {
                let Ok(replaced) = call else {
                    self.fail("a call panicked");
                };
                let replaced: Result<Replaced, BoxError> = replaced;
                done += u32::from(matches!(self.answer(replaced), Replaced::Done));
            }
            self.assert(done == 1, "several callers, or none, have replaced it");
        }
        self.clean_up().await;
    }

    pub(super) async fn forgets_expired_entries(self) {
        let (job, kept) = (self.job("1"), self.job("2"));
        self.stores(&job, None, &entry("a"), Due::Never, Some(LEASE))
            .await;
        let first = self.found(&job).await.revision;
        self.stores(&kept, None, &entry("a"), Due::Never, Some(LEASE))
            .await;
        let revision = self.found(&kept).await.revision;
        self.stores(&kept, Some(revision), &entry("b"), Due::Never, None)
            .await;
        sleep(PAST_THE_LEASE).await;
        self.assert(self.get(&job).await.is_none(), "it was loaded");
        self.assert(
            self.get(&kept).await.is_some(),
            "one that was replaced by one without an end has expired",
        );
        self.conflicts(&job, Some(first), None).await;
        self.stores(&job, None, &entry("b"), Due::Never, Some(LONG))
            .await;
        let second = self.found(&job).await;
        self.assert(second.entry == entry("b"), "the entry is another one");
        self.assert(second.revision != first, "the revision was used before");
        self.clean_up_all(&[kept]).await;
    }

    pub(super) async fn claims_what_is_due(self) {
        let job = self.job("1");
        self.clean_up().await;
        self.stores(&job, None, &entry("a"), Due::In(LEASE), None)
            .await;
        self.claims(&[]).await;
        sleep(PAST_THE_LEASE).await;
        // A change leaves the time as it is.
        let revision = self.found(&job).await.revision;
        self.stores(&job, Some(revision), &entry("b"), Due::Unchanged, None)
            .await;
        let before = self.found(&job).await.revision;
        let claimed = self.claims(std::slice::from_ref(&job)).await;
        self.assert(claimed[0].entry == entry("b"), "the entry is another one");
        self.assert(
            claimed[0].revision != before,
            "a claim did not change the revision",
        );
        self.conflicts(&job, Some(before), Some("b")).await;
        self.claims(&[]).await;
        let revision = Some(claimed[0].revision);
        self.stores(&job, revision, &entry("c"), Due::Never, Some(LONG))
            .await;
        let expires = self.job("2");
        let soon = Due::In(Duration::from_millis(100));
        self.stores(&expires, None, &entry("a"), soon, Some(LEASE))
            .await;
        sleep(PAST_THE_LEASE).await;
        // The time at which it was due has expired too.
        self.stores(&expires, None, &entry("b"), Due::Unchanged, Some(LONG))
            .await;
        self.claims(&[]).await;
    }

    pub(super) async fn claims_in_order(self) {
        let jobs = ["3", "1", "2"].map(|name| self.job(name));
        for job in &jobs {
            self.stores(job, None, &entry("a"), Due::In(Duration::ZERO), None)
                .await;
            sleep(Duration::from_millis(20)).await;
        }
        for job in &jobs {
            let claimed = self.answer(self.store.claim_due(1, LONG).await);
            let names: Vec<_> = claimed.iter().map(|(job, _)| job).collect();
            self.assert(names == [job], "another one was claimed");
        }
        self.assert(
            self.answer(self.store.claim_due(0, LONG).await).is_empty(),
            "more were claimed than asked for",
        );
        self.clean_up_all(&jobs).await;
        let job = self.job("without a lease");
        self.stores(&job, None, &entry("a"), Due::In(Duration::ZERO), None)
            .await;
        let claimed = self.answer(self.store.claim_due(10, Duration::ZERO).await);
        self.assert(claimed.len() == 1, "it was claimed twice, or not at all");
        self.clean_up_all(&[job]).await;
    }

    pub(super) async fn claims_again(self) {
        let job = self.job("1");
        self.stores(&job, None, &entry("a"), Due::In(Duration::ZERO), None)
            .await;
        let first = self.answer(self.store.claim_due(10, LEASE).await);
        self.assert(first.len() == 1, "it was not claimed");
        sleep(LEASE / 4).await;
        self.claims(&[]).await;
        sleep(PAST_THE_LEASE).await;
        let second = self.claims(std::slice::from_ref(&job)).await;
        // The first claimant is too late.
        self.conflicts(&job, Some(first[0].1.revision), Some("a"))
            .await;
        self.stores(
            &job,
            Some(second[0].revision),
            &entry("b"),
            Due::Never,
            Some(LONG),
        )
        .await;
    }

    pub(super) async fn claims_once(self) {
        let mut jobs: Vec<_> = (0..40)
            .map(|number| self.job(&number.to_string()))
            .collect();
        for job in &jobs {
            self.stores(job, None, &entry("a"), Due::In(Duration::ZERO), None)
                .await;
        }
        let mut calls = JoinSet::new();
        for _ in 0..16 {
            let store = self.store.clone();
            calls.spawn(async move {
                let mut claimed = Vec::new();
                for _ in 0..20 {
                    match store.claim_due(3, LONG).await {
                        Ok(some) => claimed.extend(some.into_iter().map(|(job, _)| job)),
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(claimed)
            });
        }
        let mut claimed = Vec::new();
        while let Some(call) = calls.join_next().await {
            let Ok(some) = call else {
                self.fail("a call panicked");
            };
            let some: Result<Vec<JobGuid>, BoxError> = some;
            claimed.extend(self.answer(some));
        }
        claimed.sort();
        jobs.sort();
        self.assert(claimed == jobs, "entries were claimed twice, or not at all");
        self.clean_up_all(&jobs).await;
    }

    pub(super) async fn counts(self) {
        let before = self.answer(self.store.count().await);
        let (due, later, never) = (self.job("due"), self.job("later"), self.job("never"));
        self.stores(&due, None, &entry("a"), Due::In(Duration::ZERO), None)
            .await;
        self.stores(&later, None, &entry("a"), Due::In(LONG), None)
            .await;
        self.stores(&never, None, &entry("a"), Due::Never, Some(LONG))
            .await;
        sleep(Duration::from_millis(20)).await;
        let expected = Counts {
            outstanding: before.outstanding + 2,
            overdue: before.overdue + 1,
        };
        let counted = self.answer(self.store.count().await);
        self.assert(counted == expected, "the numbers are wrong");
        self.clean_up_all(&[due, later]).await;
    }

    pub(super) async fn keeps_every_guid(self) {
        let long = "x".repeat(10_000);
        let other = format!("{}y", &long[1..]);
        let names = [
            " a b ",
            "{a}",
            "a:b",
            "ä\u{1f600}",
            "a\0b",
            "a",
            "A",
            &long,
            &other,
            "digest:1:2",
        ];
        let jobs: Vec<_> = names.iter().map(|name| self.job(name)).collect();
        for (job, name) in jobs.iter().zip(names) {
            self.stores(job, None, &entry(name), Due::In(Duration::ZERO), None)
                .await;
        }
        let loaded = self.answer(self.store.load(&jobs).await);
        for (job, name) in jobs.iter().zip(names) {
            let found = loaded.iter().find(|(loaded, _)| loaded == job);
            self.assert(
                found.is_some_and(|(_, stored)| stored.entry == entry(name)),
                "a job has the entry of another, or none",
            );
        }
        let mut claimed: Vec<_> = self.answer(self.store.claim_due(100, LONG).await);
        claimed.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut sorted = jobs.clone();
        sorted.sort();
        let claimed: Vec<_> = claimed.into_iter().map(|(job, _)| job).collect();
        self.assert(claimed == sorted, "a claim returned other guids");
        self.clean_up_all(&jobs).await;
    }

    pub(super) async fn wakes_others(self) {
        let (here, there) = (
            JobWatch::new(self.store.clone()),
            JobWatch::new(self.store.clone()),
        );
        let job = self.job("1");
        let expected = self.answer(here.expect(&job).await);
        let waiting = tokio::spawn(async move {
            let heard = expected.within(Duration::from_secs(30)).await;
            (heard, Instant::now())
        });
        sleep(Duration::from_millis(1_500)).await;
        let heard_at = Instant::now();
        self.deliver(&there, &job, Status::Completed).await;
        let Ok((heard, woken_at)) = waiting.await else {
            self.fail("the waiting panicked");
        };
        let heard = self.answer(heard);
        self.assert(
            heard.is_some_and(|heard| heard.guid == job),
            "the one who waited has not heard",
        );
        let took = woken_at.saturating_duration_since(heard_at);
        self.assert(
            took < Duration::from_secs(1),
            "the store did not wake the waiter",
        );
    }

    pub(super) async fn looks_back(self) {
        let watch = JobWatch::new(self.store.clone());
        let job = self.job("1");
        self.deliver(&watch, &job, Status::Challenged).await;
        let expected = self.answer(watch.expect(&job).await);
        let Some(challenge) = self.answer(expected.within(Duration::ZERO).await) else {
            self.fail("the challenge does not count");
        };
        let expected = self.answer(watch.expect_after(challenge.name()).await);
        let again = self.answer(expected.within(Duration::ZERO).await);
        self.assert(again.is_none(), "the challenge counts twice");
        self.deliver(&watch, &job, Status::Completed).await;
        let expected = self.answer(watch.expect_after(challenge.name()).await);
        let ended = self.answer(expected.within(Duration::ZERO).await);
        self.assert(ended.is_some(), "the end of the job does not count");
    }
}
