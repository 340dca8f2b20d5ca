use mx_job_webhook::JobRouter;

fn main() {
    let _ = JobRouter::new().on_completed("completed");
}
