//! The database's catalog is looked at while usher runs: what is usher's own is made again, the rest is named.

use usher::clock::Clock;
use usher::store::{AppShape, Layout, Rules, Store};

use crate::support::process::{UsherProcess, eventually};
use crate::support::{TestDatabase, on_both_databases};

/// What a look says of a database.
async fn differences(database: &TestDatabase, layout: &Layout) -> Vec<String> {
    let store = Store::open_with(&database.url, layout, Clock::System).await.unwrap();
    let found = store
        .differences(&Rules::default(), &mut AppShape::default())
        .await
        .unwrap();
    store.close().await;
    found.into_iter().map(|found| found.says).collect()
}

/// Everything that usher can make again, with its definition.
async fn own_objects(database: &TestDatabase) -> Option<String> {
    let text = database.pool.pick(
        "select string_agg(line, E'\\n' order by line) from (
             select pg_get_indexdef(indexrelid) || indisvalid from pg_index where indrelid > 16000
                 and indrelid::regclass::text !~ 'pg_toast'
             union all select pg_get_triggerdef(oid) || tgenabled::text from pg_trigger where tgrelid > 16000
             union all select pg_get_functiondef(oid) || proacl::text from pg_proc where pronamespace = 'usher'::regnamespace
             union all select pg_get_viewdef(oid) || relacl::text from pg_class
                 where relkind = 'v' and relnamespace = 'usher'::regnamespace) as things (line)",
        "select group_concat(sql, char(10)) from (select sql from sqlite_master where type <> 'table' order by name)",
    );
    database.pool.text(text).await
}

on_both_databases!(what_is_lost_while_it_serves_is_made_again_or_named);

