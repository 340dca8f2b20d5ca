use mx_job_webhook::{JobEvent, JobRouter};

async fn completed(_: JobEvent) -> u32 {
    7
}

fn main() {
    let _ = JobRouter::new().on_completed(completed);
}
