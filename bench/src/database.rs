//! A new and empty database for each measure, and a connection of our own to look into it.

use std::path::PathBuf;

use anyhow::bail;
use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};
use usher::clock::Clock;
use usher::store::{Rules, Store};
use usher_testkit::database::{self, Pool};
use usher_testkit::on_pool;
use uuid::Uuid;

pub use usher_testkit::database::Kind;

use crate::growth::Size;
use crate::webhooks;

/// Where databases are made: files in a folder, and a server whose superuser we are.
pub struct Home {
    pub folder: PathBuf,
    pub postgres: Option<String>,
}

/// A database with usher's schema and no rows.
pub struct Database {
    pub url: String,
    database: database::Database,
}

/// Bytes of an earlier event's payload.
const PAYLOAD: usize = 2000;

impl Database {
    /// Makes one.
    pub async fn create(kind: Kind, home: &Home) -> anyhow::Result<Self> {
        let database = match (kind, &home.postgres) {
            (Kind::Sqlite, _) => database::Database::sqlite(&home.folder),
            (Kind::Postgres, Some(server)) => database::Database::postgres(server).await?,
            (Kind::Postgres, None) => bail!("USHER_TEST_POSTGRES_URL is not set"),
        };
        let store = Store::open(&database.url, Clock::System).await?;
        store.migrate(&Rules::default()).await?;
        store.close().await;
        Ok(Self {
            url: database.url.clone(),
            database,
        })
    }

    /// Connects.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Ok(Connection(Pool::connect(&self.url).await?))
    }

    /// Leaves nothing behind.
    pub async fn remove(self) -> anyhow::Result<()> {
        self.database.remove().await
    }
}

/// A way into it beside usher's own.
pub struct Connection(Pool);

impl Connection {
    /// What the server or the library calls itself.
    pub async fn version(&self) -> anyhow::Result<String> {
        let (name, text) = self.0.pick(
            ("PostgreSQL", "show server_version"),
            ("SQLite", "select sqlite_version()"),
        );
        let version: String = self.0.value(text).await?;
        Ok(format!("{name} {}", version.split(' ').next().unwrap_or_default()))
    }

    /// Puts a past into an empty database: organizations numbered from 1, which share the invites, and a queue.
    pub async fn fill(&self, size: Size) -> anyhow::Result<()> {
        for text in self.past(size) {
            self.0.execute(&text).await?;
        }
        Ok(())
    }

