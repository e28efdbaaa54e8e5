//! Databases to throw away, on SQLite and Postgres, and a way into them beside usher's own. The schema is the caller's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, FromRow, PgConnection, PgPool, SqlitePool};

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file.
    Sqlite,
    /// A database on a server.
    Postgres,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "Postgres",
        })
    }
}

/// A database of one's own.
#[derive(Debug)]
pub struct Database {
    /// For `USHER_DATABASE_URL`.
    pub url: String,
    home: Home,
}

#[derive(Debug)]
enum Home {
    File(PathBuf),
    Server { url: String, name: String },
}

impl Database {
    /// A file in `folder` that is not there yet.
    pub fn sqlite(folder: &Path) -> Self {
        let file = folder.join(format!("{}.db", unique_name()));
        Self {
            url: format!("sqlite://{}", file.display()),
            home: Home::File(file),
        }
    }

    /// An empty database on a server whose superuser we are.
    ///
    /// # Errors
    /// When the server can't be used.
    pub async fn postgres(server: &str) -> anyhow::Result<Self> {
        Self::postgres_from(server, "template1").await
    }

    /// A copy of the database `template`, which `fill` fills if it is not there yet. Faster than to fill each.
    ///
    /// # Errors
    /// When the server can't be used.
    pub async fn postgres_copy(server: &str, template: &str, fill: impl AsyncFnOnce(&str)) -> anyhow::Result<Self> {
        // Tests may be processes of their own; the lock lets one of them make the template.
        let mut admin = connect_to_server(server).await?;
        sqlx::query("select pg_advisory_lock(7457)").execute(&mut admin).await?;
        let exists: bool = sqlx::query_scalar("select exists (select 1 from pg_database where datname = $1)")
            .bind(template)
            .fetch_one(&mut admin)
            .await?;
        if !exists {
            let filled = Self::postgres(server).await?;
            fill(&filled.url).await;
            if let Home::Server { name, .. } = &filled.home {
                let text = format!("alter database {name} rename to {template}");
                sqlx::query(AssertSqlSafe(text)).execute(&mut admin).await?;
            }
        }
        let copy = Self::postgres_from(server, template).await?;
        admin.close().await?;
        Ok(copy)
    }

    async fn postgres_from(server: &str, template: &str) -> anyhow::Result<Self> {
        let name = unique_name();
        execute_on_server(server, format!("create database {name} template {template}")).await?;
        let options: PgConnectOptions = server.parse()?;
        Ok(Self {
            url: options.database(&name).to_url_lossy().to_string(),
            home: Home::Server {
                url: server.to_owned(),
                name,
            },
        })
    }

    /// Leaves nothing behind.
    ///
    /// # Errors
    /// When the server or the file can't be reached.
    pub async fn remove(self) -> anyhow::Result<()> {
        match self.home {
            Home::Server { url, name } => execute_on_server(&url, format!("drop database {name} with (force)")).await,
            Home::File(file) => {
                for more in ["db-wal", "db-shm"] {
                    // Where the last connection was closed in order they are gone.
                    let _ = std::fs::remove_file(file.with_extension(more));
                }
                Ok(std::fs::remove_file(&file)?)
            }
        }
    }
}

/// Neither of a test beside this one, nor of an earlier one on the same server.
fn unique_name() -> String {
    format!("usher_test_{:016x}", rand::random::<u64>())
}

async fn connect_to_server(server: &str) -> anyhow::Result<PgConnection> {
    PgConnection::connect(server)
        .await
        .context("the Postgres server for tests can't be used")
}

async fn execute_on_server(server: &str, statement: String) -> anyhow::Result<()> {
    let mut admin = connect_to_server(server).await?;
    sqlx::query(AssertSqlSafe(statement)).execute(&mut admin).await?;
    Ok(admin.close().await?)
}

/// usher's own tables are found without their schema, where there is one; else the app's are.
async fn find_tables(conn: &mut PgConnection) -> sqlx::Result<()> {
    let path = "select set_config('search_path', 'usher, public', false) where to_regnamespace('usher') is not null";
    sqlx::query(path).execute(conn).await.map(drop)
}

/// Connections to either.
#[derive(Debug, Clone)]
pub enum Pool {
    /// To a server.
    Postgres(PgPool),
    /// To a file.
    Sqlite(SqlitePool),
}

/// Runs one body on either pool: `on_pool!(&pool, |pool| sqlx::query(text).execute(pool).await)`.
#[macro_export]
macro_rules! on_pool {
    ($pool:expr, |$connections:ident| $body:expr) => {
        match $pool {
            $crate::database::Pool::Postgres($connections) => $body,
            $crate::database::Pool::Sqlite($connections) => $body,
        }
    };
}

impl Pool {
    /// Connects, with as many connections as are wanted at once.
    ///
    /// # Errors
    /// When there is no such database.
    pub async fn connect(url: &str) -> sqlx::Result<Self> {
        if url.starts_with("sqlite:") {
            // A file that another process holds is waited for.
            let options: SqliteConnectOptions = url.parse()?;
            let options = options.busy_timeout(Duration::from_secs(30));
            let pool = SqlitePoolOptions::new().test_before_acquire(false);
            Ok(Self::Sqlite(pool.connect_with(options).await?))
        } else {
            // Each time: usher may have been set up since the last.
            let pool = PgPoolOptions::new()
                .test_before_acquire(false)
                .after_connect(|conn, _| Box::pin(find_tables(conn)))
                .before_acquire(|conn, _| {
                    Box::pin(async move {
                        find_tables(conn).await?;
                        Ok(true)
                    })
                });
            Ok(Self::Postgres(pool.connect(url).await?))
        }
    }

    /// Closes all connections.
    pub async fn close(self) {
        on_pool!(self, |pool| pool.close().await);
    }

    /// What differs between the two.
    pub fn pick<T>(&self, postgres: T, sqlite: T) -> T {
        match self {
            Self::Postgres(_) => postgres,
            Self::Sqlite(_) => sqlite,
        }
    }

    /// The queue's table, which apalis names differently.
    pub fn jobs(&self) -> &'static str {
        self.pick("apalis.jobs", "Jobs")
    }

    /// Runs statements, as many as there are in `text`.
    ///
    /// # Errors
    /// The database's.
    pub async fn execute(&self, text: &str) -> sqlx::Result<u64> {
        let text = AssertSqlSafe(text.to_owned());
        Ok(on_pool!(self, |pool| sqlx::raw_sql(text)
            .execute(pool)
            .await?
            .rows_affected()))
    }

    /// All rows of a query that both databases understand.
    ///
    /// # Errors
    /// The database's.
    pub async fn rows<T>(&self, text: &str) -> sqlx::Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
    {
        let text = AssertSqlSafe(text.to_owned());
        on_pool!(self, |pool| sqlx::query_as(text).fetch_all(pool).await)
    }

    /// The value that a query's only row holds.
    ///
    /// # Errors
    /// The database's.
    pub async fn value<T>(&self, text: &str) -> sqlx::Result<T>
    where
        (T,): for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow>,
        T: Send + Unpin,
    {
        let text = AssertSqlSafe(text.to_owned());
        let (value,) = on_pool!(self, |pool| sqlx::query_as::<_, (T,)>(text).fetch_one(pool).await)?;
        Ok(value)
    }

    /// How many rows there are in a table, with a condition if need be.
    ///
    /// # Errors
    /// The database's.
    pub async fn count(&self, from_where: &str) -> sqlx::Result<i64> {
        self.value(&format!("select count(*) from {from_where}")).await
    }
}
