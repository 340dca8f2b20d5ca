//! The schedule of deliveries: each sample is sent until it is answered 2xx or given up.

use std::future::poll_fn;
use std::time::{Duration, Instant as RealInstant};

use bytes::Bytes;
use fastrand::Rng;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::{BoxError, Service};

use super::clock::hold_still;
use super::{Losses, Mx};
use crate::testing::attempt::Reply;
use crate::testing::{Answer, Attempt, Sample, Transcript};
use crate::util::later::later;

/// The wait before the first retry. Each wait is doubled, so that twelve of them take 24 hours.
const FIRST_WAIT: Duration = Duration::from_millis(21_099);

pub(super) async fn deliver<B, S, R>(mx: &Mx<B>, app: S, samples: Vec<Sample>) -> Transcript
where
    B: From<Bytes>,
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
{
    let start = Instant::now();
    let mut send_at = start;
    let mut deliveries = FuturesUnordered::new();
    let lost = lost(mx, samples.len());
    for index in order(mx, samples.len()) {
        let delivery = Delivery {
            sample: &samples[index],
            is_lost: lost[index],
            start,
            send_at,
        };
        deliveries.push(deliver_one(mx, &app, delivery));
        send_at = later(send_at, mx.interval);
    }
    let mut attempts = Vec::new();
    while let Some(delivery) = deliveries.next().await {
        attempts.extend(delivery);
    }
    attempts.sort_by_key(Attempt::sent_at);
    Transcript::new(attempts)
}

/// Returns the indices of the samples, in the order in which they are sent.
fn order<B>(mx: &Mx<B>, samples: usize) -> Vec<usize> {
    let mut random = mx.reordering.map(Rng::with_seed);
    let mut order = Vec::new();
    for _ in 0..=mx.duplicates {
        let mut round: Vec<usize> = (0..samples).collect();
        if let Some(random) = &mut random {
            random.shuffle(&mut round);
        }
        order.extend(round);
    }
    order
}

/// Returns for each sample whether it is lost.
fn lost<B>(mx: &Mx<B>, samples: usize) -> Vec<bool> {
    let Some(Losses { share, seed }) = mx.losses else {
        return vec![false; samples];
    };
    let mut random = Rng::with_seed(seed);
    (0..samples).map(|_| random.f64() < share).collect()
}

struct Delivery<'a> {
    sample: &'a Sample,
    is_lost: bool,
    start: Instant,
    send_at: Instant,
}

/// Sends one sample until it is answered 2xx or given up.
async fn deliver_one<B, S, R>(mx: &Mx<B>, app: &S, delivery: Delivery<'_>) -> Vec<Attempt>
where
    B: From<Bytes>,
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
{
    let Delivery {
        sample,
        is_lost,
        start,
        send_at,
    } = delivery;
    sleep_until(send_at).await;
    mx.jobs.set(sample);
    if is_lost {
        let (sample, sent_at) = (sample.clone(), start.elapsed());
        return vec![Attempt::new(sample, 1, sent_at, Answer::Lost.into())];
    }
    let mut attempts = Vec::new();
    let mut next_wait = mx.first_wait.unwrap_or(FIRST_WAIT);
    for number in 1..=mx.retries.saturating_add(1) {
        if number > 1 {
            match mx.first_wait {
                Some(_) => sleep(next_wait).await,
                None => wait_on_a_paused_clock(next_wait).await,
            }
            next_wait = next_wait.saturating_mul(2);
        }
        let sent_at = start.elapsed();
        let reply = attempt(mx, app, mx.request(sample)).await;
        let is_success = reply.answer.is_success();
        attempts.push(Attempt::new(sample.clone(), number, sent_at, reply));
        if is_success {
            break;
        }
    }
    attempts
}

/// Sends one request to a clone of the service, and waits for the answer as long as MX.
pub(super) async fn attempt<B, S, R>(mx: &Mx<B>, app: &S, request: Request<B>) -> Reply
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
{
    match hold_still(timeout(mx.patience, send(app.clone(), request))).await {
        Ok(Ok(response)) => Reply::of(&response),
        Ok(Err(error)) => Answer::Failed(error.to_string()).into(),
        Err(_) => Answer::TimedOut.into(),
    }
}

async fn send<B, S, R>(mut app: S, request: Request<B>) -> Result<Response<R>, BoxError>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    poll_fn(|context| app.poll_ready(context))
        .await
        .map_err(Into::into)?;
    app.call(request).await.map_err(Into::into)
}

async fn wait_on_a_paused_clock(duration: Duration) {
    let start = RealInstant::now();
    sleep(duration).await;
    assert_paused(duration, start.elapsed());
}

/// Panics if the wait took real time, so that a test without a paused clock fails at its first
/// retry and does not run for a day.
fn assert_paused(waited: Duration, real_time: Duration) {
    assert!(
        real_time < waited,
        "a retry had to wait, but tokio's clock is not paused: use \
         `#[tokio::test(start_paused = true)]`, shorten the waits with `with_first_wait`, or \
         disable retries with `with_retries(0)`"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_waits_take_24_hours() {
        let day: Duration = (0..12).map(|retry| FIRST_WAIT * 2_u32.pow(retry)).sum();
        assert_eq!(day.as_secs_f64().round() / 100.0, 864.0);
    }

    #[test]
    fn a_wait_that_takes_real_time_panics() {
        let paused = |real_time| {
            crate::util::catch_panic::catch(|| assert_paused(Duration::from_secs(21), real_time))
                .is_ok()
        };
        assert!(paused(Duration::from_millis(5)));
        assert!(paused(Duration::from_secs(20)));
        assert!(!paused(Duration::from_secs(21)));
    }
}
