//! A database per test.

use std::path::Path;

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, PgPool, SqlitePool};
use tempfile::TempDir;
use usher::clock::Clock;
use usher::store::{Layout, MigrationError, Rules, Store};
use usher_testkit::database::{Database, Pool};
use uuid::Uuid;

/// A database of one test's own, its schema in place.
pub struct TestDatabase {
    pub url: String,
    pub pool: TestPool,
    /// Where the test may keep files; gone with it.
    pub folder: TempDir,
}

/// A way into the database beside the one under test.
#[derive(Clone)]
pub struct TestPool(Pool);

impl TestDatabase {
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = Database::sqlite(folder.path());
        migrate(&database.url, &Layout::default(), &Rules::default())
            .await
            .expect("the schema");
        Self::of(database, folder).await
    }

    /// From a backup.
    pub async fn sqlite_from(file: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = Database::sqlite(folder.path());
        let path = database.url.trim_start_matches("sqlite://");
        std::fs::copy(file, path.split('?').next().expect("a path")).expect("a copy");
        Self::of(database, folder).await
    }

    pub async fn postgres() -> Self {
        let fill = async |url: &str| {
            migrate(url, &Layout::default(), &Rules::default())
                .await
                .expect("the schema")
        };
        let copy = Database::postgres_copy(&server(), "usher_template", fill).await;
        Self::of(copy.expect("a copy"), tempfile::tempdir().expect("a temporary folder")).await
    }

    /// A Postgres database in which usher has never been.
    pub async fn empty_postgres() -> Self {
        let database = Database::postgres(&server()).await.expect("a database");
        Self::of(database, tempfile::tempdir().expect("a temporary folder")).await
    }

    async fn of(database: Database, folder: TempDir) -> Self {
        Self {
            pool: TestPool(Pool::connect(&database.url).await.expect("a second way in")),
            url: database.url,
            folder,
        }
    }

    /// The address for another role.
    pub fn url_of_role(&self, role: &str) -> String {
        self.url.replacen("usher@", &format!("{role}@"), 1)
    }

    /// Brings the schema up to date, as `usher migrate` does.
    pub async fn migrate(&self, rules: &Rules) -> Result<(), MigrationError> {
        migrate(&self.url, &Layout::default(), rules).await
    }

    /// Sets it up beside the app's tables, as `usher migrate` does with `USHER_TABLES=shared`.
    pub async fn migrate_shared(&self, rules: &Rules) -> Result<(), MigrationError> {
        migrate(&self.url, &Layout::shared("public"), rules).await
    }
}

async fn migrate(url: &str, layout: &Layout, rules: &Rules) -> Result<(), MigrationError> {
    let store = Store::open_with(url, layout, Clock::System).await.expect("a store");
    let outcome = store.migrate(rules).await;
    store.close().await;
    outcome
}

#[expect(
    clippy::disallowed_methods,
    reason = "where the throw-away Postgres is, only the environment tells"
)]
fn server() -> String {
    std::env::var("USHER_TEST_POSTGRES_URL").expect("USHER_TEST_POSTGRES_URL names no Postgres; `make test` starts one")
}

impl TestPool {
    /// What differs between the two.
    pub fn pick<T>(&self, postgres: T, sqlite: T) -> T {
        self.0.pick(postgres, sqlite)
    }

    /// The queue's table.
    pub fn jobs(&self) -> &'static str {
        self.0.jobs()
    }

    /// An id as it is written in SQL.
    pub fn literal(&self, id: Uuid) -> String {
        self.pick(format!("'{id}'"), format!("x'{}'", id.simple()))
    }

    pub fn pg(&self) -> &PgPool {
        match &self.0 {
            Pool::Postgres(pool) => pool,
            Pool::Sqlite(_) => panic!("this is a story of Postgres"),
        }
    }

    pub fn sqlite(&self) -> &SqlitePool {
        match &self.0 {
            Pool::Sqlite(pool) => pool,
            Pool::Postgres(_) => panic!("this is a story of SQLite"),
        }
    }

    /// Runs statements, as many as there are.
    pub async fn execute(&self, text: &str) {
        self.try_execute(text).await.expect("a statement");
    }

    pub async fn try_execute(&self, text: &str) -> sqlx::Result<u64> {
        self.0.execute(text).await
    }

    /// All rows of a query.
    pub async fn rows<T>(&self, text: &str) -> Vec<T>
    where
        T: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
    {
        self.0.rows(text).await.expect("rows")
    }

    /// How many rows a table has that fulfil a condition.
    pub async fn count(&self, from_where: &str) -> i64 {
        self.0.count(from_where).await.expect("a count")
    }

    /// One text, such as a column of a single row.
    pub async fn text(&self, text: &str) -> Option<String> {
        self.0.value(text).await.expect("a row")
    }

    /// Every value of a table's columns as one text: for looking for what must not be there.
    pub async fn dump(&self, table: &str) -> String {
        let rows = match &self.0 {
            Pool::Postgres(_) => format!("string_agg(t::text, ' ') from {table} t"),
            Pool::Sqlite(_) => {
                let columns = format!("select 'quote(' || name || ')' from pragma_table_info('{table}')");
                let columns: Vec<(String,)> = self.rows(&columns).await;
                let columns: Vec<_> = columns.into_iter().map(|(column,)| column).collect();
                format!("group_concat({}, ' ') from {table}", columns.join(" || ' ' || "))
            }
        };
        self.text(&format!("select {rows}")).await.unwrap_or_default()
    }
}
