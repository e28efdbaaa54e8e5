//! Invites: created, refreshed, listed, answered. Every change of state is one guarded update.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::people::{EMAIL_KEY, EmailKeyRow};
use super::rows::{Time, Type, among, and_among, checked, in_order_of_id, of_rows, sql, to_json, unfold};
use super::{Conn, DeliveryKind, DeliveryStatus, Dialect, Result, Tx, on_conn};
use crate::invites::accept::{AcceptFacts, InviterFacts, Obstacle};
use crate::invites::email::{EmailAddress, EmailKey};
use crate::invites::limits::MailHold;
use crate::invites::{Acceptance, Invite, Status, TargetKind};
use crate::metrics::InviteEvent;

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
    pub expires_at: DateTime<Utc>,
}

/// An open invite and a person who has its address, verified.
#[derive(Debug, Clone)]
pub struct InviteCandidate {
    pub invite: Invite,
    pub admin_id: Uuid,
    /// The organization of the membership: for a project, the organization that it belongs to today.
    pub target_organization_id: Uuid,
    /// The data that decides whether the person may accept it.
    pub facts: AcceptFacts,
}

impl InviteCandidate {
    /// The organization that the person becomes a member of, and the project if there is one.
    pub fn target_ids(&self) -> impl Iterator<Item = Uuid> {
        [Some(self.target_organization_id), self.invite.project_id]
            .into_iter()
            .flatten()
    }

    /// Whether this person dismissed the banner.
    #[must_use]
    pub fn is_dismissed(&self) -> bool {
        self.invite.dismissed_at.is_some() && self.invite.flagged_for == Some(self.admin_id)
    }
}

/// An open invite and its target.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct OpenInvite {
    #[sqlx(flatten)]
    pub invite: Invite,
    /// The organization: for a project, the one that it belongs to today.
    pub target_organization_id: Uuid,
    /// The data that decides whether it may be accepted.
    #[sqlx(flatten)]
    pub facts: AcceptFacts,
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

/// An inviter and the target of the invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InviterAt {
    /// The `admins.id`.
    pub admin_id: Uuid,
    /// The organization; for a project, the organization that owns it.
    pub organization_id: Uuid,
    pub project_id: Option<Uuid>,
}

#[derive(sqlx::FromRow)]
struct InviterFound {
    admin_id: Uuid,
    organization_id: Uuid,
    project_id: Option<Uuid>,
    #[sqlx(flatten)]
    facts: InviterFacts,
}

#[derive(sqlx::FromRow)]
struct InviteFound {
    id: Uuid,
    #[sqlx(flatten)]
    facts: AcceptFacts,
}

/// An invite with the data that people want to see.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct InviteView {
    #[sqlx(flatten)]
    pub invite: Invite,
    /// The organization's id: for a project, the one that it belongs to today.
    pub target_organization_id: Uuid,
    pub organization_name: String,
    pub project_name: Option<String>,
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

#[derive(Debug, Clone, Default)]
pub struct InviteFilter {
    /// For this organization or one of its projects.
    pub organization_id: Option<Uuid>,
    pub project_id: Option<Uuid>,
    /// By this inviter, an `admins.id`.
    pub invited_by: Option<Uuid>,
    pub email: Option<EmailKey>,
    /// In this status at the present time, even if the sweep has not stored it yet.
    pub status: Option<Status>,
    /// Only for these organizations, in addition to the other filters.
    pub within: Option<Vec<Uuid>>,
    /// Created before this invite: the end of the last page.
    pub before: Option<(DateTime<Utc>, Uuid)>,
}

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

#[derive(Serialize)]
struct PlanRow {
    invite_id: Uuid,
    from_at: Time,
    until_at: Time,
    remind_again_at: Option<Time>,
    is_due: bool,
}

fn is_about_time(status: Status) -> bool {
    matches!(status, Status::Pending | Status::Expired)
}

