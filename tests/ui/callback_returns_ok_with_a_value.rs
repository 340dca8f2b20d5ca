use mx_job_webhook::{JobEvent, JobRouter};

async fn completed(_: JobEvent) -> Result<u32, std::io::Error> {
    Ok(7)
}

fn main() {
    let _ = JobRouter::new().on_completed(completed);
}
