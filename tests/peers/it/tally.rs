//! Answers, counted by kind of request.

use std::collections::BTreeMap;
use std::fmt;

/// The number of each answer to each kind of request.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<String, Row>);

struct Row {
    expected: String,
    answers: BTreeMap<String, usize>,
}

impl Tally {
    /// Counts one request of this kind. The answer is a status or an error.
    pub(crate) fn add(&mut self, kind: &str, expected: &str, answer: &str) {
        self.add_many(kind, expected, answer, 1);
    }

    fn add_many(&mut self, kind: &str, expected: &str, answer: &str, count: usize) {
        let row = self.0.entry(kind.to_owned()).or_insert_with(|| Row {
            expected: expected.to_owned(),
            answers: BTreeMap::new(),
        });
        *row.answers.entry(answer.to_owned()).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (kind, row) in &other.0 {
            for (answer, count) in &row.answers {
                self.add_many(kind, &row.expected, answer, *count);
            }
        }
    }

    /// Returns the number of requests of this kind.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.0.get(kind).map_or(0, Row::count)
    }

    /// Fails with a table unless every request got the expected answer.
    pub(crate) fn assert_as_expected(&self, title: &str) {
        let lost: usize = self.0.values().map(Row::lost).sum();
        let count: usize = self.0.values().map(Row::count).sum();
        assert!(count > 0, "{title}: no request was sent");
        assert!(
            lost == 0,
            "{title}: {lost} of {count} requests did not get the expected answer\n{self}"
        );
    }
}

impl Row {
    fn count(&self) -> usize {
        self.answers.values().sum()
    }

    fn lost(&self) -> usize {
        self.count() - self.answers.get(&self.expected).unwrap_or(&0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<56} expected   lost  answers", "request")?;
        for (kind, row) in &self.0 {
            let percent = 100 * row.lost() / row.count();
            write!(f, "{kind:<56} {:<9} {percent:>3} %", row.expected)?;
            let mut before = "  ";
            for (answer, count) in &row.answers {
                write!(f, "{before}{count} × {answer}")?;
                before = ", ";
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
