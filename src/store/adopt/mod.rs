//! Taking a database over that already is the app's: its tables are made fit for usher, in steps that hold locks for a
//! moment only and can be taken again; rows that are there are filled in afterwards. Nothing is dropped or renamed.

mod backfill;
mod plan;
mod schema;

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::settings::{Identities, Rules};
pub(super) use backfill::{count_missing, fill};
pub(super) use plan::{Step, plan};
pub(super) use schema::{APP_TABLES, Schema};

/// How long a statement of ours waits for a lock of the app's, and how long the app's may queue behind it. Less than
/// Postgres waits before it looks for deadlocks (1 s): it is never the app that is chosen to fail.
pub(super) const LOCK_TIMEOUT: &str = "set lock_timeout = '500ms'";
/// After so many tries, with a pause after each, somebody has to look.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);

/// Whether the statement gave way to somebody else and may just be tried again.
pub(super) fn gave_way(error: &sqlx::Error) -> bool {
    // A lock not had in time; a deadlock; a row deleted while its membership was being written.
    matches!(error, sqlx::Error::Database(error)
        if matches!(error.code().as_deref(), Some("55P03" | "40P01" | "23503")))
}

/// Tries until it works, while all that is in the way is a lock of somebody else's.
pub(super) async fn retry_on_lock_timeout<T, E>(
    conn: &mut PgConnection,
    mut attempt: impl AsyncFnMut(&mut PgConnection) -> Result<T, E>,
    gave_way: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 1..TRIES {
        match attempt(conn).await {
            Err(error) if gave_way(&error) => {
                tracing::info!("a table is locked; retrying");
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
    attempt(conn).await
}

/// Takes one step.
pub(super) async fn take(conn: &mut PgConnection, step: &Step) -> sqlx::Result<()> {
    for statement in &step.statements {
        // Building an index beside the app's writes waits for the app's transactions, holding none of them up.
        let timeout = if statement.contains(" concurrently ") {
            "set lock_timeout = 0"
        } else {
            LOCK_TIMEOUT
        };
        sqlx::raw_sql(timeout).execute(&mut *conn).await?;
        let run = async |conn: &mut PgConnection| {
            sqlx::raw_sql(AssertSqlSafe(statement.clone()))
                .execute(conn)
                .await
                .map(drop)
        };
        retry_on_lock_timeout(conn, run, gave_way).await?;
    }
    sqlx::raw_sql(LOCK_TIMEOUT).execute(conn).await.map(drop)
}

/// What the app says of its tables and columns.
#[derive(sqlx::FromRow)]
struct Remark {
    /// `table admins` or `column admins.email`.
    object: String,
    is_deprecated: bool,
    text: String,
}

/// What the app's own comments say, before ours would take their place.
pub(super) async fn remarks(conn: &mut PgConnection) -> sqlx::Result<Remarks> {
    let found = sqlx::query_as(
        "select case d.objsubid when 0 then format('table %I', c.relname)
                    else format('column %I.%I', c.relname, a.attname) end as object,
             c.relname = 'admins' and coalesce(a.attname = 'organization_id', false) as is_deprecated,
             d.description as text
         from pg_description d
         join pg_class c on c.oid = d.objoid and d.classoid = 'pg_class'::regclass
         join pg_namespace n on n.oid = c.relnamespace and n.nspname = current_schema()
         left join pg_attribute a on a.attrelid = c.oid and a.attnum = d.objsubid and d.objsubid > 0
         where c.relname = any ($1)",
    )
    .bind(APP_TABLES)
    .fetch_all(conn)
    .await?;
    Ok(Remarks(found))
}

/// Comments to be given back.
pub(super) struct Remarks(Vec<Remark>);

impl Remarks {
    /// Gives the app its comments back; of the deprecated column, ours goes first.
    pub(super) async fn restore(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        for Remark {
            object,
            is_deprecated,
            text,
        } in &self.0
        {
            let text = if *is_deprecated {
                format!("Deprecated: membership lives in organization_users. Before that: {text}")
            } else {
                text.clone()
            };
            let quoted: String = sqlx::query_scalar("select quote_literal($1)")
                .bind(text)
                .fetch_one(&mut *conn)
                .await?;
            sqlx::raw_sql(AssertSqlSafe(format!("comment on {object} is {quoted}")))
                .execute(&mut *conn)
                .await?;
        }
        Ok(())
    }
}

/// Puts the mirror of identities on or off, as configured, and takes over those that are there.
pub(super) async fn mirror_identities(conn: &mut PgConnection, rules: &Rules) -> sqlx::Result<()> {
    let is_on: bool = sqlx::query_scalar(
        "select exists (select from pg_trigger where tgname = 'usher_note_identity' and tgrelid = 'admins'::regclass)",
    )
    .fetch_one(&mut *conn)
    .await?;
    let statements: &'static str = match (&rules.identities, is_on) {
        (Identities::Table { .. }, false) => {
            "create trigger usher_mirror_identity after insert or update or delete on admin_identities
                 for each row execute function usher_mirror_identity();
             create trigger usher_note_identity after insert or update of external_id on admins
                 for each row when (new.external_id is not null) execute function usher_note_identity()"
        }
        (Identities::ExternalId, true) => {
            "drop trigger usher_note_identity on admins; drop trigger usher_mirror_identity on admin_identities"
        }
        _ => "",
    };
    let run = async |conn: &mut PgConnection| {
        let mut tx = conn.begin().await?;
        sqlx::raw_sql(statements).execute(&mut *tx).await?;
        tx.commit().await
    };
    retry_on_lock_timeout(conn, run, gave_way).await
}
