//! Invites that are accepted, shown to their person, dismissed, declined or revoked.

use std::collections::HashSet;

use uuid::Uuid;

use super::{InviteCandidate, invite_columns};
use crate::invites::accept::Obstacle;
use crate::invites::{Acceptance, Invite};
use crate::metrics::InviteEvent;
use crate::store::rows::{IdRow, Row as _, among, and_among, checked, ids_json, in_order_of_id, row, sql, to_json};
use crate::store::{Result, Tx, on_conn};

row! {
    struct PairRow<'a> {
        invite_id: Uuid,
        person_id: Uuid,
        admin_id: Uuid,
        version: i32,
        role: &'a str,
        inviter: Option<Uuid>,
        acceptance: Acceptance,
    }
}

/// Always in the order of invite ids, to avoid deadlocks.
fn pairs(waiting: &[&InviteCandidate]) -> Result<String> {
    let mut rows: Vec<_> = waiting
        .iter()
        .map(|waiting| PairRow {
            invite_id: waiting.invite.id,
            person_id: waiting.person.id,
            admin_id: waiting.person.admin_id,
            version: waiting.invite.token_version,
            role: &waiting.invite.role,
            inviter: waiting.invite.invited_by,
            acceptance: waiting.invite.acceptance,
        })
        .collect();
    rows.sort_by_key(|row| row.invite_id);
    to_json(&rows)
}

/// The invite is still as it was when the decision was made: it may have been renewed in the meantime.
const AS_DECIDED: &str = "invites.token_version = r.version and invites.role = r.role
               and invites.invited_by is not distinct from r.inviter and invites.acceptance = r.acceptance";

impl Tx {
    /// Marks invites as accepted by their person and returns them; skips those that are no longer open or were renewed
    /// in the meantime. The caller adds the people to `admins` and the memberships in the same transaction.
    pub async fn accept_invites(&mut self, accepted: &[&InviteCandidate]) -> Result<Vec<Invite>> {
        if accepted.is_empty() {
            return Ok(Vec::new());
        }
        let source = PairRow::unfold(self.dialect());
        let ids = format!("select r.invite_id from {source}");
        let and_these = and_among(self.dialect(), "invites.id", &ids);
        let text = format!(
            "update invites set status = 'accepted', accepted_by = r.admin_id, accepted_at = $2,
                 accepted_by_clerk_id = (select p.clerk_user_id from usher_people p where p.id = r.person_id),
                 flagged_at = null, flagged_for = null, dismissed_at = null, updated_at = $2
             from {source}
             where invites.id = r.invite_id and {AS_DECIDED} {and_these}
               and {} returning {}",
            checked("invites.status = 'pending' and invites.expires_at > $2"),
            invite_columns("invites.")
        );
        let rows = pairs(accepted)?;
        let now = self.clock.now();
        let accepted: Vec<Invite> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        for invite in &accepted {
            self.record_event(InviteEvent::Accepted, invite.id, invite.accepted_by);
        }
        Ok(accepted)
    }

    /// Records why these invites can't be accepted any more, unless that is already their last event.
    pub async fn note_refusals(&mut self, refused: &[(&InviteCandidate, Obstacle)]) -> Result<()> {
        if refused.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = refused.iter().map(|(waiting, _)| waiting.invite.id).collect();
        let known = self.last_refusals(&ids).await?;
        let mut noted = HashSet::new();
        for (waiting, obstacle) in refused {
            let id = waiting.invite.id;
            if known.get(&id).map(String::as_str) != Some(obstacle.as_str()) && noted.insert(id) {
                self.record_refusal(id, waiting.person.id, *obstacle);
            }
        }
        Ok(())
    }

    /// Shows open invites in their person's banner.
    pub async fn flag_invites(&mut self, flagged: &[&InviteCandidate]) -> Result<()> {
        if flagged.is_empty() {
            return Ok(());
        }
        let source = PairRow::unfold(self.dialect());
        let text = format!(
            "update invites set flagged_at = $2, flagged_for = r.person_id, dismissed_at = null, updated_at = $2
             from {source}
             where invites.id = r.invite_id and {AS_DECIDED} and {}
             returning invites.id, invites.flagged_for",
            checked("invites.status = 'pending'")
        );
        let rows = pairs(flagged)?;
        let now = self.clock.now();
        let shown: Vec<(Uuid, Option<Uuid>)> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        for (invite, person) in shown {
            self.record_event(InviteEvent::Flagged, invite, person);
        }
        Ok(())
    }

    /// Dismisses an open invite's banner for its person until their next sign-in; `false` if it was not open any more.
    pub async fn dismiss_invite(&mut self, id: Uuid, person_id: Uuid) -> Result<bool> {
        let now = self.clock.now();
        let dismissed = on_conn!(self, |conn| sqlx::query(
            "update invites set flagged_at = null, flagged_for = $3, dismissed_at = $2, updated_at = $2
             where id = $1 and status = 'pending' and expires_at > $2"
        )
        .bind(id)
        .bind(now)
        .bind(person_id)
        .execute(conn)
        .await?
        .rows_affected());
        if dismissed == 1 {
            self.record_event(InviteEvent::Dismissed, id, None);
        }
        Ok(dismissed == 1)
    }

    /// Declines an open invite; `false` if it was not open any more.
    pub async fn decline_invite(&mut self, id: Uuid) -> Result<bool> {
        self.close_invite(
            InviteEvent::Declined,
            "update invites set status = 'declined', declined_at = $2, flagged_at = null, flagged_for = null,
                 dismissed_at = null, updated_at = $2
             where id = $1 and status = 'pending' and expires_at > $2",
            id,
        )
        .await
    }

    /// Revokes an invite, also an expired one; `false` if its status was final.
    pub async fn revoke_invite(&mut self, id: Uuid) -> Result<bool> {
        Ok(self.revoke_invites(&[id]).await? == 1)
    }

    /// Revokes invites, also expired ones, and says how many; those whose status is final stay as they are.
    pub async fn revoke_invites(&mut self, ids: &[Uuid]) -> Result<usize> {
        if ids.is_empty() {
            return Ok(0);
        }
        let rows = IdRow::unfold(self.dialect());
        let open = format!(
            "select id from invites where status in ('pending', 'expired') and id in (select r.id from {rows}) {}",
            in_order_of_id(self.dialect())
        );
        let text = format!(
            "update invites set status = 'revoked', revoked_at = $2, flagged_at = null, flagged_for = null,
                 dismissed_at = null, updated_at = $2
             where {} returning id",
            among(self.dialect(), "id", &open)
        );
        let now = self.clock.now();
        let ids = ids_json(ids)?;
        let revoked: Vec<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(ids)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        for &id in &revoked {
            self.record_event(InviteEvent::Revoked, id, None);
        }
        Ok(revoked.len())
    }

    async fn close_invite(&mut self, event: InviteEvent, text: &'static str, id: Uuid) -> Result<bool> {
        let now = self.clock.now();
        let closed = on_conn!(self, |conn| sqlx::query(text)
            .bind(id)
            .bind(now)
            .execute(conn)
            .await?
            .rows_affected());
        if closed == 1 {
            self.record_event(event, id, None);
        }
        Ok(closed == 1)
    }
}
