//! `send-accepted-notice`: tells the inviter that their invite was accepted.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::send_invite_email::{RenderError, full_name};
use super::{Context, Job, JobError, outgoing};
use crate::app::App;
use crate::store::{Queue, QueuedMail};
use usher_mail::{AcceptedNotice, Rendered};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendAcceptedNotice {
    pub delivery_id: Uuid,
}

impl Job for SendAcceptedNotice {
    const QUEUE: Queue = Queue::SendAcceptedNotice;
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

pub(super) fn render(app: &App, mail: &QueuedMail) -> Result<Rendered, RenderError> {
    let about = &mail.context;
    let notice = AcceptedNotice {
        app_name: app.config.app_name.as_str().into(),
        organization_name: about.organization_name.as_str().into(),
        project_name: about.project_name.as_deref().map(Into::into),
        invitee_name: full_name(about.invitee_first_name.as_deref(), about.invitee_last_name.as_deref())
            .map(Into::into),
        invitee_email: mail.invite.email.as_str().into(),
        inviter_name: full_name(about.inviter_first_name.as_deref(), about.inviter_last_name.as_deref())
            .map(Into::into),
    };
    Ok(app.mailer.render(&notice, &[about.recipient_locale.as_deref()])?)
}
