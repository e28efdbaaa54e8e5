//! SMTP: a few connections that are kept open, and one conversation per mail.
//!
//! The commands, replies and TLS are lettre's. Its `AsyncSmtpTransport` isn't used, for three reasons that its source
//! (0.11.23) shows: an error doesn't tell whether the login, the sender or the recipient was refused; there is no limit
//! on the wait for a reply; and a send that is given up half-way puts its connection back into the pool, where the next
//! mail reads the answers to the last one and may go to its recipient.

use std::{
    fmt, mem,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::FutureExt;
use lettre::{
    Address,
    transport::smtp::{
        self,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, Tls, TlsParameters},
        commands::{Data, Mail, Rcpt, Rset},
        extension::{ClientId, Extension, MailBodyParameter, MailParameter},
        response::Response,
    },
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, sleep, timeout},
};
use url::{Host, Url};

use super::failure::{Cause, Failure, SendError, Step, masked};

/// How many mails are under way at once; further ones wait. Providers dislike many connections from one client.
pub const MAX_CONNECTIONS: usize = 4;
/// How long the server may take for each reply.
const REPLY_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to accept the content. Servers scan for spam before they answer, and giving up too early means
/// that the invitee gets the mail twice.
const CONTENT_LIMIT: Duration = Duration::from_secs(60);
/// How long a connection is kept for the next mail.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// A good-bye is a courtesy and not waited for long.
const QUIT_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct Smtp {
    server: Server,
    pool: Arc<Pool>,
    slots: Semaphore,
}

impl Smtp {
    /// Takes lettre's form: `smtps://user:password@host:465`, `smtp://user:password@host:587?tls=required`,
    /// `smtp://localhost:25`; the path, if any, is the name for EHLO. The error never repeats the URL.
    pub(super) fn from_url(url: &str) -> Result<Self, String> {
        Ok(Self {
            server: Server::from_url(url)?,
            pool: Arc::default(),
            slots: Semaphore::new(MAX_CONNECTIONS),
        })
    }

    /// Sends one mail and returns the server's reply.
    pub(super) async fn send(&self, from: &Address, to: &Address, raw: &[u8]) -> Result<String, SendError> {
        let _slot = self.slots.acquire().await;
        let mut connection = self.connection().await?;
        // Dropped without QUIT if this future is dropped or the conversation breaks off: see the module's comment.
        match deliver(&mut connection, from, to, raw).await {
            Ok(reply) => {
                self.pool.park(connection).await;
                Ok(masked(&format!("{} {}", reply.code(), lines(&reply))))
            }
            Err(failure) => {
                if failure.leaves_session_usable() {
                    self.pool.park(connection).await;
                }
                Err(failure.into())
            }
        }
    }

    /// Connects and logs in, as far as the server can be tried without sending anything.
    pub(super) async fn check(&self) -> Result<(), SendError> {
        let connection = self.connection().await?;
        self.pool.park(connection).await;
        Ok(())
    }

    /// Names a sender, as far as that can be tried without naming a recipient.
    pub(super) async fn check_sender(&self, from: &Address) -> Result<(), SendError> {
        let mut connection = self.connection().await?;
        let mail = Mail::new(Some(from.clone()), Vec::new());
        within(REPLY_LIMIT, Step::Sender, connection.command(mail)).await?;
        // The next to use it clears what was begun.
        self.pool.park(connection).await;
        Ok(())
    }

    /// Says good-bye on the connections that wait for mail.
    pub(super) async fn close(&self) {
        let idle = mem::take(&mut self.pool.idle.lock().await.connections);
        quit(idle).await;
    }

    async fn connection(&self) -> Result<AsyncSmtpConnection, Failure> {
        let newest = self.pool.idle.lock().await.connections.pop();
        if let Some(Parked { mut connection, .. }) = newest {
            // Clears what a refused mail may have left, and shows that the server is still there.
            if matches!(timeout(REPLY_LIMIT, connection.command(Rset)).await, Ok(Ok(_))) {
                return Ok(connection);
            }
            // The others waited longer and are no better.
            self.pool.idle.lock().await.connections.clear();
        }
        self.server.open().await
    }
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Smtp({}:{})", self.server.host, self.server.port)
    }
}

/// Where the server is and how to speak to it.
struct Server {
    host: String,
    port: u16,
    tls: Tls,
    hello: ClientId,
    credentials: Option<Credentials>,
}