impl InviteFilter {
    /// Builds the statement for the filters that are set, so that each combination gets a plan that fits. Parameters
    /// are numbered in the order in which [`Tx::list_invites`] binds them.
    fn statement(&self) -> String {
        let mut last = 1;
        let mut next = || {
            last += 1;
            last
        };
        let mut conditions = Vec::new();
        for (column, id) in [
            ("organization_id", self.organization_id),
            ("project_id", self.project_id),
            ("invited_by", self.invited_by),
        ] {
            if id.is_some() {
                conditions.push(format!("{column} = ${}", next()));
            }
        }
        if self.email.is_some() {
            conditions.push(format!("email_key = ${}", next()));
        }
        if let Some(status) = self.status {
            conditions.push(match status {
                Status::Pending => format!("status = 'pending' and expires_at > ${}", next()),
                Status::Expired => {
                    format!(
                        "(status = 'expired' or (status = 'pending' and expires_at <= ${}))",
                        next()
                    )
                }
                status => format!("status = '{status}'"),
            });
        }
        if let Some(organizations) = &self.within {
            let places: Vec<String> = organizations.iter().map(|_| format!("${}", next())).collect();
            conditions.push(format!("organization_id in ({})", places.join(", ")));
        }
        if self.before.is_some() {
            conditions.push(format!("(created_at, id) < (${}, ${})", next(), next()));
        }
        let conditions = if conditions.is_empty() {
            "true".to_owned()
        } else {
            conditions.join(" and ")
        };
        format!("select id, created_at from invites where {conditions} order by created_at desc, id desc limit $1")
    }
}

/// The columns of [`Invite`], each with a prefix. `*` would break prepared statements when a migration adds a column.
macro_rules! columns {
    ($prefix:literal) => {
        columns!(@ $prefix id kind organization_id project_id email email_key role status acceptance invited_by
            accepted_by locale message token_version invited_at expires_at flagged_at flagged_for dismissed_at
            accepted_at declined_at revoked_at expired_at created_at updated_at)
    };
    (@ $prefix:literal $first:ident $($column:ident)*) => {
        concat!($prefix, stringify!($first) $(, ", ", $prefix, stringify!($column))*)
    };
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
    ("expires_at", Type::Time),
];

const INVITE: &str = columns!("");
/// For statements in which another table has columns of the same names.
const INVITE_ITSELF: &str = columns!("invites.");
pub(super) const INVITE_OF_I: &str = columns!("i.");

/// The columns of [`InviterFacts`]: a person's state and roles in an organization and perhaps a project. Each is its
/// own subquery, so that no planner reads all people or memberships. Whether the person is banned comes from the Clerk
/// account that the app links today, or, if the app links none, from the account that usher knows.
fn inviter_facts(person: &str, organization: &str, project: &str) -> String {
    const BLOCKED: &str = "(u.banned or u.locked or u.deleted_at is not null)";
    format!(
        "(select a.deleted_at is null
              and not exists (select 1 from usher_people u where u.clerk_user_id = a.external_id and {BLOCKED})
              and (a.external_id is not null
                  or not exists (select 1 from usher_people u where u.admin_id = a.id and {BLOCKED}))
          from admins a where a.id = {person}) as inviter_acts,
         (select coalesce(m.role, '') from organization_users m
          where m.organization_id = {organization} and m.admin_id = {person} and m.deleted_at is null)
             as inviter_organization_role,
         exists (select 1 from organization_users m
          where m.organization_id = {organization} and m.admin_id = {person} and m.deleted_at is not null)
             as inviter_has_left,
         (select coalesce(m.role, '') from project_admins m
          where m.project_id = {project} and m.admin_id = {person} and m.deleted_at is null) as inviter_project_role"
    )
}

