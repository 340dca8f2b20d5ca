use mx_job_webhook::{JobRouter, JobWebhookLayer};

fn main() {
    let _ = JobWebhookLayer::new("/admin/webhooks", JobRouter::new());
}
