use mx_job_webhook::mount::JobWebhookLayer;
use mx_job_webhook::{JobRouter, JobWebhook};

fn main() {
    let _ = JobWebhookLayer::new("/admin/webhooks", JobRouter::new());
}
