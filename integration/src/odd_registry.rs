//! A registry that misbehaves as it is told: it refuses, breaks off, falls silent, and lies. HTTP by hand,
//! because no library would do what is wanted of it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::pieces::{MANIFEST, Pieces, digest};

/// What is done with one request instead of answering it well.
#[derive(Debug, Clone)]
pub enum Oddity {
    /// A status with a body.
    Status(u16, String),
    /// The content up to this byte, then the end of the connection.
    CutAfter(usize),
    /// The content up to this byte, and then nothing more.
    Stall(usize),
    /// The content up to this byte, and the rest when the test says so.
    Hold(usize, Arc<Notify>),
    /// The head of an answer, and then nothing more.
    Silence,
    /// This instead of the content.
    Lie(Vec<u8>),
    /// The content is elsewhere.
    Redirect(String),
}

#[derive(Default)]
struct State {
    content: HashMap<String, (String, Vec<u8>)>,
    oddities: HashMap<String, VecDeque<Oddity>>,
    /// With a password for the token server, everything else wants a token.
    password: Option<String>,
    /// Each request: method, path and range.
    seen: Vec<String>,
    /// What was shown with each of them.
    proofs: Vec<Option<String>>,
}

/// A registry whose oddities a test chooses. It ends with this value.
pub struct OddRegistry {
    host: String,
    state: Arc<Mutex<State>>,
    _server: JoinSet<()>,
}

impl OddRegistry {
    /// One that has nothing yet.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let mut server = JoinSet::new();
        let (shared, own_host) = (Arc::clone(&state), host.clone());
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (state, host) = (Arc::clone(&shared), own_host.clone());
                connections.spawn(async move {
                    // A client that goes away in the middle is what some tests are about.
                    let _ = serve(stream, &state, &host).await;
                });
            }
        });
        Self { host, state, _server: server }
    }

    /// As it stands in references.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Wants a token from now on, which its own token server gives to those who show this password.
    pub fn want_token(&self, password: &str) {
        self.state.lock().unwrap().password = Some(password.to_owned());
    }

    /// Puts something at a path below `/v2/`.
    pub fn put(&self, path: &str, media_type: &str, content: &[u8]) {
        let entry = (media_type.to_owned(), content.to_vec());
        self.state.lock().unwrap().content.insert(format!("/v2/{path}"), entry);
    }

    /// Puts an image at `repository:tag`.
    pub fn put_image(&self, repository: &str, tag: &str, image: &Pieces) {
        for blob in image.blobs() {
            self.put(&format!("{repository}/blobs/{}", digest(blob)), "application/octet-stream", blob);
        }
        self.put(&format!("{repository}/manifests/{tag}"), MANIFEST, &image.manifest_bytes());
    }

    /// What happens to the next request of this path below `/v2/`; more are kept for those after it.
    pub fn next(&self, path: &str, oddity: Oddity) {
        let mut state = self.state.lock().unwrap();
        state.oddities.entry(format!("/v2/{path}")).or_default().push_back(oddity);
    }

    /// What the requests so far showed of whom they came from.
    pub fn proofs(&self) -> Vec<Option<String>> {
        self.state.lock().unwrap().proofs.clone()
    }

    /// The requests of paths that end so, in order: `GET /v2/… bytes=…`.
    pub fn requests(&self, end: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let is_it = |line: &&String| line.split(' ').nth(1).is_some_and(|path| path.ends_with(end));
        state.seen.iter().filter(is_it).cloned().collect()
    }
}

async fn serve(stream: TcpStream, state: &Mutex<State>, host: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut first, mut range, mut proof) = (String::new(), None, None);
        if stream.read_line(&mut first).await? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => range = Some(value.to_owned()),
                "authorization" => proof = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut words = first.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default();
        let (oddity, found) = {
            let mut state = state.lock().unwrap();
            state
                .seen
                .push(format!("{method} {path} {}", range.as_deref().unwrap_or_default()).trim().to_owned());
            state.proofs.push(proof.clone());
            let oddity = state.oddities.get_mut(path).and_then(VecDeque::pop_front);
            (oddity.or_else(|| wants(&state, path, proof.as_deref())), state.content.get(path).cloned())
        };
        let begin = range.and_then(|range| range.strip_prefix("bytes=")?.trim_end_matches('-').parse().ok());
        answer(stream.get_mut(), method, host, oddity, found, begin.unwrap_or(0)).await?;
    }
}

/// What stands between a client and the content: the token server, and the want of a token.
fn wants(state: &State, path: &str, proof: Option<&str>) -> Option<Oddity> {
    let password = state.password.as_ref()?;
    if path == "/token" {
        // Basic, `me:` and the password; in base64 by the client, so it is compared as it comes.
        let fits = proof == Some(password.as_str());
        let refusal = Oddity::Status(401, r#"{"details":"incorrect username or password"}"#.into());
        return Some(if fits { Oddity::Status(200, r#"{"token":"good"}"#.into()) } else { refusal });
    }
    let refusal = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    (proof != Some("Bearer good")).then(|| Oddity::Status(401, refusal.into()))
}

async fn answer(
    stream: &mut TcpStream,
    method: &str,
    host: &str,
    oddity: Option<Oddity>,
    found: Option<(String, Vec<u8>)>,
    begin: usize,
) -> std::io::Result<()> {
    let unknown = || {
        Oddity::Status(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such thing"}]}"#.into())
    };
    let oddity = match (&found, oddity) {
        (None, None) => Some(unknown()),
        (_, oddity) => oddity,
    };
    if let Some(Oddity::Status(code, body)) = &oddity {
        let challenge = format!("www-authenticate: Bearer realm=\"http://{host}/token\",service=\"odd\"\r\n");
        let challenge = if *code == 401 { challenge } else { String::new() };
        let length = body.len();
        let head = format!("HTTP/1.1 {code} Odd\r\n{challenge}content-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        return stream.write_all(body.as_bytes()).await;
    }
    if let Some(Oddity::Redirect(to)) = &oddity {
        let head = format!("HTTP/1.1 307 Odd\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
        return stream.write_all(head.as_bytes()).await;
    }
    let (media_type, mut content) = found.unwrap_or_default();
    if let Some(Oddity::Lie(lie)) = &oddity {
        content.clone_from(lie);
    }
    let (status, rest) =
        if begin > 0 { ("206 Partial", &content[begin..]) } else { ("200 OK", &content[..]) };
    let length = rest.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    match oddity {
        _ if method == "HEAD" => Ok(()),
        Some(Oddity::Silence) => std::future::pending().await,
        Some(Oddity::Stall(bytes)) => {
            stream.write_all(&rest[..bytes.min(rest.len())]).await?;
            stream.flush().await?;
            std::future::pending().await
        }
        Some(Oddity::Hold(bytes, go_on)) => {
            let (first, last) = rest.split_at(bytes.min(rest.len()));
            stream.write_all(first).await?;
            stream.flush().await?;
            go_on.notified().await;
            stream.write_all(last).await
        }
        Some(Oddity::CutAfter(bytes)) => {
            stream.write_all(&rest[..bytes.min(rest.len())]).await?;
            stream.flush().await?;
            stream.shutdown().await?;
            Err(std::io::Error::other("cut, as the test wants it"))
        }
        _ => stream.write_all(rest).await,
    }
}