/// The columns of [`AcceptFacts`], of an invite `i`.
pub(super) fn accept_facts() -> String {
    const HOME: &str =
        "coalesce((select p.organization_id from projects p where p.id = i.project_id), i.organization_id)";
    format!(
        "i.kind as target_kind,
         exists (select 1 from organizations o where o.id = {HOME} and o.deleted_at is null)
             and (i.project_id is null
                 or exists (select 1 from projects p where p.id = i.project_id and p.deleted_at is null)) as target_exists,
         i.role as wanted_role, i.invited_by is not null as has_inviter, {}",
        inviter_facts("i.invited_by", HOME, "i.project_id")
    )
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

#[derive(Serialize)]
struct InviterRow {
    admin_id: Uuid,
    organization_id: Uuid,
    project_id: Option<Uuid>,
}

#[derive(Serialize)]
struct PairRow<'a> {
    invite_id: Uuid,
    person_id: Uuid,
    version: i32,
    role: &'a str,
    inviter: Option<Uuid>,
    acceptance: Acceptance,
}

#[derive(Serialize)]
pub(super) struct InviteId {
    pub invite_id: Uuid,
}

pub(super) fn invite_ids(ids: &[Uuid]) -> Result<String> {
    let rows: Vec<_> = ids.iter().map(|&invite_id| InviteId { invite_id }).collect();
    to_json(&rows)
}

/// Always in the order of invite ids, to avoid deadlocks.
fn pairs(waiting: &[&InviteCandidate]) -> Result<String> {
    let mut rows: Vec<_> = waiting
        .iter()
        .map(|waiting| PairRow {
            invite_id: waiting.invite.id,
            person_id: waiting.admin_id,
            version: waiting.invite.token_version,
            role: &waiting.invite.role,
            inviter: waiting.invite.invited_by,
            acceptance: waiting.invite.acceptance,
        })
        .collect();
    rows.sort_by_key(|row| row.invite_id);
    to_json(&rows)
}

const PAIR: &[(&str, Type)] = &[
    ("invite_id", Type::Uuid),
    ("person_id", Type::Uuid),
    ("version", Type::Int),
    ("role", Type::Text),
    ("inviter", Type::Uuid),
    ("acceptance", Type::Text),
];
/// The invite is still as it was when the decision was made: it may have been renewed in the meantime.
const AS_DECIDED: &str = "invites.token_version = r.version and invites.role = r.role
               and invites.invited_by is not distinct from r.inviter and invites.acceptance = r.acceptance";
