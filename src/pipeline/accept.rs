//! Accept: is this request a delivery?
//!
//! 1. Its method is POST.
//! 2. Its path is the one that was given, byte for byte: no trailing slash is added, nothing is
//!    decoded, and the query has no say.
//!
//! Anything else belongs to the service within.

use http::uri::PathAndQuery;
use http::{Method, Request};

#[derive(Clone, Debug)]
pub(crate) struct Path(std::sync::Arc<str>);

impl Path {
    /// # Panics
    ///
    /// If it can be no request's path, or looks like a pattern, of which there are none.
    #[track_caller]
    pub(crate) fn new(path: &str) -> Self {
        assert!(
            path.starts_with('/'),
            "the path {path:?} must start with a slash"
        );
        assert!(
            !path.contains(['{', '}', '*', '?', '#']),
            "the path {path:?} is compared literally: it can have no captures, wildcards or query"
        );
        // What a request's path is, `http` decides.
        let parsed = path.parse::<PathAndQuery>();
        assert!(
            parsed.is_ok_and(|parsed| parsed.path() == path),
            "the path {path:?} has a character that no request's path has: write it percent-encoded"
        );
        Self(path.into())
    }

    pub(crate) fn accepts<B>(&self, request: &Request<B>) -> bool {
        request.uri().path() == &*self.0 && accepts_method(request)
    }
}

pub(crate) fn accepts_method<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_post_to_the_very_path_is_a_delivery() {
        let path = Path::new("/admin/webhooks");
        let cases = [
            ("POST", "/admin/webhooks", true),
            ("POST", "/admin/webhooks?source=mx", true),
            ("POST", "https://example.com/admin/webhooks", true),
            ("GET", "/admin/webhooks", false),
            ("PUT", "/admin/webhooks", false),
            ("OPTIONS", "/admin/webhooks", false),
            ("POST", "/admin/webhooks/", false),
            ("POST", "/admin/Webhooks", false),
            ("POST", "/admin%2Fwebhooks", false),
            ("POST", "/admin/webhook%73", false),
            ("POST", "//admin/webhooks", false),
            ("POST", "/admin", false),
            ("POST", "/", false),
            ("POST", "*", false),
        ];
        for (method, uri, expected) in cases {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            assert_eq!(path.accepts(&request), expected, "{method} {uri}");
        }
    }

    #[test]
    fn a_path_that_could_never_match_is_refused_when_it_is_given() {
        for path in [
            "",
            "admin",
            "/a?b",
            "/a#b",
            "/{tenant}/webhooks",
            "/*rest",
            "/a b",
            "/a<b",
            "/a`b",
            "/a>b",
            "/a\tb",
            "/a\0b",
            "/a\nb",
            "/a\u{7f}b",
        ] {
            assert!(
                crate::util::catch_panic::catch(|| Path::new(path)).is_err(),
                "{path:?}"
            );
        }
    }

    #[test]
    fn whatever_is_taken_is_the_path_of_some_request() {
        let mut taken = 0;
        for byte in 0..=u8::MAX {
            let path = format!("/a{}b", char::from(byte));
            let Ok(accepted) = crate::util::catch_panic::catch(|| Path::new(&path)) else {
                continue;
            };
            let request = Request::post(&path).body(()).unwrap();
            assert!(accepted.accepts(&request), "{path:?}");
            taken += 1;
        }
        assert!(taken > 70, "{taken}");
    }
}
