//! What is compared: this crate, mounted in each of its ways, and what one would write by hand.

pub(crate) mod by_hand;
pub(crate) mod mounts;

/// The documented sample, without the white space that only the page has: 452 bytes.
pub(crate) fn sample() -> Vec<u8> {
    compact(|fields| fields)
}

/// The same with the fields in the other order.
pub(crate) fn reversed() -> Vec<u8> {
    compact(|mut fields| {
        fields.reverse();
        fields
    })
}

fn compact(order: impl FnOnce(Vec<&'static str>) -> Vec<&'static str>) -> Vec<u8> {
    let sample = include_str!("../../tests/fixtures/completed.json");
    // A field stands on a line of its own.
    let fields = sample.lines().map(|line| line.trim().trim_end_matches(','));
    let fields = fields.filter(|line| line.starts_with('"') && !line.starts_with("\"job\""));
    let fields = order(fields.collect()).join(",").replace("\": ", "\":");
    format!("{{\"job\":{{{fields}}}}}").into_bytes()
}
