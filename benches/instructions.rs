//! Counts instructions with valgrind's callgrind, which repeat to the digit whatever the load of the machine.
//!
//! Each subject has a process of its own, in which it runs twice. The second time is counted: then the allocator has memory
//! of the right sizes, and a service has answered a request.

use std::convert::Infallible;
use std::ffi::OsString;
use std::hint::black_box;
use std::process::Command;
use std::{env, fs};

use axum::body::Body;
use http::{Request, Response};
use mx_job_webhook::Job;
use tower::Service;

use crate::subjects::mounts::{answer, delivery, not_ours, own_routes};
use crate::subjects::{by_hand, mounts, reversed, sample};

/// Counts the instructions of a subject, such as `deliver.by_hand`. callgrind's file stays beside those that cargo has built.
pub(crate) fn count(subject: &str) -> f64 {
    let program = env::current_exe().unwrap();
    let file = program.with_file_name(format!("callgrind.out.{subject}"));
    let mut out_file = OsString::from("--callgrind-out-file=");
    out_file.push(&file);
    // The environment moves the stack, and with it a few counts.
    let valgrind = Command::new("valgrind")
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)))
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg("--toggle-collect=*counted_instructions*")
        .arg(out_file)
        .arg(program)
        .args([crate::COUNTED, subject])
        .output();
    let output = valgrind.expect("valgrind is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{subject}: {said}");
    let counts = fs::read_to_string(file).unwrap();
    let total = counts
        .lines()
        .find_map(|line| line.strip_prefix("totals: "));
    let total = total.and_then(|total| total.trim().parse().ok());
    let total: f64 = total.expect("callgrind's file has a total");
    assert!(total > 0.0, "{subject}: nothing was counted");
    total
}

/// Runs a subject within callgrind.
pub(crate) fn run(subject: &str) {
    match subject {
        "decode.sample" => decode(sample, by_this_crate),
        "decode.reversed" => decode(reversed, by_this_crate),
        "decode_by_hand.sample" => decode(sample, by_hand),
        "decode_by_hand.reversed" => decode(reversed, by_hand),
        "decode_with_axum_json.sample" => decode(|| by_hand::json(sample()), |decode| decode()),
        "decode_with_axum_json.reversed" => decode(|| by_hand::json(reversed()), |decode| decode()),
        "deliver.around_the_router" => answer_two(mounts::around_the_router(), OURS),
        "deliver.with_the_memory_ledger" => answer_two(mounts::with_the_memory_ledger(), OURS),
        "deliver.a_duplicate" => answer_two(mounts::with_the_memory_ledger(), TWICE),
        "deliver.with_a_watch" => answer_two(mounts::with_a_watch(), OURS),
        "deliver.router_layer" => answer_two(mounts::router_layer(), OURS),
        "deliver.route_service" => answer_two(mounts::route_service(), OURS),
        "deliver.extractor" => answer_two(mounts::extractor(), OURS),
        "deliver.by_hand" => answer_two(by_hand::app(), OURS),
        "pass_through.around_the_router" => answer_two(mounts::around_the_router(), NOT_OURS),
        "pass_through.bare_router" => answer_two(own_routes(), NOT_OURS),
        "pass_through.router_layer" => answer_two(mounts::router_layer(), NOT_OURS),
        "pass_through.layer_that_does_nothing" => {
            answer_two(mounts::router_with_a_layer_that_does_nothing(), NOT_OURS);
        }
        _ => panic!("there is no subject {subject}"),
    }
}

/// What callgrind counts. It finds the function by its name. The result is dropped outside.
#[inline(never)]
fn counted_instructions<I, O>(subject: impl FnOnce(I) -> O, input: I) -> O {
    black_box(subject(black_box(input)))
}

#[inline(never)]
fn by_this_crate(body: Vec<u8>) -> Job {
    Job::decode(black_box(&body)).unwrap()
}

#[inline(never)]
fn by_hand(body: Vec<u8>) -> by_hand::Webhook {
    serde_json::from_slice(black_box(&body)).unwrap()
}

fn decode<I, O>(input: fn() -> I, decode: impl Fn(I) -> O) {
    drop(decode(input()));
    drop(counted_instructions(decode, input()));
}

fn answer_two<S>(mut service: S, [first, second]: [fn() -> Request<Body>; 2])
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    assert!(answer(&mut service, first()).is_success());
    let status = counted_instructions(|request| answer(&mut service, request), second());
    assert!(status.is_success());
}

/// An earlier event of the same job, so that the ledger takes the next sample as a new event.
fn earlier() -> Vec<u8> {
    let sample = String::from_utf8(sample()).unwrap();
    let earlier = sample.replace("1471281218", "1471281217");
    assert_ne!(earlier, sample);
    earlier.into_bytes()
}

const OURS: [fn() -> Request<Body>; 2] = [|| delivery(earlier()), || delivery(sample())];
const TWICE: [fn() -> Request<Body>; 2] = [|| delivery(sample()), || delivery(sample())];
const NOT_OURS: [fn() -> Request<Body>; 2] = [not_ours, not_ours];
