//! Organizations and projects that the app creates, renames or moves.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{TargetInfo, held, organization, project};
use crate::app_id::AppId;
use crate::store::rows::{IdRow, Row as _, Time, among, ids_json, in_order_of_id, sql};
use crate::store::{AppRefusal, Result, Tx, on_conn};

/// The result of putting an organization or a project.
#[derive(Debug, Clone, PartialEq)]
pub enum Put {
    Made(TargetInfo),
    /// It existed, and is now as requested.
    Changed(TargetInfo),
    /// Nothing was changed.
    Refused(PutRefusal),
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutRefusal {
    /// The project is in an organization that the caller may not use: to the caller it does not exist.
    Foreign,
    /// The organization for the project does not exist, or the caller may not use it.
    UnknownOrganization,
    /// The organization is deleted. Only the app can restore it.
    OrganizationDeleted,
    /// The project, or its organization, is deleted. Only the app can restore it.
    ProjectDeleted,
    /// The app's own table does not take it.
    App(AppRefusal),
}

impl Tx {
    /// Creates or renames an organization. A deleted one is not changed.
    pub async fn put_organization(&mut self, id: &AppId, name: &str) -> Result<Put> {
        if self.is_shared {
            let savepoint = self.savepoint().await?;
            let put = self.put_organization_of_app(id.key(), name).await;
            let put = self.keep(savepoint, put).await?;
            return Ok(put.unwrap_or_else(|refusal| Put::Refused(PutRefusal::App(refusal))));
        }
        self.keep_spelling(id).await?;
        let id = id.key();
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
        id: &AppId,
        organization_id: Uuid,
        name: &str,
        may_use: Option<&HashSet<Uuid>>,
    ) -> Result<Put> {
        self.keep_spelling(id).await?;
        let id = id.key();
        let now = self.clock.now();
        let is_ours = |organization: &Uuid| may_use.is_none_or(|may_use| may_use.contains(organization));
        let is_deleted = if is_ours(&organization_id) {
            self.lock_organization(organization_id).await?
        } else {
            None
        };
        if is_deleted == Some(false) {
            let savepoint = self.savepoint().await?;
            let saved = self.save_project(id, organization_id, name, may_use, now).await;
            match self.keep(savepoint, saved).await? {
                Ok(Some(put)) => return Ok(put),
                Ok(None) => {}
                Err(refusal) => return Ok(Put::Refused(PutRefusal::App(refusal))),
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

    /// `None` if it is deleted, or in an organization that the caller may not use.
    async fn save_project(
        &mut self,
        id: Uuid,
        organization_id: Uuid,
        name: &str,
        may_use: Option<&HashSet<Uuid>>,
        now: DateTime<Utc>,
    ) -> Result<Option<Put>> {
        let made = self.insert_project(id, organization_id, name, now).await?;
        if let Some(target) = made {
            return Ok(Some(Put::Made(target)));
        }
        let changed = self.update_project(id, organization_id, name, may_use, now).await?;
        let Some(target) = changed else { return Ok(None) };
        self.move_invites(id, organization_id).await?;
        Ok(Some(Put::Changed(target)))
    }

    /// An app's organization is renamed if there is a column for its name.
    async fn put_organization_of_app(&mut self, id: Uuid, name: &str) -> Result<Put> {
        let now = Time(self.clock.now());
        let fields = json!({ "id": id, "name": name, "created_at": now, "updated_at": now });
        let made = self.insert_into_app("organizations", &fields).await?;
        if !made {
            let fields = json!({ "name": name, "updated_at": now });
            self.update_app("organizations", "id = any ($1)", &[id], &fields)
                .await?;
        }
        let target = self.organizations(&[id]).await?.pop();
        Ok(match target {
            Some(target) if made => Put::Made(target),
            Some(target) => Put::Changed(target),
            None => Put::Refused(PutRefusal::OrganizationDeleted),
        })
    }

    /// A project's invites are listed where the project is.
    async fn move_invites(&mut self, project_id: Uuid, organization_id: Uuid) -> Result<()> {
        let these = format!(
            "select id from invites where project_id = $1 and organization_id <> $2 {}",
            in_order_of_id(self.dialect())
        );
        let text = format!(
            "update invites set organization_id = $2 where {}",
            among(self.dialect(), "id", &these)
        );
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(project_id)
            .bind(organization_id)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Keeps how the app spells an id that is no UUID.
    async fn keep_spelling(&mut self, id: &AppId) -> Result<()> {
        let Some(spelling) = id.spelling() else { return Ok(()) };
        let text = "insert into usher_app_ids (key, app_id) values ($1, $2) on conflict (key) do nothing";
        let (key, spelling) = (id.key(), spelling.to_owned());
        on_conn!(self, |conn| sqlx::query(text)
            .bind(key)
            .bind(spelling)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Whether an organization is deleted, if it exists. Locks it, so that it can't be deleted before this transaction
    /// ends; SQLite has only one writer.
    async fn lock_organization(&mut self, id: Uuid) -> Result<Option<bool>> {
        let text = format!(
            "select not ({}) from organizations where id = $1 {}",
            self.is_live("organizations"),
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
        if self.is_shared {
            let now = Time(now);
            let fields = json!({ "id": id, "organization_id": organization_id, "name": name, "created_at": now, "updated_at": now });
            let made = self.insert_into_app("projects", &fields).await?;
            return Ok(if made { self.projects(&[id]).await?.pop() } else { None });
        }
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
        if self.is_shared {
            let now = Time(now);
            let fields = json!({ "organization_id": organization_id, "name": name, "updated_at": now });
            let mut which = "id = $1[1] and exists (select from usher_organizations o
                 where o.id = projects.organization_id and o.deleted_at is null)"
                .to_owned();
            if may_use.is_some() {
                which.push_str(" and organization_id = any ($1[2:])");
            }
            let ids: Vec<Uuid> = std::iter::once(id)
                .chain(may_use.into_iter().flatten().copied())
                .collect();
            let changed = self.update_app("projects", &which, &ids, &fields).await?;
            return Ok(if changed.is_empty() {
                None
            } else {
                self.projects(&[id]).await?.pop()
            });
        }
        let ours = match may_use {
            Some(_) => {
                let rows = IdRow::unfold_from(self.dialect(), "$5");
                format!("projects.organization_id in (select r.id from {rows})")
            }
            None => "$5 = $5".to_owned(),
        };
        let text = format!(
            "update projects set organization_id = $2, name = $3, updated_at = $4
             where id = $1 and deleted_at is null and {ours} and exists (
                 select 1 from usher_organizations o where o.id = projects.organization_id and o.deleted_at is null)
             returning {}",
            project(self.dialect(), "projects")
        );
        let ids: Vec<Uuid> = may_use.into_iter().flatten().copied().collect();
        let ids = ids_json(&ids)?;
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
             from usher_projects p join usher_organizations o on o.id = p.organization_id where p.id = $1"
        )
        .bind(id)
        .fetch_optional(conn)
        .await)?)
    }
}
