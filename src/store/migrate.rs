//! The schema: apalis's own migrations, then ours, each with a table of its own to remember what has run.

use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use sqlx::migrate::{MigrateError, Migrator};

use super::{Dialect, Pool, Store, StoreError};

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The queue's tables.
    #[error("the queue's tables could not be migrated: {0}")]
    Queue(#[source] MigrateError),
    /// usher's tables.
    #[error("usher's tables could not be migrated: {0}")]
    Usher(#[source] MigrateError),
}

impl MigrationError {
    /// Whether it may work a little later, because the database is away.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        let (Self::Queue(error) | Self::Usher(error)) = self;
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                StoreError::is_temporary_sql(error)
            }
            _ => false,
        }
    }
}

/// Ours must not be mistaken for the app's, which may use sqlx's default name in the same database.
pub(super) const TABLE: &str = "usher_migrations";
/// On SQLite apalis would share sqlx's default name with everybody (APALIS trap 11).
const APALIS_TABLE_ON_SQLITE: &str = "_apalis_migrations";

impl Store {
    /// Brings the schema up to date. May run in several processes at once and any number of times.
    ///
    /// # Errors
    /// [`MigrationError`]; a migration that fails leaves nothing of itself behind.
    pub async fn migrate(&self) -> Result<(), MigrationError> {
        match &self.pool {
            Pool::Postgres(pool) => {
                PostgresStorage::migrations()
                    .run(pool)
                    .await
                    .map_err(MigrationError::Queue)?;
                migrator(Dialect::Postgres)
                    .run(pool)
                    .await
                    .map_err(MigrationError::Usher)
            }
            Pool::Sqlite { writer, .. } => {
                // Never SqliteStorage::setup(): it switches durability off on one connection (APALIS trap 11).
                named(SqliteStorage::migrations(), APALIS_TABLE_ON_SQLITE)
                    .run(writer)
                    .await
                    .map_err(MigrationError::Queue)?;
                migrator(Dialect::Sqlite)
                    .run(writer)
                    .await
                    .map_err(MigrationError::Usher)
            }
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