impl Server {
    fn from_url(url: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            _ => return Err("there is no host in it".to_owned()),
        };
        let mut wanted_tls = None;
        for (key, value) in url.query_pairs() {
            // A misspelt `tls` must not turn encryption off.
            match &*key {
                "tls" => wanted_tls = Some(value.into_owned()),
                _ => return Err("the only parameter it can have is tls".to_owned()),
            }
        }
        let certificate = || TlsParameters::new(host.clone()).map_err(|error| error.to_string());
        let (default_port, tls) = match (url.scheme(), wanted_tls.as_deref()) {
            ("smtps", None) => (465, Tls::Wrapper(certificate()?)),
            ("smtp", Some("required")) => (587, Tls::Required(certificate()?)),
            ("smtp", Some("opportunistic")) => (587, Tls::Opportunistic(certificate()?)),
            ("smtp", None) => (25, Tls::None),
            ("smtp" | "smtps", _) => {
                return Err("tls is required or opportunistic, and only for smtp://".to_owned());
            }
            _ => return Err("it starts with smtp:// or smtps://".to_owned()),
        };
        let credentials = match (decoded(url.username())?, url.password().map(decoded).transpose()?) {
            (user, None) if user.is_empty() => None,
            (user, Some(password)) if !user.is_empty() => Some(Credentials::new(user, password)),
            _ => return Err("user name and password belong together".to_owned()),
        };
        if credentials.is_some() && matches!(tls, Tls::None) && !is_loopback(&host) {
            tracing::warn!(smtp.host = %host, "SMTP_URL sends the password to {host} in clear: add ?tls=required or use smtps://");
        }
        let hello = match url.path().trim_matches('/') {
            "" => ClientId::default(),
            name => ClientId::Domain(name.to_owned()),
        };
        Ok(Self {
            port: url.port().unwrap_or(default_port),
            host,
            tls,
            hello,
            credentials,
        })
    }

    /// A connection that is ready for MAIL FROM.
    async fn open(&self) -> Result<AsyncSmtpConnection, Failure> {
        // lettre panics over an EHLO reply with a blank line in it.
        let opened = AssertUnwindSafe(self.open_and_log_in()).catch_unwind().await;
        opened.unwrap_or(Err(Failure {
            step: Step::Connect,
            cause: Cause::Panicked,
        }))
    }

    async fn open_and_log_in(&self) -> Result<AsyncSmtpConnection, Failure> {
        let implicit_tls = match &self.tls {
            Tls::Wrapper(certificate) => Some(certificate.clone()),
            _ => None,
        };
        let address = (self.host.as_str(), self.port);
        let connecting =
            AsyncSmtpConnection::connect_tokio1(address, Some(REPLY_LIMIT), &self.hello, implicit_tls, None);
        let mut connection = within(REPLY_LIMIT, Step::Connect, connecting).await?;
        let starttls = match &self.tls {
            Tls::Required(certificate) => Some(certificate),
            Tls::Opportunistic(certificate) if connection.can_starttls() => Some(certificate),
            _ => None,
        };
        if let Some(certificate) = starttls {
            let upgrading = connection.starttls(certificate.clone(), &self.hello);
            within(REPLY_LIMIT, Step::StartTls, upgrading).await?;
        }
        if let Some(credentials) = &self.credentials {
            within(
                REPLY_LIMIT,
                Step::Login,
                connection.auth(DEFAULT_MECHANISMS, credentials),
            )
            .await?;
        }
        Ok(connection)
    }
}

/// One mail's conversation, step by step.
async fn deliver(
    connection: &mut AsyncSmtpConnection,
    from: &Address,
    to: &Address,
    raw: &[u8],
) -> Result<Response, Failure> {
    let mut parameters = Vec::new();
    // The bodies and all words in the headers are encoded, so only an address can be outside ASCII.
    if !raw.is_ascii() {
        let server = connection.server_info();
        if !server.supports_feature(Extension::SmtpUtfEight) || !server.supports_feature(Extension::EightBitMime) {
            let recipient_is_ascii = AsRef::<str>::as_ref(to).is_ascii();
            return Err(Failure {
                step: Step::Sender,
                cause: Cause::NoUtf8 { recipient_is_ascii },
            });
        }
        parameters.push(MailParameter::SmtpUtfEight);
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    let mail = Mail::new(Some(from.clone()), parameters);
    within(REPLY_LIMIT, Step::Sender, connection.command(mail)).await?;
    let rcpt = Rcpt::new(to.clone(), Vec::new());
    within(REPLY_LIMIT, Step::Recipient, connection.command(rcpt)).await?;
    within(REPLY_LIMIT, Step::Data, connection.command(Data)).await?;
    within(CONTENT_LIMIT, Step::Content, connection.command(content(raw))).await
}

/// The mail as DATA wants it: dots at the start of a line doubled, and one alone at the end. lettre would do this too,
/// but it writes the last dot by itself, which the kernel holds back until the rest is acknowledged: 40 ms per mail.
fn content(raw: &[u8]) -> String {
    // Headers and encoded bodies are text, and their lines end in CRLF.
    let raw = String::from_utf8_lossy(raw);
    let mut content = raw.replace("\r\n.", "\r\n..");
    if raw.starts_with('.') {
        content.insert(0, '.');
    }
    if !content.ends_with("\r\n") {
        content.push_str("\r\n");
    }
    content.push_str(".\r\n");
    content
}

async fn within<T>(
    limit: Duration,
    step: Step,
    work: impl Future<Output = Result<T, smtp::Error>>,
) -> Result<T, Failure> {
    let cause = match timeout(limit, work).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => Cause::Smtp(error),
        Err(_) => Cause::TimedOut(limit),
    };
    Err(Failure { step, cause })
}

