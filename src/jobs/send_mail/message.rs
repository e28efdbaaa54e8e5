//! What a mail says: its invite's row becomes one of `usher_mail`'s mails.

use usher_base::unicode::has_visible;
use usher_mail::{
    AcceptLink, AcceptedNotice, Mail, MailKind, Name, OrganizationInvite, ProjectInvite, Reminder, Rendered,
    TemplateError,
};

use crate::app::App;
use crate::store::{DeliveryKind, QueuedMail};

#[derive(Debug, thiserror::Error)]
pub(super) enum RenderError {
    #[error("INVITE_URL makes no link")]
    Link,
    #[error(transparent)]
    Template(#[from] TemplateError),
}

pub(super) fn kind(mail: &QueuedMail) -> MailKind {
    match (mail.delivery_kind, &mail.context.project_name) {
        (DeliveryKind::Invite, None) => MailKind::OrganizationInvite,
        (DeliveryKind::Invite, Some(_)) => MailKind::ProjectInvite,
        (DeliveryKind::Reminder, _) => MailKind::Reminder,
        (DeliveryKind::AcceptedNotice, _) => MailKind::AcceptedNotice,
    }
}

pub(super) fn render(app: &App, mail: &QueuedMail) -> Result<Rendered, RenderError> {
    let recipient = mail.context.recipient_locale.as_deref();
    let locales = match mail.delivery_kind {
        DeliveryKind::AcceptedNotice => [recipient, None],
        DeliveryKind::Invite | DeliveryKind::Reminder => [mail.invite.details.locale.as_deref(), recipient],
    };
    Ok(app.mailer.render(compose(app, mail)?, &locales)?)
}

fn compose(app: &App, mail: &QueuedMail) -> Result<Mail, RenderError> {
    let QueuedMail { invite, context, .. } = mail;
    let app_name = app.config.app_name.as_str().into();
    let organization_name = context.organization_name.as_str().into();
    let project_name = context.project_name.as_deref().map(Name::from);
    let inviter_name = full_name(&context.inviter_first_name, &context.inviter_last_name).map(Into::into);
    let role = invite.role.as_str().into();
    let message = invite.details.message.as_deref().map(Into::into);
    let email = invite.email.as_str().into();
    let expires_at = invite.expires_at;
    Ok(match (mail.delivery_kind, project_name) {
        (DeliveryKind::Invite, None) => OrganizationInvite {
            app_name,
            organization_name,
            inviter_name,
            role,
            message,
            link: link(app, mail)?,
            expires_at,
            email,
        }
        .into(),
        (DeliveryKind::Invite, Some(project_name)) => ProjectInvite {
            app_name,
            organization_name,
            project_name,
            inviter_name,
            role,
            message,
            link: link(app, mail)?,
            expires_at,
            email,
        }
        .into(),
        (DeliveryKind::Reminder, project_name) => Reminder {
            app_name,
            organization_name,
            project_name,
            inviter_name,
            role,
            link: link(app, mail)?,
            expires_at,
            email,
        }
        .into(),
        (DeliveryKind::AcceptedNotice, project_name) => AcceptedNotice {
            app_name,
            organization_name,
            project_name,
            invitee_name: full_name(&context.invitee_first_name, &context.invitee_last_name).map(Into::into),
            invitee_email: email,
            inviter_name,
        }
        .into(),
    })
}

/// The link is derived here from the configuration and the key, and stored nowhere.
fn link(app: &App, mail: &QueuedMail) -> Result<AcceptLink, RenderError> {
    let token = app.token_key.token(mail.invite.link_claim());
    let link = app.config.invite_url.link(&token);
    link.parse().map_err(|_| RenderError::Link)
}

fn full_name(first: &Option<String>, last: &Option<String>) -> Option<String> {
    let names: Vec<&str> = [first, last]
        .into_iter()
        .flatten()
        .map(|name| name.trim())
        .filter(|name| has_visible(name))
        .collect();
    (!names.is_empty()).then(|| names.join(" "))
}
