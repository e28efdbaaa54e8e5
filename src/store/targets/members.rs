//! Members of organizations and projects.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::spelling;
use crate::invites::Target;
use crate::invites::roles::RoleOrder;
use crate::store::rows::{IdRow, Row as _, ids_json, row, sql, to_json};
use crate::store::{Dialect, EventType, Result, Tx, on_conn};

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

/// Which members of a target.
#[derive(Debug, Clone, Copy)]
pub enum MemberPage {
    First,
    /// Those after this `admins.id`.
    After(Uuid),
    /// This one.
    Only(Uuid),
}

/// A membership with the names of its target.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct MembershipView {
    /// The organization, or the project's.
    pub organization_id: Uuid,
    pub organization_name: String,
    /// How the app spells the organization's id, if it is no UUID.
    pub organization_spelling: Option<String>,
    pub project_id: Option<Uuid>,
    pub project_name: Option<String>,
    pub project_spelling: Option<String>,
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

row! {
    struct GrantRow<'a> {
        membership_id: Uuid,
        target_id: Uuid,
        admin_id: Uuid,
        role: &'a str,
    }
}

/// The two membership tables differ only in their names.
pub(super) struct Memberships {
    pub table: &'static str,
    pub target: &'static str,
    pub is_project: bool,
}

pub(super) const ORGANIZATION_USERS: Memberships = Memberships {
    table: "organization_users",
    target: "organization_id",
    is_project: false,
};
pub(super) const PROJECT_ADMINS: Memberships = Memberships {
    table: "project_admins",
    target: "project_id",
    is_project: true,
};

pub(super) const fn memberships(target: Target) -> (&'static Memberships, Uuid) {
    match target {
        Target::Organization(id) => (&ORGANIZATION_USERS, id),
        Target::Project(id) => (&PROJECT_ADMINS, id),
    }
}

