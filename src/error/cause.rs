//! The causes of an error as text.

use std::error::Error as StdError;
use std::fmt::{self, Write};

use super::chain;
use crate::util::catch_panic::catch;

/// Writes `: ` and the text of each cause.
///
/// The text is the application's. If it panics, the chain ends there.
pub(super) fn write_causes(error: &(dyn StdError + 'static), f: &mut dyn Write) -> fmt::Result {
    let mut written = Ok(());
    let _ = catch(|| {
        for cause in chain(error).skip(1) {
            written = write!(OneLine(&mut *f), ": {cause}");
            if written.is_err() {
                return;
            }
        }
    });
    written
}

/// Escapes control characters.
struct OneLine<'a>(&'a mut dyn Write);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.chars().next_back().filter(|last| last.is_control()) {
                Some(last) => {
                    self.0.write_str(&part[..part.len() - last.len_utf8()])?;
                    write!(self.0, "{}", last.escape_default())?;
                }
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tower::BoxError;

    use super::super::Error;
    use super::*;

    #[derive(Debug)]
    struct Cause(&'static str, Option<BoxError>);

    impl fmt::Display for Cause {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            assert_ne!(self.0, "panics");
            f.write_str(self.0)
        }
    }

    impl StdError for Cause {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn the_alternate_form_ends_with_the_causes_on_one_line() {
        let of = |cause: BoxError| format!("{:#}", Error::from(cause));
        let chain = Cause("no\r\nINFO a fake line\u{1b}", Some("pool\tclosed".into()));
        assert_eq!(
            of(chain.into()),
            r"the callback failed: no\r\nINFO a fake line\u{1b}: pool\tclosed"
        );
        assert_eq!(of("é".into()), "the callback failed: é");
        let panics = Cause("first", Some(Cause("panics", None).into()));
        assert!(of(panics.into()).starts_with("the callback failed: first"));
        let refused = Error::invalid_job("guid", "is missing");
        assert_eq!(format!("{refused:#}"), refused.to_string());
    }
}
