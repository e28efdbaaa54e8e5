//! The data that decides whether an invite may be accepted.

use std::collections::HashMap;

use uuid::Uuid;

use crate::invites::accept::{AcceptFacts, InviterFacts};
use crate::store::rows::{Row as _, ids_json, of_ids, row, sql, to_json};
use crate::store::{Result, Tx, on_conn};

row! {
    /// An inviter and the target of the invite.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::FromRow)]
    pub struct InviterAt {
        /// The `admins.id`.
        pub admin_id: Uuid,
        /// The organization; for a project, the organization that owns it.
        pub organization_id: Uuid,
        pub project_id: Option<Uuid>,
    }
}

#[derive(sqlx::FromRow)]
struct InviterFound {
    #[sqlx(flatten)]
    at: InviterAt,
    #[sqlx(flatten)]
    facts: InviterFacts,
}

#[derive(sqlx::FromRow)]
struct InviteFound {
    id: Uuid,
    #[sqlx(flatten)]
    facts: AcceptFacts,
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
        let text = format!(
            "select r.*, {} from {}",
            inviter_facts("r.admin_id", "r.organization_id", "r.project_id"),
            InviterAt::unfold(self.dialect())
        );
        let rows = to_json(inviters)?;
        let found: Vec<InviterFound> =
            on_conn!(self, |conn| sqlx::query_as(sql(text)).bind(rows).fetch_all(conn).await)?;
        Ok(found.into_iter().map(|found| (found.at, found.facts)).collect())
    }

    /// The data that decides whether these invites may be accepted.
    pub async fn accept_facts(&mut self, ids: &[Uuid]) -> Result<HashMap<Uuid, AcceptFacts>> {
        let these = of_ids(self.dialect(), "i.id");
        let text = format!("select i.id, {} from invites i where {these}", accept_facts());
        let ids = ids_json(ids)?;
        let found: Vec<InviteFound> = on_conn!(self, |conn| sqlx::query_as(sql(text)).bind(ids).fetch_all(conn).await)?;
        Ok(found.into_iter().map(|found| (found.id, found.facts)).collect())
    }
}
