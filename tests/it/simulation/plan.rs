//! The plan of a run: the events, their layouts, and the faults.

use std::time::Duration;

use mx_job_webhook::ledger::EventName;
use mx_job_webhook::{JobEvent, Status};

/// Longer than any callback and any lease of a run.
pub(crate) const LONG: Duration = Duration::from_secs(2 * 3600);

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// No two of these are the same event.
    pub(crate) events: Vec<Planned>,
    pub(crate) restarts: u8,
    /// Whether the ledger outlives the process, as a server does.
    pub(crate) keeps_ledger: bool,
    /// The number of faults in a thousand calls of the ledger.
    pub(crate) ledger_errors: u32,
    pub(crate) answer_deadline: Option<Duration>,
    pub(crate) window: Duration,
    pub(crate) capacity: usize,
    pub(crate) lease: Duration,
}

impl Plan {
    pub(crate) fn draw(random: &mut fastrand::Rng) -> Self {
        let mut events: Vec<Planned> = Vec::new();
        for job in 0..random.usize(1..=3) {
            let mut second = 1_471_281_212;
            for step in 0..random.usize(1..=4) {
                // Two steps can end in the same second; the status then
                // tells the events apart.
                second += random.i64(if step % 2 == 0 { 1..3 } else { 0..3 });
                let event = Planned::draw(random, job, step, second);
                if events.iter().all(|other| !other.is_same(&event)) {
                    events.push(event);
                }
            }
        }
        Self {
            events,
            restarts: random.u8(..10).saturating_sub(7),
            keeps_ledger: false,
            ledger_errors: [0, 0, 50, 200][random.usize(..4)],
            answer_deadline: random.bool().then_some(Duration::from_secs(4)),
            window: Duration::from_secs([172_800, 172_800, 300][random.usize(..3)]),
            capacity: [1000, 1000, 3][random.usize(..3)],
            lease: [LONG, LONG, Duration::from_secs(60)][random.usize(..3)],
        }
    }
}

/// An event as MX sends it, and what the checks know about it independently of the crate.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    guid: String,
    pub(crate) status: Status,
    /// The JSON fields, including the date.
    fields: Vec<String>,
    date: Date,
}

/// A date as the receiver understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Date {
    /// In nanoseconds since the epoch.
    Understood(i128),
    /// The same, but so far in the future that it does not order events.
    Future(i128),
    /// Absent or not understood: only its text tells the event from others.
    None,
}

impl Planned {
    fn draw(random: &mut fastrand::Rng, job: usize, step: usize, second: i64) -> Self {
        let status = match step % 2 {
            // Sometimes a status without a callback.
            _ if random.u8(..8) == 0 => Status::Halted,
            0 => Status::Challenged,
            _ => Status::Completed,
        };
        let (date, written) = draw_date(random, second);
        let guid = format!("JOB-{job}");
        let mut fields = vec![
            format!(r#""guid":"{guid}""#),
            format!(r#""status_name":"{status}""#),
            // The value by which the checks identify the event.
            format!(r#""error_message":"step {step}""#),
            r#""new":{"a":[1,{}],"b":null}"#.to_owned(),
        ];
        fields.extend(written.map(|date| format!(r#""updated_at":{date}"#)));
        Self {
            guid,
            status,
            fields,
            date,
        }
    }

    /// Whether MX means the same event by both.
    fn is_same(&self, other: &Self) -> bool {
        self.guid == other.guid
            && self.status == other.status
            && self.date == other.date
            && (self.date != Date::None || self.fields == other.fields)
    }

    /// Whether this event, once settled, makes the other stale.
    pub(crate) fn makes_stale(&self, other: &Self) -> bool {
        match (self.date, other.date) {
            (Date::Understood(this), Date::Understood(other_date)) => {
                self.guid == other.guid && this > other_date
            }
            _ => false,
        }
    }

    /// A delivery of the event in a random layout.
    pub(crate) fn body(&self, random: &mut fastrand::Rng) -> String {
        let mut fields = self.fields.clone();
        random.shuffle(&mut fields);
        let pause = ["", " ", "\n  ", "\r\n\t"][random.usize(..4)];
        let fields = fields.join(&format!(",{pause}"));
        format!("{{{pause}\"job\":{pause}{{{fields}{pause}}}}}")
    }

    /// The event, in one of its layouts.
    pub(crate) fn event(&self) -> JobEvent {
        JobEvent::decode(self.body(&mut fastrand::Rng::with_seed(0))).unwrap()
    }

    pub(crate) fn name(&self) -> EventName {
        EventName::of(&self.event())
    }

    /// Whether a callback received this event, whatever its name.
    pub(crate) fn is_in(&self, event: &JobEvent) -> bool {
        let message = event.error_message.as_deref().unwrap_or_default();
        let step = format!(r#""error_message":"{message}""#);
        self.guid == event.guid.as_str() && self.fields.contains(&step)
    }
}

/// A date and its written form, if any.
fn draw_date(random: &mut fastrand::Rng, second: i64) -> (Date, Option<String>) {
    const SECOND: i128 = 1_000_000_000;
    let quarter = random.u8(1..4);
    let whole = i128::from(second) * SECOND;
    let fraction = whole + i128::from(quarter) * SECOND / 4;
    let clock = second - 1_471_281_180;
    let understood = [
        (whole, format!("{second}")),
        (whole, format!("{second}.000")),
        (whole, format!(r#""2016-08-15T17:13:{clock:02}+00:00""#)),
        (fraction, format!("{second}.{:02}", u32::from(quarter) * 25)),
        (
            fraction,
            format!(
                r#""2016-08-15T19:13:{clock:02}.{:03}+02:00""#,
                u32::from(quarter) * 250
            ),
        ),
    ];
    let future = [
        (whole * 1000, format!("{second}000")),
        (i128::from(i64::MAX) * SECOND, i64::MAX.to_string()),
    ];
    let strange = [
        format!("\"{second}\""),
        format!(r#""2016-08-15T17:13:{clock:02}""#),
        format!(r#""Mon, 15 Aug 2016 17:13:{clock:02} +0000""#),
        format!(r#"{{"seconds":{second}}}"#),
        format!("[{second}]"),
        format!("{second}00000000000000000000"),
        format!("{second}.0000000001"),
        "null".to_owned(),
    ];
    match random.u8(..16) {
        0..9 => {
            let (date, written) = understood[random.usize(..understood.len())].clone();
            (Date::Understood(date), Some(written))
        }
        9 => {
            let (date, written) = future[random.usize(..future.len())].clone();
            (Date::Future(date), Some(written))
        }
        10..14 => {
            let written = strange[random.usize(..strange.len())].clone();
            (Date::None, Some(written))
        }
        _ => (Date::None, None),
    }
}
