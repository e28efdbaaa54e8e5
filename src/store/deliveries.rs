//! Mails as rows: queued with the invite, sent by a job, seen on the invite.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::rows::{Type, sql, to_json, unfold};
use super::{Queue, Result, Tx, on_conn};
use crate::names::named;

named! {
    /// What a mail says.
    DeliveryKind("delivery kind") {
        /// You are invited.
        Invite = "invite",
        /// You are still invited.
        Reminder = "reminder",
        /// Somebody accepted your invite.
        AcceptedNotice = "accepted_notice",
    }
}

named! {
    /// Where a mail stands.
    DeliveryStatus("delivery status") {
        /// To be sent.
        Queued = "queued",
        /// The server took it.
        Sent = "sent",
        /// Refused for good.
        Failed = "failed",
        /// No longer wanted: its invite was answered, taken back or asked again meanwhile.
        Suppressed = "suppressed",
    }
}

impl DeliveryKind {
    fn queue(self) -> Queue {
        match self {
            Self::Invite | Self::Reminder => Queue::SendInviteEmail,
            Self::AcceptedNotice => Queue::SendAcceptedNotice,
        }
    }
}

/// A mail to be queued.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// The invite it speaks of.
    pub invite_id: Uuid,
    /// What it says.
    pub kind: DeliveryKind,
    /// Where it goes.
    pub to_email: String,
}

/// A mail.
#[derive(Clone, sqlx::FromRow)]
pub struct Delivery {
    /// What the job carries.
    pub id: Uuid,
    /// The invite it speaks of.
    pub invite_id: Uuid,
    /// What it says.
    #[sqlx(try_from = "String")]
    pub kind: DeliveryKind,
    /// Counts the mails of one kind for one invite.
    pub generation: i32,
    /// Where it goes.
    pub to_email: String,
    /// Where it stands.
    #[sqlx(try_from = "String")]
    pub status: DeliveryStatus,
    /// How often sending was tried.
    pub attempts: i32,
    /// Fixed, so that a second copy is recognised as the same mail.
    pub message_id: String,
    /// When it was asked for.
    pub queued_at: DateTime<Utc>,
}

/// A mail as a person looks at it.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct DeliveryView {
    /// What the job carries.
    pub id: Uuid,
    /// What it says.
    #[sqlx(try_from = "String")]
    pub kind: DeliveryKind,
    /// Counts the mails of one kind for one invite.
    pub generation: i32,
    /// Where it goes.
    pub to_email: String,
    /// Where it stands.
    #[sqlx(try_from = "String")]
    pub status: DeliveryStatus,
    /// How often sending was tried.
    pub attempts: i32,
    /// The last refusal.
    pub last_error: Option<String>,
    /// The `Message-ID`.
    pub message_id: String,
    /// When it was asked for.
    pub queued_at: DateTime<Utc>,
    /// When the server took it.
    pub sent_at: Option<DateTime<Utc>>,
}

/// What a mail needs to know beside its invite.
#[derive(Clone, sqlx::FromRow)]
pub struct MailContext {
    /// The organization's name.
    pub organization_name: String,
    /// The project's name.
    pub project_name: Option<String>,
    /// The inviter's first name.
    pub inviter_first_name: Option<String>,
    /// The inviter's last name.
    pub inviter_last_name: Option<String>,
    /// The inviter's address.
    pub inviter_email: Option<String>,
    /// The first name of who accepted.
    pub invitee_first_name: Option<String>,
    /// The last name of who accepted.
    pub invitee_last_name: Option<String>,
    /// Whether this is the newest mail of its kind for the invite.
    pub is_newest: bool,
}

#[derive(Serialize)]
struct DeliveryRow<'a> {
    delivery_id: Uuid,
    for_invite: Uuid,
    kind: DeliveryKind,
    to_email: &'a str,
    message_id: String,
}

