//! The data that decides whether an invite may be accepted.

use std::collections::HashMap;

use serde::Serialize;
use uuid::Uuid;

use super::{INVITE_ID, invite_ids};
use crate::invites::accept::{AcceptFacts, InviterFacts};
use crate::store::rows::{Type, of_rows, sql, to_json, unfold};
use crate::store::{Result, Tx, on_conn};

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

#[derive(Serialize)]
struct InviterRow {
    admin_id: Uuid,
    organization_id: Uuid,
    project_id: Option<Uuid>,
}

/// The columns of [`InviterFacts`]: a person's state and roles in an organization and perhaps a project. Each is its
/// own subquery, so that no planner reads all people or memberships. Whether the person is banned comes from the Clerk
/// account that the app links today, or, if the app links none, from the account that usher knows.
fn inviter_facts(person: &str, organization: &str, project: &str) -> String {
    const BLOCKED: &str = "(u.banned or u.locked or u.deleted_at is not null)";
    format!(
        "(select a.deleted_at is null
              and not exists (select 1 from usher_people u where u.clerk_user_id = a.external_id and {BLOCKED})
              and (a.external_id is not null
                  or not exists (select 1 from usher_people u where a.id in (u.id, u.admin_id) and {BLOCKED}))
          from usher_admins a where a.id = {person}) as inviter_acts,
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
pub(in crate::store) fn accept_facts() -> String {
    const HOME: &str =
        "coalesce((select p.organization_id from usher_projects p where p.id = i.project_id), i.organization_id)";
    format!(
        "i.kind as target_kind,
         exists (select 1 from usher_organizations o where o.id = {HOME} and o.deleted_at is null)
             and (i.project_id is null
                 or exists (select 1 from usher_projects p where p.id = i.project_id and p.deleted_at is null)) as target_exists,
         i.role as wanted_role, i.invited_by is not null as has_inviter, {}",
        inviter_facts("i.invited_by", HOME, "i.project_id")
    )
}

impl Tx {
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
}
