//! Runs the examples by the commands that they print.

use std::process::Command;
use std::thread;

use harness::{Process, repository, run};

use crate::{example, quickstart};

const COMPLETED: &str = "COMPLETED JOB-a177e002-e5b8-0680-3427-39556fa93c6e \
                         MBR-48d9a481-f2a2-7e13-2685-62869cf0d33a";

fn text(output: &[u8]) -> &str {
    std::str::from_utf8(output).unwrap()
}

#[test]
fn once_delivers_the_sample_and_ends_successfully() {
    let output = run(quickstart().arg("--once"));
    assert!(output.status.success(), "{output:?}");
    let printed: Vec<&str> = text(&output.stdout).lines().collect();
    assert!(printed[0].starts_with("listening on http://127.0.0.1:"));
    assert_eq!(printed[1..], [COMPLETED, "answered 204 No Content"]);
}

#[test]
fn the_curl_line_works_when_pasted_and_ctrl_c_ends_it() {
    let set = [("MX_USER", "other"), ("MX_PASSWORD", "it's $HOME \"a\" b")];
    for environment in [&[][..], &set[..]] {
        let mut command = quickstart();
        command.envs(environment.iter().copied());
        let (mut process, printed) = Process::serve(command);
        assert_eq!(printed[1..3], [COMPLETED, "answered 204 No Content"]);

        let curl_line = printed.last().unwrap();
        assert!(!curl_line.contains("it's"), "it prints a password");
        let pasted = run(Command::new("sh")
            .args(["-c", curl_line])
            .envs(environment.iter().copied()));
        let (head, body) = text(&pasted.stdout).split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 204"), "{head}");
        assert_eq!(body, "");
        assert_eq!(process.line(), COMPLETED);

        assert!(process.stop("INT").success());
    }
}

#[test]
fn mistakes_are_reported_before_the_server_starts() {
    type Mistake = (
        &'static [&'static str],
        &'static [(&'static str, &'static str)],
        &'static str,
    );
    let mistakes: [Mistake; 5] = [
        (&["--twice"], &[], "the only argument is --once"),
        (&["--once", "--once"], &[], "the only argument is --once"),
        (&[], &[("ADDR", "localhost")], "ADDR must be an address"),
        (&[], &[("MX_PASSWORD", "")], "must not be empty"),
        // An address of the network for documentation, which no machine has.
        (
            &[],
            &[("ADDR", "192.0.2.1:3000")],
            "cannot listen on 192.0.2.1:3000",
        ),
    ];
    for (arguments, environment, expected) in mistakes {
        let output = run(quickstart()
            .args(arguments)
            .envs(environment.iter().copied()));
        assert!(!output.status.success(), "{expected}");
        assert_eq!(text(&output.stdout), "", "{expected}");
        assert!(text(&output.stderr).contains(expected), "{output:?}");
    }
}

#[test]
fn a_callback_outlives_its_sender_and_the_signal_that_stops_the_server() {
    let outlives = |signal| {
        let mut command = example("graceful_shutdown");
        command.env("WORK_SECONDS", "3");
        let (mut process, printed) = Process::serve(command);
        // curl hangs up after a second.
        let pasted = run(Command::new("sh")
            .current_dir(repository())
            .args(["-c", printed.last().unwrap()]));
        assert_eq!(pasted.status.code(), Some(28), "{pasted:?}");
        assert!(process.line().starts_with("started JOB-"));
        assert!(process.stop(signal).success());
        assert_eq!(process.line(), "draining 1");
        assert!(process.line().starts_with("finished JOB-"));
    };
    // At once, because each takes three seconds.
    thread::scope(|scope| {
        scope.spawn(|| outlives("TERM"));
        scope.spawn(|| outlives("INT"));
    });
}

#[test]
fn the_readmes_production_waits_for_callbacks_when_it_is_stopped() {
    let outlives = |signal| {
        let mut command = example("production");
        command.env("WORK_SECONDS", "3");
        let (mut process, printed) = Process::serve(command);
        // curl hangs up after a second.
        let pasted = run(Command::new("sh")
            .current_dir(repository())
            .args(["-c", printed.last().unwrap()]));
        assert_eq!(pasted.status.code(), Some(28), "{pasted:?}");
        assert!(process.line().starts_with("started JOB-"));
        assert!(process.stop(signal).success());
        assert!(process.line().starts_with("finished JOB-"));
        assert_eq!(process.line(), "0 callbacks did not finish");
    };
    thread::scope(|scope| {
        scope.spawn(|| outlives("TERM"));
        scope.spawn(|| outlives("INT"));
    });
}

#[test]
fn a_handler_hears_of_its_job_with_webhooks_and_without() {
    let connects = |webhooks, source| {
        let mut command = example("await_job");
        command.env("WEBHOOKS", webhooks);
        let (mut process, printed) = Process::serve(command);
        let pasted = run(Command::new("sh").args(["-c", printed.last().unwrap()]));
        let (head, body) = text(&pasted.stdout).split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(body, "connected\n");
        assert_eq!(
            process.line(),
            format!("{source}: read the accounts of JOB-1")
        );
        assert!(process.stop("INT").success());
    };
    thread::scope(|scope| {
        scope.spawn(|| connects("arrive", "Webhook"));
        scope.spawn(|| connects("lost", "Failsafe"));
    });
}
