//! A request is let in exactly if its header has one of the secrets.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use mx_job_webhook::credentials::bearer_token;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tower::ServiceExt as _;

use crate::{ready, shown};

/// The input is lines: the kinds of credentials (`b`, `t`, `v`, or `u`), a user, a password, a token, and a value for
/// each `Authorization` header. In these, `{basic}` and `{token}` stand for the right secrets.
///
/// A request is accepted exactly if it has one header, and the reference finds a secret in it. A refusal is the same
/// as for a request without credentials, so it shows none.
pub(crate) fn check(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let kinds = lines.next().unwrap_or_default();
    let mut text = || std::str::from_utf8(lines.next().unwrap_or_default()).ok();
    let (Some(user), Some(password), Some(token)) = (text(), text(), text()) else {
        return;
    };
    let secrets = Secrets {
        user,
        password,
        token,
    };
    let Some(credentials) = secrets.credentials(kinds) else {
        return;
    };
    let headers: Vec<Vec<u8>> = lines.map(|line| secrets.filled_in(line)).collect();
    let webhooks = JobWebhook::new(credentials, JobRouter::new());

    let Some(answer) = answer(&webhooks, &headers) else {
        return;
    };
    let accepted = secrets.accept(kinds, &headers);
    assert_eq!(answer.status() == 204, accepted, "{}", shown(&answer));
    if !accepted {
        let none = self::answer(&webhooks, &[]).map(|answer| shown(&answer));
        if !kinds.contains(&b'u') {
            assert_eq!(Some(shown(&answer)), none);
        }
        assert_eq!(answer.status(), 401);
    }
}

/// Returns the answer to a delivery with these headers, if a request can have them.
fn answer(webhooks: &JobWebhook<JobRouter>, headers: &[Vec<u8>]) -> Option<Response<Empty<Bytes>>> {
    let mut delivery = Request::post("/").header("content-type", "application/json");
    for header in headers {
        delivery = delivery.header("authorization", header.as_slice());
    }
    let body = Full::new(Bytes::from_static(
        br#"{"job":{"guid":"JOB-1","status":6}}"#,
    ));
    let delivery = delivery.body(body).ok()?;
    ready(webhooks.clone().oneshot(delivery)).ok()
}

struct Secrets<'a> {
    user: &'a str,
    password: &'a str,
    token: &'a str,
}

impl Secrets<'_> {
    fn credentials(&self, kinds: &[u8]) -> Option<Credentials> {
        if kinds.contains(&b'u') {
            return Some(Credentials::unauthenticated());
        }
        let control = |text: &str| text.chars().any(char::is_control);
        let mut all = Vec::new();
        if kinds.contains(&b'b') {
            let basic = Credentials::basic(self.user, self.password);
            let can_be_sent =
                !self.user.is_empty() && !self.password.is_empty() && !self.user.contains(':');
            let is_plain = !control(self.user) && !control(self.password);
            assert_eq!(basic.is_ok(), can_be_sent && is_plain);
            all.push(basic.ok()?);
        }
        if kinds.contains(&b't') {
            let bearer = Credentials::bearer(self.token);
            let is_visible = self
                .token
                .chars()
                .all(|character| ('!'..='~').contains(&character));
            assert_eq!(bearer.is_ok(), is_visible && !self.token.is_empty());
            all.push(bearer.ok()?);
        }
        if kinds.contains(&b'v') {
            let token = self.token.to_owned();
            all.push(Credentials::verify(move |head| {
                let is_right = bearer_token(head) == Some(&token);
                async move { is_right }
            }));
        }
        all.into_iter().reduce(Credentials::or)
    }

    fn accept(&self, kinds: &[u8], headers: &[Vec<u8>]) -> bool {
        if kinds.contains(&b'u') {
            return headers.len() < 2;
        }
        let [header] = headers else {
            return false;
        };
        (kinds.contains(&b'b')
            && basic(header) == Some(format!("{}:{}", self.user, self.password).into_bytes()))
            || (kinds.contains(&b't')
                && after_scheme(header, "bearer") == Some(self.token.as_bytes()))
            || (kinds.contains(&b'v')
                && after_scheme(header, "bearer") == Some(self.token.as_bytes())
                && is_b64token(self.token))
    }

    /// Replaces `{basic}` and `{token}` by the secrets.
    fn filled_in(&self, line: &[u8]) -> Vec<u8> {
        let mut filled = Vec::new();
        let mut rest = line;
        while let Some((first, after)) = rest.split_first() {
            if let Some(after) = rest.strip_prefix(b"{basic}") {
                filled.extend(base64(
                    format!("{}:{}", self.user, self.password).as_bytes(),
                ));
                rest = after;
            } else if let Some(after) = rest.strip_prefix(b"{token}") {
                filled.extend(self.token.as_bytes());
                rest = after;
            } else {
                filled.push(*first);
                rest = after;
            }
        }
        filled
    }
}

/// Returns the user and the password of RFC 7617, separated by a colon.
fn basic(header: &[u8]) -> Option<Vec<u8>> {
    let token = after_scheme(header, "basic")?;
    if token.len() % 4 != 0 {
        return None;
    }
    let padding = token.iter().rev().take_while(|byte| **byte == b'=').count();
    let mut bits = Vec::new();
    for byte in &token[..token.len() - padding] {
        let sextet = ALPHABET.iter().position(|digit| digit == byte)?;
        bits.extend((0..6).rev().map(|bit| sextet >> bit & 1));
    }
    let (whole, left) = bits.split_at(bits.len() / 8 * 8);
    let bytes = whole
        .chunks(8)
        .map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | *bit as u8));
    // RFC 4648: there is as much padding as needed, and the bits that are left are zero.
    (padding < 3 && left.len() == padding * 2 && !left.contains(&1)).then(|| bytes.collect())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0, |group, at| {
            group << 8 | usize::from(*chunk.get(at).unwrap_or(&0))
        });
        let digits = (0..4).map(|at| ALPHABET[group >> (18 - 6 * at) & 63]);
        text.extend(digits.take(chunk.len() + 1));
        text.extend(vec![b'='; 3 - chunk.len()]);
    }
    text
}

/// Returns what follows the scheme and spaces (RFC 9110, section 11.4), without the white space at the end, which is no part
/// of a header's value (section 5.5).
fn after_scheme<'a>(header: &'a [u8], expected: &str) -> Option<&'a [u8]> {
    let (scheme, token) = header.split_at_checked(expected.len())?;
    let mut token = token.strip_prefix(b" ")?;
    while let Some(after) = token.strip_prefix(b" ") {
        token = after;
    }
    scheme
        .eq_ignore_ascii_case(expected.as_bytes())
        .then_some(token.trim_ascii_end())
}

/// Returns whether a token is in the grammar of RFC 6750, section 2.1.
fn is_b64token(token: &str) -> bool {
    let without_padding = token.trim_end_matches('=');
    let is_digit = |digit: char| digit.is_ascii_alphanumeric() || "-._~+/".contains(digit);
    !without_padding.is_empty() && without_padding.chars().all(is_digit)
}
