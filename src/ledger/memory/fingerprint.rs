//! Fingerprints: events' names as two numbers, for tables in memory.

use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::LazyLock;

use crate::job::{JobGuid, Status};
use crate::ledger::EventName;
use crate::ledger::version::Version;

/// Identifies an event, in a third of the memory of its name: a hash of the job's guid, and a
/// number for the status and the version.
///
/// The hash (`SipHash`) has a secret key, so a sender cannot choose guids that collide. By chance,
/// two of 100,000 jobs collide in one of three billion processes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct Fingerprint {
    pub(super) job: JobFingerprint,
    event: u64,
}

/// Identifies a job: a hash of its guid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct JobFingerprint(u64);

/// The secret keys of this process.
struct Secret {
    guids: RandomState,
    multiplier: u128,
}

static SECRET: LazyLock<Secret> = LazyLock::new(|| {
    let [high, low] = [(); 2].map(|()| u128::from(RandomState::new().hash_one(())));
    Secret {
        guids: RandomState::new(),
        multiplier: high << 64 | low,
    }
});

impl Fingerprint {
    pub(in crate::ledger) fn of(event: &EventName) -> Self {
        Self::from_parts(event.guid(), event.status(), event.version())
    }

    fn from_parts(guid: &JobGuid, status: &Status, version: Version) -> Self {
        let mut hasher = SECRET.guids.build_hasher();
        hasher.write(guid.as_str().as_bytes());
        let job = JobFingerprint(hasher.finish());
        let event = packed(status, version).unwrap_or_else(|| {
            // A name and an integer can have the same hash, so the hash also says which it is.
            (status.name().is_some(), status, version).hash(&mut hasher);
            hasher.finish() | HASHED
        });
        Self { job, event }
    }
}

/// The lowest byte of a hash. A packed number has the index of a status there, which is smaller.
const HASHED: u64 = 0xff;

/// Returns the time and the status as one number, without hashing.
///
/// This works for all events with a documented status and a date in whole seconds.
fn packed(status: &Status, version: Version) -> Option<u64> {
    let Version::UpdatedAt(timestamp) = version else {
        return None;
    };
    if timestamp.subsec_nanos() > 0 {
        return None;
    }
    let seconds = u64::try_from(timestamp.unix_seconds()).ok()?;
    let status = u64::try_from(status.index()?).ok()?;
    (seconds < 1 << 56).then_some(seconds << 8 | status)
}

/// Shows nothing of the hash, because its key is secret.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fingerprint").finish_non_exhaustive()
    }
}

/// Multiplies the event's number by a secret (multiply-shift, a universal hash).
///
/// A sender who chooses the times of a job therefore cannot choose their buckets: two times share a
/// bucket only by chance.
impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let product = SECRET.multiplier.wrapping_mul(u128::from(self.event)) >> 64;
        let hash = self.job.0 ^ product as u64;
        // Without this step, times at equal intervals can share a few buckets.
        let mixed = (hash ^ hash >> 32).wrapping_mul(GOLDEN_RATIO);
        state.write_u64(mixed ^ mixed >> 32);
    }
}

/// 2⁶⁴ divided by the golden ratio: an odd number whose bits have no pattern.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hash for JobFingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// The hasher of tables whose keys are fingerprints, which are already hashed.
pub(super) type BuildIdentityHasher = BuildHasherDefault<IdentityHasher>;

#[derive(Default)]
pub(super) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a fingerprint is hashed as one number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::job::Timestamp;

    fn print(guid: &str, status: impl Into<Status>, seconds: i64) -> Fingerprint {
        print_at(guid, status, Timestamp::from_unix_seconds(seconds))
    }

    fn print_at(guid: &str, status: impl Into<Status>, updated_at: Timestamp) -> Fingerprint {
        let version = Version::UpdatedAt(updated_at);
        Fingerprint::from_parts(&guid.parse().unwrap(), &status.into(), version)
    }

    #[test]
    fn different_events_have_different_fingerprints() {
        let job: JobGuid = "JOB-1".parse().unwrap();
        let prints = [
            print("JOB-1", 6, 1),
            print("JOB-2", 6, 1),
            print("JOB-1", 7, 1),
            print("JOB-1", 6, 2),
            print("JOB-1", 6, -1),
            print("JOB-1", 6, i64::MAX),
            // This has the bits of the first one, and bit 56.
            print("JOB-1", 6, 1 << 56 | 1),
            print_at("JOB-1", 6, Timestamp::new(1, 1)),
            print_at("JOB-1", 6, Timestamp::new(1, 2)),
            print_at("JOB-1", 7, Timestamp::new(1, 2)),
            print("JOB-1", 255, 1),
            print("JOB-1", "ARCHIVED", 1),
            // These two statuses have the same hash.
            print("JOB-1", "ABCDEFG", 1),
            print("JOB-1", i64::from_ne_bytes(*b"ABCDEFG\xff"), 1),
            Fingerprint::from_parts(&job, &Status::Completed, Version::Digest([1; 16])),
            Fingerprint::from_parts(&job, &Status::Completed, Version::Digest([2; 16])),
        ];
        assert_eq!(HashSet::from(prints).len(), prints.len());
        assert_eq!(print("JOB-1", "archived", 1), print("JOB-1", "ARCHIVED", 1));
    }

    /// A number and a hash never have the same lowest byte, so the two kinds cannot be mistaken.
    #[test]
    fn documented_events_in_whole_seconds_are_numbered_and_all_others_hashed() {
        let last = (1 << 56) - 1;
        assert_eq!(print("JOB-1", 6, 0).event, 6);
        assert_eq!(print("JOB-1", 9, 1).event, 1 << 8 | 9);
        assert_eq!(print("JOB-1", 0, last).event, u64::MAX << 8);
        for number in 0..32 {
            for hashed in [
                print("JOB-1", 6, -1 - number),
                print("JOB-1", 6, last + 1 + number),
                print("JOB-1", 255 + number, 1),
                print_at("JOB-1", 6, Timestamp::new(number, 1)),
            ] {
                assert_eq!(hashed.event & 0xff, HASHED);
            }
        }
    }

    #[test]
    fn times_at_equal_intervals_use_many_buckets() {
        let table = BuildIdentityHasher::default();
        let bucket = |time| table.hash_one(print("JOB-1", 6, time)) % 1024;
        for interval in [1, 1 << 10, 1 << 20, 1 << 40] {
            let buckets: HashSet<u64> = (0..1024).map(|n| bucket(n * interval)).collect();
            // Random times use about 647 buckets, with a deviation of 15.
            assert!(buckets.len() > 500, "{interval} s: {}", buckets.len());
        }
    }
}
