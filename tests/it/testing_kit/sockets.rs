//! Callbacks with a socket, on a paused clock and on a real one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mx_job_webhook::testing::{Answer, Mx, Sample};
use mx_job_webhook::{JobRouter, JobWebhook, Receipt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{PATH, credentials};

fn mx() -> Mx {
    Mx::new(PATH).with_basic("mx", "secret")
}

/// A database of another thread, which answers `+` after a pause, and `-` to the first queries.
fn database(pause: Duration, failures: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (query, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut asked = [0];
                stream.read_exact(&mut asked).unwrap();
                thread::sleep(pause);
                let answer = if query < failures { b"-" } else { b"+" };
                // A callback that was given up has hung up.
                let _ = stream.write_all(answer);
            });
        }
    });
    address
}

/// Jobs whose callback makes one query on a connection of its own.
fn jobs(database: SocketAddr) -> JobRouter {
    JobRouter::new().on_completed(move |_| async move {
        let mut stream = TcpStream::connect(database).await?;
        stream.write_all(b"?").await?;
        match stream.read_u8().await? {
            b'+' => Ok(()),
            _ => Err(std::io::Error::other("the database is starting")),
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_callback_with_a_socket_succeeds_on_a_paused_clock() {
    let database = database(Duration::from_millis(20), 0);
    for deadline in [None, Some(Duration::from_secs(5))] {
        let app = JobWebhook::new(credentials(), jobs(database)).with_answer_deadline(deadline);
        let transcript = mx().deliver(app, Sample::completed()).await;
        assert_eq!(transcript.receipts(), [Receipt::Handled], "{transcript}");
        assert_eq!(transcript.answers(), [204], "{transcript}");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_with_a_socket_take_no_time_on_a_paused_clock() {
    let start = Instant::now();
    let app = JobWebhook::new(credentials(), jobs(database(Duration::ZERO, 12)));
    let transcript = mx().deliver(app, Sample::completed()).await;
    assert_eq!(transcript.count(500), 12, "{transcript}");
    assert!(transcript.all_acknowledged(), "{transcript}");
    let last = transcript.attempts()[12].sent_at().as_secs_f64() / 3_600.0;
    assert!((23.9..24.1).contains(&last), "{last} hours");
    assert!(start.elapsed() < Duration::from_secs(30));
}

/// The documented limit: the clock jumps after 500 ms, and a real clock helps.
#[tokio::test(start_paused = true)]
async fn a_slow_socket_needs_a_real_clock() {
    let slow = database(Duration::from_secs(2), 0);
    let app = JobWebhook::new(credentials(), jobs(slow));
    let mx = mx().with_first_wait(Duration::from_millis(1));
    let once = mx.clone().with_retries(0);
    let paused = once.deliver(app.clone(), Sample::completed()).await;
    assert_eq!(paused.answers(), [Answer::TimedOut], "{paused}");

    tokio::time::resume();
    let transcript = mx.deliver(app, Sample::completed()).await;
    assert_eq!(transcript.receipts(), [Receipt::Handled], "{transcript}");
}

#[tokio::test]
async fn a_first_wait_scales_the_day_of_retries_on_a_real_clock() {
    let app = JobWebhook::new(credentials(), jobs(database(Duration::ZERO, 4)));
    let first = Duration::from_millis(5);
    let mx = mx().with_first_wait(first);
    let transcript = mx.deliver(app, Sample::completed()).await;
    assert_eq!(transcript.answers(), [500, 500, 500, 500, 204]);
    assert!(transcript.all_acknowledged(), "{transcript}");
    let at: Vec<_> = transcript.attempts().iter().map(|a| a.sent_at()).collect();
    for (number, two) in (0..).zip(at.windows(2)) {
        let wait = two[1] - two[0];
        let expected = first * 2_u32.pow(number);
        assert!(wait >= expected && wait < Duration::from_secs(30), "{at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_wait_scales_all_waits() {
    let jobs = JobRouter::new().on_halted(|_| async { Err("the database is down") });
    let app = JobWebhook::new(credentials(), jobs);
    let mx = mx().with_first_wait(Duration::from_secs(1));
    let transcript = mx.deliver(app, Sample::halted()).await;
    let seconds = transcript.attempts().iter().map(|a| a.sent_at().as_secs());
    assert!(seconds.eq((0..13).map(|retry| 2_u64.pow(retry) - 1)));
}

/// Timers of callbacks still expire on a paused clock, in their order.
#[tokio::test(start_paused = true)]
async fn a_callback_that_sleeps_is_answered_after_a_moment() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let jobs = JobRouter::new().on_completed(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(20))
    });
    let app = JobWebhook::new(credentials(), jobs).with_answer_deadline(Duration::from_secs(5));
    let start = Instant::now();
    let transcript = mx().with_retries(1).deliver(app, Sample::completed()).await;
    assert_eq!(transcript.answers(), [503, 503], "{transcript}");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert!(start.elapsed() < Duration::from_secs(30));
}
