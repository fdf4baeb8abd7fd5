//! One place that images come from, over HTTP: manifests and parts of blobs, each asked for once. It says
//! what the other side said, in its own words, and whether asking again makes sense; it never asks again by
//! itself, and it checks nothing of what it was given but its size.

mod answer;
mod auth;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, RANGE};
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};

use self::answer::refused;
pub(super) use self::answer::{FetchError, unreachable};
use self::auth::Authority;
use super::credentials::Credentials;

/// How long a connection to a registry may take.
const CONNECT: Duration = Duration::from_secs(15);

/// How often a registry may send us elsewhere; storage behind it usually does so once.
const REDIRECTS_MAX: usize = 5;

/// What a manifest may be. Without this list registries answer with forms that nobody uses any more.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Where a registry is and how it is spoken to.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// `host` or `host:port`, as it is connected to.
    pub(super) host: String,
    /// Put before repositories, for mirrors that hold others' images below a path of their own.
    pub(super) prefix: String,
    /// The registry that this is a mirror of.
    pub(super) mirror_of: Option<String>,
    /// Whether it is spoken to without TLS.
    pub(super) plain_http: bool,
    /// Certificate authorities in PEM, beside the machine's own.
    pub(super) authorities: Option<Vec<u8>>,
    /// Whom to say that we are.
    pub(super) credentials: Option<Credentials>,
}

/// A registry, or a mirror of one.
pub(super) struct Registry {
    place: Place,
    http: Client,
    authority: Authority,
}

/// A manifest or an index as the registry has it, byte for byte.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) content: Vec<u8>,
    pub(super) media_type: Option<String>,
}

impl Registry {
    /// One to be asked. `stall` is how long it may be silent.
    pub(super) fn new(place: Place, stall: Duration) -> Result<Arc<Self>, FetchError> {
        let failed = |error: reqwest::Error| {
            FetchError::Refused(format!("TLS for {} cannot be set up: {}", place.host, answer::story(&error)))
        };
        let mut builder = Client::builder()
            .user_agent(concat!("teamster/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(stall)
            .redirect(redirects(place.plain_http));
        if let Some(pem) = &place.authorities {
            let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(failed)?;
            builder = builder.tls_certs_merge(authorities);
        }
        let http = builder.build().map_err(failed)?;
        let authority = Authority::new(place.credentials.clone(), place.plain_http);
        Ok(Arc::new(Self { place, http, authority }))
    }

    /// As it is named to people.
    pub(super) fn host(&self) -> &str {
        &self.place.host
    }

    /// The manifest or index that `reference`, a tag or a digest, stands for; at most `bytes_max` of it.
    pub(super) async fn manifest(
        &self,
        repository: &str,
        reference: &str,
        bytes_max: usize,
    ) -> Result<Document, FetchError> {
        let answer =
            self.ask(Method::GET, repository, &format!("manifests/{reference}"), manifests()).await?;
        let media_type = answer.headers().get(reqwest::header::CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok());
        let media_type =
            media_type.map(|value| value.split(';').next().unwrap_or_default().trim().to_owned());
        let mut content = Vec::new();
        let mut parts = answer.bytes_stream();
        while let Some(part) = parts.next().await {
            content.extend_from_slice(&part.map_err(|error| unreachable(self.host(), &error))?);
            if content.len() > bytes_max {
                return Err(FetchError::Refused(format!("its manifest has more than {bytes_max} bytes")));
            }
        }
        Ok(Document { content, media_type })
    }

    /// The digest of what `reference` stands for now. None if the registry does not say.
    pub(super) async fn digest(
        &self,
        repository: &str,
        reference: &str,
    ) -> Result<Option<String>, FetchError> {
        let answer =
            self.ask(Method::HEAD, repository, &format!("manifests/{reference}"), manifests()).await?;
        let digest = answer.headers().get("docker-content-digest");
        Ok(digest.and_then(|value| value.to_str().ok()).map(str::to_owned))
    }

    /// A blob from `offset` on. The number says where the answer really begins: a registry may not know
    /// how to begin in the middle.
    pub(super) async fn blob(
        &self,
        repository: &str,
        digest: &str,
        offset: u64,
    ) -> Result<(u64, Response), FetchError> {
        let mut headers = HeaderMap::new();
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            headers.insert(RANGE, range.expect("digits are fine in a header"));
        }
        let answer = self.ask(Method::GET, repository, &format!("blobs/{digest}"), headers).await?;
        let start = if answer.status() == StatusCode::PARTIAL_CONTENT { offset } else { 0 };
        Ok((start, answer))
    }

    /// Asks, says who we are if that is wanted, and takes nothing but a success for an answer.
    async fn ask(
        &self,
        method: Method,
        repository: &str,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response, FetchError> {
        let repository = format!("{}{repository}", self.place.prefix);
        let url = self.url(&repository, path)?;
        let mut proof = self.authority.known(&repository);
        // Once as we are, and once more with what the registry wants to see.
        for is_last in [false, true] {
            let mut request = self.http.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some((name, value)) = proof.as_ref().map(auth::Proof::header) {
                request = request.header(name, value);
            }
            let answer = request.send().await.map_err(|error| unreachable(self.host(), &error))?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            if answer.status() == StatusCode::UNAUTHORIZED && !is_last {
                let challenge = auth::challenges(answer.headers());
                if let Some(fresh) =
                    self.authority.answer(&self.http, self.host(), &repository, &challenge).await?
                {
                    proof = Some(fresh);
                    continue;
                }
            }
            return Err(refused(self.host(), answer).await);
        }
        Err(FetchError::Refused(format!("{} cannot be asked", self.host())))
    }

    fn url(&self, repository: &str, path: &str) -> Result<Url, FetchError> {
        let scheme = if self.place.plain_http { "http" } else { "https" };
        let mut text = format!("{scheme}://{}/v2/{repository}/{path}", self.place.host);
        if let Some(registry) = &self.place.mirror_of {
            // What pull-through caches for several registries look at.
            text.push_str(&format!("?ns={registry}"));
        }
        Url::parse(&text).map_err(|error| FetchError::Refused(format!("'{text}' is no address: {error}")))
    }
}

fn manifests() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(MANIFESTS))])
}

/// Follows a few redirects, never from TLS to none. The client itself drops what proves who we are when the
/// host changes.
fn redirects(plain_http: bool) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error("it redirects too often");
        }
        if attempt.url().scheme() != "https" && !plain_http {
            return attempt.error("it redirects to an address without TLS");
        }
        attempt.follow()
    })
}
