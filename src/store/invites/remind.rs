//! Reminders of open invites.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::accept_facts;
use crate::invites::accept::AcceptFacts;
use crate::invites::email::EmailKey;
use crate::store::rows::{Row as _, Time, and_among, checked, row, sql, to_json};
use crate::store::{Result, Tx, on_conn};

/// An open invite that was created or renewed and has no reminders planned yet.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Unplanned {
    pub id: Uuid,
    /// When the address was last invited.
    pub invited_at: DateTime<Utc>,
    /// The end of this validity period.
    pub expires_at: DateTime<Utc>,
    /// Whether this is the first validity period of the invite that is known.
    pub is_first_life: bool,
}

/// An open invite whose reminder is due.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Remindable {
    pub id: Uuid,
    pub email: String,
    /// The normalized address, for comparisons.
    pub email_key: EmailKey,
    /// The start of its validity period.
    pub reminders_from: DateTime<Utc>,
    /// The end of its validity period.
    pub expires_at: DateTime<Utc>,
    /// The data that decides whether it may be accepted.
    #[sqlx(flatten)]
    pub facts: AcceptFacts,
}

/// When an invite's next reminder is due.
#[derive(Debug, Clone)]
pub struct ReminderPlan {
    pub invite_id: Uuid,
    /// The start of the validity period that this was planned for.
    pub from: DateTime<Utc>,
    /// The end of the validity period that this was planned for.
    pub expires_at: DateTime<Utc>,
    pub remind_at: Option<DateTime<Utc>>,
    /// Whether a reminder is due now, before the next one.
    pub is_due: bool,
}

row! {
    struct PlanRow {
        invite_id: Uuid,
        from_at: Time,
        until_at: Time,
        remind_again_at: Option<Time>,
        is_due: bool,
    }
}

impl Tx {
    /// Open invites whose current validity period has no reminders planned; those in their first period only if they
    /// were created before a time.
    pub async fn invites_without_plan(&mut self, made_before: DateTime<Utc>, limit: u32) -> Result<Vec<Unplanned>> {
        let now = self.clock.now();
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select id, invited_at, expires_at, reminders_until is null as is_first_life from invites
             where status = 'pending' and (reminders_until is null or reminders_until <> expires_at)
               and (reminders_until is not null or invited_at < $3) and expires_at > $2
             order by id limit $1"
        )
        .bind(i64::from(limit))
        .bind(now)
        .bind(made_before)
        .fetch_all(conn)
        .await)?)
    }

    pub async fn invites_to_remind(&mut self, limit: u32) -> Result<Vec<Remindable>> {
        let now = self.clock.now();
        let text = format!(
            "select i.id, i.email, i.email_key, i.reminders_from, i.expires_at, {} from invites i
             where i.status = 'pending' and i.remind_at <= $1 and i.reminders_until = i.expires_at and {}
             order by i.remind_at limit $2",
            accept_facts(),
            checked("i.expires_at > $1")
        );
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)?)
    }

    /// Plans the next reminder of invites that are still open and still in the validity period of the plan. Returns the
    /// invites whose reminder was due and must now be sent by this transaction.
    pub async fn plan_reminders(&mut self, plans: &[ReminderPlan]) -> Result<Vec<Uuid>> {
        let source = PlanRow::unfold(self.dialect());
        let ids = format!("select r.invite_id from {source}");
        let and_these = and_among(self.dialect(), "invites.id", &ids);
        let text = format!(
            "update invites set reminders_from = r.from_at, reminders_until = expires_at, remind_at = r.remind_again_at
             from {source}
             where invites.id = r.invite_id and {} and invites.expires_at = r.until_at
               and ((r.is_due and invites.remind_at <= $2 and invites.reminders_until = invites.expires_at)
                    or (not r.is_due and (reminders_until is null or reminders_until <> expires_at))) {and_these}
             returning invites.id",
            checked("invites.status = 'pending'")
        );
        let mut rows: Vec<_> = plans
            .iter()
            .map(|plan| PlanRow {
                invite_id: plan.invite_id,
                from_at: Time(plan.from),
                until_at: Time(plan.expires_at),
                remind_again_at: plan.remind_at.map(Time),
                is_due: plan.is_due,
            })
            .collect();
        rows.sort_by_key(|row| row.invite_id);
        let rows = to_json(&rows)?;
        let now = self.clock.now();
        Ok(on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(rows)
            .bind(now)
            .fetch_all(conn)
            .await)?)
    }
}
