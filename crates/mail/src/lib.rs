//! Mail: typed messages, strict templates, and a way out by SMTP or into a folder.
//!
//! A job makes one of the [`messages`], has the [`Mailer`] render it, and sends the result under the delivery's fixed
//! [`MessageIdentity`]. What a failure means for the job is in [`SendError`].

#![warn(missing_docs)]

use std::{
    fmt,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use lettre::Address;
use tokio::sync::mpsc::UnboundedSender;

mod classify;
mod compose;
mod failure;
pub mod messages;
mod outbox;
mod smtp;
mod templates;
mod text;
mod written;

use self::{
    compose::Letterhead,
    outbox::Outbox,
    smtp::{Permits, Smtp},
};
pub use self::{
    compose::MessageIdentity,
    failure::SendError,
    messages::{AcceptLink, AcceptedNotice, Mail, MailKind, NotAWebLink, OrganizationInvite, ProjectInvite, Reminder},
    smtp::{MAX_CONNECTIONS, MailPermit},
    templates::{Language, Rendered, Sample, TemplateError, TemplateErrors, Templates},
    text::{Lines, Name, OneLine},
    written::{WrittenMail, written_mail, written_mails},
};

/// The domain in which mails from a sender, such as `Example <no-reply@example.com>`, have their Message-IDs; none if
/// there can be none in it.
#[must_use]
pub fn message_domain(from: &str) -> Option<String> {
    compose::message_domain(from)
}

/// Whether usher can call itself this in EHLO: a full host name, or an address literal.
#[must_use]
pub fn is_helo_name(name: &str) -> bool {
    smtp::is_hello(name)
}

/// How mail is written and sent.
#[derive(Debug, Clone)]
pub struct MailConfig {
    /// The sender (`MAIL_FROM`): `usher <no-reply@localhost>`.
    pub from: String,
    /// Where answers go (`MAIL_REPLY_TO`), if not to the sender.
    pub reply_to: Option<String>,
    /// The way out.
    pub transport: TransportConfig,
    /// Templates that replace the embedded ones (`TEMPLATES_DIR`).
    pub templates_dir: Option<PathBuf>,
    /// The language of mails to people whose own is not known or not there (`MAIL_DEFAULT_LOCALE`).
    pub default_locale: String,
    /// Where people can have further mails to them stopped (`MAIL_UNSUBSCRIBE`).
    pub unsubscribe: Option<String>,
}

/// The way out.
#[derive(Clone)]
pub enum TransportConfig {
    /// A mail server.
    Smtp {
        /// `smtps://user:password@host:465`, `smtp://user:password@host:587?tls=required` or, unencrypted,
        /// `smtp://host:25`. A path is the name for EHLO.
        url: String,
    },
    /// A folder of `.eml` files, for development.
    Outbox {
        /// Created with the first mail.
        dir: PathBuf,
    },
}

/// The URL holds a password.
impl fmt::Debug for TransportConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Smtp { .. } => f.write_str("Smtp { url: … }"),
            Self::Outbox { dir } => f.debug_struct("Outbox").field("dir", dir).finish(),
        }
    }
}

/// Why mail can't be set up. Each names the variable to look at; none repeats a secret.
#[derive(Debug, thiserror::Error)]
pub enum MailSetupError {
    /// The sender is no mailbox.
    #[error("MAIL_FROM must be an address with or without a name, like `Example <no-reply@example.com>`; it is `{0}`")]
    From(String),
    /// The address for answers is no mailbox.
    #[error("MAIL_REPLY_TO must be an address with or without a name, like `help@example.com`; it is `{0}`")]
    ReplyTo(String),
    /// Not what a mail server could be greeted with.
    #[error(
        "SMTP_HELO_NAME must be a full host name like `mail.example.com`, or an address like `[192.0.2.1]`; it is `{0}`"
    )]
    HeloName(String),
    /// The mail server's address can't be used.
    #[error("SMTP_URL can't be used: {0}")]
    SmtpUrl(String),
    /// Some templates can't be used.
    #[error("TEMPLATES_DIR: {0}")]
    Templates(TemplateErrors),
    /// The language that others fall back to has no templates.
    #[error("MAIL_DEFAULT_LOCALE: {0}")]
    DefaultLocale(TemplateErrors),
    /// Not where anybody could unsubscribe.
    #[error(
        "MAIL_UNSUBSCRIBE must be a mailto: or https:// address in ASCII, or both with a comma between; it is `{0}`"
    )]
    Unsubscribe(String),
}

impl MailSetupError {
    /// The variable to look at.
    #[must_use]
    pub fn variable(&self) -> &'static str {
        match self {
            Self::From(_) => "MAIL_FROM",
            Self::ReplyTo(_) => "MAIL_REPLY_TO",
            Self::SmtpUrl(_) => "SMTP_URL",
            Self::HeloName(_) => "SMTP_HELO_NAME",
            Self::Templates(_) => "TEMPLATES_DIR",
            Self::DefaultLocale(_) => "MAIL_DEFAULT_LOCALE",
            Self::Unsubscribe(_) => "MAIL_UNSUBSCRIBE",
        }
    }

    /// What is wrong with it: the sentence after its name.
    #[must_use]
    pub fn without_variable(&self) -> String {
        let sentence = self.to_string();
        let rest = sentence.strip_prefix(self.variable()).unwrap_or(&sentence);
        rest.trim_start_matches([':', ' ']).to_owned()
    }
}

