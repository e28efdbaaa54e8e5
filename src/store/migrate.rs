//! The schema: apalis's own migrations, then ours, each with a table of its own to remember what has run.

use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use sqlx::migrate::{MigrateError, Migrator};

use super::{Pool, Store, StoreError};

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The queue's tables.
    #[error("the queue's tables could not be migrated: {0}")]
    Queue(#[source] MigrateError),
    /// usher's tables.
    #[error("usher's tables could not be migrated: {0}")]
    Usher(#[source] MigrateError),
    /// No change could be made at all.
    #[error("the database can't be changed; see that its file, folder and disk can be written to: {0}")]
    Store(#[from] sqlx::Error),
}

impl MigrationError {
    /// Whether it may work a little later, because the database is away.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Queue(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
            | Self::Usher(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
            | Self::Store(error) => StoreError::is_temporary_sql(error) && !StoreError::is_read_only_file(error),
            Self::Queue(_) | Self::Usher(_) => false,
        }
    }
}

/// Ours must not be mistaken for the app's, which may use sqlx's default name in the same database.
const TABLE: &str = "usher_migrations";
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
                named(sqlx::migrate!("migrations/postgres"), TABLE)
                    .run(pool)
                    .await
                    .map_err(MigrationError::Usher)
            }
            Pool::Sqlite { writer, .. } => {
                // One transaction around all, because sqlx knows no lock for SQLite: of two processes that start on a new
                // file, the second waits here and then finds everything done.
                let mut tx = writer.begin_with("begin immediate").await?;
                // Never SqliteStorage::setup(): it switches durability off on one connection (APALIS trap 11).
                named(SqliteStorage::migrations(), APALIS_TABLE_ON_SQLITE)
                    .run(&mut *tx)
                    .await
                    .map_err(MigrationError::Queue)?;
                named(sqlx::migrate!("migrations/sqlite"), TABLE)
                    .run(&mut *tx)
                    .await
                    .map_err(MigrationError::Usher)?;
                // Where nothing had to be migrated, nothing has shown yet that the file can be written to.
                sqlx::query("delete from usher_events where false")
                    .execute(&mut *tx)
                    .await?;
                Ok(tx.commit().await?)
            }
        }
    }
}

fn named(mut migrator: Migrator, table: &'static str) -> Migrator {
    migrator.dangerous_set_table_name(table);
    migrator
}
