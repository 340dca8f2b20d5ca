//! The router chooses the callback by the status.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use mx_job_webhook::job::Timestamp;
use mx_job_webhook::router::Unhandled;
use mx_job_webhook::{Error, ErrorKind, Job, JobEvent, JobRouter, Receipt, Status};
use tower::{Service as _, ServiceExt as _};

use crate::support::{Log, Settings, delivery, jobs, mounts, run, sample_with_status, send};

fn event(status: impl Into<Status>) -> JobEvent {
    JobEvent::from(Job::new("JOB-1".parse().unwrap(), status.into()))
}

const ACTIONABLE: [(i64, &str); 5] = [
    (8, "DENIED"),
    (7, "PREVENTED"),
    (9, "HALTED"),
    (6, "COMPLETED"),
    (2, "CHALLENGED"),
];

/// A router that logs which callback ran with which status.
fn logging(log: &Log) -> JobRouter {
    let callback = |name: &'static str| {
        let log = log.clone();
        move |event: JobEvent| {
            let log = log.clone();
            async move { log.push(format!("{name}: {}", event.status)) }
        }
    };
    JobRouter::new()
        .on_denied(callback("on_denied"))
        .on_prevented(callback("on_prevented"))
        .on_halted(callback("on_halted"))
        .on_completed(callback("on_completed"))
        .on_challenged(callback("on_challenged"))
}

#[tokio::test]
async fn each_actionable_status_reaches_its_callback_through_a_real_router() {
    let log = Log::default();
    let mut expected = Vec::new();
    for (mount, app) in mounts(&Settings::new(jobs(logging(&log)))) {
        for (code, name) in ACTIONABLE {
            let request = delivery(sample_with_status(code, name));
            assert_eq!(
                send(app.clone(), request).await.0.status,
                204,
                "{name} {mount}"
            );
            expected.push(format!("on_{}: {name}", name.to_lowercase()));
        }
    }
    assert_eq!(log.entries(), expected);
}

#[tokio::test]
async fn any_status_can_have_a_callback_and_equal_statuses_share_it() {
    let log = Log::default();
    let callback = |name: &'static str| {
        let log = log.clone();
        move |_: JobEvent| {
            log.push(name);
            std::future::ready(())
        }
    };
    let jobs = JobRouter::new()
        .on_status(Status::Received, callback("received"))
        .on_status(Status::from("Authenticated"), callback("authenticated"))
        .on_status(Status::from(42), callback("42"));
    for (status, expected) in [
        (Status::Received, Receipt::Handled),
        (Status::from(3), Receipt::Handled),
        (Status::from("AUTHENTICATED"), Receipt::Handled),
        (Status::from(42), Receipt::Handled),
        (Status::from("THROTTLED"), Receipt::Unhandled),
        (Status::from(43), Receipt::Unhandled),
        (Status::Completed, Receipt::Unhandled),
    ] {
        assert_eq!(
            run(&jobs, event(status.clone())).await.unwrap(),
            expected,
            "{status}"
        );
    }
    assert_eq!(
        log.entries(),
        ["received", "received", "authenticated", "42"]
    );
}

#[tokio::test]
async fn on_unhandled_tells_a_known_status_from_an_unknown_one() {
    let log = Log::default();
    let seen = log.clone();
    let jobs = JobRouter::new()
        .on_completed(|_| async {})
        .on_unhandled(move |unhandled| {
            seen.push(match &unhandled {
                Unhandled::NoCallback(event) => format!("no callback: {}", event.status),
                Unhandled::UnknownStatus(event) => format!("unknown: {}", event.status),
                _ => unreachable!(),
            });
            assert_eq!(unhandled.guid, "JOB-1");
            assert_eq!(unhandled.event().guid, unhandled.clone().into_event().guid);
            async {}
        });
    for status in [
        Status::Denied,
        Status::Completed,
        Status::from("NEW"),
        Status::from(99),
    ] {
        run(&jobs, event(status)).await.unwrap();
    }
    assert_eq!(
        log.entries(),
        ["no callback: DENIED", "unknown: NEW", "unknown: 99"]
    );
}