/// The connections that wait for the next mail. Each is at the start of a conversation, or a RSET away from it.
#[derive(Default)]
struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    connections: Vec<Parked>,
    /// Whether a task is there that closes connections which nobody uses.
    is_watched: bool,
}

struct Parked {
    connection: AsyncSmtpConnection,
    since: Instant,
}

impl Pool {
    async fn park(self: &Arc<Self>, connection: AsyncSmtpConnection) {
        let mut idle = self.idle.lock().await;
        idle.connections.push(Parked {
            connection,
            since: Instant::now(),
        });
        if !mem::replace(&mut idle.is_watched, true) {
            tokio::spawn(close_the_unused(Arc::downgrade(self)));
        }
    }
}

/// Ends with the last connection, or with the pool.
async fn close_the_unused(pool: Weak<Pool>) {
    loop {
        sleep(IDLE_LIMIT).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.idle.lock().await;
        let (unused, used) = mem::take(&mut idle.connections)
            .into_iter()
            .partition(|parked: &Parked| parked.since.elapsed() >= IDLE_LIMIT);
        idle.connections = used;
        idle.is_watched = !idle.connections.is_empty();
        let is_done = !idle.is_watched;
        drop(idle);
        quit(unused).await;
        if is_done {
            return;
        }
    }
}

async fn quit(parked: Vec<Parked>) {
    for mut parked in parked {
        // Whatever comes back, the connection is closed right after.
        let _ = timeout(QUIT_LIMIT, parked.connection.quit()).await;
    }
}

fn lines(reply: &Response) -> String {
    reply.message().collect::<Vec<_>>().join(" ")
}

fn decoded(part: &str) -> Result<String, String> {
    let decoded = percent_decoded(part).ok_or("the user name or password has a stray % in it")?;
    String::from_utf8(decoded).map_err(|_| "the user name or password is not UTF-8".to_owned())
}

fn percent_decoded(part: &str) -> Option<Vec<u8>> {
    let mut bytes = part.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        decoded.push(if byte == b'%' {
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        });
    }
    Some(decoded)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_how() {
        let cases = [
            ("smtp://localhost", Ok(("localhost", 25))),
            ("smtp://localhost:1025/", Ok(("localhost", 1025))),
            ("smtp://127.0.0.1:25", Ok(("127.0.0.1", 25))),
            ("smtp://[::1]:25", Ok(("::1", 25))),
            ("smtp://u:p@mx.example.com?tls=required", Ok(("mx.example.com", 587))),
            ("smtp://mx.example.com?tls=opportunistic", Ok(("mx.example.com", 587))),
            ("smtps://u:p@mx.example.com", Ok(("mx.example.com", 465))),
            (
                "smtps://u%40x:p%2Fw%25@mx.example.com:2465/mail.example.com",
                Ok(("mx.example.com", 2465)),
            ),
            ("smtp://mx.example.com?tls=yes", Err("tls is required or")),
            ("smtps://mx.example.com?tls=required", Err("tls is required or")),
            ("smtp://mx.example.com?tsl=required", Err("the only parameter")),
            ("smtp://user@mx.example.com", Err("belong together")),
            ("smtp://:secret@mx.example.com", Err("belong together")),
            ("smtp://u:s%zzecret@mx.example.com", Err("stray %")),
            ("smtp://u:%ff@mx.example.com", Err("not UTF-8")),
            ("https://mx.example.com", Err("starts with smtp://")),
            ("smtp://", Err("no host")),
            ("smtp:mx.example.com", Err("no host")),
            ("mx.example.com", Err("")),
            ("", Err("")),
        ];
        for (url, expected) in cases {
            match (Server::from_url(url), expected) {
                (Ok(server), Ok((host, port))) => {
                    assert_eq!((server.host.as_str(), server.port), (host, port))
                }
                (Err(error), Err(reason)) => {
                    assert!(error.contains(reason) && !error.contains("ecret"), "{url}: {error}");
                }
                (result, _) => panic!("{url}: {:?}", result.map(|server| server.host)),
            }
        }
    }

    #[test]
    fn only_the_last_line_is_a_dot_alone() {
        let cases = [
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("", "\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("a\r\n.\r\nMAIL", "a\r\n..\r\nMAIL\r\n.\r\n"),
            (".\r\n.\r\n..", "..\r\n..\r\n...\r\n.\r\n"),
        ];
        for (raw, expected) in cases {
            assert_eq!(content(raw.as_bytes()), expected, "{raw:?}");
        }
    }

    #[test]
    fn the_password_is_percent_decoded() {
        let server = Server::from_url("smtp://u%40x:p%2Fw%25+@localhost/me.example.com").unwrap();
        let expected = Credentials::new("u@x".to_owned(), "p/w%+".to_owned());
        assert!(server.credentials == Some(expected));
        assert_eq!(server.hello, ClientId::Domain("me.example.com".to_owned()));
    }
}
