//! Organizations, projects and their members: the tables that the app may own.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::rows::{Type, app_time, sql, to_json, unfold};
use super::{Dialect, InviteCandidate, Result, Tx, on_conn};
use crate::invites::roles::RoleOrder;

/// An organization or a project that exists.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct TargetInfo {
    pub id: Uuid,
    /// The organization itself, or the project's.
    pub organization_id: Uuid,
    pub name: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// The result of putting an organization or a project.
#[derive(Debug, Clone, PartialEq)]
pub enum Put {
    Made(TargetInfo),
    /// It existed, and is now as requested.
    Changed(TargetInfo),
    /// Nothing was changed.
    Refused(PutRefusal),
}

impl Put {
    /// The organization or project, unless the request was refused.
    #[must_use]
    pub fn place(self) -> Option<TargetInfo> {
        match self {
            Self::Made(target) | Self::Changed(target) => Some(target),
            Self::Refused(_) => None,
        }
    }
}

/// Why nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutRefusal {
    /// The project is in an organization that the caller may not use: to the caller it does not exist.
    Foreign,
    /// The organization for the project does not exist, or the caller may not use it.
    UnknownOrganization,
    /// The organization is deleted. Only the app can restore it.
    OrganizationDeleted,
    /// The project, or its organization, is deleted. Only the app can restore it.
    ProjectDeleted,
}

/// A membership to give: a role for a person in an organization or a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The organization or the project.
    pub target_id: Uuid,
    pub admin_id: Uuid,
    /// The new role; it never lowers the person's role.
    pub role: String,
}

/// A member of an organization or a project.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Member {
    pub admin_id: Uuid,
    pub clerk_user_id: Option<String>,
    /// The primary address.
    pub email: Option<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub role: String,
    pub since: DateTime<Utc>,
}

/// A live membership.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Membership {
    /// The organization or the project.
    pub target_id: Uuid,
    pub admin_id: Uuid,
    pub role: String,
}

#[derive(Serialize)]
struct GrantRow<'a> {
    membership_id: Uuid,
    target_id: Uuid,
    admin_id: Uuid,
    role: &'a str,
}

#[derive(Serialize)]
struct TargetId {
    target_id: Uuid,
}

/// The two membership tables differ only in their names.
struct Memberships {
    table: &'static str,
    target: &'static str,
}

const ORGANIZATION_USERS: Memberships = Memberships {
    table: "organization_users",
    target: "organization_id",
};
const PROJECT_ADMINS: Memberships = Memberships {
    table: "project_admins",
    target: "project_id",
};

impl Tx {
    /// Creates or renames an organization. A deleted one is not changed.
    pub async fn put_organization(&mut self, id: Uuid, name: &str) -> Result<Put> {
        let now = self.clock.now();
        let columns = organization(self.dialect());
        let insert = format!(
            "insert into organizations (id, name, created_at, updated_at) values ($1, $2, $3, $3)
             on conflict (id) do nothing returning {columns}"
        );
        let update = format!(
            "update organizations set name = $2, updated_at = $3 where id = $1 and deleted_at is null returning {columns}"
        );
        for (text, put) in [(insert, Put::Made as fn(TargetInfo) -> Put), (update, Put::Changed)] {
            let target: Option<TargetInfo> = on_conn!(self, |conn| sqlx::query_as(sql(text))
                .bind(id)
                .bind(name)
                .bind(now)
                .fetch_optional(conn)
                .await)?;
            if let Some(target) = target {
                return Ok(put(target));
            }
        }
        Ok(Put::Refused(PutRefusal::OrganizationDeleted))
    }

    /// Creates, renames or moves a project for a caller who may use the organizations in `may_use` (all of them, if
    /// `None`). The project's old and new organization must both be among them. The writing statement itself checks the
    /// old one, so a project that was moved away in the meantime can't be taken back. A deleted project is not changed.
    pub async fn put_project(
        &mut self,
        id: Uuid,
        organization_id: Uuid,
        name: &str,
        may_use: Option<&HashSet<Uuid>>,
    ) -> Result<Put> {
        let now = self.clock.now();
        let is_ours = |organization: &Uuid| may_use.is_none_or(|may_use| may_use.contains(organization));
        let is_deleted = if is_ours(&organization_id) {
            self.hold_organization(organization_id).await?
        } else {
            None
        };
        if is_deleted == Some(false) {
            let made = self.insert_project(id, organization_id, name, now).await?;
            if let Some(target) = made {
                return Ok(Put::Made(target));
            }
            let changed = self.update_project(id, organization_id, name, may_use, now).await?;
            if let Some(target) = changed {
                return Ok(Put::Changed(target));
            }
        }
        let there = self.home_of_project(id).await?;
        Ok(Put::Refused(match (there, is_deleted) {
            (Some((home, _)), _) if !is_ours(&home) => PutRefusal::Foreign,
            (_, Some(true)) => PutRefusal::OrganizationDeleted,
            (Some((_, true)), _) => PutRefusal::ProjectDeleted,
            (_, None) => PutRefusal::UnknownOrganization,
            // Between two statements of this transaction the project was restored, or moved to an organization that the
            // caller may use. A repeated request will succeed.
            (_, Some(false)) => PutRefusal::Foreign,
        }))
    }

