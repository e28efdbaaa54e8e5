//! The migrations that have run.

use std::collections::BTreeMap;

use sqlx::migrate::{Migration, Migrator};
use sqlx::{AssertSqlSafe, PgConnection};

use super::Validation;

/// The migrations of usher that a database has.
#[derive(Debug, Default)]
pub(super) struct Applied(BTreeMap<i64, (bool, Vec<u8>)>);

impl Applied {
    pub(super) async fn on_postgres(conn: &mut PgConnection, table: &str) -> sqlx::Result<Self> {
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

    pub(super) fn of(rows: Vec<(i64, bool, Vec<u8>)>) -> Self {
        Self(
            rows.into_iter()
                .map(|(version, success, sum)| (version, (success, sum)))
                .collect(),
        )
    }

    pub(super) fn has(&self, version: i64) -> bool {
        self.0.contains_key(&version)
    }

    pub(super) fn is_complete(&self, migrator: &Migrator) -> bool {
        migrator.iter().all(|migration| self.has(migration.version))
    }

    /// The migrations that have not run yet.
    pub(super) fn missing<'a>(&'a self, migrator: &'a Migrator) -> impl Iterator<Item = &'a Migration> {
        migrator.iter().filter(|migration| !self.has(migration.version))
    }

    pub(super) fn check(&self, migrator: &Migrator) -> Result<(), Validation> {
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
