//! The plan of a run: the jobs, their course, and the faults.

use std::time::Duration;

use mx_job_webhook::{JobEvent, Status};

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) jobs: Vec<PlannedJob>,
    pub(crate) replicas: usize,
    pub(crate) kills: u8,
    /// The number of faults in a thousand calls of the store.
    pub(crate) store_errors: u32,
    pub(crate) patience: Duration,
    pub(crate) limit: Duration,
    /// How long the faults last.
    pub(crate) chaos: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct PlannedJob {
    pub(crate) guid: String,
    pub(crate) start: Duration,
    /// What happens at MX, in order. The last one ends the job, the others are challenges.
    pub(crate) events: Vec<Planned>,
    /// What MX answers before the first event.
    initial: JobEvent,
    /// When the application expects the job first, after MX has started it.
    pub(crate) expect_after: Duration,
    /// Whether the application waits, or only expects.
    pub(crate) waits: bool,
    /// Whether MX's API fails for this job.
    pub(crate) is_unreadable: bool,
    /// The challenge that the user does not answer, if any.
    pub(crate) abandoned_at: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) event: JobEvent,
    /// How long after the one before.
    pub(crate) delay: Duration,
    pub(crate) is_lost: bool,
    pub(crate) duplicates: u8,
}

impl PlannedJob {
    /// The job as MX answers when this many events have happened.
    pub(crate) fn state(&self, happened: usize) -> JobEvent {
        match happened.checked_sub(1) {
            Some(last) => self.events[last].event.clone(),
            None => self.initial.clone(),
        }
    }
}

impl Plan {
    pub(crate) fn draw(random: &mut fastrand::Rng) -> Self {
        // The share of deliveries that are lost for good, in percent.
        let losses = [0, 30, 60, 100][random.usize(..4)];
        let jobs = random.usize(1..=4);
        Self {
            jobs: (0..jobs).map(|job| draw_job(random, job, losses)).collect(),
            replicas: random.usize(1..=3),
            kills: random.u8(..8).saturating_sub(2),
            store_errors: [0, 0, 30, 150][random.usize(..4)],
            // Longer than a read takes.
            patience: Duration::from_secs(random.u64(35..90)),
            limit: Duration::from_secs([300, 600, 900][random.usize(..3)]),
            chaos: Duration::from_secs(random.u64(200..900)),
        }
    }
}

fn draw_job(random: &mut fastrand::Rng, job: usize, losses: u8) -> PlannedJob {
    let guid = format!("JOB-{job}");
    let challenges = random.usize(..3);
    let mut second = 1_471_281_212;
    let mut events = Vec::new();
    for step in 0..=challenges {
        let status = match random.u8(..8) {
            _ if step < challenges => Status::Challenged,
            0 => Status::Halted,
            1 => Status::Denied,
            2 => Status::Prevented,
            _ => Status::Completed,
        };
        // Several events in one second differ in their fractions, or have no readable date.
        let date = match random.u8(..6) {
            0 => "null".to_owned(),
            1 => format!(r#""day {step}""#),
            2 => format!("{second}000"),
            _ => format!("{second}.{}", step + 1),
        };
        second += random.i64(0..2);
        events.push(Planned {
            event: event(&guid, &status, &date, step),
            delay: Duration::from_millis(random.u64(..60_000)),
            is_lost: random.u8(..100) < losses,
            duplicates: random.u8(..6).saturating_sub(3),
        });
    }
    let abandoned_at = random.usize(..3 * challenges.max(1));
    PlannedJob {
        initial: event(&guid, &Status::Initiated, "1471281211", 99),
        guid,
        start: Duration::from_millis(random.u64(..120_000)),
        events,
        expect_after: Duration::from_millis(match random.u8(..4) {
            0 => 0,
            1 => random.u64(..5_000),
            2 => random.u64(..60_000),
            _ => random.u64(..300_000),
        }),
        waits: random.u8(..5) > 0,
        is_unreadable: random.u8(..6) == 0,
        abandoned_at: (abandoned_at < challenges).then_some(abandoned_at),
    }
}

fn event(guid: &str, status: &Status, date: &str, step: usize) -> JobEvent {
    let body = format!(
        r#"{{"job":{{"guid":"{guid}","status_name":"{status}","error_message":"step {step}","updated_at":{date}}}}}"#
    );
    JobEvent::decode(body).unwrap()
}

/// The status of a challenge that nobody has answered in time.
pub(crate) fn halted(guid: &str) -> Planned {
    Planned {
        event: event(guid, &Status::Halted, "1471281300", 100),
        delay: Duration::ZERO,
        is_lost: false,
        duplicates: 0,
    }
}
