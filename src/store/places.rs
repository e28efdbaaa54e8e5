//! Organizations, projects, and who is in them: the tables that the app may own.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::rows::{Type, app_time, sql, to_json, unfold};
use super::{Dialect, Result, Tx, on_conn};
use crate::invites::roles::Ladder;

/// An organization or a project that is there.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Place {
    /// Its id.
    pub id: Uuid,
    /// The organization itself, or the project's.
    pub organization_id: Uuid,
    /// What people call it.
    pub name: String,
    /// When the row was made.
    pub created_at: DateTime<Utc>,
    /// When the row last changed.
    pub updated_at: DateTime<Utc>,
}

/// A membership to give: a role for a person in an organization or a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The organization or the project.
    pub place_id: Uuid,
    /// The person.
    pub admin_id: Uuid,
    /// The role; what they hold already is never lowered.
    pub role: String,
}

/// Somebody in an organization or a project.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Member {
    /// Their `admins.id`.
    pub admin_id: Uuid,
    /// Their Clerk user id.
    pub clerk_user_id: Option<String>,
    /// Their main address.
    pub email: Option<String>,
    /// First name.
    pub first_name: Option<String>,
    /// Last name.
    pub last_name: Option<String>,
    /// Their role.
    pub role: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// A live membership.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Membership {
    /// The organization or the project.
    pub place_id: Uuid,
    /// The person.
    pub admin_id: Uuid,
    /// The role.
    pub role: String,
}

#[derive(Serialize)]
struct GrantRow<'a> {
    membership_id: Uuid,
    place_id: Uuid,
    admin_id: Uuid,
    role: &'a str,
}

#[derive(Serialize)]
struct PlaceId {
    place_id: Uuid,
}

/// The two membership tables differ in their names only.
struct Memberships {
    table: &'static str,
    place: &'static str,
}

const ORGANIZATION_USERS: Memberships = Memberships {
    table: "organization_users",
    place: "organization_id",
};
const PROJECT_ADMINS: Memberships = Memberships {
    table: "project_admins",
    place: "project_id",
};

