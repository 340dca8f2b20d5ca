//! The stand-in for MX: retries what is not answered 2xx, and more often than that.

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

/// Delivers one event until it is answered 2xx, or the retries are used up.
pub(crate) async fn deliver_until_acknowledged(world: World, event: usize) {
    let (start, duplicates) = world.draw(|random| (random.u64(..60_000), random.u8(..4)));
    sleep(Duration::from_millis(start)).await;
    // Now and then two are on their way at once.
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

/// One delivery, whether it was answered 2xx.
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
        // It hangs up, also if the callback has eaten up the budget of this task.
        () = unconstrained(sleep(Duration::from_millis(patience))) => false,
    }
}
