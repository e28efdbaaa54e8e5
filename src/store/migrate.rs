//! The schema: first apalis's own migrations, then usher's, each with its own table of what has run. On Postgres an
//! app's tables may exist already; they are adopted first, and filled in afterwards (`adopt`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, SqlSafeStr as _, SqlitePool};

use super::adopt::{self, APP_TABLES, Schema, Step};
use super::pools::ISOLATION;
use super::settings::{Rules, UniqueEmails};
use super::{Dialect, Pool, Store, StoreError};
use usher_base::private;

/// Why the schema could not be migrated. A database that fails [validation](Validation) is left unchanged; other work
/// that was done before an error stays, and the next run continues from there.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("the queue's tables could not be migrated: {0}")]
    Queue(#[source] MigrateError),
    #[error("usher's tables could not be migrated: {0}")]
    Usher(#[source] MigrateError),
    #[error("the database can't be changed; see that its file, folder and disk can be written to: {0}")]
    ReadOnly(#[source] sqlx::Error),
    /// Every other error of the database.
    #[error("the database failed: {0}")]
    Database(#[source] sqlx::Error),
    #[error("this database can't be used: {0}")]
    Validation(Validation),
}

/// Why a database can't be used, in a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Validation {
    #[error("what answers at its address is no Postgres server ({0}); see that host and port are the right ones")]
    NoPostgres(String),
    #[error("it is Postgres {0}, and usher needs Postgres 13 or newer; upgrade the server")]
    TooOld(i32),
    /// Not every text can be stored.
    #[error("its encoding is {0}, and usher needs UTF8; make a new database with encoding 'UTF8'")]
    Encoding(String),
    #[error("the search path of usher's role names no schema that is there; create one, or set the search path")]
    NoSchema,
    #[error("{0}")]
    Rights(String),
    #[error(
        "its schema is newer than this usher (it has migration {found}, this version knows {known}); start that version \
         or a newer one"
    )]
    Newer {
        /// The newest migration that the database has.
        found: i64,
        /// The newest migration that this version knows.
        known: i64,
    },
    /// A migration was begun and did not finish.
    #[error(
        "migration {0} was applied by halves; restore the backup from before it, or finish it by hand and set `success` \
         in usher_migrations"
    )]
    HalfApplied(i64),
    /// A migration has a different checksum than when it ran.
    #[error(
        "its migration {0} is not the one of this usher: the database was set up by a version before the first release, \
         or by a changed one; start that version, or give usher a new database"
    )]
    Changed(i64),
    /// A file with another program's tables.
    #[error("the file holds a table {0} that is not usher's; give usher a file of its own")]
    ForeignFile(&'static str),
    /// The app's tables are not as usher needs them.
    #[error("{}", .0.join("; "))]
    App(Vec<String>),
}

impl From<sqlx::Error> for MigrationError {
    fn from(error: sqlx::Error) -> Self {
        if StoreError::is_read_only_file(&error) {
            Self::ReadOnly(error)
        } else {
            Self::Database(error)
        }
    }
}

impl From<Validation> for MigrationError {
    fn from(unfit: Validation) -> Self {
        Self::Validation(unfit)
    }
}

impl MigrationError {
    /// Whether a later attempt may succeed, because the database is unavailable now.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.sql().is_some_and(StoreError::is_temporary_sql)
    }

    fn sql(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Queue(error) | Self::Usher(error) => match error {
                MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Some(error),
                _ => None,
            },
            Self::Database(error) => Some(error),
            Self::ReadOnly(_) | Self::Validation(_) => None,
        }
    }
}

/// Not sqlx's default name, which the app may use in the same database.
pub(super) const TABLE: &str = "usher_migrations";
const APALIS_TABLE: &str = "apalis._sqlx_migrations";
/// On SQLite apalis would use sqlx's default name (APALIS trap 11).
const APALIS_TABLE_ON_SQLITE: &str = "_apalis_migrations";
/// The oldest Postgres with everything that usher and apalis use (`gen_random_uuid`, trusted extensions).
const OLDEST_POSTGRES: i32 = 13;
/// The advisory lock of migrations: one process migrates at a time.
const LOCK: i64 = 0x7573_6865_7200;
/// How often to try the lock. Polling instead of waiting in the lock's queue: a waiting statement would block the other
/// process's `create index concurrently`.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

