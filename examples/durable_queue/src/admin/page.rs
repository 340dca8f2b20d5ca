//! The page of dead letters: HTML from the server, without scripts.
//!
//! Every field of a letter may be hostile: the sender chooses the parts of the name, and the text of an error
//! may quote a bank. maud escapes them.

use axum::extract::{Query, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use maud::{DOCTYPE, Markup, html};
use mx_job_webhook::Status;
use mx_job_webhook::dead_letters::{Letter, LetterFilter, LetterKind, LetterPage};
use mx_job_webhook::job::Timestamp;
use mx_job_webhook::queue::JobQueue;
use serde::Deserialize;

/// The number of letters of a page.
const PER_PAGE: usize = 50;
const KINDS: [LetterKind; 3] = [
    LetterKind::Event,
    LetterKind::Undecodable,
    LetterKind::OtherWebhook,
];

/// Returns the routes of the page, at `/dead-letters`.
pub(super) fn routes(queue: JobQueue) -> Router {
    Router::new()
        .route("/dead-letters", get(show))
        .route("/dead-letters/body", get(body))
        .route("/dead-letters/replay", post(replay))
        .route("/dead-letters/discard", post(discard))
        .route("/dead-letters/replay-all", post(replay_all))
        .route("/dead-letters/style.css", get(style))
        .with_state(queue)
}

/// Which letters are shown, as the query and the forms have it. An empty field selects all.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Selection {
    status: String,
    kind: String,
    after: String,
}

impl Selection {
    /// Returns the filter by status and kind.
    fn filter(&self) -> Result<LetterFilter, Refusal> {
        let mut filter = LetterFilter::new();
        match (self.status.trim(), self.status.trim().parse::<i64>()) {
            ("", _) => {}
            (_, Ok(code)) => filter = filter.with_status(Status::from(code)),
            (name, Err(_)) => filter = filter.with_status(Status::from(name)),
        }
        if !self.kind.is_empty() {
            let kind = KINDS.into_iter().find(|kind| kind.name() == self.kind);
            filter = filter.with_kind(kind.ok_or(Refusal::Invalid("there is no such kind"))?);
        }
        Ok(filter)
    }

    /// Returns the filter with the bounds of the page.
    fn page(&self) -> Result<LetterFilter, Refusal> {
        let filter = self.filter()?.with_limit(PER_PAGE);
        if self.after.is_empty() {
            return Ok(filter);
        }
        let after = self.after.parse();
        Ok(filter.after(after.map_err(|_| Refusal::Invalid("there is no such page"))?))
    }

    fn path(&self, outcome: Outcome) -> String {
        let count = |count: Option<u64>| count.map_or(String::new(), |count| count.to_string());
        let fields = [
            ("status", self.status.clone()),
            ("kind", self.kind.clone()),
            ("after", self.after.clone()),
            ("replayed", count(outcome.replayed)),
            ("undecodable", count(outcome.undecodable)),
            ("busy", count(outcome.busy)),
            ("discarded", count(outcome.discarded)),
        ];
        let fields = fields.iter().filter(|(_, value)| !value.is_empty());
        let query = serde_urlencoded::to_string(fields.collect::<Vec<_>>());
        format!("/dead-letters?{}", query.unwrap_or_default())
    }
}

/// The numbers of letters that the last form concerned. A link of another site can contain them too, so the page
/// shows no text from a link.
#[derive(Clone, Copy, Default, Deserialize)]
struct Outcome {
    /// Returned to the queue.
    replayed: Option<u64>,
    /// Stay, because they cannot be decoded.
    undecodable: Option<u64>,
    /// Stay, because another process is replaying them.
    busy: Option<u64>,
    discarded: Option<u64>,
}

/// The button of one letter. All fields are required, so that a form that was cut off does nothing.
#[derive(Deserialize)]
struct OneLetter {
    name: String,
    status: String,
    kind: String,
    after: String,
}

