//! Organizations and projects that the app creates, renames or moves.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{TARGET_ID, TargetInfo, held, organization, project, target_ids};
use crate::app_id::AppId;
use crate::store::rows::{among, in_order_of_id, sql, unfold};
use crate::store::{Result, Tx, on_conn};

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

impl Tx {
    /// Creates or renames an organization. A deleted one is not changed.
    pub async fn put_organization(&mut self, id: &AppId, name: &str) -> Result<Put> {
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
            let made = self.insert_project(id, organization_id, name, now).await?;
            if let Some(target) = made {
                return Ok(Put::Made(target));
            }
            let changed = self.update_project(id, organization_id, name, may_use, now).await?;
            if let Some(target) = changed {
                self.move_invites(id, organization_id).await?;
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
}
