use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tower::ServiceBuilder;

fn main() {
    let jobs = ServiceBuilder::new()
        .rate_limit(10, std::time::Duration::from_secs(1))
        .service(JobRouter::new());
    let _ = JobWebhook::new(Credentials::unauthenticated(), jobs).at("/webhooks");
}