impl OneLetter {
    /// Returns to the page on which the button was.
    fn back(self, outcome: Outcome) -> Redirect {
        let selection = Selection {
            status: self.status,
            kind: self.kind,
            after: self.after,
        };
        Redirect::to(&selection.path(outcome))
    }
}

/// The button of all letters. All fields are required, so that a form that was cut off does nothing.
#[derive(Deserialize)]
struct AllLetters {
    status: String,
    kind: String,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

/// A request that is not fulfilled.
#[derive(Debug)]
enum Refusal {
    Invalid(&'static str),
    NotFound,
    Unavailable(String),
}

impl Refusal {
    fn unavailable(error: impl std::fmt::Display) -> Self {
        Self::Unavailable(format!("the queue cannot be reached: {error:#}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Invalid(text) => (StatusCode::BAD_REQUEST, text.to_owned()),
            Self::NotFound => (StatusCode::NOT_FOUND, "there is no such letter".to_owned()),
            Self::Unavailable(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
        };
        (status, text + "\n").into_response()
    }
}

async fn show(
    State(queue): State<JobQueue>,
    Query(selection): Query<Selection>,
    Query(outcome): Query<Outcome>,
) -> Result<Markup, Refusal> {
    let page = queue.dead_letters(&selection.page()?).await;
    Ok(render(
        &page.map_err(Refusal::unavailable)?,
        &selection,
        outcome,
    ))
}

/// The body, as it came. Only this page shows it.
async fn body(
    State(queue): State<JobQueue>,
    Query(Name { name }): Query<Name>,
) -> Result<impl IntoResponse, Refusal> {
    let body = queue.dead_letter_body(&name).await;
    let body = body
        .map_err(Refusal::unavailable)?
        .ok_or(Refusal::NotFound)?;
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CONTENT_DISPOSITION, "inline"),
        (
            HeaderName::from_static("content-security-policy"),
            "default-src 'none'; frame-ancestors 'none'; sandbox",
        ),
    ];
    Ok((headers, body))
}

async fn replay(
    State(queue): State<JobQueue>,
    Form(letter): Form<OneLetter>,
) -> Result<Redirect, Refusal> {
    let mut outcome = Outcome::default();
    match queue.replay(&letter.name).await {
        Ok(was_there) => outcome.replayed = Some(was_there.into()),
        Err(error) if error.is_undecodable() => outcome.undecodable = Some(1),
        Err(error) if error.is_in_progress() => outcome.busy = Some(1),
        Err(error) => return Err(Refusal::unavailable(error)),
    }
    Ok(letter.back(outcome))
}

async fn discard(
    State(queue): State<JobQueue>,
    Form(letter): Form<OneLetter>,
) -> Result<Redirect, Refusal> {
    let was_there = queue.discard(&letter.name).await;
    let was_there = was_there.map_err(Refusal::unavailable)?;
    Ok(letter.back(Outcome {
        discarded: Some(was_there.into()),
        ..Outcome::default()
    }))
}

async fn replay_all(
    State(queue): State<JobQueue>,
    Form(all): Form<AllLetters>,
) -> Result<Redirect, Refusal> {
    let selection = Selection {
        status: all.status,
        kind: all.kind,
        after: String::new(),
    };
    let replayed = queue.replay_all(&selection.filter()?).await;
    let replayed = replayed.map_err(Refusal::unavailable)?;
    let some = |letters| (letters > 0).then_some(letters);
    Ok(Redirect::to(&selection.path(Outcome {
        replayed: Some(replayed.succeeded()),
        undecodable: some(replayed.failed()),
        busy: some(replayed.skipped()),
        discarded: None,
    })))
}

async fn style() -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "text/css; charset=utf-8")],
        include_str!("style.css"),
    )
}

