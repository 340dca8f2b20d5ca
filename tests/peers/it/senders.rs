//! HTTP clients that others wrote, each over every way to a receiver: every valid delivery is acknowledged, and every
//! refusal arrives.
//!
//! A client is a program in `clients/`, and a row of [`CLIENTS`]. It runs in a folder with the bodies, and reads a plan
//! from its standard input: a line for each session, with fields separated by tabs. The first field is the name of
//! the case. Each other field is a request of words:
//!
//! - the URL,
//! - the credentials: `none`; `once` and `wrong` are sent at once; `challenge` and `wrong-challenge` are sent after a 401,
//! - the file of the body,
//! - any options: `chunked`, `expect` (100), `gzip` and `text` (headers), `impatient` (a time-out of 1 s instead of 30 s),
//!   and `connection` (prints the answer's header, too).
//!
//! The program sends the requests of a session on one connection if it can, and prints a line: the name, a tab, and the
//! statuses, separated by spaces. Instead of a status it prints `timed out`, or its error.

use std::env;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::installed::{library, program};
use crate::proxies::{apache, haproxy, nginx};
use crate::quickstart::Quickstart;
use crate::receiver::{Receiver, SLOW};
use crate::server::{Folder, Server};
use crate::tally::Tally;
use crate::{HUGE, LARGE, LONGEST, PATH, SAMPLE, TOO_LARGE, VAST, padded, sample_of};

/// The number of sessions for each case without a proxy. The proxies have their own tests with load.
const TRIES: usize = 5;
/// The number of sessions for each case through a proxy.
const TRIES_THROUGH_A_PROXY: usize = 2;

/// Returns the most sessions for each case, which `MX_TEST_TRIES` sets.
fn most_tries() -> usize {
    env::var("MX_TEST_TRIES").map_or(usize::MAX, |tries| tries.parse().unwrap())
}

struct Client {
    name: &'static str,
    /// The program and its arguments; the last one is the file in `clients/`.
    program: &'static str,
    arguments: &'static [&'static str],
    /// Arguments with which the program fails unless everything is installed.
    check: &'static [&'static str],
    /// Debian's package.
    package: &'static str,
    cannot: &'static [Feature],
}

/// A part of HTTP that not every client has.
#[derive(Clone, Copy, PartialEq)]
enum Feature {
    /// Sends the credentials when it is challenged.
    Challenge,
    /// Returns the second 401, too.
    SecondChallenge,
    /// Sends a body of unknown length.
    Chunked,
    /// Waits for `100 Continue`.
    Expect,
    /// Sends different requests on a connection.
    Sequence,
    /// Prints the header `Connection`.
    Connection,
}

use Feature::{Challenge, Chunked, Connection, Expect, SecondChallenge, Sequence};

const CLIENTS: &[Client] = &[
    Client {
        name: "httpclient",
        program: "ruby",
        arguments: &["httpclient.rb"],
        check: &["-e", "require 'httpclient'"],
        package: "ruby-httpclient",
        cannot: &[Expect, Connection],
    },
    Client {
        name: "curl",
        program: "sh",
        arguments: &["curl.sh"],
        check: &["-c", "command -v curl"],
        package: "curl",
        cannot: &[],
    },
    Client {
        name: "wget",
        program: "sh",
        arguments: &["wget.sh"],
        check: &["-c", "command -v wget"],
        package: "wget",
        cannot: &[Chunked, Expect, Sequence, Connection],
    },
    Client {
        name: "python",
        program: "python3",
        arguments: &["-B", "standard_library.py"],
        check: &["-c", "import urllib.request"],
        package: "python3",
        cannot: &[Expect, Connection],
    },
    Client {
        name: "requests",
        // The one that has Debian's libraries.
        program: "/usr/bin/python3",
        arguments: &["-B", "python_requests.py"],
        check: &["-c", "import requests"],
        package: "python3-requests",
        cannot: &[Challenge, SecondChallenge, Expect, Connection],
    },
    Client {
        name: "httpx",
        program: "/usr/bin/python3",
        arguments: &["-B", "python_httpx.py"],
        check: &["-c", "import httpx"],
        package: "python3-httpx",
        cannot: &[Challenge, SecondChallenge, Expect, Connection],
    },
    Client {
        name: "fetch",
        program: "node",
        arguments: &["fetch.mjs"],
        check: &["-e", "fetch"],
        package: "nodejs",
        cannot: &[Challenge, SecondChallenge, Expect, Connection],
    },
    Client {
        name: "java",
        program: "java",
        arguments: &["Client.java"],
        check: &["--add-modules", "jdk.compiler", "--version"],
        package: "default-jdk-headless",
        // It throws after some challenges.
        cannot: &[SecondChallenge, Connection],
    },
    Client {
        name: "go",
        program: "go",
        arguments: &["run", "client.go"],
        check: &["version"],
        package: "golang-go",
        cannot: &[Challenge, SecondChallenge, Connection],
    },
    Client {
        name: "lwp",
        program: "perl",
        arguments: &["lwp.pl"],
        check: &["-MLWP::UserAgent", "-e1"],
        package: "libwww-perl",
        cannot: &[Connection],
    },
    Client {
        name: "php",
        program: "php",
        arguments: &["curl.php"],
        check: &["-r", "curl_version();"],
        package: "php-cli php-curl",
        cannot: &[Connection],
    },
];

