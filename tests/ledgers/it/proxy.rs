//! What stands between a ledger and its server, and can misbehave as networks do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to connections, those that are there and new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Works,
    /// Connections are cut, and new ones at once.
    Down,
    /// Connections stay, and nothing gets through.
    Hangs,
    /// What is asked gets through; instead of the answer, the connection is cut.
    LosesAnswers,
    /// The same, once: then it works.
    LosesOneAnswer,
    /// What comes back is not what the server said.
    Nonsense,
}

/// Forwards to a server, as long as it is not dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    network: Arc<watch::Sender<Network>>,
    /// How many connections were made, and up to which nothing gets through any more.
    stalled: Arc<watch::Sender<(usize, usize)>>,
    server: Arc<watch::Sender<SocketAddr>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        Self::slow_to_connect(server, Duration::ZERO).await
    }

    /// As a server in another place, or with TLS, is.
    pub(crate) async fn slow_to_connect(server: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let network = Arc::new(watch::Sender::new(Network::Works));
        let stalled = Arc::new(watch::Sender::new((0, 0)));
        let server = Arc::new(watch::Sender::new(server));
        let (watched, stalls, target) = (network.clone(), stalled.clone(), server.clone());
        let serving = tokio::spawn(async move {
            for number in 1.. {
                let (client, _) = listener.accept().await.unwrap();
                stalls.send_modify(|(made, _)| *made = number);
                let forwarding = Forwarding {
                    delay,
                    number,
                    network: watched.subscribe(),
                    switch: watched.clone(),
                    stalled: stalls.subscribe(),
                };
                let server = *target.borrow();
                tokio::spawn(forwarding.run(client, server));
            }
        });
        Self {
            address,
            network,
            stalled,
            server,
            serving,
        }
    }

    /// New connections lead to this server, as when a name or an address moves. Those that are
    /// there stay where they are.
    pub(crate) fn lead_to(&self, server: SocketAddr) {
        self.server.send_replace(server);
    }

    /// Returns how many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.stalled.borrow().0
    }

    pub(crate) fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// What sets it from elsewhere.
    pub(crate) fn switch(&self) -> Arc<watch::Sender<Network>> {
        self.network.clone()
    }

    /// Nothing gets through the connections that are there any more; new ones work.
    pub(crate) fn stall_what_is_there(&self) {
        self.stalled.send_modify(|(made, last)| *last = *made);
    }

    /// Cuts every connection there is; new ones work.
    pub(crate) async fn cut(&self) {
        self.set(Network::Down);
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.set(Network::Works);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Forwarding {
    delay: Duration,
    number: usize,
    network: watch::Receiver<Network>,
    switch: Arc<watch::Sender<Network>>,
    stalled: watch::Receiver<(usize, usize)>,
}

impl Forwarding {
    async fn run(mut self, mut client: TcpStream, server: SocketAddr) {
        tokio::time::sleep(self.delay).await;
        let Ok(mut server) = TcpStream::connect(server).await else {
            return;
        };
        let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            let now = *self.network.borrow_and_update();
            let (_, last_stalled) = *self.stalled.borrow_and_update();
            if now == Network::Down {
                return;
            }
            let gets_through = now != Network::Hangs && self.number > last_stalled;
            tokio::select! {
                changed = self.network.changed() => if changed.is_err() { return },
                changed = self.stalled.changed() => if changed.is_err() { return },
                count = client.read(&mut asked), if gets_through => match count {
                    Ok(count @ 1..) if server.write_all(&asked[..count]).await.is_ok() => {}
                    _ => return,
                },
                count = server.read(&mut answered), if gets_through => {
                    let answer = match (count, now) {
                        (Ok(1..), Network::Nonsense) => &b"-\x00\xff nonsense\r\n"[..],
                        (Ok(count @ 1..), Network::Works) => &answered[..count],
                        (_, Network::LosesOneAnswer) => {
                            self.switch.send_replace(Network::Works);
                            return;
                        }
                        _ => return,
                    };
                    if client.write_all(answer).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
