//! Runs the example as a process, against an application in this process.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, sleep};
use std::time::Duration;

use axum::Router;
use harness::{Process, example, run};
use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook};
use tokio::net::TcpListener;

/// An application that handles challenged and completed jobs, and reports each.
struct Application {
    address: SocketAddr,
    handled: Receiver<String>,
}

impl Application {
    fn serve() -> Self {
        let (say, handled) = channel();
        let callback = move |event: JobEvent| {
            let _ = say.send(format!("{} {}", event.status, event.guid));
            async {}
        };
        let jobs = JobRouter::new()
            .on_challenged(callback.clone())
            .on_completed(callback);
        let credentials = Credentials::basic("mx", "secret").unwrap();
        let layer = JobWebhook::new(credentials, jobs).at("/admin/webhooks");
        let app: Router = Router::new().layer(layer);
        let (listening, address) = channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                listening.send(listener.local_addr().unwrap()).unwrap();
                axum::serve(listener, app).await
            })
        });
        Self {
            address: address.recv().unwrap(),
            handled,
        }
    }

    /// Returns the next job that it handled.
    fn handled(&self) -> String {
        self.handled.recv_timeout(Duration::from_secs(30)).unwrap()
    }

    /// Returns the trigger's command with this application's URL.
    fn trigger(&self, arguments: &[&str]) -> Command {
        let mut command = example(env!("CARGO_BIN_EXE_trigger"));
        command.arg(format!("http://{}/admin/webhooks", self.address));
        command.args(arguments);
        command
    }
}

fn text(output: &[u8]) -> &str {
    std::str::from_utf8(output).unwrap()
}

#[test]
fn the_trigger_delivers_and_prints_the_answers() {
    let application = Application::serve();
    let basic = ["--user", "mx", "--password", "secret"];
    let sent = run(application.trigger(&["--status", "CHALLENGED"]).args(basic));
    assert!(sent.status.success(), "{sent:?}");
    let printed: Vec<&str> = text(&sent.stdout).lines().collect();
    assert!(printed[0].starts_with("1 of 1 sent in "), "{printed:?}");
    assert_eq!(printed[1..], ["       1  204 No Content"]);
    assert!(application.handled().starts_with("CHALLENGED JOB-"));

    let many = [
        "--count",
        "20",
        "--duplicate",
        "1",
        "--reorder",
        "--rate",
        "1000",
    ];
    let sent = run(application.trigger(&many).args(basic));
    assert!(sent.status.success(), "{sent:?}");
    assert!(
        text(&sent.stdout).contains("      40  204 No Content\nhalf within"),
        "{sent:?}"
    );

    let refused = run(&mut application.trigger(&["--bearer", "other"]));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        text(&refused.stdout).contains("1  401 Unauthorized"),
        "{refused:?}"
    );
}

#[test]
fn the_trigger_sends_other_webhooks_and_bodies_from_files() {
    let application = Application::serve();
    let basic = ["--user", "mx", "--password", "secret"];
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/completed.json"
    );
    let sent = run(application.trigger(&["--file", file]).args(basic));
    assert!(sent.status.success(), "{sent:?}");
    assert!(application.handled().starts_with("COMPLETED JOB-a177e002"));

    let stdin = std::fs::File::open(file).unwrap();
    let sent = run(application
        .trigger(&["--file", "-"])
        .args(basic)
        .stdin(stdin));
    assert!(sent.status.success(), "{sent:?}");
    assert!(application.handled().starts_with("COMPLETED JOB-a177e002"));

    // This application handles jobs alone, and answers 422.
    let others = ["--webhook", "AGGREGATION,balance,CONNECTION_STATUS"];
    let sent = run(application.trigger(&others).args(basic));
    assert_eq!(sent.status.code(), Some(1), "{sent:?}");
    assert!(text(&sent.stdout).contains("3  422 "), "{sent:?}");
}

#[test]
fn a_stopped_trigger_prints_a_summary_of_the_answers_so_far() {
    let application = Application::serve();
    let long = [
        "--count",
        "1000",
        "--rate",
        "20",
        "--user",
        "mx",
        "--password",
        "secret",
    ];
    let mut trigger = Process::start(application.trigger(&long));
    application.handled();
    sleep(Duration::from_millis(500));
    assert_eq!(trigger.stop("INT").code(), Some(1));
    let printed = trigger.line();
    let (sent, of) = printed.split_once(" of 1000 sent in ").unwrap();
    assert!(
        (2..1000).contains(&sent.parse::<u32>().unwrap()),
        "{sent} {of}"
    );
}

#[test]
fn the_trigger_reports_mistakes_before_it_sends() {
    let url = "http://127.0.0.1:9/";
    let mistakes: [(&[&str], &str); 6] = [
        (&[], "required arguments were not provided"),
        (&["localhost:3000"], "http:// or https://"),
        (
            &[url, "--status", "COMPLETD"],
            "MX sends CHALLENGED, COMPLETED",
        ),
        (&[url, "--webhook", "JOB"], "one of AGGREGATION, BALANCE"),
        (&[url, "--file", "/no/such.json"], "/no/such.json: "),
        (&[url, "--user", "mx"], "--user needs --password"),
    ];
    for (arguments, expected) in mistakes {
        let output = run(example(env!("CARGO_BIN_EXE_trigger")).args(arguments));
        assert!(!output.status.success(), "{expected}");
        assert_eq!(text(&output.stdout), "", "{expected}");
        assert!(text(&output.stderr).contains(expected), "{output:?}");
    }
}
