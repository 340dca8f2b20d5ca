use mx_job_webhook::{Credentials, Error, JobEvent, JobRouter, JobWebhook, Receipt};
use tower::util::BoxCloneService;

fn main() {
    let jobs: BoxCloneService<JobEvent, Receipt, Error> = BoxCloneService::new(JobRouter::new());
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), jobs);
    let _: axum::Router = axum::Router::new().layer(webhooks.at("/webhooks"));
}