    /// Whether an organization is deleted, if it exists. Locks it, so that it can't be deleted before this transaction
    /// ends; SQLite has only one writer.
    async fn hold_organization(&mut self, id: Uuid) -> Result<Option<bool>> {
        let text = format!(
            "select deleted_at is not null from organizations where id = $1 {}",
            held(self.dialect())
        );
        Ok(on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(id)
            .fetch_optional(conn)
            .await)?)
    }

    async fn insert_project(
        &mut self,
        id: Uuid,
        organization_id: Uuid,
        name: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<TargetInfo>> {
        let text = format!(
            "insert into projects (id, organization_id, name, created_at, updated_at) values ($1, $2, $3, $4, $4)
             on conflict (id) do nothing returning {}",
            project(self.dialect(), "projects")
        );
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .bind(organization_id)
            .bind(name)
            .bind(now)
            .fetch_optional(conn)
            .await)?)
    }

    async fn update_project(
        &mut self,
        id: Uuid,
        organization_id: Uuid,
        name: &str,
        may_use: Option<&HashSet<Uuid>>,
        now: DateTime<Utc>,
    ) -> Result<Option<TargetInfo>> {
        let ours = match may_use {
            Some(_) => {
                let rows = unfold(self.dialect(), TARGET_ID).replace("$1", "$5");
                format!("projects.organization_id in (select r.target_id from {rows})")
            }
            None => "$5 = $5".to_owned(),
        };
        let text = format!(
            "update projects set organization_id = $2, name = $3, updated_at = $4
             where id = $1 and deleted_at is null and {ours} and exists (
                 select 1 from organizations o where o.id = projects.organization_id and o.deleted_at is null)
             returning {}",
            project(self.dialect(), "projects")
        );
        let ids: Vec<Uuid> = may_use.into_iter().flatten().copied().collect();
        let ids = target_ids(&ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .bind(organization_id)
            .bind(name)
            .bind(now)
            .bind(ids)
            .fetch_optional(conn)
            .await)?)
    }

    /// The organization of a project, deleted or not, and whether one of the two is deleted.
    async fn home_of_project(&mut self, id: Uuid) -> Result<Option<(Uuid, bool)>> {
        Ok(on_conn!(self, |conn| sqlx::query_as(
            "select p.organization_id, p.deleted_at is not null or o.deleted_at is not null
             from projects p join organizations o on o.id = p.organization_id where p.id = $1"
        )
        .bind(id)
        .fetch_optional(conn)
        .await)?)
    }

    /// The organizations of these projects, except deleted projects. Locks the projects, so that they can't be moved or
    /// deleted before this transaction ends. In the order of their ids, as every transaction that locks several.
    pub async fn hold_projects(&mut self, ids: &[Uuid]) -> Result<HashMap<Uuid, Uuid>> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        // Without a join: with one, a project that was moved while this waited for its lock would be missing.
        let text = format!(
            "select id, organization_id from projects
             where deleted_at is null and id in (select r.target_id from {}) order by id {}",
            unfold(self.dialect(), TARGET_ID),
            held(self.dialect())
        );
        let ids = target_ids(ids)?;
        let organizations_of: Vec<(Uuid, Uuid)> =
            on_conn!(self, |conn| sqlx::query_as(sql(text)).bind(ids).fetch_all(conn).await)?;
        Ok(organizations_of.into_iter().collect())
    }

    /// These candidates with the current organization of each project, in which the project stays until this
    /// transaction ends: the membership is given in that one. Candidates for projects that were deleted in the meantime
    /// are left out.
    pub async fn hold_targets(&mut self, waiting: &[&InviteCandidate]) -> Result<Vec<InviteCandidate>> {
        let projects: Vec<Uuid> = waiting.iter().filter_map(|waiting| waiting.invite.project_id).collect();
        let organizations_of = self.hold_projects(&projects).await?;
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
        let ids = target_ids(&wanted.iter().copied().collect::<Vec<_>>())?;
        let wanted_ids = unfold(self.dialect(), TARGET_ID);
        for (table, lock) in [("organizations", "key share"), ("projects", "share")] {
            let text = format!(
                "select id from {table} where id in (select r.target_id from {wanted_ids})
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

    /// The people among these who are members of one of these organizations, or of a project of one.
    pub async fn people_within(&mut self, admins: &[Uuid], organizations: &HashSet<Uuid>) -> Result<HashSet<Uuid>> {
        if admins.is_empty() {
            return Ok(HashSet::new());
        }
        let people = unfold(self.dialect(), &[("admin_id", Type::Uuid)]);
        let ours = unfold(self.dialect(), TARGET_ID).replace("$1", "$2");
        let text = format!(
            "select m.admin_id from organization_users m
             where m.deleted_at is null and m.admin_id in (select r.admin_id from {people})
               and m.organization_id in (select r.target_id from {ours})
             union
             select m.admin_id from project_admins m join projects p on p.id = m.project_id and p.deleted_at is null
             where m.deleted_at is null and m.admin_id in (select r.admin_id from {people})
               and p.organization_id in (select r.target_id from {ours})"
        );
        let people = super::people::admin_ids(admins)?;
        let ours: Vec<Uuid> = organizations.iter().copied().collect();
        let ours = target_ids(&ours)?;
        let within: Vec<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(people)
            .bind(ours)
            .fetch_all(conn)
            .await)?;
        Ok(within.into_iter().collect())
    }

    /// The organizations among these ids that exist.
    pub async fn organizations(&mut self, ids: &[Uuid]) -> Result<Vec<TargetInfo>> {
        let rows = unfold(self.dialect(), TARGET_ID);
        let text = format!(
            "select {} from organizations
             where deleted_at is null and id in (select r.target_id from {rows})",
            organization(self.dialect())
        );
        let ids = target_ids(ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// The projects among these ids that exist, in organizations that exist.
    pub async fn projects(&mut self, ids: &[Uuid]) -> Result<Vec<TargetInfo>> {
        let rows = unfold(self.dialect(), TARGET_ID);
        let text = format!(
            "select {} from projects p
             join organizations o on o.id = p.organization_id and o.deleted_at is null
             where p.deleted_at is null and p.id in (select r.target_id from {rows})",
            project(self.dialect(), "p")
        );
        let ids = target_ids(ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// Gives memberships in organizations, at most one grant per person and organization.
    pub async fn grant_in_organizations(&mut self, grants: &[Grant], order: &RoleOrder) -> Result<()> {
        self.grant(&ORGANIZATION_USERS, grants, order).await
    }

    /// Gives memberships in projects, at most one grant per person and project.
    pub async fn grant_in_projects(&mut self, grants: &[Grant], order: &RoleOrder) -> Result<()> {
        self.grant(&PROJECT_ADMINS, grants, order).await
    }

    /// Adds, restores or raises memberships; never lowers one.
    async fn grant(&mut self, kind: &Memberships, grants: &[Grant], order: &RoleOrder) -> Result<()> {
        if grants.is_empty() {
            return Ok(());
        }
        let mut rows: Vec<_> = grants
            .iter()
            .map(|grant| GrantRow {
                membership_id: self.clock.new_id(),
                target_id: grant.target_id,
                admin_id: grant.admin_id,
                role: &grant.role,
            })
            .collect();
        // Always in this order, so that processes can't deadlock.
        rows.sort_by_key(|row| (row.target_id, row.admin_id));
        let source = unfold(
            self.dialect(),
            &[
                ("membership_id", Type::Uuid),
                ("target_id", Type::Uuid),
                ("admin_id", Type::Uuid),
                ("role", Type::Text),
            ],
        );
        let Memberships { table, target } = kind;
        let held = rank(order, &format!("{table}.role"));
        let given = rank(order, "excluded.role");
        // On Postgres an app's table may have ids of another type, or none: the column's default fills them.
        let (id, new_id) = match self.dialect() {
            Dialect::Postgres => ("", ""),
            Dialect::Sqlite => ("id, ", "r.membership_id, "),
        };
        let text = format!(
            "insert into {table} ({id}{target}, admin_id, role, created_at, updated_at)
             select {new_id}r.target_id, r.admin_id, r.role, $2, $2 from {source} where true
             on conflict ({target}, admin_id) do update
                 set role = excluded.role, updated_at = excluded.updated_at, deleted_at = null
             where {table}.deleted_at is not null or {given} > {held}"
        );
        let rows = to_json(&rows)?;
        let now = self.clock.now();
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(rows)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// The members of an organization in the order of their ids: at most `limit` after `after`.
    pub async fn organization_members(&mut self, id: Uuid, after: Option<Uuid>, limit: u32) -> Result<Vec<Member>> {
        self.members(&ORGANIZATION_USERS, id, after, limit).await
    }

    /// The members of a project in the order of their ids: at most `limit` after `after`.
    pub async fn project_members(&mut self, id: Uuid, after: Option<Uuid>, limit: u32) -> Result<Vec<Member>> {
        self.members(&PROJECT_ADMINS, id, after, limit).await
    }

    /// In the order of the unique key of memberships, which every such table has, the app's too: the cost of a page
    /// does not depend on the number of members.
    async fn members(&mut self, kind: &Memberships, id: Uuid, after: Option<Uuid>, limit: u32) -> Result<Vec<Member>> {
        let Memberships { table, target } = kind;
        let since = app_time(self.dialect(), "m.created_at");
        let beyond = match after {
            Some(_) => "and m.admin_id > $3",
            None => "and $3 = $3",
        };
        let text = format!(
            "select a.id as admin_id, a.external_id as clerk_user_id, a.email, a.first_name, a.last_name,
                 coalesce(m.role, '') as role, {since} as since
             from {table} m join admins a on a.id = m.admin_id and a.deleted_at is null
             where m.{target} = $1 and m.deleted_at is null {beyond}
             order by m.{target}, m.admin_id limit $2"
        );
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .bind(i64::from(limit))
            .bind(after.unwrap_or_default())
            .fetch_all(conn)
            .await)?)
    }

    /// The memberships of these people in organizations.
    pub async fn organization_memberships(&mut self, admins: &[Uuid]) -> Result<Vec<Membership>> {
        self.memberships(&ORGANIZATION_USERS, admins).await
    }

    /// The memberships of these people in projects.
    pub async fn project_memberships(&mut self, admins: &[Uuid]) -> Result<Vec<Membership>> {
        self.memberships(&PROJECT_ADMINS, admins).await
    }

    async fn memberships(&mut self, kind: &Memberships, admins: &[Uuid]) -> Result<Vec<Membership>> {
        let Memberships { table, target } = kind;
        let rows = unfold(self.dialect(), &[("admin_id", Type::Uuid)]);
        let text = format!(
            "select m.{target} as target_id, m.admin_id, coalesce(m.role, '') as role from {table} m
             join admins a on a.id = m.admin_id and a.deleted_at is null
             where m.deleted_at is null and m.admin_id in (select r.admin_id from {rows})"
        );
        let admins = super::people::admin_ids(admins)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(admins)
            .fetch_all(conn)
            .await)?)
    }
}

const TARGET_ID: &[(&str, Type)] = &[("target_id", Type::Uuid)];

/// Locks the rows until the transaction ends. SQLite has one writer at a time.
fn held(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "for share",
        Dialect::Sqlite => "",
    }
}

fn target_ids(ids: &[Uuid]) -> Result<String> {
    let rows: Vec<_> = ids.iter().map(|&target_id| TargetId { target_id }).collect();
    to_json(&rows)
}

/// The columns of a [`TargetInfo`] that is an organization.
fn organization(dialect: Dialect) -> String {
    let (created_at, updated_at) = (app_time(dialect, "created_at"), app_time(dialect, "updated_at"));
    format!(
        "id, id as organization_id, coalesce(name, '') as name, {created_at} as created_at, {updated_at} as updated_at"
    )
}

/// The columns of a [`TargetInfo`] that is a project.
fn project(dialect: Dialect, p: &str) -> String {
    let created_at = app_time(dialect, &format!("{p}.created_at"));
    let updated_at = app_time(dialect, &format!("{p}.updated_at"));
    format!(
        "{p}.id, {p}.organization_id, coalesce({p}.name, '') as name, {created_at} as created_at,
         {updated_at} as updated_at"
    )
}

/// A role's rank as SQL. An unknown name ranks highest, because usher does not change what it does not know. No name
/// ranks lowest.
fn rank(order: &RoleOrder, column: &str) -> String {
    let mut text = format!("case coalesce({column}, '') when '' then -1");
    for (rank, name) in order.names().iter().enumerate() {
        text.push_str(&format!(" when '{name}' then {rank}"));
    }
    text.push_str(&format!(" else {} end", order.names().len()));
    text
}
