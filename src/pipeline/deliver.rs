//! Deliver: calls the `Service<JobEvent>` with the event, once the service is ready.

use std::mem::take;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use http_body::Body;
use pin_project_lite::pin_project;
use tower::BoxError;

use super::Settings;
use super::receive::{Receive, Refusal};
use crate::background::{Permit, Tracked};
use crate::callback::{
    BoxedCallback, JobFuture, JobService, ReportEnd, call_reporting, poll_ready,
};
use crate::error::{Error, ErrorKind, Receipt};
use crate::event::{JobEvent, OtherWebhook};
use crate::job::Job;
use crate::observe::{Observation, Observed};
use crate::util::catch_panic::{CatchDrop, Panicked, catch};
use crate::util::deadline::Deadline;

/// The outcome of a delivery.
pub(crate) enum Answer {
    Respond(Result<Receipt, Error>),
    /// The service within answers this webhook.
    PassOn(Box<OtherWebhook>),
}

pin_project! {
    /// The future from request to receipt.
    ///
    /// If it is dropped before the callback is called, nothing has happened, and MX retries. If it
    /// is dropped after that, the callback continues in the background: see [`Tracked`].
    #[project = DeliverProjection]
    pub(crate) struct Deliver<B, J> {
        #[pin]
        step: Step<B, J>,
        settings: CatchDrop<Arc<Settings<J>>>,
        answer_deadline: Deadline,
        passes_on: bool,
        // Moves into the callback's future once the callback is called.
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
        // What the extractor has received. Boxed, because a delivery does not need it.
        Received { received: Option<Box<Result<JobEvent, Refusal>>> },
        // Boxed because it is rare, and would make every future of the layer larger.
        AwaitingReadiness { pending: Option<Box<PendingCall<J>>> },
        // The job is set if there is a hook to report the answer deadline to.
        Calling { callback: Tracked<Observed>, job: Option<Box<Job>> },
        Answered,
    }
}

/// A call of a service that is not ready yet.
struct PendingCall<J> {
    jobs: CatchDrop<J>,
    event: JobEvent,
    permit: Permit,
}

/// The error of a delivery, and the job if it was decoded.
struct DeliveryFailure {
    error: Error,
    job: Option<Box<Job>>,
    // Until the failure is reported, so that a drain waits for the report.
    permit: Option<Permit>,
}

impl From<Error> for DeliveryFailure {
    fn from(error: Error) -> Self {
        Self {
            error,
            job: None,
            permit: None,
        }
    }
}

impl DeliveryFailure {
    #[cold]
    fn with_event(error: impl Into<Error>, event: JobEvent, permit: Option<Permit>) -> Self {
        Self {
            error: error.into(),
            job: Some(Box::new(event.into_job())),
            permit,
        }
    }
}

impl<B, J> Deliver<B, J> {
    pub(crate) fn start(settings: &Arc<Settings<J>>, request: Request<B>) -> Self {
        let observation = Observation::start();
        let entered = observation.enter();
        let receive = Receive::start(&settings.credentials, settings.limits, request);
        drop(entered);
        Self::receiving(settings, receive, observation)
    }

    /// Refuses a request because of its head.
    pub(crate) fn refuse(settings: &Arc<Settings<J>>, error: Error, request: Request<B>) -> Self {
        let receive = Receive::refuse(error, settings.limits, request);
        Self::receiving(settings, receive, Observation::start())
    }

    fn receiving(
        settings: &Arc<Settings<J>>,
        receive: Receive<B>,
        observation: Observation,
    ) -> Self {
        Self {
            step: Step::Receiving { receive },
            settings: CatchDrop::new(settings.clone()),
            answer_deadline: Deadline::default(),
            passes_on: false,
            observation,
        }
    }

    /// Starts with an event that was received.
    pub(crate) fn run(settings: &Arc<Settings<J>>, mut event: JobEvent) -> Self {
        let observation = Observation::of(&mut event);
        Self::received_by(settings, Ok(event), observation)
    }

    /// Starts with what the extractor has received.
    pub(crate) fn received_by(
        settings: &Arc<Settings<J>>,
        received: Result<JobEvent, Refusal>,
        observation: Observation,
    ) -> Self {
        Self {
            step: Step::Received {
                received: Some(Box::new(received)),
            },
            settings: CatchDrop::new(settings.clone()),
            answer_deadline: Deadline::default(),
            passes_on: false,
            observation,
        }
    }

