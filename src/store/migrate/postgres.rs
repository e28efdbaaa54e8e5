//! Migrations on Postgres, where apalis's tables, the app's and usher's share a database.

use std::time::Duration;

use apalis_postgres::PostgresStorage;
use sqlx::migrate::{Migration, Migrator};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, SqlSafeStr as _};

use super::locks::MIGRATOR;
use super::planned::{self, Planned};
use super::server::{check_pooling, check_rights, check_server, check_writable};
use super::{Applied, MigrationError, OnProgress, TABLE_ON_POSTGRES, Validation, named};
use crate::store::adopt::{self, Schema, Step};
use crate::store::catalog::{self, Difference};
use crate::store::pools::ISOLATION;
use crate::store::settings::{Rules, UniqueEmails};
use crate::store::{ACQUIRE_TIMEOUT, Layout};

const APALIS_TABLE: &str = "apalis._sqlx_migrations";
/// The advisory lock of migrations: one process migrates at a time.
const LOCK: i64 = 0x7573_6865_7200;
/// How often to try the lock. Polling instead of waiting in the lock's queue: a waiting statement would block the other
/// process's `create index concurrently`.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

pub(super) async fn connect(pool: &PgPool) -> Result<PgConnection, MigrationError> {
    let options = (*pool.connect_options()).clone().application_name(MIGRATOR);
    match tokio::time::timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&options)).await {
        Ok(Err(error)) => {
            let role = options.get_username();
            let database = options.get_database().unwrap_or(role);
            Err(MigrationError::of_connecting(error, role, database))
        }
        Ok(Ok(mut conn)) => {
            sqlx::raw_sql(ISOLATION).execute(&mut conn).await?;
            Ok(conn)
        }
        Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
    }
}

pub(super) async fn migrate(
    pool: &PgPool,
    conn: &mut PgConnection,
    migrator: &Migrator,
    layout: &Layout,
    rules: &Rules,
    on_progress: &OnProgress<'_>,
) -> Result<(), MigrationError> {
    // A standby has no notifications, by which a pooler is recognised.
    check_writable(conn).await?;
    check_pooling(pool, conn).await?;
    check_postgres(conn, migrator, layout).await?;
    advisory_lock(conn).await?;
    // Read after the lock: another process may have migrated in the meantime.
    let Prepared {
        applied,
        own_schema,
        steps,
        unique_emails,
    } = prepare(conn, migrator, layout, rules).await?;
    // Before anything else is changed: it notes what was there.
    for step in own_schema.iter() {
        tracing::info!("{}", step.says);
        adopt::take(conn, step).await?;
    }
    let app_schema = layout.app_schema.as_deref();
    let queue = queue_migrations();
    let has_queue = Applied::on_postgres(conn, APALIS_TABLE).await?.is_complete(&queue);
    let may_change = !has_queue || !applied.is_complete(migrator) || app_schema.is_some();
    let before = match may_change && applied.has(SCHEMA) {
        true => catalog::look_on_postgres(conn, app_schema).await?,
        false => Vec::new(),
    };
    let mut is_changed = !has_queue || !applied.is_complete(migrator);
    if is_changed && applied.has(SCHEMA) {
        catalog::clear_on_postgres(conn, &before).await?;
    }
    if !has_queue {
        let mut own = connect(pool).await?;
        let outcome = migrate_queue(&mut own, &queue).await;
        let _ = own.close().await;
        outcome?;
    }
    for (done, step) in steps.iter().enumerate() {
        tracing::info!("{}", step.says);
        on_progress(&step.says, done as u64, steps.len() as u64);
        adopt::take(conn, step).await?;
    }
    sqlx::raw_sql(adopt::LOCK_TIMEOUT).execute(&mut *conn).await?;
    let run = async |conn: &mut PgConnection| apply(conn, migrator, &applied, layout).await;
    adopt::retry_on_lock_timeout(conn, run, |error| error.sql().is_some_and(adopt::gave_way)).await?;
    rules.publish_on_postgres(conn, unique_emails).await?;
    if layout.app_schema.is_some() {
        is_changed |= adopt::mirror_identities(conn, rules).await?;
        adopt::fill(conn, rules, on_progress).await?;
    }
    if is_changed || !is_noted(conn).await? {
        catalog::note_on_postgres(conn, app_schema, &before).await?;
    }
    Ok(())
}

/// A run may have been cut off before it noted what it left.
async fn is_noted(conn: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from usher_catalog where (kind, name) = ('table', 'usher.usher_catalog'))",
    )
    .fetch_one(conn)
    .await
}

