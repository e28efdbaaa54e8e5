//! Takes a SQLite file over to Postgres: `usher move`.
//!
//! First the file is closed to writes, by triggers that every program keeps to, also after a crash. Then all rows are copied in
//! one transaction of Postgres. Killed anywhere, the next run does what is left, and nothing is in both places.

use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, PgConnection, SqliteConnection};

use super::jobs::state::{HELD, NEW};
use super::migrate::MigrationError;
use super::settings::Rules;
use super::{Pool, Store, StoreError, Tables};

/// All tables that are moved, in an order in which each row finds what it refers to. What is not here, Postgres has of its
/// own: migrations, settings of the last start, workers.
const MOVED: &[&str] = &[
    "organizations",
    "admins",
    "organization_users",
    "projects",
    "project_admins",
    "usher_app_ids",
    "usher_people",
    "usher_addresses",
    "usher_sessions",
    "invites",
    "usher_deliveries",
    "usher_events",
    "usher_idempotency_keys",
    "usher_schedules",
    "usher_suppressions",
    "usher_mail_circuit",
    "usher_mail_counts",
    "usher_job_failures",
    "usher_invite_history",
    "usher_outgoing_events",
    "usher_event_feed",
    "usher_event_endpoints",
    "usher_event_deliveries",
    "usher_ended_jobs",
    "usher_paused_queues",
    "usher_audit",
];
/// Tables that must be empty in the database that is moved to.
const MUST_BE_EMPTY: &[&str] = &[
    "organizations",
    "projects",
    "admins",
    "invites",
    "usher_events",
    "usher_people",
];
/// Rows of one insert.
const BATCH: usize = 500;
/// A process that has written its heartbeat this recently is running, in seconds.
const HEARTBEAT: u32 = 60;

#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("a move goes from a SQLite file to a Postgres database, with USHER_TABLES=own")]
    WrongDatabases,
    #[error("usher is running on the file; stop it first")]
    Running,
    #[error("the file was moved already; start usher with USHER_DATABASE_URL set to that Postgres database")]
    MovedAlready,
    #[error("the Postgres database holds {0} already; give usher an empty one")]
    NotEmpty(String),
    #[error("the schema of the {0} could not be brought up to date: {1}")]
    Migration(&'static str, #[source] MigrationError),
    #[error("{table} has {there} rows in the file and {here} in Postgres; nothing was moved")]
    Different { table: String, there: i64, here: i64 },
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the database can't be used: {0}")]
    Store(#[from] StoreError),
}

/// The rows of each table.
pub type Counts = Vec<(String, i64)>;

impl Store {
    /// Moves all of this file to a Postgres database, which must be empty, or may be the one of an interrupted move.
    /// `on_progress` gets each table and how many of its rows are copied.
    ///
    /// # Errors
    /// [`MoveError`]; the file is as it was then, unless the process is killed.
    pub async fn move_to(
        &self,
        target: &Self,
        rules: &Rules,
        on_progress: &(dyn Fn(&str, usize) + Sync),
    ) -> Result<Counts, MoveError> {
        let (Pool::Sqlite { writer, .. }, Pool::Postgres(postgres)) = (&self.pool, &target.pool) else {
            return Err(MoveError::WrongDatabases);
        };
        if target.layout.tables != Tables::Own {
            return Err(MoveError::WrongDatabases);
        }
        // Statement by statement: there is one connection, and the migration needs it, too.
        let mark = mark_of(&mut *writer.acquire().await?).await?;
        match mark {
            Some(mark) if mark.is_finished => return Err(MoveError::MovedAlready),
            Some(_) => {}
            None => self
                .migrate(rules)
                .await
                .map_err(|error| MoveError::Migration("file", error))?,
        }
        target
            .migrate(rules)
            .await
            .map_err(|error| MoveError::Migration("Postgres database", error))?;
        let mut file = writer.acquire().await?;
        let source = close_file(&mut file, &self.clock.new_id().to_string()).await?;
        let copied = copy_all(&mut file, postgres, &source, on_progress).await;
        match copied {
            Ok(counts) => {
                finish(&mut file).await?;
                Ok(counts)
            }
            Err(error) => {
                reopen_file(&mut file).await?;
                Err(error)
            }
        }
    }
}

/// What the file says of a move.
pub(super) struct Mark {
    source: String,
    pub is_finished: bool,
}

/// `None` if no move was begun.
pub(super) async fn mark_of(file: &mut SqliteConnection) -> sqlx::Result<Option<Mark>> {
    let is_there: bool = sqlx::query_scalar("select exists (select 1 from sqlite_master where name = 'usher_move')")
        .fetch_one(&mut *file)
        .await?;
    if !is_there {
        return Ok(None);
    }
    let mark: Option<(String, bool)> = sqlx::query_as("select source, finished_at is not null from usher_move")
        .fetch_optional(file)
        .await?;
    Ok(mark.map(|(source, is_finished)| Mark { source, is_finished }))
}

fn closed_tables() -> impl Iterator<Item = &'static str> {
    MOVED.iter().copied().chain(["Jobs", "Workers"])
}

