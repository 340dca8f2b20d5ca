//! Deliver: the event goes into the `Service<JobEvent>`, once it is ready for one.

use std::mem::take;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use super::{Receive, Refusal};
use crate::background::{Delivery, Place, RunOn};
use crate::deadline::Deadline;
use crate::failure::{FailureHook, ReportEnd};
use crate::observe::Observation;
use crate::options::Options;
use crate::panic::{CatchDrop, CatchPanic, Panicked, catch};
use crate::{Error, ErrorKind, Job, JobEvent, Receipt};

pin_project! {
    /// From request to receipt.
    ///
    /// Dropped before the callback is called, it leaves nothing behind and the event unread;
    /// dropped after, the callback runs on ([`RunOn`]).
    #[project = DeliverProjection]
    pub(crate) struct Deliver<B, J> {
        #[pin]
        step: Step<B, J>,
        options: CatchDrop<Arc<Options<J>>>,
        answer_deadline: Deadline,
        // Until the callback is called: then it is in `RunOn`, and goes where that goes.
        observation: Observation,
    }

    impl<B, J> PinnedDrop for Deliver<B, J> {
        fn drop(this: Pin<&mut Self>) {
            let mut step = this.project().step;
            let _ = catch(|| step.set(Step::Answered));
        }
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<B, J> {
        Receiving { #[pin] receive: Receive<B> },
        // Boxed because it is rare, and would make every future of the layer larger.
        AwaitingReadiness { waiting: Option<Box<Waiting<J>>> },
        // The job, if somebody is to be told of the deadline.
        Calling { call: RunOn, job: Option<Box<Job>> },
        Answered,
    }
}

struct Waiting<J> {
    jobs: CatchDrop<J>,
    event: JobEvent,
    place: Place,
}

impl<B, J> Deliver<B, J> {
    pub(crate) fn start(options: &Arc<Options<J>>, request: Request<B>) -> Self {
        let observation = Observation::start();
        let entered = observation.enter();
        let receive = Receive::start(&options.credentials, options.limits, request);
        drop(entered);
        Self::receiving(options, receive, observation)
    }

    /// Refuses a request that is no delivery.
    pub(crate) fn refuse(options: &Arc<Options<J>>, error: Error, request: Request<B>) -> Self {
        let receive = Receive::refuse(error, options.limits, request);
        Self::receiving(options, receive, Observation::start())
    }

    fn receiving(options: &Arc<Options<J>>, receive: Receive<B>, observation: Observation) -> Self {
        Self {
            step: Step::Receiving { receive },
            options: CatchDrop::new(options.clone()),
            answer_deadline: Deadline::default(),
            observation,
        }
    }
}

impl<B, J> Future for Deliver<B, J>
where
    B: Body,
    B::Error: Into<BoxError>,
    J: Service<JobEvent> + Clone,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    type Output = Result<Receipt, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _entered = this.observation.enter();
        // The callbacks are caught where they are called. What else can panic is the destructor of
        // something that came with the request, or of the application's service.
        catch(|| advance(&mut this, context)).unwrap_or_else(|Panicked| {
            // A callback that was called has reported how it ended.
            let called = matches!(this.step.as_mut().project(), StepProjection::Calling { .. });
            let _ = catch(|| this.step.set(Step::Answered));
            let error = if called {
                panicked()
            } else {
                failed(this.options, panicked(), None)
            };
            this.observation.refuse(&error);
            Poll::Ready(Err(error))
        })
    }
}

fn advance<B, J>(
    this: &mut DeliverProjection<'_, B, J>,
    context: &mut Context<'_>,
) -> Poll<Result<Receipt, Error>>
where
    B: Body,
    B::Error: Into<BoxError>,
    J: Service<JobEvent> + Clone,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    loop {
        let next = match this.step.as_mut().project() {
            StepProjection::Receiving { receive } => {
                let received = ready!(receive.poll(context));
                // The body goes before anything is called. Its destructor can panic, which changes
                // nothing of what was received.
                let _ = catch(|| this.step.set(Step::Answered));
                match received {
                    Ok(event) => begin(this.options, event, this.observation, context),
                    Err(refusal) => refuse(this.options, refusal, this.observation),
                }
            }
            StepProjection::AwaitingReadiness { waiting } => {
                let Some(mut readied) = waiting.take() else {
                    panic!("`Deliver` was polled after it was ready");
                };
                match poll_ready(&mut *readied.jobs, context) {
                    Poll::Ready(Ok(())) => {
                        let Waiting { jobs, event, place } = *readied;
                        Ok(Step::call(
                            this.options,
                            jobs,
                            event,
                            place,
                            this.observation,
                        ))
                    }
                    Poll::Ready(Err(error)) => {
                        Err(failed(this.options, error, Some(readied.event.job())))
                    }
                    Poll::Pending => {
                        let limit = this.options.answer_deadline;
                        if this.answer_deadline.poll(limit, context).is_pending() {
                            *waiting = Some(readied);
                            return Poll::Pending;
                        }
                        let error = Error::new(ErrorKind::AnswerDeadline);
                        Err(failed(this.options, error, Some(readied.event.job())))
                    }
                }
            }
            StepProjection::Calling { call, job } => match Pin::new(&mut *call).poll(context) {
                Poll::Ready(outcome) => return Poll::Ready(outcome),
                Poll::Pending => {
                    let limit = this.options.answer_deadline;
                    ready!(this.answer_deadline.poll(limit, context));
                    let error = Error::new(ErrorKind::AnswerDeadline);
                    let _entered = call.answer(&error);
                    Err(failed(this.options, error, job.as_deref()))
                }
            },
            StepProjection::Answered => panic!("`Deliver` was polled after it was ready"),
        };
        match next {
            Ok(next) => this.step.set(next),
            Err(error) => {
                // A callback that is still under way is handed over here, and not when the
                // web server gets round to dropping this.
                this.step.set(Step::Answered);
                this.observation.refuse(&error);
                return Poll::Ready(Err(error));
            }
        }
    }
}

