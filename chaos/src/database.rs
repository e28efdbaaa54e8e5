//! A way into the database past usher, to see what is true.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, FromRow, PgConnection, SqliteConnection};
use uuid::Uuid;

/// Where it is.
#[derive(Debug, Clone)]
pub enum Place {
    /// The server's address, past the proxy.
    Postgres(String),
    /// The file.
    Sqlite(PathBuf),
}

/// A connection.
pub enum Database {
    /// To the server.
    Postgres(PgConnection),
    /// To the file.
    Sqlite(SqliteConnection),
}

/// An event of the inbox.
#[derive(FromRow)]
pub struct EventRow {
    /// The message id.
    pub svix_id: String,
    /// When its effect was committed.
    pub processed_at: Option<DateTime<Utc>>,
    /// Why it could not be processed.
    pub error: Option<String>,
}

/// What is stored of a person.
#[derive(FromRow)]
pub struct PersonRow {
    /// `user_…`
    pub clerk_user_id: String,
    /// The version that is stored.
    pub clerk_updated_at: Option<DateTime<Utc>>,
    /// Deleted in Clerk.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// An address of a person.
#[derive(FromRow)]
pub struct AddressRow {
    /// Whose.
    pub clerk_user_id: String,
    /// What addresses are compared by.
    pub email_key: String,
    /// Verified.
    pub verified: bool,
}

/// A live membership.
#[derive(FromRow)]
pub struct MemberRow {
    /// Whose.
    pub clerk_user_id: String,
    /// Of which organization or project.
    pub place_id: Uuid,
    /// Of which organization in the end.
    pub organization_id: Uuid,
    /// Whether the person is deleted.
    pub is_of_the_deleted: bool,
}

/// An invite.
#[derive(FromRow)]
pub struct InviteRow {
    /// Its id.
    pub id: Uuid,
    /// Where it leads.
    pub organization_id: Uuid,
    /// Where it leads, for a project.
    pub project_id: Option<Uuid>,
    /// Whom it is for.
    pub email_key: String,
    /// Where it stands.
    pub status: String,
    /// `auto`, `ask` or `default`.
    pub acceptance: String,
    /// When it was made or made fresh.
    pub invited_at: DateTime<Utc>,
    /// Who accepted.
    pub accepted_by: Option<String>,
    /// Whether somebody invited who can be told.
    pub has_inviter: bool,
}

/// A mail, sent or to be sent.
#[derive(FromRow)]
pub struct DeliveryRow {
    /// Of which invite.
    pub invite_id: Uuid,
    /// `invite`, `reminder` or `accepted_notice`.
    pub kind: String,
    /// Where it goes.
    pub to_email: String,
    /// Where it stands.
    pub status: String,
    /// What it is known by.
    pub message_id: String,
    /// The last trouble.
    pub last_error: Option<String>,
}

/// A sign-in.
#[derive(FromRow)]
pub struct SessionRow {
    /// `sess_…`
    pub clerk_session_id: String,
    /// `active` or `ended`.
    pub status: String,
}

/// Jobs of one kind that are not done.
#[derive(FromRow)]
pub struct OpenJobs {
    /// Their queue.
    pub job_type: String,
    /// Where they stand.
    pub status: String,
    /// Whether their time has come.
    pub is_due: bool,
    /// How many.
    pub count: i64,
}

impl Place {
    /// Connects.
    pub async fn connect(&self) -> sqlx::Result<Database> {
        Ok(match self {
            Self::Postgres(url) => Database::Postgres(PgConnection::connect(url).await?),
            Self::Sqlite(file) => {
                let options = SqliteConnectOptions::new().filename(file);
                let patient = options.busy_timeout(std::time::Duration::from_secs(30));
                Database::Sqlite(patient.connect().await?)
            }
        })
    }
}

impl Database {
    /// All rows of a query that both databases understand.
    pub async fn rows<T>(&mut self, text: &str) -> sqlx::Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
    {
        let text = AssertSqlSafe(text.to_owned());
        match self {
            Self::Postgres(conn) => sqlx::query_as(text).fetch_all(conn).await,
            Self::Sqlite(conn) => sqlx::query_as(text).fetch_all(conn).await,
        }
    }

    /// Runs a statement.
    pub async fn run(&mut self, text: &str) -> sqlx::Result<()> {
        let text = AssertSqlSafe(text.to_owned());
        match self {
            Self::Postgres(conn) => sqlx::raw_sql(text).execute(conn).await.map(drop),
            Self::Sqlite(conn) => sqlx::raw_sql(text).execute(conn).await.map(drop),
        }
    }

    /// Jobs of usher's that are not done. The queue's tables are named differently.
    pub async fn open_jobs(&mut self) -> sqlx::Result<Vec<OpenJobs>> {
        let (jobs, now) = match self {
            Self::Postgres(_) => ("apalis.jobs", "now()"),
            Self::Sqlite(_) => ("Jobs", "unixepoch()"),
        };
        let text = format!(
            "select job_type, status, run_at <= {now} as is_due, count(*) as count from {jobs}
             where status <> 'Done' and job_type not like 'app-%' group by 1, 2, 3 order by 1, 2, 3"
        );
        self.rows(&text).await
    }

    /// Makes jobs due that wait for their next attempt; how many there were.
    pub async fn hasten_jobs(&mut self) -> sqlx::Result<u64> {
        Ok(match self {
            Self::Postgres(conn) => {
                let text =
                    "update apalis.jobs set run_at = now() where status in ('Pending', 'Failed') and run_at > now()
                     and job_type not like 'app-%'";
                sqlx::query(text).execute(conn).await?.rows_affected()
            }
            Self::Sqlite(conn) => {
                let text = "update Jobs set run_at = unixepoch() where status in ('Pending', 'Failed') and run_at > unixepoch()
                     and job_type not like 'app-%'";
                sqlx::query(text).execute(conn).await?.rows_affected()
            }
        })
    }
}