/// Lets no program write to the file any more; what the move is known by.
async fn close_file(file: &mut SqliteConnection, new_source: &str) -> Result<String, MoveError> {
    if let Some(mark) = mark_of(file).await? {
        return Ok(mark.source);
    }
    let mut text = String::from("begin immediate;");
    for table in closed_tables() {
        for deed in ["insert", "update", "delete"] {
            text.push_str(&format!(
                "create trigger usher_moved_{table}_{deed} before {deed} on {table} begin
                     select raise(abort, 'this file is moved to Postgres');
                 end;"
            ));
        }
    }
    text.push_str(&format!(
        "insert into usher_move (only_row, source) values (1, '{new_source}');"
    ));
    let running: bool = sqlx::query_scalar("select exists (select 1 from Workers where last_seen > unixepoch() - $1)")
        .bind(HEARTBEAT)
        .fetch_one(&mut *file)
        .await?;
    if running {
        return Err(MoveError::Running);
    }
    text.push_str("commit;");
    if let Err(error) = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *file).await {
        // There is no transaction if it was the beginning that failed.
        let _ = sqlx::raw_sql("rollback").execute(file).await;
        return Err(error.into());
    }
    Ok(new_source.to_owned())
}

/// After an error: usher may go on with the file.
async fn reopen_file(file: &mut SqliteConnection) -> Result<(), MoveError> {
    let mut text = String::from("begin immediate; delete from usher_move;");
    for table in closed_tables() {
        for deed in ["insert", "update", "delete"] {
            text.push_str(&format!("drop trigger if exists usher_moved_{table}_{deed};"));
        }
    }
    text.push_str("commit;");
    sqlx::raw_sql(AssertSqlSafe(text)).execute(file).await?;
    Ok(())
}

async fn finish(file: &mut SqliteConnection) -> Result<(), MoveError> {
    sqlx::raw_sql("update usher_move set finished_at = strftime('%Y-%m-%dT%H:%M:%fZ')")
        .execute(file)
        .await?;
    Ok(())
}

