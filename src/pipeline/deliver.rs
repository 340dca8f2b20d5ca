//! Deliver: the event goes into the `Service<JobEvent>`, once that is ready.

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
use crate::callback::{JobFuture, JobService, ReportEnd, call_reporting, poll_ready};
use crate::error::{Error, ErrorKind, Receipt};
use crate::event::{JobEvent, Undecodable};
use crate::job::Job;
use crate::observe::{Observation, Observed};
use crate::util::catch_panic::{CatchDrop, Panicked, catch};
use crate::util::deadline::Deadline;

pin_project! {
    /// From request to receipt.
    ///
    /// If it is dropped before the callback is called, nothing has happened, and MX retries. If it
    /// is dropped after that, the callback continues in the background ([`Tracked`]).
    #[project = DeliverProjection]
    pub(crate) struct Deliver<B, J> {
        #[pin]
        step: Step<B, J>,
        settings: CatchDrop<Arc<Settings<J>>>,
        answer_deadline: Deadline,
        // Until the callback is called. From then on the callback's future has it.
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
        // The job, if a hook has to hear of the answer deadline.
        Calling { callback: Tracked<Observed>, job: Option<Box<Job>> },
        Answered,
    }
}

/// An event whose service is not ready.
struct Waiting<J> {
    jobs: CatchDrop<J>,
    event: JobEvent,
    permit: Permit,
}

/// Why a delivery is not acknowledged, and the job if it was decoded.
struct Failed {
    error: Error,
    job: Option<Box<Job>>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, job: None }
    }
}

impl Failed {
    #[cold]
    fn with_event(error: impl Into<Error>, event: JobEvent) -> Self {
        Self {
            error: error.into(),
            job: Some(Box::new(event.into_job())),
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

    /// Refuses a request that is no delivery.
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
            observation,
        }
    }
}

impl<B, J> Future for Deliver<B, J>
where
    B: Body,
    B::Error: Into<BoxError>,
    J: JobService,
{
    type Output = Result<Receipt, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _entered = this.observation.enter();
        // A panic of a callback is caught where it is called. This one is of the destructor of
        // something that came with the request, or of the application's service.
        catch(|| this.advance(context)).unwrap_or_else(|Panicked| this.panicked())
    }
}

