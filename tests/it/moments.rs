//! A timestamp as the types of jiff, chrono and `time`, and back.

use std::fmt::Debug;

use chrono::{DateTime, FixedOffset, Utc};
use mx_job_webhook::{Timestamp, TimestampRangeError};
use proptest::prelude::*;
use time::OffsetDateTime;

type Case = (&'static str, i64, bool);

/// Goes out and comes back the same, or is refused.
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
fn jiff_has_the_same_moment_or_says_that_it_has_none() {
    let (min, max) = (jiff::Timestamp::MIN, jiff::Timestamp::MAX);
    check::<jiff::Timestamp>(&ORDINARY);
    check::<jiff::Timestamp>(&[
        ("milliseconds are no seconds", 1_471_281_215_000, false),
        ("jiff's first", min.as_second(), true),
        ("before jiff's first", min.as_second() - 1, false),
        ("jiff's last", max.as_second(), true),
        ("after jiff's last", max.as_second() + 1, false),
    ]);
}

#[test]
fn chrono_has_the_same_moment_or_says_that_it_has_none() {
    let (min, max) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    check::<DateTime<Utc>>(&ORDINARY);
    check::<DateTime<Utc>>(&[
        // In the year 48592, which chrono has.
        ("milliseconds are no seconds", 1_471_281_215_000, true),
        ("chrono's first", min.timestamp(), true),
        ("before chrono's first", min.timestamp() - 1, false),
        ("chrono's last", max.timestamp(), true),
        ("after chrono's last", max.timestamp() + 1, false),
    ]);
}

#[test]
fn time_has_the_same_moment_or_says_that_it_has_none() {
    // Its calendar's ends, which its own feature `large-dates` moves.
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
fn a_fraction_is_dropped_towards_the_past_and_a_zone_changes_nothing() {
    let cases = [
        ("whole", "2016-08-15T17:13:35Z", 1_471_281_215),
        ("nearly the next", "2016-08-15T17:13:35.999Z", 1_471_281_215),
        ("east", "2016-08-15T19:13:35+02:00", 1_471_281_215),
        ("just before the epoch", "1969-12-31T23:59:59.999Z", -1),
        ("before the epoch", "1969-12-31T23:59:58.5Z", -2),
        ("long before it", "0001-01-01T00:00:00.1Z", -62_135_596_800),
    ];
    for (name, text, seconds) in cases {
        let expected = Timestamp::from_unix_seconds(seconds);
        let jiff: jiff::Timestamp = text.parse().unwrap();
        assert_eq!(Timestamp::from(jiff), expected, "{name}");
        let chrono: DateTime<FixedOffset> = text.parse().unwrap();
        assert_eq!(Timestamp::from(chrono), expected, "{name}");
        let nanoseconds = jiff.as_nanosecond();
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap();
        let time = time.to_offset(time::UtcOffset::from_hms(-3, -30, 0).unwrap());
        assert_eq!(Timestamp::from(time), expected, "{name}");
    }
    let leap: DateTime<Utc> = "2016-12-31T23:59:60Z".parse().unwrap();
    assert_eq!(Timestamp::from(leap).unix_seconds(), 1_483_228_799);
}

fn same<T>(moment: Timestamp, seconds: impl Fn(&T) -> i64) -> Result<(), TestCaseError>
where
    T: TryFrom<Timestamp, Error = TimestampRangeError> + Into<Timestamp> + Debug,
{
    let Ok(other) = T::try_from(moment) else {
        return Ok(()); // refused, and so not lost in silence
    };
    prop_assert_eq!(seconds(&other), moment.unix_seconds());
    prop_assert_eq!(other.into(), moment);
    Ok(())
}

proptest! {
    #[test]
    fn whatever_can_be_expressed_comes_back(
        seconds in prop_oneof![any::<i64>(), -400_000_000_000_i64..400_000_000_000],
    ) {
        let moment = Timestamp::from_unix_seconds(seconds);
        same::<jiff::Timestamp>(moment, |other| other.as_second())?;
        same::<DateTime<Utc>>(moment, DateTime::timestamp)?;
        same::<OffsetDateTime>(moment, |other| other.unix_timestamp())?;
    }

    /// No more than a second before it, and never after.
    #[test]
    fn what_came_in_loses_less_than_a_second(
        nanoseconds in -300_000_000_000_000_000_000_i128..250_000_000_000_000_000_000,
    ) {
        let jiff = jiff::Timestamp::from_nanosecond(nanoseconds).unwrap();
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap();
        for moment in [Timestamp::from(jiff), Timestamp::from(time)] {
            let lost = nanoseconds - i128::from(moment.unix_seconds()) * 1_000_000_000;
            prop_assert!((0..1_000_000_000).contains(&lost), "{}", lost);
        }
    }
}
