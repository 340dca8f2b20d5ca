use std::error::Error;

use mx_job_webhook::{JobEvent, JobRouter};

async fn completed(event: JobEvent) -> Result<(), Box<dyn Error>> {
    std::fs::write("/tmp/job", event.guid.as_str())?;
    Ok(())
}

fn main() {
    let _ = JobRouter::new().on_completed(completed);
}
