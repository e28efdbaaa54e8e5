//! Takes usher out of a Postgres database again: `usher migrate --remove`. What the database had before usher is noted by the first
//! migration (`migrate/before.sql`); this leads back to it.

use sqlx::{AssertSqlSafe, PgConnection};

use super::migrate::{MigrationError, Planned, Validation, lock_out};
use super::{Pool, Store, quoted};

/// A process that has written its heartbeat this recently is running, in seconds.
const HEARTBEAT: f64 = 60.0;

/// A table of the app's schema that usher works with.
#[derive(sqlx::FromRow)]
struct Table {
    name: String,
    was_there: bool,
    comment: Option<String>,
    had_comment: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Column {
    table_name: String,
    name: String,
    was_there: bool,
    has_default: bool,
    had_default: bool,
    comment: Option<String>,
    had_comment: Option<String>,
}

/// The app's tables and what they were like before, as `tables`; `$1` is the app's schema.
const TABLES: &str = "
    with before as (select picture from usher.usher_before),
    tables as (
        select c.oid, c.relname::text as name, picture -> 'tables' ? c.relname as was_there,
            obj_description(c.oid, 'pg_class') as comment, picture -> 'tables' -> c.relname ->> 'comment' as had_comment
        from before cross join pg_class c
        join pg_namespace n on n.oid = c.relnamespace and n.nspname = $1
        where c.relkind in ('r', 'p') and c.relname in
            ('organizations', 'projects', 'admins', 'organization_users', 'project_admins', 'invites', 'admin_identities'))";
/// In the order in which nothing refers to them any more.
const ORDER: &str =
    "array_position(array['invites', 'project_admins', 'organization_users', 'projects', 'admins'], name)";

impl Store {
    /// What [`Store::remove`] would do now, in order. Changes nothing.
    ///
    /// # Errors
    /// On SQLite, without usher's schema, and while usher runs.
    pub async fn plan_removal(&self) -> Result<Vec<Planned>, MigrationError> {
        let mut tx = self.postgres()?.begin().await?;
        let steps = self.removal(&mut tx).await?;
        tx.rollback().await?;
        Ok(steps)
    }

