use axum::{Router, routing::post};
use mx_job_webhook::JobEvent;

async fn webhook(_: JobEvent) {}

fn main() {
    let _: Router = Router::new().route("/admin/webhooks", post(webhook));
}
