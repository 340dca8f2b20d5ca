//! The Sentinels that know which server is the master.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo};
use ::redis::{RedisError, RedisResult, pipe};
use tokio::task::JoinSet;

use super::Reconnecting;

/// How long a Sentinel may take to answer. A majority answers at once, even if the others hang.
const PATIENCE: Duration = Duration::from_millis(400);

/// The same, and for the connection to it.
const PATIENCE_IN_ALL: Duration = Duration::from_millis(500);

/// The Sentinels of a Redis master, and how to log in to it.
///
/// For [`RedisLedger::from_sentinels`](crate::ledger::RedisLedger::from_sentinels). All Sentinels are asked
/// at once, so any of them may be down; one is enough. Of their answers, the one of the latest
/// failover counts.
#[derive(Clone)]
pub struct Sentinels {
    nodes: Arc<[Reconnecting]>,
    master_name: Arc<str>,
    login: ConnectionInfo,
}

impl Sentinels {
    /// Creates the settings from the Sentinels' addresses and the master's name.
    ///
    /// An address is anything that `redis::Client::open` takes. It carries the user, the password
    /// and the TLS of the connection to that Sentinel.
    ///
    /// # Errors
    ///
    /// If an address is malformed, or there is none.
    pub fn new<I>(addresses: I, master_name: impl Into<String>) -> Result<Self, RedisError>
    where
        I: IntoIterator,
        I::Item: IntoConnectionInfo,
    {
        let open = |address| {
            let client = Client::open(address)?;
            Ok(Reconnecting::with_patience(client, PATIENCE))
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
    /// It is an address as for [`new`](Self::new), of which the host and the port are ignored: the
    /// Sentinels say these. Defaults to no password, database 0 and no TLS.
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

    /// Returns the master to connect to: by the first answers of a majority, or by all there are.
    pub(super) async fn master(&self) -> RedisResult<Master> {
        self.named_by(self.nodes.len() / 2 + 1).await
    }

    /// Returns the master by all answers. The Sentinel that leads a failover is the first to know.
    pub(super) async fn latest_master(&self) -> RedisResult<Master> {
        self.named_by(self.nodes.len()).await
    }

    async fn named_by(&self, enough: usize) -> RedisResult<Master> {
        let mut asked = JoinSet::new();
        for node in self.nodes.iter() {
            let answer = ask(node.clone(), self.master_name.clone());
            asked.spawn(tokio::time::timeout(PATIENCE_IN_ALL, answer));
        }
        let (mut latest, mut answers) = (None::<Named>, 0);
        let mut failure = RedisError::from((ErrorKind::Io, "no Sentinel answers"));
        while answers < enough {
            match asked.join_next().await {
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
        let Named { host, port, epoch } = latest.ok_or(failure)?;
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

/// The server that the Sentinels name.
pub(super) struct Master {
    pub(super) client: Client,
    address: (String, u16),
    epoch: u64,
}

impl Master {
    /// Returns whether this is another server, by a later failover.
    pub(super) fn succeeds(&self, connected: &Self) -> bool {
        self.address != connected.address && self.epoch > connected.epoch
    }
}

/// A Sentinel's answer. The epoch grows with each failover.
struct Named {
    host: String,
    port: u16,
    epoch: u64,
}

async fn ask(mut sentinel: Reconnecting, master_name: Arc<str>) -> RedisResult<Named> {
    let mut questions = pipe();
    // The first names the new master as soon as it is one, the second says by which failover.
    for question in ["GET-MASTER-ADDR-BY-NAME", "MASTER"] {
        questions.cmd("SENTINEL").arg(question).arg(&*master_name);
    }
    let (address, about): (Option<(String, u16)>, HashMap<String, String>) =
        questions.query_async(&mut sentinel).await?;
    let (host, port) = address.ok_or_else(|| {
        RedisError::from((
            ErrorKind::MasterNameNotFoundBySentinel,
            "the Sentinel knows no master of this name",
        ))
    })?;
    let epoch = about
        .get("config-epoch")
        .and_then(|epoch| epoch.parse().ok());
    Ok(Named {
        host,
        port,
        epoch: epoch.unwrap_or(0),
    })
}

// By hand, because a client's shows where it leads, credentials and all.
impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sentinels").finish_non_exhaustive()
    }
}
