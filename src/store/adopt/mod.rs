//! Adopting a database that belongs to the app: its tables are changed to what usher needs, in steps that hold locks
//! only briefly and can be repeated; existing rows are filled in afterwards. Nothing is dropped or renamed.

mod backfill;
mod conflicts;
mod plan;
mod schema;

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::settings::{Identities, Rules};
pub(super) use backfill::{count_missing, fill};
pub(super) use plan::{Step, plan};
pub(super) use schema::{APP_TABLES, Schema};

/// What usher can't work with in the app's tables after they were adopted, as sentences.
pub(super) async fn later_problems(
    conn: &mut PgConnection,
    app_schema: &str,
    rules: &Rules,
) -> sqlx::Result<Vec<String>> {
    let schema = Schema::read(conn, app_schema, rules, true).await?;
    let mut found = plan::problems(&schema, rules);
    found.extend(conflicts::roles(conn, app_schema, rules).await?);
    Ok(found)
}

/// How long usher's statements wait for the app's locks, and how long the app's statements may queue behind them. Less
/// than Postgres's `deadlock_timeout` (1 s), so Postgres never aborts the app's transaction.
pub(super) const LOCK_TIMEOUT: &str = "set lock_timeout = '400ms'";
/// After so many attempts, with a pause after each, the run fails and an operator has to look.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);

/// Whether the statement failed because of another transaction and may be retried.
pub(super) fn gave_way(error: &sqlx::Error) -> bool {
    // A lock timeout; a deadlock; a row that was deleted while its membership was written.
    matches!(error, sqlx::Error::Database(error)
        if matches!(error.code().as_deref(), Some("55P03" | "40P01" | "23503")))
}

/// Retries while another transaction's lock is the only problem.
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

/// How long a statement may wait. `concurrently` waits for the app's transactions, but blocks none of them.
pub(super) fn lock_timeout(statement: &str) -> &'static str {
    if statement.contains(" concurrently ") {
        "set lock_timeout = 0"
    } else {
        LOCK_TIMEOUT
    }
}

/// Runs one step.
pub(super) async fn take(conn: &mut PgConnection, step: &Step) -> sqlx::Result<()> {
    for statement in &step.statements {
        sqlx::raw_sql(lock_timeout(statement)).execute(&mut *conn).await?;
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

/// The app's comment on a table or column.
#[derive(sqlx::FromRow)]
struct Remark {
    /// `table admins` or `column admins.email`.
    object: String,
    is_deprecated: bool,
    text: String,
}

/// Reads the app's own comments before usher's comments replace them.
pub(super) async fn remarks(conn: &mut PgConnection, app_schema: &str) -> sqlx::Result<Remarks> {
    let found = sqlx::query_as(
        "select case d.objsubid when 0 then format('table %I', c.relname)
                    else format('column %I.%I', c.relname, a.attname) end as object,
             c.relname = 'admins' and coalesce(a.attname = 'organization_id', false) as is_deprecated,
             d.description as text
         from pg_description d
         join pg_class c on c.oid = d.objoid and d.classoid = 'pg_class'::regclass
         join pg_namespace n on n.oid = c.relnamespace and n.nspname = $2
         left join pg_attribute a on a.attrelid = c.oid and a.attnum = d.objsubid and d.objsubid > 0
         where c.relname = any ($1)",
    )
    .bind(APP_TABLES)
    .bind(app_schema)
    .fetch_all(conn)
    .await?;
    Ok(Remarks(found))
}

pub(super) struct Remarks(Vec<Remark>);

impl Remarks {
    /// Restores the app's comments; on the deprecated column, usher's comment comes first.
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

/// Switches the mirror of identities on or off, as configured, and says whether it changed something.
pub(super) async fn mirror_identities(conn: &mut PgConnection, rules: &Rules) -> sqlx::Result<bool> {
    let is_on: bool = sqlx::query_scalar(
        "select exists (select from pg_trigger where tgname = 'usher_note_identity' and tgrelid = 'admins'::regclass)",
    )
    .fetch_one(&mut *conn)
    .await?;
    let statements: &'static str = match (&rules.identities, is_on) {
        (Identities::Table { .. }, false) => {
            "create trigger usher_mirror_identity after insert or update or delete on admin_identities
                 for each row execute function usher_mirror_identity();
             create trigger usher_note_identity after insert or update on admins
                 for each row execute function usher_note_identity()"
        }
        (Identities::ExternalId, true) => {
            "drop trigger usher_note_identity on admins; drop trigger usher_mirror_identity on admin_identities"
        }
        _ => return Ok(false),
    };
    let run = async |conn: &mut PgConnection| {
        let mut tx = conn.begin().await?;
        sqlx::raw_sql(statements).execute(&mut *tx).await?;
        tx.commit().await
    };
    retry_on_lock_timeout(conn, run, gave_way).await?;
    Ok(true)
}
