//! `send-accepted-notice`: tells the inviter that somebody came in.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::send_invite_email::{full_name, load, refused, send, suppress};
use super::{Context, Job, JobError};
use crate::invites::Status;
use crate::mail::{AcceptedNotice, Mail as _};
use crate::store::{DeliveryStatus, Queue};

/// One notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendAcceptedNotice {
    /// The delivery.
    pub delivery_id: Uuid,
}

impl Job for SendAcceptedNotice {
    const QUEUE: Queue = Queue::SendAcceptedNotice;
    const TIME_LIMIT: Duration = Duration::from_secs(120);

    fn about(&self) -> Option<String> {
        Some(self.delivery_id.to_string())
    }

    async fn run(&self, context: &Context) -> Result<(), JobError> {
        let app = &context.app;
        let Some(mail) = load(app, self.delivery_id).await? else {
            return Ok(());
        };
        if mail.invite.status != Status::Accepted {
            return suppress(app, self.delivery_id, AcceptedNotice::TEMPLATE).await;
        }
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
        let rendered = app.mailer.render(&notice).map_err(JobError::give_up)?;
        send(app, &mail.delivery, &rendered).await
    }

    async fn gave_up(&self, context: &Context, why: &str) -> Result<(), JobError> {
        refused(&context.app, self.delivery_id, DeliveryStatus::Failed, why).await
    }
}
