use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::{Credentials, DedupeLayer, JobWebhook};

fn main() {
    let jobs = DedupeLayer::new(MemoryLedger::new());
    let _ = JobWebhook::new(Credentials::unauthenticated(), jobs).at("/webhooks");
}
