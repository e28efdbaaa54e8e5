//! What a failed delivery means: try again, give up, or call ops.

use std::{fmt, time::Duration};

use super::classify::{Age, Outcome, classify};
use super::smtp::Reply;
use super::text::{cleaned, shortened};
use usher_base::mask::mask_addresses;

/// Servers explain themselves at length; this much of it is kept.
const MAX_REPLY: usize = 400;

/// Why a mail was not sent. The texts name the step that failed and hold the server's reply with addresses masked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// May work in a while: no connection, no answer in time, TLS trouble, or a reply that speaks neither of the address nor
    /// of us.
    #[error("not sent for now: {0}")]
    Temporary(String),
    /// Final for this mail: the server will never take it as it is.
    #[error("rejected: {0}")]
    Rejected(String),
    /// Final for this address: there is no such mailbox, or none that takes mail.
    #[error("the address takes no mail: {0}")]
    Bounced(String),
    /// Kept: words that blame our setup or how much we send, but only once it was this recipient's or this mail's turn
    /// (relaying denied, a rate, a policy). One alone may be the recipient's fault; several in a row are ours.
    #[error("the mail server refuses our setup for this mail: {0}")]
    Policy(String),
    /// Kept: our sender, account or quota is refused, but only once it was this recipient's or this mail's turn. So it is
    /// with all mails, unless the server took another one just now.
    #[error("the mail server refuses our sender or account: {0}")]
    Sender(String),
    /// No mail would get through: login, sender, account or session are refused, or a quota is used up. Keep the mail and
    /// tell ops.
    #[error("the mail server refuses our account or setup: {0}")]
    Account(String),
    /// Final for this mail: there is no way to write it or its address down.
    #[error("not a mail that can be sent: {0}")]
    Unaddressable(String),
}

/// How far the conversation with the server had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// TCP and implicit TLS.
    Connect,
    Greeting,
    Hello,
    StartTls,
    Login,
    /// The start of a mail over a connection that was kept.
    Reset,
    Sender,
    Recipient,
    Data,
    /// The content itself, answered after the final dot.
    End,
}

impl Step {
    /// As in the server's log, for whoever compares the two.
    fn name(self) -> &'static str {
        match self {
            Self::Connect | Self::Greeting | Self::Hello => "connecting",
            Self::StartTls => "STARTTLS",
            Self::Login => "AUTH",
            Self::Reset => "RSET",
            Self::Sender => "MAIL FROM",
            Self::Recipient => "RCPT TO",
            Self::Data => "DATA",
            Self::End => "end of data",
        }
    }
}

/// A step that went wrong.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) cause: Cause,
}

#[derive(Debug)]
pub(crate) enum Cause {
    /// The server said no.
    Refused(Reply),
    /// The server does not do what the settings ask for.
    NotOffered(&'static str),
    /// The connection ended.
    Closed,
    /// What came was no reply.
    Unreadable,
    /// The network or TLS.
    Io(String),
    TimedOut(Duration),
    /// The mail has an address outside ASCII and the server can't take such mail.
    NoUtf8 {
        recipient_is_ascii: bool,
    },
}

impl Failure {
    pub(crate) fn new(step: Step, cause: Cause) -> Self {
        Self { step, cause }
    }

    /// Whether the connection can be used for the next mail: only if this failure was a complete reply, so that the
    /// next reply read belongs to the next command sent.
    pub(crate) fn leaves_session_usable(&self) -> bool {
        match &self.cause {
            // 421 announces that the server closes the connection; go-ahead where there should be none is out of step.
            Cause::Refused(reply) => reply.code >= 400 && reply.code != 421,
            Cause::NoUtf8 { .. } => true,
            _ => false,
        }
    }

    /// What it means for the mail, after a connection of this age.
    pub(crate) fn outcome(&self, age: Age) -> Outcome {
        let nothing_is_lost = age == Age::Used && self.step != Step::End;
        match &self.cause {
            Cause::Refused(reply) => classify(self.step, reply, age),
            Cause::Closed | Cause::Unreadable | Cause::Io(_) if nothing_is_lost => Outcome::RetryOnFresh,
            Cause::TimedOut(_) if nothing_is_lost && self.step == Step::Reset => Outcome::RetryOnFresh,
            Cause::Closed | Cause::Unreadable | Cause::Io(_) | Cause::TimedOut(_) => Outcome::RetryLater,
            // If it isn't the recipient's address, then it's our own.
            Cause::NoUtf8 {
                recipient_is_ascii: false,
            } => Outcome::FailMail,
            Cause::NoUtf8 { .. } | Cause::NotOffered(_) => Outcome::HoldAll,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.step.name())?;
        match &self.cause {
            Cause::Refused(reply) => f.write_str(&reply.on_one_line()),
            Cause::NotOffered(what) => write!(f, "the server does not offer {what}"),
            Cause::Closed | Cause::Unreadable => f.write_str("the connection ended without a proper reply"),
            Cause::Io(error) => f.write_str(error),
            Cause::TimedOut(limit) => write!(f, "no reply within {} s", limit.as_secs()),
            Cause::NoUtf8 { .. } => f.write_str("the server takes no addresses outside ASCII (SMTPUTF8)"),
        }
    }
}

/// As it stands once there is no other connection left to try.
impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        let text = masked(&failure.to_string());
        match failure.outcome(Age::Fresh) {
            Outcome::HoldAll if matches!(failure.step, Step::Recipient | Step::Data | Step::End) => Self::Sender(text),
            Outcome::HoldAll => Self::Account(text),
            Outcome::HoldAllIfRepeated => Self::Policy(text),
            Outcome::FailMail if matches!(failure.cause, Cause::NoUtf8 { .. }) => Self::Unaddressable(text),
            Outcome::FailMail => Self::Rejected(text),
            Outcome::FailAndSuppress => Self::Bounced(text),
            Outcome::Sent | Outcome::RetryOnFresh | Outcome::RetryLater => Self::Temporary(text),
        }
    }
}

/// A server's words, fit for a log and for the inviter.
pub(crate) fn masked(reply: &str) -> String {
    shortened(&mask_addresses(&cleaned(reply)), MAX_REPLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_short_on_one_line_and_names_nobody() {
        let reply = masked("550 5.1.1 <grace@example.com>:\r\n\u{1b}[31m user unknown");
        assert!(!reply.contains("grace") && !reply.contains(char::is_control), "{reply}");
        assert!(
            reply.contains("@example.com") && reply.ends_with("user unknown"),
            "{reply}"
        );
        assert_eq!(masked(&"very ".repeat(1_000)).chars().count(), MAX_REPLY);
    }

    #[test]
    fn without_a_reply_a_used_connection_is_replaced_before_the_content_and_never_after_it() {
        let outcome = |step, cause, age| Failure::new(step, cause).outcome(age);
        let slow = || Cause::TimedOut(Duration::from_secs(1));
        for step in [Step::Reset, Step::Sender, Step::Recipient, Step::Data] {
            for cause in [Cause::Closed, Cause::Unreadable, Cause::Io(String::new())] {
                assert_eq!(outcome(step, cause, Age::Used), Outcome::RetryOnFresh, "{step:?}");
            }
            assert_eq!(outcome(step, Cause::Closed, Age::Fresh), Outcome::RetryLater);
        }
        assert_eq!(outcome(Step::Reset, slow(), Age::Used), Outcome::RetryOnFresh);
        assert_eq!(outcome(Step::Sender, slow(), Age::Used), Outcome::RetryLater);
        assert_eq!(outcome(Step::End, Cause::Closed, Age::Used), Outcome::RetryLater);
    }
}
