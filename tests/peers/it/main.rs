//! The quickstart behind real reverse proxies and with real clients: every valid delivery is acknowledged and every
//! refusal arrives, whatever else uses the same connection.

mod http2;
mod installed;
mod load;
mod proxies;
mod quickstart;
mod receiver;
mod senders;
mod server;
mod tally;

/// The path of the quickstart's webhooks.
const PATH: &str = "/admin/webhooks";
/// The delivery that MX documents: 545 bytes.
const SAMPLE: &str = include_str!("../../fixtures/completed.json");
/// The limit: a sample of this size is accepted.
const LARGE: usize = 64 * 1024;
/// A sample of this size is refused: 413.
const TOO_LARGE: usize = LARGE + 1;
/// The most that nginx accepts by default.
const HUGE: usize = 1024 * 1024;
/// The largest body whose answer every client has to get.
const VAST: usize = 5 * 1024 * 1024;
/// The most that the layer discards of a refused body by default.
const DISCARDED: usize = 8 * 1024 * 1024;
/// More than that.
const LONGEST: usize = 9_000_000;

/// The sample, padded to this size with white space, which JSON allows.
fn sample_of(size: usize) -> String {
    padded(SAMPLE, size)
}

fn padded(body: &str, size: usize) -> String {
    body.to_owned() + &" ".repeat(size - body.len())
}
