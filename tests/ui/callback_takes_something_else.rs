use mx_job_webhook::{Job, JobRouter};

async fn completed(_: Job) {}

fn main() {
    let _ = JobRouter::new().on_completed(completed);
}
