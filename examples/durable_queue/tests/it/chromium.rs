//! The pages in Chromium: an operator uses them, and another site cannot.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use harness::{Process, repository, run};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use tokio::net::TcpListener;

use crate::database::Database;
use crate::pages::{A, B, PASSWORD, Pages, body};
use crate::{PATIENCE, admin};

/// A driver and its browser.
struct Browser {
    client: Client,
    _driver: Process,
}

impl Browser {
    async fn start() -> Self {
        let mut command = Command::new("chromedriver");
        command.args(["--port=0"]);
        let driver = Process::start(command);
        let port = loop {
            let line = driver.line();
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let options = json!({
            // Containers have no user namespaces and little shared memory. With a pipe, the browser ends with
            // its driver.
            "args": ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-pipe"],
            "mobileEmulation": {
                "deviceMetrics": {"width": 1000, "height": 700, "pixelRatio": 1.0, "mobile": false},
            },
        });
        let options = [("goog:chromeOptions".to_owned(), options)];
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(options.into_iter().collect())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Self {
            client,
            _driver: driver,
        }
    }

    /// Logs in, as an operator does once. The browser keeps the password for this origin.
    async fn log_in(&self, pages: SocketAddr) {
        let with_password = format!("http://ops:{PASSWORD}@{pages}/dead-letters");
        self.client.goto(&with_password).await.unwrap();
        self.open(pages, "/dead-letters").await;
    }

    async fn open(&self, server: SocketAddr, path: &str) {
        let url = format!("http://{server}{path}");
        self.client.goto(&url).await.unwrap();
    }

    /// Waits for an element that has this text.
    async fn wait_for(&self, text: &str) -> Element {
        let path = format!("//*[contains(text(), '{text}')]");
        let wait = self.client.wait().at_most(PATIENCE);
        wait.for_element(Locator::XPath(&path)).await.unwrap()
    }

    /// Waits for a row of the board's table.
    async fn wait_for_task(&self) -> Element {
        let wait = self.client.wait().at_most(PATIENCE);
        wait.for_element(Locator::Css("td a")).await.unwrap()
    }

    /// Presses a button, in the row of a letter if it is named.
    async fn press(&self, letter: Option<&str>, button: &str) {
        let row = letter.map_or(String::new(), |name| format!("//tr[td[text()='{name}']]"));
        let path = format!("{row}//button[starts-with(text(), '{button}')]");
        let button = self.client.find(Locator::XPath(&path)).await.unwrap();
        button.click().await.unwrap();
    }

    /// Discards a letter, which takes two clicks.
    async fn discard(&self, name: &str) {
        let path = format!("//tr[td[text()='{name}']]//summary");
        let summary = self.client.find(Locator::XPath(&path)).await.unwrap();
        summary.click().await.unwrap();
        self.press(Some(name), "Discard").await;
    }

    async fn text(&self) -> String {
        let body = self.client.find(Locator::Css("body")).await.unwrap();
        body.text().await.unwrap()
    }

    async fn script(&self, script: &str) -> serde_json::Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }
}

/// Serves the pages until the end of the test.
async fn serve(pages: &Pages) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (queue, pool) = (pages.queue.clone(), pages.database.pool.clone());
    tokio::spawn(async move {
        let never = std::future::pending();
        let served = admin::serve(listener, queue, pool, PASSWORD, never);
        served.await.unwrap();
    });
    address
}

/// Runs a command of `cargo run`, as a user who pastes it into a shell.
fn paste(command: &str) -> String {
    let mut shell = Command::new("sh");
    shell.current_dir(repository()).args(["-c", command]);
    // Cargo sets these for tests, and rebuilds crates that depend on them.
    let of_cargo = |variable: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|start| variable.starts_with(start))
    };
    for (variable, _) in env::vars().filter(|(variable, _)| of_cargo(variable)) {
        shell.env_remove(variable);
    }
    let output = run(&mut shell);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The whole story: an event fails five times, is seen, and is replayed after the fault is mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and PostgreSQL"]
