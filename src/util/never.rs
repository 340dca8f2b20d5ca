//! The type `!`, by a name that stable Rust accepts.

/// The type of what never returns, `!`, which Rust names only as what a function returns: since
/// edition 2024, `async { todo!() }` ends in it.
pub(crate) type Never = <fn() -> ! as Returns>::Output;

#[allow(unreachable_pub, reason = "an impl for `Never` names it")]
pub trait Returns {
    type Output;
}

impl<T> Returns for fn() -> T {
    type Output = T;
}
