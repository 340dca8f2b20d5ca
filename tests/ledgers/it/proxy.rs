//! A proxy between a ledger and its server that can fail like a network.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The state of existing and new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Works,
    /// All connections are cut, including new ones.
    Down,
    /// Connections stay open, and no data passes.
    Hangs,
    /// Requests pass; instead of the answer, the connection is cut.
    LosesAnswers,
    /// The same for one request; afterwards the network works.
    LosesOneAnswer,
    /// The answer's bytes differ from the server's.
    Garbage,
}

/// The connections so far, numbered from 1.
#[derive(Clone, Copy, Default)]
struct Connections {
    made: usize,
    /// No data passes through these any more.
    stalled: usize,
    /// These answer each request with the reply to another one.
    mixed_up: usize,
    /// These are closed.
    closed: usize,
}

/// Forwards to a server until it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    network: Arc<watch::Sender<Network>>,
    connections: Arc<watch::Sender<Connections>>,
    server: Arc<Mutex<SocketAddr>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        Self::slow_to_connect(server, Duration::ZERO).await
    }

    /// Like a remote server or one with TLS.
    pub(crate) async fn slow_to_connect(server: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let network = Arc::new(watch::Sender::new(Network::Works));
        let connections = Arc::new(watch::Sender::new(Connections::default()));
        let server = Arc::new(Mutex::new(server));
        let (watched, numbers, target) = (network.clone(), connections.clone(), server.clone());
        let serving = tokio::spawn(async move {
            for number in 1.. {
                let (client, _) = listener.accept().await.unwrap();
                numbers.send_modify(|connections| connections.made = number);
                let forwarding = Forwarding {
                    delay,
                    number,
                    network: watched.subscribe(),
                    switch: watched.clone(),
                    connections: numbers.subscribe(),
                };
                let server = *target.lock().unwrap();
                tokio::spawn(forwarding.run(client, server));
            }
        });
        Self {
            address,
            network,
            connections,
            server,
            serving,
        }
    }

    pub(crate) fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// A function that sets the state from elsewhere.
    pub(crate) fn switch(&self) -> Arc<watch::Sender<Network>> {
        self.network.clone()
    }

    /// Existing connections stop passing data; new ones work.
    pub(crate) fn stall_existing(&self) {
        self.connections
            .send_modify(|connections| connections.stalled = connections.made);
    }

    /// Existing connections answer each request with the reply to another one; new ones work.
    pub(crate) fn mix_up_existing(&self) {
        self.connections
            .send_modify(|connections| connections.mixed_up = connections.made);
    }

    /// New connections lead to another server; existing ones stay.
    pub(crate) fn lead_to(&self, server: SocketAddr) {
        *self.server.lock().unwrap() = server;
    }

    /// Moves the address to another server as a failover does, and closes the existing connections.
    pub(crate) fn move_to(&self, server: SocketAddr) {
        self.lead_to(server);
        self.connections
            .send_modify(|connections| connections.closed = connections.made);
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.borrow().made
    }

    /// Cuts all existing connections; new ones work.
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
    connections: watch::Receiver<Connections>,
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
            let connections = *self.connections.borrow_and_update();
            if now == Network::Down || self.number <= connections.closed {
                return;
            }
            let gets_through = now != Network::Hangs && self.number > connections.stalled;
            tokio::select! {
                changed = self.network.changed() => if changed.is_err() { return },
                changed = self.connections.changed() => if changed.is_err() { return },
                count = client.read(&mut asked), if gets_through => match count {
                    Ok(count @ 1..) if server.write_all(&asked[..count]).await.is_ok() => {}
                    _ => return,
                },
                count = server.read(&mut answered), if gets_through => {
                    let answer = match (count, now) {
                        (Ok(1..), Network::Garbage) => &b"-\x00\xff garbage\r\n"[..],
                        (Ok(1..), Network::Works) if self.number <= connections.mixed_up => b"+PONG\r\n",
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