impl Store {
    /// Migrates the schema. May run in several processes at once and any number of times; an interrupted run is
    /// completed by the next one.
    ///
    /// # Errors
    /// [`MigrationError`]; a migration that fails is rolled back.
    pub async fn migrate(&self, rules: &Rules) -> Result<(), MigrationError> {
        match &self.pool {
            Pool::Postgres(pool) => {
                // A connection of its own: its settings and locks end with it.
                let mut conn = connect(pool).await?;
                let outcome = migrate_postgres(pool, &mut conn, &self.migrations, rules).await;
                let _ = conn.close().await;
                outcome
            }
            Pool::Sqlite { writer, .. } => {
                check_sqlite(writer, &self.migrations).await?;
                // One transaction around everything, because sqlx has no lock for SQLite: if two processes start on a
                // new file, the second waits here and then finds everything done.
                let mut tx = writer.begin_with("begin immediate").await?;
                // Never SqliteStorage::setup(): it switches durability off on one connection (APALIS trap 11).
                named(SqliteStorage::migrations(), APALIS_TABLE_ON_SQLITE)
                    .run(&mut *tx)
                    .await
                    .map_err(MigrationError::Queue)?;
                self.migrations.run(&mut *tx).await.map_err(MigrationError::Usher)?;
                // This also shows whether the file can be written when there was nothing to migrate.
                rules.publish_on_sqlite(&mut tx).await?;
                tx.commit().await?;
                private::warn_if_open_to_all(writer.connect_options().get_filename());
                Ok(())
            }
        }
    }

    /// The store of a version with one more migration than this one, to test a deployment.
    #[doc(hidden)]
    #[must_use]
    pub fn with_migration(mut self, version: i64, text: &'static str) -> Self {
        let mut all: Vec<Migration> = self.migrations.iter().cloned().collect();
        let kind = MigrationType::Simple;
        all.push(Migration::new(
            version,
            "the next version's".into(),
            kind,
            text.into_sql_str(),
            false,
        ));
        self.migrations = Arc::new(named(Migrator::with_migrations(all), TABLE));
        self
    }

    /// What [`Store::migrate`] would do now, as text and in order. Changes nothing.
    ///
    /// # Errors
    /// The same as migrating.
    pub async fn plan_changes(&self, rules: &Rules) -> Result<Vec<String>, MigrationError> {
        match &self.pool {
            Pool::Postgres(pool) => {
                let mut conn = connect(pool).await?;
                let outcome = foresee_postgres(&mut conn, &self.migrations, rules).await;
                let _ = conn.close().await;
                outcome
            }
            Pool::Sqlite { writer, .. } => {
                let applied = check_sqlite(writer, &self.migrations).await?;
                Ok(applied.missing(&self.migrations))
            }
        }
    }
}

async fn connect(pool: &PgPool) -> Result<PgConnection, MigrationError> {
    let options = pool.connect_options();
    match tokio::time::timeout(super::ACQUIRE_TIMEOUT, PgConnection::connect_with(&options)).await {
        // No Postgres server: waiting would never help.
        Ok(Err(sqlx::Error::Protocol(said))) => Err(Validation::NoPostgres(said).into()),
        Ok(connected) => {
            let mut conn = connected?;
            sqlx::raw_sql(ISOLATION).execute(&mut conn).await?;
            Ok(conn)
        }
        Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
    }
}

