//! The calls of the ledger, and their answers.

use std::time::Duration;

use ::redis::RedisError;
use ::redis::aio::ConnectionLike;

use super::RedisLedger;
use super::script::{Answer, Script, is_unexpected_reply, unexpected_reply};
use crate::event::FencingToken;
use crate::job::Timestamp;
use crate::ledger::key::Key;
use crate::ledger::lease::{micros, millis};
use crate::ledger::{Claim, Commit, EventName, Ledger};

impl<C> Ledger for RedisLedger<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    type Error = RedisError;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, RedisError> {
        // The key must not expire before the lease.
        let remembered = self.window.max(lease);
        let arguments = [
            &digits(event.ordering_time()),
            &micros(lease).to_string(),
            &millis(remembered).to_string(),
        ];
        let (answer, token) = self.call(&self.scripts.claim, event, &arguments).await?;
        match answer.as_str() {
            "granted" => Ok(Claim::Granted(FencingToken::new(token))),
            "in flight" => Ok(Claim::InFlight),
            "stale" => Ok(Claim::Stale),
            "settled" => {
                if self.replicated.is_some() {
                    // The commit may have failed because the replicas did not have it in time.
                    self.commit(event, FencingToken::new(token)).await?;
                }
                Ok(Claim::Settled)
            }
            _ => Err(unexpected_reply()),
        }
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, RedisError> {
        let arguments = [
            &digits(event.ordering_time()),
            &token.get().to_string(),
            &millis(self.window).to_string(),
        ];
        let script = &self.scripts.commit;
        let (answer, _) = match &self.replicated {
            None => self.call(script, event, &arguments).await?,
            Some(connection) => {
                let outcome = self.call_on(connection, script, event, &arguments).await;
                if outcome.as_ref().is_err_and(is_unexpected_reply) {
                    connection.discard();
                }
                outcome?
            }
        };
        match answer.as_str() {
            "settled" => Ok(Commit::Settled),
            "overtaken" => Ok(Commit::Overtaken),
            _ => Err(unexpected_reply()),
        }
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), RedisError> {
        let token = token.get().to_string();
        let (answer, _) = self.call(&self.scripts.release, event, &[&token]).await?;
        match answer.as_str() {
            "released" => Ok(()),
            _ => Err(unexpected_reply()),
        }
    }
}

impl<C> RedisLedger<C>
where
    C: ConnectionLike + Clone,
{
    async fn call(
        &self,
        script: &Script,
        event: &EventName,
        arguments: &[&String],
    ) -> Result<Answer, RedisError> {
        let outcome = self
            .call_on(&self.connection, script, event, arguments)
            .await;
        if outcome.as_ref().is_err_and(is_unexpected_reply) {
            if let Some(own) = &self.own {
                own.discard();
            }
        }
        outcome
    }

    async fn call_on<T>(
        &self,
        connection: &T,
        script: &Script,
        event: &EventName,
        arguments: &[&String],
    ) -> Result<Answer, RedisError>
    where
        T: ConnectionLike + Clone,
    {
        let key = Key::of(event);
        let job = format!("{}{}", self.prefix, key.job);
        let arguments = arguments.iter().map(|argument| argument.as_str());
        let arguments: Vec<&str> = [key.event.as_str()].into_iter().chain(arguments).collect();
        script.call(connection, &job, &arguments).await
    }
}

/// Returns a time as text: twenty digits of seconds, and nine of a fraction.
///
/// The texts have the same order as the times.
fn digits(time: Option<Timestamp>) -> String {
    time.map_or_else(String::new, |time| {
        let since_first = i128::from(time.unix_seconds()) - i128::from(i64::MIN);
        format!("{since_first:020}{:09}", time.subsec_nanos())
    })
}
