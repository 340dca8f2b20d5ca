use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::{Background, DedupeLayer, Job, Status};

fn main() {
    let event = Job::new("JOB-1".parse().unwrap(), Status::Completed).into();
    let _ = Background::new().run(DedupeLayer::new(MemoryLedger::new()), event);
}