async fn an_event_that_fails_five_times_is_seen_and_replayed() {
    let database = Database::create().await;
    let (_receiver, printed) = Process::serve(database.example("receive"));
    let work = |failing_tries| {
        let mut command = database.example("work");
        command
            .env("FAILING_TRIES", failing_tries)
            .env("WORK_SECONDS", "0.1")
            .env("BACKOFF_SECONDS", "0.1");
        Process::start(command)
    };
    let mut worker = work("99");
    let mut admin = database.example("admin");
    admin
        .env("ADMIN_PASSWORD", PASSWORD)
        .env("ADMIN_ADDR", "127.0.0.1:0");
    let admin = Process::start(admin);
    let pages = admin.line();
    let pages = pages.split('/').nth(2).unwrap().parse().unwrap();

    let summary = paste(printed.last().unwrap());
    assert!(summary.contains("1  204 No Content"), "{summary}");
    database.until_ended(1).await;
    let browser = Browser::start().await;
    browser.log_in(pages).await;
    browser.wait_for("COMPLETED").await;
    let row = browser.client.find(Locator::Css("tbody tr")).await.unwrap();
    let row = row.text().await.unwrap().replace('\n', " ");
    assert!(row.starts_with("JOB-"), "{row}");
    let failed_five_times = "event COMPLETED 5 the callback failed: the bank did not answer";
    assert!(row.contains(failed_five_times), "{row}");
    if let Ok(path) = env::var("MX_TEST_SCREENSHOT") {
        let page = browser.client.find(Locator::Css("html")).await.unwrap();
        fs::write(path, page.screenshot().await.unwrap()).unwrap();
    }
    // The board shows it too.
    browser.open(pages, "/queues/mx-jobs/Failed").await;
    browser.wait_for_task().await.click().await.unwrap();
    browser.wait_for("hidden").await;

    assert!(worker.stop("TERM").success());
    let _mended = work("0");
    browser.open(pages, "/dead-letters").await;
    browser.press(None, "Replay").await;
    browser.wait_for("Returned to the queue: 1").await;
    database.until_ended(1).await;
    assert_eq!(database.rows("status = 'Done'").await, 1);
    assert_eq!(database.effects().await.len(), 1);
    browser.open(pages, "/dead-letters").await;
    browser.wait_for("No dead letters here.").await;
    browser.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and PostgreSQL"]
async fn an_operator_finds_replays_and_discards_letters() {
    let error = "cannot read the accounts: the bank did not answer: timed out";
    let pages = Pages::with(&[
        ("A", "COMPLETED", error),
        ("B", "DENIED", "the job names no member"),
        ("C", "COMPLETED", error),
        ("D", "COMPLETED", error),
    ])
    .await;
    let address = serve(&pages).await;
    let browser = Browser::start().await;
    browser.log_in(address).await;
    let text = browser.text().await;
    assert!(text.contains(error), "{text}");

    browser.press(Some(A), "Replay").await;
    browser.wait_for("Returned to the queue: 1").await;
    assert_eq!(pages.waiting().await, ["A"]);
    assert!(!browser.text().await.contains(A));

    browser.discard(B).await;
    browser.wait_for("Discarded: 1").await;
    assert_eq!(pages.left().await, ["C", "D"]);

    let source = browser.client.source().await.unwrap();
    assert!(!source.contains("USR-secret"));
    let link = Locator::XPath("//tr[td[starts-with(text(), 'C ')]]//a");
    let link = browser.client.find(link).await.unwrap();
    link.click().await.unwrap();
    assert_eq!(browser.text().await, body("C", "COMPLETED"));
    browser.client.back().await.unwrap();

    browser.press(None, "Replay all").await;
    browser.wait_for("Returned to the queue: 2").await;
    assert_eq!(pages.waiting().await, ["A", "C", "D"]);
    browser.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and PostgreSQL"]
async fn a_hostile_letter_does_not_run() {
    let hostile = "</div><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>";
    let pages = Pages::with(&[(hostile, hostile, hostile)]).await;
    let address = serve(&pages).await;
    let browser = Browser::start().await;
    browser.log_in(address).await;
    let cell = Locator::Css("td.error div");
    let cell = browser.client.find(cell).await.unwrap();
    assert!(cell.text().await.unwrap().ends_with(hostile));
    assert!(browser.script("return window.ran ?? null").await.is_null());
    // If the text became an element, the policy would not let it run.
    let inserted = "const script = document.createElement('script'); \
        script.textContent = 'window.ran = 1'; document.body.append(script); return window.ran ?? null";
    assert!(browser.script(inserted).await.is_null());
    browser.press(None, "Replay").await;
    browser.wait_for("Returned to the queue: 1").await;
    browser.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and PostgreSQL"]
async fn another_site_can_do_nothing() {
    let letters = Pages::with(&[("A", "COMPLETED", "no")]).await;
    let pages = serve(&letters).await;
    let forms: String = ["replay", "discard", "replay-all"]
        .map(|path| {
            format!(
                "<form method=post action='http://{pages}/dead-letters/{path}'>\
                 <input name=name value='{A}'><input name=status><input name=kind><input name=after>\
                 <button>{path}!</button></form>"
            )
        })
        .concat();
    let frame = format!("<iframe src='http://{pages}/dead-letters'></iframe>");
    let page = Html(format!("<!doctype html>{forms}{frame}"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = Router::new().fallback(get(async || page));
    tokio::spawn(async move { axum::serve(listener, other).await });

    let browser = Browser::start().await;
    browser.log_in(pages).await;
    // For a browser, `localhost` is another site, and another port of 127.0.0.1 is the same site.
    for site in ["localhost", "127.0.0.1"] {
        for button in ["replay!", "discard!", "replay-all!"] {
            browser
                .client
                .goto(&format!("http://{site}:{port}/"))
                .await
                .unwrap();
            browser.press(None, button).await;
            // The browser has sent the password with the form: 401 is not the answer.
            browser.wait_for("HTTP ERROR 403").await;
            assert_eq!(letters.left().await, ["A"], "{site} {button}");
        }
        browser
            .client
            .goto(&format!("http://{site}:{port}/"))
            .await
            .unwrap();
        browser.client.enter_frame(0).await.unwrap();
        assert!(!browser.text().await.contains("Dead letters"), "{site}");
        browser.client.enter_parent_frame().await.unwrap();
    }
    browser.open(pages, "/dead-letters").await;
    browser.wait_for("Discard").await;
    browser.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium and PostgreSQL"]
async fn the_board_shows_the_queue_and_no_body() {
    let failed = ("COMPLETED", "the bank <i>did not</i> answer");
    let pages = Pages::with(&[
        ("Failed", failed.0, failed.1),
        ("Killed", failed.0, failed.1),
    ])
    .await;
    // As after a permanent failure.
    let killed = "UPDATE apalis.jobs SET status = 'Killed' WHERE idempotency_key LIKE 'Killed %'";
    sqlx::query(killed)
        .execute(&pages.database.pool)
        .await
        .unwrap();
    pages.deliver(body("Pending", "COMPLETED")).await;

    let address = serve(&pages).await;
    let browser = Browser::start().await;
    browser.log_in(address).await;
    let link = Locator::LinkText("Queue");
    let link = browser.client.find(link).await.unwrap();
    link.click().await.unwrap();
    browser.wait_for("mx-jobs").await;
    for status in ["Pending", "Failed", "Killed"] {
        for path in ["/queues/mx-jobs", "/tasks"] {
            browser.open(address, &format!("{path}/{status}")).await;
            let task = browser.wait_for_task().await;
            let source = browser.client.source().await.unwrap();
            assert!(!source.contains("USR-secret"), "{source}");
            task.click().await.unwrap();
            browser.wait_for("hidden").await;
            assert!(!browser.text().await.contains("Unhealthy"));
            let source = browser.client.source().await.unwrap();
            assert!(!source.contains("USR-secret"), "{source}");
        }
    }
    browser.client.close().await.unwrap();
}