fn begin<B, J>(
    options: &Options<J>,
    mut event: JobEvent,
    observation: &mut Observation,
    context: &mut Context<'_>,
) -> Result<Step<B, J>, Error>
where
    J: Service<JobEvent> + Clone,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    observation.decoded(&mut event);
    let fail = |error, event: &JobEvent| Err(failed(options, error, Some(event.job())));
    let place = match options.background.reserve_another() {
        Ok(place) => place,
        Err(error) => return fail(error, &event),
    };
    // The clone is fresh: it has reserved nothing, and is made ready before it is called. The
    // original is never called.
    let mut jobs = match catch(|| options.jobs.clone()) {
        Ok(jobs) => jobs,
        Err(Panicked) => return fail(panicked(), &event),
    };
    match poll_ready(&mut *jobs, context) {
        Poll::Ready(Ok(())) => Ok(Step::call(options, jobs, event, place, observation)),
        Poll::Ready(Err(error)) => fail(error, &event),
        Poll::Pending => Ok(Step::AwaitingReadiness {
            waiting: Some(Box::new(Waiting { jobs, event, place })),
        }),
    }
}

fn refuse<B, J>(
    options: &Options<J>,
    refusal: Refusal,
    observation: &mut Observation,
) -> Result<Step<B, J>, Error> {
    let undecodable = match refusal {
        Refusal::Error(error) => return Err(failed(options, error, None)),
        Refusal::Undecodable(undecodable) => undecodable,
    };
    let Some(hook) = &options.on_undecodable else {
        return Err(failed(options, undecodable.error().clone(), None));
    };
    let mut place = match options.background.reserve_another() {
        Ok(place) => place,
        Err(error) => return Err(failed(options, error, None)),
    };
    let report = ReportEnd::new(options.on_error.as_ref(), None);
    let running = {
        let _entered = place.enter();
        hook(*undecodable)
    };
    Ok(Step::Calling {
        job: None,
        call: RunOn::running(
            Box::pin(async move {
                let outcome = running.await;
                report.ended(&outcome);
                outcome
            }),
            place,
            take(observation),
        ),
    })
}

/// Reports an error on its way out.
pub(crate) fn failed<J>(options: &Options<J>, error: Error, job: Option<&Job>) -> Error {
    if let Some(on_error) = &options.on_error {
        on_error.report(&error, job);
    }
    error
}

impl<B, J> Step<B, J>
where
    J: Service<JobEvent>,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    fn call(
        options: &Options<J>,
        jobs: CatchDrop<J>,
        event: JobEvent,
        mut place: Place,
        observation: &mut Observation,
    ) -> Self {
        let on_error = options.on_error.as_ref();
        let job = on_error.map(|_| Box::new(event.job().clone()));
        let entered = place.enter();
        let delivery = call(jobs, event, on_error);
        drop(entered);
        Self::Calling {
            job,
            call: RunOn::running(delivery, place, take(observation)),
        }
    }
}

/// Asks a service of events whether it is ready.
pub(crate) fn poll_ready<J>(jobs: &mut J, context: &mut Context<'_>) -> Poll<Result<(), Error>>
where
    J: Service<JobEvent>,
    J::Error: Into<BoxError>,
{
    match catch(|| jobs.poll_ready(context).map_err(Into::into)) {
        Ok(poll) => poll.map_err(Error::from_readiness),
        Err(Panicked) => Poll::Ready(Err(panicked())),
    }
}

/// Calls a service of events that is ready; how it ends is reported, waited for or not.
pub(crate) fn call<J>(
    mut jobs: CatchDrop<J>,
    event: JobEvent,
    on_error: Option<&FailureHook>,
) -> Delivery
where
    J: Service<JobEvent>,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    let report = ReportEnd::new(on_error, Some(event.job()));
    let running = CatchPanic::start(
        || jobs.call(event),
        |outcome| outcome.map(Into::into).map_err(Into::into),
    );
    Box::pin(async move {
        let outcome = match running.await {
            Ok(outcome) => outcome.map_err(Error::from),
            Err(Panicked) => Err(panicked()),
        };
        report.ended(&outcome);
        outcome
    })
}

fn panicked() -> Error {
    Error::new(ErrorKind::CallbackPanicked)
}
