//! Writing to an app's own tables (`USHER_TABLES=shared`): they may lack columns that usher's own have, need values that usher
//! does not have, and refuse what usher writes.

use serde_json::Value;
use sqlx::postgres::PgDatabaseError;
use uuid::Uuid;

use super::rows::{app_time, sql};
use super::{Conn, Result, StoreError, Tx};

/// Why an app's tables did not take what usher wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppRefusal {
    /// They need a value that usher does not have; the columns.
    #[error("{0} must not be null, and usher has no value for it. Create the row in the app, then call again.")]
    MustCreate(String),
    #[error("the app's admins need a name or an address, and Clerk has not told of the person yet")]
    NotSynced,
    /// A check, a unique index, a type or a trigger of the app's is against it; its name.
    #[error("{0} forbids it. Change what you ask for, or what the app's tables allow.")]
    Refused(String),
}

impl AppRefusal {
    /// Of an error while usher wrote to the app's tables. The message of a check or a unique index would show the row's values, so
    /// only its name is kept.
    fn of(error: &StoreError) -> Option<Self> {
        let StoreError(sqlx::Error::Database(error)) = error else {
            return None;
        };
        let error = error.try_downcast_ref::<PgDatabaseError>()?;
        let place = || {
            let (table, named) = (error.table()?, error.constraint().or(error.column())?);
            Some(format!("{named} on {table}"))
        };
        match (error.code(), error.detail()) {
            ("US409", Some("not_synced")) => Some(Self::NotSynced),
            ("US409", Some("app_must_create")) => Some(Self::MustCreate(error.message().to_owned())),
            // A row that is referred to was deleted just now.
            ("23503", _) => None,
            ("23502", _) => Some(Self::MustCreate(format!("{}.{}", error.table()?, error.column()?))),
            ("P0001", _) => Some(Self::Refused("a trigger".to_owned())),
            (code, _) if code.starts_with("22") || code.starts_with("23") => {
                Some(Self::Refused(place().unwrap_or_else(|| "a column's type".to_owned())))
            }
            _ => None,
        }
    }
}

/// What the transaction had noted when it set a savepoint.
#[derive(Debug)]
#[must_use]
pub struct Savepoint {
    history: usize,
    outgoing: usize,
    enqueued: usize,
}

/// Which of its times a table of memberships has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub created: bool,
    pub updated: bool,
}

impl Times {
    /// What sets the time of the last change to a parameter.
    pub(super) fn touch(self, parameter: &str) -> String {
        if self.updated {
            format!(", updated_at = {parameter}")
        } else {
            String::new()
        }
    }
}

impl Tx {
    /// The times of a table of memberships; an app may have dropped those of its own.
    pub(super) async fn times_of(&mut self, table: &str) -> Result<Times> {
        let (Conn::Postgres(conn), true) = (&mut self.conn, self.is_shared) else {
            let (created, updated) = (true, true);
            return Ok(Times { created, updated });
        };
        let text =
            "select usher_has_column(t, 'created_at'), usher_has_column(t, 'updated_at') from to_regclass($1) as t";
        let (created, updated) = sqlx::query_as(text).bind(table).fetch_one(&mut **conn).await?;
        Ok(Times { created, updated })
    }

    /// Since when a membership `m` is there.
    pub(super) fn since(&self) -> String {
        let column = if self.is_shared {
            "(to_jsonb(m) ->> 'created_at')"
        } else {
            "m.created_at"
        };
        app_time(self.dialect(), column)
    }

    /// Whether the app keeps its own organizations, projects and people.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// A point to which the transaction can go back, if an app's tables refuse what is written next; [`Tx::keep`] is told what came
    /// of it.
    pub async fn savepoint(&mut self) -> Result<Savepoint> {
        if let (Conn::Postgres(conn), true) = (&mut self.conn, self.is_shared) {
            sqlx::query("savepoint usher_attempt").execute(&mut **conn).await?;
        }
        Ok(Savepoint {
            history: self.history.len(),
            outgoing: self.outgoing.len(),
            enqueued: self.enqueued.len(),
        })
    }

    /// Keeps what was done since the savepoint. If an app's tables refused it, all of it is undone and the transaction goes on; every
    /// other error stays one.
    pub async fn keep<T>(
        &mut self,
        savepoint: Savepoint,
        done: Result<T>,
    ) -> Result<std::result::Result<T, AppRefusal>> {
        let (Conn::Postgres(conn), true) = (&mut self.conn, self.is_shared) else {
            return done.map(Ok);
        };
        let done = match done {
            // What the app checks at a commit is checked here, where it can still be undone.
            Ok(done) => sqlx::raw_sql("set constraints all immediate; release savepoint usher_attempt")
                .execute(&mut **conn)
                .await
                .map(|_| done)
                .map_err(StoreError),
            Err(error) => Err(error),
        };
        let error = match done {
            Ok(done) => return Ok(Ok(done)),
            Err(error) => error,
        };
        let refusal = AppRefusal::of(&error).ok_or(error)?;
        sqlx::query("rollback to savepoint usher_attempt")
            .execute(&mut **conn)
            .await?;
        self.history.truncate(savepoint.history);
        self.outgoing.truncate(savepoint.outgoing);
        self.enqueued.truncate(savepoint.enqueued);
        Ok(Err(refusal))
    }

    /// A condition for the rows of a table that are not deleted, where the table itself is read, to be locked. An app's may have
    /// no such column.
    pub(super) fn is_live(&self, table: &str) -> String {
        if self.is_shared {
            format!("to_jsonb({table}) ->> 'deleted_at' is null")
        } else {
            "deleted_at is null".to_owned()
        }
    }

    /// Makes a row of an app's table, which does not exist yet; `false` if it does by now.
    pub(super) async fn insert_into_app(&mut self, table: &str, fields: &Value) -> Result<bool> {
        let Conn::Postgres(conn) = &mut self.conn else {
            return Ok(false); // An app's tables are on Postgres.
        };
        let text = format!("select usher_insert('{table}', $1)");
        Ok(sqlx::query_scalar(sql(text))
            .bind(fields)
            .fetch_one(&mut **conn)
            .await?)
    }

    /// Changes the rows of an app's table that fulfil a condition on the ids `$1` and are not deleted; returns the ids of these rows.
    pub(super) async fn update_app(
        &mut self,
        table: &str,
        which: &str,
        ids: &[Uuid],
        fields: &Value,
    ) -> Result<Vec<Uuid>> {
        let live = self.is_live(table);
        let Conn::Postgres(conn) = &mut self.conn else {
            return Ok(Vec::new());
        };
        let text = format!("select id from {table} where {which} and {live} order by id for no key update");
        let ids: Vec<Uuid> = sqlx::query_scalar(sql(text)).bind(ids).fetch_all(&mut **conn).await?;
        let text = format!("select usher_update('{table}', $1, $2)");
        sqlx::query(sql(text))
            .bind(fields)
            .bind(&ids)
            .execute(&mut **conn)
            .await?;
        Ok(ids)
    }
}