    fn past(&self, size: Size) -> Vec<String> {
        let Size {
            organizations,
            invites,
            finished_jobs,
            pending_jobs,
            events,
        } = size;
        // Jobs have ULIDs; these are the first of all times.
        let (id, job_id, numbers, time, jobs, moment) = self.0.pick(
            (
                "lpad(to_hex({n}), 32, '0')::uuid",
                "lpad(({n})::text, 26, '0')",
                "generate_series(1, {count}) as numbers (n)",
                "(now() + {seconds} * interval '1 second')",
                "apalis.jobs (job, id, job_type, max_attempts, priority, status, attempts, run_at, done_at)
                 select '{}'::bytea",
                "now() + {seconds} * interval '1 second'",
            ),
            (
                "unhex(printf('%032x', {n}))",
                "printf('%026d', {n})",
                "(with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < {count})
                  select n from numbers)",
                "strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now', ({seconds}) || ' seconds')",
                "Jobs (job, id, job_type, max_attempts, priority, status, attempts, run_at, done_at)
                 select cast('{}' as blob)",
                "unixepoch() + {seconds}",
            ),
        );
        let id = |n: &str| id.replace("{n}", n);
        let job_id = |n: &str| job_id.replace("{n}", n);
        let numbers = |count: u32| numbers.replace("{count}", &count.to_string());
        let time = |seconds: &str| time.replace("{seconds}", &format!("({seconds})"));
        let moment = |seconds: &str| moment.replace("{seconds}", &format!("({seconds})"));
        let accepted = |value: &str| format!("case when n / {organizations} % 10 < 4 then {value} end");
        let mut texts = vec![
            format!(
                "insert into organizations (id, name, created_at, updated_at)
                 select {}, 'Organization ' || n, {now}, {now} from {}",
                id("n"),
                numbers(organizations),
                now = time("0"),
            ),
            format!(
                "insert into invites (id, kind, organization_id, email, email_key, role, status, acceptance, accepted_by,
                     accepted_at, invited_at, expires_at, created_at, updated_at, reminders_from, reminders_until)
                 select {}, 'organization', {}, email, email, 'member', {}, 'default', {}, {}, at, {end}, at, at, at, {end}
                 from (select n, 'earlier.' || n || '@example.com' as email, {} as at from {}) as earlier",
                id("n + 100000000"),
                id(&format!("n % {organizations} + 1")),
                format_args!("coalesce({}, 'pending')", accepted("'accepted'")),
                accepted(&id("n")),
                accepted(&time("-60")),
                time("-n"),
                numbers(invites),
                end = time("86400"),
            ),
            format!(
                "insert into {jobs}, {}, 'usher:process-clerk-event', 60, 0, 'Done', 1, {at}, {at} from {}",
                job_id("n"),
                numbers(finished_jobs.max(1)),
                at = moment("-n"),
            ),
            format!(
                "insert into {jobs}, {}, 'usher:process-clerk-event', 60, 0, 'Pending', 0, {}, null from {}",
                job_id("n + 1000000000"),
                moment("86400 + n"),
                numbers(pending_jobs.max(1)),
            ),
        ];
        if events > 0 {
            texts.push(format!(
                "insert into usher_events (svix_id, event_type, payload, received_at, processed_at, outcome)
                 select 'earlier_' || n, 'user.created', '{}', {at}, {at}, 'matched' from {}",
                "x".repeat(PAYLOAD),
                numbers(events),
                at = time("-n"),
            ));
        }
        // As after a night: Postgres knows its tables. A SQLite file is analyzed by nobody.
        if matches!(self.0, Pool::Postgres(_)) {
            texts.push("analyze".to_owned());
        }
        texts
    }

    /// What differs between the two.
    pub fn pick<T>(&self, postgres: T, sqlite: T) -> T {
        self.0.pick(postgres, sqlite)
    }

    /// Runs a statement.
    pub async fn execute(&self, text: &str) -> anyhow::Result<()> {
        self.0.execute(text).await?;
        Ok(())
    }

    /// The queue's table.
    pub fn jobs(&self) -> &'static str {
        self.0.jobs()
    }

    /// How many rows there are in a table, with a condition if need be.
    pub async fn count(&self, rows: &str) -> anyhow::Result<usize> {
        Ok(usize::try_from(self.0.count(rows).await?)?)
    }

    /// Whether there are any: cheaper to ask again and again than how many.
    pub async fn are_there(&self, rows: &str) -> anyhow::Result<bool> {
        Ok(self.0.value(&format!("select exists (select 1 from {rows})")).await?)
    }

    /// When the last event was processed.
    pub async fn last_processed(&self) -> anyhow::Result<DateTime<Utc>> {
        let text = "select processed_at from usher_events where processed_at is not null
                    order by processed_at desc limit 1";
        Ok(self.0.value(text).await?)
    }

    /// Whether an event has been processed.
    pub async fn is_processed(&self, svix_id: &str) -> anyhow::Result<bool> {
        let text = "select processed_at is not null from usher_events where svix_id = $1";
        Ok(on_pool!(&self.0, |pool| sqlx::query_scalar(text)
            .bind(svix_id)
            .fetch_one(pool)
            .await)?)
    }

    /// An open transaction of the app's with an invite by SQL. Postgres only.
    pub async fn invite_and_hold(&self, organization: Uuid) -> anyhow::Result<Transaction<'static, Postgres>> {
        let Pool::Postgres(pool) = &self.0 else {
            bail!("SQLite has no SQL interface");
        };
        let mut open = pool.begin().await?;
        sqlx::query("select * from usher.invite('late@example.com', 'member', $1)")
            .bind(organization.to_string())
            .fetch_one(&mut *open)
            .await?;
        Ok(open)
    }

    /// A transaction that locks an organization's row. Postgres only.
    pub async fn hold_organization(&self, id: Uuid) -> anyhow::Result<Transaction<'static, Postgres>> {
        let Pool::Postgres(pool) = &self.0 else {
            bail!("SQLite locks no single row");
        };
        let mut holder = pool.begin().await?;
        let text = "select id from organizations where id = $1 for update";
        sqlx::query(text).bind(id).fetch_one(&mut *holder).await?;
        Ok(holder)
    }

    /// Makes the table for the yardstick.
    pub async fn create_yardstick(&self) -> anyhow::Result<()> {
        let text = "create table yardstick (id text primary key, payload text not null)";
        self.0.execute(text).await?;
        Ok(())
    }

    /// One row in a transaction of its own.
    pub async fn insert_yardstick(&self, number: usize, payload: &str) -> anyhow::Result<()> {
        let text = "insert into yardstick (id, payload) values ($1, $2)";
        on_pool!(&self.0, |pool| sqlx::query(text)
            .bind(webhooks::svix_id(number))
            .bind(payload)
            .execute(pool)
            .await
            .map(drop))?;
        Ok(())
    }
}
