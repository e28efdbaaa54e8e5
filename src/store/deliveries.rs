//! Mails as rows: queued with the invite, sent by a job, shown on the invite.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::invites::{accept_facts, invite_columns};
use super::rows::{Row as _, and_among, checked, ids_json, of_ids, row, sql, to_json};
use super::{Queue, Result, Rules, Tx, on_conn};
use crate::invites::Invite;
use crate::invites::accept::AcceptFacts;
use crate::invites::limits::RecentMails;
use crate::names::named;

named! {
    /// The kind of a mail.
    DeliveryKind("delivery kind") {
        /// The invite.
        Invite = "invite",
        /// A reminder of an open invite.
        Reminder = "reminder",
        /// The notice to the inviter that their invite was accepted.
        AcceptedNotice = "accepted_notice",
    }
}

named! {
    /// The status of a mail.
    DeliveryStatus("delivery status") {
        /// To be sent.
        Queued = "queued",
        /// The mail server accepted it.
        Sent = "sent",
        /// Rejected permanently.
        Failed = "failed",
        /// Not sent: its invite was answered, revoked or renewed in the meantime, or its address permanently rejects
        /// mail.
        Suppressed = "suppressed",
    }
}

#[derive(Debug, Clone)]
pub struct NewDelivery {
    pub invite_id: Uuid,
    pub kind: DeliveryKind,
    pub to_email: String,
}

/// A mail that is still to be sent, with all data for its text.
#[derive(Clone, sqlx::FromRow)]
pub struct QueuedMail {
    pub delivery_id: Uuid,
    #[sqlx(try_from = "String")]
    pub delivery_kind: DeliveryKind,
    /// How many attempts were made.
    pub delivery_attempts: i32,
    pub to_email: String,
    /// Fixed, so that mail clients recognize a second copy as the same mail.
    pub message_id: String,
    pub queued_at: DateTime<Utc>,
    #[sqlx(flatten)]
    pub invite: Invite,
    #[sqlx(flatten)]
    pub context: MailContext,
    #[sqlx(flatten)]
    pub facts: AcceptFacts,
}

/// The result of an attempt at a mail, or why there was none.
#[derive(Debug, Clone)]
pub struct DeliveryNote {
    pub delivery_id: Uuid,
    pub status: DeliveryStatus,
    /// Whether it was an attempt that counts.
    pub counts: bool,
    /// Why it is not sent.
    pub error: Option<String>,
    /// What the mail server answered when it accepted it.
    pub reply: Option<String>,
}

#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct DeliveryView {
    pub id: Uuid,
    #[sqlx(try_from = "String")]
    pub kind: DeliveryKind,
    /// Counts the mails of one kind for one invite.
    pub generation: i32,
    pub to_email: String,
    #[sqlx(try_from = "String")]
    pub status: DeliveryStatus,
    pub attempts: i32,
    /// The last rejection.
    pub last_error: Option<String>,
    /// What the mail server answered when it accepted it.
    pub reply: Option<String>,
    pub message_id: String,
    pub queued_at: DateTime<Utc>,
    /// When the mail server accepted it.
    pub sent_at: Option<DateTime<Utc>>,
}

/// What a mail needs to know besides its invite.
#[derive(Clone, sqlx::FromRow)]
pub struct MailContext {
    pub organization_name: String,
    pub project_name: Option<String>,
    pub inviter_first_name: Option<String>,
    pub inviter_last_name: Option<String>,
    pub inviter_email: Option<String>,
    pub invitee_first_name: Option<String>,
    pub invitee_last_name: Option<String>,
    /// The recipient's language (BCP 47), if Clerk has one: of the owner of the invited address, or of the inviter for
    /// a notice.
    pub recipient_locale: Option<String>,
    /// Whether no newer mail replaces it: one of its kind, or the invite itself instead of a reminder.
    pub is_newest: bool,
    /// Why the address is suppressed, if it is.
    pub suppressed_for: Option<String>,
}