    /// Takes usher out of the database, in one transaction.
    ///
    /// # Errors
    /// As [`Store::plan_removal`]; and when a table is locked. Nothing is changed then.
    pub async fn remove(&self) -> Result<Vec<Planned>, MigrationError> {
        let mut tx = self.postgres()?.begin().await?;
        let steps = self.removal(&mut tx).await?;
        for step in steps.iter().filter(|step| !step.sql.is_empty()) {
            sqlx::raw_sql(AssertSqlSafe(step.sql.clone())).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(steps)
    }

    fn postgres(&self) -> Result<&sqlx::PgPool, MigrationError> {
        match &self.pool {
            Pool::Postgres(pool) => Ok(pool),
            Pool::Sqlite { .. } => Err(Validation::OwnFile.into()),
        }
    }

    async fn removal(&self, conn: &mut PgConnection) -> Result<Vec<Planned>, MigrationError> {
        let is_noted: bool = sqlx::query_scalar("select to_regclass('usher.usher_before') is not null")
            .fetch_one(&mut *conn)
            .await?;
        if !is_noted {
            return Err(Validation::NotHere.into());
        }
        if is_running(conn).await? || !lock_out(conn).await? {
            return Err(Validation::Running.into());
        }
        let tables: i64 = sqlx::query_scalar(
            "select count(*) from pg_class where relnamespace = 'usher'::regnamespace and relkind in ('r', 'p')",
        )
        .fetch_one(&mut *conn)
        .await?;
        // First, because its functions use the table of invites; the triggers go with them.
        let mut steps = vec![Planned::new(
            format!("drop the schema usher with its {tables} tables, functions and views"),
            "drop schema usher cascade",
        )];
        if let Some(app_schema) = &self.layout.app_schema {
            steps.extend(from_the_app(conn, app_schema).await?);
        }
        steps.extend(from_the_queue(conn).await?);
        Ok(steps)
    }
}

async fn is_running(conn: &mut PgConnection) -> sqlx::Result<bool> {
    let has_workers: bool = sqlx::query_scalar("select to_regclass('apalis.workers') is not null")
        .fetch_one(&mut *conn)
        .await?;
    if !has_workers {
        return Ok(false);
    }
    sqlx::query_scalar(
        "select exists (select from apalis.workers
             where worker_type like 'usher:%' and last_seen > now() - $1 * interval '1 second')",
    )
    .bind(HEARTBEAT)
    .fetch_one(conn)
    .await
}

/// What usher added to the app's tables, and changed of them.
async fn from_the_app(conn: &mut PgConnection, app_schema: &str) -> sqlx::Result<Vec<Planned>> {
    let schema = quoted(app_schema);
    let mut steps = Vec::new();
    for (kind, names) in [
        (
            "trigger",
            "select t.tgname::text, c.relname::text from pg_trigger t join pg_class c on c.oid = t.tgrelid
             join pg_namespace n on n.oid = c.relnamespace and n.nspname = $1
             where not t.tgisinternal and t.tgname like 'usher\\_%' order by 2, 1",
        ),
        (
            "index",
            "select i.relname::text, c.relname::text from pg_index x join pg_class i on i.oid = x.indexrelid
             join pg_class c on c.oid = x.indrelid join pg_namespace n on n.oid = c.relnamespace and n.nspname = $1
             where i.relname like 'usher\\_%' and not exists (select from pg_constraint where conindid = i.oid) order by 2, 1",
        ),
    ] {
        let found: Vec<(String, String)> = sqlx::query_as(names).bind(app_schema).fetch_all(&mut *conn).await?;
        for (name, table) in found {
            let object = match kind {
                "trigger" => format!("{} on {schema}.{}", quoted(&name), quoted(&table)),
                _ => format!("{schema}.{}", quoted(&name)),
            };
            steps.push(Planned::new(
                format!("drop the {kind} {name} on {table}"),
                format!("drop {kind} if exists {object}"),
            ));
        }
    }
    let text = format!("{TABLES} select name, was_there, comment, had_comment from tables order by {ORDER} nulls last");
    let tables: Vec<Table> = sqlx::query_as(AssertSqlSafe(text))
        .bind(app_schema)
        .fetch_all(&mut *conn)
        .await?;
    for table in &tables {
        let full = format!("{schema}.{}", quoted(&table.name));
        if table.was_there {
            if table.comment != table.had_comment {
                steps.push(comment("table", &full, &table.name, table.had_comment.as_deref()));
            }
        } else {
            let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {full}")))
                .fetch_one(&mut *conn)
                .await?;
            steps.push(Planned::new(
                format!("drop the table {}, which usher made, with {rows} rows", table.name),
                format!("drop table {full}"),
            ));
        }
    }
    for column in columns(conn, app_schema).await? {
        steps.extend(column.removals(&schema));
    }
    Ok(steps)
}

/// The columns of the tables that were there.
async fn columns(conn: &mut PgConnection, app_schema: &str) -> sqlx::Result<Vec<Column>> {
    let text = format!(
        "{TABLES}
         select t.name as table_name, a.attname::text as name, was is not null as was_there, a.atthasdef as has_default,
             coalesce((was ->> 'has_default')::boolean, false) as had_default, col_description(t.oid, a.attnum) as comment,
             was ->> 'comment' as had_comment
         from tables t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
         cross join before cross join lateral (select picture -> 'columns' -> (t.name || '.' || a.attname)) as w (was)
         where t.was_there and (was is not null or a.attname in ('id', 'external_id', 'email', 'first_name', 'last_name',
             'image_url', 'role', 'name', 'organization_id', 'created_at', 'updated_at', 'deleted_at'))
         order by 1, 2"
    );
    sqlx::query_as(AssertSqlSafe(text))
        .bind(app_schema)
        .fetch_all(conn)
        .await
}

impl Column {
    fn removals(&self, schema: &str) -> Vec<Planned> {
        let table = format!("{schema}.{}", quoted(&self.table_name));
        let (name, column) = (format!("{}.{}", self.table_name, self.name), quoted(&self.name));
        if !self.was_there {
            return vec![Planned::new(
                format!("drop the column {name}, which usher added"),
                format!("alter table {table} drop column {column}"),
            )];
        }
        let mut steps = Vec::new();
        if self.has_default && !self.had_default {
            steps.push(Planned::new(
                format!("take the default of {name} away, which usher set"),
                format!("alter table {table} alter column {column} drop default"),
            ));
        }
        if self.comment != self.had_comment {
            steps.push(comment(
                "column",
                &format!("{table}.{column}"),
                &name,
                self.had_comment.as_deref(),
            ));
        }
        steps
    }
}

fn comment(kind: &str, object: &str, name: &str, was: Option<&str>) -> Planned {
    let text = was.map_or_else(|| "null".to_owned(), |was| format!("'{}'", was.replace('\'', "''")));
    let said = if was.is_some() { "bring back" } else { "remove" };
    Planned::new(
        format!("{said} the comment on {kind} {name}"),
        format!("comment on {kind} {object} is {text}"),
    )
}

/// usher's queues. An apalis that was there before usher stays, as it was.
async fn from_the_queue(conn: &mut PgConnection) -> sqlx::Result<Vec<Planned>> {
    let (had, had_hstore): (Option<sqlx::types::Json<Vec<String>>>, bool) = sqlx::query_as(
        "select nullif(picture -> 'apalis', 'null'), coalesce((picture ->> 'hstore')::boolean, false) from usher.usher_before",
    )
    .fetch_one(&mut *conn)
    .await?;
    let has_queue: bool = sqlx::query_scalar("select to_regclass('apalis.jobs') is not null")
        .fetch_one(&mut *conn)
        .await?;
    if !has_queue {
        return Ok(Vec::new());
    }
    let (ours, others): (i64, i64) = sqlx::query_as(
        "select count(*) filter (where job_type like 'usher:%'), count(*) filter (where job_type not like 'usher:%')
         from apalis.jobs",
    )
    .fetch_one(&mut *conn)
    .await?;
    let mut steps = Vec::new();
    if had.is_none() && others == 0 {
        steps.push(Planned::new(
            format!("drop the schema apalis with {ours} jobs of usher's"),
            "drop schema apalis cascade",
        ));
        if !had_hstore && !is_hstore_used(conn).await? {
            steps.push(Planned::new(
                "drop the extension hstore, which usher made",
                "drop extension hstore",
            ));
        }
        return Ok(steps);
    }
    steps.push(Planned::new(
        format!("delete usher's {ours} jobs and its workers from the schema apalis, which others use, too"),
        "delete from apalis.jobs where job_type like 'usher:%'; delete from apalis.workers where worker_type like 'usher:%'",
    ));
    let mut restore = String::from(
        "drop trigger usher_tell_of_jobs on apalis.jobs; drop trigger usher_leave_others_notified on apalis.jobs;
         drop function apalis.usher_tell_of_jobs;
         drop index apalis.usher_jobs_held, apalis.usher_jobs_done, apalis.usher_jobs_dead, apalis.usher_jobs_with_error,
             apalis.usher_jobs_idempotency_key;
         alter table apalis.jobs reset (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor)",
    );
    for definition in had.map(|had| had.0).unwrap_or_default() {
        restore.push_str("; ");
        restore.push_str(&definition);
    }
    steps.push(Planned::new("bring apalis's own indexes and trigger back", restore));
    Ok(steps)
}

/// By a column, of anything but apalis's tables.
async fn is_hstore_used(conn: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from pg_attribute a join pg_class c on c.oid = a.attrelid
             join pg_type t on t.oid = a.atttypid
             where t.typname in ('hstore', '_hstore') and c.relkind in ('r', 'p', 'v', 'm')
                 and c.relnamespace <> 'apalis'::regnamespace and not a.attisdropped)",
    )
    .fetch_one(conn)
    .await
}
