//! A stand-in for MX: it runs jobs, and delivers their events, or loses them.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use mx_job_webhook::JobEvent;
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;

use super::client;
use super::plan::{Planned, halted};
use super::replica::while_alive;
use super::world::World;

/// How often MX retries.
const RETRIES: u32 = 12;

/// How long MX waits for the answer to a challenge.
const ANSWER: Duration = Duration::from_secs(600);

/// Runs a job from its start to its end.
pub(crate) async fn run_job(world: World, job: usize) {
    let plan = world.plan().jobs[job].clone();
    sleep(plan.start).await;
    world.start_client(tokio::spawn(client::run(world.clone(), job)));
    let last = plan.events.len() - 1;
    for (step, planned) in plan.events.iter().enumerate() {
        sleep(planned.delay).await;
        world.happened(job, step);
        tokio::spawn(deliver(world.clone(), planned.clone()));
        let mut resumed = world.resumed(job);
        let answered = resumed.wait_for(|resumed| *resumed > step);
        if step < last && timeout(ANSWER, answered).await.is_err() {
            world.halted(job);
            tokio::spawn(deliver(world.clone(), halted(&plan.guid)));
            return;
        }
    }
}

async fn deliver(world: World, planned: Planned) {
    if planned.is_lost {
        return;
    }
    for _ in 0..=planned.duplicates {
        let delay = world.calm_or(0, |random| match random.u8(..8) {
            0..3 => 0,
            3..7 => random.u64(..40_000),
            _ => random.u64(..400_000),
        });
        sleep(Duration::from_millis(delay)).await;
        let mut pause = 1_000;
        for _ in 0..=RETRIES {
            if deliver_once(&world, &planned.event).await {
                break;
            }
            let jitter = world.draw(|random| random.u64(..pause));
            sleep(Duration::from_millis(pause + jitter)).await;
            pause = pause * 3 / 2;
        }
    }
}

/// Makes one delivery and returns whether it was acknowledged.
async fn deliver_once(world: &World, event: &JobEvent) -> bool {
    let Some((_, replica)) = world.any_replica() else {
        return false;
    };
    let request = Request::post("/")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::clone(event.body())))
        .unwrap();
    let patience = world.calm_or(30_000, |random| match random.u8(..6) {
        0 => random.u64(..6_000),
        _ => 30_000,
    });
    let answer = timeout(
        Duration::from_millis(patience),
        replica.endpoint.oneshot(request),
    );
    let Some(Ok(Ok(response))) = while_alive(replica.life.clone(), answer).await else {
        return false;
    };
    response.status().is_success()
}
