//! Metrics of the watch, and the source of deliveries.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use mx_job_webhook::watch::{Failsafe, JobWatch, MemoryWatchStore};
use mx_job_webhook::{JobEvent, JobRouter, Status};
use tokio::time::sleep;
use tower::Layer as _;

use super::stand_ins::{SECOND, deliver, event, event_of, guid};

#[test]
fn the_failsafe_is_measured_and_its_deliveries_have_their_source() {
    let recorder = DebuggingRecorder::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let sources: Arc<Mutex<Vec<&str>>> = Arc::default();
    let noting = sources.clone();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let watch = JobWatch::new(MemoryWatchStore::new());
            let router = JobRouter::new().on_completed(move |event: JobEvent| {
                noting.lock().unwrap().push(event.source().name());
                async {}
            });
            let jobs = watch.layer().layer(router);
            let read = |job: mx_job_webhook::job::JobGuid| async move {
                match job.as_str() {
                    "JOB-1" => Ok(event(Status::Completed, "1")),
                    "JOB-2" => Ok(event_of("JOB-2", Status::Requested, "1")),
                    _ => Err("it failed"),
                }
            };
            let failsafe = Failsafe::new(&watch, jobs.clone(), read).with_limit(60 * SECOND);
            tokio::spawn(failsafe.run_until(pending::<()>()));
            for job in ["JOB-1", "JOB-2", "JOB-3"] {
                let _ = watch.expect(&guid(job)).await.unwrap();
            }
            deliver(&jobs, event_of("JOB-4", Status::Completed, "1"))
                .await
                .unwrap();
            sleep(20 * SECOND).await;
            let told = told(&recorder);
            assert_eq!(
                told["mx_job_webhook_expected_jobs{state=outstanding}"], 3.0,
                "{told:?}"
            );
            sleep(400 * SECOND).await;
        });
    });
    assert_eq!(*sources.lock().unwrap(), ["call", "failsafe"]);
    let told = told(&recorder);
    let counted = |name: &str| {
        let matching = told.iter().filter(|(key, _)| key.starts_with(name));
        matching.map(|(_, value)| value).sum::<f64>()
    };
    let name = "mx_job_webhook_given_up_total";
    assert_eq!(counted(name), 2.0, "{told:?}");
    let name = "mx_job_webhook_failsafe_reads_total{outcome=heard}";
    assert_eq!(counted(name), 1.0, "{told:?}");
    assert!(counted("mx_job_webhook_failsafe_reads_total{outcome=not_yet}") >= 2.0);
    assert!(counted("mx_job_webhook_failsafe_reads_total{outcome=failed}") >= 2.0);
    assert_eq!(counted("mx_job_webhook_expected_duration_seconds"), 1.0);
    let delivered = |source: &str| {
        let matching = told.iter().filter(|(key, _)| {
            key.starts_with("mx_job_webhook_deliveries_total")
                && key.contains(&format!("source={source}"))
        });
        matching.map(|(_, value)| value).sum::<f64>()
    };
    assert_eq!(delivered("failsafe"), 1.0, "{told:?}");
    assert_eq!(delivered("webhook"), 0.0, "{told:?}");
}

#[test]
fn described_metrics_have_a_text_for_each_name() {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        mx_job_webhook::observe::describe_metrics();
        metrics::counter!("mx_job_webhook_deliveries_total").increment(1);
        metrics::gauge!("mx_job_webhook_deliveries_in_flight").set(1.0);
    });
    let told = recorder.snapshotter().snapshot().into_vec();
    assert_eq!(told.len(), 2);
    for (key, _, text, _) in told {
        assert!(text.is_some_and(|text| !text.is_empty()), "{key:?}");
    }
}

fn told(recorder: &DebuggingRecorder) -> BTreeMap<String, f64> {
    let mut told = BTreeMap::new();
    for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
        let (name, labels) = key.key().clone().into_parts();
        let labels: Vec<_> = labels
            .iter()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let name = format!("{}{{{}}}", name.as_str(), labels.join(","));
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(gauge) => gauge.into_inner(),
            DebugValue::Histogram(values) => values.len() as f64,
        };
        *told.entry(name).or_default() += value;
    }
    told
}
