//! Decode: turns the body of an authenticated request into an event.

use bytes::Bytes;

use super::authenticate::Head;
use super::receive::Refusal;
use crate::error::ErrorKind;
use crate::event::{JobEvent, OtherWebhook, Source, Undecodable};
use crate::job::Job;

pub(super) fn decode(head: Head, body: Bytes) -> Result<JobEvent, Refusal> {
    match Job::decode(&body) {
        Ok(job) => {
            let mut event = JobEvent::new(job, body, head.headers, head.extensions);
            event.set_source(Source::Webhook);
            Ok(event)
        }
        Err(error) if error.kind() == ErrorKind::UnexpectedWebhook => {
            let webhook = OtherWebhook::new(body, head.headers, head.extensions);
            Err(Refusal::OtherWebhook(Box::new(webhook), error))
        }
        Err(error) => Err(Refusal::Undecodable(Box::new(Undecodable::new(
            error,
            body,
            head.headers,
            head.extensions,
        )))),
    }
}
