//! SMTP: a few connections that are kept open, and one conversation per mail.
//!
//! The commands, replies and TLS are lettre's. Its `AsyncSmtpTransport` isn't used, for three reasons that its source
//! (0.11.23) shows: an error doesn't tell whether the login, the sender or the recipient was refused; there is no limit
//! on the wait for a reply; and a send that is given up half-way puts its connection back into the pool, where the next
//! mail reads the answers to the last one and may go to its recipient.

use std::{
    borrow::Cow,
    fmt, mem,
    net::IpAddr,
    num::NonZeroU32,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::FutureExt;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use lettre::{
    Address,
    transport::smtp::{
        self,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, Tls, TlsParameters},
        commands::{Data, Ehlo, Mail, Rcpt, Rset},
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

/// Whether a server's address can be used. The error never repeats it.
pub(super) fn check_url(url: &str) -> Result<(), String> {
    Server::from_url(url).map(drop)
}

pub(super) struct Smtp {
    server: Server,
    pool: Arc<Pool>,
    slots: Semaphore,
    rate: Option<DefaultDirectRateLimiter>,
}

impl Smtp {
    /// Takes lettre's form: `smtps://user:password@host:465`, `smtp://user:password@host:587?tls=required`,
    /// `smtp://localhost:25`; the path, if any, is the name for EHLO. The error never repeats the URL.
    pub(super) fn from_url(url: &str) -> Result<Self, String> {
        let server = Server::from_url(url)?;
        if server.credentials.is_some() && matches!(server.tls, Tls::None) && !is_loopback(&server.host) {
            let host = &server.host;
            tracing::warn!(smtp.host = %host, "SMTP_URL sends the password to {host} in clear: add ?tls=required or use smtps://");
        }
        Ok(Self {
            server,
            pool: Arc::default(),
            slots: Semaphore::new(MAX_CONNECTIONS),
            rate: None,
        })
    }

    /// Sends so many mails a second at most, spread evenly.
    pub(super) fn limit(&mut self, mails_per_second: NonZeroU32) {
        let evenly = Quota::per_second(mails_per_second).allow_burst(NonZeroU32::MIN);
        self.rate = Some(RateLimiter::direct(evenly));
    }

    /// Sends one mail and returns the server's reply.
    pub(super) async fn send(&self, from: &Address, to: &Address, raw: &[u8]) -> Result<String, SendError> {
        let _slot = self.slots.acquire().await;
        if let Some(rate) = &self.rate {
            rate.until_ready().await;
        }
        if let Some(kept) = self.pool.newest().await {
            match self.deliver(kept, from, to, raw).await {
                Err(Unsent::ConnectionGone) => self.pool.clear().await,
                Err(Unsent::Failed(error)) => return Err(error),
                Ok(reply) => return Ok(reply),
            }
        }
        // Opening is rare, and its future is four times as large as all else: boxed, it isn't moved about with every mail.
        let connection = Box::pin(self.server.open()).await?;
        match self.deliver(connection, from, to, raw).await {
            Ok(reply) => Ok(reply),
            Err(Unsent::Failed(error)) => Err(error),
            // A new connection begins without RSET, which is what this tells of.
            Err(Unsent::ConnectionGone) => Err(SendError::Temporary("the connection ended at once".to_owned())),
        }
    }

    /// One mail over this connection, which is kept afterwards if it can be. Dropped without QUIT if this future is dropped
    /// or the conversation breaks off: see the module's comment.
    async fn deliver(
        &self,
        mut connection: Connection,
        from: &Address,
        to: &Address,
        raw: &[u8],
    ) -> Result<String, Unsent> {
        match converse(&mut connection, from, to, raw).await {
            Ok(reply) => {
                self.pool.park(connection).await;
                Ok(masked(&format!("{} {}", reply.code(), lines(&reply))))
            }
            Err(broken) => {
                if broken.is_usable {
                    self.pool.park(connection).await;
                }
                match broken.failure {
                    Some(failure) => Err(Unsent::Failed(failure.into())),
                    None => Err(Unsent::ConnectionGone),
                }
            }
        }
    }

    /// Connects and logs in, as far as the server can be tried without sending anything.
    pub(super) async fn check(&self) -> Result<(), SendError> {
        let connection = self.server.open().await?;
        self.pool.park(connection).await;
        Ok(())
    }

    /// Names a sender, as far as that can be tried without naming a recipient.
    pub(super) async fn check_sender(&self, from: &Address) -> Result<(), SendError> {
        let mut connection = self.server.open().await?;
        let mail = Mail::new(Some(from.clone()), Vec::new());
        within(REPLY_LIMIT, Step::Sender, connection.smtp.command(mail)).await?;
        // The next to use it clears what was begun.
        connection.is_used = true;
        self.pool.park(connection).await;
        Ok(())
    }

    /// Says good-bye on the connections that wait for mail.
    pub(super) async fn close(&self) {
        let idle = mem::take(&mut self.pool.idle.lock().await.connections);
        quit(idle).await;
    }
}

/// Why a mail was not sent over a connection.
enum Unsent {
    /// The connection was kept from an earlier mail and is of no use any more. Nothing of this mail was said.
    ConnectionGone,
    Failed(SendError),
}

/// A connection after greeting and login.
struct Connection {
    smtp: AsyncSmtpConnection,
    /// Whether the server takes commands in groups (RFC 2920).
    is_pipelining: bool,
    /// Whether an earlier mail was sent over it, or tried.
    is_used: bool,
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
    async fn open(&self) -> Result<Connection, Failure> {
        // lettre panics over an EHLO reply with a blank line in it.
        let opened = AssertUnwindSafe(self.open_and_log_in()).catch_unwind().await;
        opened.unwrap_or(Err(Failure {
            step: Step::Connect,
            cause: Cause::Panicked,
        }))
    }

    async fn open_and_log_in(&self) -> Result<Connection, Failure> {
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
        // lettre keeps to itself whether the server offers this, so it is asked once more.
        let offered = connection.command(Ehlo::new(self.hello.clone()));
        let offered = within(REPLY_LIMIT, Step::Connect, offered).await?;
        let is_pipelining = offered
            .message()
            .any(|line| line.trim().eq_ignore_ascii_case("PIPELINING"));
        if let Some(credentials) = &self.credentials {
            within(
                REPLY_LIMIT,
                Step::Login,
                connection.auth(DEFAULT_MECHANISMS, credentials),
            )
            .await?;
        }
        Ok(Connection {
            smtp: connection,
            is_pipelining,
            is_used: false,
        })
    }
}

/// A conversation that did not end with the mail taken.
struct Broken {
    /// `None` if already RSET failed: the connection had died while it waited.
    failure: Option<Failure>,
    /// Whether the connection is good for the next mail.
    is_usable: bool,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self {
            is_usable: failure.leaves_session_usable(),
            failure: Some(failure),
        }
    }
}

/// One mail's conversation.
async fn converse(connection: &mut Connection, from: &Address, to: &Address, raw: &[u8]) -> Result<Response, Broken> {
    let smtp = &mut connection.smtp;
    let parameters = parameters(smtp, to, raw)?;
    let mail = Mail::new(Some(from.clone()), parameters);
    let rcpt = Rcpt::new(to.clone(), Vec::new());
    let mut commands = vec![
        (Step::Sender, mail.to_string()),
        (Step::Recipient, rcpt.to_string()),
        (Step::Data, Data.to_string()),
    ];
    // Clears what a refused mail may have left, and shows that the server is still there.
    if mem::replace(&mut connection.is_used, true) {
        commands.insert(0, (Step::Reset, Rset.to_string()));
    }
    if connection.is_pipelining {
        in_one_go(smtp, &commands).await?;
    } else {
        one_by_one(smtp, commands).await?;
    }
    Ok(within(CONTENT_LIMIT, Step::Content, smtp.command(content(raw))).await?)
}

/// The bodies and all words in the headers are encoded, so only an address can be outside ASCII.
fn parameters(smtp: &AsyncSmtpConnection, to: &Address, raw: &[u8]) -> Result<Vec<MailParameter>, Failure> {
    if raw.is_ascii() {
        return Ok(Vec::new());
    }
    let server = smtp.server_info();
    if server.supports_feature(Extension::SmtpUtfEight) && server.supports_feature(Extension::EightBitMime) {
        return Ok(vec![
            MailParameter::SmtpUtfEight,
            MailParameter::Body(MailBodyParameter::EightBitMime),
        ]);
    }
    let recipient_is_ascii = AsRef::<str>::as_ref(to).is_ascii();
    Err(Failure {
        step: Step::Sender,
        cause: Cause::NoUtf8 { recipient_is_ascii },
    })
}

async fn one_by_one(smtp: &mut AsyncSmtpConnection, commands: Vec<(Step, String)>) -> Result<(), Broken> {
    for (step, command) in commands {
        if let Err(failure) = within(REPLY_LIMIT, step, smtp.command(command)).await {
            return Err(broken_at(step, failure));
        }
    }
    Ok(())
}

/// One round trip for all commands up to DATA. Every reply is read, so that the next one read belongs to the next command;
/// the first refusal is the one that counts.
async fn in_one_go(smtp: &mut AsyncSmtpConnection, commands: &[(Step, String)]) -> Result<(), Broken> {
    let group: String = commands.iter().map(|(_, command)| command.as_str()).collect();
    let mut first_refusal: Option<Broken> = None;
    for (i, &(step, _)) in commands.iter().enumerate() {
        let reply = if i == 0 {
            within(REPLY_LIMIT, step, smtp.command(&group)).await
        } else {
            within(REPLY_LIMIT, step, smtp.read_response()).await
        };
        match (reply, &mut first_refusal) {
            (Ok(_), None) => {}
            // Told to go ahead although nobody is to get it: a mail to nobody, which ends right away.
            (Ok(_), Some(refusal)) if step == Step::Data => {
                let ended = within(REPLY_LIMIT, step, smtp.command(".\r\n")).await;
                refusal.is_usable &= ended.map_or_else(|failure| failure.leaves_session_usable(), |_| true);
            }
            (Ok(_), Some(_)) => {}
            (Err(failure), refusal) => {
                let can_go_on = failure.leaves_session_usable();
                match refusal {
                    Some(refusal) => refusal.is_usable &= can_go_on,
                    None => *refusal = Some(broken_at(step, failure)),
                }
                if !can_go_on {
                    break;
                }
            }
        }
    }
    first_refusal.map_or(Ok(()), Err)
}

fn broken_at(step: Step, failure: Failure) -> Broken {
    if step == Step::Reset {
        return Broken {
            failure: None,
            is_usable: false,
        };
    }
    failure.into()
}

/// The mail as DATA wants it: dots at the start of a line doubled, and one alone at the end. lettre would do this too,
/// but it writes the last dot by itself, which the kernel holds back until the rest is acknowledged: 40 ms per mail.
fn content(raw: &[u8]) -> String {
    // Headers and encoded bodies are text, and their lines end in CRLF.
    let raw = str::from_utf8(raw).map_or_else(|_| String::from_utf8_lossy(raw), Cow::Borrowed);
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
    connection: Connection,
    since: Instant,
}

impl Pool {
    async fn newest(&self) -> Option<Connection> {
        let newest = self.idle.lock().await.connections.pop();
        newest.map(|parked| parked.connection)
    }

    /// Lets go of connections that waited longer than one which had died, and are no better.
    async fn clear(&self) {
        self.idle.lock().await.connections.clear();
    }

    async fn park(self: &Arc<Self>, connection: Connection) {
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
        let _ = timeout(QUIT_LIMIT, parked.connection.smtp.quit()).await;
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