async fn by_name(_: JobEvent) {}

async fn by_name_with_result(event: JobEvent) -> Result<(), std::io::Error> {
    match event.status {
        Status::Denied => Err(std::io::Error::other("no")),
        _ => Ok(()),
    }
}

async fn unhandled_by_name(_: Unhandled) -> Result<(), String> {
    Err("nobody".to_owned())
}

#[tokio::test]
async fn closures_and_named_functions_can_return_a_result_or_unit() {
    let jobs = JobRouter::new()
        .on_completed(by_name)
        .on_denied(by_name_with_result)
        .on_halted(|event| async move { if event.guid == "x" { Err("x") } else { Ok(()) } })
        .on_challenged(|_| async { Err::<(), tower::BoxError>("boxed".into()) })
        .on_unhandled(unhandled_by_name);
    let cases = [
        (Status::Completed, Ok(Receipt::Handled)),
        (Status::Denied, Err("no")),
        (Status::Halted, Ok(Receipt::Handled)),
        (Status::Challenged, Err("boxed")),
        (Status::Prevented, Err("nobody")),
    ];
    for (status, expected) in cases {
        let outcome = run(&jobs, event(status.clone())).await;
        let outcome = outcome.map_err(|error: Error| {
            assert_eq!(error.kind(), ErrorKind::CallbackFailed);
            std::error::Error::source(&error).unwrap().to_string()
        });
        assert_eq!(outcome, expected.map_err(str::to_owned), "{status}");
    }
}

/// An error whose conversion panics.
struct Unconvertible;

impl From<Unconvertible> for tower::BoxError {
    fn from(_: Unconvertible) -> Self {
        crate::support::panic_quietly();
        unreachable!()
    }
}

#[tokio::test]
async fn an_error_that_panics_when_it_is_converted_is_a_panic_of_the_callback() {
    let jobs = JobRouter::new().on_denied(|_| async { Err(Unconvertible) });
    let error = run(&jobs, event(Status::Denied)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallbackPanicked);
}

#[derive(Clone)]
struct App {
    log: Log,
}

async fn completed(app: App, event: JobEvent) -> Result<(), std::convert::Infallible> {
    app.log.push(format!("completed {}", event.guid));
    Ok(())
}

async fn unhandled(app: App, unhandled: Unhandled) {
    app.log.push(format!("unhandled {}", unhandled.status));
}

#[tokio::test]
async fn callbacks_receive_the_state() {
    let app = App {
        log: Log::default(),
    };
    let router = JobRouter::with_state(app.clone())
        .on_completed(completed)
        .on_halted(|app, event| async move { app.log.push(format!("halted {}", event.guid)) })
        .on_status(
            Status::from("NEW"),
            |app, _| async move { app.log.push("new") },
        )
        .on_unhandled(unhandled)
        .build();
    for status in [
        Status::Completed,
        Status::Halted,
        Status::from("NEW"),
        Status::Denied,
    ] {
        run(&router, event(status)).await.unwrap();
    }
    assert_eq!(
        app.log.entries(),
        ["completed JOB-1", "halted JOB-1", "new", "unhandled DENIED"]
    );
    // The router with state mounts like any other.
    for (mount, mounted) in mounts(&Settings::new(jobs(router))) {
        assert_eq!(
            send(mounted, delivery(sample_with_status(9, "HALTED")))
                .await
                .0
                .status,
            204,
            "{mount}"
        );
    }
}

