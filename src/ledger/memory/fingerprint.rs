//! An event's name in two numbers, for tables in memory.

use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::job::{JobGuid, Status};
use crate::ledger::version::Version;

/// Stands for an event, in a third of the memory that its name takes: a hash of its job's guid, and
/// what tells it from the others of that job.
///
/// The hash is keyed (`SipHash`) with what nobody else knows, so that nobody who chooses guids can
/// make two collide. By chance, two of 100,000 jobs do once in three billion processes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct Fingerprint {
    pub(super) job: JobPrint,
    event: u64,
}

/// Stands for a job: a hash of its guid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct JobPrint(u64);

/// What nobody else knows; of this process, as the tables are.
struct Secret {
    guids: RandomState,
    spread: u128,
}

static SECRET: LazyLock<Secret> = LazyLock::new(|| {
    let [high, low] = [(); 2].map(|()| u128::from(RandomState::new().hash_one(())));
    Secret {
        guids: RandomState::new(),
        spread: high << 64 | low,
    }
});

/// The hash of a job's guid, which is computed once for the calls that a delivery makes.
#[derive(Default)]
pub(in crate::ledger) struct CachedHash(AtomicU64);

impl CachedHash {
    fn get_or_compute(&self, guid: &JobGuid) -> u64 {
        let cached = self.0.load(Ordering::Relaxed);
        if cached > 0 {
            return cached;
        }
        let hash = hasher(guid).finish();
        self.0.store(hash, Ordering::Relaxed);
        hash
    }
}

impl Clone for CachedHash {
    fn clone(&self) -> Self {
        Self(self.0.load(Ordering::Relaxed).into())
    }
}

impl Fingerprint {
    pub(in crate::ledger) fn of(
        guid: &JobGuid,
        status: &Status,
        version: Version,
        cached: &CachedHash,
    ) -> Self {
        let event = packed(status, version).unwrap_or_else(|| {
            let mut hasher = hasher(guid);
            // A name and an integer can have one hash.
            (status.name().is_some(), status, version).hash(&mut hasher);
            hasher.finish() | HASHED
        });
        Self {
            job: JobPrint(cached.get_or_compute(guid)),
            event,
        }
    }
}

fn hasher(guid: &JobGuid) -> impl Hasher + use<> {
    let mut hasher = SECRET.guids.build_hasher();
    hasher.write(guid.as_str().as_bytes());
    hasher
}

/// Marks a hash; what is packed ends in the index of a status.
const HASHED: u64 = 0xff;

/// The time and the status themselves, for every event of a status that MX documents, dated in whole
/// seconds.
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

/// Nothing of a hash whose key is a secret.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fingerprint").finish_non_exhaustive()
    }
}

/// Whoever chooses times chooses no places in a table: a multiplication by a secret spreads those of
/// one job (multiply-shift, a universal hash), so that any two share a place no more than by chance.
impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let spread = SECRET.spread.wrapping_mul(u128::from(self.event)) >> 64;
        let hash = self.job.0 ^ spread as u64;
        // Spread alone, times at equal distances can fall into few places; mixed, they do not.
        let mixed = (hash ^ hash >> 32).wrapping_mul(GOLDEN_RATIO);
        state.write_u64(mixed ^ mixed >> 32);
    }
}

/// 2⁶⁴ over the golden ratio: odd, and without a pattern in its bits.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hash for JobPrint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// For tables by fingerprint, which is a hash already.
pub(super) type Hashed = BuildHasherDefault<Taken>;

#[derive(Default)]
pub(super) struct Taken(u64);

impl Hasher for Taken {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a fingerprint is written as one number");
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

    fn of(guid: &JobGuid, status: &Status, version: Version) -> Fingerprint {
        Fingerprint::of(guid, status, version, &CachedHash::default())
    }

    fn print(guid: &str, status: impl Into<Status>, seconds: i64) -> Fingerprint {
        print_at(guid, status, Timestamp::from_unix_seconds(seconds))
    }

    fn print_at(guid: &str, status: impl Into<Status>, updated_at: Timestamp) -> Fingerprint {
        let version = Version::UpdatedAt(updated_at);
        of(&guid.parse().unwrap(), &status.into(), version)
    }

    #[test]
    fn events_are_told_apart_however_strange_their_parts_are() {
        let job: JobGuid = "JOB-1".parse().unwrap();
        let prints = [
            print("JOB-1", 6, 1),
            print("JOB-2", 6, 1),
            print("JOB-1", 7, 1),
            print("JOB-1", 6, 2),
            print("JOB-1", 6, -1),
            print("JOB-1", 6, i64::MAX),
            // It has the bits of the first, 56 of them further up.
            print("JOB-1", 6, 1 << 56 | 1),
            print_at("JOB-1", 6, Timestamp::new(1, 1)),
            print_at("JOB-1", 6, Timestamp::new(1, 2)),
            print_at("JOB-1", 7, Timestamp::new(1, 2)),
            print("JOB-1", 255, 1),
            print("JOB-1", "ARCHIVED", 1),
            // These two statuses have one hash.
            print("JOB-1", "ABCDEFG", 1),
            print("JOB-1", i64::from_ne_bytes(*b"ABCDEFG\xff"), 1),
            of(&job, &Status::Completed, Version::Digest([1; 16])),
            of(&job, &Status::Completed, Version::Digest([2; 16])),
        ];
        assert_eq!(HashSet::from(prints).len(), prints.len());
        assert_eq!(print("JOB-1", "archived", 1), print("JOB-1", "ARCHIVED", 1));
    }

    #[test]
    fn chosen_times_of_one_job_do_not_share_a_place() {
        let table = BuildHasherDefault::<Taken>::default();
        let place = |time| table.hash_one(print("JOB-1", 6, time)) % 1024;
        for apart in [1, 1 << 10, 1 << 20, 1 << 40] {
            let places: HashSet<u64> = (0..1024).map(|n| place(n * apart)).collect();
            // By chance they take 647, give or take 15.
            assert!(places.len() > 500, "{apart} s apart: {}", places.len());
        }
    }
}
