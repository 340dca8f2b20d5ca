//! Replays the inputs that are kept, in a normal build.

use std::path::Path;

use mx_job_webhook_fuzz::{TARGETS, unescape};

#[test]
fn each_kept_input_upholds_its_promise() {
    for (name, target) in TARGETS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("corpus/{name}.txt"));
        let corpus = std::fs::read_to_string(path).unwrap();
        assert!(!corpus.is_empty(), "{name} has no corpus");
        for line in corpus.lines() {
            target(&unescape(line).unwrap());
        }
    }
}
