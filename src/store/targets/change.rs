//! Memberships that the app or the person sets and ends, and organizations and projects that end.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::members::{Memberships, ORGANIZATION_USERS, PROJECT_ADMINS, memberships};
use super::{Grant, Membership};
use crate::invites::{PersonRef, Target};
use crate::store::people::NewPerson;
use crate::store::rows::{IdRow, Row as _, TextRow, Time, ids_json, row, sql, texts_json, to_json};
use crate::store::{Dialect, EventType, NewAdmin, Result, Subject, Tx, on_conn};

/// Somebody who is to be a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberPerson {
    /// The `admins.id`.
    Known(Uuid),
    /// Banned, locked or deleted in Clerk, or the app has cut the link to this Clerk account.
    Blocked,
}

row! {
    struct Pair {
        target_id: Uuid,
        admin_id: Uuid,
    }
}

fn pairs(pairs: impl Iterator<Item = (Uuid, Uuid)>) -> Result<String> {
    let mut rows: Vec<_> = pairs
        .map(|(target_id, admin_id)| Pair { target_id, admin_id })
        .collect();
    // Always in this order, so that processes can't deadlock.
    rows.sort_by_key(|row| (row.target_id, row.admin_id));
    to_json(&rows)
}

/// The person of the row `a` in `usher_admins` can act in the app, as far as Clerk has told.
const NOT_BANNED: &str = "not exists (select 1 from usher_people p where p.clerk_user_id = a.external_id and p.banned)";

impl Tx {
    /// Locks organizations until this transaction ends, for decisions about their members. Who is accepted meanwhile
    /// does not wait: it takes nobody's role away.
    pub async fn lock_members_of(&mut self, organizations: &[Uuid]) -> Result<()> {
        if organizations.is_empty() || self.dialect() == Dialect::Sqlite {
            return Ok(());
        }
        let rows = IdRow::unfold(self.dialect());
        let text =
            format!("select id from organizations where id in (select r.id from {rows}) order by id for no key update");
        let ids = ids_json(organizations)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(ids)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// The holders of a role in each of these organizations, without those who are deleted or banned in Clerk.
    pub async fn holders(&mut self, organizations: &[Uuid], role: &str) -> Result<HashMap<Uuid, HashSet<Uuid>>> {
        let rows = IdRow::unfold(self.dialect());
        let text = format!(
            "select m.organization_id, m.admin_id from organization_users m
             join usher_admins a on a.id = m.admin_id and a.deleted_at is null
             where m.deleted_at is null and m.role = $2 and m.organization_id in (select r.id from {rows})
                 and {NOT_BANNED}"
        );
        let ids = ids_json(organizations)?;
        let role = role.to_owned();
        let found: Vec<(Uuid, Uuid)> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .bind(role)
            .fetch_all(conn)
            .await)?;
        let mut holders: HashMap<Uuid, HashSet<Uuid>> = HashMap::new();
        for (organization_id, admin_id) in found {
            holders.entry(organization_id).or_default().insert(admin_id);
        }
        Ok(holders)
    }

    /// Tells of those among these organizations in which no member has this role any more.
    pub async fn tell_of_ownerless(&mut self, organizations: &[Uuid], role: &str) -> Result<()> {
        if organizations.is_empty() {
            return Ok(());
        }
        let holders = self.holders(organizations, role).await?;
        for &id in organizations.iter().filter(|id| !holders.contains_key(id)) {
            self.tell_of_organization(
                EventType::OrganizationOwnerless,
                id,
                &serde_json::json!({ "role": role }),
            );
        }
        Ok(())
    }

