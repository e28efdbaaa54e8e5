//! Whether a Postgres server, the way to it and usher's role will do.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool, Row as _};

use super::postgres::connect;
use super::{MigrationError, Validation};
use crate::store::{ACQUIRE_TIMEOUT, Layout};

/// The oldest Postgres with everything that usher and apalis use (`gen_random_uuid`, trusted extensions).
const OLDEST_POSTGRES: i32 = 13;
/// How long a notification may take from one connection to another.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether a connection can be opened that may write.
pub(super) async fn check_connection(pool: &PgPool) -> Result<(), MigrationError> {
    let mut conn = connect(pool).await?;
    let checked = check_writable(&mut conn).await;
    let _ = conn.close().await;
    checked
}

/// Not prepared, like [`backend_pid`].
pub(super) async fn check_writable(conn: &mut PgConnection) -> Result<(), MigrationError> {
    let row = sqlx::raw_sql("select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'")
        .fetch_one(conn)
        .await?;
    let (is_standby, is_read_only): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if is_standby || is_read_only {
        Err(Validation::ReadOnly(is_standby).into())
    } else {
        Ok(())
    }
}

/// A pooler that gives each transaction any connection of the server's: what usher sets on a connection and what it
/// listens to is lost there. Two clients then get the same connection by turns, or no notification arrives.
pub(super) async fn check_pooling(pool: &PgPool, conn: &mut PgConnection) -> Result<(), MigrationError> {
    let mut other = connect(pool).await?;
    let own_pid = backend_pid(conn).await?;
    let other_pid = backend_pid(&mut other).await?;
    let is_heard = own_pid != other_pid && is_notification_heard(pool, &mut other, own_pid).await?;
    let _ = other.close().await;
    if is_heard {
        Ok(())
    } else {
        Err(Validation::TransactionPooling.into())
    }
}

/// Not prepared: of a statement that another client has prepared, such a pooler only says that it exists already.
async fn backend_pid(conn: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("select pg_backend_pid()")
        .fetch_one(conn)
        .await?
        .try_get(0)
}

async fn is_notification_heard(pool: &PgPool, other: &mut PgConnection, own_pid: i32) -> Result<bool, MigrationError> {
    let alone = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with((*pool.connect_options()).clone());
    let mut listener = PgListener::connect_with(&alone).await?;
    let channel = format!("usher_pooling_{own_pid}");
    listener.listen(&channel).await?;
    sqlx::query("select pg_notify($1, '')")
        .bind(&channel)
        .execute(other)
        .await?;
    let heard = tokio::time::timeout(NOTIFY_TIMEOUT, listener.recv()).await;
    // The pool closes when the last connection is given back.
    drop(listener);
    alone.close().await;
    Ok(matches!(heard, Ok(Ok(_))))
}

pub(super) fn check_server(version: i32, encoding: &str) -> Result<(), Validation> {
    if version < OLDEST_POSTGRES {
        Err(Validation::TooOld(version))
    } else if encoding != "UTF8" {
        Err(Validation::Encoding(encoding.to_owned()))
    } else {
        Ok(())
    }
}

#[derive(sqlx::FromRow)]
struct Rights {
    role: String,
    database: String,
    may_make_schemas: bool,
    /// In the app's schema, if there is one.
    may_make_tables: bool,
    may_keep_a_queue: bool,
}

/// Whether schemas, tables and extensions can be created; checked only when something must be done.
pub(super) async fn check_rights(conn: &mut PgConnection, layout: &Layout) -> Result<(), MigrationError> {
    let rights: Rights = sqlx::query_as(
        "select current_user::text as role, current_database()::text as database,
             coalesce(has_schema_privilege(to_regnamespace('usher'), 'CREATE'),
                 has_database_privilege(current_database(), 'CREATE')) as may_make_schemas,
             coalesce(has_schema_privilege(to_regnamespace(quote_ident($1)), 'CREATE'), true) as may_make_tables,
             has_database_privilege(current_database(), 'CREATE')
                 or (exists (select from pg_extension where extname = 'hstore')
                     and exists (select from pg_namespace where nspname = 'apalis' and pg_has_role(nspowner, 'USAGE')))
                 as may_keep_a_queue",
    )
    .bind(&layout.app_schema)
    .fetch_one(conn)
    .await?;
    let Rights { role, database, .. } = rights;
    if !rights.may_make_schemas {
        let sentence = format!(
            "the role {role} may not make the schema usher; let an owner run: grant create on database {database} to {role}"
        );
        return Err(Validation::Rights(sentence).into());
    }
    if let Some(schema) = layout.app_schema.as_ref().filter(|_| !rights.may_make_tables) {
        let sentence = format!(
            "the role {role} may not create tables in the schema {schema}; \
             let an owner run: grant create on schema {schema} to {role}"
        );
        return Err(Validation::Rights(sentence).into());
    }
    if !rights.may_keep_a_queue {
        let sentence = format!(
            "the role {role} may create neither the schema apalis nor the extension hstore; \
             let an owner run: grant create on database {database} to {role}"
        );
        return Err(Validation::Rights(sentence).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_too_old_or_of_another_encoding_is_refused() {
        for (version, encoding, verdict) in [
            (12, "UTF8", Err(Validation::TooOld(12))),
            (13, "UTF8", Ok(())),
            (18, "UTF8", Ok(())),
            (15, "SQL_ASCII", Err(Validation::Encoding("SQL_ASCII".to_owned()))),
        ] {
            assert_eq!(check_server(version, encoding), verdict);
        }
    }
}
