//! A coordinator that is one thread and a list of prepared answers, so that the program's verbs can be seen
//! to ask and to show the right things. It checks nothing itself.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What came in: `METHOD path?query`, and the body.
pub(crate) type Question = (String, String);

/// A listening stub. Its thread ends with the test's process.
pub(crate) struct Stub {
    address: SocketAddr,
    questions: Arc<Mutex<Vec<Question>>>,
}

impl Stub {
    /// Answers each `METHOD path?query` with its next prepared `(status, body)`; the last one stays.
    pub(crate) fn start(answers: &[(&str, u16, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let questions = Arc::new(Mutex::new(Vec::new()));
        let mut prepared: BTreeMap<String, Vec<(u16, String)>> = BTreeMap::new();
        for (question, status, body) in answers.iter().rev() {
            prepared.entry((*question).to_owned()).or_default().push((*status, (*body).to_owned()));
        }
        let heard = questions.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &mut prepared, &heard);
            }
        });
        Self { address, questions }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What came in so far.
    pub(crate) fn questions(&self) -> Vec<Question> {
        self.questions.lock().unwrap().clone()
    }
}

fn answer(
    stream: TcpStream,
    prepared: &mut BTreeMap<String, Vec<(u16, String)>>,
    heard: &Mutex<Vec<Question>>,
) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let question = line.rsplit_once(' ').map(|(question, _)| question.to_owned()).unwrap_or_default();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        match header.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap();
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    heard.lock().unwrap().push((question.clone(), String::from_utf8(body).unwrap()));
    let (status, text) = match prepared.get_mut(&question) {
        Some(answers) if answers.len() > 1 => answers.pop().unwrap(),
        Some(answers) => answers[0].clone(),
        None => (404, r#"{"status_code":404,"msg":"nothing is prepared for this"}"#.to_owned()),
    };
    let mut stream = reader.into_inner();
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
}
