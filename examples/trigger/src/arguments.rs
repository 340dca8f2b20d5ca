//! The arguments of the command line.
#![allow(clippy::doc_markdown, reason = "the comments are the printed help")]

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use http::Uri;
use mx_job_webhook::Status;
use mx_job_webhook::job::JobGuid;

use super::webhook::Webhook;

/// Sends webhooks in MX's shape to an application: jobs, MX's other webhooks, or files
#[derive(Parser)]
#[command(name = "trigger", max_term_width = 100)]
pub(super) struct Arguments {
    /// URL of the webhooks, such as http://127.0.0.1:3000/admin/webhooks
    #[arg(value_parser = url)]
    pub(super) url: Uri,

    /// Status of the job; several, separated by commas, are sent one after another for each job;
    /// defaults to COMPLETED without --webhook and --file
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = status)]
    pub(super) status: Vec<Status>,

    /// Another of MX's webhooks, which share the URL: AGGREGATION, BALANCE, CONNECTION_STATUS,
    /// STATEMENT, VERIFICATION, initial_data_ready or micro_deposit; several, separated by commas, are
    /// sent after the statuses
    #[arg(long, value_name = "TYPE", value_delimiter = ',', value_parser = Webhook::parse)]
    pub(super) webhook: Vec<Webhook>,

    /// File with a body, which is sent as it is, after the others; - reads standard input; repeatable
    #[arg(long, value_name = "PATH")]
    pub(super) file: Vec<PathBuf>,

    /// User for HTTP Basic; defaults to MX_USER
    #[arg(long, env = "MX_USER", hide_env = true)]
    pub(super) user: Option<String>,

    /// Password for HTTP Basic; defaults to MX_PASSWORD, which other users of the machine do not see
    #[arg(long, env = "MX_PASSWORD", hide_env = true)]
    pub(super) password: Option<String>,

    /// Bearer token; defaults to MX_TOKEN
    #[arg(long, value_name = "TOKEN", env = "MX_TOKEN", hide_env = true)]
    pub(super) bearer: Option<String>,

    /// Number of jobs, each with its own GUID; webhooks and files are sent as often
    #[arg(long, value_name = "JOBS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) count: u32,

    /// GUID of the job, to send events of a known job
    #[arg(long, conflicts_with = "count", value_name = "JOB-…")]
    pub(super) guid: Option<JobGuid>,

    /// Requests per second, at most
    #[arg(long, value_name = "REQUESTS", default_value = "10", value_parser = rate)]
    pub(super) rate: f64,

    /// Number of duplicates of each request, sent after all requests
    #[arg(long, value_name = "TIMES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(super) duplicate: u32,

    /// Send in random order, with a new order for each round of duplicates
    #[arg(long)]
    pub(super) reorder: bool,

    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(super) timeout: Duration,
}

impl Arguments {
    /// Returns the statuses to send for each job.
    pub(super) fn statuses(&self) -> &[Status] {
        match self.status.is_empty() && self.webhook.is_empty() && self.file.is_empty() {
            true => &[Status::Completed],
            false => &self.status,
        }
    }

    /// Returns the value of the header `Authorization`, if there is one.
    pub(super) fn authorization(&self) -> Result<Option<String>, &'static str> {
        match (&self.user, &self.password, &self.bearer) {
            (None, None, None) => Ok(None),
            (None, None, Some(token)) => Ok(Some(format!("Bearer {token}"))),
            (Some(user), Some(password), None) => {
                let token = STANDARD.encode(format!("{user}:{password}"));
                Ok(Some(format!("Basic {token}")))
            }
            (Some(_), None, None) => Err("--user needs --password, or MX_PASSWORD"),
            (None, Some(_), None) => Err("--password needs --user, or MX_USER"),
            (_, _, Some(_)) => Err("it is either --user and --password or --bearer, not both"),
        }
    }
}

fn url(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|_| "it is no URL")?;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(_)) => Ok(url),
        _ => Err("it has to begin with http:// or https:// and a host".to_owned()),
    }
}

