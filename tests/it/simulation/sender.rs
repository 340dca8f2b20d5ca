//! A stand-in for MX that retries deliveries not answered 2xx, and retries more often than MX does.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::task::coop::unconstrained;
use tokio::time::sleep;
use tower::ServiceExt as _;

use super::world::World;

/// How often MX retries (MX's page on webhooks).
const RETRIES: u32 = 12;

/// Delivers one event until it is answered 2xx or its retries are used up.
pub(crate) async fn deliver_until_acknowledged(world: World, event: usize) {
    let (start, duplicates) = world.draw(|random| (random.u64(..60_000), random.u8(..4)));
    sleep(Duration::from_millis(start)).await;
    // Sometimes two deliveries of an event overlap.
    let twin = (duplicates == 3).then(|| tokio::spawn(deliver(world.clone(), event)));
    let mut pause = 5_000;
    for _ in 0..=RETRIES {
        if deliver(world.clone(), event).await {
            break;
        }
        let jitter = world.draw(|random| random.u64(..pause));
        sleep(Duration::from_millis(pause + jitter)).await;
        pause = pause * 3 / 2;
    }
    if let Some(twin) = twin {
        twin.await.unwrap();
    }
    for _ in 0..duplicates.saturating_sub(1) {
        let later = world.draw(|random| random.u64(..600_000));
        sleep(Duration::from_millis(later)).await;
        deliver(world.clone(), event).await;
    }
}

/// Makes one delivery and returns whether it was answered 2xx.
pub(crate) async fn deliver(world: World, event: usize) -> bool {
    let receiver = world.receiver();
    let body = Full::new(Bytes::from(world.body(event)));
    let request = Request::post("/")
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let calm = world.is_calm();
    let patience = world.draw(|random| match random.u8(..4) {
        0 if !calm => random.u64(..6_000),
        _ => 30_000,
    });
    let mut life = receiver.alive.subscribe();
    tokio::select! {
        biased;
        _ = life.wait_for(|alive| !alive) => false,
        response = receiver.endpoint.oneshot(request) => {
            let status = response.unwrap().status();
            world.answered(event, status.as_u16())
        }
        // The sender hangs up, even if the callback has used up this task's budget.
        () = unconstrained(sleep(Duration::from_millis(patience))) => {
            world.left(event);
            false
        }
    }
}