impl MailConfig {
    /// All that is wrong with the addresses in it. The templates are not looked at.
    #[must_use]
    pub fn problems(&self) -> Vec<MailSetupError> {
        let mut problems = Vec::new();
        if compose::mailbox(&self.from).is_none() {
            problems.push(MailSetupError::From(self.from.clone()));
        }
        if let Some(text) = &self.reply_to
            && compose::mailbox(text).is_none()
        {
            problems.push(MailSetupError::ReplyTo(text.clone()));
        }
        if let TransportConfig::Smtp { url } = &self.transport
            && let Err(problem) = smtp::check_url(url)
        {
            problems.push(MailSetupError::SmtpUrl(problem));
        }
        if let Some(text) = &self.unsubscribe
            && compose::unsubscribe(text).is_none()
        {
            problems.push(MailSetupError::Unsubscribe(text.clone()));
        }
        problems
    }
}

/// Where a mail went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The server's reply, with addresses masked, or the file's path.
    pub description: String,
}

/// Renders and sends mail.
#[derive(Debug)]
pub struct Mailer {
    letterhead: Letterhead,
    transport: Transport,
    permits: Permits,
    templates: Templates,
}

#[derive(Debug)]
enum Transport {
    Smtp(Box<Smtp>),
    Outbox(Outbox),
}

impl Mailer {
    /// Checks the configuration and loads the templates. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// If an address, the SMTP URL or a template can't be used.
    pub fn new(config: MailConfig) -> Result<Self, MailSetupError> {
        let from = compose::mailbox(&config.from).ok_or(MailSetupError::From(config.from))?;
        let reply_to = match config.reply_to {
            Some(text) => Some(compose::mailbox(&text).ok_or(MailSetupError::ReplyTo(text))?),
            None => None,
        };
        let transport = match config.transport {
            TransportConfig::Smtp { url } => Transport::Smtp(Box::new(
                Smtp::from_url(&url, &from.email).map_err(MailSetupError::SmtpUrl)?,
            )),
            TransportConfig::Outbox { dir } => Transport::Outbox(Outbox { folder: dir }),
        };
        let unsubscribe = match config.unsubscribe {
            Some(text) => Some(text.parse().map_err(|()| MailSetupError::Unsubscribe(text))?),
            None => None,
        };
        let templates = Templates::load(config.templates_dir.as_deref(), &config.default_locale);
        let templates = templates.map_err(|errors| match errors.0[..] {
            [TemplateError::NoLanguage { .. }] => MailSetupError::DefaultLocale(errors),
            _ => MailSetupError::Templates(errors),
        })?;
        Ok(Self {
            letterhead: Letterhead {
                from,
                reply_to,
                unsubscribe,
            },
            transport,
            permits: Permits::default(),
            templates,
        })
    }

    /// Calls itself this in EHLO (`SMTP_HELO_NAME`). Otherwise it is the domain of the sender, or the address that the
    /// connection comes from where that domain has no place in the public DNS.
    pub fn hello_as(mut self, name: &str) -> Result<Self, MailSetupError> {
        if let Transport::Smtp(smtp) = &mut self.transport {
            smtp.hello_as(name)
                .map_err(|()| MailSetupError::HeloName(name.to_owned()))?;
        }
        Ok(self)
    }

    /// Sends so many mails a second at most. Written into a folder, mails have no limit.
    #[must_use]
    pub fn at_most(mut self, mails_per_second: NonZeroU32) -> Self {
        if let Transport::Smtp(smtp) = &mut self.transport {
            smtp.limit(mails_per_second);
        }
        self
    }

    /// The templates, for previews.
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// Writes a mail in the first of these languages (BCP 47) that there are templates for.
    ///
    /// # Errors
    ///
    /// See [`Templates::render`].
    pub fn render(&self, mail: impl Into<Mail>, locales: &[Option<&str>]) -> Result<Rendered, TemplateError> {
        self.templates.render(mail, locales)
    }

    /// Sends a mail to one address, once. Dropping the future gives the mail up; whether the server has taken it by
    /// then can't be known, but another attempt with the same identity is recognisable as the same mail.
    ///
    /// # Errors
    ///
    /// What went wrong and whether to try again: see [`SendError`].
    pub async fn send(&self, to: &str, id: &MessageIdentity, mail: &Rendered) -> Result<Sent, SendError> {
        self.send_in(&mut self.permit().await, to, id, mail).await
    }

    /// Waits for its permit: few mails are under way at once.
    pub async fn permit(&self) -> MailPermit {
        self.permits.next().await
    }

