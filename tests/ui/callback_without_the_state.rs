use mx_job_webhook::{JobEvent, JobRouter};

async fn completed(_: JobEvent) {}

fn main() {
    let _ = JobRouter::with_state(7).on_completed(completed).build();
}
