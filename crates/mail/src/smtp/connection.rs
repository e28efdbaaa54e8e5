//! One conversation per mail, over a connection that may serve many.

use std::borrow::Cow;
use std::pin::pin;
use std::time::Duration;

use lettre::Address;
use tokio::time::timeout;

use super::permits::Permit;
use super::reply::{Reply, WireError};
use super::server::Offers;
use super::wire::Wire;
use crate::failure::{Cause, Failure, Step};

/// How long each step may take: RFC 5321, 4.5.3.2. Giving up sooner after the content means a second copy for the invitee.
pub(crate) mod limits {
    use std::time::Duration;

    /// Not the server's time yet but the network's: who answers at all answers soon.
    pub(in crate::smtp) const CONNECT: Duration = Duration::from_secs(10);
    pub(in crate::smtp) const HANDSHAKE: Duration = Duration::from_secs(30);
    pub(in crate::smtp) const GREETING: Duration = Duration::from_secs(5 * 60);
    /// EHLO, STARTTLS, AUTH, MAIL and RCPT.
    pub(in crate::smtp) const COMMAND: Duration = Duration::from_secs(5 * 60);
    pub(crate) const DATA: Duration = Duration::from_secs(2 * 60);
    pub(crate) const BLOCK: Duration = Duration::from_secs(3 * 60);
    pub(crate) const END: Duration = Duration::from_secs(10 * 60);
    /// For the first answer over a kept connection. The server may be long gone, and nothing is lost with it.
    pub(crate) const RESET: Duration = Duration::from_secs(10);
    /// A good-bye is a courtesy and not waited for long.
    pub(crate) const QUIT: Duration = Duration::from_secs(2);
}

/// Who waits longer for an answer lets others go first.
const SLOW: Duration = Duration::from_secs(5);
/// Bytes of content that are written at a time.
const BLOCK_SIZE: usize = 64 * 1024;

/// A mail with its envelope.
#[derive(Clone, Copy)]
pub(crate) struct Envelope<'a> {
    pub(crate) from: &'a Address,
    pub(crate) to: &'a Address,
    pub(crate) raw: &'a [u8],
}

/// A connection after greeting and login.
pub(crate) struct Connection {
    wire: Wire,
    pub(crate) offers: Offers,
    /// How many mails the server took over it.
    pub(crate) taken: usize,
    /// Whether it was kept from an earlier use.
    pub(crate) is_kept: bool,
}

/// A conversation that did not end with the mail taken.
pub(crate) struct Broken {
    pub(crate) failure: Failure,
    /// Whether the connection is good for the next mail: only after complete replies, so that the next reply read belongs to
    /// the next command said.
    pub(crate) is_usable: bool,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self {
            is_usable: failure.leaves_session_usable(),
            failure,
        }
    }
}

impl Connection {
    pub(crate) fn new(wire: Wire, offers: Offers) -> Self {
        Self {
            wire,
            offers,
            taken: 0,
            is_kept: false,
        }
    }

    /// Sends a mail; the server's last reply.
    pub(crate) async fn converse(&mut self, mail: Envelope<'_>, permit: &mut Permit) -> Result<Reply, Broken> {
        let mut commands = vec![
            (Step::Sender, mail_from(mail, &self.offers)?),
            (Step::Recipient, format!("RCPT TO:<{}>\r\n", mail.to)),
            (Step::Data, "DATA\r\n".to_owned()),
        ];
        // Clears what a refused mail may have left, and shows that the server is still there.
        if self.is_kept {
            commands.insert(0, (Step::Reset, "RSET\r\n".to_owned()));
        }
        if self.offers.pipelining {
            self.in_one_go(&commands, permit).await?;
        } else {
            self.one_by_one(&commands, permit).await?;
        }
        let content = content(mail.raw);
        self.wire.note(|| format!("> (the mail, {} bytes)", content.len()));
        for block in content.as_bytes().chunks(BLOCK_SIZE) {
            within(limits::BLOCK, Step::End, permit, self.wire.write(block)).await?;
        }
        let reply = within(limits::END, Step::End, permit, self.wire.hear()).await?;
        let reply = replied(Step::End, reply)?;
        self.taken += 1;
        Ok(reply)
    }

    /// Names a sender, as far as that can be tried without naming a recipient.
    pub(crate) async fn try_sender(&mut self, from: &Address, permit: &mut Permit) -> Result<(), Failure> {
        let command = format!("MAIL FROM:<{from}>\r\n");
        let reply = within(limits::COMMAND, Step::Sender, permit, self.wire.ask(&command)).await?;
        replied(Step::Sender, reply).map(drop)
    }

