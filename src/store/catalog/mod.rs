//! What the database's catalog must hold, and what differs from it. After a migration usher notes what there is; afterwards it
//! looks whether that is still there. Its own views, functions, triggers and indexes it makes again from what it noted.

mod app;

use sqlx::{AssertSqlSafe, PgConnection, SqliteConnection};

use super::error::code_of;
use super::migrate::{self, MigrationError};
use super::settings::Rules;
use super::{Dialect, Pool, Result, Store};
pub use app::AppShape;

/// Something that is not as usher's migrations left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Such as `index usher.invites_waiting`.
    pub object: String,
    /// A sentence that says what to do.
    pub says: String,
    /// Whether usher can't do all its work without it.
    pub is_needed: bool,
    /// What makes it again; empty where only a person can.
    pub(super) repair: Vec<String>,
}

impl Difference {
    /// The object that stands for the migrations that have run.
    pub const MIGRATIONS: &str = "migrations";

    /// Whether [`Store::put_back`] makes it again.
    #[must_use]
    pub fn can_be_put_back(&self) -> bool {
        !self.repair.is_empty()
    }

    fn named(object: &str, says: String) -> Self {
        Self {
            object: object.to_owned(),
            says,
            is_needed: true,
            repair: Vec::new(),
        }
    }
}

/// A row that differs.
#[derive(Debug, sqlx::FromRow)]
struct Row {
    kind: String,
    name: String,
    of_table: Option<String>,
    /// `missing`, `changed` or `added`.
    state: String,
    is_needed: bool,
    definition: Option<String>,
}

/// The last part of both texts. Of what was added, only a column that rows can't be added without is a difference.
const COMPARE: &str = "
    select coalesce(c.kind, o.kind) as kind, coalesce(c.name, o.name) as name, coalesce(c.of_table, o.of_table) as of_table,
        case when o.kind is null then 'missing' when c.kind is null then 'added' else 'changed' end as state,
        coalesce(c.is_needed, true) as is_needed, c.definition
    from usher_catalog c
    full join objects o on o.kind = c.kind and o.name = c.name
    where (c.kind is not null and (o.kind is null or o.fingerprint <> c.fingerprint))
        or (c.kind is null and o.is_obligatory
            and exists (select 1 from usher_catalog t where t.kind = 'table' and t.name = o.of_table))
    order by 1, 2";
/// What is noted already stays as it was: a difference that was not mended is told of after the next migration, too.
const NOTE: &str = "
    insert into usher_catalog (kind, name, of_table, fingerprint, is_needed, definition)
    select kind, name, of_table, fingerprint, is_needed, definition from objects where true
    on conflict (kind, name) do nothing";
/// Functions before the triggers that call them.
const ORDER: &[&str] = &["function ", "view ", "trigger ", "index "];

fn on_postgres(then: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("with {} {then}", include_str!("objects_on_postgres.sql")))
}

fn on_sqlite(then: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("with {} {then}", include_str!("objects_on_sqlite.sql")))
}

impl Store {
    /// What differs from what usher's migrations left. One look is one statement of a few milliseconds; the app's own tables are
    /// read again only if they changed since the last look with the same `seen`.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn differences(&self, rules: &Rules, seen: &mut AppShape) -> Result<Vec<Difference>> {
        let (mut found, migrations) = match &self.pool {
            Pool::Postgres(pool) => {
                let mut conn = pool.acquire().await?;
                let app_schema = self.layout.app_schema.as_deref();
                let mut found = look_on_postgres(&mut conn, app_schema).await?;
                if let Some(app_schema) = app_schema {
                    let problems = seen.problems(&mut conn, app_schema, rules).await?;
                    found.extend(
                        problems
                            .into_iter()
                            .map(|says| Difference::named("the app's tables", says)),
                    );
                }
                (found, migrate::unfit_on_postgres(&mut conn, &self.migrations).await?)
            }
            Pool::Sqlite { reader, .. } => {
                let rows: Vec<Row> = sqlx::query_as(on_sqlite(COMPARE)).fetch_all(reader).await?;
                let found = rows.into_iter().map(|row| row.difference(Dialect::Sqlite)).collect();
                (found, migrate::unfit_on_sqlite(reader, &self.migrations).await?)
            }
        };
        found.extend(migrations.map(|unfit| Difference::named(Difference::MIGRATIONS, unfit.to_string())));
        Ok(found)
    }

    /// Makes usher's own views, functions, triggers and indexes again, and says which. Does nothing while another process
    /// migrates.
    ///
    /// # Errors
    /// When the database can't be reached. What can't be made is logged, and left out.
    pub async fn put_back(&self, differences: &[Difference]) -> Result<Vec<String>, MigrationError> {
        let mut lost: Vec<&Difference> = differences.iter().filter(|found| found.can_be_put_back()).collect();
        lost.sort_by_key(|found| ORDER.iter().position(|kind| found.object.starts_with(kind)));
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        match &self.pool {
            Pool::Postgres(pool) => migrate::put_back_on_postgres(pool, &self.layout, &lost).await,
            Pool::Sqlite { writer, .. } => {
                let mut tx = writer.begin_with("begin immediate").await?;
                for statement in lost.iter().flat_map(|found| &found.repair) {
                    sqlx::raw_sql(AssertSqlSafe(statement.clone()))
                        .execute(&mut *tx)
                        .await?;
                }
                tx.commit().await?;
                Ok(lost.into_iter().map(|found| found.object.clone()).collect())
            }
        }
    }

    /// Forgets columns of the app's that are gone and that usher works without.
    ///
    /// # Errors
    /// When the database can't be written.
    pub async fn forget(&self, differences: &[Difference]) -> Result<()> {
        let gone: Vec<&str> = differences
            .iter()
            .filter(|found| !found.is_needed)
            .map(|found| found.object.as_str())
            .collect();
        // Only an app's own tables have such columns.
        if let (false, Pool::Postgres(pool)) = (gone.is_empty(), &self.pool) {
            sqlx::query("delete from usher_catalog where kind || ' ' || name = any ($1)")
                .bind(gone)
                .execute(pool)
                .await?;
        }
        Ok(())
    }
}

