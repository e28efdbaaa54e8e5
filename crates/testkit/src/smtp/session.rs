//! One connection.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::{memchr, memmem};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

use super::{Behaviour, Command, Encryption, Phase, ReceivedMail, Shared};

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// `None`, in what follows, is how a session ends.
pub(super) struct Session {
    stream: Box<dyn Stream>,
    /// What has come and was not read yet, from `at` on.
    received: Vec<u8>,
    at: usize,
    /// Answers that go out before more is read.
    answers: Vec<u8>,
    shared: Arc<Shared>,
    is_encrypted: bool,
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
    pub(super) fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        Self {
            stream: Box::new(stream),
            received: Vec::with_capacity(16 * 1024),
            at: 0,
            answers: Vec::new(),
            is_encrypted: false,
            is_logged_in: shared.login.is_none(),
            shared,
            transaction: None,
            mails: 0,
        }
    }

    pub(super) async fn run(mut self) -> Option<()> {
        if let Some(Encryption::Implicit(acceptor)) = self.shared.encryption.clone() {
            self.encrypt(&acceptor).await?;
        }
        let ended = self.converse().await;
        self.flush().await?;
        ended
    }

    async fn converse(&mut self) -> Option<()> {
        self.answer(Phase::Greeting, "220 localhost ESMTP").await?;
        loop {
            let line = self.line().await?;
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            let is_pipelined = self.at < self.received.len();
            let said = Command {
                text: if verb == "AUTH" {
                    "AUTH …".to_owned()
                } else {
                    line.clone()
                },
                is_encrypted: self.is_encrypted,
            };
            self.shared.change(|state| {
                state.pipelined += usize::from(is_pipelined);
                state.commands.push(said);
            });
            match verb.as_str() {
                "EHLO" | "HELO" => self.ehlo().await?,
                "STARTTLS" => self.start_tls().await?,
                "AUTH" => self.auth(&line).await?,
                "MAIL" => self.mail(&line).await?,
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
        let mut offered = vec!["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
        if self.shared.login.is_some() {
            offered.push("AUTH PLAIN LOGIN");
        }
        if matches!(self.shared.encryption, Some(Encryption::StartTls(_))) && !self.is_encrypted {
            offered.push("STARTTLS");
        }
        let missing = self.shared.state().missing.clone();
        offered.retain(|extension| !missing.contains(extension.split(' ').next().unwrap_or_default()));
        let mut reply = String::from("250-localhost\r\n");
        for extension in offered {
            reply += &format!("250-{extension}\r\n");
        }
        self.answer(Phase::Ehlo, &(reply + "250 HELP")).await.map(drop)
    }

    async fn start_tls(&mut self) -> Option<()> {
        let Some(Encryption::StartTls(acceptor)) = self.shared.encryption.clone().filter(|_| !self.is_encrypted) else {
            return self.say("502 5.5.1 not here").await;
        };
        if self.answer(Phase::StartTls, "220 2.0.0 go ahead").await? {
            self.flush().await?;
            self.encrypt(&acceptor).await?;
        }
        Some(())
    }

    async fn encrypt(&mut self, acceptor: &TlsAcceptor) -> Option<()> {
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        self.stream = Box::new(acceptor.accept(plain).await.ok()?);
        // What came in clear before is not listened to.
        self.received.clear();
        self.at = 0;
        self.is_encrypted = true;
        Some(())
    }

    async fn auth(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ').skip(1);
        let given = match (words.next(), words.next()) {
            (Some("PLAIN"), Some(response)) => {
                let response = decoded(response);
                let mut parts = response.split('\0').skip(1).map(str::to_owned);
                parts.next().zip(parts.next())
            }
            (Some("LOGIN"), None) => {
                let user = self.ask("334 VXNlcm5hbWU6").await?;
                Some((user, self.ask("334 UGFzc3dvcmQ6").await?))
            }
            _ => return self.say("504 5.5.4 unknown mechanism").await,
        };
        if given.is_none() || given != self.shared.login {
            return self.say("535 5.7.8 bad credentials").await;
        }
        self.is_logged_in = self.answer(Phase::Auth, "235 2.7.0 welcome").await?;
        Some(())
    }

    async fn ask(&mut self, challenge: &str) -> Option<String> {
        self.say(challenge).await?;
        Some(decoded(&self.line().await?))
    }

    async fn mail(&mut self, line: &str) -> Option<()> {
        if !self.is_logged_in {
            return self.say("530 5.7.0 login first").await;
        }
        if self.transaction.is_some() {
            return self.say("503 5.5.1 nested MAIL").await;
        }
        if self.answer(Phase::MailFrom, "250 2.1.0 ok").await? {
            self.transaction = Some(Transaction {
                from: path(line),
                to: Vec::new(),
            });
        }
        Some(())
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
        let has_recipients = self.transaction.as_ref().is_some_and(|mail| !mail.to.is_empty());
        if !has_recipients && !self.shared.state().accepts_data_without_recipients {
            return self.say("503 5.5.1 need RCPT").await;
        }
        if !self.answer(Phase::Data, "354 go ahead").await? {
            return Some(());
        }
        let raw = self.content().await?;
        let Transaction { from, to } = self.transaction.take()?;
        if to.is_empty() {
            return self.say("554 5.5.1 no valid recipients").await;
        }
        let behaviour = self.shared.behaviour(Phase::EndOfData, self.mails);
        let is_taken = matches!(
            behaviour,
            Behaviour::Accept | Behaviour::Say(_) | Behaviour::Wait(_) | Behaviour::TakeAndStall
        );
        if is_taken {
            // Accepted before the answer goes out, as on a server that crashes right after it.
            self.mails += 1;
            let at = Instant::now();
            self.shared
                .change(|state| state.mails.push(ReceivedMail { from, to, raw, at }));
        }
        let queued = format!("250 2.0.0 queued as {}", self.shared.state().mails.len());
        self.answer_with(behaviour, &queued).await.map(drop)
    }

    /// Reads a mail to its final dot.
    async fn content(&mut self) -> Option<Arc<[u8]>> {
        const END: &[u8] = b"\r\n.\r\n";
        let mut searched = 0;
        loop {
            let content = &self.received[self.at..];
            if content.starts_with(&END[2..]) {
                self.at += END.len() - 2;
                return Some(Arc::default());
            }
            if let Some(end) = memmem::find(&content[searched..], END).map(|end| searched + end) {
                let raw = unstuffed(&content[..end + 2]);
                self.at += end + END.len();
                return Some(raw);
            }
            searched = content.len().saturating_sub(END.len() - 1);
            self.read().await?;
        }
    }

    /// Answers as told, or else with `friendly`; true if it was the friendly answer.
    async fn answer(&mut self, phase: Phase, friendly: &str) -> Option<bool> {
        self.answer_with(self.shared.behaviour(phase, self.mails), friendly)
            .await
    }

    async fn answer_with(&mut self, behaviour: Behaviour, friendly: &str) -> Option<bool> {
        match behaviour {
            Behaviour::Accept => self.say(friendly).await?,
            Behaviour::Say(words) => self.say(words).await?,
            Behaviour::Wait(time) => {
                self.flush().await?;
                self.shared.change(|state| state.stalled += 1);
                sleep(time).await;
                self.say(friendly).await?;
            }
            Behaviour::Reply(reply) => {
                self.say(reply).await?;
                return (!reply.starts_with("421")).then_some(false);
            }
            Behaviour::Stall | Behaviour::TakeAndStall => {
                self.flush().await?;
                self.shared.change(|state| state.stalled += 1);
                std::future::pending().await
            }
            Behaviour::Drop => return None,
        }
        Some(true)
    }

    async fn say(&mut self, reply: &str) -> Option<()> {
        let latency = self.shared.state().latency;
        if !latency.is_zero() {
            self.flush().await?;
            sleep(latency).await;
        }
        self.answers.extend_from_slice(reply.as_bytes());
        self.answers.extend_from_slice(b"\r\n");
        Some(())
    }

    /// The next line, without its end.
    async fn line(&mut self) -> Option<String> {
        loop {
            let rest = &self.received[self.at..];
            if let Some(end) = memchr(b'\n', rest) {
                let line = String::from_utf8_lossy(&rest[..end]).trim_end().to_owned();
                self.at += end + 1;
                return Some(line);
            }
            self.read().await?;
        }
    }

    /// Reads more, once everything is answered.
    async fn read(&mut self) -> Option<()> {
        self.flush().await?;
        self.received.drain(..self.at);
        self.at = 0;
        let read = self.stream.read_buf(&mut self.received).await.ok()?;
        (read > 0).then_some(())
    }

    async fn flush(&mut self) -> Option<()> {
        if !self.answers.is_empty() {
            self.stream.write_all(&self.answers).await.ok()?;
            self.stream.flush().await.ok()?;
            self.answers.clear();
        }
        Some(())
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

/// Without the dots that were put before those at the beginning of a line.
fn unstuffed(content: &[u8]) -> Arc<[u8]> {
    if !content.starts_with(b".") && memmem::find(content, b"\n.").is_none() {
        return content.into();
    }
    let lines = content.split_inclusive(|&byte| byte == b'\n');
    lines
        .flat_map(|line| line.strip_prefix(b".").unwrap_or(line))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_that_was_put_before_a_line_is_taken_away() {
        assert_eq!(&*unstuffed(b"..a\r\nb\r\n..\r\n"), b".a\r\nb\r\n.\r\n");
        assert_eq!(&*unstuffed(b"a.\r\n"), b"a.\r\n");
    }

    #[test]
    fn a_path_ends_at_the_last_bracket() {
        assert_eq!(path("RCPT TO:<ada@example.com> NOTIFY=NEVER"), "ada@example.com");
        assert_eq!(path("MAIL FROM:<>"), "");
    }
}
