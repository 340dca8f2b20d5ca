//! The reference for decoding: reads a webhook as the documentation of `Job` and `Job::decode` says.

use mx_job_webhook::ErrorKind;

use crate::json::{self, Json};

/// A moment: seconds since 1970, and nanoseconds after them.
pub(crate) type Moment = (i64, u32);

#[derive(Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) guid: String,
    /// Its name and its integer.
    pub(crate) status: (Option<String>, Option<i64>),
    pub(crate) status_code: Option<i64>,
    /// `created_at`, `started_at`, `finished_at`, `updated_at`.
    pub(crate) dates: [Option<Moment>; 4],
    /// `institution_guid`, `member_guid`, `member_id`, `user_guid`, `user_id`.
    pub(crate) ids: [Option<String>; 5],
    pub(crate) error_message: Option<String>,
    pub(crate) is_authenticated: Option<bool>,
}

const FIELDS: [&str; 15] = [
    "guid",
    "status",
    "status_name",
    "created_at",
    "started_at",
    "finished_at",
    "updated_at",
    "error_message",
    // MX's table misspells the name.
    "institution_guid",
    "insitution_guid",
    "is_authenticated",
    "member_guid",
    "member_id",
    "user_guid",
    "user_id",
];

/// The table of MX's statuses. The index of each is its integer.
const STATUSES: [&str; 10] = [
    "INITIATED",
    "REQUESTED",
    "CHALLENGED",
    "RECEIVED",
    "TRANSFERRED",
    "PROCESSED",
    "COMPLETED",
    "PREVENTED",
    "DENIED",
    "HALTED",
];

/// Returns the job, or the kind of the error and the field that it names.
pub(crate) fn read(body: &[u8]) -> Result<Job, (ErrorKind, Option<&'static str>)> {
    let json = document(body).ok_or((ErrorKind::NotJson, None))?;
    let Json::Object(root) = json else {
        return Err((ErrorKind::NoJob, None));
    };
    let invalid = |field| (ErrorKind::InvalidJob, Some(field));
    match values(&root, "job")[..] {
        [Json::Object(job)] => {
            if let Some(field) = repeated(job) {
                return Err(invalid(field));
            }
            let guid = id(field(job, "guid")).ok_or(invalid("guid"))?;
            let status_code = field(job, "status").and_then(integer);
            let name = field(job, "status_name").and_then(Json::as_text);
            let name = name.filter(|name| !is_blank(name));
            let status = name.map(named).or(status_code.map(numbered));
            let status = status.ok_or(invalid("status"))?;
            Ok(Job {
                guid,
                status,
                status_code,
                dates: ["created_at", "started_at", "finished_at", "updated_at"]
                    .map(|name| field(job, name).and_then(moment)),
                ids: [
                    id(field(job, "institution_guid")).or(id(field(job, "insitution_guid"))),
                    id(field(job, "member_guid")),
                    partner_id(field(job, "member_id")),
                    id(field(job, "user_guid")),
                    partner_id(field(job, "user_id")),
                ],
                error_message: field(job, "error_message").and_then(Json::as_text),
                is_authenticated: match field(job, "is_authenticated") {
                    Some(Json::Bool(value)) => Some(*value),
                    _ => None,
                },
            })
        }
        [_, _, ..] => Err(invalid("job")),
        // Each of MX's other webhooks has one of these root keys, and no job.
        _ if !values(&root, "type").is_empty() || !values(&root, "action").is_empty() => {
            Err((ErrorKind::UnexpectedWebhook, None))
        }
        _ => Err((ErrorKind::NoJob, None)),
    }
}

/// The status with a name, without regard to case and surrounding white space.
fn named(name: String) -> (Option<String>, Option<i64>) {
    let name = name.trim().to_ascii_uppercase();
    let index = STATUSES.iter().position(|status| *status == name);
    (Some(name), index.map(|index| index as i64))
}

/// The status with an integer, if there is no name.
fn numbered(code: i64) -> (Option<String>, Option<i64>) {
    let index = usize::try_from(code).ok();
    let name = index.and_then(|index| STATUSES.get(index));
    (name.map(ToString::to_string), Some(code))
}

/// Reads a body as JSON: UTF-8, with a byte-order mark or without.
pub(crate) fn document(body: &[u8]) -> Option<Json> {
    let text = std::str::from_utf8(body).ok()?;
    json::read(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Returns all values of an object under a key, whether the key has escapes or not.
fn values<'a>(object: &'a [(String, Json)], key: &str) -> Vec<&'a Json> {
    let entries = object
        .iter()
        .filter(|(written, _)| json::text(written).as_deref() == Some(key));
    entries.map(|(_, value)| value).collect()
}

