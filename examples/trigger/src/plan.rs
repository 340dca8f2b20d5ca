//! The requests, in the order in which they are sent.

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fastrand::Rng;
use mx_job_webhook::job::{JobGuid, Timestamp};
use mx_job_webhook::{Job, JobEvent, Status};

use super::Arguments;

/// Returns the bodies, one per request.
pub(super) fn bodies(arguments: &Arguments) -> Result<Vec<Bytes>, Box<dyn Error>> {
    let mut random = Rng::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let now = i64::try_from(now)?;
    // 48 random bits, so that two runs do not share jobs.
    let run = random.u64(..1 << 48);
    let mut all = Vec::new();
    for number in 0..arguments.count {
        for (seconds, status) in (0_i64..).zip(&arguments.status) {
            let job = job(arguments.guid.clone(), run, number, status, now + seconds)?;
            all.push(JobEvent::from(job).body().clone());
        }
    }
    let mut bodies = Vec::new();
    for _ in 0..=arguments.duplicate {
        let mut round = all.clone();
        if arguments.reorder {
            random.shuffle(&mut round);
        }
        bodies.append(&mut round);
    }
    Ok(bodies)
}

/// Returns a job in MX's shape, with its own member and user.
fn job(
    guid: Option<JobGuid>,
    run: u64,
    number: u32,
    status: &Status,
    now: i64,
) -> Result<Job, Box<dyn Error>> {
    let unique = |kind| format!("{kind}-{number:08x}-0000-4000-8000-{run:012x}");
    let guid = match guid {
        Some(guid) => guid,
        None => unique("JOB").parse()?,
    };
    let ended = !matches!(status, Status::Challenged) && status.is_actionable();
    let failed = ended && *status != Status::Completed;
    let mut job = Job::new(guid, status.clone());
    job.created_at = Some(Timestamp::from_unix_seconds(now - 3));
    job.started_at = Some(Timestamp::from_unix_seconds(now - 2));
    job.finished_at = ended.then(|| Timestamp::from_unix_seconds(now));
    job.updated_at = Some(Timestamp::from_unix_seconds(now));
    job.is_authenticated = Some(*status == Status::Completed);
    job.error_message = failed.then(|| "sent by the example trigger".to_owned());
    job.institution_guid = Some(unique("INS").parse()?);
    job.member_guid = Some(unique("MBR").parse()?);
    job.user_guid = Some(unique("USR").parse()?);
    job.user_id = Some(number.to_string().parse()?);
    Ok(job)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::Parser as _;

    use super::*;

    fn jobs(more: &str) -> Vec<Job> {
        let line = format!("trigger http://a/ {more}");
        let arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
        let bodies = bodies(&arguments).unwrap();
        bodies
            .iter()
            .map(|body| Job::decode(body).unwrap())
            .collect()
    }

    #[test]
    fn each_job_has_its_own_guid_and_its_statuses_in_order() {
        let jobs = jobs("--count 3 --status CHALLENGED,COMPLETED");
        assert_eq!(jobs.len(), 6);
        for story in jobs.chunks(2) {
            assert_eq!(story[0].guid, story[1].guid);
            assert_eq!(story[0].status, Status::Challenged);
            assert!(story[0].updated_at < story[1].updated_at);
        }
        let guids: HashSet<_> = jobs.iter().map(|job| &job.guid).collect();
        assert_eq!(guids.len(), 3);
    }

    #[test]
    fn another_run_sends_other_jobs_unless_the_guid_is_given() {
        assert_ne!(jobs("")[0].guid, jobs("")[0].guid);
        assert_eq!(jobs("--guid JOB-1")[0].guid, "JOB-1");
    }

    #[test]
    fn duplicates_follow_all_requests_and_reordering_loses_none() {
        let in_order = jobs("--count 50 --duplicate 1");
        assert_eq!(in_order[..50], in_order[50..]);
        let shuffled = jobs("--count 50 --duplicate 1 --reorder");
        let guids: Vec<_> = shuffled[..50].iter().map(|job| &job.guid).collect();
        assert!(!guids.is_sorted());
        assert_eq!(guids.iter().collect::<HashSet<_>>().len(), 50);
        assert_ne!(shuffled[..50], shuffled[50..]);
    }
}
