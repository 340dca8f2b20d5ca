//! Accept: decides whether a request is a delivery.
//!
//! 1. Its method is POST.
//! 2. Its path equals the path of the layer, byte for byte. No trailing slash is added, nothing is
//!    decoded, and the query is ignored.
//!
//! All other requests pass through to the service within.

use http::uri::PathAndQuery;
use http::{Method, Request};

#[derive(Clone, Debug)]
pub(crate) struct Path(std::sync::Arc<str>);

impl Path {
    /// # Panics
    ///
    /// If no request can have the path, or if it looks like a pattern. There are no patterns.
    #[track_caller]
    pub(crate) fn new(path: &str) -> Self {
        assert!(
            path.starts_with('/'),
            "the path {path:?} must start with a slash"
        );
        assert!(
            !path.contains(['{', '}', '*', '?', '#']),
            "the path {path:?} is compared literally, so it must not have captures, wildcards or a query"
        );
        // `http` decides which characters a request's path can have.
        let parsed = path.parse::<PathAndQuery>();
        assert!(
            parsed.is_ok_and(|parsed| parsed.path() == path),
            "the path {path:?} has a character that no request's path has: percent-encode it"
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
    fn only_a_post_to_exactly_the_path_is_a_delivery() {
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
    fn new_refuses_a_path_that_no_request_can_have() {
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
    fn each_path_that_new_takes_matches_a_request() {
        let mut paths = 0;
        for byte in 0..=u8::MAX {
            let path = format!("/a{}b", char::from(byte));
            let Ok(accepted) = crate::util::catch_panic::catch(|| Path::new(&path)) else {
                continue;
            };
            let request = Request::post(&path).body(()).unwrap();
            assert!(accepted.accepts(&request), "{path:?}");
            paths += 1;
        }
        assert!(paths > 70, "{paths}");
    }
}