    /// Passes other webhooks on to the service within.
    pub(crate) fn passing_on(mut self) -> Self {
        self.passes_on = true;
        self
    }
}

impl<B, J> Future for Deliver<B, J>
where
    B: Body,
    B::Error: Into<BoxError>,
    J: JobService,
{
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let mut this = self.project();
        let _entered = this.observation.enter();
        // A panic of a callback is caught where it is called. This catches panics of the
        // application's service, and of the destructors of the request's parts.
        catch(|| this.advance(context))
            .unwrap_or_else(|Panicked| Poll::Ready(Answer::Respond(Err(this.panicked()))))
    }
}

impl<B, J> DeliverProjection<'_, B, J>
where
    B: Body,
    B::Error: Into<BoxError>,
    J: JobService,
{
    /// Takes one step after another, until the answer is known or the delivery has to wait.
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Answer> {
        loop {
            let next = match self.step.as_mut().project() {
                StepProjection::Receiving { receive } => match ready!(receive.poll(context)) {
                    Err(Refusal::OtherWebhook(webhook, error)) if *self.passes_on => {
                        let _ = catch(|| self.step.set(Step::Answered));
                        self.observation.pass_on(&error);
                        return Poll::Ready(Answer::PassOn(webhook));
                    }
                    received => self.received(received, context),
                },
                StepProjection::Received { received } => match received.take() {
                    Some(received) => self.received(*received, context),
                    None => panic!("`Deliver` was polled after it was ready"),
                },
                StepProjection::AwaitingReadiness { .. } => ready!(self.poll_readiness(context)),
                StepProjection::Calling { callback, .. } => {
                    match Pin::new(callback).poll(context) {
                        Poll::Ready(outcome) => return Poll::Ready(Answer::Respond(outcome)),
                        Poll::Pending => Err(ready!(self.poll_answer_deadline(context))),
                    }
                }
                StepProjection::Answered => panic!("`Deliver` was polled after it was ready"),
            };
            match next {
                Ok(step) => self.step.set(step),
                Err(failure) => return Poll::Ready(Answer::Respond(Err(self.fail(failure)))),
            }
        }
    }

    fn received(
        &mut self,
        received: Result<JobEvent, Refusal>,
        context: &mut Context<'_>,
    ) -> Result<Step<B, J>, DeliveryFailure> {
        // The body is dropped before the callback is called. It was received, so a panic of its
        // destructor does not matter.
        let _ = catch(|| self.step.set(Step::Answered));
        match received {
            Ok(event) => self.start_call(event, context),
            Err(Refusal::Error(error)) => Err(error.into()),
            Err(Refusal::Undecodable(undecodable)) => {
                let hook = self.settings.on_undecodable.clone();
                self.call_hook(hook, undecodable.error().clone(), *undecodable)
            }
            Err(Refusal::OtherWebhook(webhook, error)) => {
                let hook = self.settings.on_other_webhook.clone();
                self.call_hook(hook, error, *webhook)
            }
        }
    }

    /// Calls the service if it is ready. If it is not, keeps the call pending.
    fn start_call(
        &mut self,
        mut event: JobEvent,
        context: &mut Context<'_>,
    ) -> Result<Step<B, J>, DeliveryFailure> {
        let settings = &***self.settings;
        self.observation.decoded(&mut event);
        let permit = match settings.background.acquire_another() {
            Ok(permit) => permit,
            Err(reason) => return Err(DeliveryFailure::with_event(reason, event, None)),
        };
        // Only clones are called. A clone has no reservation of its own, so it is made ready first.
        let mut jobs = match catch(|| settings.jobs.clone()) {
            Ok(jobs) => jobs,
            Err(Panicked) => {
                return Err(DeliveryFailure::with_event(panicked(), event, Some(permit)));
            }
        };
        match poll_ready(&mut *jobs, context) {
            Poll::Ready(Ok(())) => Ok(self.call(jobs, event, permit)),
            Poll::Ready(Err(error)) => Err(DeliveryFailure::with_event(error, event, Some(permit))),
            Poll::Pending => Ok(Step::AwaitingReadiness {
                pending: Some(Box::new(PendingCall {
                    jobs,
                    event,
                    permit,
                })),
            }),
        }
    }

    /// Waits until the service is ready, then calls it.
    fn poll_readiness(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Step<B, J>, DeliveryFailure>> {
        let StepProjection::AwaitingReadiness { pending: slot } = self.step.as_mut().project()
        else {
            unreachable!("the caller has matched this step");
        };
        let Some(mut pending) = slot.take() else {
            panic!("`Deliver` was polled after it was ready");
        };
        let error = match poll_ready(&mut *pending.jobs, context) {
            Poll::Ready(Ok(())) => {
                let PendingCall {
                    jobs,
                    event,
                    permit,
                } = *pending;
                return Poll::Ready(Ok(self.call(jobs, event, permit)));
            }
            Poll::Ready(Err(error)) => error,
            Poll::Pending => {
                let limit = self.settings.answer_deadline;
                if self.answer_deadline.poll(limit, context).is_pending() {
                    *slot = Some(pending);
                    return Poll::Pending;
                }
                Error::new(ErrorKind::AnswerDeadline)
            }
        };
        let PendingCall { event, permit, .. } = *pending;
        Poll::Ready(Err(DeliveryFailure::with_event(error, event, Some(permit))))
    }

    fn call(&mut self, jobs: CatchDrop<J>, event: JobEvent, mut permit: Permit) -> Step<B, J> {
        let on_error = self.settings.on_error.as_ref();
        let job = on_error.map(|_| Box::new(event.job().clone()));
        let entered = permit.enter();
        let callback = call_reporting(jobs, event, on_error);
        drop(entered);
        self.track(callback, permit, job)
    }

    /// Calls the hook with a body that has no job. Without a hook, the body is refused.
    fn call_hook<T>(
        &mut self,
        hook: Option<BoxedCallback<T>>,
        error: Error,
        body: T,
    ) -> Result<Step<B, J>, DeliveryFailure> {
        self.observation.has_no_job(&error);
        let Some(hook) = hook else {
            return Err(error.into());
        };
        let mut permit = self
            .settings
            .background
            .acquire_another()
            .map_err(Error::from)?;
        let report = ReportEnd::new(self.settings.on_error.as_ref(), None);
        let entered = permit.enter();
        let running = hook(body);
        drop(entered);
        let callback = JobFuture::new(async move {
            let outcome = running.await;
            report.ended(&outcome);
            outcome
        });
        Ok(self.track(callback, permit, None))
    }

    fn track(&mut self, callback: JobFuture, permit: Permit, job: Option<Box<Job>>) -> Step<B, J> {
        let observed = Observed::new(callback, take(self.observation));
        Step::Calling {
            callback: Tracked::new(observed, permit),
            job,
        }
    }

    /// Waits until the answer deadline passes while a callback runs.
    fn poll_answer_deadline(&mut self, context: &mut Context<'_>) -> Poll<DeliveryFailure> {
        let limit = self.settings.answer_deadline;
        ready!(self.answer_deadline.poll(limit, context));
        let job = match self.step.as_mut().project() {
            StepProjection::Calling { job, .. } => job.take(),
            _ => None,
        };
        Poll::Ready(DeliveryFailure {
            error: Error::new(ErrorKind::AnswerDeadline),
            job,
            permit: None,
        })
    }

    /// Reports the error, and lets a running callback continue. All errors leave through here.
    fn fail(&mut self, failure: DeliveryFailure) -> Error {
        let DeliveryFailure { error, job, permit } = failure;
        self.report(&error, job.as_deref());
        drop(permit);
        // A running callback is detached now, and not when the web server drops this future.
        self.step.set(Step::Answered);
        self.observation.refuse(&error);
        error
    }

    /// Reports the error to the hook, in the span of the running callback if there is one.
    fn report(&mut self, error: &Error, job: Option<&Job>) {
        let _entered = match self.step.as_mut().project() {
            StepProjection::Calling { callback, .. } => {
                callback.get_mut().map(|observed| observed.answer(error))
            }
            _ => None,
        };
        if let Some(on_error) = &self.settings.on_error {
            on_error.report(error, job);
        }
    }

    #[cold]
    fn panicked(&mut self) -> Error {
        let was_called = matches!(self.step.as_mut().project(), StepProjection::Calling { .. });
        let _ = catch(|| self.step.set(Step::Answered));
        if was_called {
            // The callback has already reported its end.
            let error = panicked();
            self.observation.refuse(&error);
            return error;
        }
        self.fail(panicked().into())
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::CallbackPanicked)
}
