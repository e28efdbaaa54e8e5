//! Lists of invites, and the data of each that people want to see.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{accept_facts, invite_columns};
use crate::invites::accept::AcceptFacts;
use crate::invites::limits::MailHold;
use crate::invites::{Invite, InviteFilter, PersonRef, Status};
use crate::store::people::inviter;
use crate::store::rows::{IdRow, Row as _, ids_json, sql};
use crate::store::targets::spelling;
use crate::store::{DeliveryKind, DeliveryStatus, Dialect, Result, Tx, on_conn};

/// An invite with the data that people want to see.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct InviteView {
    #[sqlx(flatten)]
    pub invite: Invite,
    /// The organization's id: for a project, the one that it belongs to today.
    pub target_organization_id: Uuid,
    pub organization_name: String,
    /// How the app spells the organization's id, if it is no UUID.
    pub organization_spelling: Option<String>,
    pub project_name: Option<String>,
    pub project_spelling: Option<String>,
    pub inviter_first_name: Option<String>,
    pub inviter_last_name: Option<String>,
    pub inviter_email: Option<String>,
    /// The kind of the newest mail to the invited address; suppressed reminders don't count.
    pub delivery_kind: Option<String>,
    pub delivery_status: Option<String>,
    pub delivery_attempts: Option<i32>,
    /// The last rejection.
    pub delivery_error: Option<String>,
    pub delivery_message_id: Option<String>,
    pub delivery_queued_at: Option<DateTime<Utc>>,
    pub delivery_sent_at: Option<DateTime<Utc>>,
    /// Why the last invitation was made without a mail, if it was.
    pub mail_held: Option<String>,
    /// The data that decides whether it may be accepted.
    #[sqlx(flatten)]
    pub facts: AcceptFacts,
}

impl InviteView {
    /// The kind and status of the newest mail, if a mail was queued or held back.
    #[must_use]
    pub fn delivery(&self) -> Option<(DeliveryKind, DeliveryStatus)> {
        let Some(kind) = self.delivery_kind.as_deref() else {
            return self.held().map(|_| (DeliveryKind::Invite, DeliveryStatus::Suppressed));
        };
        let status = self.delivery_status.as_deref()?.parse().ok()?;
        Some((kind.parse().ok()?, status))
    }

    /// Why the last invitation was made without a mail, if it was.
    #[must_use]
    pub fn held(&self) -> Option<MailHold> {
        self.mail_held.as_deref()?.parse().ok()
    }
}

/// The statement for what is filtered by, so that each combination gets a plan that fits. Parameters are numbered in the
/// order in which [`Tx::list_invites`] binds them.
fn statement(dialect: Dialect, filter: &InviteFilter, within: Option<usize>, has_before: bool) -> String {
    let mut last = 1;
    let mut next = || {
        last += 1;
        last
    };
    let mut conditions = Vec::new();
    for (column, id) in [
        ("organization_id", filter.organization_id),
        ("project_id", filter.project_id),
    ] {
        if id.is_some() {
            conditions.push(format!("{column} = ${}", next()));
        }
    }
    match filter.invited_by {
        Some(PersonRef::Admin(_)) => conditions.push(format!("invited_by = ${}", next())),
        Some(PersonRef::Clerk(_)) => {
            conditions.push(format!(
                "invited_by = {}",
                inviter(dialect, "null", &format!("${}", next()))
            ));
        }
        None => {}
    }
    if filter.email.is_some() {
        conditions.push(format!("email_key = ${}", next()));
    }
    if let Some(status) = filter.status {
        conditions.push(match status {
            Status::Pending => format!("status = 'pending' and expires_at > ${}", next()),
            Status::Expired => format!(
                "(status = 'expired' or (status = 'pending' and expires_at <= ${}))",
                next()
            ),
            status => format!("status = '{status}'"),
        });
    }
    if let Some(organizations) = within {
        let numbers: Vec<String> = (0..organizations).map(|_| format!("${}", next())).collect();
        conditions.push(format!("organization_id in ({})", numbers.join(", ")));
    }
    if has_before {
        conditions.push(format!("(created_at, id) < (${}, ${})", next(), next()));
    }
    let conditions = if conditions.is_empty() {
        "true".to_owned()
    } else {
        conditions.join(" and ")
    };
    format!("select id, created_at from invites where {conditions} order by created_at desc, id desc limit $1")
}

fn is_about_time(status: Status) -> bool {
    matches!(status, Status::Pending | Status::Expired)
}

impl Tx {
    /// A page of invites: ids, newest first, for the organizations `within` only, and only those that were created before
    /// the last one of the page before. The order is by creation, so new invites don't shift a page.
    pub async fn list_invites(
        &mut self,
        filter: &InviteFilter,
        within: Option<&HashSet<Uuid>>,
        before: Option<(DateTime<Utc>, Uuid)>,
        limit: u32,
    ) -> Result<Vec<(Uuid, DateTime<Utc>)>> {
        let text = statement(self.dialect(), filter, within.map(HashSet::len), before.is_some());
        let now = self.clock.now();
        Ok(on_conn!(self, |conn| {
            let mut query = sqlx::query_as(sql(text)).bind(i64::from(limit));
            for id in [filter.organization_id, filter.project_id].into_iter().flatten() {
                query = query.bind(id);
            }
            match &filter.invited_by {
                Some(PersonRef::Admin(id)) => query = query.bind(*id),
                Some(PersonRef::Clerk(id)) => query = query.bind(id.clone()),
                None => {}
            }
            if let Some(email) = &filter.email {
                query = query.bind(email.as_str().to_owned());
            }
            if filter.status.is_some_and(is_about_time) {
                query = query.bind(now);
            }
            for &id in within.into_iter().flatten() {
                query = query.bind(id);
            }
            if let Some((created_at, id)) = before {
                query = query.bind(created_at).bind(id);
            }
            query.fetch_all(conn).await
        })?)
    }

    /// Invites with the data that people want to see, in the order of their creation.
    pub async fn invite_views(&mut self, ids: &[Uuid]) -> Result<Vec<InviteView>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = IdRow::unfold(self.dialect());
        let text = format!(
            "select {}, o.id as target_organization_id, coalesce(o.name, '') as organization_name, p.name as project_name,
                 {} as organization_spelling, {} as project_spelling,
                 a.first_name as inviter_first_name, a.last_name as inviter_last_name, a.email as inviter_email,
                 d.kind as delivery_kind, d.message_id as delivery_message_id, d.queued_at as delivery_queued_at,
                 d.status as delivery_status, d.attempts as delivery_attempts, d.last_error as delivery_error,
                 d.sent_at as delivery_sent_at, i.mail_held, {}
             from invites i
             left join usher_projects p on p.id = i.project_id
             join usher_organizations o on o.id = coalesce(p.organization_id, i.organization_id)
             left join usher_admins a on a.id = i.invited_by
             left join usher_deliveries d on d.id = (
                 select newest.id from usher_deliveries newest
                 where newest.invite_id = i.id and (newest.kind = 'invite'
                     or (newest.kind = 'reminder' and newest.status <> 'suppressed'))
                 order by newest.queued_at desc, newest.generation desc limit 1)
             where i.id in (select r.id from {rows})
             order by i.created_at, i.id",
            invite_columns("i."),
            spelling("o.id"),
            spelling("p.id"),
            accept_facts()
        );
        let ids = ids_json(ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }
}
