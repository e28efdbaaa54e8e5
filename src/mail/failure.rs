//! What a failed delivery means: try again, give up, or call ops.

use std::{fmt, time::Duration};

use lettre::transport::smtp;

use super::text::{cleaned, shortened};
use crate::invites::email::mask_addresses;

/// Servers explain themselves at length; this much of it is kept.
const MAX_REPLY: usize = 400;

/// Why a mail was not sent. The texts name the step that failed and hold the server's reply with addresses masked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// May work in a while: a 4xx reply, no connection, no answer in time, TLS trouble.
    #[error("not sent for now: {0}")]
    Temporary(String),
    /// Final for this mail: the server won't take it with this content, or not from us for this recipient.
    #[error("rejected: {0}")]
    Rejected(String),
    /// Final for this address: there is no such mailbox, or none that takes mail.
    #[error("the address takes no mail: {0}")]
    Bounced(String),
    /// Kept: words that blame our setup, but only once it was this recipient's or this mail's turn (relaying denied,
    /// login wanted, a sending limit). One alone may be the recipient's fault; several in a row are ours.
    #[error("the mail server refuses our setup for this mail: {0}")]
    Policy(String),
    /// No mail would get through: login, sender or session are refused. Keep the mail and tell ops.
    #[error("the mail server refuses our account or setup: {0}")]
    Account(String),
    /// Final for this mail: there is no way to write it or its address down.
    #[error("not a mail that can be sent: {0}")]
    Unaddressable(String),
}

/// How far the conversation with the server had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// TCP, implicit TLS, greeting and EHLO: lettre does them in one call, and the reply code doesn't say which of the
    /// last two was refused. Both concern the whole session, so nothing hangs on it.
    Connect,
    StartTls,
    Login,
    /// The start of a mail over a connection that was kept.
    Reset,
    Sender,
    Recipient,
    Data,
    /// The content itself, answered after the final dot.
    Content,
}

impl Step {
    /// As in the server's log, for whoever compares the two.
    fn name(self) -> &'static str {
        match self {
            Self::Connect => "connecting",
            Self::StartTls => "STARTTLS",
            Self::Login => "AUTH",
            Self::Reset => "RSET",
            Self::Sender => "MAIL FROM",
            Self::Recipient => "RCPT TO",
            Self::Data => "DATA",
            Self::Content => "end of data",
        }
    }
}

/// A step that went wrong.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) cause: Cause,
}

#[derive(Debug)]
pub(super) enum Cause {
    Smtp(smtp::Error),
    TimedOut(Duration),
    /// lettre panicked over what the server sent.
    Panicked,
    /// The mail has an address outside ASCII and the server can't take such mail.
    NoUtf8 {
        recipient_is_ascii: bool,
    },
}

impl Failure {
    /// Whether the connection can be used for the next mail: only if this failure was a complete reply, so that the
    /// next reply read belongs to the next command sent.
    pub(super) fn leaves_session_usable(&self) -> bool {
        match &self.cause {
            // 421 announces that the server closes the connection.
            Cause::Smtp(error) => error.status().is_some_and(|code| u16::from(code) != 421),
            Cause::NoUtf8 { .. } => true,
            Cause::TimedOut(_) | Cause::Panicked => false,
        }
    }
}

impl From<Failure> for SendError {
    fn from(Failure { step, cause }: Failure) -> Self {
        let at = |what: &dyn fmt::Display| masked(&format!("{}: {what}", step.name()));
        match cause {
            Cause::Smtp(error) => match error.status() {
                Some(code) => {
                    let reply = std::error::Error::source(&error)
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    verdict(step, code.into(), &reply)(at(&format_args!("{code} {reply}")))
                }
                // Not offered by the server: no mechanism in common, no STARTTLS where it's required.
                None if error.is_client() => Self::Account(at(&error)),
                None if error.is_response() => Self::Temporary(at(&"the connection ended without a proper reply")),
                None => Self::Temporary(at(&error)),
            },
            Cause::TimedOut(limit) => Self::Temporary(at(&format_args!("no reply within {} s", limit.as_secs()))),
            Cause::Panicked => Self::Temporary(at(&"the server's reply could not be read")),
            Cause::NoUtf8 { recipient_is_ascii } => {
                let text = at(&"the server takes no addresses outside ASCII (SMTPUTF8)");
                // If it isn't the recipient's address, then it's our own.
                if recipient_is_ascii {
                    Self::Account(text)
                } else {
                    Self::Unaddressable(text)
                }
            }
        }
    }
}

/// What a negative reply at this step means for the mail.
fn verdict(step: Step, code: u16, reply: &str) -> fn(String) -> SendError {
    if !(500..600).contains(&code) {
        return SendError::Temporary;
    }
    match step {
        Step::Connect | Step::StartTls | Step::Login | Step::Reset | Step::Sender => SendError::Account,
        Step::Recipient | Step::Data | Step::Content if blames_the_account(code, reply) => SendError::Policy,
        Step::Recipient if blames_the_address(code, reply) => SendError::Bounced,
        Step::Recipient | Step::Data | Step::Content => SendError::Rejected,
    }
}

/// What servers say of the sender, whichever code they say it with: "Relay access denied", "relaying not permitted";
/// Postfix, which waits for RCPT TO (`smtpd_delay_reject`), "Sender address rejected", "Client host rejected", "Helo command
/// rejected"; Exim, "Sender verify failed"; Amazon SES, "Email address is not verified".
const ACCOUNT_WORDS: &[&str] = &[
    "relay",
    "sender address",
    "sender rejected",
    "sender verify",
    "client host",
    "helo command",
    "is not verified",
];

