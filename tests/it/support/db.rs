//! A database per test.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool, SqlitePool};
use tempfile::TempDir;
use usher::clock::Clock;
use usher::store::{MigrationError, Rules, Store};

/// A database of one test's own, its schema in place.
pub struct TestDatabase {
    pub url: String,
    pub pool: TestPool,
    /// Where the test may keep files; gone with it.
    pub folder: TempDir,
}

/// A way into the database beside the one under test.
#[derive(Clone)]
pub enum TestPool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// Runs one query text on either pool.
macro_rules! on_pool {
    ($pool:expr, |$connection:ident| $body:expr) => {
        match $pool {
            $crate::support::db::TestPool::Postgres($connection) => $body,
            $crate::support::db::TestPool::Sqlite($connection) => $body,
        }
    };
}
pub(crate) use on_pool;

impl TestDatabase {
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite://{}", folder.path().join("usher.db").display());
        let store = Store::open(&url, Clock::System).await.expect("a SQLite file");
        store.migrate(&Rules::default()).await.expect("the schema");
        store.close().await;
        let pool = SqlitePool::connect(&url).await.expect("a second way in");
        Self {
            url,
            pool: TestPool::Sqlite(pool),
            folder,
        }
    }

    pub async fn postgres() -> Self {
        let url = copy_of_template().await;
        let pool = PgPool::connect(&url).await.expect("a second way in");
        Self {
            url,
            pool: TestPool::Postgres(pool),
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }
}

impl TestDatabase {
    /// A Postgres database in which usher has never been.
    pub async fn empty_postgres() -> Self {
        let name = format!("usher_test_{}", unique());
        let mut admin = admin().await;
        sqlx::query(AssertSqlSafe(format!("create database {name}")))
            .execute(&mut admin)
            .await
            .expect("a database");
        let url = address_of(&name);
        Self {
            pool: TestPool::Postgres(PgPool::connect(&url).await.expect("a second way in")),
            url,
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// The address for another role.
    pub fn url_of_role(&self, role: &str) -> String {
        self.url.replacen("usher@", &format!("{role}@"), 1)
    }

    /// Brings the schema up to date, as `usher migrate` does.
    pub async fn migrate(&self, rules: &Rules) -> Result<(), MigrationError> {
        let store = Store::open(&self.url, Clock::System).await.expect("a store");
        let outcome = store.migrate(rules).await;
        store.close().await;
        outcome
    }
}

impl TestPool {
    /// Several statements, Postgres only.
    pub async fn script(&self, text: &str) {
        sqlx::raw_sql(AssertSqlSafe(text.to_owned()))
            .execute(self.pg())
            .await
            .expect("a script");
    }

    pub fn pg(&self) -> &PgPool {
        match self {
            Self::Postgres(pool) => pool,
            Self::Sqlite(_) => panic!("this is a story of Postgres"),
        }
    }

    /// How many rows a table has that fulfil a condition.
    pub async fn count(&self, from_where: &str) -> i64 {
        let text = format!("select count(*) from {from_where}");
        on_pool!(self, |pool| sqlx::query_scalar(AssertSqlSafe(text))
            .fetch_one(pool)
            .await)
        .expect("a count")
    }

    pub async fn execute(&self, text: &str) {
        let text = text.to_owned();
        on_pool!(self, |pool| sqlx::query(AssertSqlSafe(text))
            .execute(pool)
            .await
            .map(drop))
        .expect("a statement");
    }

    /// One text, such as a column of a single row.
    pub async fn text(&self, text: &str) -> Option<String> {
        let text = text.to_owned();
        on_pool!(self, |pool| sqlx::query_scalar(AssertSqlSafe(text))
            .fetch_one(pool)
            .await)
        .expect("a row")
    }

    /// Every value of a table's columns as one text: for looking for what must not be there.
    pub async fn dump(&self, table: &str) -> String {
        match self {
            Self::Postgres(pool) => {
                let text = format!("select coalesce(string_agg(t::text, ' '), '') from {table} t");
                sqlx::query_scalar(AssertSqlSafe(text))
                    .fetch_one(pool)
                    .await
                    .expect("a dump")
            }
            Self::Sqlite(pool) => {
                let columns: Vec<String> = sqlx::query_scalar("select name from pragma_table_info($1)")
                    .bind(table)
                    .fetch_all(pool)
                    .await
                    .expect("columns");
                let columns: Vec<_> = columns.iter().map(|column| format!("quote({column})")).collect();
                let text = format!(
                    "select coalesce(group_concat({}, ' '), '') from {table}",
                    columns.join(" || ' ' || ")
                );
                sqlx::query_scalar(AssertSqlSafe(text))
                    .fetch_one(pool)
                    .await
                    .expect("a dump")
            }
        }
    }
}

fn unique() -> String {
    let bytes: [u8; 8] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "where the throw-away Postgres is, only the environment tells"
)]
fn server() -> PgConnectOptions {
    let url = std::env::var("USHER_TEST_POSTGRES_URL")
        .expect("USHER_TEST_POSTGRES_URL names no Postgres; `make test` starts one");
    url.parse().expect("USHER_TEST_POSTGRES_URL is a Postgres address")
}

async fn admin() -> PgConnection {
    PgConnection::connect_with(&server())
        .await
        .expect("the Postgres of USHER_TEST_POSTGRES_URL")
}

fn address_of(database: &str) -> String {
    server().database(database).to_url_lossy().to_string()
}

/// A migrated database, made once per server and copied for each test: faster than migrating each.
async fn copy_of_template() -> String {
    const TEMPLATE: &str = "usher_template";
    let mut admin = admin().await;
    // Tests may be processes of their own; the lock lets one of them make the template.
    sqlx::query("select pg_advisory_lock(7457)")
        .execute(&mut admin)
        .await
        .expect("a lock");
    let exists: bool = sqlx::query_scalar("select exists (select 1 from pg_database where datname = $1)")
        .bind(TEMPLATE)
        .fetch_one(&mut admin)
        .await
        .expect("an answer");
    if !exists {
        let making = format!("{TEMPLATE}_making");
        for text in [
            format!("drop database if exists {making}"),
            format!("create database {making}"),
        ] {
            sqlx::query(AssertSqlSafe(text))
                .execute(&mut admin)
                .await
                .expect("a database");
        }
        let store = Store::open(&address_of(&making), Clock::System).await.expect("a store");
        store.migrate(&Rules::default()).await.expect("the schema");
        store.close().await;
        let text = format!("alter database {making} rename to {TEMPLATE}");
        sqlx::query(AssertSqlSafe(text))
            .execute(&mut admin)
            .await
            .expect("a template");
    }
    let name = format!("usher_test_{}", unique());
    let text = format!("create database {name} template {TEMPLATE}");
    sqlx::query(AssertSqlSafe(text))
        .execute(&mut admin)
        .await
        .expect("a copy");
    admin.close().await.expect("a good-bye");
    address_of(&name)
}
