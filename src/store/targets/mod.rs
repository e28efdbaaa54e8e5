//! The organizations, projects and memberships that the app may own.

mod change;
mod members;
mod put;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::rows::{IdRow, Row as _, app_time, ids_json, sql};
use super::{Dialect, InviteCandidate, Result, Tx, on_conn};
use crate::app_id::AppId;
pub use change::MemberPerson;
pub use members::{Grant, Member, MemberPage, Membership, MembershipView};
pub use put::{Put, PutRefusal};

/// An organization or a project that exists.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct TargetInfo {
    pub id: Uuid,
    /// The organization itself, or the project's.
    pub organization_id: Uuid,
    pub name: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// How the app spells the id, if it is no UUID.
    pub spelling: Option<String>,
    /// The same for the organization.
    pub organization_spelling: Option<String>,
}

impl TargetInfo {
    /// The id, as the app spells it.
    #[must_use]
    pub fn shown(&self) -> String {
        AppId::shown(self.id, self.spelling.clone())
    }

    /// The organization's id, as the app spells it.
    #[must_use]
    pub fn organization_shown(&self) -> String {
        AppId::shown(self.organization_id, self.organization_spelling.clone())
    }
}

/// How the app spells an id, if it is no UUID.
pub(super) fn spelling(key: &str) -> String {
    format!("(select s.app_id from usher_app_ids s where s.key = {key})")
}

impl Tx {
    /// The organizations among these ids that exist.
    pub async fn organizations(&mut self, ids: &[Uuid]) -> Result<Vec<TargetInfo>> {
        let rows = IdRow::unfold(self.dialect());
        let text = format!(
            "select {} from usher_organizations
             where deleted_at is null and id in (select r.id from {rows})",
            organization(self.dialect())
        );
        let ids = ids_json(ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// The projects among these ids that exist, in organizations that exist.
    pub async fn projects(&mut self, ids: &[Uuid]) -> Result<Vec<TargetInfo>> {
        let rows = IdRow::unfold(self.dialect());
        let text = format!(
            "select {} from usher_projects p
             join usher_organizations o on o.id = p.organization_id and o.deleted_at is null
             where p.deleted_at is null and p.id in (select r.id from {rows})",
            project(self.dialect(), "p")
        );
        let ids = ids_json(ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// The organizations of these projects, except deleted projects. Locks the projects, so that they can't be moved or
    /// deleted before this transaction ends. In the order of their ids, as every transaction that locks several.
    pub async fn lock_projects(&mut self, ids: &[Uuid]) -> Result<HashMap<Uuid, Uuid>> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        // Without a join: with one, a project that was moved while this waited for its lock would be missing.
        let text = format!(
            "select id, organization_id from projects
             where {} and id in (select r.id from {}) order by id {}",
            self.is_live("projects"),
            IdRow::unfold(self.dialect()),
            held(self.dialect())
        );
        let ids = ids_json(ids)?;
        let organizations_of: Vec<(Uuid, Uuid)> =
            on_conn!(self, |conn| sqlx::query_as(sql(text)).bind(ids).fetch_all(conn).await)?;
        Ok(organizations_of.into_iter().collect())
    }

    /// These candidates with the current organization of each project, in which the project stays until this
    /// transaction ends: the membership is given in that one. Candidates for projects that were deleted in the meantime
    /// are left out.
    pub async fn lock_targets(&mut self, waiting: &[&InviteCandidate]) -> Result<Vec<InviteCandidate>> {
        let projects: Vec<Uuid> = waiting.iter().filter_map(|waiting| waiting.invite.project_id).collect();
        let organizations_of = self.lock_projects(&projects).await?;
        let mut moved = Vec::new();
        let mut current = Vec::with_capacity(waiting.len());
        for &waiting in waiting {
            let target_organization_id = match waiting.invite.project_id {
                None => waiting.target_organization_id,
                Some(project_id) => match organizations_of.get(&project_id) {
                    Some(&target_organization_id) => target_organization_id,
                    None => continue,
                },
            };
            if target_organization_id != waiting.target_organization_id {
                moved.push(waiting.invite.id);
            }
            current.push(InviteCandidate {
                target_organization_id,
                ..waiting.clone()
            });
        }
        if !moved.is_empty() {
            // Whether the inviter may still give this role depends on the project's current organization.
            let mut facts = self.accept_facts(&moved).await?;
            for waiting in &mut current {
                if let Some(facts) = facts.remove(&waiting.invite.id) {
                    waiting.facts = facts;
                }
            }
        }
        Ok(current)
    }

    /// The candidates' organizations and projects that are locked by another transaction; the others are locked by this
    /// one until it ends. SQLite has one writer, so there are none.
    pub async fn locked_targets(&mut self, candidates: &[&InviteCandidate]) -> Result<HashSet<Uuid>> {
        let mut wanted: HashSet<Uuid> = candidates.iter().flat_map(|candidate| candidate.target_ids()).collect();
        if wanted.is_empty() || self.dialect() == Dialect::Sqlite {
            return Ok(HashSet::new());
        }
        let ids = ids_json(&wanted.iter().copied().collect::<Vec<_>>())?;
        let wanted_ids = IdRow::unfold(self.dialect());
        for (table, lock) in [("organizations", "key share"), ("projects", "share")] {
            let text = format!(
                "select id from {table} where id in (select r.id from {wanted_ids})
                 order by id for {lock} skip locked"
            );
            let free: Vec<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
                .bind(&ids)
                .fetch_all(conn)
                .await)?;
            free.iter().for_each(|id| {
                wanted.remove(id);
            });
        }
        Ok(wanted)
    }
}

/// Locks the rows until the transaction ends. SQLite has one writer at a time.
fn held(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "for share",
        Dialect::Sqlite => "",
    }
}

/// The columns of a [`TargetInfo`] that is an organization.
fn organization(dialect: Dialect) -> String {
    let (created_at, updated_at) = (app_time(dialect, "created_at"), app_time(dialect, "updated_at"));
    let spelling = spelling("id");
    format!(
        "id, id as organization_id, coalesce(name, '') as name, {created_at} as created_at, {updated_at} as updated_at,
         {spelling} as spelling, {spelling} as organization_spelling"
    )
}

/// The columns of a [`TargetInfo`] that is a project.
fn project(dialect: Dialect, p: &str) -> String {
    let created_at = app_time(dialect, &format!("{p}.created_at"));
    let updated_at = app_time(dialect, &format!("{p}.updated_at"));
    format!(
        "{p}.id, {p}.organization_id, coalesce({p}.name, '') as name, {created_at} as created_at,
         {updated_at} as updated_at, {} as spelling, {} as organization_spelling",
        spelling(&format!("{p}.id")),
        spelling(&format!("{p}.organization_id"))
    )
}
