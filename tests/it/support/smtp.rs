//! A mail server in the test's own process: real sockets, real SMTP, and as unfriendly as a test wants it.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use mail_parser::{HeaderValue, Message, MessageParser};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// A point in the conversation where the server can misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    Greeting,
    Ehlo,
    StartTls,
    Auth,
    MailFrom,
    Rcpt,
    Data,
    /// After the final dot.
    EndOfData,
    Rset,
}

/// What the server does at a [`Phase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// What a friendly server does.
    Accept,
    /// This reply, `550 5.1.1 no such user`; lines are separated by `\r\n`. After a 421 it closes the connection.
    Reply(&'static str),
    /// What a friendly server does, in these words: `250` alone is an answer.
    Say(&'static str),
    /// What a friendly server does, after this time. The mail, after its final dot, is taken before that.
    Wait(Duration),
    /// Never answers.
    Stall,
    /// After the final dot: takes the mail and never says so, as if whoever sent it ended before they could note it.
    TakeAndStall,
    /// Closes the connection instead of an answer.
    Drop,
}

/// How a server speaks TLS.
#[derive(Clone)]
pub enum Encryption {
    /// From the first byte, as `smtps://` wants it.
    Implicit(TlsAcceptor),
    /// When a client asks for it.
    StartTls(TlsAcceptor),
}

/// The server. It stops when it is dropped.
pub struct SmtpServer {
    address: SocketAddr,
    login: Option<(String, String)>,
    encryption: Option<Encryption>,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// What to do at a phase the next few times, in order; then what to do for good.
    next: HashMap<Phase, Vec<Behaviour>>,
    always: HashMap<Phase, Behaviour>,
    missing: HashSet<&'static str>,
    mails: Vec<ReceivedMail>,
    commands: Vec<String>,
    commands_in_clear: Vec<String>,
    connections: usize,
    stalled: usize,
    pipelined: usize,
    takes_data_for_nobody: bool,
    limit: Option<Limit>,
    limit_met: usize,
    latency: Duration,
}

/// What becomes of a connection that has served so many mails.
#[derive(Clone, Copy)]
struct Limit {
    mails: usize,
    phase: Phase,
    behaviour: Behaviour,
}

impl SmtpServer {
    /// A server that takes all mail from anybody.
    pub async fn start() -> Self {
        Self::listen(None, None).await
    }

    /// A server that takes mail only after this login.
    pub async fn start_with_login(user: &str, password: &str) -> Self {
        Self::listen(Some((user.to_owned(), password.to_owned())), None).await
    }

    /// A server that wants a login and speaks TLS.
    pub async fn start_encrypted(encryption: Encryption) -> Self {
        let login = ("usher".to_owned(), "secret".to_owned());
        Self::listen(Some(login), Some(encryption)).await
    }

    async fn listen(login: Option<(String, String)>, encryption: Option<Encryption>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let accepting = tokio::spawn(accept(listener, shared.clone(), login.clone(), encryption.clone()));
        Self {
            address,
            login,
            encryption,
            shared,
            accepting,
        }
    }

    /// The URL for `SMTP_URL`, with the right login in it if the server wants one, and TLS if it speaks that.
    pub fn url(&self) -> String {
        let port = self.address.port();
        let login = match &self.login {
            Some((user, password)) => format!("{user}:{password}@"),
            None => String::new(),
        };
        match self.encryption {
            None => format!("smtp://{login}{}", self.address),
            Some(Encryption::StartTls(_)) => format!("smtp://{login}localhost:{port}?tls=required"),
            Some(Encryption::Implicit(_)) => format!("smtps://{login}localhost:{port}"),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, at this phase, does this.
    pub fn at(&self, phase: Phase, behaviour: Behaviour) {
        self.shared.state().always.insert(phase, behaviour);
    }

    /// The next `times` times, at this phase, does this.
    pub fn next(&self, times: usize, phase: Phase, behaviour: Behaviour) {
        let mut state = self.shared.state();
        state.next.entry(phase).or_default().extend(vec![behaviour; times]);
    }

    /// From now on answers RCPT TO like this.
    pub fn reply_to_rcpt(&self, behaviour: Behaviour) {
        self.at(Phase::Rcpt, behaviour);
    }

    /// From now on, over a connection that has served so many mails, at this phase does this for ever.
    pub fn limit_connections(&self, mails: usize, phase: Phase, behaviour: Behaviour) {
        self.shared.state().limit = Some(Limit {
            mails,
            phase,
            behaviour,
        });
    }

    /// How often a client came upon that limit.
    pub fn limit_met(&self) -> usize {
        self.shared.state().limit_met
    }

    /// From now on each answer takes so long, as if the server were some way off.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.state().latency = latency;
    }

    /// No longer offers this extension: `SMTPUTF8`, `AUTH`, …
    pub fn without(&self, extension: &'static str) {
        self.shared.state().missing.insert(extension);
    }

    /// Offers it again.
    pub fn with(&self, extension: &'static str) {
        self.shared.state().missing.remove(extension);
    }

    /// The mails accepted so far.
    pub fn mails(&self) -> Vec<ReceivedMail> {
        self.shared.state().mails.clone()
    }

    /// Waits until `count` mails have been accepted, and returns all.
    pub async fn wait_for_mails(&self, count: usize) -> Vec<ReceivedMail> {
        self.shared.until(|state| state.mails.len() >= count).await;
        self.mails()
    }

    /// Waits until the server leaves `count` questions unanswered.
    pub async fn wait_for_stalls(&self, count: usize) {
        self.shared.until(|state| state.stalled >= count).await;
    }

    /// Waits until a client has said this command.
    pub async fn wait_for_command(&self, command: &str) {
        self.shared
            .until(|state| state.commands.iter().any(|said| said == command))
            .await;
    }

    /// Every command that clients have said, without the content of mails and logins.
    pub fn commands(&self) -> Vec<String> {
        self.shared.state().commands.clone()
    }

    /// Those of the commands that anybody on the way could read.
    pub fn commands_in_clear(&self) -> Vec<String> {
        self.shared.state().commands_in_clear.clone()
    }

    /// How many commands came before the one ahead of them was answered.
    pub fn pipelined(&self) -> usize {
        self.shared.state().pipelined
    }

    /// From now on says "go ahead" to DATA even though every recipient was refused.
    pub fn take_data_for_nobody(&self) {
        self.shared.state().takes_data_for_nobody = true;
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_waiters();
    }

    async fn until(&self, is_so: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            if is_so(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    fn behaviour(&self, phase: Phase) -> Behaviour {
        let mut state = self.state();
        match state.next.get_mut(&phase).filter(|next| !next.is_empty()) {
            Some(next) => next.remove(0),
            None => state.always.get(&phase).copied().unwrap_or(Behaviour::Accept),
        }
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    login: Option<(String, String)>,
    encryption: Option<Encryption>,
) {
    // With this task end the tasks in the set.
    let mut sessions = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.change(|state| state.connections += 1);
        let mut session = Session {
            stream: BufReader::new(Box::new(stream)),
            shared: shared.clone(),
            is_logged_in: login.is_none(),
            login: login.clone(),
            encryption: encryption.clone(),
            is_encrypted: false,
            transaction: None,
            mails: 0,
        };
        // `None` is how a session ends.
        sessions.spawn(async move {
            if let Some(Encryption::Implicit(acceptor)) = session.encryption.clone() {
                session.encrypt(&acceptor).await?;
            }
            session.run().await
        });
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

struct Session {
    stream: BufReader<Box<dyn Stream>>,
    shared: Arc<Shared>,
    encryption: Option<Encryption>,
    is_encrypted: bool,
    login: Option<(String, String)>,
    is_logged_in: bool,
    transaction: Option<Transaction>,
    /// How many mails were taken over this connection.
    mails: usize,
}

struct Transaction {
    from: String,
    to: Vec<String>,
}

impl Session {
    async fn run(mut self) -> Option<()> {
        self.answer(Phase::Greeting, "220 localhost ESMTP").await?;
        loop {
            let line = String::from_utf8_lossy(&self.line().await?).trim_end().to_owned();
            if !self.stream.buffer().is_empty() {
                self.shared.change(|state| state.pipelined += 1);
            }
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            let logged = if verb == "AUTH" { "AUTH …" } else { &line };
            self.shared.change(|state| {
                state.commands.push(logged.to_owned());
                if !self.is_encrypted {
                    state.commands_in_clear.push(logged.to_owned());
                }
            });
            match verb.as_str() {
                "EHLO" | "HELO" => self.ehlo().await?,
                "STARTTLS" => self.start_tls().await?,
                "AUTH" => self.auth(&line).await?,
                "MAIL" if !self.is_logged_in => self.say("530 5.7.0 login first").await?,
                "MAIL" if self.transaction.is_some() => self.say("503 5.5.1 nested MAIL").await?,
                "MAIL" => {
                    if self.answer(Phase::MailFrom, "250 2.1.0 ok").await? {
                        self.transaction = Some(Transaction {
                            from: path(&line),
                            to: Vec::new(),
                        });
                    }
                }
                "RCPT" => self.rcpt(&line).await?,
                "DATA" => self.data().await?,
                "RSET" => {
                    if self.answer(Phase::Rset, "250 2.0.0 ok").await? {
                        self.transaction = None;
                    }
                }
                "NOOP" => self.say("250 2.0.0 ok").await?,
                "QUIT" => return self.say("221 2.0.0 bye").await,
                _ => self.say("502 5.5.2 unknown command").await?,
            }
        }
    }

    async fn ehlo(&mut self) -> Option<()> {
        let missing = self.shared.state().missing.clone();
        let mut offered = vec!["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
        if self.login.is_some() {
            offered.push("AUTH PLAIN LOGIN");
        }
        if matches!(self.encryption, Some(Encryption::StartTls(_))) && !self.is_encrypted {
            offered.push("STARTTLS");
        }
        offered.retain(|extension| !missing.contains(extension.split(' ').next().unwrap_or_default()));
        let mut reply = String::from("250-localhost\r\n");
        for extension in offered {
            reply += &format!("250-{extension}\r\n");
        }
        self.answer(Phase::Ehlo, &(reply + "250 HELP")).await?;
        Some(())
    }

    async fn start_tls(&mut self) -> Option<()> {
        let Some(Encryption::StartTls(acceptor)) = self.encryption.clone().filter(|_| !self.is_encrypted) else {
            return self.say("502 5.5.1 not here").await;
        };
        if self.answer(Phase::StartTls, "220 2.0.0 go ahead").await? {
            self.encrypt(&acceptor).await?;
        }
        Some(())
    }

    async fn encrypt(&mut self, acceptor: &TlsAcceptor) -> Option<()> {
        let nothing: Box<dyn Stream> = Box::new(tokio::io::empty());
        let plain = std::mem::replace(&mut self.stream, BufReader::new(nothing));
        let encrypted = acceptor.accept(plain.into_inner()).await.ok()?;
        self.stream = BufReader::new(Box::new(encrypted));
        self.is_encrypted = true;
        Some(())
    }

    async fn auth(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ').skip(1);
        let given = match (words.next(), words.next()) {
            (Some("PLAIN"), Some(response)) => {
                let response = decoded(response);
                let mut parts = response.split('\0').skip(1).map(str::to_owned);
                (parts.next(), parts.next())
            }
            (Some("LOGIN"), None) => {
                let user = self.ask("334 VXNlcm5hbWU6").await?;
                (Some(user), Some(self.ask("334 UGFzc3dvcmQ6").await?))
            }
            _ => return self.say("504 5.5.4 unknown mechanism").await,
        };
        let is_right =
            matches!((&given, &self.login), ((Some(u), Some(p)), Some((user, password))) if u == user && p == password);
        if !is_right {
            return self.say("535 5.7.8 bad credentials").await;
        }
        self.is_logged_in = self.answer(Phase::Auth, "235 2.7.0 welcome").await?;
        Some(())
    }

    async fn ask(&mut self, challenge: &str) -> Option<String> {
        self.say(challenge).await?;
        Some(decoded(String::from_utf8_lossy(&self.line().await?).trim_end()))
    }

    async fn rcpt(&mut self, line: &str) -> Option<()> {
        if self.transaction.is_none() {
            return self.say("503 5.5.1 need MAIL").await;
        }
        if self.answer(Phase::Rcpt, "250 2.1.5 ok").await?
            && let Some(transaction) = &mut self.transaction
        {
            transaction.to.push(path(line));
        }
        Some(())
    }

    async fn data(&mut self) -> Option<()> {
        if self
            .transaction
            .as_ref()
            .is_none_or(|transaction| transaction.to.is_empty())
            && !self.shared.state().takes_data_for_nobody
        {
            return self.say("503 5.5.1 need RCPT").await;
        }
        if !self.answer(Phase::Data, "354 go ahead").await? {
            return Some(());
        }
        let mut raw = Vec::new();
        loop {
            let line = self.line().await?;
            if line == b".\r\n" {
                break;
            }
            raw.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        let Transaction { from, to } = self.transaction.take()?;
        if to.is_empty() {
            return self.say("554 5.5.1 no valid recipients").await;
        }
        let behaviour = self.behaviour(Phase::EndOfData);
        if let Behaviour::Accept | Behaviour::Say(_) | Behaviour::Wait(_) | Behaviour::TakeAndStall = behaviour {
            // Accepted before the reply is read, as on a server that crashes right after it.
            self.mails += 1;
            self.shared
                .change(|state| state.mails.push(ReceivedMail { from, to, raw }));
        }
        let number = self.shared.state().mails.len();
        self.answer_with(behaviour, &format!("250 2.0.0 queued as {number}"))
            .await
            .map(drop)
    }

    fn behaviour(&self, phase: Phase) -> Behaviour {
        let limit = self.shared.state().limit;
        match limit.filter(|limit| limit.phase == phase && self.mails >= limit.mails) {
            Some(limit) => {
                self.shared.change(|state| state.limit_met += 1);
                limit.behaviour
            }
            None => self.shared.behaviour(phase),
        }
    }

    /// Answers as told, or else with `friendly`; true if it was the friendly answer.
    async fn answer(&mut self, phase: Phase, friendly: &str) -> Option<bool> {
        self.answer_with(self.behaviour(phase), friendly).await
    }

    async fn answer_with(&mut self, behaviour: Behaviour, friendly: &str) -> Option<bool> {
        match behaviour {
            Behaviour::Accept => self.say(friendly).await.map(|()| true),
            Behaviour::Say(words) => self.say(words).await.map(|()| true),
            Behaviour::Wait(time) => {
                self.shared.change(|state| state.stalled += 1);
                tokio::time::sleep(time).await;
                self.say(friendly).await.map(|()| true)
            }
            other => self.misbehave(other).await.map(|()| false),
        }
    }

    async fn misbehave(&mut self, behaviour: Behaviour) -> Option<()> {
        match behaviour {
            Behaviour::Accept | Behaviour::Say(_) | Behaviour::Wait(_) => Some(()),
            Behaviour::Reply(reply) => {
                self.say(reply).await?;
                (!reply.starts_with("421")).then_some(())
            }
            Behaviour::Stall | Behaviour::TakeAndStall => {
                self.shared.change(|state| state.stalled += 1);
                std::future::pending().await
            }
            Behaviour::Drop => None,
        }
    }

    async fn say(&mut self, reply: &str) -> Option<()> {
        let latency = self.shared.state().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let stream = self.stream.get_mut();
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
        stream.flush().await.ok()
    }

    async fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await.ok()?;
        line.ends_with(b"\n").then_some(line)
    }
}

/// What stands between the angle brackets.
fn path(line: &str) -> String {
    let (_, rest) = line.split_once('<').unwrap_or_default();
    rest.rsplit_once('>').unwrap_or((rest, "")).0.to_owned()
}

fn decoded(base64: &str) -> String {
    String::from_utf8(STANDARD.decode(base64).unwrap_or_default()).unwrap_or_default()
}

/// A mail as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMail {
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// Headers and body, dots unstuffed.
    pub raw: Vec<u8>,
}

impl ReceivedMail {
    /// A header as a mail program shows it: unfolded and decoded.
    pub fn header(&self, name: &str) -> Option<String> {
        let message = self.parsed();
        match message.header(name)? {
            HeaderValue::Text(text) => Some(text.to_string()),
            _ => message
                .header_raw(name)
                .map(|raw| raw.replace("\r\n", "").trim().to_owned()),
        }
    }

    /// The name in `From`, decoded.
    pub fn sender_name(&self) -> Option<String> {
        Some(self.parsed().from()?.first()?.name()?.to_owned())
    }

    /// How many headers of this name there are.
    pub fn count(&self, name: &str) -> usize {
        self.parsed().header_values(name).count()
    }

    /// The plain text part.
    pub fn text(&self) -> String {
        self.body("text/plain")
    }

    /// The HTML part.
    pub fn html(&self) -> String {
        self.body("text/html")
    }

    fn body(&self, content_type: &str) -> String {
        let message = self.parsed();
        let part = message.parts.iter().find(|part| {
            let found = mail_parser::MimeHeaders::content_type(*part);
            found.is_some_and(|found| {
                format!("{}/{}", found.c_type, found.c_subtype.as_deref().unwrap_or("")) == content_type
            })
        });
        let part = part.unwrap_or_else(|| panic!("the mail has no {content_type} part"));
        part.text_contents().unwrap_or_default().replace("\r\n", "\n")
    }

    fn parsed(&self) -> Message<'_> {
        MessageParser::default()
            .parse(&self.raw)
            .expect("what arrived is a mail")
    }
}
