//! Mistakes are reported before the server starts.

use harness::{example, run};

use crate::DURABLE_QUEUE;

#[test]
fn mistakes_are_reported_without_the_password() {
    // The port of the service `discard`, which does not run here.
    const UNREACHABLE: &str = "postgres://user:hunter2@127.0.0.1:9/none";
    const UNREADABLE: &str = "//user:hunter2@127.0.0.1";
    const ROLES: &str = "the only argument is receive, work or admin";
    const NO_DATABASE: &str = "DATABASE_URL must name a database";
    let mistakes: [(&[&str], &str, &str, &str); 8] = [
        (&["wait"], "", "", ROLES),
        (&["work", "work"], "", "", ROLES),
        (&["admin"], "", "", "ADMIN_PASSWORD must be set"),
        (&[], "WORK_SECONDS", "long", "WORK_SECONDS must be a number"),
        (&[], "WORK_SECONDS", "-1", "WORK_SECONDS must be a number"),
        (&[], "", "", NO_DATABASE),
        (&[], "DATABASE_URL", UNREADABLE, NO_DATABASE),
        (
            &[],
            "DATABASE_URL",
            UNREACHABLE,
            "cannot reach the database",
        ),
    ];
    for (arguments, variable, value, expected) in mistakes {
        let mut command = example(DURABLE_QUEUE);
        command.args(arguments);
        if !variable.is_empty() {
            command.env(variable, value);
        }
        let output = run(&mut command);
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{expected}");
        assert!(output.stdout.is_empty(), "{expected}");
        assert!(printed.contains(expected), "{printed}");
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
