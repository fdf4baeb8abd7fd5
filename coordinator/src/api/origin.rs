//! Keeps web pages away. A page of any site can make its visitor's browser send requests to a coordinator
//! on the visitor's own machine or network; nobody may start containers that way. Engines and command-line
//! clients send none of the headers looked at here.

use axum::extract::Request;
use axum::http::{HeaderMap, Method, header};

use super::Api;
use super::error::ApiError;

/// Why a request that changes something is refused, if it comes from a page of another site.
pub(super) fn refusal(api: &Api, request: &Request) -> Option<ApiError> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_local = api.state.config.http.ip().is_loopback();
    (!is_read && is_from_other_site(request.headers(), is_local)).then_some(ApiError::OtherSite)
}

/// Browsers name the page's site in `Origin` with every request that changes something. It is another one
/// when it is not the host that the request went to; and behind a listener that only this machine reaches,
/// also when that host is a name that somebody else's DNS made point here.
fn is_from_other_site(headers: &HeaderMap, is_local: bool) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let origin_host = origin.to_str().ok().and_then(|text| text.split_once("://")).map(|(_, host)| host);
    origin_host != Some(host) || (is_local && !is_loopback_name(host))
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "[::1]") || name.parse().is_ok_and(|ip: std::net::Ipv4Addr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(origin: Option<&str>, host: &str, is_local: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        is_from_other_site(&headers, is_local)
    }

    #[test]
    fn tells_sites_apart() {
        assert!(!refused(None, "127.0.0.1:8000", true), "engines send no origin");
        assert!(!refused(Some("http://localhost:8000"), "localhost:8000", true));
        assert!(!refused(Some("http://[::1]:8000"), "[::1]:8000", true));
        assert!(!refused(Some("https://tes.example"), "tes.example", false));
        assert!(refused(Some("http://evil.example"), "127.0.0.1:8000", true));
        assert!(
            refused(Some("http://localhost:3000"), "localhost:8000", true),
            "another port is another site"
        );
        assert!(refused(Some("null"), "localhost:8000", true));
        assert!(refused(Some("http://evil.example:8000"), "evil.example:8000", true), "a rebound name");
    }
}
