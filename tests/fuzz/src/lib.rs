//! Targets of fuzzing: each is a function that takes bytes and panics if a promise of the crate does not hold.
//!
//! The references beside them are slow and obvious, and written from the crate's documentation.

mod credentials;
mod decode;
mod job;
mod json;
mod ledger;
mod name;
mod path;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::pin::pin;
use std::sync::Once;
use std::task::{Context, Poll, Waker};

use http::Response;
use mx_job_webhook::Error;

pub type Target = fn(&[u8]);

pub const TARGETS: [(&str, Target); 5] = [
    ("credentials", credentials::check),
    ("decode", decode::check),
    ("ledger", ledger::check),
    ("name", name::check),
    ("path", path::check),
];

/// Returns the target with this name.
pub fn target(name: &str) -> Option<Target> {
    let mut targets = TARGETS.into_iter();
    Some(targets.find(|(known, _)| *known == name)?.1)
}

/// Reads one line of a kept corpus: text in which `\xHH` is a byte.
pub fn unescape(line: &str) -> Option<Vec<u8>> {
    let mut parts = line.split("\\x");
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (byte, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(byte, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    Some(bytes)
}

/// Returns the output of a future that never waits.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits"),
    }
}

/// Returns all that a sender sees of an answer, and the text of the error in its extensions.
fn shown<B>(answer: &Response<B>) -> String {
    let error = answer.extensions().get::<Error>();
    let error = error.map(|error| format!("{error:?} {error:#}"));
    format!("{} {:?} {error:?}", answer.status(), answer.headers())
}

/// Returns whether a function panics. All other panics end the process, also if the crate catches them.
fn panics<T>(function: impl FnOnce() -> T) -> bool {
    thread_local! {
        static EXPECTED: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                hook(info);
            }
        }));
    });
    EXPECTED.set(true);
    let result = catch_unwind(AssertUnwindSafe(function));
    EXPECTED.set(false);
    result.is_err()
}
