//! Callbacks that are cancelled, and their reports; and when a callback has ended.

use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use mx_job_webhook::acknowledge_first::AcknowledgeFirstLayer;
use mx_job_webhook::background::BackgroundTask;
use mx_job_webhook::callback::Failure;
use mx_job_webhook::{
    Background, Error, ErrorKind, Job, JobEvent, JobRouter, JobWebhook, Permanent, Receipt, Status,
};
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};

use crate::support::{Log, SAMPLE, credentials, delivery};

fn event() -> JobEvent {
    Job::new("JOB-1".parse().unwrap(), Status::Completed).into()
}

fn failures(log: &Log) -> impl Fn(Failure<'_>) + Send + Sync + use<> {
    let log = log.clone();
    move |failure| {
        let guid = failure.job().map_or("-", |job| job.guid.as_str());
        log.push(format!("{} {guid}", failure.error().kind().name()));
    }
}

fn start<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    let context = &mut Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(context).is_pending());
    future
}

/// The output of a future that is ready at once.
fn now<F: Future>(future: F) -> F::Output {
    let context = &mut Context::from_waker(Waker::noop());
    match Box::pin(future).as_mut().poll(context) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future is not ready"),
    }
}

fn never() -> JobRouter {
    JobRouter::new().on_completed(|_| pending::<()>())
}

const GUID: &str = "JOB-a177e002-e5b8-0680-3427-39556fa93c6e";

#[test]
fn on_error_reports_a_cancelled_callback_without_a_runtime() {
    let log = Log::default();
    let endpoint = JobWebhook::new(credentials(), never())
        .on_undecodable(|_| pending::<()>())
        .on_error(failures(&log));
    drop(start(endpoint.clone().oneshot(delivery(SAMPLE))));
    drop(start(endpoint.oneshot(delivery("[]"))));
    let job = format!("callback_cancelled {GUID}");
    assert_eq!(log.entries(), [job.as_str(), "callback_cancelled -"]);
}

#[tokio::test]
async fn on_error_reports_a_delivery_that_middleware_timed_out() {
    // The middleware drops the running callback and reports its own error.
    let gives_up = service_fn(|event: JobEvent| async move {
        drop(start(never().oneshot(event)));
        Err::<Receipt, BoxError>("given up".into())
    });
    let log = Log::default();
    let endpoint = JobWebhook::new(credentials(), gives_up).on_error(failures(&log));
    let answer = endpoint.oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 500);
    assert_eq!(log.entries(), [format!("callback_failed {GUID}")]);
}

