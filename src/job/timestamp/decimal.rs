//! Timestamps as decimal numbers of seconds.

use std::fmt;

use super::{NANOS_PER_SECOND, Timestamp};

/// Prints a timestamp as a decimal number of seconds, without trailing zeros.
///
/// Ledgers store this text, so it must never change.
pub(crate) struct Decimal(pub(super) Timestamp);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.seconds, self.0.subsec_nanos());
        // The fraction of a negative number counts away from zero.
        let (sign, whole, fraction) = match (seconds < 0, nanos) {
            (false, _) => ("", seconds.unsigned_abs(), nanos),
            (true, 0) => ("-", seconds.unsigned_abs(), 0),
            (true, _) => ("-", seconds.unsigned_abs() - 1, NANOS_PER_SECOND - nanos),
        };
        write!(f, "{sign}{whole}")?;
        if fraction == 0 {
            return Ok(());
        }
        let mut digits = fraction;
        let mut width = 9;
        while digits % 10 == 0 {
            digits /= 10;
            width -= 1;
        }
        write!(f, ".{digits:0width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_a_decimal_number() {
        let cases = [
            ((0, 0), "0"),
            ((1_471_281_212, 0), "1471281212"),
            ((1_471_281_212, 100_000_000), "1471281212.1"),
            ((1_471_281_212, 1), "1471281212.000000001"),
            ((-1, 0), "-1"),
            ((-1, 500_000_000), "-0.5"),
            ((-2, 500_000_000), "-1.5"),
            ((-1, 999_999_999), "-0.000000001"),
            ((i64::MIN, 0), "-9223372036854775808"),
            ((i64::MIN, 900_000_000), "-9223372036854775807.1"),
            ((i64::MAX, 999_999_999), "9223372036854775807.999999999"),
        ];
        for ((seconds, nanos), expected) in cases {
            let moment = Timestamp::new(seconds, nanos);
            assert_eq!(moment.decimal().to_string(), expected);
            assert_eq!(format!("{moment:?}"), format!("Timestamp({expected})"));
        }
    }
}
