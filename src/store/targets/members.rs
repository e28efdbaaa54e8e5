//! Members of organizations and projects.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{TARGET_ID, target_ids};
use crate::invites::roles::RoleOrder;
use crate::store::people::admin_ids;
use crate::store::rows::{Type, app_time, sql, to_json, unfold};
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

/// The two membership tables differ only in their names.
struct Memberships {
    table: &'static str,
    target: &'static str,
    is_project: bool,
}

const ORGANIZATION_USERS: Memberships = Memberships {
    table: "organization_users",
    target: "organization_id",
    is_project: false,
};
const PROJECT_ADMINS: Memberships = Memberships {
    table: "project_admins",
    target: "project_id",
    is_project: true,
};

impl Tx {
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
        let people = admin_ids(admins)?;
        let ours: Vec<Uuid> = organizations.iter().copied().collect();
        let ours = target_ids(&ours)?;
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
        let Memberships { table, target, .. } = kind;
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
             where {table}.deleted_at is not null or {given} > {held}
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
        let source = unfold(self.dialect(), &[("target_id", Type::Uuid), ("admin_id", Type::Uuid)]);
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

    /// Ends all memberships of people, given as the rows of [`admin_ids`].
    pub(in crate::store) async fn end_memberships(&mut self, admins: &str) -> Result<()> {
        let now = self.clock.now();
        for kind in [&ORGANIZATION_USERS, &PROJECT_ADMINS] {
            let Memberships { table, target, .. } = kind;
            let text = format!(
                "update {table} set deleted_at = $2, updated_at = $2
                 where deleted_at is null and admin_id in (select r.admin_id from {})
                 returning {target} as target_id, admin_id, coalesce(role, '') as role",
                unfold(self.dialect(), &[("admin_id", Type::Uuid)])
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
        let Memberships { table, target, .. } = kind;
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
        let Memberships { table, target, .. } = kind;
        let rows = unfold(self.dialect(), &[("admin_id", Type::Uuid)]);
        let text = format!(
            "select m.{target} as target_id, m.admin_id, coalesce(m.role, '') as role from {table} m
             join admins a on a.id = m.admin_id and a.deleted_at is null
             where m.deleted_at is null and m.admin_id in (select r.admin_id from {rows})"
        );
        let admins = admin_ids(admins)?;
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
