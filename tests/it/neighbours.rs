//! What others keep in the same database is theirs.

use usher::store::Rules;

use crate::support::db::TestPool;
use crate::support::{TestApp, TestDatabase, stories};

/// Jobs and workers of an app that uses apalis itself, in every state and long ago, one of them under a name that was
/// usher's.
async fn move_in(pool: &TestPool) {
    let jobs = pool.jobs();
    let (workers, ago, payload, metadata) = pool.pick(
        (
            "apalis.workers",
            "to_timestamp(1000)",
            "convert_to('{\"n\":1}', 'UTF8')",
            "''",
        ),
        ("Workers", "1000", "cast('{\"n\":1}' as blob)", "'{}'"),
    );
    pool.execute(&format!(
        "insert into {workers} (id, worker_type, storage_name, layers, last_seen)
         values ('their-worker', 'their-queue', 'x', '', {ago})"
    ))
    .await;
    for (n, status) in ["Pending", "Queued", "Running", "Done", "Failed", "Killed"]
        .iter()
        .enumerate()
    {
        for (queue, digit) in [("their-queue", 0), ("periodic", 1)] {
            let holder = if matches!(*status, "Queued" | "Running") {
                "'their-worker'"
            } else {
                "null"
            };
            pool.execute(&format!(
                "insert into {jobs} (id, job_type, job, max_attempts, run_at, priority, status, attempts, lock_by, lock_at, done_at,
                     metadata)
                 values ('01BX5ZZKBKACTAV9WEVGEMMV{digit}{n}', '{queue}', {payload}, 5, {ago}, 0, '{status}', 5, {holder}, {ago},
                     {ago}, {metadata})"
            ))
            .await;
        }
    }
}

async fn theirs(pool: &TestPool) -> [String; 2] {
    [
        pool.dump(pool.jobs()).await,
        pool.dump(pool.pick("apalis.workers", "Workers")).await,
    ]
}

stories! {
    async fn jobs_and_workers_of_another_program_are_left_alone(app) {
        move_in(&app.pool).await;
        let before = theirs(&app.pool).await;
        let store = &app.app.store;
        app.run_schedules().await;
        app.run_jobs().await;
        assert_eq!(store.recover_orphans(chrono::TimeDelta::seconds(20)).await.unwrap(), 0);
        store.heartbeat(&["mine".to_owned()], &[]).await.unwrap();
        store.retire_workers(&["mine".to_owned()]).await.unwrap();
        let depths = store.queue_depths().await.unwrap();
        assert!(depths.iter().all(|queue| queue.waiting + queue.scheduled + queue.running + queue.dead == 0), "{depths:?}");
        let mut tx = store.read().await.unwrap();
        let listed = tx.jobs(&usher::store::JobFilter::default(), 100).await.unwrap();
        assert!(listed.is_empty(), "{listed:?}");
        drop(tx);
        let table = app.pool.jobs();
        app.pool.execute(&format!("delete from {table} where job_type like 'usher:%'")).await;
        assert_eq!(theirs(&app.pool).await, before);
        app.pool.execute(&format!("delete from {table}")).await;
    }
}

async fn migrated(script: &str) -> TestDatabase {
    let database = TestDatabase::empty_postgres().await;
    let tables = "create table organizations (id uuid primary key); create table admins (id uuid primary key);";
    database.pool.execute(&format!("{tables} {script}")).await;
    database.migrate_shared(&Rules::default()).await.expect("a schema");
    database
}

#[tokio::test]
async fn a_function_of_the_apps_called_generate_ulid_stays() {
    let own = "create function public.generate_ulid() returns text language sql as 'select ''the app''''s''::text'";
    for used in ["", "; create table orders (id text default public.generate_ulid())"] {
        let database = migrated(&format!("{own}{used}")).await;
        let said = database.pool.text("select public.generate_ulid()").await;
        assert_eq!(said.as_deref(), Some("the app's"));
        let ours = database.pool.text("select length(apalis.generate_ulid())::text").await;
        assert_eq!(ours.as_deref(), Some("26"));
    }
}

#[tokio::test]
async fn extensions_of_the_apps_are_used_where_they_are() {
    let database = migrated("create schema extensions; create extension hstore schema extensions").await;
    let schema = "select extnamespace::regnamespace::text from pg_extension where extname = 'hstore'";
    assert_eq!(database.pool.text(schema).await.as_deref(), Some("extensions"));
    let app = TestApp::start_shared(database).await;
    let acme = app.organization("Acme").await;
    app.invite_to_organization(acme, "ada@example.com", "member").await;
    app.run_jobs().await;
    app.finish().await;
}

#[tokio::test]
async fn an_app_that_creates_its_extensions_later_finds_them() {
    let database = migrated("create schema extensions").await;
    database
        .pool
        .execute(
            "create extension if not exists pgcrypto schema extensions; select extensions.digest('x', 'sha256');
             create extension if not exists hstore; select 'a=>1'::hstore -> 'a';
             alter extension hstore set schema extensions",
        )
        .await;
    // Wherever it moves to: usher does not name it.
    let app = TestApp::start_shared(database).await;
    let acme = app.organization("Acme").await;
    app.invite_to_organization(acme, "ada@example.com", "member").await;
    app.run_jobs().await;
    app.finish().await;
}
