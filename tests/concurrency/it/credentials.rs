//! Credentials that rotate: a request is checked against the old or the new ones, never against parts of both.

use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use mx_job_webhook_concurrency::{Credentials, JobRouter, JobWebhook};
use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicBool, Ordering::SeqCst};
use shuttle::thread;
use tower::ServiceExt as _;

use crate::support::{check, check_all, delivery, notices};

/// `mx:secret`
const BASIC: &str = "Basic bXg6c2VjcmV0";
const BEARER: &str = "Bearer token";

fn basic() -> Credentials {
    Credentials::basic("mx", "secret").unwrap()
}

fn bearer() -> Credentials {
    Credentials::bearer("token").unwrap()
}

/// Returns the answer to a request with this authorization: the status, and the scheme that it offers.
fn answer(endpoint: &JobWebhook<JobRouter>, authorization: &str) -> (u16, Option<String>) {
    let response = block_on(endpoint.clone().oneshot(delivery(authorization))).unwrap();
    let offers: Vec<_> = response
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .collect();
    assert!(offers.len() <= 1, "offers of two credentials");
    let scheme = offers.first().map(|offer| {
        offer
            .to_str()
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    });
    (response.status().as_u16(), scheme)
}

fn accepted() -> (u16, Option<String>) {
    (204, None)
}

fn refused(scheme: &str) -> (u16, Option<String>) {
    (401, Some(scheme.to_owned()))
}

/// Bearer is in force for a moment.
fn there_and_back() {
    let (credentials, handle) = basic().replaceable();
    let endpoint = JobWebhook::new(credentials, JobRouter::new());
    let rotation = thread::spawn(move || {
        handle.replace(bearer());
        handle.replace(basic());
    });
    let meanwhile = answer(&endpoint, BASIC);
    assert!(
        [accepted(), refused("Bearer")].contains(&meanwhile),
        "a mix of old and new: {meanwhile:?}"
    );
    rotation.join().unwrap();
    assert_eq!(answer(&endpoint, BASIC), accepted());
    assert_eq!(answer(&endpoint, BEARER), refused("Basic"));
}

/// A request that follows the rotation, on the same thread or on another one.
fn a_rotation_and_what_follows() {
    let (credentials, handle) = basic().replaceable();
    let endpoint = JobWebhook::new(credentials, JobRouter::new());
    let is_replaced = Arc::new(AtomicBool::new(false));
    let rotation = {
        let (endpoint, is_replaced) = (endpoint.clone(), is_replaced.clone());
        thread::spawn(move || {
            handle.replace(bearer());
            is_replaced.store(true, SeqCst);
            let own = (answer(&endpoint, BASIC), answer(&endpoint, BEARER));
            assert_eq!(own, (refused("Bearer"), accepted()), "not replaced");
        })
    };
    let follows = is_replaced.load(SeqCst);
    let first = answer(&endpoint, BASIC);
    let second = answer(&endpoint, BASIC);
    assert!(!follows || first != accepted(), "not replaced");
    assert!(
        first == accepted() || second != accepted(),
        "the old ones are back"
    );
    rotation.join().unwrap();
}

#[test]
fn a_request_is_checked_against_one_set() {
    check_all(there_and_back);
}

#[test]
fn requests_after_a_rotation_are_checked_against_the_new_ones() {
    check(a_rotation_and_what_follows);
}

#[test]
fn faults_are_noticed() {
    notices(
        "the challenges are read after the verdict",
        &["a mix of old and new"],
        a_request_is_checked_against_one_set,
    );
    notices(
        "a rotation takes effect later",
        &["not replaced"],
        requests_after_a_rotation_are_checked_against_the_new_ones,
    );
}
