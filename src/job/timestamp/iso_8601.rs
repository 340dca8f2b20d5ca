//! Timestamps as ISO 8601.

use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use jiff::civil::DateTime;

use super::Timestamp;

const EPOCH: DateTime = jiff::civil::datetime(1970, 1, 1, 0, 0, 0, 0);

/// Reads ISO 8601 with an offset, such as `2016-08-15T17:13:35+00:00`.
impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text)
            .filter(|moment| moment.reads_back())
            .ok_or(ParseTimestampError::new())
    }
}

/// The error of parsing a text that is not an ISO 8601 date and time with an offset.
///
/// A date without an offset is refused, because its time zone would be a guess. So are a leap
/// second, which Unix time does not have, and a fraction with more than nine digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseTimestampError(());

impl ParseTimestampError {
    pub(super) const fn new() -> Self {
        Self(())
    }
}

impl fmt::Display for ParseTimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither Unix seconds nor an ISO 8601 date with an offset")
    }
}

impl std::error::Error for ParseTimestampError {}

/// Returns the date and time in UTC, if RFC 3339 can express it: the years 0 to 9999.
pub(super) fn to_utc(moment: Timestamp) -> Option<DateTime> {
    let nanos = i32::try_from(moment.subsec_nanos()).ok()?;
    let since_epoch = SignedDuration::new(moment.seconds, nanos);
    let utc = EPOCH.checked_add(since_epoch).ok()?;
    (utc.year() >= 0).then_some(utc)
}

/// Reads dates such as `2016-08-15T17:13:35.25+02:00`, exactly.
///
/// Other forms of ISO 8601, and extensions that jiff reads, are refused. Some would have to be
/// rounded, such as an offset with a fraction, and some can contradict themselves, such as an
/// offset with a time zone in brackets.
fn read(text: &str) -> Option<Timestamp> {
    const SHAPE: &[u8; 19] = b"0000-00-00T00:00:00";
    let (date_time, rest) = text.split_at_checked(SHAPE.len())?;
    let has_shape = date_time
        .bytes()
        .zip(SHAPE)
        .all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            b'T' => matches!(byte, b'T' | b't' | b' '),
            separator => byte == *separator,
        });
    // Unix time has no leap seconds, and jiff would read one as the second before it.
    if !has_shape || date_time.ends_with("60") {
        return None;
    }
    let (nanos, offset) = match rest.strip_prefix('.') {
        Some(fraction) => {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            let (digits, offset) = fraction.split_at(digits);
            (read_nanos(digits)?, offset)
        }
        None => (0, rest),
    };
    let date_time: DateTime = date_time.parse().ok()?;
    let since_epoch = date_time.duration_since(EPOCH).as_secs();
    Some(Timestamp::new(since_epoch - read_offset(offset)?, nanos))
}

/// Reads the digits after the point as nanoseconds. There are one to nine of them.
fn read_nanos(digits: &str) -> Option<u32> {
    let missing = 9_usize.checked_sub(digits.len())?;
    let scale = 10_u32.pow(u32::try_from(missing).ok()?);
    Some(digits.parse::<u32>().ok()? * scale)
}

/// Reads how many seconds an offset is ahead of UTC.
fn read_offset(text: &str) -> Option<i64> {
    let (sign, hours, minutes) = match text.as_bytes() {
        b"Z" | b"z" => return Some(0),
        [sign @ (b'+' | b'-'), h, hh] => (sign, [h, hh], [&b'0'; 2]),
        [sign @ (b'+' | b'-'), h, hh, b':', m, mm] | [sign @ (b'+' | b'-'), h, hh, m, mm] => {
            (sign, [h, hh], [m, mm])
        }
        _ => return None,
    };
    let number = |digits: [&u8; 2], bound: i64| {
        let [tens, ones] =
            digits.map(|digit| digit.is_ascii_digit().then(|| i64::from(digit - b'0')));
        Some(tens? * 10 + ones?).filter(|number| *number < bound)
    };
    let ahead = (number(hours, 24)? * 60 + number(minutes, 60)?) * 60;
    Some(if *sign == b'-' { -ahead } else { ahead })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(moment: Timestamp) -> (i64, u32) {
        (moment.unix_seconds(), moment.subsec_nanos())
    }

    #[test]
    fn reads_iso_8601_and_refuses_ambiguous_dates() {
        const MOMENT: i64 = 1_471_281_215;
        let cases = [
            ("Zulu", "2016-08-15T17:13:35Z", Some((MOMENT, 0))),
            ("offset", "2016-08-15T19:13:35+02:00", Some((MOMENT, 0))),
            (
                "zero offset",
                "2016-08-15T17:13:35+00:00",
                Some((MOMENT, 0)),
            ),
            ("no fraction", "2016-08-15T17:13:35.000Z", Some((MOMENT, 0))),
            (
                "milliseconds",
                "2016-08-15T17:13:35.999Z",
                Some((MOMENT, 999_000_000)),
            ),
            (
                "nanoseconds",
                "2016-08-15T17:13:35.000000001Z",
                Some((MOMENT, 1)),
            ),
            (
                "ten digits of a fraction",
                "2016-08-15T17:13:35.0000000001Z",
                None,
            ),
            ("space", "2016-08-15 17:13:35Z", Some((MOMENT, 0))),
            (
                "before the epoch",
                "1969-12-31T23:59:58.5Z",
                Some((-2, 500_000_000)),
            ),
            (
                "the year 60",
                "0060-06-06T06:06:06Z",
                Some((-60_260_176_434, 0)),
            ),
            ("a leap second", "2016-12-31T23:59:60Z", None),
            (
                "a leap second elsewhere",
                "2017-01-01T00:59:60.5+01:00",
                None,
            ),
            ("the basic format", "20160815T171335Z", None),
            (
                "an offset with 60 minutes",
                "2016-12-31T23:59:59+00:60",
                None,
            ),
            ("an offset of a day", "2016-12-31T23:59:59+24:00", None),
            (
                "an offset with seconds",
                "2016-08-15T17:13:35+00:00:00",
                None,
            ),
            (
                "an offset without a colon",
                "2016-08-15T15:13:35-0200",
                Some((MOMENT, 0)),
            ),
            (
                "an offset in hours",
                "2016-08-15T19:13:35+02",
                Some((MOMENT, 0)),
            ),
            (
                "a zone in brackets",
                "2016-08-15T17:13:35Z[America/New_York]",
                None,
            ),
            ("a point without digits", "2016-08-15T17:13:35.Z", None),
            ("full-width digits", "２016-08-15T17:13:35Z", None),
            ("no offset", "2016-08-15T17:13:35", None),
            ("date only", "2016-08-15", None),
            ("digits only", "1471281215", None),
            ("empty", "", None),
            ("month 13", "2016-13-15T17:13:35Z", None),
            ("words", "yesterday", None),
        ];
        for (name, text, expected) in cases {
            let read = text.parse::<Timestamp>().ok().map(parts);
            assert_eq!(read, expected, "{name}");
        }
    }
}