impl<B, J> DeliverProjection<'_, B, J>
where
    B: Body,
    B::Error: Into<BoxError>,
    J: JobService,
{
    /// Takes step after step, until the answer is known or the delivery has to wait.
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Result<Receipt, Error>> {
        loop {
            let next = match self.step.as_mut().project() {
                StepProjection::Receiving { receive } => {
                    let received = ready!(receive.poll(context));
                    self.received(received, context)
                }
                StepProjection::AwaitingReadiness { .. } => ready!(self.poll_readiness(context)),
                StepProjection::Calling { callback, .. } => {
                    match Pin::new(callback).poll(context) {
                        Poll::Ready(outcome) => return Poll::Ready(outcome),
                        Poll::Pending => Err(ready!(self.poll_answer_deadline(context))),
                    }
                }
                StepProjection::Answered => panic!("`Deliver` was polled after it was ready"),
            };
            match next {
                Ok(step) => self.step.set(step),
                Err(failed) => return Poll::Ready(Err(self.fail(failed))),
            }
        }
    }

    fn received(
        &mut self,
        received: Result<JobEvent, Refusal>,
        context: &mut Context<'_>,
    ) -> Result<Step<B, J>, Failed> {
        // The body is dropped before the callback is called. A panic of its destructor changes
        // nothing, because the body was received.
        let _ = catch(|| self.step.set(Step::Answered));
        match received {
            Ok(event) => self.begin(event, context),
            Err(Refusal::Error(error)) => Err(error.into()),
            Err(Refusal::Undecodable(undecodable)) => self.give_to_hook(*undecodable),
        }
    }

    /// Calls the service if it is ready.
    fn begin(
        &mut self,
        mut event: JobEvent,
        context: &mut Context<'_>,
    ) -> Result<Step<B, J>, Failed> {
        let settings = &***self.settings;
        self.observation.decoded(&mut event);
        event.set_background(&settings.background);
        let permit = match settings.background.acquire_another() {
            Ok(permit) => permit,
            Err(reason) => return Err(Failed::with_event(reason, event)),
        };
        // The original is never called. A fresh clone has reserved nothing, so it is made ready.
        let mut jobs = match catch(|| settings.jobs.clone()) {
            Ok(jobs) => jobs,
            Err(Panicked) => return Err(Failed::with_event(panicked(), event)),
        };
        match poll_ready(&mut *jobs, context) {
            Poll::Ready(Ok(())) => Ok(self.call(jobs, event, permit)),
            Poll::Ready(Err(error)) => Err(Failed::with_event(error, event)),
            Poll::Pending => Ok(Step::AwaitingReadiness {
                waiting: Some(Box::new(Waiting {
                    jobs,
                    event,
                    permit,
                })),
            }),
        }
    }

    /// Waits until the service is ready, and calls it.
    fn poll_readiness(&mut self, context: &mut Context<'_>) -> Poll<Result<Step<B, J>, Failed>> {
        let StepProjection::AwaitingReadiness { waiting: slot } = self.step.as_mut().project()
        else {
            unreachable!("the caller has matched this step");
        };
        let Some(mut waiting) = slot.take() else {
            panic!("`Deliver` was polled after it was ready");
        };
        let error = match poll_ready(&mut *waiting.jobs, context) {
            Poll::Ready(Ok(())) => {
                let Waiting {
                    jobs,
                    event,
                    permit,
                } = *waiting;
                return Poll::Ready(Ok(self.call(jobs, event, permit)));
            }
            Poll::Ready(Err(error)) => error,
            Poll::Pending => {
                let limit = self.settings.answer_deadline;
                if self.answer_deadline.poll(limit, context).is_pending() {
                    *slot = Some(waiting);
                    return Poll::Pending;
                }
                Error::new(ErrorKind::AnswerDeadline)
            }
        };
        Poll::Ready(Err(Failed::with_event(error, waiting.event)))
    }

    fn call(&mut self, jobs: CatchDrop<J>, event: JobEvent, mut permit: Permit) -> Step<B, J> {
        let on_error = self.settings.on_error.as_ref();
        let job = on_error.map(|_| Box::new(event.job().clone()));
        let entered = permit.enter();
        let callback = call_reporting(jobs, event, on_error);
        drop(entered);
        self.calling(callback, permit, job)
    }

    /// Gives a body that cannot be decoded to its hook, if there is one.
    fn give_to_hook(&mut self, undecodable: Undecodable) -> Result<Step<B, J>, Failed> {
        let Some(hook) = &self.settings.on_undecodable else {
            return Err(undecodable.error().clone().into());
        };
        let mut permit = self
            .settings
            .background
            .acquire_another()
            .map_err(Error::from)?;
        let report = ReportEnd::new(self.settings.on_error.as_ref(), None);
        let entered = permit.enter();
        let running = hook(undecodable);
        drop(entered);
        let callback = JobFuture::new(async move {
            let outcome = running.await;
            report.ended(&outcome);
            outcome
        });
        Ok(self.calling(callback, permit, None))
    }

    fn calling(
        &mut self,
        callback: JobFuture,
        permit: Permit,
        job: Option<Box<Job>>,
    ) -> Step<B, J> {
        let observed = Observed::new(callback, take(self.observation));
        Step::Calling {
            callback: Tracked::new(observed, permit),
            job,
        }
    }

    /// Waits until the sender has waited long enough for a callback.
    fn poll_answer_deadline(&mut self, context: &mut Context<'_>) -> Poll<Failed> {
        let limit = self.settings.answer_deadline;
        ready!(self.answer_deadline.poll(limit, context));
        let job = match self.step.as_mut().project() {
            StepProjection::Calling { job, .. } => job.take(),
            _ => None,
        };
        Poll::Ready(Failed {
            error: Error::new(ErrorKind::AnswerDeadline),
            job,
        })
    }

    /// The one exit for errors: reports the error, and lets a callback that runs continue.
    fn fail(&mut self, Failed { error, job }: Failed) -> Error {
        let entered = match self.step.as_mut().project() {
            StepProjection::Calling { callback, .. } => {
                callback.get_mut().map(|observed| observed.answer(&error))
            }
            _ => None,
        };
        if let Some(on_error) = &self.settings.on_error {
            on_error.report(&error, job.as_deref());
        }
        drop(entered);
        // A callback that runs is detached now, and not when the web server drops this future.
        self.step.set(Step::Answered);
        self.observation.refuse(&error);
        error
    }

    #[cold]
    fn panicked(&mut self) -> Poll<Result<Receipt, Error>> {
        let was_called = matches!(self.step.as_mut().project(), StepProjection::Calling { .. });
        let _ = catch(|| self.step.set(Step::Answered));
        if was_called {
            // The callback has reported how it ended.
            let error = panicked();
            self.observation.refuse(&error);
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Err(self.fail(panicked().into())))
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::CallbackPanicked)
}
