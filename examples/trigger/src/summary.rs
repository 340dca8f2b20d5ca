//! Counts of the answers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::client::Outcome;

pub(super) struct Summary {
    planned: usize,
    answers: BTreeMap<String, usize>,
    acknowledged: usize,
    /// The duration of each request.
    times: Vec<Duration>,
    took: Duration,
}

impl Summary {
    pub(super) fn new(planned: usize) -> Self {
        Self {
            planned,
            answers: BTreeMap::new(),
            acknowledged: 0,
            times: Vec::new(),
            took: Duration::ZERO,
        }
    }

    pub(super) fn add(&mut self, outcome: Outcome) {
        let success = matches!(&outcome.answer, Ok(status) if status.is_success());
        self.acknowledged += usize::from(success);
        self.times.push(outcome.took);
        let answer = match outcome.answer {
            Ok(status) => text(status),
            Err(reason) => format!("no answer: {reason}"),
        };
        *self.answers.entry(answer).or_default() += 1;
    }

    pub(super) fn took(&mut self, took: Duration) {
        self.took = took;
    }

    pub(super) fn all_acknowledged(&self) -> bool {
        self.acknowledged == self.planned
    }

    /// Returns the time within which this share of the requests was answered.
    fn quantile(&self, percent: usize) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(place).copied().unwrap_or_default()
    }
}

fn text(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sent, planned) = (self.times.len(), self.planned);
        let seconds = self.took.as_secs_f64();
        write!(f, "{sent} of {planned} sent in {seconds:.1} s")?;
        for (answer, count) in &self.answers {
            write!(f, "\n{count:8}  {answer}")?;
        }
        if sent > 1 {
            let [median, most, longest] = [50, 99, 100].map(|percent| {
                let milliseconds = self.quantile(percent).as_secs_f64() * 1_000.0;
                format!("{milliseconds:.1} ms")
            });
            write!(
                f,
                "\nhalf within {median}, 99 % within {most}, all within {longest}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(answer: Result<StatusCode, String>, milliseconds: u64) -> Outcome {
        Outcome {
            answer,
            took: Duration::from_millis(milliseconds),
        }
    }

    #[test]
    fn answers_are_counted_and_times_are_quantiles() {
        let mut summary = Summary::new(5);
        for milliseconds in [3, 1, 2] {
            summary.add(outcome(Ok(StatusCode::NO_CONTENT), milliseconds));
        }
        summary.add(outcome(Err("connection refused".to_owned()), 100));
        summary.took(Duration::from_millis(1_500));
        assert!(!summary.all_acknowledged());
        let expected = "4 of 5 sent in 1.5 s\n       \
                        3  204 No Content\n       \
                        1  no answer: connection refused\n\
                        half within 2.0 ms, 99 % within 100.0 ms, all within 100.0 ms";
        assert_eq!(summary.to_string(), expected);
    }

    #[test]
    fn requests_that_were_not_sent_are_not_acknowledged() {
        let mut summary = Summary::new(2);
        summary.add(outcome(Ok(StatusCode::OK), 1));
        assert!(!summary.all_acknowledged());
        summary.add(outcome(Ok(StatusCode::NO_CONTENT), 1));
        assert!(summary.all_acknowledged());
    }
}
