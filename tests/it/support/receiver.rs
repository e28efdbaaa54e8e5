//! An app that hears: a receiver of events that behaves as the story says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use svix::webhooks::Webhook;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a receiver does with a request.
#[derive(Debug, Clone)]
pub enum Behave {
    /// Answers with a status and these header lines.
    Answer(u16, &'static str),
    /// Says nothing and keeps the connection.
    Hang,
    /// Closes the connection without an answer.
    Reset,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Heard {
    pub head: String,
    pub body: String,
}

impl Heard {
    pub fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        found.next().map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// Whether one of its signatures is of this secret.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let id = self.header("webhook-id");
        let timestamp = self.header("webhook-timestamp").parse().expect("a timestamp");
        let expected = Webhook::new(secret).and_then(|key| key.sign(id, timestamp, self.body.as_bytes()));
        let expected = expected.expect("a signature");
        self.header("webhook-signature").split(' ').any(|one| one == expected)
    }
}

#[derive(Clone)]
pub struct Receiver {
    pub url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What it does with the next requests; after that it answers 200.
    next: VecDeque<Behave>,
    /// What it does with all requests, if set.
    always: Option<Behave>,
    heard: Vec<Heard>,
    connections: usize,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hooks/usher", listener.local_addr().expect("an address"));
        let state = Arc::<Mutex<State>>::default();
        let kept = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                kept.lock().expect("no panic before").connections += 1;
                tokio::spawn(serve(stream, Arc::clone(&kept)));
            }
        });
        Self { url, state }
    }

    pub fn next(&self, behaviours: impl IntoIterator<Item = Behave>) {
        self.state.lock().expect("no panic before").next.extend(behaviours);
    }

    pub fn always(&self, behaviour: Option<Behave>) {
        self.state.lock().expect("no panic before").always = behaviour;
    }

    /// Everything that came, in order.
    pub fn heard(&self) -> Vec<Heard> {
        self.state.lock().expect("no panic before").heard.clone()
    }

    pub fn connections(&self) -> usize {
        self.state.lock().expect("no panic before").connections
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut buffer = Vec::new();
    while let Some(heard) = read(&mut stream, &mut buffer).await {
        let behaviour = {
            let mut state = state.lock().expect("no panic before");
            state.heard.push(heard);
            let next = state.next.pop_front();
            next.or(state.always.clone()).unwrap_or(Behave::Answer(200, ""))
        };
        match behaviour {
            Behave::Answer(status, headers) => {
                let answer = format!("HTTP/1.1 {status} As Told\r\n{headers}Content-Length: 5\r\n\r\nsorry");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Behave::Hang => tokio::time::sleep(Duration::from_secs(3600)).await,
            Behave::Reset => return,
        }
    }
}

/// The next request of a connection.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Heard> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let heard = Heard {
                head,
                body: String::new(),
            };
            let length: usize = heard.header("content-length").parse().unwrap_or(0);
            if buffer.len() >= end + 4 + length {
                let body = String::from_utf8(buffer[end + 4..end + 4 + length].to_vec()).expect("UTF-8");
                buffer.drain(..end + 4 + length);
                return Some(Heard { body, ..heard });
            }
        }
        let mut chunk = [0; 8192];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => buffer.extend_from_slice(&chunk[..read]),
        }
    }
}