impl Client {
    /// Returns the clients that `MX_TEST_PEERS` names, or all. A missing program fails the test.
    fn chosen() -> Vec<&'static Self> {
        let chosen = env::var("MX_TEST_PEERS").unwrap_or_default();
        let clients: Vec<_> = match chosen.as_str() {
            "" | "all" => CLIENTS.iter().collect(),
            names => names.split(',').map(Self::named).collect(),
        };
        for client in &clients {
            let mut program = program(client.program, client.package);
            library(&mut program, client.check, client.package);
        }
        clients
    }

    fn named(name: &str) -> &'static Self {
        let client = CLIENTS.iter().find(|client| client.name == name);
        client.unwrap_or_else(|| panic!("`MX_TEST_PEERS` names `{name}`, which is no client"))
    }

    fn can(&self, case: &Case) -> bool {
        !case.needs.iter().any(|need| self.cannot.contains(need))
    }

    /// Returns what the program prints for the plan.
    fn run(&self, plan: String, folder: &Path) -> String {
        let (script, before) = self.arguments.split_last().unwrap();
        let mut child = program(self.program, self.package)
            .args(before)
            .arg(format!("{}/clients/{script}", env!("CARGO_MANIFEST_DIR")))
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        // A program that ends early has its errors below.
        let written = thread::spawn(move || input.write_all(plan.as_bytes()));
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script} failed:\n{errors}");
        written.join().unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

struct Case {
    name: &'static str,
    /// The requests, each with the server in place of its URL.
    session: &'static [&'static str],
    answer: &'static str,
    needs: &'static [Feature],
    /// Whether there is one session only.
    once: bool,
}

const fn case(
    name: &'static str,
    session: &'static [&'static str],
    answer: &'static str,
    needs: &'static [Feature],
) -> Case {
    Case {
        name,
        session,
        answer,
        needs,
        once: false,
    }
}