async fn what_is_lost_while_it_serves_is_made_again_or_named(database: TestDatabase) {
    let (usher, _smtp) = UsherProcess::with_smtp(&database).await;
    eventually("the first look finds nothing", async || {
        usher.ask("/metrics").await.1.contains("usher_catalog_differences 0")
    })
    .await;
    if let Some(role) = database.pool.pick(Some("catalog_reader"), None) {
        database
            .pool
            .execute(&format!(
                "do $$ begin create role {role}; exception when duplicate_object then null; end $$;
                 grant execute on function usher.resend to {role}; grant select on usher.app_invites to {role}"
            ))
            .await;
        // As a restart after these grants would note them.
        let store = Store::open(&database.url, Clock::System).await.unwrap();
        database.pool.execute("delete from usher.usher_catalog").await;
        store.migrate(&Rules::default()).await.unwrap();
        store.close().await;
    }
    let before = own_objects(&database).await;
    database
        .pool
        .execute(database.pool.pick(
            "drop index usher.invites_waiting, apalis.usher_jobs_held; drop function usher.resend;
             drop trigger usher_tell_of_jobs on apalis.jobs; drop view usher.app_invites;
             alter table usher.usher_outgoing_events disable trigger usher_tell_of_events;
             create or replace function usher.usher_trimmed(text) returns text language sql immutable as 'select $1';
             alter table usher.invites rename column message to note;
             alter table usher.usher_events add column ours text not null;
             update usher.usher_migrations set checksum = 'x'",
            "drop index invites_waiting; drop index usher_jobs_held; update usher_migrations set checksum = x'00';
             create table lost (id integer); insert into usher_catalog values ('table', 'gone', 'gone', '', true, null)",
        ))
        .await;
    let words = database.pool.pick(
        &[
            "the column usher.invites.message is missing or has another name",
            "the column usher.usher_events.ours must not be null and has no default",
            "its migration 1 is not the one of this usher",
        ][..],
        &[
            "the table gone is missing",
            "its migration 1 is not the one of this usher",
        ][..],
    );
    eventually("it is told of within a minute", async || {
        let (status, body) = usher.ask("/readyz").await;
        status == 200 && words.iter().all(|words| body.contains(words))
    })
    .await;
    let (_, body) = usher.ask("/readyz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["catalog"].as_array().unwrap().len(), words.len(), "{body}");
    assert_eq!(own_objects(&database).await, before, "the rest is as it was");
    let metrics = usher.ask("/metrics").await.1;
    assert!(
        metrics.contains(&format!("usher_catalog_differences {}", words.len())),
        "{metrics}"
    );
    let log = usher.log().join("\n");
    for words in words {
        assert!(log.contains(words), "{words} in {log}");
    }
    let (well, said) = usher.usher(&["check"]).await;
    assert!(!well, "{said}");
    for words in &words[..words.len() - 1] {
        assert!(said.contains(words), "{words} in {said}");
    }
}

#[tokio::test]
async fn what_differs_is_named_by_what_to_do_about_it() {
    for (change, words) in [
        (
            "alter table usher.usher_addresses drop constraint usher_addresses_pkey",
            "the constraint usher_addresses_pkey",
        ),
        (
            "drop table usher.usher_sessions",
            "the table usher.usher_sessions is missing; restore it from a backup",
        ),
        (
            "alter table usher.usher_schedules alter column name type varchar(99)",
            "usher.usher_schedules.name has another type",
        ),
        (
            "alter table usher.usher_people alter column id drop not null",
            "may be null now",
        ),
        ("drop table usher.usher_catalog", "usher.usher_catalog is missing"),
        (
            "alter table apalis.jobs drop column metadata",
            "the column apalis.jobs.metadata is missing",
        ),
        (
            "alter table apalis.workers add column rank integer not null",
            "apalis.workers.rank must not be null",
        ),
    ] {
        let database = TestDatabase::postgres().await;
        database
            .pool
            .execute(&change.replace("drop constraint", "drop constraint if exists"))
            .await;
        let found = differences(&database, &Layout::default()).await;
        assert_eq!(found.len(), 1, "{change}: {found:?}");
        assert!(found[0].contains(words), "{words} in {found:?}");
    }
    // What the app adds to usher's tables, and what others have beside them, is nothing to usher.
    let database = TestDatabase::postgres().await;
    database
        .pool
        .execute(
            "alter table usher.invites add column tag text; create index on usher.invites (tag);
             create table usher.reports (id integer not null); create function usher.mine() returns integer language sql as 'select 1'",
        )
        .await;
    assert_eq!(differences(&database, &Layout::default()).await, [""; 0]);
}

#[tokio::test]
async fn an_app_that_changes_its_own_tables_is_told_what_usher_can_t_work_with() {
    let layout = Layout::shared("public");
    for (change, words) in [
        (
            "drop trigger usher_mirror_organization on admins",
            "the trigger usher_mirror_organization on public.admins",
        ),
        (
            "alter table admins drop column last_name",
            "the column public.admins.last_name is gone; usher works without it",
        ),
        (
            "alter table admins drop column external_id",
            "the column public.admins.external_id is missing",
        ),
        (
            "alter table project_admins add column seat integer not null",
            "project_admins.seat must not be null and has no default",
        ),
        (
            "alter table organization_users add constraint known_roles check (role in ('member', 'owner'))",
            "organization_users.role may not be admin (constraint known_roles)",
        ),
    ] {
        let database = TestDatabase::empty_postgres().await;
        database.pool.execute(include_str!("../schemas/issue.sql")).await;
        database.migrate_shared(&Rules::default()).await.unwrap();
        assert_eq!(differences(&database, &layout).await, [""; 0]);
        database.pool.execute(change).await;
        let found = differences(&database, &layout).await;
        assert!(found.iter().any(|found| found.contains(words)), "{words} in {found:?}");
    }
}

#[tokio::test]
async fn one_thing_that_can_t_be_made_again_keeps_no_other_from_it() {
    let database = TestDatabase::postgres().await;
    database
        .pool
        .execute("alter table usher.invites drop column declined_at cascade; drop index usher.invites_waiting")
        .await;
    let store = Store::open(&database.url, Clock::System).await.unwrap();
    let found = store
        .differences(&Rules::default(), &mut AppShape::default())
        .await
        .unwrap();
    assert_eq!(store.put_back(&found).await.unwrap(), ["index usher.invites_waiting"]);
    store.close().await;
    let left = differences(&database, &Layout::default()).await;
    assert!(
        left.iter().any(|says| says.contains("the view usher.app_invites")),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_migration_that_is_cut_off_is_not_undone_by_what_was_noted_before_it() {
    let database = TestDatabase::postgres().await;
    database
        .pool
        .execute(
            "create function stop() returns trigger language plpgsql as 'begin raise exception ''cut off''; end';
             create trigger stop before insert or update on usher.usher_settings for each row execute function stop()",
        )
        .await;
    let next =
        "create or replace function usher.usher_trimmed(text) returns text language sql immutable as 'select $1'";
    let store = Store::open(&database.url, Clock::System).await.unwrap();
    let store = store.with_migration(2, next);
    // They are published between the migration and the note of what it left.
    let rules = Rules {
        mail_domain: "example.com".to_owned(),
        ..Rules::default()
    };
    store.migrate(&rules).await.unwrap_err();
    let look = async || store.differences(&rules, &mut AppShape::default()).await.unwrap();
    assert_eq!(look().await, [], "nothing is known, so nothing is put back");

    database.pool.execute("drop trigger stop on usher.usher_settings").await;
    store.migrate(&rules).await.unwrap();
    assert_eq!(look().await, []);
    database.pool.execute("drop index usher.invites_waiting").await;
    assert_eq!(look().await.len(), 1, "it is noted again");
    let function = "select prosrc from pg_proc where proname = 'usher_trimmed'";
    assert_eq!(database.pool.text(function).await.as_deref(), Some("select $1"));
    store.close().await;
}
