//! The schema: first apalis's own migrations, then usher's, each with its own table of what has run. On Postgres an
//! app's tables may exist already; they are adopted first, and filled in afterwards (`adopt`).

mod applied;
mod error;
mod locks;
mod planned;
mod postgres;
mod server;

use std::sync::Arc;

use apalis_sqlite::SqliteStorage;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection as _, SqlSafeStr as _, SqliteConnection, SqlitePool};

use super::adopt::APP_TABLES;
use super::catalog;
use super::settings::Rules;
use super::transfer::mark_of;
use super::{Dialect, Pool, Store};
use applied::Applied;
pub use error::{MigrationError, Validation};
pub use planned::Planned;
pub(super) use postgres::{lock_out, put_back as put_back_on_postgres, unfit as unfit_on_postgres};
use usher_base::private;

/// What a step is, how many rows are done, and of how many.
pub(in crate::store) type OnProgress<'a> = dyn Fn(&str, u64, u64) + Sync + 'a;

/// Not sqlx's default name, which the app may use in the same database.
pub(super) const TABLE: &str = "usher_migrations";
/// With its schema: the app may have a table of that name.
const TABLE_ON_POSTGRES: &str = "usher.usher_migrations";
/// On SQLite apalis would use sqlx's default name (APALIS trap 11).
const APALIS_TABLE_ON_SQLITE: &str = "_apalis_migrations";

impl Store {
    /// Migrates the schema. May run in several processes at once and any number of times; an interrupted run is
    /// completed by the next one.
    ///
    /// # Errors
    /// [`MigrationError`]; a migration that fails is rolled back.
    pub async fn migrate(&self, rules: &Rules) -> Result<(), MigrationError> {
        self.migrate_with(rules, &|_, _, _| ()).await
    }

    /// As [`Store::migrate`], and tells how far long steps are: what, how many rows are done, and of how many.
    ///
    /// # Errors
    /// As there.
    pub async fn migrate_with(&self, rules: &Rules, on_progress: &OnProgress<'_>) -> Result<(), MigrationError> {
        match &self.pool {
            Pool::Postgres(pool) => {
                // A connection of its own: its settings and locks end with it.
                let mut conn = postgres::connect(pool).await?;
                let migration = postgres::migrate(pool, &mut conn, &self.migrations, &self.layout, rules, on_progress);
                let outcome = locks::watch(pool, migration).await;
                let _ = conn.close().await;
                outcome
            }
            Pool::Sqlite { writer, .. } => {
                check_sqlite(writer, &self.migrations).await?;
                // One transaction around everything, because sqlx has no lock for SQLite: if two processes start on a
                // new file, the second waits here and then finds everything done.
                let mut tx = writer.begin_with("begin immediate").await?;
                let version = schema_version(&mut tx).await?;
                // Never SqliteStorage::setup(): it switches durability off on one connection (APALIS trap 11).
                named(SqliteStorage::migrations(), APALIS_TABLE_ON_SQLITE)
                    .run(&mut *tx)
                    .await
                    .map_err(MigrationError::Queue)?;
                self.migrations.run(&mut *tx).await.map_err(MigrationError::Usher)?;
                if schema_version(&mut tx).await? != version {
                    catalog::note_on_sqlite(&mut tx).await?;
                }
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
        self.migrations = Arc::new(named(Migrator::with_migrations(all), table(self.dialect())));
        self
    }

    /// Connects as the start does, and says why the database can't be used if it can't. Changes nothing.
    ///
    /// # Errors
    /// The same as migrating.
    pub async fn check_connection(&self) -> Result<(), MigrationError> {
        match &self.pool {
            Pool::Postgres(pool) => server::check_connection(pool).await,
            Pool::Sqlite { reader, .. } => Ok(sqlx::query("select 1").execute(reader).await.map(drop)?),
        }
    }

    /// What [`Store::migrate`] would do now, in order. Changes nothing.
    ///
    /// # Errors
    /// The same as migrating.
    pub async fn plan_changes(&self, rules: &Rules) -> Result<Vec<Planned>, MigrationError> {
        match &self.pool {
            Pool::Postgres(pool) => {
                let mut conn = postgres::connect(pool).await?;
                let outcome = postgres::plan(pool, &mut conn, &self.migrations, &self.layout, rules).await;
                let _ = conn.close().await;
                outcome
            }
            Pool::Sqlite { writer, .. } => {
                let applied = check_sqlite(writer, &self.migrations).await?;
                let missing = applied.missing(&self.migrations);
                Ok(missing
                    .flat_map(|migration| planned::of_migration(migration, None))
                    .collect())
            }
        }
    }
}

/// A number that SQLite raises with each change of the schema.
async fn schema_version(conn: &mut SqliteConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("pragma schema_version").fetch_one(conn).await
}

/// Why this usher can't work with the migrations that have run, if it is so.
pub(super) async fn unfit_on_sqlite(pool: &SqlitePool, migrator: &Migrator) -> sqlx::Result<Option<Validation>> {
    let text = format!("select version, success, checksum from {TABLE}");
    let applied = Applied::of(sqlx::query_as(AssertSqlSafe(text)).fetch_all(pool).await?);
    Ok(applied.check(migrator).err())
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
    if let Some(mark) = mark_of(&mut *pool.acquire().await?).await? {
        return Err(Validation::Moved(mark.is_finished).into());
    }
    Ok(applied)
}

/// usher's own migrations.
pub(super) fn migrator(dialect: Dialect) -> Migrator {
    let migrator = match dialect {
        Dialect::Postgres => sqlx::migrate!("migrations/postgres"),
        Dialect::Sqlite => sqlx::migrate!("migrations/sqlite"),
    };
    named(migrator, table(dialect))
}

fn table(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => TABLE_ON_POSTGRES,
        Dialect::Sqlite => TABLE,
    }
}

fn named(mut migrator: Migrator, table: &'static str) -> Migrator {
    migrator.dangerous_set_table_name(table);
    migrator
}
