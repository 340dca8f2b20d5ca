//! The requests, in the order in which they are sent.

use std::error::Error;
use std::io::{Read as _, stdin};
use std::path::PathBuf;
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
    let files = files(arguments)?;
    let mut all = Vec::new();
    for number in 0..arguments.count {
        for (seconds, status) in (0_i64..).zip(arguments.statuses()) {
            let job = job(arguments.guid.clone(), run, number, status, now + seconds)?;
            all.push(JobEvent::from(job).body().clone());
        }
        for webhook in &arguments.webhook {
            let unique = |kind: &str| match (kind, &arguments.guid) {
                ("JOB", Some(guid)) => guid.to_string(),
                _ => unique(kind, number, run),
            };
            all.push(webhook.body(unique, now)?);
        }
        all.extend(files.iter().cloned());
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

/// Reads the files, and standard input for `-`. Their content is not checked.
fn files(arguments: &Arguments) -> Result<Vec<Bytes>, Box<dyn Error>> {
    let read = |path: &PathBuf| {
        let content = match path.as_os_str() == "-" {
            true => {
                let mut content = Vec::new();
                stdin().read_to_end(&mut content).map(|_| content)
            }
            false => std::fs::read(path),
        };
        content
            .map(Bytes::from)
            .map_err(|error| format!("{}: {error}", path.display()).into())
    };
    arguments.file.iter().map(read).collect()
}

/// Returns an id of one kind, such as `MBR`, of this job and this run.
fn unique(kind: &str, number: u32, run: u64) -> String {
    format!("{kind}-{number:08x}-0000-4000-8000-{run:012x}")
}

/// Returns a job in MX's shape, with its own member and user.
fn job(
    guid: Option<JobGuid>,
    run: u64,
    number: u32,
    status: &Status,
    now: i64,
) -> Result<Job, Box<dyn Error>> {
    let unique = |kind| unique(kind, number, run);
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

    #[test]
    fn webhooks_and_files_follow_the_statuses_of_each_job() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/completed.json"
        );
        let line = "trigger http://a/ --count 2 --status HALTED --webhook AGGREGATION,balance";
        let line = line.split_whitespace().chain(["--file", path]);
        let bodies = bodies(&Arguments::try_parse_from(line).unwrap()).unwrap();
        assert_eq!(bodies.len(), 8);
        for round in bodies.chunks(4) {
            let halted = Job::decode(&round[0]).unwrap();
            assert_eq!(halted.status, Status::Halted);
            let guid = format!("\"job_guid\":\"{}\"", halted.guid);
            let aggregation = std::str::from_utf8(&round[1]).unwrap();
            assert!(aggregation.contains(&guid), "{aggregation}");
            let balance = std::str::from_utf8(&round[2]).unwrap();
            assert!(balance.contains("\"BALANCE\""), "{balance}");
            assert_eq!(round[3], std::fs::read(path).unwrap());
        }
        assert_ne!(bodies[..3], bodies[4..7], "each job has its own ids");
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let line = ["trigger", "http://a/", "--file", "/no/such.json"];
        let error = bodies(&Arguments::try_parse_from(line).unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("/no/such.json: "), "{error}");
    }
}