impl Tx {
    /// The people among these who are members of one of these organizations, or of a project of one.
    pub async fn people_within(&mut self, admins: &[Uuid], organizations: &HashSet<Uuid>) -> Result<HashSet<Uuid>> {
        if admins.is_empty() {
            return Ok(HashSet::new());
        }
        let people = IdRow::unfold(self.dialect());
        let ours = IdRow::unfold_from(self.dialect(), "$2");
        let text = format!(
            "select m.admin_id from organization_users m
             where m.deleted_at is null and m.admin_id in (select r.id from {people})
               and m.organization_id in (select r.id from {ours})
             union
             select m.admin_id from project_admins m join usher_projects p on p.id = m.project_id and p.deleted_at is null
             where m.deleted_at is null and m.admin_id in (select r.id from {people})
               and p.organization_id in (select r.id from {ours})"
        );
        let people = ids_json(admins)?;
        let ours: Vec<Uuid> = organizations.iter().copied().collect();
        let ours = ids_json(&ours)?;
        let within: Vec<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(people)
            .bind(ours)
            .fetch_all(conn)
            .await)?;
        Ok(within.into_iter().collect())
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
        let held = rank(order, &format!("{}.role", kind.table));
        let given = rank(order, "excluded.role");
        self.upsert_memberships(kind, grants, &format!("{given} > {held}"))
            .await
    }

    /// Adds and restores memberships, and changes the role of those where `changes` is true.
    pub(super) async fn upsert_memberships(
        &mut self,
        kind: &Memberships,
        grants: &[Grant],
        changes: &str,
    ) -> Result<()> {
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
        let source = GrantRow::unfold(self.dialect());
        let Memberships { table, target, .. } = kind;
        // On Postgres an app's table may have ids of another type, or none: the column's default fills them.
        let (id, new_id) = match self.dialect() {
            Dialect::Postgres => ("", ""),
            Dialect::Sqlite => ("id, ", "r.membership_id, "),
        };
        let times = self.times_of(table).await?;
        let (mut columns, mut values) = (String::new(), String::new());
        for (column, is_there) in [("created_at", times.created), ("updated_at", times.updated)] {
            if is_there {
                columns.push_str(&format!(", {column}"));
                values.push_str(", $2");
            }
        }
        let touch = times.touch("$2");
        // For Postgres, which must know the parameter's type though no column takes it.
        let given = if self.is_shared {
            "$2::timestamptz is not null"
        } else {
            "true"
        };
        let text = format!(
            "insert into {table} ({id}{target}, admin_id, role{columns})
             select {new_id}r.target_id, r.admin_id, r.role{values} from {source} where {given}
             on conflict ({target}, admin_id) do update set role = excluded.role, deleted_at = null{touch}
             where {table}.deleted_at is not null or {changes}
             returning {target} as target_id, admin_id, role"
        );
        let before: HashSet<(Uuid, Uuid)> = self.live(kind, &rows).await?.into_iter().collect();
        let rows = to_json(&rows)?;
        let now = self.clock.now();
        let granted: Vec<Membership> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        for membership in &granted {
            let event_type = if before.contains(&(membership.target_id, membership.admin_id)) {
                EventType::MembershipUpdated
            } else {
                EventType::MembershipCreated
            };
            self.tell_of_membership(event_type, kind.is_project, membership);
        }
        Ok(())
    }

    /// The target and the person of those among these memberships that are live.
    async fn live(&mut self, kind: &Memberships, rows: &[GrantRow<'_>]) -> Result<Vec<(Uuid, Uuid)>> {
        let Memberships { table, target, .. } = kind;
        let source = GrantRow::unfold(self.dialect());
        let text = format!(
            "select m.{target}, m.admin_id from {source}
             join {table} m on m.{target} = r.target_id and m.admin_id = r.admin_id where m.deleted_at is null"
        );
        let rows = to_json(rows)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .fetch_all(conn)
            .await)?)
    }

    /// Ends all memberships of people, given as the rows of [`ids_json`].
    pub(in crate::store) async fn end_memberships(&mut self, admins: &str) -> Result<()> {
        let now = self.clock.now();
        for kind in [&ORGANIZATION_USERS, &PROJECT_ADMINS] {
            let Memberships { table, target, .. } = kind;
            let touch = self.times_of(table).await?.touch("$2");
            let text = format!(
                "update {table} set deleted_at = $2{touch}
                 where deleted_at is null and admin_id in (select r.id from {})
                 returning {target} as target_id, admin_id, coalesce(role, '') as role",
                IdRow::unfold(self.dialect())
            );
            let ended: Vec<Membership> = on_conn!(self, |conn| sqlx::query_as(sql(text))
                .bind(admins)
                .bind(now)
                .fetch_all(conn)
                .await)?;
            for membership in &ended {
                self.tell_of_membership(EventType::MembershipRemoved, kind.is_project, membership);
            }
        }
        Ok(())
    }

    /// Members, at most `limit`, in the order of the unique key of memberships, which every such table has, the app's
    /// too: the cost of a page does not depend on the number of members.
    pub async fn members(
        &mut self,
        target: Target,
        page: MemberPage,
        role: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Member>> {
        let (Memberships { table, target, .. }, id) = memberships(target);
        let since = self.since();
        let (page, person) = match page {
            MemberPage::First => ("$3 = $3", Uuid::nil()),
            MemberPage::After(id) => ("m.admin_id > $3", id),
            MemberPage::Only(id) => ("m.admin_id = $3", id),
        };
        let with_role = role.map_or("$4 = $4", |_| "m.role = $4");
        let text = format!(
            "select a.id as admin_id, a.external_id as clerk_user_id, a.email, a.first_name, a.last_name,
                 coalesce(m.role, '') as role, {since} as since
             from {table} m join usher_admins a on a.id = m.admin_id and a.deleted_at is null
             where m.{target} = $1 and m.deleted_at is null and {page} and {with_role}
             order by m.{target}, m.admin_id limit $2"
        );
        let role = role.unwrap_or_default().to_owned();
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .bind(i64::from(limit))
            .bind(person)
            .bind(role)
            .fetch_all(conn)
            .await)?)
    }

    /// What somebody is a member of: organizations and projects that exist, 1,000 at most.
    pub async fn memberships_of(&mut self, admin_id: Uuid) -> Result<Vec<MembershipView>> {
        let since = self.since();
        let (organization, project) = (spelling("o.id"), spelling("p.id"));
        let text = format!(
            "select * from (
                 select {organization} as organization_spelling, null as project_spelling, o.id as organization_id,
                     coalesce(o.name, '') as organization_name, null as project_id, null as project_name, coalesce(m.role, '') as role, {since} as since
                 from organization_users m join usher_organizations o on o.id = m.organization_id and o.deleted_at is null
                 where m.admin_id = $1 and m.deleted_at is null
                 union all
                 select {organization}, {project}, o.id, coalesce(o.name, ''), p.id, coalesce(p.name, ''), coalesce(m.role, ''), {since}
                 from project_admins m join usher_projects p on p.id = m.project_id and p.deleted_at is null
                 join usher_organizations o on o.id = p.organization_id and o.deleted_at is null
                 where m.admin_id = $1 and m.deleted_at is null
             ) memberships order by organization_id, project_id is not null, project_id limit 1000"
        );
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(admin_id)
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
        let Memberships { table, target, .. } = kind;
        let rows = IdRow::unfold(self.dialect());
        let text = format!(
            "select m.{target} as target_id, m.admin_id, coalesce(m.role, '') as role from {table} m
             join usher_admins a on a.id = m.admin_id and a.deleted_at is null
             where m.deleted_at is null and m.admin_id in (select r.id from {rows})"
        );
        let admins = ids_json(admins)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(admins)
            .fetch_all(conn)
            .await)?)
    }
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
