//! Captures the output to an application's subscriber and recorder.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, Once};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// The name of this crate's span.
pub(crate) const DELIVERY: &str = "mx_job_webhook.delivery";

#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub name: &'static str,
    pub target: &'static str,
    pub level: Level,
    pub parent: Option<&'static str>,
    pub fields: Fields,
    pub closed: bool,
    id: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub target: String,
    pub level: Level,
    pub fields: Fields,
    /// The names of the enclosing spans, the innermost first.
    pub within: Vec<&'static str>,
}

impl Seen {
    pub(crate) fn message(&self) -> &str {
        self.fields.0.get("message").map_or("", String::as_str)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(pub BTreeMap<&'static str, String>);

impl Fields {
    pub(crate) fn named(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

/// The subscriber of threads that capture nothing. It records nothing, and decides about each span and event anew.
///
/// Without it, a thread that reaches a place in the code first, while another one installs its capture, can turn that
/// place off for all threads.
struct Undecided;

impl Subscriber for Undecided {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Everything that was recorded while the capture was installed.
#[derive(Clone, Default)]
pub(crate) struct Capture {
    told: Arc<Mutex<Told>>,
    recorder: Arc<Recorder>,
}

#[derive(Default)]
struct Told {
    spans: Vec<Span>,
    events: Vec<Seen>,
    metrics: BTreeMap<String, f64>,
}

struct Recorder(DebuggingRecorder);

impl Default for Recorder {
    fn default() -> Self {
        Self(DebuggingRecorder::new())
    }
}

impl Capture {
    /// Runs a future on a single-threaded runtime with a paused clock.
    pub(crate) fn run<T>(&self, test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        self.install(move || {
            let output = runtime.block_on(test);
            // Work still in progress is cancelled here and reported.
            drop(runtime);
            output
        })
    }

    pub(crate) fn install<T>(&self, test: impl FnOnce() -> T) -> T {
        static UNDECIDED: Once = Once::new();
        UNDECIDED.call_once(|| _ = tracing::subscriber::set_global_default(Undecided));
        let subscriber = Registry::default().with(self.clone());
        let recorder = &self.recorder.0;
        tracing::subscriber::with_default(subscriber, || {
            metrics::with_local_recorder(recorder, test)
        })
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.told.lock().unwrap().spans.clone()
    }

    /// This crate's spans.
    pub(crate) fn deliveries(&self) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.name == DELIVERY);
        spans
    }

    pub(crate) fn events(&self) -> Vec<Seen> {
        self.told.lock().unwrap().events.clone()
    }

    /// This crate's events.
    pub(crate) fn own_events(&self) -> Vec<Seen> {
        let mut events = self.events();
        events.retain(|event| event.target == "mx_job_webhook");
        events
    }

    /// The metrics by name and labels, `name{label=value,…}`; for a histogram, the number of values.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let metrics = &mut self.told.lock().unwrap().metrics;
        // A snapshot resets the recorder, so add its values to the earlier ones.
        for (key, _, _, value) in self.recorder.0.snapshotter().snapshot().into_vec() {
            let (name, labels) = key.key().clone().into_parts();
            let labels: Vec<String> = labels
                .iter()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            let name = format!("{}{{{}}}", name.as_str(), labels.join(","));
            *metrics.entry(name).or_default() += match value {
                DebugValue::Counter(count) => f64::from(u32::try_from(count).unwrap()),
                DebugValue::Gauge(gauge) => gauge.into_inner(),
                DebugValue::Histogram(values) => f64::from(u32::try_from(values.len()).unwrap()),
            };
        }
        metrics.clone()
    }

    /// Everything as one text to search.
    pub(crate) fn text(&self) -> String {
        format!(
            "{:?} {:?} {:?}",
            self.spans(),
            self.events(),
            self.metrics()
        )
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = context.span(id).unwrap().parent().map(|span| span.name());
        let metadata = attributes.metadata();
        self.told.lock().unwrap().spans.push(Span {
            name: metadata.name(),
            target: metadata.target(),
            level: *metadata.level(),
            parent,
            fields,
            closed: false,
            id: id.into_u64(),
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let spans = &mut self.told.lock().unwrap().spans;
        // Take the latest span: ids are reused.
        let span = spans.iter_mut().rfind(|span| span.id == id.into_u64());
        values.record(&mut span.unwrap().fields);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let within = context
            .event_scope(event)
            .map(|scope| scope.map(|span| span.name()).collect());
        self.told.lock().unwrap().events.push(Seen {
            target: event.metadata().target().to_owned(),
            level: *event.metadata().level(),
            fields,
            within: within.unwrap_or_default(),
        });
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        let spans = &mut self.told.lock().unwrap().spans;
        let span = spans.iter_mut().rfind(|span| span.id == id.into_u64());
        span.unwrap().closed = true;
    }
}
