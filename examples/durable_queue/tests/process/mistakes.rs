//! Mistakes are reported before the server starts.

use harness::{example, run};

use crate::DURABLE_QUEUE;

fn text(output: &[u8]) -> &str {
    std::str::from_utf8(output).unwrap()
}

#[test]
fn mistakes_are_reported_without_the_password() {
    // The port of the service `discard`, which does not run here.
    const UNREACHABLE: &str = "postgres://user:hunter2@127.0.0.1:9/none";
    const UNREADABLE: &str = "//user:hunter2@127.0.0.1";
    const URL: &str = "DATABASE_URL";
    type Mistake = (
        &'static [&'static str],
        &'static [(&'static str, &'static str)],
        &'static str,
    );
    let mistakes: [Mistake; 6] = [
        (&["wait"], &[], "the only argument is receive or work"),
        (&["work", "work"], &[], "the only argument is"),
        (&[], &[("WORK_SECONDS", "long")], "WORK_SECONDS must be"),
        (&[], &[], "DATABASE_URL must name a database"),
        (
            &[],
            &[(URL, UNREADABLE)],
            "DATABASE_URL must name a database",
        ),
        (&[], &[(URL, UNREACHABLE)], "cannot reach the database"),
    ];
    for (arguments, environment, expected) in mistakes {
        let output = run(example(DURABLE_QUEUE)
            .args(arguments)
            .envs(environment.iter().copied()));
        assert!(!output.status.success(), "{expected}");
        assert_eq!(text(&output.stdout), "", "{expected}");
        assert!(text(&output.stderr).contains(expected), "{output:?}");
        assert!(!text(&output.stderr).contains("hunter2"), "{output:?}");
    }
}