async fn migrate_postgres(
    pool: &PgPool,
    conn: &mut PgConnection,
    migrator: &Migrator,
    rules: &Rules,
) -> Result<(), MigrationError> {
    check_postgres(conn, migrator).await?;
    alone(conn).await?;
    // Read after the lock: another process may have migrated in the meantime.
    let Prepared {
        applied,
        steps,
        unique_emails,
    } = prepare(conn, migrator, rules).await?;
    let queue = queue_migrations();
    if !Applied::on_postgres(conn, APALIS_TABLE).await?.is_complete(&queue) {
        let mut own = connect(pool).await?;
        let outcome = migrate_queue(&mut own, &queue).await;
        let _ = own.close().await;
        outcome?;
    }
    for step in &steps {
        tracing::info!("{}", step.says);
        adopt::take(conn, step).await?;
    }
    sqlx::raw_sql(adopt::LOCK_TIMEOUT).execute(&mut *conn).await?;
    let run = async |conn: &mut PgConnection| apply(conn, migrator, &applied).await;
    adopt::retry_on_lock_timeout(conn, run, |error| error.sql().is_some_and(adopt::gave_way)).await?;
    rules.publish_on_postgres(conn, unique_emails).await?;
    adopt::mirror_identities(conn, rules).await?;
    Ok(adopt::fill(conn, rules).await?)
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
        // nothing.
        sqlx::raw_sql("create extension hstore").execute(&mut *conn).await?;
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

async fn foresee_postgres(
    conn: &mut PgConnection,
    migrator: &Migrator,
    rules: &Rules,
) -> Result<Vec<String>, MigrationError> {
    check_postgres(conn, migrator).await?;
    let Prepared { applied, steps, .. } = prepare(conn, migrator, rules).await?;
    let mut outlook = Vec::new();
    let queue = Applied::on_postgres(conn, APALIS_TABLE).await?;
    if !queue.is_complete(&queue_migrations()) {
        outlook.push("bring the queue's tables, in the schema apalis, up to date".to_owned());
    }
    outlook.extend(steps.into_iter().map(|step| step.says));
    outlook.extend(applied.missing(migrator));
    let has_memberships: bool = sqlx::query_scalar(
        "select count(*) = 2 from information_schema.columns where table_schema = current_schema()
             and (table_name, column_name) in (('admins', 'organization_id'), ('organizations', 'id'))",
    )
    .fetch_one(&mut *conn)
    .await?;
    if has_memberships && !applied.has(SCHEMA) {
        let missing = adopt::count_missing(conn).await?;
        if missing > 0 {
            outlook.push(format!(
                "fill organization_users from admins.organization_id, in batches: {missing} memberships"
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
    steps: Vec<Step>,
    unique_emails: UniqueEmails,
}

async fn prepare(conn: &mut PgConnection, migrator: &Migrator, rules: &Rules) -> Result<Prepared, MigrationError> {
    let applied = Applied::on_postgres(conn, TABLE).await?;
    let schema = Schema::read(conn, applied.has(SCHEMA)).await?;
    let mut steps = Vec::new();
    if !applied.is_complete(migrator) || !schema.fits(rules) {
        check_rights(conn).await?;
        steps = adopt::plan(&schema, rules).map_err(Validation::App)?;
    }
    Ok(Prepared {
        applied,
        steps,
        unique_emails: schema.unique_emails,
    })
}

/// Runs usher's migrations. The first one sets comments on the shared tables; it restores the app's own comments in the
/// same transaction.
async fn apply(conn: &mut PgConnection, migrator: &Migrator, applied: &Applied) -> Result<(), MigrationError> {
    if !applied.has(SCHEMA) {
        let mut tx = conn.begin().await?;
        let remarks = adopt::remarks(&mut tx).await?;
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
async fn alone(conn: &mut PgConnection) -> sqlx::Result<()> {
    loop {
        let is_ours: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut *conn)
            .await?;
        if is_ours {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Whether this usher can use the server and its schema.
async fn check_postgres(conn: &mut PgConnection, migrator: &Migrator) -> Result<(), MigrationError> {
    let (version, encoding, schema): (i32, String, Option<String>) = sqlx::query_as(
        "select current_setting('server_version_num')::integer / 10000, current_setting('server_encoding'),
             current_schema()::text",
    )
    .fetch_one(&mut *conn)
    .await?;
    check_server(version, &encoding, schema.is_some())?;
    Ok(Applied::on_postgres(conn, TABLE).await?.check(migrator)?)
}

fn check_server(version: i32, encoding: &str, has_schema: bool) -> Result<(), Validation> {
    if version < OLDEST_POSTGRES {
        Err(Validation::TooOld(version))
    } else if encoding != "UTF8" {
        Err(Validation::Encoding(encoding.to_owned()))
    } else if !has_schema {
        Err(Validation::NoSchema)
    } else {
        Ok(())
    }
}

#[derive(sqlx::FromRow)]
struct Rights {
    role: String,
    database: String,
    schema: String,
    may_create: bool,
    may_keep_a_queue: bool,
}

/// Whether tables and extensions can be created; checked only when something must be done.
async fn check_rights(conn: &mut PgConnection) -> Result<(), MigrationError> {
    let rights: Rights = sqlx::query_as(
        "select current_user::text as role, current_database()::text as database, current_schema()::text as schema,
             has_schema_privilege(current_schema(), 'CREATE') as may_create,
             has_database_privilege(current_database(), 'CREATE')
                 or (exists (select from pg_extension where extname = 'hstore')
                     and exists (select from pg_namespace where nspname = 'apalis' and pg_has_role(nspowner, 'USAGE')))
                 as may_keep_a_queue",
    )
    .fetch_one(conn)
    .await?;
    let Rights {
        role, database, schema, ..
    } = rights;
    if !rights.may_create {
        let sentence = format!(
            "the role {role} may not create tables in the schema {schema}; \
             let an owner run: grant create on schema {schema} to {role}"
        );
        return Err(Validation::Rights(sentence).into());
    }
    if !rights.may_keep_a_queue {
        let sentence = format!(
            "the role {role} may create neither the schema apalis nor the extension hstore; \
             let an owner run: grant create on database {database} to {role}"
        );
        return Err(Validation::Rights(sentence).into());
    }
    Ok(())
}

/// Whether the file is usher's, and not newer than this version.
async fn check_sqlite(pool: &SqlitePool, migrator: &Migrator) -> Result<Applied, MigrationError> {
    let tables: Vec<String> = sqlx::query_scalar("select name from sqlite_master where type = 'table'")
        .fetch_all(pool)
        .await?;
    let has = |name: &str| tables.iter().any(|table| table == name);
    let mut applied = Applied::default();
    if has(TABLE) {
        let text = format!("select version, success, checksum from {TABLE}");
        applied = Applied::of(sqlx::query_as(AssertSqlSafe(text)).fetch_all(pool).await?);
    } else if let Some(foreign) = APP_TABLES.iter().find(|name| has(name)) {
        return Err(Validation::ForeignFile(foreign).into());
    }
    applied.check(migrator)?;
    Ok(applied)
}

/// The migrations of usher that a database has.
#[derive(Debug, Default)]
struct Applied(BTreeMap<i64, (bool, Vec<u8>)>);

impl Applied {
    async fn on_postgres(conn: &mut PgConnection, table: &str) -> sqlx::Result<Self> {
        let exists: bool = sqlx::query_scalar("select to_regclass($1) is not null")
            .bind(table)
            .fetch_one(&mut *conn)
            .await?;
        if !exists {
            return Ok(Self::default());
        }
        let text = format!("select version, success, checksum from {table}");
        Ok(Self::of(sqlx::query_as(AssertSqlSafe(text)).fetch_all(conn).await?))
    }

    fn of(rows: Vec<(i64, bool, Vec<u8>)>) -> Self {
        Self(
            rows.into_iter()
                .map(|(version, success, sum)| (version, (success, sum)))
                .collect(),
        )
    }

    fn has(&self, version: i64) -> bool {
        self.0.contains_key(&version)
    }

    fn is_complete(&self, migrator: &Migrator) -> bool {
        migrator.iter().all(|migration| self.has(migration.version))
    }

    /// The migrations that have not run yet, as text.
    fn missing(&self, migrator: &Migrator) -> Vec<String> {
        migrator
            .iter()
            .filter(|migration| !self.has(migration.version))
            .map(|migration| format!("apply migration {:04} {}", migration.version, migration.description))
            .collect()
    }

    fn check(&self, migrator: &Migrator) -> Result<(), Validation> {
        let known = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
        for (&version, (success, sum)) in self.0.range(..=known) {
            let ours = migrator.iter().find(|migration| migration.version == version);
            match ours {
                _ if !success => return Err(Validation::HalfApplied(version)),
                Some(ours) if *ours.checksum == **sum => {}
                _ => return Err(Validation::Changed(version)),
            }
        }
        match self.0.last_key_value() {
            Some((&found, _)) if found > known => Err(Validation::Newer { found, known }),
            _ => Ok(()),
        }
    }
}

/// usher's own migrations.
pub(super) fn migrator(dialect: Dialect) -> Migrator {
    let migrator = match dialect {
        Dialect::Postgres => sqlx::migrate!("migrations/postgres"),
        Dialect::Sqlite => sqlx::migrate!("migrations/sqlite"),
    };
    named(migrator, TABLE)
}

fn named(mut migrator: Migrator, table: &'static str) -> Migrator {
    migrator.dangerous_set_table_name(table);
    migrator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_too_old_or_of_another_encoding_is_refused() {
        for (version, encoding, has_schema, verdict) in [
            (12, "UTF8", true, Err(Validation::TooOld(12))),
            (13, "UTF8", true, Ok(())),
            (18, "UTF8", true, Ok(())),
            (15, "SQL_ASCII", true, Err(Validation::Encoding("SQL_ASCII".to_owned()))),
            (15, "UTF8", false, Err(Validation::NoSchema)),
        ] {
            assert_eq!(check_server(version, encoding, has_schema), verdict);
        }
    }
}
