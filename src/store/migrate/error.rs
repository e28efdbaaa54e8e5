//! Why a schema could not be migrated.

use std::borrow::Cow;
use std::io;

use sqlx::migrate::MigrateError;

use super::locks::HeldLock;
use crate::store::StoreError;
use crate::store::error::code_of;

/// What PgBouncer and Supavisor say of a wrong login.
const REFUSED_BY_POOLER: &[&str] = &[
    "authentication failed",
    "no such user",
    "no such database",
    "user not found",
];

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
    /// Another transaction holds a lock for too long.
    #[error("{0}; end its transaction, or run this again later")]
    Locked(HeldLock),
    /// Every other error of the database.
    #[error("the database failed: {0}")]
    Database(#[source] sqlx::Error),
    #[error("this database can't be used: {0}")]
    Validation(Validation),
}

/// Why a database can't be used, in a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Validation {
    #[error("it was set up with {0}, which can't be changed; set that")]
    OtherTables(String),
    #[error("the tables {0} are those of an earlier usher, which this one can't use; give usher a new database")]
    Earlier(String),
    #[error("its schema usher holds something that is not usher's; rename that schema, or use another database")]
    SchemaInUse,
    #[error("what answers at its address is no Postgres server ({0}); see that host and port are the right ones")]
    NoPostgres(String),
    #[error(
        "the server knows no role {0} with the password that was sent; see both, and that @ : / ? # % in a password are \
         percent-encoded in the address"
    )]
    WrongPassword(String),
    /// In the server's words: an unknown role, a role that may not log in, no entry in `pg_hba.conf`.
    #[error(
        "the server refuses the connection: {0}; see the role in the address, sslmode, and the server's pg_hba.conf"
    )]
    ConnectionRefused(String),
    #[error("the server has no database {0}; make it (create database), or correct the name in the address")]
    NoDatabase(String),
    #[error("no encrypted connection can be had: {0}; see sslmode and sslrootcert in the address")]
    NoTls(String),
    /// A standby, or a server or role with `default_transaction_read_only`.
    #[error("the server {}; use the primary's address", if *.0 {
        "is a standby, which can only be read"
    } else {
        "can only be read, since default_transaction_read_only is on for it, the database or the role"
    })]
    ReadOnly(bool),
    /// As PgBouncer's transaction mode, Supabase's port 6543 and Neon's `-pooler` addresses are.
    #[error(
        "a connection pooler in transaction mode is in between, which loses what usher listens to; use Postgres's own \
         address, or the pooler's session mode"
    )]
    TransactionPooling,
    #[error("it is Postgres {0}, and usher needs Postgres 13 or newer; upgrade the server")]
    TooOld(i32),
    /// Not every text can be stored.
    #[error("its encoding is {0}, and usher needs UTF8; make a new database with encoding 'UTF8'")]
    Encoding(String),
    #[error("it has no schema {0}, which USHER_APP_SCHEMA names; set that to the schema of the app's tables")]
    NoSchema(String),
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
    /// Whether the move is finished.
    #[error("{}", if *.0 {
        "its file was moved to Postgres; set USHER_DATABASE_URL to that database"
    } else {
        "its file is being moved to Postgres, and the move was interrupted; run `usher move` again"
    })]
    Moved(bool),
    #[error("the file is usher's alone; to take usher out, delete it")]
    OwnFile,
    #[error("usher is not in it; there is nothing to remove")]
    NotHere,
    #[error("usher is running on it; stop it first, and wait a minute")]
    Running,
    /// A file with another program's tables.
    #[error("the file holds a table {0} that is not usher's; give usher a file of its own")]
    ForeignFile(&'static str),
    /// The app's tables are not as usher needs them.
    #[error("{}; with USHER_TABLES=own usher needs none of the app's tables", .0.join("; "))]
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
    /// Why a connection was not opened. Waiting helps only while the server is away or starting.
    pub(super) fn of_connecting(error: sqlx::Error, role: &str, database: &str) -> Self {
        let code = code_of(&error).map(Cow::into_owned);
        let said = || {
            error
                .as_database_error()
                .map(|error| error.message().to_owned())
                .unwrap_or_default()
        };
        let validation = match (code.as_deref(), &error) {
            // No Postgres server.
            (_, sqlx::Error::Protocol(said)) => Validation::NoPostgres(said.clone()),
            (_, sqlx::Error::Tls(why)) => Validation::NoTls(why.to_string()),
            // A certificate that is not trusted comes as the answer that could not be read.
            (_, sqlx::Error::Io(why)) if why.kind() == io::ErrorKind::InvalidData => Validation::NoTls(why.to_string()),
            (Some("28P01"), _) => Validation::WrongPassword(role.to_owned()),
            (Some("28000" | "42501"), _) => Validation::ConnectionRefused(said()),
            (Some("3D000"), _) => Validation::NoDatabase(database.to_owned()),
            // A pooler in front of it, which says nearly everything by this code.
            (Some("08P01"), _) if REFUSED_BY_POOLER.iter().any(|words| said().contains(words)) => {
                Validation::ConnectionRefused(said())
            }
            _ => return error.into(),
        };
        validation.into()
    }

    /// Whether a later attempt may succeed, because the database is unavailable or locked now.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Locked(_)) || self.sql().is_some_and(StoreError::is_temporary_sql)
    }

    pub(super) fn sql(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Queue(error) | Self::Usher(error) => match error {
                MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Some(error),
                _ => None,
            },
            Self::Database(error) => Some(error),
            Self::ReadOnly(_) | Self::Locked(_) | Self::Validation(_) => None,
        }
    }
}
