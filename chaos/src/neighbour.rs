//! Another program that uses apalis on the same database: jobs and workers that are none of usher's, in every state there
//! is. Not a letter of theirs may change.

use std::collections::BTreeMap;

use anyhow::ensure;
use usher::clock::Clock;
use usher_testkit::database::Pool;

use crate::journal::Journal;

/// What its queues and workers are called. usher's are not.
pub const PREFIX: &str = "app-";
/// Jobs in each state.
const EACH: usize = 40;

/// Its rows as they were written: by table and id.
pub type Rows = BTreeMap<String, String>;

/// Puts them there, and reads them back as they are from now on.
pub async fn move_in(pool: &Pool) -> anyhow::Result<Rows> {
    for (number, age) in [("live", 0), ("silent", 3_600), ("gone", 90 * 86_400)].into_iter() {
        pool.execute(&worker(pool, number, age)).await?;
    }
    let mut count = 0_usize;
    for _ in 0..EACH {
        for (status, attempts, lock, age) in [
            ("Pending", 0, None, 0),
            ("Pending", 1, None, 86_400),
            ("Queued", 0, Some("live"), 60),
            ("Queued", 3, Some("silent"), 7_200),
            ("Running", 1, Some("live"), 3_600),
            ("Running", 2, Some("gone"), 90 * 86_400),
            ("Done", 1, Some("live"), 90 * 86_400),
            ("Failed", 5, Some("silent"), 86_400),
            ("Killed", 25, Some("gone"), 365 * 86_400),
        ] {
            let id = Clock::System.new_id();
            let queue = ["app-emails", "app-reports"][count % 2];
            count += 1;
            let job = Job {
                id: ulid(id.as_u128()),
                queue,
                status,
                attempts,
                lock: lock.map(|name| format!("{PREFIX}{name}")),
                age,
            };
            pool.execute(&job.insert(pool)).await?;
        }
    }
    let rows = rows(pool).await?;
    ensure!(
        rows.len() == count + 3,
        "{} of {} rows are there",
        rows.len(),
        count + 3
    );
    Ok(rows)
}

/// Whether they are as they were.
pub async fn is_untouched(pool: &Pool, before: &Rows, journal: &Journal) -> anyhow::Result<()> {
    let now = rows(pool).await?;
    let gone = before.keys().filter(|id| !now.contains_key(*id)).count();
    journal.insist(gone == 0, || {
        format!("{gone} jobs or workers of another program are gone")
    });
    let changed: Vec<(&String, &String)> = before
        .iter()
        .filter_map(|(id, row)| Some((row, now.get(id)?)))
        .filter(|(row, found)| row != found)
        .collect();
    if let Some((row, found)) = changed.first() {
        let count = changed.len();
        journal.violation(format!(
            "{count} jobs or workers of another program were changed, such as {row} to {found}"
        ));
    }
    journal.insist(now.len() + gone == before.len(), || {
        "another program has more jobs or workers than it made".to_owned()
    });
    journal.size("rows of another program's apalis", now.len() as u64);
    Ok(())
}

async fn rows(pool: &Pool) -> anyhow::Result<Rows> {
    let text = pool.pick(
        "select 'job ' || id as id, row_to_json(j)::text as row from apalis.jobs j where job_type like 'app-%'
             union all
             select 'worker ' || id, row_to_json(w)::text from apalis.workers w where id like 'app-%'",
        "select 'job ' || id as id, json_array(job_type, status, attempts, max_attempts, run_at, last_result, lock_at,
                 lock_by, done_at, priority, metadata, hex(job)) as row from Jobs where job_type like 'app-%'
             union all
             select 'worker ' || id, json_array(worker_type, storage_name, layers, last_seen) from Workers
             where id like 'app-%'",
    );
    let found: Vec<(String, String)> = pool.rows(text).await?;
    Ok(found.into_iter().collect())
}

fn worker(pool: &Pool, name: &str, age: u64) -> String {
    let (table, seen) = pool.pick(
        ("apalis.workers", format!("now() - interval '{age} seconds'")),
        ("Workers", format!("unixepoch() - {age}")),
    );
    format!(
        "insert into {table} (id, worker_type, storage_name, layers, last_seen)
         values ('{PREFIX}{name}', 'app-emails', 'the app', '', {seen})"
    )
}

struct Job {
    id: String,
    queue: &'static str,
    status: &'static str,
    attempts: u32,
    lock: Option<String>,
    age: u64,
}

impl Job {
    fn insert(&self, pool: &Pool) -> String {
        let Self {
            id,
            queue,
            status,
            attempts,
            lock,
            age,
        } = self;
        let (payload, before, none) = pool.pick(
            (
                "convert_to('{\"to\":\"somebody\"}', 'UTF8')",
                format!("now() - interval '{age} seconds'"),
                "''::hstore",
            ),
            (
                "cast('{\"to\":\"somebody\"}' as blob)",
                format!("unixepoch() - {age}"),
                "'{}'",
            ),
        );
        let table = pool.jobs();
        let (lock_by, lock_at) = lock.as_ref().map_or(("null".to_owned(), "null"), |name| {
            (format!("'{name}'"), before.as_str())
        });
        let done_at = if matches!(*status, "Done" | "Failed" | "Killed") {
            before.as_str()
        } else {
            "null"
        };
        format!(
            "insert into {table} (id, job_type, job, status, attempts, max_attempts, run_at, lock_by, lock_at, done_at,
                 priority, metadata)
             values ('{id}', '{queue}', {payload}, '{status}', {attempts}, 25, {before}, {lock_by}, {lock_at}, {done_at}, 0,
                 {none})"
        )
    }
}

/// Crockford's base 32, as apalis wants its ids.
fn ulid(number: u128) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    (0..26)
        .rev()
        .map(|place| char::from(DIGITS[(number >> (5 * place)) as usize & 31]))
        .collect()
}
