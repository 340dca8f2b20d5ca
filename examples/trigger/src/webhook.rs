//! MX's other webhooks, which have no root key `job`. MX sends them to the same URL unless asked for
//! another one.
//!
//! Fields and their types follow the page of each kind in MX's documentation of webhooks.

use std::error::Error;
use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Webhook {
    Aggregation,
    Balance,
    ConnectionStatus,
    InitialDataReady,
    MicroDeposit,
    Statement,
    Verification,
}

impl Webhook {
    pub(super) const ALL: [Self; 7] = [
        Self::Aggregation,
        Self::Balance,
        Self::ConnectionStatus,
        Self::InitialDataReady,
        Self::MicroDeposit,
        Self::Statement,
        Self::Verification,
    ];

    /// Returns its `type`, or the root key of a webhook without one.
    fn name(self) -> &'static str {
        match self {
            Self::Aggregation => "AGGREGATION",
            Self::Balance => "BALANCE",
            Self::ConnectionStatus => "CONNECTION_STATUS",
            Self::InitialDataReady => "initial_data_ready",
            Self::MicroDeposit => "micro_deposit",
            Self::Statement => "STATEMENT",
            Self::Verification => "VERIFICATION",
        }
    }

    /// Reads a name in any case.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|webhook| webhook.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("it is one of {names}; send any other body with --file")
        })
    }

    /// Returns its body. `unique` makes an id from its prefix, such as `MBR`.
    pub(super) fn body(
        self,
        unique: impl Fn(&str) -> String,
        unix_seconds: i64,
    ) -> Result<Bytes, Box<dyn Error>> {
        let name = self.name();
        let [job, member, user] = ["JOB", "MBR", "USR"].map(&unique);
        let now = Timestamp::from_second(unix_seconds)?.to_string();
        let date = now.get(..10).unwrap_or_default();
        let of_member = format!(r#""type":"{name}","member_guid":"{member}","user_guid":"{user}""#);
        let updated = format!(
            r#"{of_member},"action":"member_data_updated","completed_at":{unix_seconds},"completed_on":"{date}""#
        );
        let body = match self {
            Self::Aggregation => format!(
                r#"{{{updated},"is_background":true,"job_guid":"{job}","transactions_created_count":3,"transactions_updated_count":2,"user_id":null}}"#
            ),
            Self::Balance => format!("{{{updated}}}"),
            // In the table of connection statuses, 3 is CHALLENGED.
            Self::ConnectionStatus => format!(
                r#"{{{of_member},"action":"CHANGED","connection_status":"CHALLENGED","connection_status_id":3,"connection_status_message":"sent by the example trigger"}}"#
            ),
            Self::InitialDataReady => {
                let (client, guid) = (unique("CLT"), unique("WEB"));
                // Its guid has no prefix.
                let guid = guid.trim_start_matches("WEB-");
                format!(r#"{{{of_member},"client_guid":"{client}","guid":"{guid}"}}"#)
            }
            // It has a status of its own, but no job.
            Self::MicroDeposit => {
                let guid = unique("MIC");
                format!(
                    r#"{{"action":"created","version":1,"micro_deposit":{{"account_number":"000000000","account_type":1,"created_at":"{now}","guid":"{guid}","institution_guid":null,"routing_number":"000000000","status":0,"status_name":"INITIATED","updated_at":"{now}","user_guid":"{user}","user_id":null}}}}"#
                )
            }
            Self::Statement => format!(r#"{{{updated},"statements_created_count":3}}"#),
            Self::Verification => {
                let account = unique("ACT");
                format!(
                    r#"{{{updated},"accounts":["{account}"],"job_guid":"{job}","user_id":null}}"#
                )
            }
        };
        Ok(body.into())
    }
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use mx_job_webhook::{ErrorKind, Job};

    use super::*;

    #[test]
    fn each_body_is_json_of_another_kind_than_a_job() {
        for webhook in Webhook::ALL {
            let unique = |kind: &str| format!("{kind}-1");
            let body = webhook.body(unique, 1_531_947_410).unwrap();
            let text = std::str::from_utf8(&body).unwrap();
            // The decoder tells valid JSON of another webhook from text that is not JSON.
            let error = Job::decode(&body).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedWebhook, "{text}");
            assert!(text.contains(&format!("\"{webhook}\"")), "{text}");
            assert!(text.contains("USR-1"), "{text}");
            if text.contains("completed_on") {
                assert!(text.contains("\"2018-07-18\""), "{text}");
            }
        }
    }
}
