//! The causes of an error as text.

use std::error::Error as StdError;
use std::fmt::{self, Write};

use super::{Error, MAX_CAUSES};
use crate::util::catch_panic::catch;
use crate::util::one_line::OneLine;

/// Writes `: ` and the text of each cause, on one line. A cause with which the one before ends is left out, because some
/// errors print their cause too.
///
/// The causes are the application's. If one panics or cannot be printed, the chain ends before it.
///
/// `last` is the text before them.
pub(super) fn write_causes(
    first: Option<&(dyn StdError + 'static)>,
    mut last: String,
    f: &mut dyn Write,
) -> fmt::Result {
    let mut next = first;
    for _ in 0..MAX_CAUSES {
        let Some(cause) = next else {
            break;
        };
        let mut text = String::new();
        let printed = catch(|| write!(OneLine(&mut text), "{cause}"));
        if !matches!(printed, Ok(Ok(()))) {
            break;
        }
        let before = last.strip_suffix(&*text);
        if !before.is_some_and(|before| before.is_empty() || before.ends_with(": ")) {
            write!(f, ": {text}")?;
        }
        // What a body or a check of credentials says could repeat them.
        let own = cause.downcast_ref::<Error>();
        if own.is_some_and(|own| own.kind().is_of_senders()) {
            break;
        }
        last = text;
        next = catch(|| cause.source()).ok().flatten();
    }
    Ok(())
}

/// Prints an error and its causes, each after a colon.
#[cfg(any(feature = "postgres", all(feature = "tokio", feature = "tracing")))]
pub(crate) struct Causes<'a>(pub(crate) &'a (dyn StdError + 'static));

#[cfg(any(feature = "postgres", all(feature = "tokio", feature = "tracing")))]
impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_causes(Some(self.0), String::new(), f)
    }
}

#[cfg(test)]
mod tests {
    use tower::BoxError;

    use super::*;

    #[derive(Debug)]
    struct Cause(&'static str, Option<BoxError>);

    impl fmt::Display for Cause {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            assert_ne!(self.0, "panics");
            if self.0 == "fails" {
                return Err(fmt::Error);
            }
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
        let chain = Cause(
            "no\r\nINFO a fake line\u{1b}\u{2028}",
            Some("pool\tclosed".into()),
        );
        assert_eq!(
            of(chain.into()),
            r"the callback failed: no\r\nINFO a fake line\u{1b}\u{2028}: pool\tclosed"
        );
        assert_eq!(of("é".into()), "the callback failed: é");
        let twice = Cause(
            "the same",
            Some(Cause("the same", Some("other".into())).into()),
        );
        assert_eq!(of(twice.into()), "the callback failed: the same: other");
        let with_its_cause = Cause(
            "of the database: no table",
            Some(Cause("no table", Some("table".into())).into()),
        );
        assert_eq!(
            of(with_its_cause.into()),
            "the callback failed: of the database: no table: table"
        );
        for last in ["panics", "fails"] {
            let chain = Cause("first", Some(Cause(last, None).into()));
            assert_eq!(of(chain.into()), "the callback failed: first");
        }
        let own: BoxError = Error::from(BoxError::from("the disk is full")).into();
        assert_eq!(
            of(Cause("outer", Some(own)).into()),
            "the callback failed: outer: the callback failed: the disk is full"
        );
        let refused = Error::invalid_job("guid", "is missing");
        assert_eq!(format!("{refused:#}"), refused.to_string());
    }
}