fn field<'a>(job: &'a [(String, Json)], name: &str) -> Option<&'a Json> {
    values(job, name).first().copied()
}

/// Returns the field whose second value comes first.
fn repeated(job: &[(String, Json)]) -> Option<&'static str> {
    let mut seen = Vec::new();
    for (written, _) in job {
        let key = json::text(written).unwrap_or_default();
        if let Some(field) = FIELDS.into_iter().find(|field| *field == key) {
            if seen.contains(&field) {
                return Some(field);
            }
            seen.push(field);
        }
    }
    None
}

/// A text that is not blank.
fn id(value: Option<&Json>) -> Option<String> {
    value?.as_text().filter(|text| !is_blank(text))
}

/// Partners' own ids may be numbers.
fn partner_id(value: Option<&Json>) -> Option<String> {
    id(value).or_else(|| integer(value?).map(|integer| integer.to_string()))
}

/// A text of white space alone, as Unicode 16 lists it.
fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// A number without a fraction, however it is written.
fn integer(value: &Json) -> Option<i64> {
    match value {
        Json::Number(number) => exact(number)
            .filter(|(_, nanos)| *nanos == 0)
            .map(|(whole, _)| whole),
        _ => None,
    }
}

/// Unix seconds, or ISO 8601 with an offset. Outside the years 0 to 9999, a fraction is not read.
fn moment(value: &Json) -> Option<Moment> {
    let moment = match value {
        Json::Number(number) => exact(number)?,
        Json::String(_) => iso_8601(&value.as_text()?)?,
        _ => return None,
    };
    let has_year = (days(0, 1, 1) * 86_400..days(10_000, 1, 1) * 86_400).contains(&moment.0);
    (moment.1 == 0 || has_year).then_some(moment)
}

/// Reads a number exactly, or not at all: by moving the point in its text.
fn exact(number: &str) -> Option<Moment> {
    let (unsigned, negative) = match number.strip_prefix('-') {
        Some(unsigned) => (unsigned, true),
        None => (number, false),
    };
    let lower = unsigned.to_ascii_lowercase();
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if format!("{before}{after}").trim_matches('0').is_empty() {
        return Some((0, 0));
    }
    // With any larger exponent, an input of this length is out of range.
    let exponent = exponent
        .parse::<i32>()
        .ok()
        .filter(|exponent| exponent.abs() < 100_000)?;
    let zeros = "0".repeat(exponent.unsigned_abs() as usize + 9);
    let digits = format!("{zeros}{before}{after}{zeros}");
    let point = usize::try_from((zeros.len() + before.len()) as i32 + exponent).ok()?;
    let (whole, fraction) = digits.split_at(point);
    let (nanos, beyond) = fraction.split_at(9);
    if beyond.contains(|digit| digit != '0') {
        return None;
    }
    let nanos: i128 = nanos.parse().ok()?;
    let whole = whole.trim_start_matches('0');
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let total = whole.checked_mul(1_000_000_000)?.checked_add(nanos)?;
    let total = if negative { -total } else { total };
    let whole = i64::try_from(total.div_euclid(1_000_000_000)).ok()?;
    Some((whole, total.rem_euclid(1_000_000_000) as u32))
}

/// Reads `2016-08-15T17:13:35.25+02:00`, with at most nine digits after the point.
fn iso_8601(text: &str) -> Option<Moment> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        let all = digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse::<i64>().ok().filter(|_| all)
    };
    let separator = |at: usize, of: &str| of.contains(text.get(at..=at)?).then_some(());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    for (at, of) in [(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")] {
        separator(at, of)?;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut end = 19;
    let mut nanos = 0;
    if separator(19, ".").is_some() {
        let digits = text[20..].bytes().take_while(u8::is_ascii_digit).count();
        end = 20 + digits;
        if !(1..=9).contains(&digits) {
            return None;
        }
        nanos = format!("{:0<9}", &text[20..end]).parse().ok()?;
    }
    let offset = match &text[end..] {
        "Z" | "z" => 0,
        offset => {
            separator(end, "+-")?;
            let minutes = match offset.len() {
                3 => 0,
                5 => number(end + 3, end + 5)?,
                6 => separator(end + 3, ":").and(number(end + 4, end + 6))?,
                _ => return None,
            };
            let hours = number(end + 1, end + 3)?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let ahead = hours * 3600 + minutes * 60;
            if offset.starts_with('-') {
                -ahead
            } else {
                ahead
            }
        }
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some((seconds - offset, nanos))
}

/// Returns the days from 1970-01-01 to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have the leap day at their end.
    let (year, month) = if month < 3 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 306 + 5) / 10 + day - 1 - 719_468
}