row! {
    struct DeliveryRow<'a> {
        delivery_id: Uuid,
        for_invite: Uuid,
        kind: DeliveryKind,
        to_email: &'a str,
        /// The part before the `@` of its `Message-ID`.
        message_name: String,
    }
}

/// The job's payload.
#[derive(Serialize)]
struct Payload {
    delivery_id: Uuid,
    /// The correlation id of its attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

row! {
    struct NoteRow<'a> {
        delivery_id: Uuid,
        status: DeliveryStatus,
        counted: i32,
        error: Option<&'a str>,
        reply: Option<&'a str>,
    }
}

#[derive(sqlx::FromRow)]
struct Noted {
    invite_id: Uuid,
    #[sqlx(try_from = "String")]
    kind: DeliveryKind,
    #[sqlx(try_from = "String")]
    status: DeliveryStatus,
}

impl Tx {
    /// Queues mails: the rows and the jobs that send them, in this transaction.
    pub async fn queue_deliveries(&mut self, deliveries: &[NewDelivery]) -> Result<()> {
        if deliveries.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = deliveries
            .iter()
            .map(|delivery| {
                let delivery_id = self.clock.new_id();
                DeliveryRow {
                    delivery_id,
                    for_invite: delivery.invite_id,
                    kind: delivery.kind,
                    to_email: &delivery.to_email,
                    message_name: delivery_id.to_string(),
                }
            })
            .collect();
        let source = DeliveryRow::unfold(self.dialect());
        let text = format!(
            "insert into usher_deliveries (id, invite_id, kind, generation, to_email, status, message_id, queued_at)
             select r.delivery_id, r.for_invite, r.kind,
                 (select coalesce(max(d.generation), 0) + 1 from usher_deliveries d
                  where d.invite_id = r.for_invite and d.kind = r.kind),
                 r.to_email, 'queued', r.message_name || '@' || coalesce((select mail_domain from usher_settings), '{}'), $2
             from {source}",
            Rules::NO_DOMAIN
        );
        let json = to_json(&rows)?;
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(json)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
        let payloads: Vec<_> = rows
            .iter()
            .map(|row| Payload {
                delivery_id: row.delivery_id,
                cause: self.cause_of(row.for_invite).map(str::to_owned),
            })
            .collect();
        self.enqueue(Queue::SendMail, &payloads).await
    }

