//! Attacks on the promises; each failing test is a fault.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use mx_job_webhook::event::FencingToken;
use mx_job_webhook::job::Timestamp;
use mx_job_webhook::ledger::{
    Claim, Commit, EventName, Ledger, MemoryLedger, PostgresLedger, RedisLedger,
};
use mx_job_webhook::testing::check_ledger;
use mx_job_webhook::{ErrorKind, Job, JobEvent, Status};
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::time::Instant;

const LEASE: Duration = Duration::from_secs(600);

fn named(body: &str) -> EventName {
    EventName::of(&JobEvent::decode(body.to_owned()).unwrap())
}

fn with_date(date: &str) -> String {
    format!(r#"{{"job":{{"guid":"JOB-1","status_name":"CHALLENGED","updated_at":{date}}}}}"#)
}

fn granted(claim: Claim) -> FencingToken {
    match claim {
        Claim::Granted(token) => token,
        other => panic!("{other:?}"),
    }
}

/// The date is JSON text: as a `Value`, it would be a float.
fn event(guid: &str, status: Status, at: &str) -> EventName {
    let status = status.name().unwrap_or("?").to_owned();
    named(&format!(
        r#"{{"job":{{"guid":"{guid}","status_name":"{status}","updated_at":{at}}}}}"#
    ))
}

// ---- Timestamps -------------------------------------------------------------------------------

/// "Nothing is rounded": jiff rounds the fraction of an offset.
#[test]
fn a_fraction_in_an_offset_is_not_rounded() {
    for text in [
        "2016-08-15T17:13:35+00:00:00.4",
        "2016-08-15T17:13:35+00:00:00.6",
        "2016-08-15T17:13:35-01:00:00.5",
        "2016-08-15T17:13:35+000000.999999999",
    ] {
        let read = text.parse::<Timestamp>();
        assert!(read.is_err(), "{text}: {read:?}");
    }
}

/// Two different bodies whose dates are not fully understood are two events.
#[test]
fn dates_whose_offsets_differ_in_a_fraction_are_two_events() {
    let one = named(&with_date(r#""2016-08-15T17:13:35+00:00:00.1""#));
    let other = named(&with_date(r#""2016-08-15T17:13:35+00:00:00.4""#));
    assert_ne!(one, other, "{one}");
}

/// "Both read back as the same moment", except for a fraction outside of the years 0 to 9999. Many
/// programs use this moment as the end of time.
#[cfg(all(feature = "jiff", feature = "chrono", feature = "time"))]
#[test]
fn the_last_moment_of_the_year_9999_reads_back() {
    let text = "9999-12-31T23:59:59.999Z";
    let moment = Timestamp::from(text.parse::<chrono::DateTime<chrono::Utc>>().unwrap());
    let json = serde_json::to_string(&moment).unwrap();
    assert_eq!(
        serde_json::from_str::<Timestamp>(&json).ok(),
        Some(moment),
        "{json}"
    );
    assert_eq!(text.parse::<Timestamp>().ok(), Some(moment));
}

#[cfg(all(feature = "jiff", feature = "chrono", feature = "time"))]
#[test]
fn dates_survive_every_conversion_and_serde() {
    for _ in 0..20_000 {
        let seconds = fastrand::i64(-62_167_219_200..=253_402_207_200 - 1);
        let digits = fastrand::usize(0..=9);
        let nanos = fastrand::u32(..1_000_000_000) / 10_u32.pow(9 - digits as u32)
            * 10_u32.pow(9 - digits as u32);
        let jiff = jiff::Timestamp::new(seconds, 0).unwrap()
            + jiff::SignedDuration::from_nanos(nanos.into());
        let moment = Timestamp::from(jiff);
        assert_eq!(
            (moment.unix_seconds(), moment.subsec_nanos()),
            (seconds, nanos)
        );
        assert_eq!(jiff::Timestamp::try_from(moment).unwrap(), jiff);
        let chrono = chrono::DateTime::<chrono::Utc>::try_from(moment).unwrap();
        assert_eq!(Timestamp::from(chrono), moment);
        let time = time::OffsetDateTime::try_from(moment).unwrap();
        assert_eq!(Timestamp::from(time), moment);
        let json = serde_json::to_string(&moment).unwrap();
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), moment);
        let value = serde_json::to_value(moment).unwrap();
        assert_eq!(serde_json::from_value::<Timestamp>(value).unwrap(), moment);
        // The name's decimal, read as a number.
        let text = named(&with_date(&json)).to_string();
        let decimal = text.rsplit(' ').next().unwrap();
        assert_eq!(named(&with_date(decimal)).to_string(), text);
    }
}

// ---- The grammar, and the values --------------------------------------------------------------

const TEMPLATE: &str = r#"{"job":{"guid":"JOB-1","status":6,"status_name":"COMPLETED","updated_at":1471281212,"error_message":"a\n\"é\u00e9\ud83d\udd11 long enough to be eight by eight","is_authenticated":true,"member_id":"m","user_id":17,"new":[1.5e3,-0,null,{"a":[]},"x"],"user_guid":null},"n":{"":false}}"#;

fn mutated() -> Vec<u8> {
    const PIECES: &[&str] = &[
        "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u", "\\ud83d", "\\udd11", "\\u0000", "0", "1",
        "9", "-", "+", ".", "e", "E", "null", "true", "false", " ", "\n", "\t", "\r", "\0",
        "\u{1f}", "\u{7f}", "\u{80}", "\u{a0}", "é", "🏦", "\u{feff}", "\\/", "\\x", "'", "/",
        "1e400", "00", "-0", "[[", "{}", "\"\":", "\u{b}", "\u{c}", "\u{85}", "\u{2028}",
    ];
    let mut body = TEMPLATE.as_bytes().to_vec();
    for _ in 0..fastrand::usize(1..=4) {
        let at = fastrand::usize(0..=body.len());
        match fastrand::u8(0..6) {
            0 => {
                let end = (at + fastrand::usize(1..4)).min(body.len());
                body.drain(at..end);
            }
            1 if at < body.len() => body[at] = fastrand::u8(..),
            2 => {
                let end = (at + fastrand::usize(1..40)).min(body.len());
                let copy = body[at..end].to_vec();
                let to = fastrand::usize(0..=body.len());
                body.splice(to..to, copy);
            }
            3 => body.truncate(at),
            _ => {
                let piece = PIECES[fastrand::usize(..PIECES.len())];
                body.splice(at..at, piece.bytes());
            }
        }
    }
    body
}

#[test]
fn the_grammar_and_the_values_equal_those_of_serde_json() {
    fastrand::seed(7);
    let (mut accepted, mut compared) = (0, 0);
    for _ in 0..100_000 {
        let body = mutated();
        let text = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&body);
        // Decode from text, because the bytes of skipped strings are not checked to be UTF-8.
        let is_json = std::str::from_utf8(text)
            .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
        let decoded = Job::decode(&body);
        let kind = decoded.as_ref().map_err(mx_job_webhook::Error::kind).err();
        let shown = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(kind != Some(ErrorKind::NotJson), is_json, "{shown:?}");
        accepted += usize::from(is_json);
        let (Ok(job), Ok(value)) = (decoded, serde_json::from_slice::<Value>(text)) else {
            continue;
        };
        compared += 1;
        let value = &value["job"];
        assert_eq!(value["guid"].as_str(), Some(job.guid.as_str()), "{shown:?}");
        assert_eq!(
            value["error_message"].as_str(),
            job.error_message.as_deref(),
            "{shown:?}"
        );
        assert_eq!(
            value["is_authenticated"].as_bool(),
            job.is_authenticated,
            "{shown:?}"
        );
        if let Some(code) = value["status"].as_i64() {
            assert_eq!(Some(code), job.status_code, "{shown:?}");
        }
        if let Some(seconds) = value["updated_at"].as_i64() {
            assert_eq!(
                job.updated_at,
                Some(Timestamp::from_unix_seconds(seconds)),
                "{shown:?}"
            );
        }
        match &value["member_id"] {
            Value::String(id) if !id.trim().is_empty() => {
                assert_eq!(
                    job.member_id.as_ref().map(|id| id.as_str()),
                    Some(id.as_str())
                );
            }
            Value::Number(id) if id.is_i64() => {
                assert_eq!(job.member_id.unwrap().as_str(), id.to_string(), "{shown:?}");
            }
            _ => {}
        }
    }
    assert!(
        accepted > 5_000 && compared > 2_500,
        "{accepted} {compared}"
    );
}

/// Every byte and escape at each of the sixteen positions around the multiples of eight.
#[test]
fn strings_end_at_their_closing_quote_at_every_position() {
    for pad in 0..17 {
        for character in (0..0x300).filter_map(char::from_u32) {
            for tail in ["", "x", "1234567", "é234567890"] {
                let text = format!("\"{}{character}{tail}\"", "p".repeat(pad));
                let body =
                    format!(r#"{{"job":{{"guid":"JOB-1","status":6,"error_message":{text}}}}}"#);
                let expected = serde_json::from_str::<Value>(&body).ok();
                let job = Job::decode(body.as_bytes());
                let is_json = !matches!(&job, Err(error) if error.kind() == ErrorKind::NotJson);
                assert_eq!(is_json, expected.is_some(), "{body:?}");
                if let (Some(expected), Ok(job)) = (expected, job) {
                    assert_eq!(
                        expected["job"]["error_message"].as_str(),
                        job.error_message.as_deref()
                    );
                }
            }
        }
    }
}

// ---- Names ------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Tree {
    Leaf(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

fn leaf() -> String {
    const LEAVES: &[&str] = &[
        "0",
        "1",
        "-0",
        "0.0",
        "1e400",
        "null",
        "true",
        "false",
        "\"\"",
        "\" \"",
        "\"0\"",
        "\"\\ud83d\"",
        "\"a\"",
        "\"\\u0061\"",
        "\"é\"",
        "[]",
        "{}",
        "10",
        "1.0",
        "1.00",
        "12",
    ];
    match fastrand::u8(0..4) {
        0 => format!("{}", fastrand::i64(..)),
        1 => format!("\"{:x}\"", fastrand::u32(..)),
        _ => LEAVES[fastrand::usize(..LEAVES.len())].to_owned(),
    }
}

fn tree(depth: usize) -> Tree {
    match fastrand::u8(0..if depth == 0 { 1 } else { 4 }) {
        0 | 1 => Tree::Leaf(leaf()),
        2 => Tree::Array(
            (0..fastrand::usize(0..4))
                .map(|_| tree(depth - 1))
                .collect(),
        ),
        _ => Tree::Object(
            (0..fastrand::usize(0..4))
                .map(|n| {
                    (
                        format!("{}{n}", ["a", "", "é", "\\u0061"][fastrand::usize(..4)]),
                        tree(depth - 1),
                    )
                })
                .collect(),
        ),
    }
}

fn space(out: &mut String, spaced: bool) {
    if spaced && fastrand::bool() {
        out.push([' ', '\n', '\t', '\r'][fastrand::usize(..4)]);
    }
}

fn write_tree(tree: &Tree, out: &mut String, other: bool) {
    space(out, other);
    match tree {
        Tree::Leaf(text) => out.push_str(text),
        Tree::Array(values) => {
            out.push('[');
            for (n, value) in values.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_tree(value, out, other);
            }
            space(out, other);
            out.push(']');
        }
        Tree::Object(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            if other {
                fastrand::shuffle(&mut entries);
            }
            out.push('{');
            for (n, (key, value)) in entries.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                space(out, other);
                write!(out, "\"{key}\"").unwrap();
                space(out, other);
                out.push(':');
                write_tree(value, out, other);
            }
            space(out, other);
            out.push('}');
        }
    }
    space(out, other);
}

fn leaves(tree: &mut Tree) -> Vec<&mut Tree> {
    match tree {
        Tree::Leaf(_) => vec![tree],
        Tree::Array(values) => values.iter_mut().flat_map(leaves).collect(),
        Tree::Object(entries) => entries
            .iter_mut()
            .flat_map(|(_, value)| leaves(value))
            .collect(),
    }
}

#[test]
fn names_depend_only_on_the_values() {
    fastrand::seed(11);
    let body_of = |new: &Tree, date: &str, other: bool| {
        let job = vec![
            ("guid".to_owned(), Tree::Leaf("\"JOB-1\"".into())),
            ("status".to_owned(), Tree::Leaf("6".into())),
            ("updated_at".to_owned(), Tree::Leaf(date.into())),
            ("new".to_owned(), new.clone()),
        ];
        let root = Tree::Object(vec![
            ("job".to_owned(), Tree::Object(job)),
            ("n".to_owned(), new.clone()),
        ]);
        let mut body = String::new();
        write_tree(&root, &mut body, other);
        body
    };
    let mut all: HashMap<String, String> = HashMap::new();
    for _ in 0..10_000 {
        let date = [
            "null",
            "\"Monday\"",
            "1471281212.0000000001",
            "\"2016-08-15T17:13:35.0000000001Z\"",
            "{\"a\":1}",
            "99999999999999999999",
        ][fastrand::usize(..6)];
        let mut new = tree(4);
        let body = body_of(&new, date, false);
        let name = named(&body);
        assert_eq!(name, named(&body_of(&new, date, true)), "{body}");
        if let Some(known) = all.insert(name.to_string(), body.clone()) {
            assert_eq!(known, body);
        }
        let mut found = leaves(&mut new);
        if found.is_empty() {
            continue;
        }
        let at = fastrand::usize(..found.len());
        let Tree::Leaf(text) = &mut *found[at] else {
            unreachable!()
        };
        let before = text.clone();
        *text = leaf();
        if *text != before {
            let changed = body_of(&new, date, false);
            assert_ne!(name, named(&changed), "{body} {changed}");
        }
    }
}

// ---- Ledgers ----------------------------------------------------------------------------------

/// A `MemoryLedger` with one fault.
struct Faulty {
    inner: MemoryLedger,
    fault: Forgets,
    state: Mutex<HashMap<String, (FencingToken, Instant, bool)>>,
    settled: Mutex<HashMap<String, Timestamp>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgets {
    /// Does not record a success of an event that has become stale after its lease has expired.
    LateSuccessOfStaleEvent,
    /// Does not record a success after its own claim was released.
    SuccessAfterRelease,
    /// Does not record a success without a date if its claim is unknown.
    UndatedSuccesses,
}

impl Faulty {
    fn new(fault: Forgets) -> Self {
        Self {
            inner: MemoryLedger::new(),
            fault,
            state: Mutex::default(),
            settled: Mutex::default(),
        }
    }
}

impl Ledger for Faulty {
    type Error = std::convert::Infallible;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
        let claim = self.inner.claim(event, lease).await?;
        if let Claim::Granted(token) = claim {
            let until = Instant::now() + lease.min(LEASE);
            self.state
                .lock()
                .unwrap()
                .insert(event.to_string(), (token, until, false));
        }
        Ok(claim)
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Self::Error> {
        let known = self.state.lock().unwrap().get(&event.to_string()).copied();
        let over = known.is_none_or(|(_, until, _)| until <= Instant::now());
        let last = self
            .settled
            .lock()
            .unwrap()
            .get(event.guid().as_str())
            .copied();
        let stale = event.ordering_time().is_some_and(|at| Some(at) < last);
        let forgets = match self.fault {
            Forgets::LateSuccessOfStaleEvent => over && stale,
            Forgets::SuccessAfterRelease => {
                known.is_some_and(|(by, _, released)| by == token && released)
            }
            Forgets::UndatedSuccesses => known.is_none() && event.ordering_time().is_none(),
        };
        if forgets {
            return Ok(Commit::Overtaken);
        }
        if let Some(at) = event.ordering_time() {
            let mut settled = self.settled.lock().unwrap();
            let last = settled.entry(event.guid().to_string()).or_insert(at);
            *last = (*last).max(at);
        }
        self.inner.commit(event, token).await
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
        if let Some((by, _, released)) = self.state.lock().unwrap().get_mut(&event.to_string()) {
            *released |= *by == token;
        }
        self.inner.release(event, token).await
    }
}

async fn suite_finds(fault: Forgets) {
    let panic = tokio::spawn(check_ledger(Faulty::new(fault))).await.err();
    assert!(panic.is_some(), "{fault:?} passes the conformance suite");
}

#[tokio::test(start_paused = true)]
async fn the_suite_finds_a_forgotten_late_success_of_a_stale_event() {
    suite_finds(Forgets::LateSuccessOfStaleEvent).await;
}

#[tokio::test(start_paused = true)]
async fn the_suite_finds_a_forgotten_success_after_a_release() {
    suite_finds(Forgets::SuccessAfterRelease).await;
}

#[tokio::test(start_paused = true)]
async fn the_suite_finds_a_forgotten_undated_success() {
    suite_finds(Forgets::UndatedSuccesses).await;
}

/// A ledger that keys a dated event by guid, status and whole seconds. It confuses two events of one
/// second, although "fractions count, for the name".
struct BySeconds(Mutex<HashMap<String, Row>>, Mutex<u64>);

struct Row {
    job: String,
    at: Option<Timestamp>,
    token: u64,
    until: Instant,
    settled: bool,
}

impl BySeconds {
    fn key(event: &EventName) -> String {
        let text = event.to_string();
        let (rest, version) = text.rsplit_once(' ').unwrap();
        format!("{rest} {}", version.split('.').next().unwrap())
    }
}

impl Ledger for BySeconds {
    type Error = std::convert::Infallible;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
        let (mut rows, now) = (self.0.lock().unwrap(), Instant::now());
        let key = Self::key(event);
        match rows.get(&key) {
            Some(row) if row.settled => return Ok(Claim::Settled),
            Some(row) if now < row.until => return Ok(Claim::InFlight),
            _ => {}
        }
        let job = event.guid().to_string();
        let at = event.ordering_time();
        let stale = at.is_some()
            && rows
                .values()
                .any(|row| row.settled && row.job == job && row.at > at);
        if stale {
            return Ok(Claim::Stale);
        }
        let mut last = self.1.lock().unwrap();
        *last += 1;
        let until = now + lease.min(Duration::from_secs(31_536_000));
        rows.insert(
            key,
            Row {
                job,
                at,
                token: *last,
                until,
                settled: false,
            },
        );
        Ok(Claim::Granted(FencingToken::new(*last)))
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Self::Error> {
        let mut rows = self.0.lock().unwrap();
        let key = Self::key(event);
        match rows.get(&key) {
            Some(row) if row.settled && row.token == token.get() => return Ok(Commit::Settled),
            Some(row) if row.settled => return Ok(Commit::Overtaken),
            _ => {}
        }
        rows.insert(
            key,
            Row {
                job: event.guid().to_string(),
                at: event.ordering_time(),
                token: token.get(),
                until: Instant::now(),
                settled: true,
            },
        );
        Ok(Commit::Settled)
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
        let mut rows = self.0.lock().unwrap();
        let key = Self::key(event);
        if rows
            .get(&key)
            .is_some_and(|row| !row.settled && row.token == token.get())
        {
            rows.remove(&key);
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_suite_finds_names_without_their_fraction() {
    let ledger = BySeconds(Mutex::default(), Mutex::default());
    let panic = tokio::spawn(check_ledger(ledger)).await.err();
    assert!(panic.is_some(), "the ledger passes the conformance suite");
}

/// Requirements of every ledger beyond the conformance suite.
async fn holds(ledger: impl Ledger<Error: std::fmt::Debug>) -> String {
    let mut failed = String::new();
    let guid = || format!("JOB-{:016x}", fastrand::u64(..));

    // Successes in every order of dates and tokens stay recorded.
    for at in [
        "null",
        "\"Monday\"",
        "10",
        "-0.5",
        "1471281212.5",
        "9999999999999",
        "-9223372036854775808",
    ] {
        let job = guid();
        let one = event(&job, Status::Completed, at);
        let first = granted(ledger.claim(&one, Duration::ZERO).await.unwrap());
        let later = event(&job, Status::Denied, "1471281213");
        let token = granted(ledger.claim(&later, LEASE).await.unwrap());
        ledger.commit(&later, token).await.unwrap();
        let _ = ledger.claim(&one, Duration::ZERO).await.unwrap();
        ledger.release(&one, first).await.unwrap();
        let commit = ledger.commit(&one, first).await.unwrap();
        let claim = ledger.claim(&one, LEASE).await.unwrap();
        if (commit, claim) != (Commit::Settled, Claim::Settled) {
            writeln!(failed, "{at}: {commit:?} {claim:?}").unwrap();
        }
    }
    // Fractions make different events, before the epoch as well as after.
    let job = guid();
    for at in [
        "-1",
        "-0.5",
        "-0.000000001",
        "0",
        "0.000000001",
        "0.5",
        "1",
        "1471281212.000000001",
        "1471281212.1",
        "1471281212.10000001",
    ] {
        let event = event(&job, Status::Completed, at);
        match ledger.claim(&event, LEASE).await.unwrap() {
            Claim::Granted(token) => _ = ledger.commit(&event, token).await.unwrap(),
            other => writeln!(failed, "{at}: {other:?}").unwrap(),
        }
        let claim = ledger.claim(&event, LEASE).await.unwrap();
        if claim != Claim::Settled {
            writeln!(failed, "{at} again: {claim:?}").unwrap();
        }
    }
    for at in ["-1.5", "-0.25", "0.25", "1471281212.09"] {
        let claim = ledger
            .claim(&event(&job, Status::Completed, at), LEASE)
            .await
            .unwrap();
        if claim != Claim::Stale {
            writeln!(failed, "{at}: {claim:?}").unwrap();
        }
    }
    failed
}

/// Uses tokens beyond the store's range: no ledger grants them, and `commit` accepts them.
async fn holds_with_any_token(ledger: impl Ledger<Error: std::fmt::Debug>) -> String {
    let mut failed = String::new();
    let guid = || format!("JOB-{:016x}", fastrand::u64(..));
    // A job's tokens keep growing after any committed token.
    for last in [1 << 53, (1 << 53) + 1, i64::MAX as u64 - 1] {
        let job = guid();
        let one = event(&job, Status::Completed, "10");
        ledger.commit(&one, FencingToken::new(last)).await.unwrap();
        let two = event(&job, Status::Completed, "11");
        let mut given = Vec::new();
        for _ in 0..3 {
            match ledger.claim(&two, LEASE).await {
                Ok(Claim::Granted(token)) => {
                    given.push(token);
                    ledger.release(&two, token).await.unwrap();
                }
                other => {
                    writeln!(failed, "after {last}: {other:?}").unwrap();
                    break;
                }
            }
        }
        if !given.is_sorted_by(|one, next| one < next) {
            writeln!(failed, "after {last}: {given:?} do not grow").unwrap();
        }
    }
    // Two successes with tokens that no store can tell apart.
    let one = event(&guid(), Status::Completed, "10");
    let tokens = [u64::MAX - 1, u64::MAX].map(FencingToken::new);
    let commits = [
        ledger.commit(&one, tokens[0]).await.unwrap(),
        ledger.commit(&one, tokens[1]).await.unwrap(),
    ];
    if commits != [Commit::Settled, Commit::Overtaken] {
        writeln!(failed, "by the greatest tokens: {commits:?}").unwrap();
    }
    failed
}

#[tokio::test]
async fn the_memory_ledger_meets_the_requirements_with_any_token() {
    let failed = holds_with_any_token(MemoryLedger::new()).await;
    assert!(failed.is_empty(), "\n{failed}");
}

#[tokio::test]
async fn the_memory_ledger_meets_the_requirements() {
    let failed = holds(MemoryLedger::new()).await;
    assert!(failed.is_empty(), "\n{failed}");
}

#[tokio::test]
#[ignore = "needs Redis: set MX_TEST_REDIS_URL"]
async fn the_redis_ledger_meets_the_requirements() {
    let url = std::env::var("MX_TEST_REDIS_URL").unwrap();
    let failed = holds(RedisLedger::new(redis::Client::open(url).unwrap())).await;
    assert!(failed.is_empty(), "\n{failed}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn the_postgres_ledger_meets_the_requirements() {
    let url = std::env::var("MX_TEST_POSTGRES_URL").unwrap();
    let ledger = PostgresLedger::new(sqlx::PgPool::connect(&url).await.unwrap());
    ledger.create_table().await.unwrap();
    let failed = holds(ledger).await;
    assert!(failed.is_empty(), "\n{failed}");
}

/// All three ledgers answer any sequence of calls alike and forget no success.
#[tokio::test]
#[ignore = "needs PostgreSQL and Redis"]
async fn all_ledgers_answer_alike() {
    let memory = MemoryLedger::new();
    let redis = std::env::var("MX_TEST_REDIS_URL").unwrap();
    let redis = RedisLedger::new(redis::Client::open(redis).unwrap());
    let url = std::env::var("MX_TEST_POSTGRES_URL").unwrap();
    let postgres = PostgresLedger::new(sqlx::PgPool::connect(&url).await.unwrap());
    postgres.create_table().await.unwrap();
    // Names are unique to this run, because the servers remember events.
    let run = std::process::id();
    let run = format!(
        "{run}-{:?}",
        std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap()
    );
    let is_storm = std::env::var("MX_TEST_STORM").is_ok_and(|storm| storm == "1");
    let seeds = if is_storm { 1_000 } else { 300 };
    for seed in 0..seeds {
        fastrand::seed(seed);
        let jobs = ["a", "b"].map(|job| format!("{job} {run} {seed}"));
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs();
        let soon = (now + 3_600).to_string();
        let dates = [
            "null",
            "1",
            "1.5",
            "-0.5",
            "-1",
            "\"x\"",
            "\"2016-08-15T17:13:35.25Z\"",
            soon.as_str(),
        ];
        // The tokens that each ledger granted, by event.
        let mut tokens: HashMap<String, Vec<[FencingToken; 3]>> = HashMap::new();
        let mut succeeded: HashMap<String, [FencingToken; 3]> = HashMap::new();
        let mut said = String::new();
        for step in 0..40 {
            let job = &jobs[fastrand::usize(..2)];
            let status = [Status::Completed, Status::from("ÄRGER 1")][fastrand::usize(..2)].clone();
            let date = dates[fastrand::usize(..dates.len())];
            let event = event(job, status, date);
            let known = tokens.entry(event.to_string()).or_default();
            let any = if known.is_empty() || fastrand::u8(..6) == 0 {
                [FencingToken::new(fastrand::u64(1..9)); 3]
            } else {
                known[fastrand::usize(..known.len())]
            };
            match fastrand::u8(..5) {
                0 | 1 => {
                    let lease = [Duration::ZERO, LEASE][fastrand::usize(..2)];
                    let claims = [
                        memory.claim(&event, lease).await.unwrap(),
                        redis.claim(&event, lease).await.unwrap(),
                        postgres.claim(&event, lease).await.unwrap(),
                    ];
                    writeln!(said, "{step} claim {event} {lease:?}: {claims:?}").unwrap();
                    let kinds = claims.map(|claim| match claim {
                        Claim::Granted(_) => None,
                        other => Some(other),
                    });
                    assert!(
                        kinds[0] == kinds[1] && kinds[1] == kinds[2],
                        "{seed}\n{said}"
                    );
                    if kinds[0].is_none() {
                        known.push(claims.map(granted));
                    }
                    let expected = succeeded.contains_key(&event.to_string());
                    assert_eq!(expected, claims[0] == Claim::Settled, "{seed}\n{said}");
                }
                2 => {
                    memory.release(&event, any[0]).await.unwrap();
                    redis.release(&event, any[1]).await.unwrap();
                    postgres.release(&event, any[2]).await.unwrap();
                    writeln!(said, "{step} release {event} {any:?}").unwrap();
                }
                _ => {
                    let commits = [
                        memory.commit(&event, any[0]).await.unwrap(),
                        redis.commit(&event, any[1]).await.unwrap(),
                        postgres.commit(&event, any[2]).await.unwrap(),
                    ];
                    writeln!(said, "{step} commit {event} {any:?}: {commits:?}").unwrap();
                    let by = *succeeded.entry(event.to_string()).or_insert(any);
                    let expected = if by == any {
                        Commit::Settled
                    } else {
                        Commit::Overtaken
                    };
                    assert_eq!(commits, [expected; 3], "{seed}\n{said}");
                }
            }
        }
    }
}

// ---- `commit_in` ------------------------------------------------------------------------------

/// Leases expire, callbacks are slow or fail, transactions roll back, and the database loses claims: an
/// effect exists at most once, and exactly once if its transaction was committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_effect_happens_once() {
    let url = std::env::var("MX_TEST_POSTGRES_URL").unwrap();
    for isolation in ["read committed", "repeatable read", "serializable"] {
        stands_once(&url, isolation).await;
    }
}

async fn stands_once(url: &str, isolation: &str) {
    use mx_job_webhook::{DedupeLayer, JobRouter, Receipt};
    use tower::{BoxError, Layer as _, ServiceExt as _};

    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let options = options.options([("default_transaction_isolation", isolation)]);
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(24)
        .connect_with(options)
        .await
        .unwrap();
    let ledger = PostgresLedger::new(pool.clone());
    ledger.create_table().await.unwrap();
    sqlx::query("CREATE TABLE IF NOT EXISTS attack_effects (job text NOT NULL)")
        .execute(&pool)
        .await
        .unwrap();
    let run = format!("{:016x}", fastrand::u64(..));
    let millis = |most: u64| tokio::time::sleep(Duration::from_millis(fastrand::u64(0..most)));
    let effect = {
        let (pool, ledger) = (pool.clone(), ledger.clone());
        move |event: JobEvent| {
            let (pool, ledger) = (pool.clone(), ledger.clone());
            async move {
                millis(12).await;
                let mut transaction = pool.begin().await?;
                sqlx::query("INSERT INTO attack_effects (job) VALUES ($1)")
                    .bind(event.guid.to_string())
                    .execute(&mut *transaction)
                    .await?;
                if fastrand::bool() {
                    millis(12).await;
                }
                ledger.commit_in(&mut transaction, &event).await?;
                if fastrand::bool() {
                    millis(12).await;
                }
                if fastrand::u8(..4) == 0 {
                    return Err(BoxError::from("rolls back"));
                }
                transaction.commit().await?;
                if fastrand::u8(..4) == 0 {
                    return Err(BoxError::from("fails after its commit"));
                }
                Ok(())
            }
        }
    };
    let once = DedupeLayer::new(ledger.clone())
        .with_lease(Duration::from_millis(8))
        .layer(JobRouter::new().on_completed(effect));
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..60 {
        for _ in 0..4 {
            let (once, run, pool) = (once.clone(), run.clone(), pool.clone());
            workers.spawn(async move {
                let guid = format!("{run}-{number}");
                let body = format!(r#"{{"job":{{"guid":"{guid}","status":6,"updated_at":10}}}}"#);
                for _ in 0..60 {
                    let event = JobEvent::decode(body.clone()).unwrap();
                    match once.clone().oneshot(event).await {
                        Ok(Receipt::Handled | Receipt::Duplicate) => return true,
                        Ok(other) => panic!("{other:?}"),
                        Err(_) => millis(20).await,
                    }
                    if fastrand::u8(..6) == 0 {
                        // A crash loses a claim, but no row that waits for its commit.
                        let _ = sqlx::query("DELETE FROM mx_job_webhook_events WHERE (job, event) IN (SELECT job, event FROM mx_job_webhook_events WHERE job = $1 AND settled_at IS NULL FOR UPDATE SKIP LOCKED)")
                            .bind(&guid).execute(&pool).await;
                    }
                }
                false
            });
        }
    }
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT job, count(*) FROM attack_effects WHERE job LIKE $1 || '-%' GROUP BY job",
    )
    .bind(&run)
    .fetch_all(&pool)
    .await
    .unwrap();
    let doubled: Vec<_> = rows.iter().filter(|(_, count)| *count != 1).collect();
    assert!(doubled.is_empty(), "{isolation}: {doubled:?}");
    assert_eq!(rows.len(), 60, "{isolation}");
}

// ---- Credentials, and routing -----------------------------------------------------------------

mod through_the_mounts {
    use http::StatusCode;
    use mx_job_webhook::{Credentials, JobRouter, Status};

    use crate::support::{self, Log, Settings, delivery, jobs, mounts, no_callbacks, send};

    #[tokio::test]
    async fn two_authorization_headers_are_refused_with_any_credentials() {
        let kinds = [
            ("basic", Credentials::basic("mx", "secret").unwrap()),
            ("anyone", Credentials::unauthenticated()),
            ("closure", Credentials::verify(|_| async { true })),
            (
                "replaceable",
                Credentials::unauthenticated().replaceable().0,
            ),
        ];
        for (kind, credentials) in kinds {
            let mut settings = Settings::new(no_callbacks());
            settings.credentials = credentials;
            for (mount, app) in mounts(&settings) {
                let mut request = delivery(support::SAMPLE);
                request
                    .headers_mut()
                    .append("authorization", support::BASIC.parse().unwrap());
                let (head, body) = send(app, request).await;
                assert_eq!(head.status, StatusCode::UNAUTHORIZED, "{kind} {mount}");
                assert!(
                    head.headers.contains_key("www-authenticate"),
                    "{kind} {mount}"
                );
                let shown = format!("{head:?} {body:?}");
                assert!(
                    !shown.contains("bXg6c2VjcmV0") && !shown.contains("secret"),
                    "{shown}"
                );
            }
        }
    }

    /// The closure replaces the credentials: the challenges match the credentials that were checked.
    #[tokio::test]
    async fn a_refusal_is_consistent_with_one_set_of_credentials() {
        let (slow, handle) = Credentials::basic("a", "b").unwrap().replaceable();
        let replacing = {
            let handle = handle.clone();
            Credentials::basic("mx", "old")
                .unwrap()
                .or(Credentials::verify(move |_| {
                    // Replaces them both when the check starts and before the verdict.
                    handle.replace(Credentials::basic("mx", "new").unwrap());
                    let handle = handle.clone();
                    async move {
                        tokio::task::yield_now().await;
                        handle.replace(Credentials::unauthenticated());
                        false
                    }
                }))
        };
        let mut settings = Settings::new(no_callbacks());
        settings.credentials = slow;
        for (mount, app) in mounts(&settings) {
            handle.replace(replacing.clone());
            let (head, _) = send(app, delivery(support::SAMPLE)).await;
            assert_eq!(head.status, StatusCode::UNAUTHORIZED, "{mount}");
            let challenges: Vec<_> = head
                .headers
                .get_all("www-authenticate")
                .iter()
                .map(|value| value.to_str().unwrap().to_lowercase())
                .collect();
            let all = challenges.join(", ");
            assert!(
                all.contains("basic") && all.contains("bearer"),
                "{mount}: {all}"
            );
        }
    }

    #[tokio::test]
    async fn a_status_with_white_space_reaches_its_callback() {
        for (sent, registered) in [
            ("AUTHENTICATED ", "AUTHENTICATED"),
            ("AUTHENTICATED", "authenticated\u{3000}"),
            ("\u{85}authenticated\\n", "Authenticated "),
            ("completed ", " COMPLETED"),
        ] {
            let log = Log::default();
            let here = log.clone();
            let router = JobRouter::new().on_status(Status::from(registered), move |_| {
                here.push("called");
                async {}
            });
            let settings = Settings::new(jobs(router));
            for (mount, app) in mounts(&settings) {
                let body = format!(r#"{{"job":{{"guid":"JOB-1","status_name":"{sent}"}}}}"#);
                let before = log.entries().len();
                let (head, _) = send(app, delivery(body)).await;
                assert_eq!(head.status, StatusCode::NO_CONTENT, "{mount}");
                assert_eq!(log.entries().len(), before + 1, "{sent:?} {mount}");
            }
        }
    }
}

// ---- Schemas ----------------------------------------------------------------------------------
