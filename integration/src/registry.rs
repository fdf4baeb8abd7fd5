//! A registry of the test's own: Debian's `docker-registry` on a free port of loopback, with its files in a
//! temporary directory; and a way to put an image into it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::pieces::{Pieces, digest};

/// How long the registry may take to listen.
const DEADLINE: Duration = Duration::from_secs(30);

/// A registry that ends with this value.
pub struct PrivateRegistry {
    home: TempDir,
    child: Child,
    port: u16,
    login: Option<(String, String)>,
    has_tls: bool,
}

impl PrivateRegistry {
    /// One that gives anybody anything, or only those who show this name and password.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(login: Option<(&str, &str)>) -> Self {
        Self::start_with(login, false)
    }

    /// One that gives anybody anything over TLS, with a certificate that only [`PrivateRegistry::authority`]
    /// vouches for.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_tls() -> Self {
        Self::start_with(None, true)
    }

    fn start_with(login: Option<(&str, &str)>, has_tls: bool) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = home.path().display();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {dir}/blobs\n\
             http:\n  addr: 127.0.0.1:{port}\n"
        );
        if let Some((name, password)) = login {
            fs::write(home.path().join("htpasswd"), htpasswd(name, password)).unwrap();
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {dir}/htpasswd\n");
        }
        if has_tls {
            certify(home.path());
            config = config.replace(
                &format!("127.0.0.1:{port}\n"),
                &format!(
                    "127.0.0.1:{port}\n  tls:\n    certificate: {dir}/server.pem\n    key: {dir}/server.key\n"
                ),
            );
        }
        fs::write(home.path().join("config.yml"), config).unwrap();
        let log = fs::File::create(home.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(home.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("docker-registry (Debian: docker-registry)");
        let login = login.map(|(name, password)| (name.to_owned(), password.to_owned()));
        let registry = Self { home, child, port, login, has_tls };
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = fs::read_to_string(registry.home.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the registry did not come up:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// As it stands in references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The certificate authority behind it, where it speaks TLS.
    pub fn authority(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    /// A file with a docker configuration that has the login.
    pub fn docker_config(&self) -> PathBuf {
        let (username, password) = self.login.clone().unwrap_or_default();
        let path = self.home.path().join("config.json");
        let entry = json!({"username": username, "password": password});
        let config = json!({"auths": {(self.host()): entry}});
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Puts an image into it and says its manifest's digest.
    pub async fn push_image(&self, repository: &str, tag: &str, image: &Pieces) -> String {
        self.push(repository, tag, &image.blobs(), &image.manifest).await
    }

    /// Puts blobs and a manifest or an index into it and says the digest of the latter.
    ///
    /// # Panics
    /// When the registry does not take them.
    pub async fn push(&self, repository: &str, tag: &str, blobs: &[&[u8]], manifest: &Value) -> String {
        let mut http = reqwest::Client::builder();
        if self.has_tls {
            let authority = fs::read(self.authority()).unwrap();
            let authority = reqwest::Certificate::from_pem(&authority).unwrap();
            http = http.tls_certs_only([authority]);
        }
        let http = http.build().unwrap();
        let scheme = if self.has_tls { "https" } else { "http" };
        let base = format!("{scheme}://{}/v2/{repository}", self.host());
        let login = |request: reqwest::RequestBuilder| match &self.login {
            Some((name, password)) => request.basic_auth(name, Some(password)),
            None => request,
        };
        for blob in blobs {
            let begun = login(http.post(format!("{base}/blobs/uploads/"))).send().await.unwrap();
            let place = begun.headers()["location"].to_str().unwrap().to_owned();
            let joint = if place.contains('?') { '&' } else { '?' };
            let put = http.put(format!("{place}{joint}digest={}", digest(blob))).body(blob.to_vec());
            let answer = login(put).send().await.unwrap();
            assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        }
        let text = manifest.to_string();
        let put = http.put(format!("{base}/manifests/{tag}")).body(text.clone());
        let put = put.header("content-type", manifest["mediaType"].as_str().unwrap());
        let answer = login(put).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        digest(text.as_bytes())
    }
}

impl Drop for PrivateRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a certificate authority and a certificate for 127.0.0.1 in a directory.
fn certify(dir: &Path) {
    let run = |words: &str| {
        let output = Command::new("openssl").args(words.split(' ')).current_dir(dir).output();
        let output = output.expect("openssl (Debian: openssl)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=teamster-test-authority"));
    run(&format!("req {key} -keyout server.key -out server.csr -subj /CN=teamster-test-registry"));
    fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    run(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
    );
}

/// A line of a password file; the registry takes bcrypt only, which Perl has from the C library.
fn htpasswd(name: &str, password: &str) -> String {
    let script = "print crypt($ARGV[0], '$2y$05$abcdefghijklmnopqrstuu')";
    let output = Command::new("perl").args(["-e", script, password]).output().expect("run perl");
    let hash = String::from_utf8(output.stdout).unwrap();
    assert!(hash.starts_with("$2"), "this machine's C library knows no bcrypt: {hash}");
    format!("{name}:{hash}\n")
}
