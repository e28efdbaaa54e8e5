//! Mail: typed messages, strict templates, and a way out by SMTP or into a folder.
//!
//! A job makes one of the [`messages`], has the [`Mailer`] render it, and sends the result under the delivery's fixed
//! [`MessageIdentity`]. What a failure means for the job is in [`SendError`].

use std::{
    fmt,
    path::{Path, PathBuf},
};

use lettre::message::Mailbox;

mod compose;
mod failure;
pub mod messages;
mod outbox;
mod smtp;
mod templates;
mod text;

pub use self::{
    compose::MessageIdentity,
    failure::SendError,
    messages::{AcceptLink, AcceptedNotice, Mail, NotAWebLink, OrganizationInvite, ProjectInvite},
    smtp::MAX_CONNECTIONS,
    templates::{Rendered, TemplateError, Templates},
    text::{Lines, OneLine},
};
use self::{outbox::Outbox, smtp::Smtp};

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
    /// The mail server's address can't be used.
    #[error("SMTP_URL can't be used: {0}")]
    SmtpUrl(String),
    /// A template can't be used.
    #[error("TEMPLATES_DIR: {0}")]
    Templates(#[from] TemplateError),
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
    from: Mailbox,
    reply_to: Option<Mailbox>,
    transport: Transport,
    templates: Templates,
}

#[derive(Debug)]
enum Transport {
    Smtp(Smtp),
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
            TransportConfig::Smtp { url } => Transport::Smtp(Smtp::from_url(&url).map_err(MailSetupError::SmtpUrl)?),
            TransportConfig::Outbox { dir } => Transport::Outbox(Outbox { folder: dir }),
        };
        let templates = Templates::load(config.templates_dir.as_deref())?;
        Ok(Self {
            from,
            reply_to,
            transport,
            templates,
        })
    }

    /// The templates, for previews.
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// Writes a mail.
    ///
    /// # Errors
    ///
    /// See [`Templates::render`].
    pub fn render<M: Mail>(&self, mail: &M) -> Result<Rendered, TemplateError> {
        self.templates.render(mail)
    }

    /// Sends a mail to one address, once. Dropping the future gives the mail up; whether the server has taken it by
    /// then can't be known, but another attempt with the same identity is recognisable as the same mail.
    ///
    /// # Errors
    ///
    /// What went wrong and whether to try again: see [`SendError`].
    pub async fn send(&self, to: &str, id: &MessageIdentity, mail: &Rendered) -> Result<Sent, SendError> {
        let to = compose::address(to).ok_or_else(|| SendError::Unaddressable("not an e-mail address".to_owned()))?;
        let raw = compose::compose(&self.from, self.reply_to.as_ref(), &to, id, mail)?.formatted();
        let description = match &self.transport {
            Transport::Smtp(smtp) => smtp.send(&self.from.email, &to, &raw).await?,
            Transport::Outbox(outbox) => outbox.put(id, &raw).await?.display().to_string(),
        };
        Ok(Sent { description })
    }

    /// Tries the way out without sending anything: connects and logs in, or writes to the folder.
    ///
    /// # Errors
    ///
    /// As [`Mailer::send`] would.
    pub async fn check(&self) -> Result<(), SendError> {
        match &self.transport {
            Transport::Smtp(smtp) => smtp.check().await,
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
            Transport::Smtp(smtp) => smtp.check_sender(&self.from.email).await,
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