    /// The invite mails of these invites since a time that were sent or are queued.
    pub async fn mails_since(&mut self, invites: &[Uuid], since: DateTime<Utc>) -> Result<HashMap<Uuid, RecentMails>> {
        if invites.is_empty() {
            return Ok(HashMap::new());
        }
        let theirs = of_ids(self.dialect(), "invite_id");
        let text = format!(
            "select invite_id, count(*) as mails, max(queued_at) as newest from usher_deliveries
             where {theirs} and kind = 'invite' and status <> 'suppressed' and queued_at > $2 group by invite_id"
        );
        let ids = ids_json(invites)?;
        let found: Vec<(Uuid, i64, Option<DateTime<Utc>>)> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .bind(since)
            .fetch_all(conn)
            .await)?;
        Ok(found
            .into_iter()
            .map(|(id, count, newest)| (id, RecentMails { count, newest }))
            .collect())
    }

    /// The mails of an invite, oldest first.
    pub async fn deliveries_of(&mut self, invite_id: Uuid) -> Result<Vec<DeliveryView>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select id, kind, generation, to_email, status, attempts, last_error, reply, message_id, queued_at,
                 sent_at
             from usher_deliveries where invite_id = $1 order by queued_at, id"
        )
        .bind(invite_id)
        .fetch_all(conn)
        .await)?)
    }

    /// The invite that a mail is about.
    pub async fn invite_of_delivery(&mut self, delivery: Uuid) -> Result<Option<Uuid>> {
        Ok(on_conn!(self, |conn| sqlx::query_scalar(
            "select invite_id from usher_deliveries where id = $1"
        )
        .bind(delivery)
        .fetch_optional(conn)
        .await)?)
    }

    /// The mails among these ids that are still to be sent, with all data for their texts.
    pub async fn queued_mails(&mut self, ids: &[Uuid]) -> Result<Vec<QueuedMail>> {
        let these = of_ids(self.dialect(), "d.id");
        let text = format!(
            "select d.id as delivery_id, d.kind as delivery_kind, d.attempts as delivery_attempts, d.to_email,
                 d.message_id, d.queued_at, {}, {},
                 coalesce(o.name, '') as organization_name, p.name as project_name,
                 a.first_name as inviter_first_name, a.last_name as inviter_last_name, a.email as inviter_email,
                 b.first_name as invitee_first_name, b.last_name as invitee_last_name,
                 case d.kind
                     when 'accepted_notice' then (select u.locale from usher_people u where u.clerk_user_id = a.external_id)
                     else (select u.locale from usher_addresses x join usher_people u on u.id = x.person_id
                           where x.email_key = i.email_key and x.verified order by u.seen_at desc limit 1)
                 end as recipient_locale,
                 not exists (
                     select 1 from usher_deliveries n where n.invite_id = d.invite_id and (
                         (n.kind = d.kind and n.generation > d.generation and n.status <> 'suppressed')
                         or (d.kind = 'reminder' and n.kind = 'invite'
                             and (n.status = 'queued' or n.queued_at > d.queued_at)))) as is_newest,
                 (select s.reason from usher_suppressions s where s.email_key = case d.kind
                     when 'accepted_notice' then (select x.email_key from usher_admins m join usher_people u on u.clerk_user_id = m.external_id
                         join usher_addresses x on x.person_id = u.id
                         where m.id = i.invited_by and x.email = d.to_email limit 1)
                     else i.email_key end) as suppressed_for
             from usher_deliveries d
             join invites i on i.id = d.invite_id
             left join usher_projects p on p.id = i.project_id
             join usher_organizations o on o.id = coalesce(p.organization_id, i.organization_id)
             left join usher_admins a on a.id = i.invited_by
             left join usher_admins b on b.id = i.accepted_by
             where d.status = 'queued' and {these}",
            invite_columns("i."),
            accept_facts()
        );
        let rows = ids_json(ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .fetch_all(conn)
            .await)?)
    }

    /// The queued mail that was never tried, or tried longest ago.
    pub async fn longest_untried_mail(&mut self) -> Result<Option<Uuid>> {
        Ok(on_conn!(self, |conn| sqlx::query_scalar(
            "select id from usher_deliveries where status = 'queued'
             order by coalesce(attempted_at, queued_at), id limit 1"
        )
        .fetch_optional(conn)
        .await)?)
    }

    /// Stores the results of mails, except of mails that are no longer queued.
    pub async fn note_deliveries(&mut self, notes: &[DeliveryNote]) -> Result<()> {
        let source = NoteRow::unfold(self.dialect());
        let ids = format!("select r.delivery_id from {source}");
        let and_these = and_among(self.dialect(), "usher_deliveries.id", &ids);
        let text = format!(
            "update usher_deliveries
             set status = r.status, attempts = attempts + r.counted, last_error = r.error, reply = r.reply,
                 sent_at = case r.status when 'sent' then $2 end,
                 attempted_at = case r.status when 'suppressed' then attempted_at else $2 end
             from {source}
             where usher_deliveries.id = r.delivery_id and {} {and_these}
             returning usher_deliveries.invite_id, usher_deliveries.kind, usher_deliveries.status",
            checked("usher_deliveries.status = 'queued'")
        );
        let mut rows: Vec<_> = notes
            .iter()
            .map(|note| NoteRow {
                delivery_id: note.delivery_id,
                status: note.status,
                counted: note.counts.into(),
                error: note.error.as_deref(),
                reply: note.reply.as_deref(),
            })
            .collect();
        // Always in this order, to avoid deadlocks.
        rows.sort_by_key(|row| row.delivery_id);
        let rows = to_json(&rows)?;
        let now = self.clock.now();
        let noted: Vec<Noted> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        for noted in noted.iter().filter(|noted| noted.kind == DeliveryKind::Invite) {
            self.tell_of_mail(noted.status, noted.invite_id);
        }
        Ok(())
    }
}
