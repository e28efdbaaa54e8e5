//! A mail server on a real socket that does what it is told at each step of the conversation.
//!
//! Fast enough for benchmarks, too: commands that come together are answered together, and a mail is taken as one piece.

mod mail;
mod session;

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub use self::mail::ReceivedMail;
use self::session::Session;

/// A point in the conversation where the server can misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Before the client says anything.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// AUTH with the right login.
    Auth,
    /// MAIL FROM.
    MailFrom,
    /// RCPT TO.
    Rcpt,
    /// DATA.
    Data,
    /// After the final dot.
    EndOfData,
    /// RSET.
    Rset,
}

impl Phase {
    /// The commands of a mail and between two mails.
    pub const COMMANDS: [Self; 5] = [Self::Ehlo, Self::MailFrom, Self::Rcpt, Self::Data, Self::Rset];
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
    /// After the final dot: takes the mail and never says so, as if the client ended before it could note it.
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
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// A command as a client said it.
struct Command {
    text: String,
    is_encrypted: bool,
}

#[derive(Default)]
struct Shared {
    login: Option<(String, String)>,
    encryption: Option<Encryption>,
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
    commands: Vec<Command>,
    connections: usize,
    stalled: usize,
    pipelined: usize,
    accepts_data_without_recipients: bool,
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
    /// A server that takes all mail from any client.
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

    #[expect(clippy::expect_used, reason = "without a free port there is nothing to go on with")]
    async fn listen(login: Option<(String, String)>, encryption: Option<Encryption>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            login,
            encryption,
            ..Shared::default()
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// The URL for `SMTP_URL`, with the right login in it if the server wants one, and TLS if it speaks that.
    pub fn url(&self) -> String {
        let port = self.address.port();
        let login = match &self.shared.login {
            Some((user, password)) => format!("{user}:{password}@"),
            None => String::new(),
        };
        match self.shared.encryption {
            None => format!("smtp://{login}{}", self.address),
            Some(Encryption::StartTls(_)) => format!("smtp://{login}localhost:{port}?tls=required"),
            Some(Encryption::Implicit(_)) => format!("smtps://{login}localhost:{port}"),
        }
    }

    /// Where it listens.
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

    /// From now on says "go ahead" to DATA even though every recipient was refused.
    pub fn accept_data_without_recipients(&self) {
        self.shared.state().accepts_data_without_recipients = true;
    }

    /// The mails accepted so far.
    pub fn mails(&self) -> Vec<ReceivedMail> {
        self.shared.state().mails.clone()
    }

    /// The mails accepted so far. They are removed, so counting starts again.
    pub fn take_mails(&self) -> Vec<ReceivedMail> {
        std::mem::take(&mut self.shared.state().mails)
    }

    /// How many mails have been accepted.
    pub fn mail_count(&self) -> usize {
        self.shared.state().mails.len()
    }

    /// One of the mails accepted so far.
    pub fn mail(&self, number: usize) -> Option<ReceivedMail> {
        self.shared.state().mails.get(number).cloned()
    }

    /// Waits until `count` mails have been accepted, and returns all.
    pub async fn wait_for_mails(&self, count: usize) -> Vec<ReceivedMail> {
        self.shared.until(|state| state.mails.len() >= count).await;
        self.mails()
    }

    /// How many questions the server has left unanswered, or for a while.
    pub fn stalls(&self) -> usize {
        self.shared.state().stalled
    }

    /// Waits until the server leaves `count` questions unanswered.
    pub async fn wait_for_stalls(&self, count: usize) {
        self.shared.until(|state| state.stalled >= count).await;
    }

    /// Waits until a client has said this command.
    pub async fn wait_for_command(&self, command: &str) {
        self.shared
            .until(|state| state.commands.iter().any(|said| said.text == command))
            .await;
    }

    /// Every command that clients have said, without the content of mails and logins.
    pub fn commands(&self) -> Vec<String> {
        let state = self.shared.state();
        state.commands.iter().map(|said| said.text.clone()).collect()
    }

    /// Those of the commands that anyone on the way could read.
    pub fn commands_in_clear(&self) -> Vec<String> {
        let state = self.shared.state();
        let in_clear = state.commands.iter().filter(|said| !said.is_encrypted);
        in_clear.map(|said| said.text.clone()).collect()
    }

    /// How many commands came before the one ahead of them was answered.
    pub fn pipelined(&self) -> usize {
        self.shared.state().pipelined
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What to do at this phase, over a connection that has served so many mails.
    fn behaviour(&self, phase: Phase, mails: usize) -> Behaviour {
        let mut state = self.state();
        if let Some(limit) = state.limit.filter(|limit| limit.phase == phase && mails >= limit.mails) {
            state.limit_met += 1;
            return limit.behaviour;
        }
        match state.next.get_mut(&phase).filter(|next| !next.is_empty()) {
            Some(next) => next.remove(0),
            None => state.always.get(&phase).copied().unwrap_or(Behaviour::Accept),
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // With this task end the tasks in the set.
    let mut sessions = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // No answer shall wait for the network to fill a packet.
        let _ = stream.set_nodelay(true);
        shared.change(|state| state.connections += 1);
        sessions.spawn(Session::new(stream, Arc::clone(&shared)).run());
        while sessions.try_join_next().is_some() {}
    }
}
