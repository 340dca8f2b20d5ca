//! Statements in plain SQL, with the values written into them.
//!
//! They are not prepared, for two reasons. The server plans each one for the table as it is now: a plan that was
//! made for a small table would read the whole table when it has grown. And no pooler can mix them up, in whatever
//! mode it works.

use std::fmt::Write as _;

/// A statement, and the name with which its answer begins.
pub(super) struct Statement {
    pub(super) name: &'static str,
    pub(super) sql: String,
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
        Self { name, sql }
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
    Blobs(&'a [&'a [u8]]),
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
                write_array(texts, "text", sql, |text, sql| write_text(text, sql))
            }
            Self::Numbers(numbers) => {
                write_array(numbers, "bigint", sql, |number, sql| {
                    _ = write!(sql, "{number}")
                });
            }
            Self::Blobs(blobs) => {
                write_array(blobs, "bytea", sql, |blob, sql| write_bytes(blob, sql))
            }
            Self::Time(micros) => {
                _ = write!(
                    sql,
                    "(timestamptz 'epoch' + {micros} * interval '1 microsecond')"
                );
            }
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

fn write_text(text: &str, sql: &mut String) {
    sql.push_str("convert_from(");
    write_bytes(text.as_bytes(), sql);
    sql.push_str(", 'UTF8')");
}

fn write_bytes(bytes: &[u8], sql: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    sql.reserve(2 * bytes.len() + 16);
    sql.push_str("decode('");
    for byte in bytes {
        sql.push(char::from(DIGITS[usize::from(byte >> 4)]));
        sql.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    sql.push_str("', 'hex')");
}

#[cfg(test)]
mod tests {
    use super::*;

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
            Value::Blobs(&[&[0, 255], &[]]),
            Value::Time(7),
            Value::Numbers(&[1, -2]),
        ];
        let statement = Statement::new("test", template, &values);
        assert_eq!(
            statement.sql,
            "SELECT convert_from(decode('273b2d2d2432', 'hex'), 'UTF8'), -5::bigint, true -- NULL::text\n\
             ARRAY[convert_from(decode('612762', 'hex'), 'UTF8'),convert_from(decode('', 'hex'), 'UTF8')]::text[] \
             ARRAY[decode('00ff', 'hex'),decode('', 'hex')]::bytea[] (timestamptz 'epoch' + 7 * interval '1 microsecond') ARRAY[1,-2]::bigint[] NULL::text\n"
        );
    }
}
