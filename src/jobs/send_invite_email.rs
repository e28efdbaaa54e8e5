//! `send-invite-email`: the mail with the link, as its invite stands when the mail goes out.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Context, Job, JobError};
use crate::app::App;
use crate::invites::{Invite, Kind};
use crate::mail::{
    AcceptLink, Mail as _, Mailer, MessageIdentity, OrganizationInvite, ProjectInvite, Rendered, SendError, Sent,
    TemplateError,
};
use crate::metrics::{self, MailOutcome};
use crate::store::{Delivery, DeliveryStatus, MailContext, Queue};

/// Between the tries to note that a mail is out.
const NOTE_AGAIN: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// One mail to an invited address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendInviteEmail {
    /// The delivery.
    pub delivery_id: Uuid,
}

impl Job for SendInviteEmail {
    const QUEUE: Queue = Queue::SendInviteEmail;
    /// The mail server has a minute after the content; giving up there would deliver twice.
    const TIME_LIMIT: Duration = Duration::from_secs(120);

    fn about(&self) -> Option<String> {
        Some(self.delivery_id.to_string())
    }

    async fn run(&self, context: &Context) -> Result<(), JobError> {
        let app = &context.app;
        let Some(mail) = load(app, self.delivery_id).await? else {
            return Ok(());
        };
        let is_wanted = mail.invite.is_open_at(app.clock.now()) && mail.context.is_newest;
        if !is_wanted {
            let template = match mail.invite.kind {
                Kind::Organization => OrganizationInvite::TEMPLATE,
                Kind::Project => ProjectInvite::TEMPLATE,
            };
            return suppress(app, self.delivery_id, template).await;
        }
        let rendered = render(app, &mail).map_err(JobError::give_up)?;
        send(app, &mail.delivery, &rendered).await
    }

    async fn gave_up(&self, context: &Context, why: &str) -> Result<(), JobError> {
        refused(&context.app, self.delivery_id, DeliveryStatus::Failed, why).await
    }
}

/// A mail that is still to be sent, with all that it speaks of.
pub(super) struct QueuedMail {
    pub delivery: Delivery,
    pub invite: Invite,
    pub context: MailContext,
}

/// `None` if there is nothing left to send.
pub(super) async fn load(app: &App, delivery_id: Uuid) -> Result<Option<QueuedMail>, JobError> {
    let mut tx = app.store.read().await.map_err(JobError::retry)?;
    let Some(delivery) = tx.delivery(delivery_id).await.map_err(JobError::retry)? else {
        tracing::info!(delivery.id = %delivery_id, "the delivery is gone; nothing to send");
        return Ok(None);
    };
    if delivery.status != DeliveryStatus::Queued {
        return Ok(None);
    }
    let invite = tx.invite(delivery.invite_id).await.map_err(JobError::retry)?;
    let context = tx.mail_context(delivery_id).await.map_err(JobError::retry)?;
    Ok(invite.zip(context).map(|(invite, context)| QueuedMail {
        delivery,
        invite,
        context,
    }))
}

pub(super) async fn suppress(app: &App, delivery_id: Uuid, template: &'static str) -> Result<(), JobError> {
    let mut tx = app.store.begin().await.map_err(JobError::retry)?;
    tx.suppress_delivery(delivery_id).await.map_err(JobError::retry)?;
    tx.commit().await.map_err(JobError::retry)?;
    metrics::email(template, MailOutcome::Suppressed);
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum RenderError {
    #[error("INVITE_URL makes no link")]
    Link,
    #[error(transparent)]
    Template(#[from] TemplateError),
}

fn render(app: &App, mail: &QueuedMail) -> Result<Rendered, RenderError> {
    let QueuedMail { invite, context, .. } = mail;
    // The link comes from the configuration and the key alone; it is derived here and kept nowhere.
    let token = app.token_key.token(invite.link_claim());
    let link: AcceptLink = app
        .config
        .invite_url
        .link(&token)
        .parse()
        .map_err(|_| RenderError::Link)?;
    let app_name = app.config.app_name.as_str().into();
    let organization_name = context.organization_name.as_str().into();
    let inviter_name = full_name(
        context.inviter_first_name.as_deref(),
        context.inviter_last_name.as_deref(),
    );
    let inviter_name = inviter_name.map(Into::into);
    let role = invite.role.as_str().into();
    let message = invite.message.as_deref().map(Into::into);
    let email = invite.email.as_str().into();
    let expires_at = invite.expires_at;
    let mailer: &Mailer = &app.mailer;
    Ok(match (invite.kind, &context.project_name) {
        (Kind::Project, Some(project_name)) => mailer.render(&ProjectInvite {
            app_name,
            organization_name,
            project_name: project_name.as_str().into(),
            inviter_name,
            role,
            message,
            link,
            expires_at,
            email,
        })?,
        _ => mailer.render(&OrganizationInvite {
            app_name,
            organization_name,
            inviter_name,
            role,
            message,
            link,
            expires_at,
            email,
        })?,
    })
}

pub(super) fn full_name(first: Option<&str>, last: Option<&str>) -> Option<String> {
    let names: Vec<&str> = [first, last]
        .into_iter()
        .flatten()
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    (!names.is_empty()).then(|| names.join(" "))
}

/// Sends, and notes what came of it. A crash between the server's yes and our commit sends one more copy, recognisable
/// by its `Message-ID`.
pub(super) async fn send(app: &App, delivery: &Delivery, rendered: &Rendered) -> Result<(), JobError> {
    let identity = MessageIdentity {
        message_id: delivery.message_id.clone(),
        date: delivery.queued_at,
    };
    let sent = app.mailer.send(&delivery.to_email, &identity, rendered).await;
    metrics::email(rendered.template, outcome(&sent));
    match sent {
        Ok(sent) => {
            tracing::info!(delivery.id = %delivery.id, "mail sent: {}", sent.description);
            note_sent(app, delivery.id).await
        }
        // Trouble with the account keeps the mail: it concerns ops, not this recipient.
        Err(error @ (SendError::Temporary(_) | SendError::Account(_))) => {
            refused(app, delivery.id, DeliveryStatus::Queued, &error.to_string()).await?;
            Err(JobError::retry(error))
        }
        Err(error @ (SendError::Rejected(_) | SendError::Unaddressable(_))) => Err(JobError::give_up(error)),
    }
}

fn outcome(sent: &Result<Sent, SendError>) -> MailOutcome {
    match sent {
        Ok(_) => MailOutcome::Sent,
        Err(SendError::Temporary(_)) => MailOutcome::Deferred,
        Err(SendError::Account(_)) => MailOutcome::AccountRefused,
        Err(SendError::Rejected(_) | SendError::Unaddressable(_)) => MailOutcome::Rejected,
    }
}

/// The mail is out: a database that is away for a moment is waited for, before a second copy is risked.
async fn note_sent(app: &App, id: Uuid) -> Result<(), JobError> {
    let note = async || {
        let mut tx = app.store.begin().await?;
        tx.delivery_sent(id).await?;
        tx.commit().await
    };
    for wait in NOTE_AGAIN {
        if note().await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(wait).await;
    }
    note()
        .await
        .map_err(|error| JobError::Retry(format!("it was sent, but that could not be noted: {error}")))
}

pub(super) async fn refused(app: &App, id: Uuid, status: DeliveryStatus, why: &str) -> Result<(), JobError> {
    let mut tx = app.store.begin().await.map_err(JobError::retry)?;
    tx.delivery_refused(id, status, why).await.map_err(JobError::retry)?;
    tx.commit().await.map_err(JobError::retry)
}