/// What the jobs carry.
#[derive(Serialize)]
struct Payload {
    delivery_id: Uuid,
    /// What its attempts are traced by.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

const DELIVERY: &str = "id, invite_id, kind, generation, to_email, status, attempts, message_id, queued_at";

impl Tx {
    /// Queues mails: the rows and the jobs that send them, in this transaction.
    ///
    /// # Errors
    /// [`super::StoreError`].
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
                    message_id: format!("{delivery_id}@usher"),
                }
            })
            .collect();
        let source = unfold(
            self.dialect(),
            &[
                ("delivery_id", Type::Uuid),
                ("for_invite", Type::Uuid),
                ("kind", Type::Text),
                ("to_email", Type::Text),
                ("message_id", Type::Text),
            ],
        );
        let text = format!(
            "insert into usher_deliveries (id, invite_id, kind, generation, to_email, status, message_id, queued_at)
             select r.delivery_id, r.for_invite, r.kind,
                 (select coalesce(max(d.generation), 0) + 1 from usher_deliveries d
                  where d.invite_id = r.for_invite and d.kind = r.kind),
                 r.to_email, 'queued', r.message_id, $2
             from {source}"
        );
        let json = to_json(&rows)?;
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(json)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
        for queue in [Queue::SendInviteEmail, Queue::SendAcceptedNotice] {
            let mut payloads = Vec::new();
            for row in rows.iter().filter(|row| row.kind.queue() == queue) {
                let cause = self.cause_of(row.for_invite).map(str::to_owned);
                payloads.push(Payload {
                    delivery_id: row.delivery_id,
                    cause,
                });
            }
            self.enqueue(queue, &payloads).await?;
        }
        Ok(())
    }

    /// How many invite mails were queued for an invite since a time, and when the newest of them was.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn mails_since(&mut self, invite_id: Uuid, since: DateTime<Utc>) -> Result<(i64, Option<DateTime<Utc>>)> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select count(*), max(queued_at) from usher_deliveries
             where invite_id = $1 and kind = 'invite' and queued_at > $2"
        )
        .bind(invite_id)
        .bind(since)
        .fetch_one(conn)
        .await)?)
    }

    /// One mail.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn delivery(&mut self, id: Uuid) -> Result<Option<Delivery>> {
        let text = format!("select {DELIVERY} from usher_deliveries where id = $1");
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .fetch_optional(conn)
            .await)?)
    }

    /// The mails of an invite, oldest first.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn deliveries_of(&mut self, invite_id: Uuid) -> Result<Vec<DeliveryView>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select id, kind, generation, to_email, status, attempts, last_error, message_id, queued_at, sent_at
             from usher_deliveries where invite_id = $1 order by queued_at, id"
        )
        .bind(invite_id)
        .fetch_all(conn)
        .await)?)
    }

    /// What a mail needs to know beside its invite.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn mail_context(&mut self, delivery_id: Uuid) -> Result<Option<MailContext>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select o.name as organization_name, p.name as project_name,
                 a.first_name as inviter_first_name, a.last_name as inviter_last_name, a.email as inviter_email,
                 b.first_name as invitee_first_name, b.last_name as invitee_last_name,
                 not exists (select 1 from usher_deliveries n where n.invite_id = d.invite_id and n.kind = d.kind
                             and n.generation > d.generation) as is_newest
             from usher_deliveries d
             join invites i on i.id = d.invite_id
             left join projects p on p.id = i.project_id
             join organizations o on o.id = coalesce(p.organization_id, i.organization_id)
             left join admins a on a.id = i.invited_by
             left join admins b on b.id = i.accepted_by
             where d.id = $1"
        )
        .bind(delivery_id)
        .fetch_optional(conn)
        .await)?)
    }

    /// Notes that the server took a mail.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn delivery_sent(&mut self, id: Uuid) -> Result<()> {
        self.note_delivery(id, DeliveryStatus::Sent, None).await
    }

    /// Notes an attempt that failed: for now (`Queued`), or for good (`Failed`).
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn delivery_refused(&mut self, id: Uuid, status: DeliveryStatus, why: &str) -> Result<()> {
        self.note_delivery(id, status, Some(why)).await
    }

    async fn note_delivery(&mut self, id: Uuid, status: DeliveryStatus, error: Option<&str>) -> Result<()> {
        let sent_at = (status == DeliveryStatus::Sent).then(|| self.clock.now());
        on_conn!(self, |conn| sqlx::query(
            "update usher_deliveries
             set status = $2, attempts = attempts + 1, last_error = $3, sent_at = $4
             where id = $1 and status = 'queued'"
        )
        .bind(id)
        .bind(status.as_str())
        .bind(error)
        .bind(sent_at)
        .execute(conn)
        .await
        .map(drop))?;
        Ok(())
    }

    /// Notes that a mail is no longer wanted, without counting an attempt.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn suppress_delivery(&mut self, id: Uuid) -> Result<()> {
        on_conn!(self, |conn| sqlx::query(
            "update usher_deliveries set status = 'suppressed' where id = $1 and status = 'queued'"
        )
        .bind(id)
        .execute(conn)
        .await
        .map(drop))?;
        Ok(())
    }
}
