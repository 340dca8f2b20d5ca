//! A client of the application: it expects its job, waits, gives up waiting, answers challenges.

use std::time::Duration;

use mx_job_webhook::Status;
use mx_job_webhook::ledger::EventName;
use mx_job_webhook::watch::Heard;
use tokio::time::{Instant, sleep};

use super::replica::{Replica, while_alive};
use super::world::World;

/// What came of one request.
enum Turn {
    Heard(Box<Heard>),
    NotYet,
    /// It only wanted the job to be expected.
    Enough,
}

pub(crate) async fn run(world: World, job: usize) {
    let plan = world.plan().jobs[job].clone();
    sleep(plan.expect_after).await;
    let mut seen: Option<EventName> = None;
    let mut answered = 0;
    world.expects_anew(job);
    loop {
        if world.is_given_up(job) {
            return;
        }
        // Any replica serves it, as behind a load balancer.
        let Some((index, replica)) = world.any_replica() else {
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        let [patience, hangs_up] = world.draw(|random| {
            let patience = match random.u8(..5) {
                0 => 0,
                1 => random.u64(..5_000),
                _ => random.u64(..120_000),
            };
            let hangs_up = match random.u8(..4) {
                0 => random.u64(..patience.max(2)),
                _ => u64::MAX,
            };
            [patience, hangs_up].map(Duration::from_millis)
        });
        let request = turn(&world, job, &replica, seen.as_ref(), patience);
        let request = tokio::time::timeout(hangs_up, request);
        let turn = while_alive(replica.life.clone(), request).await;
        drop(replica);
        let heard = match turn {
            Some(Ok(Turn::Heard(heard))) => heard,
            Some(Ok(Turn::Enough)) => return,
            _ => {
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        world.heard(job, index, &heard, seen.as_ref());
        if heard.status != Status::Challenged {
            world.ended(job);
            return;
        }
        if plan.abandoned_at == Some(answered) {
            world.abandoned(job);
            return;
        }
        answered += 1;
        let [thinks, hesitates] = world.draw(|random| {
            [random.u64(..90_000), random.u64(..4) * random.u64(..20_000)]
                .map(Duration::from_millis)
        });
        sleep(thinks).await;
        world.resume(job, heard.name());
        sleep(hesitates).await;
        seen = Some(heard.name().clone());
        world.expects_anew(job);
    }
}

async fn turn(
    world: &World,
    job: usize,
    replica: &Replica,
    seen: Option<&EventName>,
    patience: Duration,
) -> Turn {
    let plan = world.plan().jobs[job].clone();
    let started = Instant::now();
    let expected = match seen {
        None => replica.watch.expect(&plan.guid.parse().unwrap()).await,
        Some(seen) => replica.watch.expect_after(seen).await,
    };
    let expected = match expected {
        Ok(expected) => expected,
        Err(error) => {
            world.store_failed(job, &error);
            return Turn::NotYet;
        }
    };
    world.expected(job);
    if !plan.waits {
        return Turn::Enough;
    }
    match expected.within(patience).await {
        Ok(Some(heard)) => Turn::Heard(Box::new(heard)),
        Ok(None) => {
            world.not_heard(job, seen, started);
            Turn::NotYet
        }
        Err(error) => {
            world.store_failed(job, &error);
            Turn::NotYet
        }
    }
}
