//! HTTP over loopback: this crate against a handler written by hand, in alternating slices of time.
//!
//! `cargo bench -p mx-job-webhook-benches --bench loopback`; with `-- --write` it also draws
//! `throughput.svg`. Each server is a process on its own core (by `taskset`, which
//! Linux distributions have), so that its processor time and its memory are measured without the
//! client's. Slices alternate, and a ratio compares two adjacent slices, because a shared machine
//! mostly slows down both.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic fails the benchmark, which prints a table"
)]

mod plot;
#[allow(dead_code, reason = "it serves some of them")]
mod subjects;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use http::StatusCode;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use subjects::mounts::{self, PATH, own_routes};
use subjects::{by_hand, sample};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer as _, make::Shared};

const CONNECTIONS: usize = 32;
const SLICE: Duration = Duration::from_millis(500);
const ROUNDS: usize = 24;

/// The servers, by the argument that starts each.
const SUBJECTS: [(&str, &str); 4] = [
    ("around", "layer around the router"),
    ("layer", "Router::layer"),
    ("json", "axum::Json and match"),
    ("collect", "body collected, 204"),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(index) = arguments.iter().position(|argument| argument == "--serve") {
        return serve(&arguments[index + 1]);
    }
    if !arguments.iter().any(|argument| argument == "--pinned") {
        let arguments = arguments.iter().skip(1);
        let run = on_core(1).args(arguments).arg("--pinned").status();
        assert!(run.unwrap().success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(compare(
        arguments.iter().any(|argument| argument == "--write"),
    ));
    runtime.block_on(thousand_at_once());
}

fn serve(subject: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        match subject {
            "around" => axum::serve(listener, Shared::new(mounts::around_the_router())).await,
            "layer" => axum::serve(listener, mounts::router_layer()).await,
            "json" => axum::serve(listener, by_hand::app()).await,
            "collect" => axum::serve(listener, collecting()).await,
            "slow" => axum::serve(listener, Shared::new(slow())).await,
            _ => panic!("{subject} is not served"),
        }
        .unwrap();
    });
}

/// A handler that only collects the body: the ceiling of axum.
fn collecting() -> Router {
    own_routes().route(PATH, post(|_body: Bytes| async { StatusCode::NO_CONTENT }))
}

fn slow() -> mx_job_webhook::mount::JobWebhookService<Router, JobRouter> {
    let callback = |_| tokio::time::sleep(Duration::from_millis(200));
    let jobs = JobRouter::new().on_completed(callback);
    let credentials = Credentials::basic("mx", "secret").unwrap();
    JobWebhook::new(credentials, jobs)
        .at(PATH)
        .layer(own_routes())
}

/// Returns the command of this program on one core. The servers have one core and the client another,
/// so that they do not compete.
fn on_core(core: u32) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]);
    command.arg(std::env::current_exe().unwrap());
    command
}

/// A server in a process of its own, killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(subject: &str) -> Self {
        let mut child = on_core(0)
            .args(["--serve", subject])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        Self {
            child,
            address: line.trim().parse().unwrap(),
        }
    }

    /// Returns the used processor time, in ticks of the kernel's clock.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The 12th and 13th fields after the name in parentheses: user and system time.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields = fields.split(' ').skip(11).take(2);
        fields.map(|field| field.parse::<u64>().unwrap()).sum()
    }

    /// Returns the peak memory, in MB.
    fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.unwrap().trim().trim_end_matches(" kB");
        peak.parse::<u64>().unwrap() / 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request() -> Vec<u8> {
    let body = sample();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Basic bXg6c2VjcmV0\r\n\
         content-type: application/json; charset=utf-8\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

/// Delivers once, and waits for the 204.
async fn deliver(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).await.unwrap();
    let mut answer = [0; 512];
    let mut length = 0;
    while !answer[..length].ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut answer[length..]).await.unwrap();
        assert!(read > 0, "the server closed the connection");
        length += read;
    }
    assert!(answer.starts_with(b"HTTP/1.1 204"));
}

/// Returns the requests per second, and the ticks of processor time per million requests.
async fn slice(server: &Server) -> [f64; 2] {
    let (stop, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let (before, start) = (server.ticks(), Instant::now());
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (stop, count, request) = (stop.clone(), count.clone(), request());
        clients.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                deliver(&mut stream, &request).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    tokio::time::sleep(SLICE).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let requests = count.load(Ordering::Relaxed) as f64;
    let ticks = (server.ticks() - before) as f64;
    [
        requests / start.elapsed().as_secs_f64(),
        ticks * 1e6 / requests,
    ]
}

/// Returns the first quartile, the median and the third quartile.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}

async fn compare(write: bool) {
    let servers = SUBJECTS.map(|(subject, _)| Server::start(subject));
    // A warm-up, which is not counted.
    for server in &servers {
        slice(server).await;
    }
    let mut slices: [Vec<[f64; 2]>; SUBJECTS.len()] = Default::default();
    for round in 0..ROUNDS {
        // Each server is first equally often.
        for turn in 0..SUBJECTS.len() {
            let index = (round + turn) % SUBJECTS.len();
            slices[index].push(slice(&servers[index]).await);
        }
    }

    println!("{CONNECTIONS} connections, {ROUNDS} slices of {SLICE:?} each; median (quartiles)\n");
    println!("| server | requests/s | MB at its peak |");
    println!("|---|---|---|");
    let mut rows = Vec::new();
    for (index, (_, name)) in SUBJECTS.into_iter().enumerate() {
        let [low, median, high] = quartiles(slices[index].iter().map(|slice| slice[0]).collect());
        let memory = servers[index].peak_memory();
        println!("| {name} | {median:.0} ({low:.0} to {high:.0}) | {memory} |");
        rows.push((name, median));
    }
    println!("\n| paired | requests/s | processor time per request |");
    println!("|---|---|---|");
    for (ours, theirs) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        let ratio = |what: usize| {
            let pairs = slices[ours].iter().zip(&slices[theirs]);
            let [low, median, high] = quartiles(pairs.map(|(a, b)| a[what] / b[what]).collect());
            format!("{median:.2} × ({low:.2} to {high:.2})")
        };
        let names = [ours, theirs].map(|index| SUBJECTS[index].1);
        println!(
            "| {} to {} | {} | {} |",
            names[0],
            names[1],
            ratio(0),
            ratio(1)
        );
    }
    if write {
        let drawn = plot::bars("requests a second over loopback", &rows, |name| {
            name == SUBJECTS[0].1 || name == SUBJECTS[1].1
        });
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        std::fs::write(folder.join("throughput.svg"), drawn).unwrap();
    }
}

/// Sends a thousand deliveries at once, with callbacks of 200 ms.
async fn thousand_at_once() {
    let server = Server::start("slow");
    let request = Arc::new(request());
    let mut streams = Vec::new();
    for _ in 0..1_000 {
        streams.push(TcpStream::connect(server.address).await.unwrap());
    }
    let start = Instant::now();
    let deliveries: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            let request = request.clone();
            tokio::spawn(async move { deliver(&mut stream, &request).await })
        })
        .collect();
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    println!(
        "\n1,000 deliveries at once with callbacks of 200 ms: all answered 204 in {:?}, \
         {} MB at the server's peak",
        start.elapsed(),
        server.peak_memory()
    );
}
