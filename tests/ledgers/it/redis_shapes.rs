//! Two releases share the same keys; and answers that belong to another call.

use std::sync::{Arc, Mutex};

use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, Ledger as _, Reconnecting, RedisLedger};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncCommands as _, Client, Cmd, Pipeline, RedisFuture, Script, Value};

use crate::support::{LEASE, granted, name, unique_id};

fn client() -> Client {
    Client::open(std::env::var("MX_TEST_REDIS_URL").unwrap()).unwrap()
}

async fn connection() -> MultiplexedConnection {
    client().get_multiplexed_async_connection().await.unwrap()
}

fn ledger() -> RedisLedger<Reconnecting> {
    RedisLedger::new(client())
}

/// The release before values had a version, with its original scripts.
struct First {
    connection: MultiplexedConnection,
    guid: String,
}

impl First {
    async fn of(guid: &str) -> Self {
        Self {
            connection: connection().await,
            guid: guid.to_owned(),
        }
    }

    fn digits(at: i64) -> String {
        format!("{:020}{:09}", i128::from(at) - i128::from(i64::MIN), 0)
    }

    async fn claim(&mut self, at: i64) -> (String, u64) {
        let script = Script::new(include_str!("first_shape/claim.lua"));
        let mut call = script.key(format!("mx-job-webhook:{}", self.guid));
        call.arg(format!("COMPLETED {at}")).arg(Self::digits(at));
        call.arg(60_000_000).arg(60_000).arg(unique_id());
        call.invoke_async(&mut self.connection).await.unwrap()
    }

    async fn commit(&mut self, at: i64, token: u64) -> String {
        let script = Script::new(include_str!("first_shape/commit.lua"));
        let mut call = script.key(format!("mx-job-webhook:{}", self.guid));
        call.arg(format!("COMPLETED {at}")).arg(Self::digits(at));
        call.arg(token).arg(60_000);
        call.invoke_async(&mut self.connection).await.unwrap()
    }

    async fn release(&mut self, at: i64, token: u64) -> String {
        let script = Script::new(include_str!("first_shape/release.lua"));
        let mut call = script.key(format!("mx-job-webhook:{}", self.guid));
        call.arg(format!("COMPLETED {at}")).arg(token);
        call.invoke_async(&mut self.connection).await.unwrap()
    }
}

#[tokio::test]
async fn entries_of_the_first_release_are_read() {
    let guid = unique_id();
    let (mut old, new) = (First::of(&guid).await, ledger());
    // One claim is in flight; the other release commits one.
    let (answer, token) = old.claim(10).await;
    assert_eq!(answer, "granted");
    assert_eq!(
        new.claim(&name(&guid, 10), LEASE).await.unwrap(),
        Claim::InFlight
    );
    let commit = new.commit(&name(&guid, 10), FencingToken::new(token)).await;
    assert_eq!(commit.unwrap(), Commit::Settled);
    assert_eq!(old.claim(10).await.0, "settled");
    // Settled, stale and overtaken events.
    let (_, token) = old.claim(20).await;
    assert_eq!(old.commit(20, token).await, "settled");
    assert_eq!(
        new.claim(&name(&guid, 20), LEASE).await.unwrap(),
        Claim::Settled
    );
    assert_eq!(
        new.claim(&name(&guid, 15), LEASE).await.unwrap(),
        Claim::Stale
    );
    let commit = new
        .commit(&name(&guid, 20), FencingToken::new(token + 1))
        .await;
    assert_eq!(commit.unwrap(), Commit::Overtaken);
    // Either release releases claims; tokens keep growing.
    let (_, token) = old.claim(30).await;
    assert_eq!(old.release(30, token).await, "released");
    let next = granted(new.claim(&name(&guid, 30), LEASE).await.unwrap());
    assert!(next.get() > token);
    let (_, token) = old.claim(40).await;
    new.release(&name(&guid, 40), FencingToken::new(token))
        .await
        .unwrap();
    granted(new.claim(&name(&guid, 40), LEASE).await.unwrap());
}

