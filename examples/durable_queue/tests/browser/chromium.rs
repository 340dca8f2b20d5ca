//! The pages in Chromium: an operator uses them, and another site cannot.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use apalis::prelude::TaskBuilder;
use apalis_postgres::{PostgresStorage, queries};
use axum::Router;
use axum::response::Html;
use axum::routing::get;
use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use harness::Process;
use hyper_util::client::legacy::connect::HttpConnector;
use mx_job_webhook::Status;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tokio::net::TcpListener;

use crate::admin;
use crate::fake::{BODY, Fake, letter};

/// A limit that is far longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(30);

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
        let with_password = format!("http://ops:secret@{pages}/dead-letters");
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

    /// Presses a button, in the row of a letter if it is named.
    async fn press(&self, letter: Option<&str>, button: &str) {
        let row = letter.map_or(String::new(), |name| format!("//tr[td[text()='{name}']]"));
        let path = format!("{row}//button[starts-with(text(), '{button}')]");
        let button = self.client.find(Locator::XPath(&path)).await.unwrap();
        button.click().await.unwrap();
    }

    async fn text(&self) -> String {
        let body = self.client.find(Locator::Css("body")).await.unwrap();
        body.text().await.unwrap()
    }

    async fn script(&self, script: &str) -> serde_json::Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }
}

/// Starts the pages with these letters.
async fn serve(fake: &Fake, pool: PgPool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fake = fake.clone();
    tokio::spawn(async move {
        let never = std::future::pending();
        admin::serve(listener, fake, pool, "secret", never)
            .await
            .unwrap();
    });
    address
}

fn nowhere() -> PgPool {
    PgPool::connect_lazy("postgres://nobody@127.0.0.1:9/none").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium: install chromium and chromium-driver"]
async fn an_operator_finds_replays_and_discards_letters() {
    let error = "the callback failed: cannot read the accounts: the bank did not answer: timed out";
    let fake = Fake::new([
        letter("JOB-1a2b.COMPLETED.1790000000", Status::Completed, error),
        letter(
            "JOB-3c4d.DENIED.1790000100",
            Status::Denied,
            "the job names no member",
        ),
        letter("JOB-5e6f.COMPLETED.1790000200", Status::Completed, error),
        letter("JOB-7a8b.COMPLETED.1790000300", Status::Completed, error),
    ]);
    let pages = serve(&fake, nowhere()).await;
    let browser = Browser::start().await;
    browser.log_in(pages).await;
    let text = browser.text().await;
    assert!(
        text.contains(error) && text.contains("2026-09-21 14:13:20 UTC"),
        "{text}"
    );
    if let Ok(path) = env::var("MX_TEST_SCREENSHOT") {
        let body = browser.client.find(Locator::Css("html")).await.unwrap();
        fs::write(path, body.screenshot().await.unwrap()).unwrap();
    }

    browser
        .press(Some("JOB-1a2b.COMPLETED.1790000000"), "Replay")
        .await;
    browser.wait_for("One letter was replayed.").await;
    assert_eq!(fake.replayed(), ["JOB-1a2b.COMPLETED.1790000000"]);
    assert!(!browser.text().await.contains("JOB-1a2b"));

    browser
        .press(Some("JOB-3c4d.DENIED.1790000100"), "Discard")
        .await;
    browser.wait_for("One letter was discarded.").await;
    assert!(!browser.text().await.contains("JOB-3c4d"));
    assert_eq!(fake.replayed().len(), 1);

    assert!(
        !browser
            .client
            .source()
            .await
            .unwrap()
            .contains("USR-secret")
    );
    let link = browser
        .client
        .find(Locator::LinkText("Body"))
        .await
        .unwrap();
    link.click().await.unwrap();
    assert_eq!(browser.text().await, BODY);
    browser.client.back().await.unwrap();

    browser.press(None, "Replay all").await;
    browser.wait_for("2 letters were replayed.").await;
    assert!(fake.left().is_empty());
    browser.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium: install chromium and chromium-driver"]
async fn a_hostile_letter_does_not_run() {
    let hostile = "</div><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>";
    let fake = Fake::new([letter(hostile, Status::from(hostile), hostile)]);
    let pages = serve(&fake, nowhere()).await;
    let browser = Browser::start().await;
    browser.log_in(pages).await;
    let cell = browser
        .client
        .find(Locator::Css("td.error div"))
        .await
        .unwrap();
    assert_eq!(cell.text().await.unwrap(), hostile);
    assert!(browser.script("return window.ran ?? null").await.is_null());
    // If the text became an element, the policy would not let it run.
    let inserted = "const script = document.createElement('script'); \
        script.textContent = 'window.ran = 1'; document.body.append(script); return window.ran ?? null";
    assert!(browser.script(inserted).await.is_null());
    browser.press(None, "Discard").await;
    browser.wait_for("One letter was discarded.").await;
    browser.client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium: install chromium and chromium-driver"]
async fn another_site_can_do_nothing() {
    let fake = Fake::new([letter("A", Status::Completed, "no")]);
    let pages = serve(&fake, nowhere()).await;
    let forms: String = ["replay", "discard", "replay-all"]
        .map(|path| {
            format!(
                "<form method=post action='http://{pages}/dead-letters/{path}'>\
                 <input name=name value=A><input name=status><input name=kind><input name=after>\
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
            assert_eq!(fake.left(), ["A"], "{site} {button}");
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
#[ignore = "needs Chromium and PostgreSQL: install chromium and chromium-driver, set MX_TEST_POSTGRES_URL"]
async fn the_board_shows_the_queue_and_no_body() {
    let server: PgConnectOptions = env::var("MX_TEST_POSTGRES_URL").unwrap().parse().unwrap();
    let name = format!("mx_test_{:016x}", fastrand::u64(..));
    let mut admin = PgConnection::connect_with(&server).await.unwrap();
    let create = format!("CREATE DATABASE {name} TEMPLATE template0");
    sqlx::query(AssertSqlSafe(create))
        .execute(&mut admin)
        .await
        .unwrap();
    let pool = PgPool::connect_with(server.database(&name)).await.unwrap();

    PostgresStorage::setup(&pool).await.unwrap();
    for status in ["Pending", "Failed", "Killed"] {
        let body = r#"{"job": {"user_guid": "USR-secret"}}"#;
        let task = TaskBuilder::new(body.into())
            .idempotency_key(status)
            .max_attempts(5)
            .build();
        let mut connection = pool.acquire().await.unwrap();
        queries::push_tasks(&mut *connection, "mx-jobs", vec![task])
            .await
            .unwrap();
        sqlx::query("UPDATE apalis.jobs SET status = $1 WHERE idempotency_key = $1")
            .bind(status)
            .execute(&pool)
            .await
            .unwrap();
    }

    let pages = serve(&Fake::default(), pool.clone()).await;
    let browser = Browser::start().await;
    browser.log_in(pages).await;
    let link = browser
        .client
        .find(Locator::LinkText("Queue"))
        .await
        .unwrap();
    link.click().await.unwrap();
    browser.wait_for("mx-jobs").await;
    for status in ["Pending", "Failed", "Killed"] {
        for path in ["/queues/mx-jobs", "/tasks"] {
            browser.open(pages, &format!("{path}/{status}")).await;
            let row = Locator::Css("td a");
            let task = browser
                .client
                .wait()
                .at_most(PATIENCE)
                .for_element(row)
                .await
                .unwrap();
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
    pool.close().await;
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    sqlx::query(AssertSqlSafe(drop))
        .execute(&mut admin)
        .await
        .unwrap();
}
