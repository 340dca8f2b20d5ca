//! The code that is compared: this crate in each of its mounts, and the code written by hand.

pub(crate) mod by_hand;
pub(crate) mod mounts;

/// The documented sample without white space, which is only on the page: 452 bytes.
pub(crate) fn sample() -> Vec<u8> {
    compact(|fields| fields)
}

/// The same sample with the fields in reverse order.
pub(crate) fn reversed() -> Vec<u8> {
    compact(|mut fields| {
        fields.reverse();
        fields
    })
}

fn compact(order: impl FnOnce(Vec<&'static str>) -> Vec<&'static str>) -> Vec<u8> {
    let sample = include_str!("../../tests/fixtures/completed.json");
    // Each field is on its own line.
    let fields = sample.lines().map(|line| line.trim().trim_end_matches(','));
    let fields = fields.filter(|line| line.starts_with('"') && !line.starts_with("\"job\""));
    let fields = order(fields.collect()).join(",").replace("\": ", "\":");
    format!("{{\"job\":{{{fields}}}}}").into_bytes()
}
