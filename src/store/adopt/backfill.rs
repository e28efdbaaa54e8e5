//! Fills in rows that existed before usher: memberships from `admins.organization_id`, identities from
//! `admin_identities`. It works in batches; each is a short transaction that stores how far it came. The triggers exist
//! by then, and what they wrote in the meantime is newer, so the backfill does not overwrite it.

use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::super::migrate::OnProgress;
use super::super::settings::{Identities, Rules};
use super::{gave_way, retry_on_lock_timeout};

/// People per batch.
const BATCH: i64 = 5_000;

/// One kind of backfill. `$1` is where the last batch ended, `$2` how many people to read. Returns where this batch
/// ended and how many rows it wrote.
struct Backfill {
    name: &'static str,
    text: &'static str,
}

const MEMBERSHIPS: Backfill = Backfill {
    name: "organization_users",
    text: "with batch as (
               select id, organization_id, role::text as role, deleted_at from admins
               where ($1::uuid is null or id > $1) order by id limit $2
           ), filled as (
               insert into organization_users (organization_id, admin_id, role, created_at, updated_at)
               select o.id, b.id, coalesce(b.role, s.organization_roles[1]), now(), now()
               from batch b join organizations o on o.id = b.organization_id cross join usher_settings s
               where b.deleted_at is null
               on conflict (organization_id, admin_id) do nothing returning 1
           )
           select (select id from batch order by id desc limit 1), (select count(*) from filled)",
};

const IDENTITIES: Backfill = Backfill {
    name: "admin_identities",
    text: "with batch as (
               select id from admins where ($1::uuid is null or id > $1) order by id limit $2
           ), filled as (
               update admins a set external_id = usher_subject_of(a.id)
               from batch b where a.id = b.id and a.external_id is null and usher_subject_of(a.id) is not null
               returning 1
           )
           select (select id from batch order by id desc limit 1), (select count(*) from filled)",
};

/// Fills in the missing rows. An interrupted run continues where it stopped.
pub(in crate::store) async fn fill(
    conn: &mut PgConnection,
    rules: &Rules,
    on_progress: &OnProgress<'_>,
) -> sqlx::Result<()> {
    MEMBERSHIPS.run(conn, on_progress).await?;
    match rules.identities {
        Identities::Table { .. } => IDENTITIES.run(conn, on_progress).await,
        Identities::ExternalId => Ok(()),
    }
}

/// How many memberships are missing, from the app's tables as they are.
pub(in crate::store) async fn count_missing(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from admins a join organizations o on o.id = a.organization_id
         where coalesce(to_jsonb(a) ->> 'deleted_at', '') = ''",
    )
    .fetch_one(conn)
    .await
}

impl Backfill {
    async fn run(&self, conn: &mut PgConnection, on_progress: &OnProgress<'_>) -> sqlx::Result<()> {
        let (mut written, mut read, mut people) = (0, 0, None);
        while let Some(rows) = retry_on_lock_timeout(conn, async |conn| self.batch(conn).await, gave_way).await? {
            written += rows;
            let all: i64 = match people {
                Some(all) => all,
                // Only where there is something to do.
                None => {
                    sqlx::query_scalar("select count(*) from admins")
                        .fetch_one(&mut *conn)
                        .await?
                }
            };
            people = Some(all);
            read = all.min(read + BATCH);
            on_progress(self.name, read.unsigned_abs(), all.unsigned_abs());
        }
        if written > 0 {
            tracing::info!("{}: {written} existing rows adopted", self.name);
        }
        Ok(())
    }

    /// Runs one batch; `None` when all is done.
    async fn batch(&self, conn: &mut PgConnection) -> sqlx::Result<Option<i64>> {
        let mut tx = conn.begin().await?;
        let state: Option<(Option<Uuid>, bool)> =
            sqlx::query_as("select reached, finished_at is not null from usher_backfills where name = $1")
                .bind(self.name)
                .fetch_optional(&mut *tx)
                .await?;
        let (reached, is_finished) = state.unwrap_or_default();
        if is_finished {
            return Ok(None);
        }
        let (end, written): (Option<Uuid>, i64) = sqlx::query_as(self.text)
            .bind(reached)
            .bind(BATCH)
            .fetch_one(&mut *tx)
            .await?;
        sqlx::query(
            "insert into usher_backfills as b (name, reached, finished_at)
             values ($1, $2, case when $2 is null then now() end)
             on conflict (name) do update set reached = coalesce(excluded.reached, b.reached),
                 finished_at = excluded.finished_at",
        )
        .bind(self.name)
        .bind(end)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(end.map(|_| written))
    }
}
