use mx_job_webhook::{JobEvent, JobRouter};

fn completed(_: JobEvent) {}

fn main() {
    let _ = JobRouter::new().on_completed(completed);
}
