//! `send-invite-email`: the mail with the link, or a reminder, with the invite's data at the time of sending.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Context, Job, JobError, outgoing};
use crate::app::App;
use crate::invites::TargetKind;
use crate::store::{DeliveryKind, Queue, QueuedMail};
use usher_base::unicode::has_visible;
use usher_mail::{AcceptLink, Mailer, OrganizationInvite, ProjectInvite, Reminder, Rendered, TemplateError};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendInviteEmail {
    pub delivery_id: Uuid,
}

impl Job for SendInviteEmail {
    const QUEUE: Queue = Queue::SendInviteEmail;
    const TIME_LIMIT: Duration = outgoing::TIME_LIMIT;
    const MAX_STARTS: u32 = outgoing::MAX_STARTS;
    const IS_MAIL: bool = true;

    fn about(&self) -> Option<String> {
        Some(self.delivery_id.to_string())
    }

    async fn run(&self, context: &Context) -> Result<(), JobError> {
        outgoing::deliver(context, self.delivery_id).await
    }

    async fn gave_up(&self, context: &Context, why: &str) -> Result<(), JobError> {
        outgoing::gave_up(context, self.delivery_id, why).await
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum RenderError {
    #[error("INVITE_URL makes no link")]
    Link,
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Renders the invite or the reminder.
pub(super) fn render(app: &App, mail: &QueuedMail) -> Result<Rendered, RenderError> {
    let QueuedMail { invite, context, .. } = mail;
    // The link is derived here from the configuration and the key, and stored nowhere.
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
    let locales = [invite.locale.as_deref(), context.recipient_locale.as_deref()];
    if mail.delivery_kind == DeliveryKind::Reminder {
        let reminder = Reminder {
            app_name,
            organization_name,
            project_name: context.project_name.as_deref().map(Into::into),
            inviter_name,
            role,
            link,
            expires_at,
            email,
        };
        return Ok(mailer.render(&reminder, &locales)?);
    }
    Ok(match (invite.kind, &context.project_name) {
        (TargetKind::Project, Some(project_name)) => mailer.render(
            &ProjectInvite {
                app_name,
                organization_name,
                project_name: project_name.as_str().into(),
                inviter_name,
                role,
                message,
                link,
                expires_at,
                email,
            },
            &locales,
        )?,
        _ => mailer.render(
            &OrganizationInvite {
                app_name,
                organization_name,
                inviter_name,
                role,
                message,
                link,
                expires_at,
                email,
            },
            &locales,
        )?,
    })
}

pub(super) fn full_name(first: Option<&str>, last: Option<&str>) -> Option<String> {
    let names: Vec<&str> = [first, last]
        .into_iter()
        .flatten()
        .map(str::trim)
        .filter(|name| has_visible(name))
        .collect();
    (!names.is_empty()).then(|| names.join(" "))
}
