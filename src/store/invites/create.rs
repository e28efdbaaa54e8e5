//! Invites that somebody asks for: created, or refreshed if the address already has one for the same target.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::invite_columns;
use crate::invites::email::EmailAddress;
use crate::invites::limits::MailHold;
use crate::invites::{Acceptance, Invite, InviteDetails, TargetKind};
use crate::metrics::InviteEvent;
use crate::store::rows::{Row as _, Time, and_among, checked, ids_json, of_ids, row, sql, to_json};
use crate::store::{Conn, Dialect, Result, Tx, on_conn};

/// An invite to create, or to refresh if its address already has one for the same target.
#[derive(Debug, Clone)]
pub struct NewInvite {
    /// The id, if it becomes a new row.
    pub id: Uuid,
    /// The organization; for a project, the organization that owns it.
    pub organization_id: Uuid,
    pub project_id: Option<Uuid>,
    pub email: EmailAddress,
    pub role: String,
    pub acceptance: Acceptance,
    pub invited_by: Option<Uuid>,
    pub details: InviteDetails,
    pub expires_at: DateTime<Utc>,
}

/// A second invitation of an address that has an invite.
#[derive(Debug, Clone)]
pub struct Refresh {
    pub invite_id: Uuid,
    /// The new request; its id is not used.
    pub asked: NewInvite,
    /// Whether a mail is sent, with a new link that replaces older ones.
    pub sends_mail: bool,
    /// Why no mail is sent.
    pub held: Option<MailHold>,
}

row! {
    struct InviteRow<'a> {
        id: Uuid,
        kind: TargetKind,
        organization_id: Uuid,
        project_id: Option<Uuid>,
        email: &'a str,
        email_key: &'a str,
        role: &'a str,
        acceptance: Acceptance,
        invited_by: Option<Uuid>,
        #[serde(flatten)]
        details: &'a InviteDetails,
        expires_at: Time,
        /// The first one; of a refreshed invite, how much is added to the version that it has.
        token_version: i32,
        mail_held: Option<MailHold>,
    }
}

/// What a refresh does not set: by what the invite is found, and what is added to.
const KEPT: [&str; 5] = ["id", "kind", "project_id", "email_key", "token_version"];

/// Who the inviter is in Clerk, which stays known when the app deletes or links the row in `admins` otherwise.
const INVITED_BY_CLERK_ID: &str = "(select a.external_id from usher_admins a where a.id = r.invited_by)";

impl Tx {
    /// Creates invites, at most one per target and address in one call. If the address already has an invite, pending
    /// or expired, that one is returned unchanged. All of them are locked until the transaction ends, so a decision
    /// based on them is still true at the commit.
    pub async fn save_invites(&mut self, invites: &[NewInvite]) -> Result<Vec<Invite>> {
        if invites.is_empty() {
            return Ok(Vec::new());
        }
        let mut rows: Vec<_> = invites.iter().map(InviteRow::from).collect();
        rows.sort_by_key(|row| (row.project_id.unwrap_or(row.organization_id), row.email_key));
        let (columns, source) = (InviteRow::columns(), InviteRow::unfold(self.dialect()));
        let text = format!(
            "insert into invites ({columns}, status, invited_by_clerk_id, invited_at, created_at, updated_at)
             select r.*, 'pending', {INVITED_BY_CLERK_ID}, $2, $2, $2 from {source} where true
             on conflict (kind, target_id, email_key) where status in ('pending', 'expired') do update set
                 updated_at = invites.updated_at
             returning {}",
            invite_columns("")
        );
        let several = rows.len() > 1;
        let rows = to_json(&rows)?;
        if several {
            self.lock_known(&rows).await?;
        }
        let now = self.clock.now();
        let saved: Vec<Invite> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        let made: HashSet<Uuid> = invites.iter().map(|invite| invite.id).collect();
        for invite in saved.iter().filter(|invite| made.contains(&invite.id)) {
            self.record_event(InviteEvent::Created, invite.id, None);
        }
        Ok(saved)
    }

    /// Deletes invites that this transaction created.
    pub async fn delete_new_invites(&mut self, ids: &[Uuid]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let these = of_ids(self.dialect(), "id");
        let text = format!("delete from invites where {these}");
        let rows = ids_json(ids)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(rows)
            .execute(conn)
            .await
            .map(drop))?;
        self.forget_events(ids);
        Ok(())
    }

    /// Renews the invites of addresses that are invited again, each once in a call. If no mail is sent, the earlier
    /// link stays valid. Returns the invites as they are then.
    pub async fn refresh_invites(&mut self, refreshes: &[Refresh]) -> Result<Vec<Invite>> {
        if refreshes.is_empty() {
            return Ok(Vec::new());
        }
        let mut rows: Vec<_> = refreshes
            .iter()
            .map(|refresh| InviteRow {
                id: refresh.invite_id,
                token_version: refresh.sends_mail.into(),
                mail_held: refresh.held,
                ..InviteRow::from(&refresh.asked)
            })
            .collect();
        rows.sort_by_key(|row| row.id);
        let source = InviteRow::unfold(self.dialect());
        let set = InviteRow::assignments(&KEPT);
        let ids = format!("select r.id from {source}");
        let and_these = and_among(self.dialect(), "invites.id", &ids);
        let text = format!(
            "update invites set {set}, status = 'pending', invited_by_clerk_id = {INVITED_BY_CLERK_ID},
                 invited_at = $2, expired_at = null, dismissed_at = null,
                 token_version = invites.token_version + r.token_version, updated_at = $2
             from {source}
             where invites.id = r.id and {} {and_these}
             returning {}",
            checked("invites.status in ('pending', 'expired')"),
            invite_columns("invites.")
        );
        let rows = to_json(&rows)?;
        let now = self.clock.now();
        let fresh: Vec<Invite> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        for invite in &fresh {
            self.record_event(InviteEvent::Refreshed, invite.id, None);
        }
        Ok(fresh)
    }

    /// Stores on invites of this transaction why no mail is sent.
    pub async fn record_held_mails(&mut self, ids: &[Uuid], held: MailHold) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let these = of_ids(self.dialect(), "id");
        let text = format!("update invites set mail_held = $2 where {these}");
        let rows = ids_json(ids)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(rows)
            .bind(held.as_str())
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Locks the existing invites of these addresses, in the same order as every other update of several invites.
    async fn lock_known(&mut self, rows: &str) -> Result<()> {
        let Conn::Postgres(tx) = &mut self.conn else {
            return Ok(()); // SQLite has one writer.
        };
        let source = InviteRow::unfold(Dialect::Postgres);
        let text = format!(
            "select id from invites
             where status in ('pending', 'expired') and (target_id, email_key) in (
                 select coalesce(r.project_id, r.organization_id), r.email_key from {source})
             order by id for no key update"
        );
        sqlx::query(sql(text)).bind(rows).execute(&mut **tx).await?;
        Ok(())
    }
}

impl<'a> From<&'a NewInvite> for InviteRow<'a> {
    fn from(invite: &'a NewInvite) -> Self {
        Self {
            id: invite.id,
            kind: if invite.project_id.is_some() {
                TargetKind::Project
            } else {
                TargetKind::Organization
            },
            organization_id: invite.organization_id,
            project_id: invite.project_id,
            email: invite.email.as_str(),
            email_key: invite.email.key().as_str(),
            role: &invite.role,
            acceptance: invite.acceptance,
            invited_by: invite.invited_by,
            details: &invite.details,
            expires_at: Time(invite.expires_at),
            token_version: 1,
            mail_held: None,
        }
    }
}