#[test]
fn an_event_that_the_runtime_refuses_is_neither_acknowledged_nor_reported_lost() {
    let log = Log::default();
    let refuses = Background::new().with_spawn(drop);
    let layer = AcknowledgeFirstLayer::new(failures(&log));
    let error = now(refuses.run(layer.layer(never()), event())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(log.entries().is_empty());
    assert_eq!(refuses.running(), 0);
}

#[test]
fn an_acknowledged_event_that_is_dropped_later_is_reported() {
    let log = Log::default();
    let (executor, tasks) = std::sync::mpsc::channel::<BackgroundTask>();
    let background = Background::new().with_spawn(move |task| executor.send(task).unwrap());
    let layer = AcknowledgeFirstLayer::new(failures(&log));
    let accepted = now(background.run(layer.layer(never()), event()));
    assert_eq!(accepted.unwrap(), Receipt::Accepted);
    drop(tasks.try_recv().unwrap());
    assert_eq!(log.entries(), ["callback_cancelled JOB-1"]);
}

#[tokio::test]
async fn middleware_can_make_our_error_permanent_and_its_cause_is_kept() {
    let fails = || JobRouter::new().on_completed(|_| ready(Err("no such member")));
    let permanent = || fails().map_err(|error: Error| BoxError::from(Permanent::new(error)));
    let anyhow = || {
        let says = |error: Error| anyhow::Error::from(Permanent::new(error)).context("later");
        fails().map_err(move |error| BoxError::from(says(error)))
    };
    let bare = || {
        let says = |error: Error| anyhow::Error::from(Permanent::new(error));
        fails().map_err(move |error| BoxError::from(says(error)))
    };
    let outcomes = [
        Background::new().run(permanent(), event()).await,
        Background::new().run(anyhow(), event()).await,
        Background::new().run(bare(), event()).await,
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(error.is_permanent());
        assert_eq!(error.kind(), ErrorKind::CallbackFailed);
        let mut chain = Vec::new();
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            chain.push(error.to_string());
            cause = error.source();
        }
        assert_eq!(chain.last().unwrap(), "no such member", "{chain:?}");
    }
    // Our errors other than a failure keep their kind through any wrapping.
    let full = service_fn(|event: JobEvent| async move {
        let full = Background::new().with_capacity(0);
        let outcome = full.run(never(), event).await;
        outcome.map_err(|error| BoxError::from(Permanent::new(error)))
    });
    let error = Background::new().run(full, event()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
}

/// Tests that need the feature `tokio`.
#[cfg(feature = "tokio")]
mod on_tokio {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Poll;

    use tokio::sync::Semaphore;
    use tower::ServiceBuilder;

    use super::*;
    use crate::support::within;

    #[test]
    fn on_error_reports_a_callback_cancelled_by_the_runtimes_end() {
        let log = Log::default();
        let endpoint = JobWebhook::new(credentials(), never())
            .on_undecodable(|_| pending::<()>())
            .on_error(failures(&log));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let entered = runtime.enter();
        drop(start(endpoint.clone().oneshot(delivery(SAMPLE))));
        drop(start(endpoint.oneshot(delivery("[]"))));
        drop(entered);
        assert!(log.entries().is_empty(), "the callbacks continue");
        drop(runtime);
        let mut heard = log.entries();
        heard.sort();
        assert_eq!(
            heard,
            [
                "callback_cancelled -".to_owned(),
                format!("callback_cancelled {GUID}")
            ]
        );
    }

    #[test]
    fn a_stopped_runtime_acknowledges_no_event() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let entered = handle.enter();
        let layer = AcknowledgeFirstLayer::new(|_| ());
        let mut jobs = layer.layer(never());
        let mut call = tower::Service::call(&mut jobs, event());
        let context = &mut Context::from_waker(Waker::noop());
        let Poll::Ready(outcome) = Pin::new(&mut call).poll(context) else {
            panic!("the delivery waits");
        };
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Overloaded);
        drop(entered);
    }

    #[tokio::test]
    async fn acknowledging_first_does_not_wait_and_has_its_own_bound() {
        let gate = Arc::new(Semaphore::new(0));
        let (opened, log) = (gate.clone(), Log::default());
        let seen = log.clone();
        let slow = JobRouter::new().on_completed(move |_| {
            let (opened, seen) = (opened.clone(), seen.clone());
            async move {
                opened.acquire().await.unwrap().forget();
                seen.push("finished");
            }
        });
        let background = Background::new().with_capacity(4);
        let jobs = ServiceBuilder::new()
            .layer(AcknowledgeFirstLayer::new(|_| ()))
            .concurrency_limit(1)
            .service(slow);
        for _ in 0..3 {
            let delivery = within(&background, jobs.clone().oneshot(event()));
            let mut accepted = Box::pin(delivery);
            let context = &mut Context::from_waker(Waker::noop());
            let Poll::Ready(outcome) = accepted.as_mut().poll(context) else {
                panic!("the delivery waits for earlier callbacks");
            };
            assert_eq!(outcome.unwrap(), Receipt::Accepted);
        }
        let refused = within(&background, jobs.oneshot(event())).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Overloaded);
        gate.add_permits(3);
        assert_eq!(background.drain(pending::<()>()).await, 0);
        assert_eq!(log.entries().len(), 3);
    }

    /// A callback's return value that takes time to drop.
    #[derive(Debug)]
    struct SlowToDrop(Arc<AtomicBool>);

    impl std::fmt::Display for SlowToDrop {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("slow")
        }
    }

    impl std::error::Error for SlowToDrop {}

    impl Drop for SlowToDrop {
        fn drop(&mut self) {
            std::thread::sleep(std::time::Duration::from_millis(200));
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_drain_waits_for_the_last_destructor_of_a_callback() {
        let dropped = Arc::new(AtomicBool::new(false));
        let gate = Arc::new(Semaphore::new(0));
        let (held, opened) = (dropped.clone(), gate.clone());
        let jobs = JobRouter::new().on_completed(move |_| {
            let (held, opened) = (held.clone(), opened.clone());
            async move {
                opened.acquire().await.unwrap().forget();
                Err(SlowToDrop(held))
            }
        });
        let background = Background::new();
        let endpoint = JobWebhook::new(credentials(), jobs).with_background(background.clone());
        drop(start(endpoint.oneshot(delivery(SAMPLE))));
        gate.add_permits(1);
        assert_eq!(background.drain(pending::<()>()).await, 0);
        assert!(dropped.load(Ordering::SeqCst));
    }

    tokio::task_local! {
        static TENANT: &'static str;
    }

    fn tenants(log: &Log, gate: &Arc<Semaphore>) -> JobRouter {
        let (log, gate) = (log.clone(), gate.clone());
        JobRouter::new().on_completed(move |_| {
            let (log, gate) = (log.clone(), gate.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                log.push(TENANT.with(|tenant| (*tenant).to_owned()));
            }
        })
    }

    /// The recipe from the guide `guarantees`.
    #[tokio::test]
    async fn the_spawn_function_can_restore_a_task_local() {
        let (log, failed, gate) = (Log::default(), Log::default(), Arc::new(Semaphore::new(0)));
        let background =
            Background::new().with_spawn(|task| match TENANT.try_with(|tenant| *tenant) {
                Ok(tenant) => drop(tokio::spawn(TENANT.scope(tenant, task))),
                Err(_) => drop(tokio::spawn(task)),
            });
        let endpoint = JobWebhook::new(credentials(), tenants(&log, &gate))
            .with_background(background.clone())
            .on_error(failures(&failed));
        let served = TENANT.scope("acme", endpoint.oneshot(delivery(SAMPLE)));
        drop(start(served));
        gate.add_permits(1);
        assert_eq!(background.drain(pending::<()>()).await, 0);
        assert_eq!(failed.entries(), Vec::<String>::new());
        assert_eq!(log.entries(), ["acme"]);
    }

    #[tokio::test]
    async fn the_spawn_function_can_continue_callbacks_on_a_local_set() {
        let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
        let background = Background::new().with_spawn(|task| drop(tokio::task::spawn_local(task)));
        let (seen, opened) = (log.clone(), gate.clone());
        let jobs = JobRouter::new().on_completed(move |_| {
            let (seen, opened) = (seen.clone(), opened.clone());
            async move {
                opened.acquire().await.unwrap().forget();
                let local = tokio::task::spawn_local(async { "local" });
                seen.push(local.await.unwrap());
            }
        });
        let endpoint = JobWebhook::new(credentials(), jobs).with_background(background.clone());
        tokio::task::LocalSet::new()
            .run_until(async {
                drop(start(endpoint.oneshot(delivery(SAMPLE))));
                gate.add_permits(1);
                assert_eq!(background.drain(pending::<()>()).await, 0);
            })
            .await;
        assert_eq!(log.entries(), ["local"]);
    }
}