    /// [`Mailer::send`], for whoever has a permit.
    pub async fn send_in(
        &self,
        permit: &mut MailPermit,
        to: &str,
        id: &MessageIdentity,
        mail: &Rendered,
    ) -> Result<Sent, SendError> {
        let (to, raw) = self.addressed(to, id, mail)?;
        let description = match &self.transport {
            Transport::Smtp(smtp) => smtp.send(permit, &self.letterhead.from.email, &to, &raw).await?,
            Transport::Outbox(outbox) => outbox.put(id, &raw).await?.display().to_string(),
        };
        Ok(Sent { description })
    }

    /// [`Mailer::send`] over a connection of its own, every line of which is shown while it is said: `> ` before ours, `< `
    /// before the server's. Login and content are left out.
    pub async fn send_shown(
        &self,
        to: &str,
        id: &MessageIdentity,
        mail: &Rendered,
        lines: UnboundedSender<String>,
    ) -> Result<Sent, SendError> {
        let (to, raw) = self.addressed(to, id, mail)?;
        let from = &self.letterhead.from.email;
        let description = match &self.transport {
            Transport::Smtp(smtp) => {
                smtp.send_shown(&mut self.permit().await, from, &to, &raw, lines)
                    .await?
            }
            Transport::Outbox(outbox) => outbox.put(id, &raw).await?.display().to_string(),
        };
        Ok(Sent { description })
    }

    /// The mail with its headers, as a server or a file would get it.
    pub fn message(&self, to: &str, id: &MessageIdentity, mail: &Rendered) -> Result<Vec<u8>, SendError> {
        self.addressed(to, id, mail).map(|(_, raw)| raw)
    }

    fn addressed(&self, to: &str, id: &MessageIdentity, mail: &Rendered) -> Result<(Address, Vec<u8>), SendError> {
        let to = compose::address(to).ok_or_else(|| SendError::Unaddressable("not an e-mail address".to_owned()))?;
        let raw = compose::compose(&self.letterhead, &to, id, mail)?.formatted();
        Ok((to, raw))
    }

    /// Tries the way out without sending anything: connects and logs in, or writes to the folder.
    ///
    /// # Errors
    ///
    /// As [`Mailer::send`] would.
    pub async fn check(&self) -> Result<(), SendError> {
        match &self.transport {
            Transport::Smtp(smtp) => smtp.check(&mut self.permit().await).await,
            Transport::Outbox(outbox) => outbox.check().await,
        }
    }

    /// Tries whether the mail server takes mail from `MAIL_FROM`, without sending anything.
    ///
    /// # Errors
    ///
    /// As [`Mailer::send`] would.
    pub async fn check_sender(&self) -> Result<(), SendError> {
        match &self.transport {
            Transport::Smtp(smtp) => {
                let from = &self.letterhead.from.email;
                smtp.check_sender(&mut self.permit().await, from).await
            }
            Transport::Outbox(_) => Ok(()),
        }
    }

    /// Takes leave of the mail server: what a shutdown does last. A later [`Mailer::send`] connects again.
    pub async fn close(&self) {
        match &self.transport {
            Transport::Smtp(smtp) => smtp.close().await,
            Transport::Outbox(_) => {}
        }
    }

    /// The folder that mails are written to, if they are.
    pub fn outbox(&self) -> Option<&Path> {
        match &self.transport {
            Transport::Smtp(_) => None,
            Transport::Outbox(outbox) => Some(&outbox.folder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MailConfig {
        MailConfig {
            from: "usher <no-reply@localhost>".into(),
            reply_to: None,
            transport: TransportConfig::Smtp {
                url: "smtp://u:hunter2@localhost".into(),
            },
            templates_dir: None,
            default_locale: "en".into(),
            unsubscribe: None,
        }
    }

    #[test]
    fn a_setup_error_names_the_variable() {
        let good = config();
        assert!(Mailer::new(good.clone()).is_ok(), "and needs no runtime");
        let cases = [
            (
                MailConfig {
                    from: "nobody".into(),
                    ..good.clone()
                },
                "MAIL_FROM",
            ),
            (
                MailConfig {
                    reply_to: Some("a@b@".into()),
                    ..good.clone()
                },
                "MAIL_REPLY_TO",
            ),
            (
                MailConfig {
                    templates_dir: Some("/nowhere".into()),
                    ..good.clone()
                },
                "TEMPLATES_DIR",
            ),
            (
                MailConfig {
                    default_locale: "tlh".into(),
                    ..good.clone()
                },
                "MAIL_DEFAULT_LOCALE",
            ),
            (
                MailConfig {
                    unsubscribe: Some("http://example.com/stop".into()),
                    ..good.clone()
                },
                "MAIL_UNSUBSCRIBE",
            ),
            (
                MailConfig {
                    transport: TransportConfig::Smtp {
                        url: "smtp://u:hunter2@localhost?x=y".into(),
                    },
                    ..good
                },
                "SMTP_URL",
            ),
        ];
        for (config, variable) in cases {
            let error = Mailer::new(config).unwrap_err().to_string();
            assert!(error.starts_with(variable) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_password_stays_out_of_debug_output() {
        let shown = format!("{:?} {:?}", config(), Mailer::new(config()).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