/// Makes what was lost again, and says what; nothing while another process migrates.
pub(in crate::store) async fn put_back(
    pool: &PgPool,
    layout: &Layout,
    lost: &[&Difference],
) -> Result<Vec<String>, MigrationError> {
    let mut conn = connect(pool).await?;
    sqlx::raw_sql(AssertSqlSafe(layout.search_path()))
        .execute(&mut conn)
        .await?;
    let is_ours: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(&mut conn)
        .await?;
    let mut made = Vec::new();
    for found in if is_ours { lost } else { &[] } {
        // Not tried again here: the next look is in half a minute. One that can't be made keeps no other from it.
        match make_again(&mut conn, found).await {
            Ok(()) => made.push(found.object.clone()),
            Err(error) => tracing::warn!(object = %found.object, %error, "could not be made again"),
        }
    }
    let _ = conn.close().await;
    Ok(made)
}

async fn make_again(conn: &mut PgConnection, lost: &Difference) -> sqlx::Result<()> {
    for statement in &lost.repair {
        sqlx::raw_sql(adopt::lock_timeout(statement))
            .execute(&mut *conn)
            .await?;
        sqlx::raw_sql(AssertSqlSafe(statement.clone()))
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Keeps migrations away until the transaction ends; `false` if one is at work.
pub(in crate::store) async fn lock_out(conn: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
        .bind(LOCK)
        .fetch_one(conn)
        .await
}

/// Why this usher can't work with the migrations that have run, if it is so.
pub(in crate::store) async fn unfit(conn: &mut PgConnection, migrator: &Migrator) -> sqlx::Result<Option<Validation>> {
    let applied = Applied::on_postgres(conn, TABLE_ON_POSTGRES).await?;
    Ok(applied.check(migrator).err())
}

/// apalis's migrations use some names without a schema. So they run on a connection whose search path contains the
/// queue's schema, and the schema of hstore, wherever the app has it (APALIS trap 22).
async fn migrate_queue(conn: &mut PgConnection, migrations: &Migrator) -> Result<(), MigrationError> {
    let has_schema: bool = sqlx::query_scalar("select to_regnamespace('apalis') is not null")
        .fetch_one(&mut *conn)
        .await?;
    if !has_schema {
        sqlx::raw_sql("create schema apalis").execute(&mut *conn).await?;
    }
    let find_hstore = "select quote_ident(nspname) from pg_extension join pg_namespace n on n.oid = extnamespace
         where extname = 'hstore'";
    let mut hstore: Option<String> = sqlx::query_scalar(find_hstore).fetch_optional(&mut *conn).await?;
    if hstore.is_none() {
        // Where the app's own `create extension` would create it: apalis's own statement then finds it and does
        // nothing. For a role of that name, the schema usher would be the first.
        let schema: String = sqlx::query_scalar(
            "select quote_ident(coalesce((select s from unnest(current_schemas(false)) as s where s <> 'usher' limit 1), 'public'))",
        )
        .fetch_one(&mut *conn)
        .await?;
        let create = format!("create extension hstore schema {schema}");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *conn).await?;
        hstore = sqlx::query_scalar(find_hstore).fetch_optional(&mut *conn).await?;
    }
    let path = format!("set search_path = apalis, {}", hstore.unwrap_or_default());
    sqlx::raw_sql(AssertSqlSafe(path)).execute(&mut *conn).await?;
    migrations.run(&mut *conn).await.map_err(MigrationError::Queue)
}

/// apalis's migrations without the statements that touch the app's objects: an extension that is no longer used, and a
/// function in `public` that may be the app's own. Each is recorded with its original checksum.
fn queue_migrations() -> Migrator {
    let without = |migration: &Migration| {
        let mut migration = migration.clone();
        let mut text = migration.sql.as_str().to_owned();
        for foreign in [
            "CREATE EXTENSION IF NOT EXISTS pgcrypto;",
            "DROP FUNCTION IF EXISTS public.generate_ulid();",
        ] {
            text = text.replace(foreign, "");
        }
        migration.sql = AssertSqlSafe(text).into_sql_str();
        migration
    };
    let all = PostgresStorage::migrations().iter().map(without).collect();
    named(Migrator::with_migrations(all), APALIS_TABLE)
}

pub(super) async fn plan(
    pool: &PgPool,
    conn: &mut PgConnection,
    migrator: &Migrator,
    layout: &Layout,
    rules: &Rules,
) -> Result<Vec<Planned>, MigrationError> {
    // A standby has no notifications, by which a pooler is recognised.
    check_writable(conn).await?;
    check_pooling(pool, conn).await?;
    check_postgres(conn, migrator, layout).await?;
    let Prepared {
        applied,
        own_schema,
        steps,
        ..
    } = prepare(conn, migrator, layout, rules).await?;
    let mut outlook: Vec<Planned> = own_schema.into_iter().map(Planned::from).collect();
    let queue = Applied::on_postgres(conn, APALIS_TABLE).await?;
    let texts: Vec<String> = queue
        .missing(&queue_migrations())
        .map(|migration| migration.sql.as_str().to_owned())
        .collect();
    if !texts.is_empty() {
        let says = "bring the queue's tables, in the schema apalis, up to date";
        outlook.push(Planned::new(says, texts.join("\n")));
    }
    outlook.extend(steps.into_iter().map(Planned::from));
    let app_tables: Vec<String> = sqlx::query_scalar("select tablename::text from pg_tables where schemaname = $1")
        .bind(&layout.app_schema)
        .fetch_all(&mut *conn)
        .await?;
    let app_tables = layout.app_schema.as_ref().map(|_| app_tables.as_slice());
    let missing = applied.missing(migrator);
    outlook.extend(missing.flat_map(|migration| planned::of_migration(migration, app_tables)));
    let has_memberships: bool = sqlx::query_scalar(
        "select count(*) = 2 from information_schema.columns where table_schema = $1
             and (table_name, column_name) in (('admins', 'organization_id'), ('organizations', 'id'))",
    )
    .bind(&layout.app_schema)
    .fetch_one(&mut *conn)
    .await?;
    if has_memberships && !applied.has(SCHEMA) {
        let missing = adopt::count_missing(conn).await?;
        if missing > 0 {
            outlook.push(Planned::new(
                format!("fill organization_users from admins.organization_id, in batches: {missing} memberships"),
                "",
            ));
        }
    }
    Ok(outlook)
}

/// The migration with all tables, the mirror and the backfill.
const SCHEMA: i64 = 1;

/// The migrations that have run, and the changes to the app's tables that must come first.
struct Prepared {
    applied: Applied,
    own_schema: Option<Step>,
    steps: Vec<Step>,
    unique_emails: UniqueEmails,
}

async fn prepare(
    conn: &mut PgConnection,
    migrator: &Migrator,
    layout: &Layout,
    rules: &Rules,
) -> Result<Prepared, MigrationError> {
    let applied = Applied::on_postgres(conn, TABLE_ON_POSTGRES).await?;
    let mut own_schema = None;
    let mut steps = Vec::new();
    let mut unique_emails = UniqueEmails::No;
    let is_complete = applied.is_complete(migrator);
    if !applied.has(SCHEMA) {
        own_schema = make_own_schema(conn, layout).await?;
    }
    match &layout.app_schema {
        None if is_complete => {}
        None => check_rights(conn, layout).await?,
        Some(app_schema) => {
            let schema = Schema::read(conn, app_schema, rules, applied.has(SCHEMA)).await?;
            unique_emails = schema.unique_emails;
            if !is_complete || !schema.fits(rules) {
                check_rights(conn, layout).await?;
                steps.extend(adopt::plan(&schema, rules).map_err(Validation::App)?);
            }
        }
    }
    Ok(Prepared {
        applied,
        own_schema,
        steps,
        unique_emails,
    })
}

/// Runs usher's migrations. The first one sets comments on the shared tables; it restores the app's own comments in the
/// same transaction.
async fn apply(
    conn: &mut PgConnection,
    migrator: &Migrator,
    applied: &Applied,
    layout: &Layout,
) -> Result<(), MigrationError> {
    let app_schema = layout.app_schema.as_deref().unwrap_or_default();
    if !applied.has(SCHEMA) {
        let mut tx = conn.begin().await?;
        // Where the file makes the tables that the app and usher share.
        sqlx::query("select set_config('usher.app_schema', $1, true)")
            .bind(app_schema)
            .execute(&mut *tx)
            .await?;
        let remarks = adopt::remarks(&mut tx, app_schema).await?;
        migrator.run_to(SCHEMA, &mut *tx).await.map_err(MigrationError::Usher)?;
        remarks.restore(&mut tx).await?;
        tx.commit().await?;
    }
    if !applied.is_complete(migrator) {
        migrator.run(&mut *conn).await.map_err(MigrationError::Usher)?;
    }
    Ok(())
}

/// Waits until no other process migrates. The lock ends with the connection.
async fn advisory_lock(conn: &mut PgConnection) -> sqlx::Result<()> {
    let mut is_said = false;
    loop {
        let is_ours: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut *conn)
            .await?;
        if is_ours {
            return Ok(());
        }
        if !std::mem::replace(&mut is_said, true) {
            let holder = advisory_lock_holder(conn).await?;
            tracing::info!(
                "another usher migrates this database, in the server's process {}; waiting for its end",
                holder.map_or_else(|| "that just ended".to_owned(), |pid| pid.to_string())
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn advisory_lock_holder(conn: &mut PgConnection) -> sqlx::Result<Option<i32>> {
    sqlx::query_scalar(
        "select pid from pg_locks where locktype = 'advisory' and granted and (classid::bigint << 32) | objid::bigint = $1
             and database = (select oid from pg_database where datname = current_database()) limit 1",
    )
    .bind(LOCK)
    .fetch_optional(conn)
    .await
}

/// Makes the schema of usher's own tables, if it is not there yet, and notes in it what the database has. A schema that holds
/// something else is not touched.
async fn make_own_schema(conn: &mut PgConnection, layout: &Layout) -> Result<Option<Step>, MigrationError> {
    let (exists, in_use, app_schema): (bool, bool, String) = sqlx::query_as(
        "select to_regnamespace('usher') is not null,
             exists (select from pg_class c where c.relnamespace = to_regnamespace('usher') and c.relname !~ '^usher_before')
                 and to_regclass('usher.usher_migrations') is null,
             quote_nullable($1::text)",
    )
    .bind(&layout.app_schema)
    .fetch_one(&mut *conn)
    .await?;
    if in_use {
        return Err(Validation::SchemaInUse.into());
    }
    let noted: bool = sqlx::query_scalar("select to_regclass('usher.usher_before') is not null")
        .fetch_one(conn)
        .await?;
    let mut statements = vec![include_str!("before.sql").replace("{app_schema}", &app_schema)];
    if !exists {
        statements.insert(0, "create schema if not exists usher".to_owned());
    }
    Ok((!noted).then(|| Step {
        says: "make the schema usher, for usher's own tables".to_owned(),
        statements,
    }))
}

/// Whether this usher can use the server and its schemas, and the tables are where they were when they were set up. From here
/// on, usher's own tables are found by their names.
async fn check_postgres(conn: &mut PgConnection, migrator: &Migrator, layout: &Layout) -> Result<(), MigrationError> {
    let (version, encoding, earlier, has_app_schema): (i32, String, Option<String>, bool) = sqlx::query_as(
        "select current_setting('server_version_num')::integer / 10000, current_setting('server_encoding'),
             (select c.oid::regclass::text from pg_class c
              where c.relname = 'usher_migrations' and c.relnamespace = to_regnamespace(quote_ident($1))),
             $1 is null or exists (select from pg_namespace where nspname = $1)",
    )
    .bind(&layout.app_schema)
    .fetch_one(&mut *conn)
    .await?;
    check_server(version, &encoding)?;
    if let Some(table) = earlier {
        return Err(Validation::Earlier(table).into());
    }
    if let Some(name) = layout.app_schema.as_ref().filter(|_| !has_app_schema) {
        return Err(Validation::NoSchema(name.clone()).into());
    }
    sqlx::raw_sql(AssertSqlSafe(layout.search_path()))
        .execute(&mut *conn)
        .await?;
    let applied = Applied::on_postgres(conn, TABLE_ON_POSTGRES).await?;
    applied.check(migrator)?;
    if applied.has(SCHEMA) {
        check_layout(conn, layout).await?;
    }
    Ok(())
}

/// Where the shared tables are is chosen once.
async fn check_layout(conn: &mut PgConnection, layout: &Layout) -> Result<(), MigrationError> {
    let chosen: Option<Option<String>> = sqlx::query_scalar("select app_schema from usher.usher_layout")
        .fetch_optional(conn)
        .await?;
    match chosen {
        Some(chosen) if chosen != layout.app_schema => {
            let was = chosen.map_or_else(
                || "USHER_TABLES=own".to_owned(),
                |schema| format!("USHER_TABLES=shared and USHER_APP_SCHEMA={schema}"),
            );
            Err(Validation::OtherTables(was).into())
        }
        _ => Ok(()),
    }
}
