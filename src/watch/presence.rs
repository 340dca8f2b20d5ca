//! Counting jobs by their keys.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::heard::SettledEvent;
use crate::job::JobGuid;

/// Counts jobs by their keys, so that most look-ups need not hash a guid.
#[derive(Default)]
pub(super) struct Presence(HashMap<u64, u32, BuildHasherDefault<KeyHasher>>);

impl Presence {
    pub(super) fn may_contain(&self, key: u64) -> bool {
        self.0.contains_key(&key)
    }

    pub(super) fn add(&mut self, job: &JobGuid) {
        *self.0.entry(SettledEvent::key_of(job)).or_default() += 1;
    }

    pub(super) fn remove(&mut self, job: &JobGuid) {
        let key = SettledEvent::key_of(job);
        if let Some(count) = self.0.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&key);
            }
        }
    }
}

/// Takes a key as its own hash: all its bits depend on all of the guid.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn different_keys_have_different_hashes() {
        let table = BuildHasherDefault::<KeyHasher>::default();
        for key in [0, 1, 0x0102_0304_0506_0708, u64::MAX] {
            assert_eq!(table.hash_one(key), key);
        }
    }

    #[test]
    fn a_job_is_present_until_it_was_removed_as_often_as_it_was_added() {
        let job: JobGuid = "JOB-1".parse().unwrap();
        let key = SettledEvent::key_of(&job);
        let mut jobs = Presence::default();
        jobs.add(&job);
        jobs.add(&job);
        jobs.remove(&job);
        assert!(jobs.may_contain(key));
        jobs.remove(&job);
        assert!(!jobs.may_contain(key), "it takes memory");
        jobs.remove(&job);
        assert!(!jobs.may_contain(key));
    }
}
