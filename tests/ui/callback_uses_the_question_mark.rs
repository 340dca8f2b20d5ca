use mx_job_webhook::JobRouter;

fn main() {
    let _ = JobRouter::new().on_completed(|event| async move {
        std::fs::write("/tmp/job", event.guid.as_str())?;
        Ok(())
    });
}