#[tokio::test]
async fn the_first_release_reads_entries_of_this_one() {
    let guid = unique_id();
    let (mut old, new) = (First::of(&guid).await, ledger());
    let token = granted(new.claim(&name(&guid, 10), LEASE).await.unwrap());
    let version: String = connection()
        .await
        .hget(format!("mx-job-webhook:{guid}"), "version")
        .await
        .unwrap();
    assert_eq!(version, "1");
    assert_eq!(old.claim(10).await.0, "in flight");
    assert_eq!(old.commit(10, token.get()).await, "settled");
    assert_eq!(
        new.claim(&name(&guid, 10), LEASE).await.unwrap(),
        Claim::Settled
    );
    let token = granted(new.claim(&name(&guid, 20), LEASE).await.unwrap());
    new.commit(&name(&guid, 20), token).await.unwrap();
    assert_eq!(old.claim(20).await.0, "settled");
    assert_eq!(old.claim(15).await.0, "stale");
    assert_eq!(old.commit(20, token.get() + 1).await, "overtaken");
    let token = granted(new.claim(&name(&guid, 30), LEASE).await.unwrap());
    new.release(&name(&guid, 30), token).await.unwrap();
    let (answer, next) = old.claim(30).await;
    assert!(answer == "granted" && next > token.get());
    let token = granted(new.claim(&name(&guid, 40), LEASE).await.unwrap());
    assert_eq!(old.release(40, token.get()).await, "released");
    granted(new.claim(&name(&guid, 40), LEASE).await.unwrap());
}

/// The answer is 503 and the entry is unchanged, so that a release that knows its format can still read it.
#[tokio::test]
async fn an_entry_of_a_later_version_is_an_error_and_stays_unchanged() {
    let (guid, mut redis) = (unique_id(), connection().await);
    let (key, event) = (format!("mx-job-webhook:{guid}"), name(&guid, 10));
    let fields = [("version", "2"), ("COMPLETED 10", "in a later format")];
    let _: () = redis.hset_multiple(&key, &fields).await.unwrap();
    let ledger = ledger();
    let token = FencingToken::new(1);
    for refused in [
        ledger.claim(&event, LEASE).await.unwrap_err(),
        ledger.commit(&event, token).await.unwrap_err(),
        ledger.release(&event, token).await.unwrap_err(),
    ] {
        assert!(refused.to_string().contains("a later release"), "{refused}");
    }
    let mut found: Vec<(String, String)> = redis.hgetall(&key).await.unwrap();
    found.sort();
    let mut expected = fields.map(|(field, value)| (field.to_owned(), value.to_owned()));
    expected.sort();
    assert_eq!(found, expected);
    let left: i64 = redis.ttl(&key).await.unwrap();
    assert_eq!(left, -1);
    let _: () = redis.del(&key).await.unwrap();
}

/// Gives each call the answer of the previous one, like a proxy that has lost count.
#[derive(Clone)]
struct OneBehind(MultiplexedConnection, Arc<Mutex<Option<Value>>>);

impl ConnectionLike for OneBehind {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let answer = self.0.req_packed_command(command).await?;
            let before = self.1.lock().unwrap().replace(answer.clone());
            Ok(before.unwrap_or(answer))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

#[tokio::test]
async fn an_answer_to_another_call_is_an_error() {
    let guid = unique_id();
    let event = |at| name(&guid, at);
    // This loads the scripts into the server.
    for at in 1..3 {
        let token = granted(ledger().claim(&event(at), LEASE).await.unwrap());
        ledger().release(&event(at), token).await.unwrap();
        ledger().commit(&event(at), token).await.unwrap();
    }
    let one_behind = OneBehind(connection().await, Arc::default());
    let ledger = RedisLedger::from_connection(one_behind);
    let token = granted(ledger.claim(&event(10), LEASE).await.unwrap());
    // Claim, commit and release each receive the answer of another script or of the same one.
    ledger.claim(&event(11), LEASE).await.unwrap_err();
    ledger.claim(&event(12), LEASE).await.unwrap_err();
    ledger.commit(&event(10), token).await.unwrap_err();
    ledger.commit(&event(11), token).await.unwrap_err();
    ledger.release(&event(12), token).await.unwrap_err();
    ledger.release(&event(13), token).await.unwrap_err();
    ledger.claim(&event(14), LEASE).await.unwrap_err();
}
