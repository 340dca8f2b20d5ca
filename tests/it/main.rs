//! One binary, so that the tests link once.
