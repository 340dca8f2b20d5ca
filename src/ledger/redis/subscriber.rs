//! A connection on which a process hears what others publish.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use ::redis::aio::{PubSub, PubSubSink, PubSubStream};
use ::redis::{Client, ErrorKind, Msg, ProtocolVersion, RedisError, RedisResult, Value};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::Sentinels;
use super::reconnecting::{MASTER_CHECK_INTERVAL, TIMEOUT};
use super::sentinels::Master;

/// After how long without a message the server is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// A connection for subscriptions. It notices within [`PING_INTERVAL`] and [`TIMEOUT`] that its
/// server is gone.
pub(crate) struct Subscriber {
    sink: PubSubSink,
    messages: PubSubStream,
    /// The server, if Sentinels have named it as the master.
    master: Option<(Sentinels, Master)>,
}

impl Subscriber {
    pub(crate) async fn connect(client: &Client) -> RedisResult<Self> {
        // RESP2 tells a connection that has subscribed from one that has not.
        let info = client.get_connection_info().clone();
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP2);
        let client = Client::open(info.set_redis_settings(settings))?;
        let (sink, messages) = in_time(client.get_async_pubsub())
            .await
            .map(PubSub::split)?;
        Ok(Self {
            sink,
            messages,
            master: None,
        })
    }

    pub(super) async fn connect_to_master(sentinels: &Sentinels) -> RedisResult<Self> {
        // All are asked: a majority may not know yet of the failover for which the last one was left. If this server has not
        // become the master yet, it hears what the master publishes.
        let master = sentinels.latest_master().await?;
        let subscriber = Self::connect(&master.client).await?;
        Ok(Self {
            master: Some((sentinels.clone(), master)),
            ..subscriber
        })
    }

    /// Subscribes to a channel. Fails if the user has no access to it.
    pub(crate) async fn subscribe(&mut self, channel: &str) -> RedisResult<()> {
        in_time(self.sink.subscribe(channel)).await?;
        // The client drops the error of a subscription. Only a connection that has subscribed
        // answers an array.
        match in_time(self.sink.ping::<Value>()).await? {
            Value::Array(_) => Ok(()),
            _ => Err(RedisError::from((
                ErrorKind::Client,
                "the server has refused the subscription",
            ))),
        }
    }

    /// Calls `hear` with each message until the connection breaks, or the Sentinels name another
    /// master.
    pub(crate) async fn run(self, hear: impl FnMut(&Msg)) -> RedisError {
        let Self {
            sink,
            messages,
            master,
        } = self;
        let mut hearing = pin!(hear_all(sink, messages, hear));
        let mut superseded = pin!(superseded(master));
        poll_fn(|context| {
            if let Poll::Ready(error) = hearing.as_mut().poll(context) {
                return Poll::Ready(error);
            }
            superseded.as_mut().poll(context)
        })
        .await
    }
}

async fn hear_all(
    mut sink: PubSubSink,
    mut messages: PubSubStream,
    mut hear: impl FnMut(&Msg),
) -> RedisError {
    loop {
        match timeout(PING_INTERVAL, messages.next()).await {
            Ok(Some(message)) => hear(&message),
            Ok(None) => return broken("the connection for subscriptions was closed"),
            Err(_) => {
                if let Err(error) = in_time(sink.ping::<Value>()).await {
                    return error;
                }
            }
        }
    }
}

/// Waits until the Sentinels name another master. An old master hears nothing of the new one.
async fn superseded(master: Option<(Sentinels, Master)>) -> RedisError {
    let Some((sentinels, connected)) = master else {
        return pending().await;
    };
    loop {
        tokio::time::sleep(MASTER_CHECK_INTERVAL).await;
        let named = sentinels.latest_master().await;
        if named.is_ok_and(|named| named.succeeds(&connected)) {
            return broken("the Sentinels name another master");
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let answer = timeout(TIMEOUT, answer).await;
    answer.unwrap_or_else(|_| Err(broken("the server did not answer in time")))
}

fn broken(why: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Io, why))
}