pub(super) const INVITE_ID: &[(&str, Type)] = &[("invite_id", Type::Uuid)];

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
                 invited_by, locale, message, invited_at, expires_at, created_at, updated_at)
             select r.new_id, r.kind, r.organization_id, r.project_id, r.email, r.email_key, r.role, 'pending',
                 r.acceptance, r.invited_by, r.locale, r.message, $2, r.expires_at, $2, $2
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
            self.happened(InviteEvent::Created, invite.id, None);
        }
        Ok(saved)
    }

    /// Deletes invites that this transaction created.
    pub async fn unmake_invites(&mut self, ids: &[Uuid]) -> Result<()> {
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
        self.never_happened(ids);
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
                 acceptance = r.acceptance, invited_by = r.invited_by, locale = r.locale, message = r.message,
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
            self.happened(InviteEvent::Refreshed, invite.id, None);
        }
        Ok(fresh)
    }

    /// Stores on invites of this transaction why no mail is sent.
    pub async fn hold_mails(&mut self, ids: &[Uuid], held: MailHold) -> Result<()> {
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

    /// The state and roles of these inviters. An inviter who does not exist has no entry.
    pub async fn inviters(&mut self, inviters: &[InviterAt]) -> Result<HashMap<InviterAt, InviterFacts>> {
        if inviters.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = unfold(
            self.dialect(),
            &[
                ("admin_id", Type::Uuid),
                ("organization_id", Type::Uuid),
                ("project_id", Type::Uuid),
            ],
        );
        let text = format!(
            "select r.admin_id, r.organization_id, r.project_id, {} from {rows}",
            inviter_facts("r.admin_id", "r.organization_id", "r.project_id")
        );
        let rows: Vec<_> = inviters
            .iter()
            .map(|&inviter| InviterRow {
                admin_id: inviter.admin_id,
                organization_id: inviter.organization_id,
                project_id: inviter.project_id,
            })
            .collect();
        let rows = to_json(&rows)?;
        let found: Vec<InviterFound> =
            on_conn!(self, |conn| sqlx::query_as(sql(text)).bind(rows).fetch_all(conn).await)?;
        let by_place = |found: InviterFound| {
            let at = InviterAt {
                admin_id: found.admin_id,
                organization_id: found.organization_id,
                project_id: found.project_id,
            };
            (at, found.facts)
        };
        Ok(found.into_iter().map(by_place).collect())
    }

    /// The data that decides whether these invites may be accepted.
    pub async fn accept_facts(&mut self, ids: &[Uuid]) -> Result<HashMap<Uuid, AcceptFacts>> {
        let rows = unfold(self.dialect(), INVITE_ID);
        let these = of_rows(self.dialect(), "i.id", "invite_id", &rows);
        let text = format!("select i.id, {} from invites i where {these}", accept_facts());
        let ids = invite_ids(ids)?;
        let found: Vec<InviteFound> = on_conn!(self, |conn| sqlx::query_as(sql(text)).bind(ids).fetch_all(conn).await)?;
        Ok(found.into_iter().map(|found| (found.id, found.facts)).collect())
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
                self.refused(id, waiting.admin_id, *obstacle);
            }
        }
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

    pub async fn invite(&mut self, id: Uuid) -> Result<Option<Invite>> {
        let text = format!("select {INVITE} from invites where id = $1");
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .fetch_optional(conn)
            .await)?)
    }

    /// The open invites for existing targets whose address is a verified address of these people, oldest first.
    pub async fn invite_candidates(&mut self, admins: &[Uuid]) -> Result<Vec<InviteCandidate>> {
        // Joined here: without statistics, Postgres would read all addresses for each invite.
        let owners = self.verified_addresses(admins).await?;
        let invites = self.open_invites_to(owners.keys().map(String::as_str)).await?;
        let waiting = |open: OpenInvite| {
            let owners = owners.get(open.invite.email_key.as_str()).into_iter().flatten();
            let waiting = owners.map(move |&admin_id| InviteCandidate {
                invite: open.invite.clone(),
                admin_id,
                target_organization_id: open.target_organization_id,
                facts: open.facts.clone(),
            });
            waiting.collect::<Vec<_>>()
        };
        Ok(invites.into_iter().flat_map(waiting).collect())
    }

    async fn open_invites_to(&mut self, email_keys: impl Iterator<Item = &str>) -> Result<Vec<OpenInvite>> {
        let keys: Vec<_> = email_keys.map(|email_key| EmailKeyRow { email_key }).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let rows = unfold(self.dialect(), EMAIL_KEY);
        let addressed = of_rows(self.dialect(), "i.email_key", "email_key", &rows);
        let text = format!(
            "select {INVITE_OF_I}, o.id as target_organization_id, {}
             from invites i
             left join projects p on p.id = i.project_id
             join organizations o on o.id = coalesce(p.organization_id, i.organization_id) and o.deleted_at is null
             where i.status = 'pending' and {addressed} and {}
               and (i.project_id is null or p.deleted_at is null)
             order by i.created_at, i.id",
            accept_facts(),
            checked("i.expires_at > $2")
        );
        let keys = to_json(&keys)?;
        let now = self.clock.now();
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(keys)
            .bind(now)
            .fetch_all(conn)
            .await)?)
    }

    /// The invite, open or not, if its address is a verified address of this person. `None` if its target was deleted.
    pub async fn invite_of(&mut self, id: Uuid, admin_id: Uuid) -> Result<Option<Invite>> {
        let text = format!(
            "select {INVITE_OF_I} from invites i
             join usher_addresses a on a.email_key = i.email_key and a.verified and a.admin_id = $2
             join admins person on person.id = a.admin_id and person.deleted_at is null
             left join projects p on p.id = i.project_id
             join organizations o on o.id = coalesce(p.organization_id, i.organization_id) and o.deleted_at is null
             where i.id = $1 and (i.project_id is null or p.deleted_at is null)"
        );
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .bind(admin_id)
            .fetch_optional(conn)
            .await)?)
    }

    /// Marks invites as accepted by their person and returns them; skips those that are no longer open or were renewed
    /// in the meantime. The caller adds the memberships in the same transaction.
    pub async fn accept_invites(&mut self, accepted: &[&InviteCandidate]) -> Result<Vec<Invite>> {
        if accepted.is_empty() {
            return Ok(Vec::new());
        }
        let source = unfold(self.dialect(), PAIR);
        let ids = format!("select r.invite_id from {source}");
        let and_these = and_among(self.dialect(), "invites.id", &ids);
        let text = format!(
            "update invites set status = 'accepted', accepted_by = r.person_id, accepted_at = $2,
                 flagged_at = null, flagged_for = null, dismissed_at = null, updated_at = $2
             from {source}
             where invites.id = r.invite_id and {AS_DECIDED} {and_these}
               and {} returning {INVITE_ITSELF}",
            checked("invites.status = 'pending' and invites.expires_at > $2")
        );
        let rows = pairs(accepted)?;
        let now = self.clock.now();
        let accepted: Vec<Invite> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        for invite in &accepted {
            self.happened(InviteEvent::Accepted, invite.id, invite.accepted_by);
        }
        Ok(accepted)
    }

    /// Shows open invites in their person's banner.
    pub async fn flag_invites(&mut self, flagged: &[&InviteCandidate]) -> Result<()> {
        if flagged.is_empty() {
            return Ok(());
        }
        let source = unfold(self.dialect(), PAIR);
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
            self.happened(InviteEvent::Flagged, invite, person);
        }
        Ok(())
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
        self.close_invite(
            InviteEvent::Revoked,
            "update invites set status = 'revoked', revoked_at = $2, flagged_at = null, flagged_for = null,
                 dismissed_at = null, updated_at = $2
             where id = $1 and status in ('pending', 'expired')",
            id,
        )
        .await
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
            self.happened(event, id, None);
        }
        Ok(closed == 1)
    }

    /// Dismisses an open invite's banner for its person until their next sign-in; `false` if it was not open any more.
    pub async fn dismiss_invite(&mut self, id: Uuid, admin_id: Uuid) -> Result<bool> {
        let now = self.clock.now();
        let dismissed = on_conn!(self, |conn| sqlx::query(
            "update invites set flagged_at = null, flagged_for = $3, dismissed_at = $2, updated_at = $2
             where id = $1 and status = 'pending' and expires_at > $2"
        )
        .bind(id)
        .bind(now)
        .bind(admin_id)
        .execute(conn)
        .await?
        .rows_affected());
        if dismissed == 1 {
            self.happened(InviteEvent::Dismissed, id, None);
        }
        Ok(dismissed == 1)
    }

    /// Marks invites as expired, the longest expired first and at most `limit`; returns how many.
    pub async fn expire_invites(&mut self, limit: u32) -> Result<u64> {
        let now = self.clock.now();
        let oldest =
            "select id from invites where status = 'pending' and expires_at <= $1 order by expires_at limit $2";
        let these = among(
            self.dialect(),
            "id",
            &format!(
                "select id from invites where id in ({oldest}) {}",
                in_order_of_id(self.dialect())
            ),
        );
        let text = format!(
            "update invites set status = 'expired', expired_at = expires_at, updated_at = $1
             where status = 'pending' and expires_at <= $1 and {these} returning id"
        );
        let expired: Vec<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)?;
        for &id in &expired {
            self.happened(InviteEvent::Expired, id, None);
        }
        Ok(expired.len() as u64)
    }

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
        let source = unfold(
            self.dialect(),
            &[
                ("invite_id", Type::Uuid),
                ("from_at", Type::Time),
                ("until_at", Type::Time),
                ("remind_again_at", Type::Time),
                ("is_due", Type::Bool),
            ],
        );
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

    /// Renews an invite until `expires_at` if it has expired; its link stays valid. `None` if its status is final or it
    /// does not exist. The row is locked until the transaction ends.
    pub async fn renew_invite(&mut self, id: Uuid, expires_at: DateTime<Utc>) -> Result<Option<Invite>> {
        let text = format!(
            "update invites set status = 'pending', expired_at = null, mail_held = null, updated_at = $2,
                 expires_at = case when expires_at <= $2 then $3 else expires_at end
             where id = $1 and status in ('pending', 'expired') returning {INVITE}"
        );
        let now = self.clock.now();
        let renewed: Option<Invite> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .bind(now)
            .bind(expires_at)
            .fetch_optional(conn)
            .await)?;
        if renewed.is_some() {
            self.happened(InviteEvent::Resent, id, None);
        }
        Ok(renewed)
    }

    /// The open invites of these addresses for existing targets, oldest first.
    pub async fn waiting_at(&mut self, keys: &[&EmailKey]) -> Result<Vec<OpenInvite>> {
        self.open_invites_to(keys.iter().map(|key| key.as_str())).await
    }

    /// The open invites whose banner this person dismissed.
    pub async fn dismissed_by(&mut self, admin_id: Uuid) -> Result<Vec<Uuid>> {
        Ok(on_conn!(self, |conn| sqlx::query_scalar(
            "select id from invites where status = 'pending' and flagged_for = $1 and dismissed_at is not null"
        )
        .bind(admin_id)
        .fetch_all(conn)
        .await)?)
    }

    /// A page of invites: ids, newest first. The order is by creation, so new invites don't shift a page.
    pub async fn list_invites(&mut self, filter: &InviteFilter, limit: u32) -> Result<Vec<(Uuid, DateTime<Utc>)>> {
        let text = filter.statement();
        let now = self.clock.now();
        Ok(on_conn!(self, |conn| {
            let mut query = sqlx::query_as(sql(text)).bind(i64::from(limit));
            for id in [filter.organization_id, filter.project_id, filter.invited_by]
                .into_iter()
                .flatten()
            {
                query = query.bind(id);
            }
            if let Some(email) = &filter.email {
                query = query.bind(email.as_str().to_owned());
            }
            if filter.status.is_some_and(is_about_time) {
                query = query.bind(now);
            }
            for &id in filter.within.iter().flatten() {
                query = query.bind(id);
            }
            if let Some((created_at, id)) = filter.before {
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
        let rows = unfold(self.dialect(), INVITE_ID);
        let text = format!(
            "select {INVITE_OF_I}, o.id as target_organization_id, coalesce(o.name, '') as organization_name, p.name as project_name,
                 a.first_name as inviter_first_name, a.last_name as inviter_last_name, a.email as inviter_email,
                 d.kind as delivery_kind, d.message_id as delivery_message_id, d.queued_at as delivery_queued_at,
                 d.status as delivery_status, d.attempts as delivery_attempts, d.last_error as delivery_error,
                 d.sent_at as delivery_sent_at, i.mail_held, {}
             from invites i
             left join projects p on p.id = i.project_id
             join organizations o on o.id = coalesce(p.organization_id, i.organization_id)
             left join admins a on a.id = i.invited_by
             left join usher_deliveries d on d.id = (
                 select newest.id from usher_deliveries newest
                 where newest.invite_id = i.id and (newest.kind = 'invite'
                     or (newest.kind = 'reminder' and newest.status <> 'suppressed'))
                 order by newest.queued_at desc, newest.generation desc limit 1)
             where i.id in (select r.invite_id from {rows})
             order by i.created_at, i.id",
            accept_facts()
        );
        let ids = invite_ids(ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
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
        expires_at: Time(invite.expires_at),
    }
}