impl Tx {
    /// Creates or renames an organization; a deleted one comes back.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn put_organization(&mut self, id: Uuid, name: &str) -> Result<Place> {
        let now = self.clock.now();
        let text = format!(
            "insert into organizations (id, name, created_at, updated_at) values ($1, $2, $3, $3)
             on conflict (id) do update
                 set name = excluded.name, updated_at = excluded.updated_at, deleted_at = null
             returning {}",
            organization(self.dialect())
        );
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .bind(name)
            .bind(now)
            .fetch_one(conn)
            .await)?)
    }

    /// Creates, renames or moves a project; a deleted one comes back. `None` if there is no such organization.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn put_project(&mut self, id: Uuid, organization_id: Uuid, name: &str) -> Result<Option<Place>> {
        let now = self.clock.now();
        let text = format!(
            "insert into projects (id, organization_id, name, created_at, updated_at)
             select $1, id, $3, $4, $4 from organizations where id = $2 and deleted_at is null
             on conflict (id) do update set organization_id = excluded.organization_id, name = excluded.name,
                 updated_at = excluded.updated_at, deleted_at = null
             returning {}",
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

    /// Those of these organizations that are there.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn organizations(&mut self, ids: &[Uuid]) -> Result<Vec<Place>> {
        let rows = unfold(self.dialect(), &[("place_id", Type::Uuid)]);
        let text = format!(
            "select {} from organizations
             where deleted_at is null and id in (select r.place_id from {rows})",
            organization(self.dialect())
        );
        let ids = place_ids(ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// The organization that a project belongs to, or belonged to when it or its organization was deleted: whoever
    /// brings it back must be allowed to.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn project_home(&mut self, id: Uuid) -> Result<Option<Uuid>> {
        Ok(on_conn!(self, |conn| sqlx::query_scalar(
            "select organization_id from projects where id = $1"
        )
        .bind(id)
        .fetch_optional(conn)
        .await)?)
    }

    /// Those of these projects that are there, in organizations that are there.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn projects(&mut self, ids: &[Uuid]) -> Result<Vec<Place>> {
        let rows = unfold(self.dialect(), &[("place_id", Type::Uuid)]);
        let text = format!(
            "select {} from projects p
             join organizations o on o.id = p.organization_id and o.deleted_at is null
             where p.deleted_at is null and p.id in (select r.place_id from {rows})",
            project(self.dialect(), "p")
        );
        let ids = place_ids(ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// Makes people members of organizations, at most one grant per person and organization.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn grant_in_organizations(&mut self, grants: &[Grant], ladder: &Ladder) -> Result<()> {
        self.grant(&ORGANIZATION_USERS, grants, ladder).await
    }

    /// Makes people members of projects, at most one grant per person and project.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn grant_in_projects(&mut self, grants: &[Grant], ladder: &Ladder) -> Result<()> {
        self.grant(&PROJECT_ADMINS, grants, ladder).await
    }

    /// Adds, revives or raises memberships; never lowers one.
    async fn grant(&mut self, kind: &Memberships, grants: &[Grant], ladder: &Ladder) -> Result<()> {
        if grants.is_empty() {
            return Ok(());
        }
        let mut rows: Vec<_> = grants
            .iter()
            .map(|grant| GrantRow {
                membership_id: self.clock.new_id(),
                place_id: grant.place_id,
                admin_id: grant.admin_id,
                role: &grant.role,
            })
            .collect();
        // One order for everybody who writes memberships: no deadlocks between processes.
        rows.sort_by_key(|row| (row.place_id, row.admin_id));
        let source = unfold(
            self.dialect(),
            &[
                ("membership_id", Type::Uuid),
                ("place_id", Type::Uuid),
                ("admin_id", Type::Uuid),
                ("role", Type::Text),
            ],
        );
        let Memberships { table, place } = kind;
        let held = rank(ladder, &format!("{table}.role"));
        let given = rank(ladder, "excluded.role");
        // On Postgres an app's table may have ids of another kind, or none: the database gives them.
        let (id, new_id) = match self.dialect() {
            Dialect::Postgres => ("", ""),
            Dialect::Sqlite => ("id, ", "r.membership_id, "),
        };
        let text = format!(
            "insert into {table} ({id}{place}, admin_id, role, created_at, updated_at)
             select {new_id}r.place_id, r.admin_id, r.role, $2, $2 from {source} where true
             on conflict ({place}, admin_id) do update
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

    /// The live members of an organization, longest first.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn organization_members(&mut self, id: Uuid) -> Result<Vec<Member>> {
        self.members(&ORGANIZATION_USERS, id).await
    }

    /// The live members of a project, longest first.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn project_members(&mut self, id: Uuid) -> Result<Vec<Member>> {
        self.members(&PROJECT_ADMINS, id).await
    }

    async fn members(&mut self, kind: &Memberships, id: Uuid) -> Result<Vec<Member>> {
        let Memberships { table, place } = kind;
        let since = app_time(self.dialect(), "m.created_at");
        let text = format!(
            "select a.id as admin_id, a.external_id as clerk_user_id, a.email, a.first_name, a.last_name,
                 coalesce(m.role, '') as role, {since} as since
             from {table} m join admins a on a.id = m.admin_id and a.deleted_at is null
             where m.{place} = $1 and m.deleted_at is null
             order by m.created_at, a.id"
        );
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .fetch_all(conn)
            .await)?)
    }

    /// What these people hold in organizations, live memberships only.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn organization_memberships(&mut self, admins: &[Uuid]) -> Result<Vec<Membership>> {
        self.memberships(&ORGANIZATION_USERS, admins).await
    }

    /// What these people hold in projects, live memberships only.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn project_memberships(&mut self, admins: &[Uuid]) -> Result<Vec<Membership>> {
        self.memberships(&PROJECT_ADMINS, admins).await
    }

    async fn memberships(&mut self, kind: &Memberships, admins: &[Uuid]) -> Result<Vec<Membership>> {
        let Memberships { table, place } = kind;
        let rows = unfold(self.dialect(), &[("admin_id", Type::Uuid)]);
        let text = format!(
            "select m.{place} as place_id, m.admin_id, coalesce(m.role, '') as role from {table} m
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

fn place_ids(ids: &[Uuid]) -> Result<String> {
    let rows: Vec<_> = ids.iter().map(|&place_id| PlaceId { place_id }).collect();
    to_json(&rows)
}

/// The columns of a [`Place`], of an organization.
fn organization(dialect: Dialect) -> String {
    let (created_at, updated_at) = (app_time(dialect, "created_at"), app_time(dialect, "updated_at"));
    format!(
        "id, id as organization_id, coalesce(name, '') as name, {created_at} as created_at, {updated_at} as updated_at"
    )
}

/// The columns of a [`Place`], of a project.
fn project(dialect: Dialect, p: &str) -> String {
    let created_at = app_time(dialect, &format!("{p}.created_at"));
    let updated_at = app_time(dialect, &format!("{p}.updated_at"));
    format!(
        "{p}.id, {p}.organization_id, coalesce({p}.name, '') as name, {created_at} as created_at,
         {updated_at} as updated_at"
    )
}

/// A role's rank as SQL. A name that is not on the ladder ranks highest: usher doesn't touch what it doesn't know. No
/// name at all ranks lowest.
fn rank(ladder: &Ladder, column: &str) -> String {
    let mut text = format!("case coalesce({column}, '') when '' then -1");
    for (rank, name) in ladder.names().iter().enumerate() {
        text.push_str(&format!(" when '{name}' then {rank}"));
    }
    text.push_str(&format!(" else {} end", ladder.names().len()));
    text
}
