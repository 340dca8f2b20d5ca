use mx_job_webhook::{JobEvent, JobRouter};

#[derive(Clone)]
struct App;

async fn completed(_: App, _: JobEvent) {}

fn main() {
    let _ = JobRouter::new().on_completed(completed);
}
