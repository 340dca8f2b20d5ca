//! What came back, counted.

use std::collections::BTreeMap;
use std::fmt;

/// How often each kind of request came to each outcome.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<String, Kind>);

struct Kind {
    expected: String,
    outcomes: BTreeMap<String, usize>,
}

impl Tally {
    /// Counts one request of this kind. An outcome is a status, or the error that came instead.
    pub(crate) fn add(&mut self, kind: &str, expected: &str, outcome: &str) {
        let kind = self.0.entry(kind.to_owned()).or_insert_with(|| Kind {
            expected: expected.to_owned(),
            outcomes: BTreeMap::new(),
        });
        *kind.outcomes.entry(outcome.to_owned()).or_default() += 1;
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (name, kind) in other.0 {
            for (outcome, count) in kind.outcomes {
                for _ in 0..count {
                    self.add(&name, &kind.expected, &outcome);
                }
            }
        }
    }

    /// How many requests of this kind there were.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.0.get(kind).map_or(0, Kind::count)
    }

    /// Fails with a table unless every request came to what was expected of it.
    pub(crate) fn assert_as_expected(&self, title: &str) {
        let lost: usize = self.0.values().map(Kind::lost).sum();
        let count: usize = self.0.values().map(Kind::count).sum();
        assert!(count > 0, "{title}: nothing was sent");
        assert!(
            lost == 0,
            "{title}: {lost} of {count} requests did not come to what is right\n{self}"
        );
    }
}

impl Kind {
    fn count(&self) -> usize {
        self.outcomes.values().sum()
    }

    fn lost(&self) -> usize {
        self.count() - self.outcomes.get(&self.expected).unwrap_or(&0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<56} right    lost  what came back", "request")?;
        for (name, kind) in &self.0 {
            let percent = 100 * kind.lost() / kind.count();
            write!(f, "{name:<56} {:<8} {percent:>3} %", kind.expected)?;
            let mut between = "  ";
            for (outcome, count) in &kind.outcomes {
                write!(f, "{between}{count} × {outcome}")?;
                between = ", ";
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
