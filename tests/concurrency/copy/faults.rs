//! The faults: for each, the text in the source that is right, and one that is wrong.

/// A fault that a test turns on by its name.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) file: &'static str,
    /// The text, which the file has once.
    pub(crate) text: &'static str,
    /// What replaces it, with `FAULTY` for whether the fault is on.
    wrong: &'static str,
}

impl Fault {
    /// Returns source that is right or wrong when it runs.
    pub(crate) fn choice(&self) -> String {
        let is_on = format!("crate::fault::is_on({:?})", self.name);
        self.wrong.replace("FAULTY", &is_on)
    }
}

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "a permit is counted in two steps",
        file: "background/permits.rs",
        text: "self.state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)",
        wrong: "(if FAULTY {
                let state = self.state.load(Ordering::SeqCst);
                more(state).map(|next| self.state.store(next, Ordering::SeqCst)).ok_or(state)
            } else {
                self.state
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
                    .map(|_| ())
            })",
    },
    Fault {
        name: "permits are given after closing",
        file: "background/permits.rs",
        text: "(state < self.capacity).then_some(state + 1)",
        wrong: "{
            let taken = if FAULTY { state & !CLOSED } else { state };
            (taken < self.capacity).then_some(state + 1)
        }",
    },
    Fault {
        name: "a drain does not count again once its waker is stored",
        file: "background/permits.rs",
        text: "        if self.taken() == 0 {
            Poll::Ready(())",
        wrong: "        if !FAULTY && self.taken() == 0 {
            Poll::Ready(())",
    },
    Fault {
        name: "a permit that is lent returns with its lender",
        file: "background/permit.rs",
        text: "        if self.loan.is_none() {
            self.background.0.permits.release();",
        wrong: "        if FAULTY || self.loan.is_none() {
            self.background.0.permits.release();",
    },
    Fault {
        name: "one drain is woken",
        file: "background/permits.rs",
        text: "            for waker in wakers {",
        wrong: "            for waker in wakers.into_iter().take(if FAULTY { 1 } else { usize::MAX }) {",
    },
    Fault {
        name: "a dropped delivery keeps its claim",
        file: "dedupe/claim_guard.rs",
        text: "            let _ = options.ledger.release(&event, token).await;",
        wrong: "            if !FAULTY {
                let _ = options.ledger.release(&event, token).await;
            }",
    },
    Fault {
        name: "a call of a dropped delivery is dropped",
        file: "background/mod.rs",
        text: "        self.0.permits.acquire_beyond_capacity();",
        wrong: "        if FAULTY {
            return;
        }
        self.0.permits.acquire_beyond_capacity();",
    },
    Fault {
        name: "the rest of a callback is dropped",
        file: "background/tracked.rs",
        text: "    fn drop(&mut self) {
        self.take_and_detach();",
        wrong: "    fn drop(&mut self) {
        if FAULTY {
            self.0 = None;
        }
        self.take_and_detach();",
    },
    Fault {
        name: "the rest of a callback takes another permit",
        file: "background/tracked.rs",
        text: "background.spawn_task(BackgroundTask::new(Box::pin(running)));",
        wrong: "if FAULTY {
                background.0.permits.release();
                let taken_again = background.clone();
                return background.spawn_task(BackgroundTask::new(Box::pin(async move {
                    taken_again.0.permits.acquire_beyond_capacity();
                    running.await;
                })));
            }
            background.spawn_task(BackgroundTask::new(Box::pin(running)));",
    },
    Fault {
        name: "an offer is accepted and refused",
        file: "acknowledge_first.rs",
        text: "        self.0
            .compare_exchange(OFFERED, state, Ordering::AcqRel, Ordering::Acquire)",
        wrong: "        if FAULTY {
            let is_offered = self.0.load(Ordering::SeqCst) == OFFERED;
            if is_offered {
                self.0.store(state, Ordering::SeqCst);
            }
            return is_offered;
        }
        self.0
            .compare_exchange(OFFERED, state, Ordering::AcqRel, Ordering::Acquire)",
    },
    Fault {
        name: "the challenges are read after the verdict",
        file: "credentials/mod.rs",
        text: "self.0.with(|accepted| accepted.check(head))",
        wrong: "match self.0.with(|accepted| accepted.check(head)) {
            Check::Refused(_) if FAULTY => Check::Refused(self.0.with(Accepted::challenges)),
            check => check,
        }",
    },
    Fault {
        name: "the challenges are read after the verdict",
        file: "credentials/accepted.rs",
        text: "    fn challenges(&self)",
        wrong: "    pub(super) fn challenges(&self)",
    },
    Fault {
        name: "a rotation takes effect later",
        file: "credentials/handle.rs",
        text: "self.0.store(credentials.into_fixed());",
        wrong: "if FAULTY {
            let (current, new) = (self.0.clone(), credentials.into_fixed());
            shuttle::thread::spawn(move || current.store(new));
            return;
        }
        self.0.store(credentials.into_fixed());",
    },
    Fault {
        name: "an event is looked up and claimed under two locks",
        file: "ledger/memory/mod.rs",
        text: "        Ok(state.claim(event, now, lease))",
        wrong: "        if FAULTY {
            let is_free = !state.has(event);
            drop(state);
            let mut state = self.state();
            if is_free {
                state.forget(event);
            }
            return Ok(state.claim(event, now, lease));
        }
        Ok(state.claim(event, now, lease))",
    },
    Fault {
        name: "an event is looked up and claimed under two locks",
        file: "ledger/memory/state.rs",
        text: "    pub(super) fn settled(&self) -> usize {",
        wrong: "    pub(super) fn has(&self, event: &EventName) -> bool {
        self.events.contains_key(&Fingerprint::of(event))
    }

    pub(super) fn forget(&mut self, event: &EventName) {
        self.events.remove(&Fingerprint::of(event));
    }

    pub(super) fn settled(&self) -> usize {",
    },
    Fault {
        name: "a commit releases before it settles",
        file: "ledger/memory/mod.rs",
        text: "        let commit = state.commit(event, token, now);",
        wrong: "        if FAULTY {
            state.release(event, token);
            drop(state);
            state = self.state();
        }
        let commit = state.commit(event, token, now);",
    },
    Fault {
        name: "anyone's release frees an event",
        file: "ledger/memory/state.rs",
        text: "            if known.get().is_held_by(token) {",
        wrong: "            if FAULTY || known.get().is_held_by(token) {",
    },
    Fault {
        name: "a waiter does not read what it missed",
        file: "watch/expected.rs",
        text: "let read = self.read(&mut registration).await;
        if let",
        wrong: "let read = if FAULTY {
            Ok(None)
        } else {
            self.read(&mut registration).await
        };
        if let",
    },
    Fault {
        name: "an unexpected event is recorded under two locks",
        file: "watch/memory/mod.rs",
        text: "        self.state()
            .record_unexpected(event, now, keep, self.recent)",
        wrong: "        if FAULTY {
            if self.state().may_expect(&event) {
                return Some(event);
            }
            self.state().push(event, now, keep, self.recent);
            return None;
        }
        self.state()
            .record_unexpected(event, now, keep, self.recent)",
    },
    Fault {
        name: "an unexpected event is recorded under two locks",
        file: "watch/memory/state.rs",
        text: "    pub(super) fn listeners(&self) -> Vec<Wake> {",
        wrong: "    pub(super) fn may_expect(&self, event: &SettledEvent) -> bool {
        self.presence.may_contain(event.key())
    }

    pub(super) fn push(&mut self, event: SettledEvent, now: Instant, keep: Duration, limit: usize) {
        self.recent.push(event, now, keep, limit);
    }

    pub(super) fn listeners(&self) -> Vec<Wake> {",
    },
    Fault {
        name: "an entry is compared and replaced under two locks",
        file: "watch/memory/mod.rs",
        text: "        state.replace(job, update, now, self.capacity, self.recent)?;",
        wrong: "        if FAULTY {
            drop(state);
            state = self.state();
        }
        state.replace(job, update, now, self.capacity, self.recent)?;",
    },
    Fault {
        name: "one listener is told",
        file: "watch/memory/mod.rs",
        text: "        for listener in listeners {",
        wrong: "        for listener in listeners.into_iter().take(if FAULTY { 1 } else { usize::MAX }) {",
    },
    Fault {
        name: "a listener does not read what it missed",
        file: "watch/memory/mod.rs",
        text: "        wake.connected();",
        wrong: "        if !FAULTY {
            wake.connected();
        }",
    },
];
