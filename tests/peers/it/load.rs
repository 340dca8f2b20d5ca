//! Load whose requests are half refused, on connections that stay open as long as both sides allow.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Sleep, interval, sleep, timeout};

use crate::tally::Tally;
use crate::{HUGE, LARGE, PATH, SAMPLE, TOO_LARGE, sample_of};

/// `mx:secret`, as in the quickstart.
const CREDENTIALS: &str = "Basic bXg6c2VjcmV0";
const JSON: &str = "application/json; charset=utf-8";
/// A generous limit for any answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// One kind of request, and its expected status.
#[derive(Clone)]
struct Kind {
    name: &'static str,
    credentials: Option<&'static str>,
    content_type: &'static str,
    body: Bytes,
    /// The time between the head and the body.
    pause: Duration,
    status: &'static str,
}

impl Kind {
    fn valid() -> Self {
        Self {
            name: "valid",
            credentials: Some(CREDENTIALS),
            content_type: JSON,
            body: Bytes::from_static(SAMPLE.as_bytes()),
            pause: Duration::ZERO,
            status: "204",
        }
    }

    fn without_credentials(name: &'static str, size: usize) -> Self {
        Self {
            name,
            credentials: None,
            body: sample_of(size).into(),
            status: "401",
            ..Self::valid()
        }
    }

    fn refused() -> Vec<Self> {
        vec![
            Self::without_credentials("no credentials, 545 B", SAMPLE.len()),
            Self::without_credentials("no credentials, 64 KiB", LARGE),
            Self::without_credentials("no credentials, 1 MiB", HUGE),
            Self {
                name: "wrong type, 64 KiB",
                content_type: "text/plain",
                body: sample_of(LARGE).into(),
                status: "415",
                ..Self::valid()
            },
            Self {
                name: "too large, 64 KiB + 1",
                body: sample_of(TOO_LARGE).into(),
                status: "413",
                ..Self::valid()
            },
        ]
    }

    /// This kind in two variants: the body directly after the head, and a little later.
    fn at_each_pace(self) -> [Self; 2] {
        let late = Self {
            pause: Duration::from_millis(3),
            ..self.clone()
        };
        [self, late]
    }

    fn request(&self) -> Request<Upload> {
        let request = Request::post(PATH)
            .header("host", "receiver.example")
            .header("content-type", self.content_type);
        let request = match self.credentials {
            Some(credentials) => request.header("authorization", credentials),
            None => request,
        };
        request.body(Upload::new(self)).unwrap()
    }

    /// Sends one request, and counts its answer under the kind and the circumstances.
    async fn send(&self, connection: &mut Connection, circumstances: &str, tally: &mut Tally) {
        let answer = connection.send(self.request()).await;
        let late = if self.pause.is_zero() { "" } else { ", late" };
        tally.add(
            &format!("{}{late}; {circumstances}", self.name),
            self.status,
            &answer,
        );
    }
}

/// Valid deliveries alone, on one connection.
pub(crate) async fn nothing_refused(address: SocketAddr) -> Tally {
    let mut tally = Tally::default();
    let mut connection = Connection::new(address);
    for kind in Kind::valid().at_each_pace() {
        for _ in 0..50 {
            kind.send(&mut connection, "nothing else", &mut tally).await;
        }
    }
    tally
}

/// Eight concurrent senders. Each alternates between a refused request and a valid delivery.
pub(crate) async fn half_refused(address: SocketAddr) -> Tally {
    let senders = (0..8).map(|number| half_refused_by_one(address, number));
    tally_of(senders).await
}

/// Every second sender uses one connection for both; the others use one for each.
async fn half_refused_by_one(address: SocketAddr, number: usize) -> Tally {
    const ROUNDS: usize = 80;

    let valid = Kind::valid().at_each_pace();
    let refused = Kind::refused().into_iter().flat_map(Kind::at_each_pace);
    let refused: Vec<_> = refused.collect();
    let mut tally = Tally::default();
    let mut connection = Connection::new(address);
    let mut other = Connection::new(address);
    // Each sender starts with another kind, so that all kinds are in progress at once.
    for round in number..number + ROUNDS {
        let (valid, refused) = (&valid[round / 2 % 2], &refused[round % refused.len()]);
        if number % 2 == 0 {
            let which = "same connection";
            refused.send(&mut connection, which, &mut tally).await;
            valid.send(&mut connection, which, &mut tally).await;
        } else {
            let which = "separate connections";
            refused.send(&mut other, which, &mut tally).await;
            valid.send(&mut connection, which, &mut tally).await;
        }
    }
    tally
}

/// For six seconds, sends bodies without credentials at a rate, beside four senders of valid deliveries.
pub(crate) async fn large_refused(address: SocketAddr, size: usize, a_second: u32) -> Tally {
    let large = Kind::without_credentials("no credentials, large", size);
    let tick = Duration::from_secs(1) / a_second;
    let refused = at_a_rate(address, large, tick, 6 * a_second as usize);
    let valid = [(); 4].map(|()| at_a_rate(address, Kind::valid(), Duration::from_millis(20), 300));
    tally_of(valid.into_iter().chain([refused])).await
}

/// Sends this many requests of a kind on one connection, one at each tick of a clock.
async fn at_a_rate(address: SocketAddr, kind: Kind, tick: Duration, count: usize) -> Tally {
    let mut tally = Tally::default();
    let mut connection = Connection::new(address);
    let mut ticks = interval(tick);
    for _ in 0..count {
        ticks.tick().await;
        kind.send(&mut connection, "at a rate", &mut tally).await;
    }
    tally
}

/// Runs these concurrently, and adds their tallies.
async fn tally_of(
    senders: impl Iterator<Item = impl Future<Output = Tally> + Send + 'static>,
) -> Tally {
    let mut senders: JoinSet<Tally> = senders.collect();
    let mut tally = Tally::default();
    while let Some(sender) = senders.join_next().await {
        tally.merge(&sender.unwrap());
    }
    tally
}

/// A connection that stays open as long as both sides allow, and is then replaced.
struct Connection {
    address: SocketAddr,
    sender: Option<SendRequest<Upload>>,
}

impl Connection {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            sender: None,
        }
    }

    /// Returns the status of the answer, or the error.
    async fn send(&mut self, request: Request<Upload>) -> String {
        match timeout(PATIENCE, self.try_send(request)).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => with_causes(&*error),
            Err(_) => "no answer".to_owned(),
        }
    }

    async fn try_send(&mut self, request: Request<Upload>) -> Result<String, Box<dyn Error>> {
        let mut sender = self.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_str().to_owned();
        response.into_body().collect().await?;
        self.sender = Some(sender);
        Ok(status)
    }

    /// Returns the previous connection, unless it has ended.
    async fn ready(&mut self) -> Result<SendRequest<Upload>, Box<dyn Error>> {
        if let Some(mut sender) = self.sender.take() {
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // The requests on it report its errors.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}

/// A body in pieces; the first one follows after a pause.
struct Upload {
    pause: Option<Pin<Box<Sleep>>>,
    left: Bytes,
}

impl Upload {
    /// The size of the client's writes.
    const PIECE: usize = 16 * 1024;

    fn new(kind: &Kind) -> Self {
        let late = !kind.pause.is_zero();
        Self {
            pause: late.then(|| Box::pin(sleep(kind.pause))),
            left: kind.body.clone(),
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let piece = self.left.len().min(Self::PIECE);
        let piece = self.left.split_to(piece);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