fn render(page: &LetterPage, selection: &Selection, outcome: Outcome) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "Dead letters" }
                link rel="stylesheet" href="/dead-letters/style.css";
            }
            body {
                header {
                    h1 { "Dead letters" }
                    a href={ "/queues/" (super::QUEUE) } { "Queue" }
                }
                (notice(outcome))
                (filter(selection))
                @if page.letters().is_empty() {
                    p { "No dead letters here." }
                } @else {
                    (table(page.letters(), selection))
                }
                nav { (pages(page, selection)) }
            }
        }
    }
}

/// Says what the last form did.
fn notice(outcome: Outcome) -> Markup {
    let lines = [
        ("Returned to the queue", outcome.replayed),
        (
            "Kept, because the body cannot be decoded",
            outcome.undecodable,
        ),
        (
            "Skipped, because another process replays them",
            outcome.busy,
        ),
        ("Discarded", outcome.discarded),
    ];
    html! {
        @for (done, count) in lines {
            @if let Some(count) = count {
                p.notice role="status" { (done) ": " (count) }
            }
        }
    }
}

fn filter(selection: &Selection) -> Markup {
    html! {
        div.filter {
            form action="/dead-letters" {
                label { "Status " input name="status" value=(selection.status) size="14"; } " "
                label {
                    "Kind "
                    select name="kind" {
                        option value="" { "all" }
                        @for kind in KINDS.map(LetterKind::name) {
                            option value=(kind) selected[kind == selection.kind] { (kind) }
                        }
                    }
                } " "
                button { "Show" }
            }
            form method="post" action="/dead-letters/replay-all" {
                input type="hidden" name="status" value=(selection.status);
                input type="hidden" name="kind" value=(selection.kind);
                button { "Replay all" @for part in [&selection.status, &selection.kind] {
                    @if !part.is_empty() { " " (part) }
                } }
            }
        }
    }
}

fn table(letters: &[Letter], selection: &Selection) -> Markup {
    html! {
        form method="post" {
            input type="hidden" name="status" value=(selection.status);
            input type="hidden" name="kind" value=(selection.kind);
            input type="hidden" name="after" value=(selection.after);
            table {
                thead {
                    tr {
                        @for column in ["Name", "Kind", "Status", "Tries", "Last error", "When", ""] {
                            th { (column) }
                        }
                    }
                }
                tbody { @for letter in letters { (row(letter)) } }
            }
        }
    }
}

fn row(letter: &Letter) -> Markup {
    let name = serde_urlencoded::to_string([("name", letter.name())]).unwrap_or_default();
    let button = |path, text| {
        html! { button formaction=(path) name="name" value=(letter.name()) { (text) } " " }
    };
    html! {
        tr {
            td.name { (letter.name()) }
            td { (letter.kind().name()) }
            td { @if let Some(status) = letter.status() { (status) } }
            td { (letter.tries()) }
            td.error { div { (letter.error()) } }
            td { (time(letter.failed_at())) }
            td.buttons {
                (button("/dead-letters/replay", "Replay"))
                details {
                    summary { "Discard…" }
                    "It cannot be undone. "
                    (button("/dead-letters/discard", "Discard"))
                }
                a href={ "/dead-letters/body?" (name) } { "Body" }
            }
        }
    }
}

fn pages(page: &LetterPage, selection: &Selection) -> Markup {
    let link = |after: String, text| {
        let selection = Selection {
            after,
            ..selection.clone()
        };
        html! { a href=(selection.path(Outcome::default())) { (text) } " " }
    };
    html! {
        @if !selection.after.is_empty() { (link(String::new(), "First page")) }
        @if let Some(next) = page.next() { (link(next.to_string(), "Next page")) }
    }
}

/// Prints a time in UTC.
fn time(timestamp: Timestamp) -> String {
    match jiff::Timestamp::try_from(timestamp) {
        Ok(timestamp) => timestamp.strftime("%F %T UTC").to_string(),
        Err(_) => timestamp.unix_seconds().to_string(),
    }
}
