//! Converts timestamps to the types of jiff, chrono and `time`, and back.

use std::fmt::Debug;

use chrono::{DateTime, FixedOffset, Utc};
use mx_job_webhook::job::{Timestamp, TimestampRangeError};
use proptest::prelude::*;
use time::OffsetDateTime;

type Case = (&'static str, i64, bool);

const SECOND: i128 = 1_000_000_000;

fn nanoseconds(moment: Timestamp) -> i128 {
    i128::from(moment.unix_seconds()) * SECOND + i128::from(moment.subsec_nanos())
}

/// Checks that a timestamp either survives the round trip or is refused.
fn check<T>(cases: &[Case])
where
    T: TryFrom<Timestamp, Error = TimestampRangeError> + Into<Timestamp> + Debug,
{
    for (name, seconds, fits) in cases {
        let moment = Timestamp::from_unix_seconds(*seconds);
        match T::try_from(moment) {
            Ok(other) => assert!(*fits && other.into() == moment, "{name}"),
            Err(_) => assert!(!fits, "{name}"),
        }
    }
}

const ORDINARY: [Case; 6] = [
    ("MX's sample", 1_471_281_215, true),
    ("the epoch", 0, true),
    ("before the epoch", -1, true),
    ("beyond 32 bits", 4_294_967_296, true),
    ("the least", i64::MIN, false),
    ("the greatest", i64::MAX, false),
];

#[test]
fn jiff_converts_exactly_or_fails() {
    let (min, max) = (jiff::Timestamp::MIN, jiff::Timestamp::MAX);
    check::<jiff::Timestamp>(&ORDINARY);
    check::<jiff::Timestamp>(&[
        ("milliseconds taken for seconds", 1_471_281_215_000, false),
        ("jiff's first", min.as_second(), true),
        ("before jiff's first", min.as_second() - 1, false),
        ("jiff's last", max.as_second(), true),
        ("after jiff's last", max.as_second() + 1, false),
    ]);
}

#[test]
fn chrono_converts_exactly_or_fails() {
    let (min, max) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    check::<DateTime<Utc>>(&ORDINARY);
    check::<DateTime<Utc>>(&[
        // This is the year 48592, which chrono supports.
        ("milliseconds taken for seconds", 1_471_281_215_000, true),
        ("chrono's first", min.timestamp(), true),
        ("before chrono's first", min.timestamp() - 1, false),
        ("chrono's last", max.timestamp(), true),
        ("after chrono's last", max.timestamp() + 1, false),
    ]);
}

#[test]
fn time_converts_exactly_or_fails() {
    // The limits of its calendar; its feature `large-dates` moves them.
    let [min, max] = [time::Date::MIN, time::Date::MAX].map(|day| day.midnight().assume_utc());
    let max = max + time::Duration::seconds(86_399);
    check::<OffsetDateTime>(&ORDINARY);
    check::<OffsetDateTime>(&[
        ("time's first", min.unix_timestamp(), true),
        ("before time's first", min.unix_timestamp() - 1, false),
        ("time's last", max.unix_timestamp(), true),
        ("after time's last", max.unix_timestamp() + 1, false),
    ]);
}

#[test]
fn a_fraction_is_kept_and_a_zone_does_not_change_the_moment() {
    let cases = [
        ("whole", "2016-08-15T17:13:35Z", 1_471_281_215, 0),
        (
            "a fraction",
            "2016-08-15T17:13:35.999Z",
            1_471_281_215,
            999_000_000,
        ),
        (
            "a nanosecond",
            "2016-08-15T17:13:35.000000001Z",
            1_471_281_215,
            1,
        ),
        ("east", "2016-08-15T19:13:35+02:00", 1_471_281_215, 0),
        (
            "just before the epoch",
            "1969-12-31T23:59:59.999Z",
            -1,
            999_000_000,
        ),
        (
            "before the epoch",
            "1969-12-31T23:59:58.5Z",
            -2,
            500_000_000,
        ),
        (
            "long before it",
            "0001-01-01T00:00:00.1Z",
            -62_135_596_800,
            100_000_000,
        ),
    ];
    for (name, text, seconds, nanos) in cases {
        let jiff: jiff::Timestamp = text.parse().unwrap();
        let chrono: DateTime<FixedOffset> = text.parse().unwrap();
        let time = OffsetDateTime::from_unix_timestamp_nanos(jiff.as_nanosecond()).unwrap();
        let time = time.to_offset(time::UtcOffset::from_hms(-3, -30, 0).unwrap());
        let read: Timestamp = text.parse().unwrap();
        for moment in [jiff.into(), chrono.into(), time.into(), read] {
            assert_eq!(moment.unix_seconds(), seconds, "{name}");
            assert_eq!(moment.subsec_nanos(), nanos, "{name}");
        }
        assert_eq!(jiff::Timestamp::try_from(read).unwrap(), jiff, "{name}");
        assert_eq!(DateTime::<Utc>::try_from(read).unwrap(), chrono, "{name}");
        assert_eq!(OffsetDateTime::try_from(read).unwrap(), time, "{name}");
    }
    let leap: DateTime<Utc> = "2016-12-31T23:59:60.5Z".parse().unwrap();
    let leap = Timestamp::from(leap);
    assert_eq!(
        (leap.unix_seconds(), leap.subsec_nanos()),
        (1_483_228_799, 999_999_999)
    );
}

fn same<T>(moment: Timestamp, seconds: impl Fn(&T) -> i64) -> Result<(), TestCaseError>
where
    T: TryFrom<Timestamp, Error = TimestampRangeError> + Into<Timestamp> + Debug,
{
    let Ok(other) = T::try_from(moment) else {
        return Ok(()); // the conversion was refused
    };
    prop_assert_eq!(seconds(&other), moment.unix_seconds());
    prop_assert_eq!(other.into(), moment);
    Ok(())
}

proptest! {
    #[test]
    fn every_convertible_timestamp_survives_the_round_trip(
        seconds in prop_oneof![any::<i64>(), -400_000_000_000_i64..400_000_000_000],
    ) {
        let moment = Timestamp::from_unix_seconds(seconds);
        same::<jiff::Timestamp>(moment, |other| other.as_second())?;
        same::<DateTime<Utc>>(moment, DateTime::timestamp)?;
        same::<OffsetDateTime>(moment, |other| other.unix_timestamp())?;
    }

    #[test]
    fn a_converted_timestamp_is_exact_and_converts_back_unchanged(
        nanos in -300_000_000_000_000_000_000_i128..250_000_000_000_000_000_000,
    ) {
        let jiff = jiff::Timestamp::from_nanosecond(nanos).unwrap();
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap();
        let second = i64::try_from(nanos.div_euclid(SECOND)).unwrap();
        let below = u32::try_from(nanos.rem_euclid(SECOND)).unwrap();
        let chrono = DateTime::<Utc>::from_timestamp(second, below).unwrap();
        for moment in [jiff.into(), time.into(), chrono.into()] {
            prop_assert_eq!(nanoseconds(moment), nanos);
            prop_assert_eq!(jiff::Timestamp::try_from(moment).unwrap(), jiff);
            prop_assert_eq!(OffsetDateTime::try_from(moment).unwrap(), time);
            prop_assert_eq!(DateTime::<Utc>::try_from(moment).unwrap(), chrono);
            let json = serde_json::to_string(&moment).unwrap();
            let read: Timestamp = serde_json::from_str(&json).unwrap();
            let written = second >= -62_167_219_200; // The year 0.
            prop_assert_eq!(read == moment, written || below == 0, "{}", json);
        }
    }
}

#[test]
fn an_error_of_a_conversion_is_an_error_with_a_message() {
    let milliseconds = Timestamp::from_unix_seconds(1_471_281_215_000);
    let error = jiff::Timestamp::try_from(milliseconds).unwrap_err();
    let error: &dyn std::error::Error = &error;
    assert!(!error.to_string().is_empty());
    assert!(error.source().is_none());
}
