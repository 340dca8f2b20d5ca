//! Sentinels, which name the current master.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo};
use ::redis::{RedisError, RedisResult, pipe};
use tokio::task::JoinSet;

use super::Reconnecting;

/// How long a Sentinel may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);

/// How long connecting to a Sentinel and its answer may take together.
const QUERY_TIMEOUT: Duration = Duration::from_millis(500);

/// The Sentinels of a Redis master, and the login for that master.
///
/// Use it with [`RedisLedger::from_sentinels`](crate::ledger::RedisLedger::from_sentinels) or
/// [`RedisWatchStore::from_sentinels`](crate::watch::RedisWatchStore::from_sentinels).
/// All Sentinels are asked at the same time, and one that answers is enough. If their answers differ,
/// the one from the latest failover counts.
#[derive(Clone)]
pub struct Sentinels {
    nodes: Arc<[Reconnecting]>,
    master_name: Arc<str>,
    login: ConnectionInfo,
}

impl Sentinels {
    /// Returns the settings for these Sentinels' addresses and the master's name.
    ///
    /// An address is anything that `redis::Client::open` accepts. It includes the user, the
    /// password and the TLS of the connection to that Sentinel.
    ///
    /// # Errors
    ///
    /// If an address is malformed, or if there is no address.
    pub fn new<I>(addresses: I, master_name: impl Into<String>) -> Result<Self, RedisError>
    where
        I: IntoIterator,
        I::Item: IntoConnectionInfo,
    {
        let open = |address| {
            let client = Client::open(address)?;
            Ok(Reconnecting::with_timeout(client, ANSWER_TIMEOUT))
        };
        let nodes: Arc<[_]> = addresses
            .into_iter()
            .map(open)
            .collect::<RedisResult<_>>()?;
        if nodes.is_empty() {
            return Err(RedisError::from((
                ErrorKind::EmptySentinelList,
                "at least one Sentinel is required",
            )));
        }
        Ok(Self {
            nodes,
            master_name: master_name.into().into(),
            login: ConnectionAddr::Tcp(String::new(), 0).into_connection_info()?,
        })
    }

    /// Sets the user, password, database and TLS of the connection to the master.
    ///
    /// Write them as an address, as for [`new`](Self::new). Its host and port are ignored, because
    /// the Sentinels name these. Defaults to no password, database 0 and no TLS.
    ///
    /// # Errors
    ///
    /// If the address is malformed.
    pub fn with_master_login(
        mut self,
        address: impl IntoConnectionInfo,
    ) -> Result<Self, RedisError> {
        self.login = Client::open(address)?.get_connection_info().clone();
        Ok(self)
    }

    pub(super) fn db(&self) -> i64 {
        self.login.redis_settings().db()
    }

    /// Returns the master to connect to, by the first answers of a majority.
    ///
    /// If fewer Sentinels answer, it is the master by all answers.
    pub(super) async fn master(&self) -> RedisResult<Master> {
        let named = self.query(self.nodes.len() / 2 + 1).await?;
        self.log_in(named)
    }

    /// Returns the master by the answers of all Sentinels.
    ///
    /// A majority is not enough here: the Sentinel that leads a failover knows the new master
    /// first.
    pub(super) async fn latest_master(&self) -> RedisResult<Master> {
        let named = self.query(self.nodes.len()).await?;
        self.log_in(named)
    }

    /// Asks all Sentinels, waits for at most this many answers, and returns the latest one.
    async fn query(&self, max_answers: usize) -> RedisResult<NamedMaster> {
        let mut queries = JoinSet::new();
        for node in self.nodes.iter() {
            let answer = ask(node.clone(), self.master_name.clone());
            queries.spawn(tokio::time::timeout(QUERY_TIMEOUT, answer));
        }
        let (mut latest, mut answers) = (None::<NamedMaster>, 0);
        let mut failure = RedisError::from((ErrorKind::Io, "no Sentinel answers"));
        while answers < max_answers {
            match queries.join_next().await {
                None => break,
                Some(Ok(Ok(Ok(named)))) => {
                    answers += 1;
                    if latest
                        .as_ref()
                        .is_none_or(|latest| latest.epoch < named.epoch)
                    {
                        latest = Some(named);
                    }
                }
                Some(Ok(Ok(Err(error)))) => failure = error,
                Some(_) => {}
            }
        }
        latest.ok_or(failure)
    }

    /// Returns the master with the login.
    fn log_in(&self, named: NamedMaster) -> RedisResult<Master> {
        let NamedMaster { host, port, epoch } = named;
        let address = match self.login.addr().clone() {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host: host.clone(),
                port,
                insecure,
                tls_params,
            },
            _ => ConnectionAddr::Tcp(host.clone(), port),
        };
        Ok(Master {
            client: Client::open(self.login.clone().set_addr(address))?,
            address: (host, port),
            epoch,
        })
    }
}

/// The master that the Sentinels name, with the login.
pub(super) struct Master {
    pub(super) client: Client,
    address: (String, u16),
    pub(super) epoch: u64,
}

impl Master {
    /// Returns whether this is another server, after a later failover.
    pub(super) fn succeeds(&self, connected: &Self) -> bool {
        self.address != connected.address && self.epoch > connected.epoch
    }
}

/// A Sentinel's answer. The epoch grows with each failover.
struct NamedMaster {
    host: String,
    port: u16,
    epoch: u64,
}

async fn ask(mut sentinel: Reconnecting, master_name: Arc<str>) -> RedisResult<NamedMaster> {
    let mut questions = pipe();
    // The first command names a new master as soon as possible. The second one has the epoch.
    for question in ["GET-MASTER-ADDR-BY-NAME", "MASTER"] {
        questions.cmd("SENTINEL").arg(question).arg(&*master_name);
    }
    let (address, about): (Option<(String, u16)>, HashMap<String, String>) =
        questions.query_async(&mut sentinel).await?;
    let (host, port) = address.ok_or_else(|| {
        RedisError::from((
            ErrorKind::MasterNameNotFoundBySentinel,
            "the Sentinel knows no master with this name",
        ))
    })?;
    let epoch = about
        .get("config-epoch")
        .and_then(|epoch| epoch.parse().ok());
    Ok(NamedMaster {
        host,
        port,
        epoch: epoch.unwrap_or(0),
    })
}

// By hand, because the `Debug` of a client shows its address and credentials.
impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sentinels").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_masters_address_keeps_the_tls_of_the_login() {
        let tls = |host: &str, port| ConnectionAddr::TcpTls {
            host: host.to_owned(),
            port,
            insecure: false,
            tls_params: None,
        };
        let tcp = |host: &str, port| ConnectionAddr::Tcp(host.to_owned(), port);
        for (login, expected) in [
            (tls("any", 1), tls("master", 6379)),
            (tcp("any", 1), tcp("master", 6379)),
        ] {
            let mut sentinels = Sentinels::new(["redis://sentinel"], "mymaster").unwrap();
            sentinels.login = login.into_connection_info().unwrap();
            let named = NamedMaster {
                host: "master".to_owned(),
                port: 6379,
                epoch: 1,
            };
            let master = sentinels.log_in(named).unwrap();
            assert_eq!(*master.client.get_connection_info().addr(), expected);
        }
    }
}