    /// The organizations in which these people have a role, by their Clerk user ids. Not of those who are banned already.
    pub async fn organizations_held_by(&mut self, clerk_user_ids: &[&str], role: &str) -> Result<Vec<Uuid>> {
        if clerk_user_ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = TextRow::unfold(self.dialect());
        let text = format!(
            "select distinct m.organization_id from {rows}
             join usher_admins a on a.external_id = r.text and a.deleted_at is null
             join organization_users m on m.admin_id = a.id and m.deleted_at is null and m.role = $2
             where {NOT_BANNED} order by m.organization_id"
        );
        let ids = texts_json(clerk_user_ids)?;
        let role = role.to_owned();
        Ok(on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(ids)
            .bind(role)
            .fetch_all(conn)
            .await)?)
    }

    /// The people with these Clerk user ids. They get rows in `admins`, each for the organization and role named with them; the
    /// names and addresses of people that Clerk has not reported yet are filled in when it does.
    pub async fn people_to_be_members(
        &mut self,
        wanted: &HashMap<&str, (Uuid, &str)>,
    ) -> Result<HashMap<String, MemberPerson>> {
        let clerk_user_ids = &wanted.keys().copied().collect::<Vec<_>>()[..];
        if clerk_user_ids.is_empty() {
            return Ok(HashMap::new());
        }
        let (mut added, mut blocked) = (Vec::new(), HashSet::new());
        for (user_id, person_id, is_blocked) in self.make_people_known(clerk_user_ids).await? {
            if is_blocked {
                blocked.insert(user_id);
            } else if let Some(&(organization_id, role)) = wanted.get(user_id.as_str()) {
                added.push(NewAdmin {
                    person_id,
                    organization_id,
                    role: role.to_owned(),
                });
            }
        }
        self.add_to_admins(&added).await?;
        let named: Vec<PersonRef> = clerk_user_ids
            .iter()
            .map(|&id| PersonRef::Clerk(id.to_owned()))
            .collect();
        let linked = self.live_people(&named).await?;
        let person = |named: PersonRef| {
            let PersonRef::Clerk(id) = &named else { return None };
            let known = linked.get(&named).filter(|_| !blocked.contains(id));
            let person = known.map_or(MemberPerson::Blocked, |&admin_id| MemberPerson::Known(admin_id));
            Some((id.clone(), person))
        };
        Ok(named.into_iter().filter_map(person).collect())
    }

    /// Rows in `usher_people`, which stay locked: they decide which of two transactions makes those in `admins`. Returns the
    /// Clerk user id and usher's of each person, and whether they are banned, locked or deleted.
    async fn make_people_known(&mut self, clerk_user_ids: &[&str]) -> Result<Vec<(String, Uuid, bool)>> {
        let (columns, source) = (NewPerson::columns(), NewPerson::unfold(self.dialect()));
        let ids = self.new_people(clerk_user_ids)?;
        let text = format!(
            "insert into usher_people ({columns}) select r.* from {source} where true
             on conflict (clerk_user_id) do update set id = usher_people.id
             returning clerk_user_id, id, banned or locked or deleted_at is not null"
        );
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// Gives these roles, also lower ones, at most one per person and target.
    pub async fn set_memberships(&mut self, organizations: &[Grant], projects: &[Grant]) -> Result<()> {
        for (kind, grants) in [(&ORGANIZATION_USERS, organizations), (&PROJECT_ADMINS, projects)] {
            self.upsert_memberships(kind, grants, "true").await?;
        }
        Ok(())
    }

    /// Ends somebody's membership; whether there was one.
    pub async fn end_membership(&mut self, target: Target, admin_id: Uuid) -> Result<bool> {
        let (kind, id) = memberships(target);
        let Memberships { table, target, .. } = kind;
        let touch = self.times_of(table).await?.touch("$3");
        let text = format!(
            "update {table} set deleted_at = $3{touch}
             where {target} = $1 and admin_id = $2 and deleted_at is null
             returning {target} as target_id, admin_id, coalesce(role, '') as role"
        );
        let now = self.clock.now();
        let ended: Option<Membership> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .bind(admin_id)
            .bind(now)
            .fetch_optional(conn)
            .await)?;
        if let Some(membership) = &ended {
            self.tell_of_membership(EventType::MembershipRemoved, kind.is_project, membership);
        }
        Ok(ended.is_some())
    }

    /// The projects of an organization in which somebody has a role.
    pub async fn projects_within(&mut self, organization_id: Uuid, admin_id: Uuid) -> Result<Vec<Uuid>> {
        let text = "select m.project_id from project_admins m join usher_projects p on p.id = m.project_id
                    where m.admin_id = $2 and m.deleted_at is null and p.organization_id = $1 order by m.project_id";
        Ok(on_conn!(self, |conn| sqlx::query_scalar(text)
            .bind(organization_id)
            .bind(admin_id)
            .fetch_all(conn)
            .await)?)
    }

    /// The open invites to verified addresses of people, each to one target.
    pub async fn open_invites_of(&mut self, members: &[(Target, Uuid)]) -> Result<Vec<Uuid>> {
        let mut by_kind: BTreeMap<&str, Vec<(Uuid, Uuid)>> = BTreeMap::new();
        for &(target, admin_id) in members {
            let (_, id) = memberships(target);
            by_kind.entry(target.kind().as_str()).or_default().push((id, admin_id));
        }
        let mut open = Vec::new();
        for (kind, theirs) in by_kind {
            let rows = Pair::unfold(self.dialect());
            let text = format!(
                "select i.id from {rows} join usher_admins m on m.id = r.admin_id
                 join usher_people p on p.clerk_user_id = m.external_id
                 join usher_addresses a on a.person_id = p.id and a.verified
                 join invites i on i.target_id = r.target_id and i.kind = '{kind}' and i.email_key = a.email_key
                     and i.status in ('pending', 'expired')"
            );
            let theirs = pairs(theirs.into_iter())?;
            let found: Vec<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
                .bind(theirs)
                .fetch_all(conn)
                .await)?;
            open.extend(found);
        }
        Ok(open)
    }

    /// Ends an organization or a project: its open invites, its memberships and, of an organization, its projects.
    /// `false` if it never was there, or not in an organization that the caller may use. What is deleted stays so.
    pub async fn end_target(&mut self, target: Target, may_use: Option<&HashSet<Uuid>>) -> Result<bool> {
        let (Memberships { target: column, .. }, id) = memberships(target);
        // In the order of locks: targets, invites, memberships.
        let (own, projects) = match target {
            Target::Organization(_) => ("organizations", "organization_id = $1"),
            Target::Project(_) => ("projects", "id = $1"),
        };
        if !self.is_usable(own, id, may_use).await? {
            return Ok(false);
        }
        if !self.end(own, "id = $1", id).await? {
            return Ok(true);
        }
        self.end("projects", projects, id).await?;
        let its_projects = format!("project_id in (select id from projects where {projects})");
        let open = format!(
            "select id from invites where status in ('pending', 'expired') and ({column} = $1 or {its_projects})"
        );
        let open: Vec<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(open))
            .bind(id)
            .fetch_all(conn)
            .await)?;
        self.revoke_invites(&open).await?;
        self.end_memberships_in(&PROJECT_ADMINS, &its_projects, id).await?;
        let deleted = serde_json::json!({ "deleted": true });
        match target {
            Target::Organization(_) => {
                self.end_memberships_in(&ORGANIZATION_USERS, "organization_id = $1", id)
                    .await?;
                self.tell_of_organization(EventType::OrganizationDeleted, id, &deleted);
            }
            Target::Project(_) => {
                let subject = Subject {
                    project_id: Some(id),
                    ..Subject::default()
                };
                self.record_outgoing(EventType::ProjectDeleted, subject, &deleted);
            }
        }
        Ok(true)
    }

    async fn end_memberships_in(&mut self, kind: &Memberships, which: &str, id: Uuid) -> Result<()> {
        let Memberships { table, target, .. } = kind;
        let touch = self.times_of(table).await?.touch("$2");
        let text = format!(
            "update {table} set deleted_at = $2{touch} where deleted_at is null and {which}
             returning {target} as target_id, admin_id, coalesce(role, '') as role"
        );
        let now = self.clock.now();
        let ended: Vec<Membership> = on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .bind(now)
            .fetch_all(conn)
            .await)?;
        for membership in &ended {
            self.tell_of_membership(EventType::MembershipRemoved, kind.is_project, membership);
        }
        Ok(())
    }

    async fn is_usable(&mut self, table: &str, id: Uuid, may_use: Option<&HashSet<Uuid>>) -> Result<bool> {
        let (organization_id, lock) = match (table, self.dialect()) {
            ("organizations", Dialect::Postgres) => ("id", "for no key update"),
            ("organizations", Dialect::Sqlite) => ("id", ""),
            (_, Dialect::Postgres) => ("organization_id", "for no key update"),
            (_, Dialect::Sqlite) => ("organization_id", ""),
        };
        let text = format!("select {organization_id} from {table} where id = $1 {lock}");
        let found: Option<Uuid> = on_conn!(self, |conn| sqlx::query_scalar(sql(text))
            .bind(id)
            .fetch_optional(conn)
            .await)?;
        Ok(found.is_some_and(|organization| may_use.is_none_or(|may_use| may_use.contains(&organization))))
    }

    async fn end(&mut self, table: &str, which: &str, id: Uuid) -> Result<bool> {
        if self.is_shared {
            let now = Time(self.clock.now());
            let fields = serde_json::json!({ "deleted_at": now, "updated_at": now });
            let which = which.replace("$1", "$1[1]");
            let ended = self.update_app(table, &which, &[id], &fields).await?;
            return Ok(!ended.is_empty());
        }
        let text = format!("update {table} set deleted_at = $2, updated_at = $2 where deleted_at is null and {which}");
        let now = self.clock.now();
        let ended = on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(id)
            .bind(now)
            .execute(conn)
            .await?
            .rows_affected());
        Ok(ended > 0)
    }
}
