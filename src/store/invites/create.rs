//! Invites that somebody asks for: created, or refreshed if the address already has one for the same target.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{INVITE, INVITE_ID, INVITE_ITSELF, invite_ids};
use crate::invites::email::EmailAddress;
use crate::invites::limits::MailHold;
use crate::invites::{Acceptance, Invite, TargetKind};
use crate::metrics::InviteEvent;
use crate::store::rows::{Time, Type, and_among, checked, of_rows, sql, to_json, unfold};
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
    pub locale: Option<String>,
    pub message: Option<String>,
    pub redirect_url: Option<String>,
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

#[derive(Serialize)]
struct NewRow<'a> {
    new_id: Uuid,
    kind: TargetKind,
    organization_id: Uuid,
    project_id: Option<Uuid>,
    email: &'a str,
    email_key: &'a str,
    role: &'a str,
    acceptance: Acceptance,
    invited_by: Option<Uuid>,
    locale: Option<&'a str>,
    message: Option<&'a str>,
    redirect_url: Option<&'a str>,
    expires_at: Time,
}

#[derive(Serialize)]
struct RefreshRow<'a> {
    invite_id: Uuid,
    versions: i32,
    held: Option<MailHold>,
    #[serde(flatten)]
    asked: NewRow<'a>,
}

const NEW_ROW: &[(&str, Type)] = &[
    ("new_id", Type::Uuid),
    ("kind", Type::Text),
    ("organization_id", Type::Uuid),
    ("project_id", Type::Uuid),
    ("email", Type::Text),
    ("email_key", Type::Text),
    ("role", Type::Text),
    ("acceptance", Type::Text),
    ("invited_by", Type::Uuid),
    ("locale", Type::Text),
    ("message", Type::Text),
    ("redirect_url", Type::Text),
    ("expires_at", Type::Time),
];

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
        let mut rows: Vec<_> = invites.iter().map(new_row).collect();
        rows.sort_by_key(|row| (row.project_id.unwrap_or(row.organization_id), row.email_key));
        let source = unfold(self.dialect(), NEW_ROW);
        let text = format!(
            "insert into invites (id, kind, organization_id, project_id, email, email_key, role, status, acceptance,
                 invited_by, invited_by_clerk_id, locale, message, redirect_url, invited_at, expires_at, created_at,
                 updated_at)
             select r.new_id, r.kind, r.organization_id, r.project_id, r.email, r.email_key, r.role, 'pending',
                 r.acceptance, r.invited_by, {INVITED_BY_CLERK_ID}, r.locale, r.message, r.redirect_url, $2,
                 r.expires_at, $2, $2
             from {source} where true
             on conflict (kind, target_id, email_key) where status in ('pending', 'expired') do update set
                 updated_at = invites.updated_at
             returning {INVITE}"
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
        let rows = unfold(self.dialect(), INVITE_ID);
        let these = of_rows(self.dialect(), "id", "invite_id", &rows);
        let text = format!("delete from invites where {these}");
        let rows = invite_ids(ids)?;
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
            .map(|refresh| RefreshRow {
                invite_id: refresh.invite_id,
                versions: refresh.sends_mail.into(),
                held: refresh.held,
                asked: new_row(&refresh.asked),
            })
            .collect();
        rows.sort_by_key(|row| row.invite_id);
        let columns = [
            &[("invite_id", Type::Uuid), ("versions", Type::Int), ("held", Type::Text)],
            NEW_ROW,
        ]
        .concat();
        let source = unfold(self.dialect(), &columns);
        let ids = format!("select r.invite_id from {source}");
        let and_these = and_among(self.dialect(), "invites.id", &ids);
        let text = format!(
            "update invites set status = 'pending', organization_id = r.organization_id, email = r.email, role = r.role,
                 acceptance = r.acceptance, invited_by = r.invited_by, invited_by_clerk_id = {INVITED_BY_CLERK_ID},
                 locale = r.locale, message = r.message, redirect_url = r.redirect_url,
                 invited_at = $2, expires_at = r.expires_at, expired_at = null, dismissed_at = null,
                 token_version = invites.token_version + r.versions, mail_held = r.held, updated_at = $2
             from {source}
             where invites.id = r.invite_id and {} {and_these}
             returning {INVITE_ITSELF}",
            checked("invites.status in ('pending', 'expired')")
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
        let rows = unfold(self.dialect(), INVITE_ID);
        let these = of_rows(self.dialect(), "id", "invite_id", &rows);
        let text = format!("update invites set mail_held = $2 where {these}");
        let rows = invite_ids(ids)?;
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
        let source = unfold(
            Dialect::Postgres,
            &[
                ("organization_id", Type::Uuid),
                ("project_id", Type::Uuid),
                ("email_key", Type::Text),
            ],
        );
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

fn new_row(invite: &NewInvite) -> NewRow<'_> {
    NewRow {
        new_id: invite.id,
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
        locale: invite.locale.as_deref(),
        message: invite.message.as_deref(),
        redirect_url: invite.redirect_url.as_deref(),
        expires_at: Time(invite.expires_at),
    }
}
