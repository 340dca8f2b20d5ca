//! Real sockets: without axum, and with senders that leave. The package of the small examples has more tests.

mod sender;

use std::convert::Infallible;
use std::io::Write as _;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
#[cfg(feature = "tokio")]
use mx_job_webhook::Background;
use mx_job_webhook::{JobRouter, JobWebhook};
use tokio::net::TcpListener;
use tower::{Layer as _, service_fn};

use crate::support::{BASIC, Log, PATH, SAMPLE, credentials, panic_quietly, sample_with_status};
use sender::{answer, connect, delivers, say, status, with_length};

#[test]
fn plain_hyper_works_without_axum_and_survives_a_panic() {
    let log = Log::default();
    let seen = log.clone();
    let jobs = JobRouter::new()
        .on_completed(move |event| {
            seen.push(event.guid.as_str());
            async {}
        })
        .on_halted(|_| async { panic_quietly() });
    let own = service_fn(|_: hyper::Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("of its own")))
    });
    let service = JobWebhook::new(credentials(), jobs).at(PATH).layer(own);

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });

    assert!(delivers(address));
    assert_eq!(log.entries().len(), 1);
    // A panicking callback does not change the connection.
    let mut stream = connect(address);
    let panics = with_length(&sample_with_status(9, "HALTED"));
    stream
        .write_all((panics + &with_length(SAMPLE)).as_bytes())
        .unwrap();
    assert_eq!([(); 2].map(|()| status(&answer(&mut stream))), [500, 204]);
    let get = b"GET /admin/webhooks HTTP/1.1\r\nhost: mx\r\n\r\n";
    assert!(say(address, get).contains("content-length: 10"));
}

/// How a sender leaves while the callback runs.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// Closes its socket: FIN.
    Closes,
    /// Resets the connection: RST.
    Resets,
    /// Shuts down its sending side and still reads.
    HalfCloses,
}

#[cfg(feature = "tokio")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_a_hundred_callbacks_finish_however_their_senders_leave() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    for leaves in [Leaves::Closes, Leaves::Resets, Leaves::HalfCloses] {
        let [started, finished]: [Arc<AtomicUsize>; 2] = Default::default();
        let counts = (started.clone(), finished.clone());
        let jobs = JobRouter::new().on_completed(move |_| {
            let (started, finished) = counts.clone();
            async move {
                started.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(200)).await;
                finished.fetch_add(1, Ordering::SeqCst);
            }
        });
        let background = Background::new();
        let webhooks = JobWebhook::new(credentials(), jobs).with_background(background.clone());
        let app = axum::Router::new().layer(webhooks.at(PATH));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, app).await });

        let mut senders = Vec::new();
        for _ in 0..100 {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream
                .write_all(with_length(SAMPLE).as_bytes())
                .await
                .unwrap();
            senders.push(stream);
        }
        while started.load(Ordering::SeqCst) < 100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for mut stream in senders {
            match leaves {
                Leaves::Closes => drop(stream),
                Leaves::Resets => stream.set_zero_linger().unwrap(),
                Leaves::HalfCloses => {
                    stream.shutdown().await.unwrap();
                    tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
                }
            }
        }
        // Only the running callbacks remain of the deliveries.
        let left = background.drain(tokio::time::sleep(Duration::from_secs(20)));
        assert_eq!(left.await, 0, "{leaves:?}");
        assert_eq!(finished.load(Ordering::SeqCst), 100, "{leaves:?}");
        server.abort();
    }
}