async fn copy_all(
    file: &mut SqliteConnection,
    postgres: &sqlx::PgPool,
    source: &str,
    on_progress: &(dyn Fn(&str, usize) + Sync),
) -> Result<Counts, MoveError> {
    let mut tx = postgres.begin().await?;
    // The session's limit is for transactions that wait for their client; this one reads a file between its statements.
    sqlx::raw_sql("set local idle_in_transaction_session_timeout = 0; lock table usher_move in exclusive mode")
        .execute(&mut *tx)
        .await?;
    let moved: Option<String> = sqlx::query_scalar("select source from usher_move")
        .fetch_optional(&mut *tx)
        .await?;
    match moved {
        // Killed after the copy was committed and before the file was told.
        Some(moved) if moved == source => return count_rows(file, &mut tx).await,
        Some(_) => return Err(MoveError::NotEmpty("another file's rows".to_owned())),
        None => check_empty(&mut tx).await?,
    }
    for table in MOVED.iter().rev() {
        sqlx::query(AssertSqlSafe(format!("delete from {table}")))
            .execute(&mut *tx)
            .await?;
    }
    for table in MOVED {
        copy_table(file, &mut tx, table, on_progress).await?;
    }
    copy_jobs(file, &mut tx, on_progress).await?;
    sqlx::raw_sql(
        "select setval(pg_get_serial_sequence('usher_outgoing_events', 'seq'), max(seq)) from usher_outgoing_events
         having max(seq) is not null",
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query("insert into usher_move (only_row, source, at) values (1, $1, now())")
        .bind(source)
        .execute(&mut *tx)
        .await?;
    let counts = count_rows(file, &mut tx).await?;
    tx.commit().await?;
    Ok(counts)
}

async fn check_empty(tx: &mut PgConnection) -> Result<(), MoveError> {
    for table in MUST_BE_EMPTY {
        let text = format!("select exists (select from {table})");
        let has_rows: bool = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(&mut *tx).await?;
        if has_rows {
            return Err(MoveError::NotEmpty((*table).to_owned()));
        }
    }
    Ok(())
}

async fn copy_table(
    file: &mut SqliteConnection,
    tx: &mut PgConnection,
    table: &str,
    on_progress: &(dyn Fn(&str, usize) + Sync),
) -> Result<(), MoveError> {
    let of_postgres: Vec<(String, String)> = sqlx::query_as(
        "select column_name::text, data_type::text from information_schema.columns
         where table_schema = current_schema() and table_name = $1 and is_generated = 'NEVER' order by ordinal_position",
    )
    .bind(table)
    .fetch_all(&mut *tx)
    .await?;
    let of_file: Vec<String> = sqlx::query_scalar("select name from pragma_table_info($1)")
        .bind(table)
        .fetch_all(&mut *file)
        .await?;
    let columns: Vec<_> = of_postgres.iter().filter(|(name, _)| of_file.contains(name)).collect();
    let values: Vec<String> = columns
        .iter()
        .map(|(name, kind)| format!("'{name}', {}", as_json(name, kind)))
        .collect();
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(", ");
    let read = format!("select json_object({}) from {table}", values.join(", "));
    let write = format!(
        "insert into {table} ({names}) overriding system value
         select {names} from json_populate_recordset(null::{table}, $1::json)"
    );
    copy(file, tx, (table, read, write), on_progress).await
}

/// A column's value as Postgres reads it from JSON.
fn as_json(column: &str, kind: &str) -> String {
    match kind {
        "uuid" => format!("nullif(lower(hex({column})), '')"),
        "bytea" => format!("case when {column} is not null then '\\x' || hex({column}) end"),
        _ => column.to_owned(),
    }
}

/// What a process had fetched is pending again: it does not run any more.
async fn copy_jobs(
    file: &mut SqliteConnection,
    tx: &mut PgConnection,
    on_progress: &(dyn Fn(&str, usize) + Sync),
) -> Result<(), MoveError> {
    let read = format!(
        "select json_object('id', id, 'job_type', job_type, 'job', '\\x' || hex(job),
            'status', case when {HELD} then {NEW} else status end,
            'attempts', attempts, 'max_attempts', max_attempts, 'run_at', run_at, 'last_result', last_result,
            'done_at', done_at, 'priority', priority, 'idempotency_key', idempotency_key)
        from Jobs where job_type like 'usher:%'"
    );
    let write = "insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, last_result, done_at,
            priority, idempotency_key)
        select r.id, r.job_type, r.job, r.status, r.attempts, r.max_attempts, to_timestamp(r.run_at),
            r.last_result::jsonb, to_timestamp(r.done_at), r.priority, r.idempotency_key
        from json_to_recordset($1::json) as r(id text, job_type text, job bytea, status text, attempts integer,
            max_attempts integer, run_at bigint, last_result text, done_at bigint, priority integer, idempotency_key text)"
        .to_owned();
    copy(file, tx, ("Jobs", read, write), on_progress).await
}

async fn copy(
    file: &mut SqliteConnection,
    tx: &mut PgConnection,
    (table, read, write): (&str, String, String),
    on_progress: &(dyn Fn(&str, usize) + Sync),
) -> Result<(), MoveError> {
    let mut rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(read)).fetch(file);
    let mut copied = 0;
    loop {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some(row) = rows.try_next().await? else { break };
            batch.push(row);
        }
        if batch.is_empty() {
            return Ok(());
        }
        copied += batch.len();
        sqlx::query(AssertSqlSafe(write.clone()))
            .bind(format!("[{}]", batch.join(",")))
            .execute(&mut *tx)
            .await?;
        on_progress(table, copied);
    }
}

/// The rows of each table, which are as many in both.
async fn count_rows(file: &mut SqliteConnection, tx: &mut PgConnection) -> Result<Counts, MoveError> {
    let mut counts = Vec::new();
    let tables = MOVED.iter().map(|table| (*table, *table, ""));
    for (table, of_postgres, which) in tables.chain([("Jobs", "apalis.jobs", "where job_type like 'usher:%'")]) {
        let count = |table: &str| AssertSqlSafe(format!("select count(*) from {table} {which}"));
        let there: i64 = sqlx::query_scalar(count(table)).fetch_one(&mut *file).await?;
        let here: i64 = sqlx::query_scalar(count(of_postgres)).fetch_one(&mut *tx).await?;
        if here != there {
            let table = table.to_owned();
            return Err(MoveError::Different { table, there, here });
        }
        counts.push((table.to_lowercase(), here));
    }
    Ok(counts)
}
