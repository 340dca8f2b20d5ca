//! Random numbers for ids and jitter. They are not secret.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Returns a random number.
pub(crate) fn random() -> u64 {
    // Each `RandomState` has other keys.
    seeded::next().unwrap_or_else(|| RandomState::new().build_hasher().finish())
}

#[cfg(not(feature = "test-util"))]
mod seeded {
    pub(super) fn next() -> Option<u64> {
        None
    }
}

/// Numbers from a seed, so that a simulation can be replayed.
#[cfg(feature = "test-util")]
pub(crate) mod seeded {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    pub(crate) fn seed(seed: u64) {
        STATE.set(Some(seed));
    }

    /// Returns the next number of `SplitMix64`, if this thread has a seed.
    pub(super) fn next() -> Option<u64> {
        let state = STATE.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
        STATE.set(Some(state));
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(mixed ^ (mixed >> 31))
    }
}

/// Returns a random duration between half and all of this one, so that processes that started
/// together do not act together.
#[cfg(feature = "tokio")]
pub(crate) fn jittered(duration: std::time::Duration) -> std::time::Duration {
    let part = random() % 1024;
    // At most 1.
    let share = 0.5 + part as f64 / 2048.0;
    duration.mul_f64(share)
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use super::*;

    #[test]
    fn without_a_seed_no_two_numbers_are_equal() {
        let mut numbers: Vec<u64> = (0..1_000).map(|_| random()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 1_000);
    }

    /// The numbers of the reference implementation, <https://prng.di.unimi.it/splitmix64.c>.
    #[test]
    fn a_seed_gives_the_numbers_of_splitmix64() {
        for _ in 0..2 {
            seeded::seed(0);
            assert_eq!(random(), 0xe220_a839_7b1d_cdaf);
            assert_eq!(random(), 0x6e78_9e6a_a1b9_65f4);
            assert_eq!(random(), 0x06c4_5d18_8009_454f);
        }
    }

    #[test]
    fn a_jittered_duration_is_between_half_and_all_of_it() {
        let whole = std::time::Duration::from_secs(64);
        let jittered: Vec<_> = (0..1_000).map(|_| jittered(whole)).collect();
        let (least, most) = (
            jittered.iter().min().unwrap(),
            jittered.iter().max().unwrap(),
        );
        assert!(*least >= whole / 2 && *most <= whole, "{least:?} {most:?}");
        assert!(
            *least < whole * 5 / 8 && *most > whole * 7 / 8,
            "{least:?} {most:?}"
        );
    }
}
