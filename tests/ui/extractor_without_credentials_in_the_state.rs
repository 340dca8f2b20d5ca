use axum::{Router, routing::post};
use mx_job_webhook::JobEvent;

#[derive(Clone)]
struct App;

async fn webhook(_: JobEvent) {}

fn main() {
    let _: Router = Router::new().route("/admin/webhooks", post(webhook)).with_state(App);
}
