//! Statements in plain SQL, with the values written into them.
//!
//! They are not prepared, for two reasons. The server plans each one for the table as it is now: a plan that was
//! made for a small table would read the whole table when it has grown. And no pooler can mix them up, in whatever
//! mode it works.

use std::fmt::Write as _;
use std::time::Duration;

/// A statement, and the name with which its answer begins.
pub(super) struct Statement {
    pub(super) name: &'static str,
    pub(super) sql: String,
    pub(super) limit: Option<Duration>,
}

impl Statement {
    /// Returns the statement with these values in place of `$1`, `$2` and so on.
    pub(super) fn new(name: &'static str, template: &str, values: &[Value<'_>]) -> Self {
        let mut sql = String::with_capacity(template.len() + 256);
        // The comment at the head is for readers of the file.
        let template = template
            .lines()
            .skip_while(|line| line.starts_with("--"))
            .flat_map(|line| [line, "\n"]);
        for line in template {
            let mut parts = line.split('$');
            sql.push_str(parts.next().unwrap_or_default());
            for part in parts {
                let digits = part.bytes().take_while(u8::is_ascii_digit).count();
                let (number, rest) = part.split_at(digits);
                let value = number.parse::<usize>().ok().and_then(|n| values.get(n - 1));
                value.unwrap_or(&Value::Null).write(&mut sql);
                sql.push_str(rest);
            }
        }
        let limit = None;
        Self { name, sql, limit }
    }
}

impl Statement {
    /// Ends the statement after this time, if that is shorter than the one that applies to all.
    pub(super) fn within(mut self, limit: Option<Duration>) -> Self {
        self.limit = limit;
        self
    }

    /// Returns the statement with its name, which the server shows where it shows statements.
    pub(super) fn text(&self) -> String {
        format!("/* mx-job-webhook {} */\n{}", self.name, self.sql)
    }
}

/// A value of a statement. None of them is written as the text that it is, so that no text can be taken for SQL.
pub(super) enum Value<'a> {
    Null,
    Number(i64),
    Flag(bool),
    Text(&'a str),
    Texts(&'a [&'a str]),
    Numbers(&'a [i64]),
    /// The parameter with which the statement runs. By default, the server does not log it when the statement fails, but does
    /// if it logs all statements.
    Parameter,
    /// A time in µs since 1970.
    Time(i64),
}

impl Value<'_> {
    fn write(&self, sql: &mut String) {
        match self {
            Self::Null => sql.push_str("NULL::text"),
            Self::Number(number) => _ = write!(sql, "{number}::bigint"),
            Self::Flag(flag) => _ = write!(sql, "{flag}"),
            Self::Text(text) => write_text(text, sql),
            Self::Texts(texts) => {
                write_array(texts, "text", sql, |text, sql| write_text(text, sql));
            }
            Self::Numbers(numbers) => {
                write_array(numbers, "bigint", sql, |number, sql| {
                    _ = write!(sql, "{number}");
                });
            }
            Self::Parameter => sql.push_str("$1::bytea[]"),
            Self::Time(micros) => write_time(*micros, sql),
        }
    }
}

fn write_array<T>(items: &[T], name: &str, sql: &mut String, write: impl Fn(&T, &mut String)) {
    sql.push_str("ARRAY[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            sql.push(',');
        }
        write(item, sql);
    }
    _ = write!(sql, "]::{name}[]");
}

/// Writes a literal, which has the default collation. An expression such as `convert_from(…)` has another, with which
/// the server would use no index on a text.
fn write_text(text: &str, sql: &mut String) {
    sql.reserve(4 * text.len() + 16);
    sql.push_str("E'");
    for byte in text.bytes() {
        sql.push_str("\\x");
        write_hex(byte, sql);
    }
    sql.push('\'');
}

/// Writes a literal, by the Julian day. The server computes an expression after it has planned the statement, and
/// then reads more of an index than it needs.
fn write_time(micros: i64, sql: &mut String) {
    const DAY: i64 = 24 * 60 * 60 * 1_000_000;
    const EPOCH: i64 = 2_440_588;
    let (day, time) = (EPOCH + micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let (seconds, micros) = (time / 1_000_000, time % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    _ = write!(
        sql,
        "timestamptz 'J{day} {hour:02}:{minute:02}:{second:02}.{micros:06} UTC'"
    );
}

fn write_hex(byte: u8, sql: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    sql.push(char::from(DIGITS[usize::from(byte >> 4)]));
    sql.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact() {
        for (micros, expected) in [
            (0, "J2440588 00:00:00.000000 UTC"),
            (1_764_174_143_123_456, "J2461006 16:22:23.123456 UTC"),
            ((1 << 53) - 1, "J2544837 23:47:34.740991 UTC"),
        ] {
            let mut sql = String::new();
            Value::Time(micros).write(&mut sql);
            assert_eq!(sql, format!("timestamptz '{expected}'"));
        }
    }

    #[test]
    fn values_are_written_so_that_no_text_is_taken_for_sql() {
        let template = "-- Head $1.\n-- More.\nSELECT $1, $2, $3 -- $4\n$5 $6 $7 $8 $12";
        let texts = ["a'b", ""];
        let values = [
            Value::Text("';--$2"),
            Value::Number(-5),
            Value::Flag(true),
            Value::Null,
            Value::Texts(&texts),
            Value::Parameter,
            Value::Time(7),
            Value::Numbers(&[1, -2]),
        ];
        let statement = Statement::new("test", template, &values);
        assert_eq!(
            statement.sql,
            "SELECT E'\\x27\\x3b\\x2d\\x2d\\x24\\x32', -5::bigint, true -- NULL::text\n\
             ARRAY[E'\\x61\\x27\\x62',E'']::text[] \
             $1::bytea[] timestamptz 'J2440588 00:00:00.000007 UTC' \
             ARRAY[1,-2]::bigint[] NULL::text\n"
        );
    }
}
