use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook};

fn main() {
    let jobs = JobRouter::with_state("app")
        .on_completed(|app: &str, event: JobEvent| async move { println!("{app}: {event:?}") });
    let _ = JobWebhook::new(Credentials::unauthenticated(), jobs).at("/webhooks");
}