/// Accepts the statuses in MX's table. Any other is probably a spelling mistake.
fn status(name: &str) -> Result<Status, String> {
    match Status::from(name) {
        Status::Other(_) => Err(
            "MX sends CHALLENGED, COMPLETED, PREVENTED, DENIED and HALTED; it knows INITIATED, \
             REQUESTED, RECEIVED, TRANSFERRED and PROCESSED besides"
                .to_owned(),
        ),
        status => Ok(status),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("it is a number from 0.001 to 100000".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.001..=86_400.0).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err("it is a number of seconds from 0.001 to 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        let line = format!("trigger {line}");
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_valid() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    #[test]
    fn errors_name_the_accepted_values() {
        let cases = [
            ("", "required arguments were not provided"),
            ("127.0.0.1:3000", "http:// or https://"),
            ("ftp://127.0.0.1/", "http:// or https://"),
            ("/admin/webhooks", "http:// or https://"),
            (
                "http://a/ --status COMPLETD",
                "MX sends CHALLENGED, COMPLETED",
            ),
            ("http://a/ --status 6", "MX sends CHALLENGED, COMPLETED"),
            (
                "http://a/ --webhook BALANCES",
                "one of AGGREGATION, BALANCE, CONNECTION_STATUS",
            ),
            ("http://a/ --webhook JOB", "send any other body with --file"),
            ("http://a/ --count 0", "not in 1..=1000000"),
            ("http://a/ --count many", "invalid digit"),
            ("http://a/ --count 2 --guid JOB-1", "cannot be used with"),
            ("http://a/ --rate 0", "from 0.001 to 100000"),
            ("http://a/ --rate NaN", "from 0.001 to 100000"),
            ("http://a/ --timeout 0", "from 0.001 to 86400"),
            ("http://a/ --repeat", "unexpected argument"),
        ];
        for (line, expected) in cases {
            let Err(error) = parse(line) else {
                panic!("{line} is taken");
            };
            let error = error.to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn several_statuses_are_accepted_in_any_case() {
        let arguments = parse("http://a/ --status challenged,Completed --status HALTED").unwrap();
        let expected = [Status::Challenged, Status::Completed, Status::Halted];
        assert_eq!(arguments.status, expected);
    }

    #[test]
    fn a_completed_job_is_sent_unless_something_else_is_named() {
        let statuses = |more: &str| {
            let arguments = parse(&format!("http://a/ {more}")).unwrap();
            arguments.statuses().to_vec()
        };
        assert_eq!(statuses(""), [Status::Completed]);
        assert_eq!(statuses("--webhook balance"), []);
        assert_eq!(statuses("--file a.json --file -"), []);
        let both = "--webhook BALANCE --status HALTED";
        assert_eq!(statuses(both), [Status::Halted]);
    }

    #[test]
    fn incomplete_credentials_are_an_error() {
        let cases = [
            ("", Ok(None)),
            (
                "--user mx --password secret",
                Ok(Some("Basic bXg6c2VjcmV0")),
            ),
            ("--bearer abc", Ok(Some("Bearer abc"))),
            ("--user mx", Err("--user needs")),
            ("--password secret", Err("--password needs")),
            ("--user mx --password a --bearer b", Err("either")),
            ("--password a --bearer b", Err("either")),
        ];
        for (more, expected) in cases {
            let arguments = parse(&format!("http://a/ {more}")).unwrap();
            match (arguments.authorization(), expected) {
                (Ok(header), Ok(expected)) => assert_eq!(header.as_deref(), expected, "{more}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{more}: {error}"),
                (header, _) => panic!("{more}: {header:?}"),
            }
        }
    }

    #[test]
    fn the_help_explains_every_argument() {
        use clap::CommandFactory as _;
        let command = Arguments::command();
        let unexplained = command
            .get_arguments()
            .find(|argument| argument.get_help().is_none());
        assert!(unexplained.is_none(), "{unexplained:?}");
        let help = parse("--help").err().unwrap().to_string();
        for argument in [
            "--status",
            "--webhook",
            "--file",
            "--user",
            "--password",
            "--count",
            "--rate",
            "--duplicate",
            "--reorder",
        ] {
            assert!(help.contains(argument), "{argument}");
        }
    }
}