#[test]
fn registering_a_status_twice_panics_at_the_callers_line() {
    type Case = (&'static str, fn() -> JobRouter);
    let twice: [Case; 4] = [
        ("by method", || {
            JobRouter::new().on_denied(by_name).on_denied(by_name)
        }),
        ("by status", || {
            JobRouter::new()
                .on_denied(by_name)
                .on_status(Status::from(8), by_name)
        }),
        ("outside the table", || {
            let new = || Status::from("NEW");
            JobRouter::new()
                .on_status(new(), by_name)
                .on_status(new(), by_name)
        }),
        ("unhandled", || {
            JobRouter::new()
                .on_unhandled(|_| async {})
                .on_unhandled(|_| async {})
        }),
    ];
    for (name, register) in twice {
        // Records the location and the message that the panic hook receives.
        let (sender, said) = std::sync::mpsc::channel();
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let file = info.location().map(|location| location.file().to_owned());
            let _ = sender.send((file, info.to_string()));
        }));
        let outcome = catch_unwind(AssertUnwindSafe(register));
        std::panic::set_hook(usual);
        assert!(outcome.is_err(), "{name}");
        // Other tests panic on their own threads.
        let found = said
            .iter()
            .find(|(_, text)| text.contains("registered already"));
        assert_eq!(found.unwrap().0.as_deref(), Some(file!()), "{name}");
    }
}

#[tokio::test]
async fn registering_on_a_clone_does_not_change_the_original() {
    let first = JobRouter::new().on_denied(by_name);
    let second = first.clone().on_halted(by_name);
    assert!(!first.handles(&Status::Halted) && second.handles(&Status::Halted));
    assert!(second.handles(&Status::Denied));
}

#[tokio::test]
async fn the_router_is_a_service_that_is_always_ready() {
    let mut jobs = JobRouter::new().on_denied(|_| async {});
    let receipt = jobs
        .ready()
        .await
        .unwrap()
        .call(event(Status::Denied))
        .await
        .unwrap();
    assert_eq!(receipt, Receipt::Handled);
}

#[test]
fn printing_a_router_shows_the_statuses_with_a_callback() {
    let jobs = JobRouter::new()
        .on_denied(by_name)
        .on_status(Status::from(42), by_name);
    let printed = format!("{jobs:?}");
    assert!(
        printed.contains("Denied") && printed.contains("42"),
        "{printed}"
    );
    assert!(printed.contains("unhandled: false"), "{printed}");
}

/// Panics as `todo!()` does, without its message.
fn never() -> ! {
    std::panic::resume_unwind(Box::new(()))
}

#[tokio::test]
async fn a_callback_that_never_returns_compiles_as_todo_does() {
    let jobs = JobRouter::new()
        .on_completed(|_| async { never() })
        .on_unhandled(|_| async { never() });
    for status in [Status::Completed, Status::Halted] {
        let event = Job::new("JOB-1".parse().unwrap(), status).into();
        let error = run(&jobs, event).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CallbackPanicked);
    }
    let _ = mx_job_webhook::Credentials::verify(|_| async { never() });
}

#[test]
fn the_output_of_a_callback_is_its_outcome_with_the_error_boxed() {
    use mx_job_webhook::callback::{CallbackFuture, CallbackOutput};

    fn output<Fut: CallbackFuture>(_: &Fut) {}

    assert!(().into_result().is_ok());
    assert!(Ok::<(), String>(()).into_result().is_ok());
    let error = Err::<(), _>("the database is down").into_result();
    assert_eq!(error.unwrap_err().to_string(), "the database is down");
    output(&async {});
    output(&async { Err::<(), _>("the database is down") });
}

#[test]
fn printing_a_router_shows_whether_unhandled_events_have_a_callback() {
    let jobs = JobRouter::new().on_unhandled(|_| async {});
    assert_eq!(
        format!("{jobs:?}"),
        "JobRouter { statuses: [], unhandled: true }"
    );
}

#[test]
fn unit_converts_into_the_receipt_handled() {
    assert_eq!(Receipt::from(()), Receipt::Handled);
}