const fn once(name: &'static str, session: &'static [&'static str], answer: &'static str) -> Case {
    Case {
        once: true,
        ..case(name, session, answer, &[])
    }
}

const SAMPLES: &[&str] = &["receiver?kept once sample.json"; 10];
const REFUSALS: &[&str] = &["receiver?refused once sample.json text"; 10];
const TENS: &str = "ten on a connection";
const REFUSED_TENS: &str = "ten refusals on a connection";

#[rustfmt::skip]
const CASES: &[Case] = &[
    case("545 B", &["quickstart once sample.json"], "204", &[]),
    case("545 B, challenge first", &["quickstart challenge sample.json"], "204", &[Challenge]),
    case("64 KiB", &["quickstart once large.json"], "204", &[]),
    case("64 KiB, challenge first", &["quickstart challenge large.json"], "204", &[Challenge]),
    case("64 KiB, chunked", &["quickstart once large.json chunked"], "204", &[Chunked]),
    case("64 KiB, expects 100", &["quickstart once large.json expect"], "204", &[Expect]),
    case("545 B, no credentials", &["quickstart none sample.json"], "401", &[]),
    case("545 B, wrong password", &["quickstart wrong sample.json"], "401", &[]),
    case("64 KiB, no credentials", &["quickstart none large.json"], "401", &[]),
    case("1 MiB, no credentials", &["quickstart none huge.json"], "401", &[]),
    case("1 MiB, no credentials, chunked", &["quickstart none huge.json chunked"], "401", &[Chunked]),
    case("1 MiB, no credentials, expects 100", &["quickstart none huge.json expect"], "401", &[Expect]),
    case("1 MiB, wrong password, challenge first", &["quickstart wrong-challenge huge.json"], "401",
        &[Challenge, SecondChallenge]),
    case("64 KiB + 1", &["quickstart once over.json"], "413", &[]),
    case("1 MiB", &["quickstart once huge.json"], "413", &[]),
    case("1 MiB, chunked", &["quickstart once huge.json chunked"], "413", &[Chunked]),
    case("text", &["quickstart once sample.json text"], "415", &[]),
    case("gzip", &["quickstart once sample.json.gz gzip"], "415", &[]),
    case("half of the sample", &["quickstart once half.json"], "422", &[]),
    case("1 MiB refused, then the sample",
        &["quickstart none huge.json", "quickstart once sample.json"], "401 204", &[Sequence]),
    case("each refusal, then the sample", &[
        "quickstart once over.json", "quickstart once sample.json text", "quickstart once half.json",
        "quickstart wrong large.json", "quickstart once sample.json",
    ], "413 415 422 401 204", &[Sequence]),
    case(REFUSED_TENS, REFUSALS, "415 415 415 415 415 415 415 415 415 415", &[]),
    case(TENS, SAMPLES, "204 204 204 204 204 204 204 204 204 204", &[]),
    case("5 MB", &["receiver once vast.json"], "204", &[]),
    case("5 MB, challenge first", &["receiver challenge vast.json"], "204", &[Challenge]),
    case("5 MB, chunked", &["receiver once vast.json chunked"], "204", &[Chunked]),
    case("5 MB, no credentials", &["quickstart none vast.json"], "401", &[]),
    case("5 MB, no credentials, chunked", &["quickstart none vast.json chunked"], "401", &[Chunked]),
    case("5 MB, wrong password", &["quickstart wrong vast.json"], "401", &[]),
    case("5 MB, wrong password, chunked", &["quickstart wrong vast.json chunked"], "401", &[Chunked]),
    case("5 MB above the limit", &["quickstart once vast.json"], "413", &[]),
    case("5 MB above the limit, chunked", &["quickstart once vast.json chunked"], "413", &[Chunked]),
    case("5 MB above the limit, challenge first", &["quickstart challenge vast.json"], "413", &[Challenge]),
    once("a callback is slower than the client", &["receiver once slow.json impatient"], "timed out"),
    once("again while it runs", &["receiver once slow.json"], "503"),
];

/// The connection closes, so a client may lose the answer.
const ANY: &str = "any";

/// The refusals after which the connection closes. A proxy answers some of them itself.
#[rustfmt::skip]
const CLOSING: &[Case] = &[
    // The body is never asked for, so the connection is of no more use, and the answer says so.
    case("1 MiB, no credentials, expects 100, the header Connection",
        &["quickstart none huge.json expect connection"], "401 close", &[Expect, Connection]),
    once("9 MB, no credentials", &["quickstart none longest.json"], ANY),
    once("545 B after 9 MB", &["quickstart once sample.json"], "204"),
];

/// A way from the clients to both receivers.
struct Way {
    name: &'static str,
    quickstart: Quickstart,
    receiver: Receiver,
    /// The proxies in front of the quickstart and of the receiver.
    proxies: Option<[Server; 2]>,
}

impl Way {
    fn direct(name: &'static str, address: &str) -> Self {
        Self {
            name,
            quickstart: Quickstart::start_on(address),
            receiver: Receiver::start_on(address),
            proxies: None,
        }
    }

    fn through(name: &'static str, proxy: impl Fn(SocketAddr) -> Server) -> Self {
        let mut way = Self::direct(name, "127.0.0.1:0");
        way.proxies = Some([proxy(way.quickstart.address), proxy(way.receiver.address)]);
        way
    }

    fn tries(&self, case: &Case) -> usize {
        let tries = match self.proxies {
            _ if case.once => 1,
            Some(_) => TRIES_THROUGH_A_PROXY,
            None => TRIES,
        };
        tries.min(most_tries())
    }

    /// Returns the expected answer. nginx by itself refuses bodies above 1 MiB.
    fn answer(&self, case: &Case) -> &'static str {
        let vast = case
            .session
            .iter()
            .any(|request| request.contains("vast.json"));
        if self.name == "nginx" && vast {
            "413"
        } else {
            case.answer
        }
    }

    /// The request's words, with the URL in place of the server.
    fn request(&self, request: &str, client: &Client) -> String {
        let (server, words) = request.split_once(' ').unwrap();
        let addresses = match &self.proxies {
            Some(proxies) => proxies.each_ref().map(|proxy| proxy.address),
            None => [self.quickstart.address, self.receiver.address],
        };
        let url = match server {
            "quickstart" => format!("http://{}{PATH}", addresses[0]),
            "receiver" => format!("http://{}{PATH}", addresses[1]),
            "receiver?kept" => format!("http://{}{PATH}?{}", addresses[1], client.name),
            "receiver?refused" => format!("http://{}{PATH}?refused-{}", addresses[1], client.name),
            _ => panic!("no server: {server}"),
        };
        format!("{url} {words}")
    }

    /// Sends every case by the client.
    #[expect(
        clippy::print_stdout,
        reason = "an answer that is not asserted is of interest"
    )]
    fn drive(&self, client: &Client) -> Tally {
        let folder = Folder::new();
        let [vast, slow] = ["JOB-VAST", SLOW].map(|job| format!("{job}-{}", client.name));
        write_bodies(&folder.0, &vast, &slow);

        let cases = CASES.iter().chain(match self.proxies {
            None => CLOSING,
            Some(_) => &[],
        });
        let cases: Vec<_> = cases.filter(|case| client.can(case)).collect();
        let mut plan = String::new();
        for case in &cases {
            let requests = case.session.iter();
            let requests: Vec<_> = requests
                .map(|request| self.request(request, client))
                .collect();
            let session = format!("{}\t{}\n", case.name, requests.join("\t"));
            plan.push_str(&session.repeat(self.tries(case)));
        }
        let printed = client.run(plan, &folder.0);

        let mut tally = Tally::default();
        let kind = |name: &str| format!("{}, {}: {name}", client.name, self.name);
        for line in printed.lines() {
            let (name, answer) = line.split_once('\t').unwrap_or((line, ""));
            let case = cases.iter().find(|case| case.name == name);
            let case = case.unwrap_or_else(|| panic!("{} prints: {line}", client.name));
            let expected = match self.answer(case) {
                ANY => {
                    println!("{}: {answer}", kind(name));
                    answer
                }
                expected => expected,
            };
            tally.add(&kind(name), expected, answer);
        }
        for case in &cases {
            let missing = self
                .tries(case)
                .saturating_sub(tally.count(&kind(case.name)));
            for _ in 0..missing {
                tally.add(&kind(case.name), self.answer(case), "nothing");
            }
        }
        let runs = |runs: (usize, usize)| format!("{} started, {} finished", runs.0, runs.1);
        let slow = runs(self.receiver.finish(&slow));
        tally.add(
            &kind("runs of the slow callback"),
            "1 started, 1 finished",
            &slow,
        );
        if self.name != "nginx" {
            let vast = runs(self.receiver.runs(&vast));
            tally.add(&kind("runs for the 5 MB"), "1 started, 1 finished", &vast);
        }
        if self.proxies.is_none() {
            let refused = format!("refused-{}", client.name);
            for (name, query) in [(TENS, client.name), (REFUSED_TENS, &*refused)] {
                let case = cases.iter().find(|case| case.name == name);
                let sessions = case.map_or(0, |case| self.tries(case));
                // Some clients share connections between sessions, and have one more.
                let kept = match self.receiver.connections(query) {
                    count if (1..=sessions + 1).contains(&count) => "kept".to_owned(),
                    count => format!("{count} connections"),
                };
                tally.add(&kind(&format!("connections of {name}")), "kept", &kept);
            }
        }
        tally
    }
}

