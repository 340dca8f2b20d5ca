//! Reads JSON numbers exactly, by decimal arithmetic on their text.

/// A number with at most nine digits after the point: `whole` plus `nanos` billionths.
///
/// The billionths always count upwards: -0.5 is -1 plus 500,000,000 billionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) whole: i64,
    pub(crate) nanos: u32,
}

/// How many billionths one has.
const BILLION: u32 = 1_000_000_000;

impl Number {
    pub(crate) const fn integer(whole: i64) -> Self {
        Self { whole, nanos: 0 }
    }

    /// Reads a number in any of JSON's notations: `1.5e3` is 1500.
    ///
    /// Returns `None` if this type cannot hold the number exactly. It never rounds, because a
    /// rounded number is another number.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (unsigned, 0),
        };
        let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = Digits::of(before, after, exponent)?;

        let (mut whole, mut nanos) = (digits.whole()?, digits.billionths()?);
        if negative {
            whole = -whole;
            if nanos > 0 {
                (whole, nanos) = (whole - 1, BILLION - nanos);
            }
        }
        let whole = i64::try_from(whole).ok()?;
        Some(Self { whole, nanos })
    }
}

/// Reads the exponent. An exponent beyond 64 bits saturates, which no mantissa can balance.
fn read_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let exponent = digits.iter().fold(0_i64, |exponent, digit| {
        let digit = i64::from(digit.wrapping_sub(b'0'));
        exponent.saturating_mul(10).saturating_add(digit)
    });
    Some(if negative { -exponent } else { exponent })
}

/// The digits of a number, and the position of the point among them.
struct Digits<'a> {
    before: &'a [u8],
    after: &'a [u8],
    /// The position of the first digit that is not zero; 0 for the number zero.
    first: i64,
    /// The position after the last digit that is not zero; 0 for the number zero.
    end: i64,
    /// The position of the point, moved by the exponent. It is negative for `1e-2`.
    point: i64,
}

impl<'a> Digits<'a> {
    fn of(before: &'a str, after: &'a str, exponent: i64) -> Option<Self> {
        let (before, after) = (before.as_bytes(), after.as_bytes());
        let digits = || before.iter().chain(after);
        if before.is_empty() || !digits().all(u8::is_ascii_digit) {
            return None;
        }
        let nonzero = |digit: &u8| *digit != b'0';
        let (first, end) = match digits().position(nonzero) {
            Some(first) => {
                let zeros = digits().rev().position(nonzero).unwrap_or(0);
                (first, before.len() + after.len() - zeros)
            }
            None => (0, 0),
        };
        let point = i64::try_from(before.len()).ok()?.saturating_add(exponent);
        let zero = end == 0;
        Some(Self {
            before,
            after,
            first: i64::try_from(first).ok()?,
            end: i64::try_from(end).ok()?,
            point: if zero { 0 } else { point },
        })
    }

    /// Returns the digit at a position. Outside the written digits, every digit is zero.
    fn digit(&self, position: i64) -> u8 {
        let Ok(position) = usize::try_from(position) else {
            return 0;
        };
        let written = match position.checked_sub(self.before.len()) {
            None => self.before.get(position),
            Some(position) => self.after.get(position),
        };
        written.map_or(0, |digit| digit.wrapping_sub(b'0'))
    }

    fn whole(&self) -> Option<i128> {
        /// How many digits the largest 64-bit integer has.
        const MAX_DIGITS: i64 = 19;
        if self.point.saturating_sub(self.first) > MAX_DIGITS {
            return None;
        }
        let digits = (self.first..self.point).map(|position| i128::from(self.digit(position)));
        Some(digits.fold(0, |number, digit| number * 10 + digit))
    }

    fn billionths(&self) -> Option<u32> {
        const DIGITS: i64 = 9;
        if self.end.saturating_sub(self.point) > DIGITS {
            return None;
        }
        let digits = (0..DIGITS).map(|offset| self.digit(self.point.saturating_add(offset)));
        Some(digits.fold(0, |number, digit| number * 10 + u32::from(digit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_exactly_or_not_at_all() {
        let zeros = "0".repeat(60_000);
        let nines = "9".repeat(60_000);
        let cases = [
            ("0", Some((0, 0))),
            ("-0", Some((0, 0))),
            ("0.0", Some((0, 0))),
            ("-0e99999999999999999999", Some((0, 0))),
            ("7", Some((7, 0))),
            ("-7", Some((-7, 0))),
            ("1471281212", Some((1_471_281_212, 0))),
            ("1471281212.0", Some((1_471_281_212, 0))),
            ("1471281212.000000000000", Some((1_471_281_212, 0))),
            ("1471281212.25", Some((1_471_281_212, 250_000_000))),
            ("1471281212.000000001", Some((1_471_281_212, 1))),
            ("1471281212.0000000001", None),
            ("1.47128121225e9", Some((1_471_281_212, 250_000_000))),
            ("1.471281212E+9", Some((1_471_281_212, 0))),
            ("14712812120000000000e-10", Some((1_471_281_212, 0))),
            ("-0.5", Some((-1, 500_000_000))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-0.000000001", Some((-1, 999_999_999))),
            ("5e-1", Some((0, 500_000_000))),
            ("5e-9", Some((0, 5))),
            ("5e-10", None),
            ("1e18", Some((1_000_000_000_000_000_000, 0))),
            ("1e19", None),
            ("1e400", None),
            ("1e99999999999999999999", None),
            ("1e-99999999999999999999", None),
            // 2^53 and 2^53 + 1 are equal as floats.
            ("9007199254740992.0", Some((9_007_199_254_740_992, 0))),
            ("9007199254740993.0", Some((9_007_199_254_740_993, 0))),
            ("9223372036854775807", Some((i64::MAX, 0))),
            ("9223372036854775807.9", Some((i64::MAX, 900_000_000))),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some((i64::MIN, 0))),
            ("-9223372036854775808.1", None),
            ("-9223372036854775809", None),
            ("18446744073709551616", None),
            (nines.as_str(), None),
            // These are not numbers.
            ("", None),
            ("-", None),
            (".5", None),
            ("1e", None),
            ("1e+", None),
            ("1x", None),
            ("1.x", None),
            ("NaN", None),
        ];
        for (text, expected) in cases {
            let read = Number::read(text).map(|number| (number.whole, number.nanos));
            assert_eq!(read, expected, "{text}");
        }
        for (text, expected) in [
            (format!("7.{zeros}"), Some(7)),
            (format!("0.{zeros}7e60001"), Some(7)),
            (format!("7{zeros}e-60000"), Some(7)),
            (format!("7.{zeros}7"), None),
            (format!("7{zeros}"), None),
        ] {
            let read = Number::read(&text).map(|number| number.whole);
            assert_eq!(read, expected);
        }
    }
}