#[tokio::test]
async fn a_failure_of_an_old_event_counts_as_permanent() {
    let log = Log::default();
    let app = log.clone();
    let jobs = JobRouter::with_state(app)
        .on_completed(|_, _| async { Err("it fails each time") })
        .on_denied(|_, _| async { panic!("it panics each time") })
        .on_halted(|_, _| async {})
        .on_dead_letter(
            |log: Log, letter: mx_job_webhook::router::DeadLetter| async move {
                log.push(format!("{:#}", letter.error()));
            },
        )
        .with_dead_letters_after(Duration::from_secs(3600))
        .build();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    let (failed, panicked) = (ErrorKind::CallbackFailed, ErrorKind::CallbackPanicked);
    let cases = [
        (
            "old",
            Status::Completed,
            Some(now - 3700),
            Ok(Receipt::DeadLettered),
        ),
        (
            "very old",
            Status::Completed,
            Some(0),
            Ok(Receipt::DeadLettered),
        ),
        (
            "a panic",
            Status::Denied,
            Some(now - 3700),
            Ok(Receipt::DeadLettered),
        ),
        (
            "a success",
            Status::Halted,
            Some(now - 3700),
            Ok(Receipt::Handled),
        ),
        ("recent", Status::Completed, Some(now - 3500), Err(failed)),
        ("a recent panic", Status::Denied, Some(now), Err(panicked)),
        (
            "in the future",
            Status::Completed,
            Some(now * 1_000),
            Err(failed),
        ),
        ("the latest", Status::Completed, Some(i64::MAX), Err(failed)),
        ("without a date", Status::Completed, None, Err(failed)),
    ];
    for (case, status, updated_at, expected) in cases {
        let mut job = Job::new("JOB-1".parse().unwrap(), status);
        job.updated_at = updated_at.map(Timestamp::from_unix_seconds);
        let outcome = jobs.clone().oneshot(job.into()).await;
        assert_eq!(outcome.map_err(|error| error.kind()), expected, "{case}");
    }
    assert_eq!(
        log.entries(),
        [
            "the callback failed: it fails each time",
            "the callback failed: it fails each time",
            "the callback panicked"
        ]
    );
    // Without the hook, MX keeps the event.
    let jobs = JobRouter::new()
        .on_completed(|_| async { Err("no") })
        .with_dead_letters_after(Duration::ZERO);
    assert!(jobs.oneshot(event(Status::Completed)).await.is_err());
}

#[tokio::test]
async fn one_callback_serves_several_statuses_with_and_without_state() {
    let failed = [Status::Denied, Status::Prevented, Status::Halted];
    let seen = Log::default();
    let log = seen.clone();
    let plain = JobRouter::new().on_statuses(failed.clone(), move |event: JobEvent| {
        log.push(event.status.to_string());
        async {}
    });
    let builder = JobRouter::with_state(seen.clone()).on_statuses(
        failed.clone(),
        |log: Log, event: JobEvent| async move {
            log.push(event.status.to_string());
        },
    );
    assert!(builder.handles(&Status::Halted) && !builder.handles(&Status::Completed));
    for jobs in [plain, builder.build()] {
        for status in &failed {
            assert!(jobs.handles(status));
            let event = Job::new("JOB-1".parse().unwrap(), status.clone()).into();
            assert_eq!(run(&jobs, event).await.unwrap(), Receipt::Handled);
        }
        assert!(!jobs.handles(&Status::Completed));
    }
    let expected = ["DENIED", "PREVENTED", "HALTED"].repeat(2);
    assert_eq!(seen.entries(), expected);
}

/// `with_dead_letters_after`: "An event without a readable `updated_at` has no age." `created_at` does not count.
#[tokio::test]
async fn an_event_with_another_date_alone_has_no_age() {
    let jobs = JobRouter::new()
        .on_completed(|_| async { Err("no") })
        .on_dead_letter(|_| async {})
        .with_dead_letters_after(Duration::from_secs(1));
    let mut job = Job::new("JOB-1".parse().unwrap(), Status::Completed);
    job.created_at = Some(Timestamp::from_unix_seconds(1));
    assert!(run(&jobs, job.into()).await.is_err());
}