/// Many servers let anybody say MAIL FROM and only then complain about the sender. Where the reply leaves that open (a
/// bare 550 or 554 with 5.7.1 is used for spam as well as for policy) the mail counts as rejected.
fn blames_the_account(code: u16, reply: &str) -> bool {
    // Login wanted, too weak or wrong; 503 is a command out of order, which is nothing that a recipient could cause.
    let not_logged_in = matches!(code, 503 | 530 | 534 | 535 | 538);
    let reply = reply.to_ascii_lowercase();
    // 5.4.5 is a sending limit that was reached.
    let blamed = ["5.1.7", "5.1.8", "5.4.5"];
    not_logged_in
        || ACCOUNT_WORDS.iter().any(|words| reply.contains(words))
        || enhanced_code(&reply).is_some_and(|code| blamed.contains(&code))
}

/// Only what is said of the mailbox itself keeps others from writing to it: class 5.1 (addressing) and 5.2 (mailbox) of
/// RFC 3463, other than a full one or too long a mail; without such a code, the basic codes that RFC 5321 has for it.
fn blames_the_address(code: u16, reply: &str) -> bool {
    match enhanced_code(reply) {
        Some(code) => (code.starts_with("5.1.") || code.starts_with("5.2.")) && !matches!(code, "5.2.2" | "5.2.3"),
        None => matches!(code, 550 | 551 | 553),
    }
}

/// The first word that is an enhanced status code of class 5 (RFC 3463).
fn enhanced_code(reply: &str) -> Option<&str> {
    reply.split_whitespace().find(|word| {
        let mut parts = word.split('.');
        let is_number = |part: Option<&str>| {
            part.is_some_and(|part| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit()))
        };
        parts.next() == Some("5") && is_number(parts.next()) && is_number(parts.next()) && parts.next().is_none()
    })
}

/// A server's words, fit for a log and for the inviter.
pub(super) fn masked(reply: &str) -> String {
    shortened(&mask_addresses(&cleaned(reply)), MAX_REPLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_means_what_its_step_and_code_say() {
        let temporary = SendError::Temporary as fn(String) -> SendError;
        let rejected = SendError::Rejected as fn(String) -> SendError;
        let account = SendError::Account as fn(String) -> SendError;
        let bounced = SendError::Bounced as fn(String) -> SendError;
        let policy = SendError::Policy as fn(String) -> SendError;
        let cases = [
            (Step::Connect, 421, "4.3.2 try later", temporary),
            (Step::Connect, 554, "no service for you", account),
            (Step::Connect, 550, "5.7.1 listed", account),
            (Step::StartTls, 454, "TLS not available", temporary),
            (Step::StartTls, 500, "what?", account),
            (Step::Login, 454, "4.7.0 try later", temporary),
            (Step::Login, 535, "5.7.8 bad credentials", account),
            (Step::Sender, 451, "4.7.1 greylisted", temporary),
            (Step::Sender, 530, "5.7.0 login first", account),
            (Step::Sender, 553, "5.7.1 not your address", account),
            (Step::Recipient, 450, "4.2.0 greylisted", temporary),
            (Step::Recipient, 452, "4.2.2 mailbox full", temporary),
            (Step::Recipient, 550, "5.1.1 no such user", bounced),
            (Step::Recipient, 550, "no such user", bounced),
            (Step::Recipient, 553, "mailbox name not allowed", bounced),
            (Step::Recipient, 550, "5.2.1 mailbox disabled", bounced),
            (Step::Recipient, 550, "5.7.1 not welcome here", rejected),
            (Step::Recipient, 554, "blocked by a list at 127.0.0.2", rejected),
            (Step::Recipient, 550, "5.1.8 bad sender", policy),
            (
                Step::Recipient,
                553,
                "5.7.1 <a@b.c>: Sender address rejected: not owned by user",
                policy,
            ),
            (
                Step::Recipient,
                550,
                "5.1.0 <a@b.c>: Sender address rejected: User unknown",
                policy,
            ),
            (Step::Recipient, 550, "Sender verify failed", policy),
            (
                Step::Recipient,
                554,
                "5.7.1 Service unavailable; Client host [192.0.2.1] blocked",
                policy,
            ),
            (
                Step::Recipient,
                504,
                "5.5.2 <x>: Helo command rejected: need fully-qualified hostname",
                policy,
            ),
            (
                Step::Content,
                554,
                "Message rejected: Email address is not verified.",
                policy,
            ),
            (Step::Recipient, 552, "5.2.2 mailbox full", rejected),
            (Step::Recipient, 530, "5.7.0 login first", policy),
            (Step::Recipient, 503, "5.5.1 need MAIL", policy),
            (
                Step::Recipient,
                554,
                "5.7.1 <a***@example.com>: Relay access denied",
                policy,
            ),
            (Step::Recipient, 550, "Relaying not permitted", policy),
            (Step::Data, 451, "no room", temporary),
            (Step::Data, 554, "no valid recipients", rejected),
            (Step::Content, 451, "4.3.0 scanner is away", temporary),
            (Step::Content, 554, "5.7.1 looks like spam", rejected),
            (Step::Content, 552, "5.3.4 too big", rejected),
            (Step::Content, 550, "5.4.5 daily sending limit exceeded", policy),
            (Step::Content, 250, "not negative at all", temporary),
        ];
        for (step, code, reply, expected) in cases {
            let text = || String::from("x");
            assert_eq!(
                verdict(step, code, reply)(text()),
                expected(text()),
                "{step:?} {code} {reply}"
            );
        }
    }

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
}
