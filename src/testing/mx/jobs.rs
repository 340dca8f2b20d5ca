//! A stand-in for MX's endpoint *Read job*.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::job::JobGuid;
use crate::testing::Sample;

/// MX's jobs, as *Read job* of its API shows them: a stand-in for that endpoint.
///
/// [`Mx::jobs`](super::Mx::jobs) returns it. A job is in the state of the sample that was sent of it
/// last, also if the delivery was lost. Clones share the jobs.
///
/// The answers have the form of MX's *Read job*: the dates are ISO 8601, and the partner's own ids are
/// left out.
#[derive(Clone, Default)]
pub struct MxJobs {
    jobs: Arc<Mutex<HashMap<JobGuid, Sample>>>,
}

impl MxJobs {
    /// Reads a job: the body of the answer.
    ///
    /// # Errors
    ///
    /// [`NoSuchJob`] if no sample of the job was sent or set.
    pub async fn read(&self, job: &JobGuid) -> Result<Bytes, NoSuchJob> {
        let sample = self.jobs().get(job).cloned();
        sample.map(|sample| body(&sample)).ok_or(NoSuchJob)
    }

    /// Sets the state of a job without a delivery, such as a status of which MX sends none.
    pub fn set(&self, sample: &Sample) {
        if let Some(guid) = sample.text("guid").and_then(|guid| guid.parse().ok()) {
            self.jobs().insert(guid, sample.clone());
        }
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobGuid, Sample>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn body(sample: &Sample) -> Bytes {
    let body = sample.body();
    let Ok(mut webhook) = serde_json::from_slice::<Map<String, Value>>(&body) else {
        return body;
    };
    if let Some(Value::Object(job)) = webhook.get_mut("job") {
        for name in ["user_id", "member_id"] {
            job.remove(name);
        }
        for name in ["created_at", "started_at", "finished_at", "updated_at"] {
            if let Some(seconds) = job.get(name).and_then(Value::as_i64) {
                if let Ok(date) = jiff::Timestamp::from_second(seconds) {
                    job.insert(name.to_owned(), date.to_string().into());
                }
            }
        }
        job.insert("error_message_code".to_owned(), Value::Null);
    }
    Value::Object(webhook).to_string().into()
}

impl fmt::Debug for MxJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MxJobs")
            .field("jobs", &self.jobs().len())
            .finish()
    }
}

/// The error of reading a job that does not exist: MX's 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchJob;

impl fmt::Display for NoSuchJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no such job")
    }
}

impl std::error::Error for NoSuchJob {}