fn write_bodies(folder: &Path, vast: &str, slow: &str) {
    let write = |name: &str, body: &str| fs::write(folder.join(name), body).unwrap();
    let of_job =
        |job: &str| format!(r#"{{"job": {{"guid": "{job}", "status_name": "COMPLETED"}}}}"#);
    write("sample.json", SAMPLE);
    write("large.json", &sample_of(LARGE));
    write("over.json", &sample_of(TOO_LARGE));
    write("huge.json", &sample_of(HUGE));
    write("half.json", &SAMPLE[..SAMPLE.len() / 2]);
    write("vast.json", &padded(&of_job(vast), VAST));
    write("longest.json", &sample_of(LONGEST));
    write("slow.json", &of_job(slow));
    let packed = Command::new("gzip")
        .arg("--keep")
        .arg(folder.join("sample.json"))
        .status();
    assert!(packed.unwrap().success(), "gzip failed");
}

#[test]
fn every_client_gets_its_answers_over_every_way() {
    let clients = Client::chosen();
    let ways = [
        Way::direct("IPv4", "127.0.0.1:0"),
        Way::direct("IPv6", "[::1]:0"),
        Way::through("nginx", |receiver| nginx(&[receiver], "", "")),
        Way::through("HAProxy", |receiver| haproxy(receiver, "")),
        Way::through("Apache", apache),
    ];
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let clients = &clients;
        let ways = ways.each_ref().map(|way| {
            scope.spawn(move || {
                clients
                    .iter()
                    .map(|client| way.drive(client))
                    .collect::<Vec<_>>()
            })
        });
        for tallies in ways.map(|way| way.join().unwrap()) {
            tallies.iter().for_each(|other| tally.merge(other));
        }
    });
    tally.assert_as_expected("clients");
}
