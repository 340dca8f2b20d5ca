use mx_job_webhook::{Background, Job, JobRouter, Status};

fn main() {
    let event = Job::new("JOB-1".parse().unwrap(), Status::Completed).into();
    let jobs = JobRouter::with_state(1).on_completed(|_, _| async {});
    let _ = Background::new().run(jobs, event);
}