pub(super) async fn look_on_postgres(
    conn: &mut PgConnection,
    app_schema: Option<&str>,
) -> sqlx::Result<Vec<Difference>> {
    let looked = sqlx::query_as(on_postgres(COMPARE))
        .bind(app_schema)
        .bind(false)
        .fetch_all(conn)
        .await;
    let rows: Vec<Row> = match looked {
        Err(error) if code_of(&error).as_deref() == Some("42P01") => {
            let says = "the table usher.usher_catalog is missing; restore usher's schema from a backup".to_owned();
            return Ok(vec![Difference::named("table usher.usher_catalog", says)]);
        }
        looked => looked?,
    };
    let lost: Vec<String> = rows
        .iter()
        .filter(|row| row.kind == "table" && row.state == "missing")
        .map(|row| row.name.clone())
        .collect();
    let is_told = |row: &Row| row.kind == "table" || row.of_table.as_ref().is_none_or(|table| !lost.contains(table));
    Ok(rows
        .into_iter()
        .filter(is_told)
        .map(|row| row.difference(Dialect::Postgres))
        .collect())
}

/// Forgets what was noted, before a migration changes it: a run that is cut off must not leave definitions that would be put back
/// over newer ones. What differed before it and is needed stays.
pub(super) async fn clear_on_postgres(conn: &mut PgConnection, before: &[Difference]) -> sqlx::Result<()> {
    let kept: Vec<&str> = before
        .iter()
        .filter(|found| found.is_needed)
        .map(|found| found.object.as_str())
        .collect();
    sqlx::query("delete from usher_catalog where kind || ' ' || name <> all ($1)")
        .bind(kept)
        .execute(conn)
        .await
        .map(drop)
}

/// Notes what there is after a migration.
pub(super) async fn note_on_postgres(
    conn: &mut PgConnection,
    app_schema: Option<&str>,
    before: &[Difference],
) -> sqlx::Result<()> {
    clear_on_postgres(conn, before).await?;
    sqlx::query(on_postgres(NOTE))
        .bind(app_schema)
        .bind(true)
        .execute(conn)
        .await
        .map(drop)
}

pub(super) async fn note_on_sqlite(conn: &mut SqliteConnection) -> sqlx::Result<()> {
    sqlx::query("delete from usher_catalog").execute(&mut *conn).await?;
    sqlx::query(on_sqlite(NOTE)).execute(conn).await.map(drop)
}

impl Row {
    fn difference(self, dialect: Dialect) -> Difference {
        Difference {
            says: self.sentence(),
            is_needed: self.is_needed,
            repair: self.repair(dialect),
            object: format!("{} {}", self.kind, self.name),
        }
    }

    fn sentence(&self) -> String {
        let Self { kind, name, state, .. } = self;
        match (kind.as_str(), state.as_str()) {
            ("table", "missing") => format!("the table {name} is missing; restore it from a backup"),
            ("table", _) => format!("the table {name} is not as usher made it; restore it from a backup"),
            ("column", "missing") if !self.is_needed => {
                format!("the column {name} is gone; usher works without it, and usher migrate forgets it")
            }
            ("column", "missing") => {
                format!(
                    "the column {name} is missing or has another name; bring it back, or restore the table from a backup"
                )
            }
            ("column", "added") => format!(
                "the column {name} must not be null and has no default, so usher can't add rows; give it a default, or drop it"
            ),
            ("column", _) => format!("the column {name} has another type, or may be null now; change it back"),
            ("constraint", "missing") => format!("the constraint {name} is missing; restore the table from a backup"),
            ("constraint", _) => format!("the constraint {name} is not validated; validate it"),
            (kind, state) => format!("the {kind} {name} is {state}; usher serve and usher migrate make it again"),
        }
    }

    fn repair(&self, dialect: Dialect) -> Vec<String> {
        let Some(definition) = &self.definition else {
            return Vec::new();
        };
        let Self { kind, name, .. } = self;
        match (kind.as_str(), dialect) {
            ("table", _) => Vec::new(),
            // Without blocking what writes to the table meanwhile. An index that was left invalid goes first.
            ("index", Dialect::Postgres) => vec![
                format!("drop index concurrently if exists {name}"),
                definition.replacen(" INDEX ", " index concurrently if not exists ", 1),
            ],
            ("trigger", Dialect::Postgres) => vec![format!("drop trigger if exists {name}; {definition}")],
            (_, Dialect::Postgres) => vec![definition.clone()],
            (kind, Dialect::Sqlite) => vec![format!("drop {kind} if exists {name}"), definition.clone()],
        }
    }
}
