//! What a registry wants to see before it gives anything: a name and a password with each request, or a
//! token from a server that it names. Credentials are never sent before they are asked for, and never
//! without TLS unless the registry itself is spoken to without.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use data_encoding::BASE64;
use http_auth::ChallengeRef;
use http_auth::parser::ChallengeParser;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;

use super::answer::{FetchError, refused, unreachable};
use crate::runtime::image::credentials::Credentials;

/// The largest answer of a token server that is read.
const TOKEN_BYTES_MAX: usize = 1 << 20;

/// The header that shows who we are.
#[derive(Clone)]
pub(super) struct Proof(HeaderValue);

impl Proof {
    fn new(text: &str) -> Result<Self, FetchError> {
        let broken = |_| FetchError::Refused("the credentials cannot be sent in a header".to_owned());
        let mut value = HeaderValue::from_str(text).map_err(broken)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    fn basic(username: &str, password: &str) -> Result<Self, FetchError> {
        Self::new(&format!("Basic {}", BASE64.encode(format!("{username}:{password}").as_bytes())))
    }

    /// As a header of a request.
    pub(super) fn header(&self) -> (HeaderName, HeaderValue) {
        (AUTHORIZATION, self.0.clone())
    }
}

/// What a registry asked for.
#[derive(Debug, PartialEq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The answer of a token server; some say `token`, some `access_token`.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Knows what one registry is shown, per repository.
pub(super) struct Authority {
    credentials: Option<Credentials>,
    plain_http: bool,
    proofs: Mutex<HashMap<String, Proof>>,
}

impl Authority {
    pub(super) fn new(credentials: Option<Credentials>, plain_http: bool) -> Self {
        Self { credentials, plain_http, proofs: Mutex::default() }
    }

    /// What was good the last time.
    pub(super) fn known(&self, repository: &str) -> Option<Proof> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner).get(repository).cloned()
    }

    /// What these challenges can be answered with; nothing if we have nothing to show.
    pub(super) async fn answer(
        &self,
        http: &Client,
        host: &str,
        repository: &str,
        challenges: &[Challenge],
    ) -> Result<Option<Proof>, FetchError> {
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let proof = match (bearer.or(challenges.first()), &self.credentials) {
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                let scope = scope.clone().unwrap_or_else(|| format!("repository:{repository}:pull"));
                self.token(http, host, realm, service.as_deref(), &scope).await?
            }
            (Some(Challenge::Basic), Some(Credentials::Password { username, password })) => {
                Proof::basic(username, password)?
            }
            _ => return Ok(None),
        };
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        proofs.insert(repository.to_owned(), proof.clone());
        Ok(Some(proof))
    }

    async fn token(
        &self,
        http: &Client,
        host: &str,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<Proof, FetchError> {
        let url = Url::parse(realm).map_err(|error| {
            FetchError::Refused(format!("{host} names a token server '{realm}': {error}"))
        })?;
        if url.scheme() != "https" && !(self.plain_http && url.scheme() == "http") {
            return Err(FetchError::Refused(format!("{host} names a token server without TLS: {realm}")));
        }
        let server = url.host_str().unwrap_or(host).to_owned();
        let answer = self.token_request(http, url, service, scope)?.send().await;
        let mut answer = answer.map_err(|error| unreachable(&server, &error))?;
        if !answer.status().is_success() {
            // A token server that refuses has heard of us, and one that finds nothing has not lost an image.
            return Err(match refused(&server, answer).await {
                FetchError::Missing(text) | FetchError::Refused(text) => FetchError::Unauthorized(text),
                other => other,
            });
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| unreachable(&server, &error))? {
            body.extend_from_slice(&part);
            if body.len() > TOKEN_BYTES_MAX {
                return Err(FetchError::Refused(format!("the token server {server} does not stop talking")));
            }
        }
        let token: Option<Token> = serde_json::from_slice(&body).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        let token = token.ok_or_else(|| FetchError::Refused(format!("{server} gave no token")))?;
        Proof::new(&format!("Bearer {token}"))
    }

    fn token_request(
        &self,
        http: &Client,
        url: Url,
        service: Option<&str>,
        scope: &str,
    ) -> Result<RequestBuilder, FetchError> {
        let mut words = vec![("scope", scope)];
        words.extend(service.map(|service| ("service", service)));
        Ok(match &self.credentials {
            Some(Credentials::Identity(token)) => {
                words.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "teamster"),
                    ("refresh_token", token.as_str()),
                ]);
                http.post(url).form(&words)
            }
            Some(Credentials::Password { username, password }) => {
                let (name, value) = Proof::basic(username, password)?.header();
                http.get(url).query(&words).header(name, value)
            }
            None => http.get(url).query(&words),
        })
    }
}

/// The challenges of an answer that we know how to meet, in the order in which they stand there.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let lines = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    lines
        .flat_map(|line| {
            ChallengeParser::new(line).filter_map(Result::ok).filter_map(|c| read(&c)).collect::<Vec<_>>()
        })
        .collect()
}

fn read(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let word = |name: &str| {
        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    Some(Challenge::Bearer { realm: word("realm")?, service: word("service"), scope: word("scope") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let read = |text: &'static str| {
            challenges(&HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_static(text))]))
        };
        assert_eq!(read(r#"Basic realm="x""#), [Challenge::Basic]);
        let hub = read(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull""#,
        );
        assert_eq!(
            hub,
            [Challenge::Bearer {
                realm: "https://auth.docker.io/token".into(),
                service: Some("registry.docker.io".into()),
                scope: Some("repository:library/x:pull".into()),
            }]
        );
        assert!(read("Negotiate").is_empty());
        assert!(read(r#"Bearer service="no realm""#).is_empty());
    }

    #[tokio::test]
    async fn credentials_never_go_out_without_tls() {
        let secret = Credentials::Password { username: "u".into(), password: "p".into() };
        let authority = Authority::new(Some(secret), false);
        let challenge =
            Challenge::Bearer { realm: "http://127.0.0.1:9/t".into(), service: None, scope: None };
        let refused = authority.answer(&Client::new(), "r.example", "a/b", &[challenge]).await;
        assert!(matches!(refused, Err(FetchError::Refused(text)) if text.contains("without TLS")));
    }
}
