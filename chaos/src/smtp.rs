//! A mail server that keeps what it takes, and is away when told so.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mail_parser::MessageParser;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// A mail that was taken.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Whom it was for.
    pub to: String,
    /// Its `Message-ID`, without brackets.
    pub message_id: String,
    /// The token of the link in it.
    pub token: Option<String>,
    /// When it was taken.
    pub at: Instant,
}

/// The server. It lives as long as the harness.
#[derive(Clone)]
pub struct Sink {
    /// Where usher sends mails to.
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_away: AtomicBool,
    mails: Mutex<Vec<Mail>>,
}

impl Sink {
    /// Starts listening.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(BufReader::new(stream), Arc::clone(&shared)));
            }
        });
        Ok(Self { address, state })
    }

    /// While it is away it answers `421` and hangs up.
    pub fn set_away(&self, is_away: bool) {
        self.state.is_away.store(is_away, Ordering::Relaxed);
    }

    /// What it has taken so far.
    pub fn mails(&self) -> Vec<Mail> {
        self.state.mails.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ids of mails that have come more than once since then.
    pub fn repeated_since(&self, then: Instant) -> Vec<String> {
        let mails = self.state.mails.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = HashSet::new();
        let since = mails.iter().filter(|mail| mail.at >= then);
        since
            .filter(|mail| !seen.insert(mail.message_id.as_str()))
            .map(|mail| mail.message_id.clone())
            .collect()
    }
}

/// `None` is how a conversation ends.
async fn converse(mut stream: BufReader<TcpStream>, state: Arc<State>) -> Option<()> {
    say(&mut stream, "220 localhost").await?;
    let mut to = String::new();
    loop {
        let line = line(&mut stream).await?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb: String = line.chars().take(4).collect::<String>().to_ascii_uppercase();
        if state.is_away.load(Ordering::Relaxed) {
            say(&mut stream, "421 4.3.2 going down").await?;
            return None;
        }
        match verb.as_str() {
            "EHLO" | "HELO" => say(&mut stream, "250-localhost\r\n250 8BITMIME").await?,
            "RCPT" => {
                to = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                say(&mut stream, "250 2.1.5 ok").await?;
            }
            "DATA" => {
                say(&mut stream, "354 go ahead").await?;
                let mail = read_mail(&mut stream, &to).await?;
                // Kept before it is acknowledged, as on a server that crashes right after.
                state.mails.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
                say(&mut stream, "250 2.0.0 queued").await?;
            }
            "QUIT" => return say(&mut stream, "221 2.0.0 bye").await,
            _ => say(&mut stream, "250 2.0.0 ok").await?,
        }
    }
}

async fn read_mail(stream: &mut BufReader<TcpStream>, to: &str) -> Option<Mail> {
    let mut raw = Vec::new();
    loop {
        let line = line(stream).await?;
        if line == b".\r\n" {
            break;
        }
        raw.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
    let message = MessageParser::default().parse(&raw)?;
    let text = message.body_text(0).unwrap_or_default();
    let token = text.split_once(crate::fleet::LINK).map(|(_, rest)| {
        rest.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            .collect()
    });
    Some(Mail {
        to: to.to_owned(),
        message_id: message.message_id().unwrap_or_default().to_owned(),
        token,
        at: Instant::now(),
    })
}

async fn line(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.ok()?;
    line.ends_with(b"\n").then_some(line)
}

async fn say(stream: &mut BufReader<TcpStream>, reply: &str) -> Option<()> {
    stream.get_mut().write_all(format!("{reply}\r\n").as_bytes()).await.ok()
}