    /// Whatever comes back, the connection is closed right after.
    pub(crate) async fn quit(mut self) {
        let _ = timeout(limits::QUIT, self.wire.ask("QUIT\r\n")).await;
    }

    async fn one_by_one(&mut self, commands: &[(Step, String)], permit: &mut Permit) -> Result<(), Failure> {
        for (step, command) in commands {
            let reply = within(limit_of(*step), *step, permit, self.wire.ask(command)).await?;
            replied(*step, reply)?;
        }
        Ok(())
    }

    /// One round trip for all commands up to DATA. Every reply is read, so that the next one read belongs to the next
    /// command; the first refusal is the one that counts.
    async fn in_one_go(&mut self, commands: &[(Step, String)], permit: &mut Permit) -> Result<(), Broken> {
        let group: String = commands.iter().map(|(_, command)| command.as_str()).collect();
        let first = commands.first().map_or(Step::Data, |(step, _)| *step);
        within(limit_of(first), first, permit, self.wire.say(&group)).await?;
        let mut first_refusal: Option<Broken> = None;
        for &(step, _) in commands {
            let heard = within(limit_of(step), step, permit, self.wire.hear()).await;
            match (heard.and_then(|reply| replied(step, reply)), &mut first_refusal) {
                (Ok(_), None) => {}
                // Told to go ahead although nobody is to get it: a mail to nobody, which ends right away.
                (Ok(_), Some(refusal)) if step == Step::Data => {
                    let ended = within(limits::END, step, permit, self.wire.ask(".\r\n")).await;
                    refusal.is_usable &= ended.is_ok_and(|reply| reply.code != 421);
                }
                (Ok(_), Some(_)) => {}
                (Err(failure), refusal) => {
                    let can_go_on = failure.leaves_session_usable();
                    match refusal {
                        Some(refusal) => refusal.is_usable &= can_go_on,
                        None => *refusal = Some(failure.into()),
                    }
                    if !can_go_on {
                        break;
                    }
                }
            }
        }
        first_refusal.map_or(Ok(()), Err)
    }
}

fn limit_of(step: Step) -> Duration {
    match step {
        Step::Reset => limits::RESET,
        Step::Data => limits::DATA,
        _ => limits::COMMAND,
    }
}

/// The bodies and all words in the headers are encoded, so only an address can be outside ASCII.
fn mail_from(mail: Envelope<'_>, offers: &Offers) -> Result<String, Failure> {
    let from = mail.from;
    if mail.raw.is_ascii() {
        return Ok(format!("MAIL FROM:<{from}>\r\n"));
    }
    if offers.utf8 {
        return Ok(format!("MAIL FROM:<{from}> SMTPUTF8 BODY=8BITMIME\r\n"));
    }
    let recipient_is_ascii = AsRef::<str>::as_ref(mail.to).is_ascii();
    Err(Failure::new(Step::Sender, Cause::NoUtf8 { recipient_is_ascii }))
}

/// The mail as DATA wants it: dots at the start of a line doubled, and one alone at the end.
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

/// The reply that lets the conversation go on after this step; any other is a refusal.
pub(crate) fn replied(step: Step, reply: Reply) -> Result<Reply, Failure> {
    let goes_on = match step {
        Step::Data => (300..400).contains(&reply.code),
        _ => (200..300).contains(&reply.code),
    };
    if goes_on {
        Ok(reply)
    } else {
        Err(Failure::new(step, Cause::Refused(reply)))
    }
}

/// One step, in time. Who waits long for it steps aside, so that a slow answer holds up no other mail.
pub(crate) async fn within<T>(
    limit: Duration,
    step: Step,
    permit: &mut Permit,
    work: impl Future<Output = Result<T, WireError>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    let brief = limit.min(SLOW);
    let mut done = timeout(brief, work.as_mut()).await;
    if done.is_err() && limit > brief {
        permit.step_aside();
        done = timeout(limit - brief, work).await;
    }
    let cause = match done {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(WireError::Closed)) => Cause::Closed,
        Ok(Err(WireError::Unreadable)) => Cause::Unreadable,
        Ok(Err(WireError::Io(error))) => Cause::Io(error.to_string()),
        Err(_) => Cause::TimedOut(limit),
    };
    Err(Failure::new(step, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
