//! A name for the type `!` that stable Rust accepts.

/// The type `!`, which stable Rust accepts only as a function's return type.
///
/// Since edition 2024, it is the output of `async { todo!() }`.
pub(crate) type Never = <fn() -> ! as Returns>::Output;

#[allow(unreachable_pub, reason = "the impl for `Never` needs it")]
pub trait Returns {
    type Output;
}

impl<T> Returns for fn() -> T {
    type Output = T;
}
