//! Postgres databases that were an app's before usher came.

use std::pin::pin;
use std::time::Duration;

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use usher::clock::Clock;
use usher::invites::roles::Roles;
use usher::store::{Identities, Rules, Store};
use uuid::Uuid;

use crate::support::{TestApp, TestDatabase};

/// An app as one meets it: more columns, triggers, tables that refer to its own, times without a zone, no Clerk ids,
/// addresses in two cases, people who are gone, projects without roles.
const APP: &str = "
create table organizations (
    id uuid primary key, name text, plan text not null default 'free', created_at timestamp not null default now(),
    updated_at timestamp not null default now(), deleted_at timestamp);
comment on column organizations.name is 'As on the invoice.';
create table admins (
    id uuid primary key default gen_random_uuid(), organization_id uuid not null references organizations (id),
    email varchar(200) not null, first_name text, last_name text, image_url text, role text not null,
    preferences jsonb not null default '{}', created_at timestamp not null default now(),
    updated_at timestamp not null default now(), deleted_at timestamp);
comment on table admins is 'Who can sign in.';
comment on column admins.organization_id is 'Their employer.';
create table projects (
    id uuid primary key, organization_id uuid not null references organizations (id), name text not null, budget integer,
    created_at timestamp not null default now());
create table project_admins (
    project_id uuid not null references projects (id), admin_id uuid not null references admins (id), deleted_at timestamp);
create table invoices (id serial primary key, admin_id uuid not null references admins (id));
create table audit (at timestamptz default now(), admin_id uuid);
create function note_admin() returns trigger language plpgsql as
    'begin insert into audit (admin_id) values (new.id); return new; end';
create trigger note_admin before insert or update on admins for each row execute function note_admin();

insert into organizations (id, name) values ('a0000000-0000-4000-8000-000000000000', 'Acme'),
    ('b0000000-0000-4000-8000-000000000000', null);
insert into admins (id, organization_id, email, first_name, role, deleted_at) values
    ('00000000-0000-4000-8000-000000000001', 'a0000000-0000-4000-8000-000000000000', 'Ada@Example.com', 'Ada', 'owner', null),
    ('00000000-0000-4000-8000-000000000002', 'a0000000-0000-4000-8000-000000000000', 'bob@example.com', null, 'superhero', null),
    ('00000000-0000-4000-8000-000000000003', 'b0000000-0000-4000-8000-000000000000', 'BOB@example.com', null, 'member', null),
    ('00000000-0000-4000-8000-000000000004', 'a0000000-0000-4000-8000-000000000000', 'gone@example.com', 'Gone', 'admin', now());
insert into projects (id, organization_id, name) values
    ('c0000000-0000-4000-8000-000000000000', 'a0000000-0000-4000-8000-000000000000', 'Apollo');
insert into project_admins (project_id, admin_id) values
    ('c0000000-0000-4000-8000-000000000000', '00000000-0000-4000-8000-000000000002');
insert into invoices (admin_id) values ('00000000-0000-4000-8000-000000000001');
";

const ACME: Uuid = Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0000);
const APOLLO: Uuid = Uuid::from_u128(0xc000_0000_0000_4000_8000_0000_0000_0000);
const ADA: Uuid = Uuid::from_u128(0x4000_8000_0000_0000_0001);

/// Another app: it knows Clerk's ids, has roles in projects, and lets nobody into one twice.
const APP_ON_CLERK: &str = "
create table organizations (
    id uuid primary key default gen_random_uuid(), name text not null, plan text not null default 'free', deleted_at timestamptz);
create table admins (
    id uuid primary key default gen_random_uuid(), organization_id uuid not null references organizations (id),
    external_id text unique, email text not null, first_name text, last_name text, image_url text,
    role text not null default 'member', updated_at timestamptz not null default now(), deleted_at timestamptz);
create table projects (
    id uuid primary key default gen_random_uuid(), organization_id uuid not null references organizations (id), name text);
create table project_admins (
    id uuid primary key default gen_random_uuid(), project_id uuid not null references projects (id),
    admin_id uuid not null references admins (id), role text not null default 'editor', deleted_at timestamptz,
    unique (project_id, admin_id));
create table comments (id bigserial primary key, admin_id uuid not null references admins (id) on delete cascade, body text);
create function touch() returns trigger language plpgsql as 'begin new.updated_at = now(); return new; end';
create trigger touch before update on admins for each row execute function touch();

insert into organizations (id, name) values ('a0000000-0000-4000-8000-000000000000', 'Acme'),
    ('b0000000-0000-4000-8000-000000000000', 'Bolt'), ('d0000000-0000-4000-8000-000000000000', 'Left');
insert into admins (id, organization_id, external_id, email, role, deleted_at) values
    ('00000000-0000-4000-8000-000000000001', 'a0000000-0000-4000-8000-000000000000', 'user_ada', 'Ada@Example.com', 'owner', null),
    ('00000000-0000-4000-8000-000000000002', 'b0000000-0000-4000-8000-000000000000', 'user_ada2', 'ada@example.com', 'member', null),
    ('00000000-0000-4000-8000-000000000003', 'd0000000-0000-4000-8000-000000000000', null, 'left@example.com', 'member', null);
insert into projects values ('c0000000-0000-4000-8000-000000000000', 'a0000000-0000-4000-8000-000000000000', 'Apollo');
insert into project_admins (project_id, admin_id, role) values
    ('c0000000-0000-4000-8000-000000000000', '00000000-0000-4000-8000-000000000001', 'admin');
insert into comments (admin_id, body) values ('00000000-0000-4000-8000-000000000003', 'Good-bye');
";

/// What that app's code does, and goes on doing.
const OLD_CODE: &[&str] = &[
    "select a.*, o.name from admins a join organizations o on o.id = a.organization_id where lower(a.email) = 'ada@example.com'",
    "select * from project_admins natural join (select id as project_id, organization_id from projects) p where deleted_at is null",
    "insert into admins (organization_id, external_id, email) values ('a0000000-0000-4000-8000-000000000000', 'user_new', 'new@example.com') returning id",
    "insert into admins (organization_id, external_id, email) values ('a0000000-0000-4000-8000-000000000000', 'user_ada', 'x@example.com')",
    "insert into admins (organization_id, email) values ('e0000000-0000-4000-8000-000000000000', 'nowhere@example.com')",
    "insert into admins (organization_id, external_id, email) values ('b0000000-0000-4000-8000-000000000000', 'user_ada', 'x@example.com')
        on conflict (external_id) do update set organization_id = excluded.organization_id, email = excluded.email",
    "update admins set organization_id = 'b0000000-0000-4000-8000-000000000000', role = 'admin' where external_id = 'user_ada'",
    "update admins set deleted_at = now() where external_id = 'user_ada2'",
    "update admins set deleted_at = null where external_id = 'user_ada2'",
    "update admins set role = null where false",
    "insert into projects (organization_id, name) values ('b0000000-0000-4000-8000-000000000000', 'Bolt on')",
    "insert into project_admins (project_id, admin_id) values ('c0000000-0000-4000-8000-000000000000', '00000000-0000-4000-8000-000000000001')",
    "insert into project_admins (project_id, admin_id, role)
        select id, '00000000-0000-4000-8000-000000000001', 'client' from projects
        on conflict (project_id, admin_id) do update set role = excluded.role, deleted_at = null",
    "delete from organizations where id = 'a0000000-0000-4000-8000-000000000000'",
    "delete from admins where external_id = 'user_ada'",
    "delete from admins where email = 'left@example.com'",
    "delete from organizations where name = 'Left'",
    "insert into comments (admin_id) select id from admins",
    "truncate project_admins",
];

/// What comes of the app's code: how many rows, or which error. It leaves nothing behind.
async fn outcome_of_old_code(database: &TestDatabase) -> Vec<String> {
    let mut tx = database.pool.pg().begin().await.unwrap();
    let mut outcomes = Vec::new();
    for text in OLD_CODE {
        let mut step = tx.begin().await.unwrap();
        match sqlx::query(*text).execute(&mut *step).await {
            Ok(done) => {
                outcomes.push(format!("{text}: {} rows", done.rows_affected()));
                step.commit().await.unwrap();
            }
            Err(error) => {
                let error = error.into_database_error().unwrap();
                outcomes.push(format!("{text}: {} by {:?}", error.code().unwrap(), error.constraint()));
                step.rollback().await.unwrap();
            }
        }
    }
    tx.rollback().await.unwrap();
    outcomes
}

/// Everything that the app has made: its rows, columns, constraints, indexes and triggers. Whether a column may be null
/// is not among it.
const WHAT_IS_THE_APP_S: &str = "
select string_agg(line, E'\\n' order by line) from (
    select 'row ' || t as line from (
        select to_jsonb(o)::text from organizations o union all
        select (to_jsonb(a) - 'external_id')::text from admins a union all
        select to_jsonb(i)::text from invoices i union all
        select (to_jsonb(p) - 'updated_at' - 'deleted_at')::text from projects p union all
        select jsonb_build_array(project_id, admin_id, deleted_at)::text from project_admins union all
        select to_jsonb(d)::text from audit d) as rows (t)
    union all
    select format('column %s.%s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
        pg_get_expr(d.adbin, d.adrelid))
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where c.relname in ('organizations', 'admins', 'projects', 'project_admins', 'invoices', 'audit') and a.attnum > 0
      and (c.relname, a.attname) not in (('admins', 'external_id'), ('project_admins', 'id'), ('project_admins', 'role'),
          ('project_admins', 'created_at'), ('project_admins', 'updated_at'), ('projects', 'updated_at'),
          ('projects', 'deleted_at'))
    union all
    select format('%s %s', conname, pg_get_constraintdef(oid)) from pg_constraint
    where conrelid::regclass::text in ('organizations', 'admins', 'projects', 'project_admins', 'invoices')
    union all
    select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal and tgname not like 'usher%'
    union all
    select indexdef from pg_indexes where schemaname = 'public' and indexname not like 'usher%'
        and tablename in ('organizations', 'admins', 'projects', 'project_admins', 'invoices')
) as things";

/// All that the catalog knows of the database.
const CATALOG: &str = "
select md5(string_agg(line, ' ' order by line)) from (
    select format('%s %s %s', c.relname, c.relkind, c.relnamespace) from pg_class c where c.relnamespace > 16000
        or c.relnamespace = 'public'::regnamespace
    union all select format('%s %s %s', attrelid, attname, attnotnull) from pg_attribute where attrelid > 16000
    union all select proname from pg_proc where oid > 16000
    union all select extname from pg_extension union all select nspname from pg_namespace where nspname not like 'pg_%'
) as things (line)";

/// What a dump of the schema would hold: without what columns are numbered, and those that are gone.
const SCHEMA: &str = "
select string_agg(line, E'\\n' order by line) from (
    select format('%s.%s %s %s %s %s', c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
        pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum))
    from pg_attribute a join pg_class c on c.oid = a.attrelid left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.oid > 16000 and c.relkind in ('r', 'v', 'S') and a.attnum > 0 and not a.attisdropped
    union all select format('%s %s', oid::regclass, obj_description(oid, 'pg_class')) from pg_class
    where oid > 16000 and relkind in ('r', 'v', 'S')
    union all select format('%s %s', conname, pg_get_constraintdef(oid)) from pg_constraint where conrelid > 16000
    union all select pg_get_indexdef(indexrelid) from pg_index where indrelid > 16000 and indrelid::regclass::text !~ 'pg_toast'
    union all select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
    union all select pg_get_functiondef(oid) from pg_proc where oid > 16000 and prokind = 'f'
    union all select extname from pg_extension union all select nspname from pg_namespace where nspname not like 'pg_%'
) as things (line)";

fn stdout(ran: &std::process::Output) -> String {
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

async fn app_database() -> TestDatabase {
    let database = TestDatabase::empty_postgres().await;
    database.pool.execute(APP).await;
    database
}

async fn adopted() -> TestDatabase {
    let database = app_database().await;
    database.migrate_shared(&Rules::default()).await.unwrap();
    database
}

/// Who is in which organization, as the table has it.
async fn memberships(database: &TestDatabase) -> Vec<String> {
    sqlx::query_scalar(
        "select format('%s %s %s', left(organization_id::text, 1), right(admin_id::text, 1), role)
         from organization_users where deleted_at is null order by 1",
    )
    .fetch_all(database.pool.pg())
    .await
    .unwrap()
}

fn usher(database: &TestDatabase, arguments: &[&str]) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(arguments)
        .current_dir(database.folder.path())
        .env_clear()
        .env("USHER_ENV", "development")
        .env("USHER_TABLES", "shared")
        .env("USHER_DATABASE_URL", &database.url)
        .output()
        .unwrap()
}

#[tokio::test]
async fn an_app_s_database_is_taken_over_and_everything_of_the_app_s_stays() {
    let database = app_database().await;
    let pool = &database.pool;
    let before = pool.text(WHAT_IS_THE_APP_S).await;
    database.migrate_shared(&Rules::default()).await.unwrap();
    assert_eq!(pool.text(WHAT_IS_THE_APP_S).await, before);

    assert_eq!(
        memberships(&database).await,
        ["a 1 owner", "a 2 superhero", "b 3 member"],
        "every live person, with their role"
    );
    let of_column = "select col_description('admins'::regclass, attnum) from pg_attribute
                     where attrelid = 'admins'::regclass and attname = 'organization_id'";
    let comment = pool.text(of_column).await.unwrap();
    assert!(
        comment.starts_with("Deprecated:") && comment.ends_with("Their employer."),
        "{comment}"
    );
    assert_eq!(
        pool.text("select obj_description('admins'::regclass)").await.as_deref(),
        Some("Who can sign in.")
    );
    let name = "select col_description('organizations'::regclass, 2)";
    assert_eq!(pool.text(name).await.as_deref(), Some("As on the invoice."));
    assert_eq!(
        pool.text("select role from project_admins").await.as_deref(),
        Some("support"),
        "the lowest"
    );

    let ours = "pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'i') and relname !~
        '^(organizations|admins|projects|project_admins|invoices|audit|organization_users|invites)(_|$)' and relname !~ '^usher_'";
    assert_eq!(
        pool.count(ours).await,
        0,
        "what usher adds beside the shared tables is named so"
    );

    let catalog = pool.text(CATALOG).await;
    database.migrate_shared(&Rules::default()).await.unwrap();
    assert_eq!(pool.text(CATALOG).await, catalog, "a second run changes nothing");
}

#[tokio::test]
async fn an_app_that_knows_clerk_s_ids_and_its_old_code_go_on_as_before() {
    let database = TestDatabase::empty_postgres().await;
    database.pool.execute(APP_ON_CLERK).await;
    let before = outcome_of_old_code(&database).await;
    database.migrate_shared(&Rules::default()).await.unwrap();
    assert_eq!(outcome_of_old_code(&database).await, before);
    assert_eq!(memberships(&database).await, ["a 1 owner", "b 2 member", "d 3 member"]);

    // Two people with one address in different case are known by their ids.
    let app = TestApp::start_shared(database).await;
    for (id, email) in [("user_ada", "ada@example.com"), ("user_ada2", "ADA@example.com")] {
        let mut ada = app.clerk().old_user(email);
        ada.id = id.to_owned();
        app.clerk().tells_of(&ada).await;
    }
    app.run_jobs().await;
    assert_eq!(app.pool.count("admins").await, 3);
    assert_eq!(app.members(ACME).await, ["ada@example.com owner"]);
    assert_eq!(app.project_members(APOLLO).await, ["ada@example.com admin"]);
    app.finish().await;
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_changes_nothing() {
    let database = app_database().await;
    let before = (
        database.pool.text(CATALOG).await,
        database.pool.text(WHAT_IS_THE_APP_S).await,
    );
    let ran = usher(&database, &["migrate", "--dry-run"]);
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    for words in [
        "bring the queue's tables",
        "build the index usher_admins_email on admins (lower(trim(email)))",
        "add the column project_admins.role",
        "build the unique index usher_project_admins_pair on project_admins (project_id, admin_id)",
        "apply migration 0001",
        "make the table invites, which is not there, with a key from organization_id to organizations, a key from project_id to projects, the index",
        "use the table admins, with the index usher_admins_external_id, the trigger usher_mirror",
        "make the functions usher_read_organizations, usher_read_projects, usher_read_admins, usher_tell_of_events",
        "fill organization_users from admins.organization_id, in batches: 3 memberships",
        "Nothing was changed",
    ] {
        assert!(said.contains(words), "{words} in:\n{said}");
    }
    assert!(
        !said.contains("be null"),
        "what the app's schema promises stays promised:\n{said}"
    );
    assert_eq!(
        (
            database.pool.text(CATALOG).await,
            database.pool.text(WHAT_IS_THE_APP_S).await
        ),
        before
    );

    let ran = usher(&database, &["migrate"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let ran = usher(&database, &["migrate", "--dry-run"]);
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "There is nothing to do.\n");
}

#[tokio::test]
async fn code_that_still_writes_organization_id_sees_the_membership_follow() {
    let database = adopted().await;
    // A role of the app's that may touch the app's tables and nothing else, in a session of another time zone.
    let role = format!("app_{}", Uuid::from_bytes(rand::random()).simple());
    database
        .pool
        .execute(&format!(
            "create role {role} login; grant select, insert, update, delete on admins, organizations, audit to {role};
             alter role {role} set timezone = 'America/New_York'"
        ))
        .await;
    let mut app = PgConnection::connect(&database.url_of_role(&role)).await.unwrap();
    let mut run = async |text: &'static str| sqlx::query(text).execute(&mut app).await.unwrap();

    run("insert into admins (id, organization_id, email, role)
         values ('00000000-0000-4000-8000-000000000005', 'a0000000-0000-4000-8000-000000000000', 'eve@example.com', 'admin')").await;
    assert!(
        memberships(&database).await.contains(&"a 5 admin".to_owned()),
        "a new person is in"
    );
    run("update admins set role = 'member' where email = 'eve@example.com'").await;
    assert!(
        memberships(&database).await.contains(&"a 5 member".to_owned()),
        "a new role counts"
    );
    run("update admins set organization_id = 'b0000000-0000-4000-8000-000000000000' where email = 'eve@example.com'")
        .await;
    let moved = memberships(&database).await;
    assert!(
        moved.contains(&"b 5 member".to_owned()) && !moved.contains(&"a 5 member".to_owned()),
        "{moved:?}"
    );
    run("update admins set organization_id = organization_id, role = role, first_name = 'Eve' where email = 'eve@example.com'").await;
    assert_eq!(memberships(&database).await, moved, "nothing is new");
    database
        .pool
        .execute("alter table admins alter column organization_id drop not null")
        .await;
    run("update admins set organization_id = null where email = 'eve@example.com'").await;
    assert_eq!(
        memberships(&database).await,
        moved,
        "a column on its way out says nothing of anybody"
    );

    // The app brings somebody back, and deletes somebody for good.
    run("update admins set deleted_at = null where email = 'gone@example.com'").await;
    assert!(memberships(&database).await.contains(&"a 4 admin".to_owned()));
    run("delete from admins where email = 'gone@example.com'").await;
    assert!(!memberships(&database).await.contains(&"a 4 admin".to_owned()));
    let fresh = "select (abs(extract(epoch from created_at - now())) < 600)::text from organization_users
                 where admin_id = '00000000-0000-4000-8000-000000000005' limit 1";
    assert_eq!(
        database.pool.text(fresh).await.as_deref(),
        Some("true"),
        "whatever the session's time zone"
    );
}

#[tokio::test]
async fn usher_works_on_the_app_s_tables_and_old_and_new_ways_in_do_not_fight() {
    let app = TestApp::start_shared(adopted().await).await;
    // Ada was the app's before Clerk: her verified address is enough, whatever its case.
    let ada = app.clerk().user_created("ada@example.com").await;
    app.run_jobs().await;
    assert_eq!(
        app.members(ACME).await,
        ["ada@example.com owner", "bob@example.com superhero"],
        "linked, with what she had"
    );
    assert_eq!(app.pool.count("admins where lower(email) = 'ada@example.com'").await, 1);

    // She invites into a project; who comes is let in beside those whom the app let in.
    app.invite(json!({
        "project_id": APOLLO, "email": "new@example.com", "role": "editor", "invited_by": ada.id,
    }))
    .await;
    app.run_jobs().await;
    app.person("new@example.com", None).await;
    assert_eq!(
        app.project_members(APOLLO).await,
        ["bob@example.com support", "new@example.com editor"]
    );
    assert!(app.members(ACME).await.contains(&"new@example.com member".to_owned()));

    // People that Clerk only reports are not in the app's tables.
    let mut phone = app.clerk().user("phone@example.com");
    phone.emails.clear();
    app.clerk().tell("user.created", phone.to_json()).await;
    app.run_jobs().await;
    assert_eq!(
        app.pool
            .count("admins where external_id = 'user_phoneexamplecom'")
            .await,
        0
    );
    // As a member, they need no address and no name, where the app allows that.
    let phone = format!("/v1/organizations/{ACME}/members/user_phoneexamplecom");
    let put = app.put(&phone, json!({ "role": "member" })).await;
    assert_eq!(put.problem(409), "app_must_create");
    app.pool
        .execute("alter table admins alter column email drop not null")
        .await;
    app.put(&phone, json!({ "role": "member" })).await.expect(201);
    assert_eq!(
        app.pool
            .count("admins where external_id = 'user_phoneexamplecom' and email is null")
            .await,
        1
    );
    app.finish().await;
}

#[tokio::test]
async fn what_usher_writes_keeps_to_the_apps_schema_whatever_becomes_of_it() {
    let app = TestApp::start_shared(adopted().await).await;
    let may_be_null =
        "pg_attribute where attrelid = 'admins'::regclass and attname = 'organization_id' and not attnotnull";
    assert_eq!(app.pool.count(may_be_null).await, 0, "it stays as the app declared it");
    app.person("new@example.com", Some((ACME, "owner"))).await;
    let theirs = format!("admins where email = 'new@example.com' and organization_id = '{ACME}'");
    assert_eq!(app.pool.count(&theirs).await, 1, "where they came in");
    assert!(app.members(ACME).await.contains(&"new@example.com owner".to_owned()));
    let told = "usher_outgoing_events where type = 'membership.created'";
    assert_eq!(app.pool.count(told).await, 1, "once, with the role of the invite");

    // The app's next migrations.
    app.pool
        .execute(
            "alter table admins drop column organization_id; alter table admins alter column role type varchar(30);
             alter table admins drop column role;
             alter table admins drop column image_url",
        )
        .await;
    app.person("later@example.com", Some((ACME, "member"))).await;
    assert!(app.members(ACME).await.contains(&"later@example.com member".to_owned()));

    // Invites don't keep the app from deleting what they led into.
    app.invite_to_organization(ACME, "open@example.com", "member").await;
    app.run_jobs().await;
    app.pool
        .execute("delete from project_admins; delete from projects")
        .await;
    app.pool
        .execute(
            "delete from organization_users; delete from organizations where not exists (
        select from admins a where to_jsonb(a) ->> 'organization_id' = organizations.id::text)",
        )
        .await;
    assert_eq!(app.pool.count(&format!("organizations where id = '{ACME}'")).await, 0);
    assert_eq!(
        app.pool
            .count(&format!("invites where organization_id = '{ACME}'"))
            .await,
        0
    );
    app.finish().await;
}

#[tokio::test]
async fn times_without_a_zone_are_written_and_read_as_utc() {
    let database = adopted().await;
    let name = database.pool.text("select current_database()::text").await.unwrap();
    database
        .pool
        .execute(&format!("alter database {name} set timezone = 'Asia/Tokyo'"))
        .await;
    let app = TestApp::start_shared(database).await;
    let id = app.clock.new_id();
    let made = app
        .put(&format!("/v1/organizations/{id}"), json!({ "name": "Zeit" }))
        .await
        .expect(201);
    let now = app.now();
    assert_eq!(
        made["created_at"]
            .as_str()
            .unwrap()
            .parse::<chrono::DateTime<chrono::Utc>>()
            .unwrap(),
        now
    );
    let stored: chrono::NaiveDateTime = sqlx::query_scalar("select created_at from organizations where id = $1")
        .bind(id)
        .fetch_one(app.pool.pg())
        .await
        .unwrap();
    assert_eq!(stored.and_utc(), now);
    app.finish().await;
}

#[tokio::test]
async fn an_address_links_nobody_who_might_be_somebody_else() {
    let app = TestApp::start_shared(adopted().await).await;
    // Two people have Bob's address, in two cases, in two organizations.
    app.clerk().user_created("bob@example.com").await;
    // Ada's address, but nobody has verified it.
    let mut ada = app.clerk().user("ada@example.com");
    ada.emails[0].1 = false;
    app.clerk().tell("user.created", ada.to_json()).await;
    app.run_jobs().await;
    let linked = "admins where external_id is not null and organization_id is not null";
    assert_eq!(app.pool.count(linked).await, 0);
    assert_eq!(app.pool.count("admins where external_id is not null").await, 0);
    assert_eq!(app.pool.count("usher_people").await, 2, "they are people of their own");
    assert_eq!(app.pool.count("organization_users").await, 3);
    app.finish().await;
}

#[tokio::test]
async fn identities_in_a_table_of_the_app_s_are_followed_and_kept() {
    let database = app_database().await;
    database
        .pool
        .execute(
            "create table admin_identities (
                 id uuid primary key, admin_id uuid not null references admins (id), provider text not null,
                 issuer text not null, subject text not null, deleted_at timestamptz, unique (provider, issuer, subject));
             insert into admin_identities values
                 (gen_random_uuid(), '00000000-0000-4000-8000-000000000001', 'clerk', 'https://clerk.acme.example', 'user_ada'),
                 (gen_random_uuid(), '00000000-0000-4000-8000-000000000002', 'google', 'https://accounts.google.com', 'user_bob'),
                 (gen_random_uuid(), '00000000-0000-4000-8000-000000000003', 'clerk', 'clerk', 'user_bo'),
                 (gen_random_uuid(), '00000000-0000-4000-8000-000000000004', 'clerk', 'clerk', 'user_gone');
             update admin_identities set deleted_at = now() where subject = 'user_gone'",
        )
        .await;
    let rules = |issuers: &[&str]| Rules {
        identities: Identities::Table {
            provider: "clerk".to_owned(),
            issuers: issuers.iter().map(|&issuer| issuer.to_owned()).collect(),
        },
        ..Rules::default()
    };
    let ids = "select string_agg(external_id, ' ' order by external_id) from admins where external_id is not null";
    let one = rules(&["https://clerk.acme.example"]);
    database.migrate_shared(&one).await.unwrap();
    database.migrate_shared(&one).await.unwrap();
    assert_eq!(
        database.pool.text(ids).await.as_deref(),
        Some("user_ada"),
        "those of Clerk only"
    );
    // Another issuer is added later: the word that the app wrote before it knew Clerk's address.
    let two = rules(&["https://clerk.acme.example", "clerk"]);
    database.migrate_shared(&two).await.unwrap();
    let app = TestApp::start_shared(database).await;
    let linked = "user_ada user_bo";
    assert_eq!(
        app.pool.text(ids).await.as_deref(),
        Some(linked),
        "without what the app has detached"
    );

    let carol = app.person("carol@example.com", Some((ACME, "member"))).await;
    let noted = format!(
        "admin_identities where subject = '{}' and provider = 'clerk' and issuer = 'https://clerk.acme.example'",
        carol.id
    );
    assert_eq!(app.pool.count(&noted).await, 1, "the app finds the new member");

    app.pool
        .execute(
            "insert into admin_identities (admin_id, provider, issuer, subject) values
                 ('00000000-0000-4000-8000-000000000002', 'clerk', 'https://clerk.acme.example', 'user_bob');
             delete from admin_identities where subject = 'user_ada'",
        )
        .await;
    assert_eq!(app.pool.count("admins where external_id = 'user_bob'").await, 1);
    assert_eq!(app.pool.count("admins where external_id = 'user_ada'").await, 0);
    // The same person under both issuers stays linked until both are gone; what is detached is not linked, and comes back.
    let bob = "admins where external_id = 'user_bob'";
    for (change, is_linked) in [
        (
            "insert into admin_identities (admin_id, provider, issuer, subject) values
              ('00000000-0000-4000-8000-000000000002', 'clerk', 'clerk', 'user_bob')",
            true,
        ),
        (
            "update admin_identities set deleted_at = now() where subject = 'user_bob' and issuer like 'https://clerk%'",
            true,
        ),
        (
            "update admin_identities set deleted_at = now() where subject = 'user_bob' and issuer = 'clerk'",
            false,
        ),
        (
            "update admin_identities set deleted_at = null where subject = 'user_bob' and issuer = 'clerk'",
            true,
        ),
        (
            "alter table admins drop column first_name; update admins set updated_at = now()",
            true,
        ),
    ] {
        app.pool.execute(change).await;
        assert_eq!(app.pool.count(bob).await == 1, is_linked, "{change}");
    }
    app.finish().await;
}

#[tokio::test]
async fn an_address_that_may_be_there_once_only_is_left_to_whoever_has_it() {
    for unique in ["(email)", "(lower(email)) where deleted_at is null"] {
        let database = app_database().await;
        database
            .pool
            .execute(&format!(
                "update admins set email = 'other@example.com' where email = 'BOB@example.com';
                 alter table admins alter column email drop not null; create unique index admins_email on admins {unique}"
            ))
            .await;
        database.migrate_shared(&Rules::default()).await.unwrap();
        let app = TestApp::start_shared(database).await;
        let mut ada = app.clerk().user("Ada@Example.com");
        ada.emails[0].1 = false;
        app.clerk().tell("user.created", ada.to_json()).await;
        app.person("gone@example.com", Some((ACME, "member"))).await;
        app.put(
            &format!("/v1/organizations/{ACME}/members/{}", ada.id),
            json!({ "role": "member" }),
        )
        .await
        .expect(201);
        let address = async |id: &str| {
            let text = format!("select email from admins where external_id = '{id}'");
            app.pool.text(&text).await
        };
        assert_eq!(address(&ada.id).await, None, "it is another's, as far as anybody knows");
        // Whoever comes back under a new Clerk id is told apart from who they were.
        let again = address("user_goneexamplecom").await;
        assert_eq!(again.is_some(), unique.contains("where"), "{unique}");
        assert_eq!(app.pool.count("organization_users m join admins a on a.id = m.admin_id where a.external_id = 'user_goneexamplecom'").await, 1);
        app.finish().await;
    }
}

/// Rows enough for many batches.
const MANY: i64 = 200_000;

async fn app_database_of(people: i64) -> TestDatabase {
    let database = app_database().await;
    database
        .pool
        .execute(&format!(
            "set session_replication_role = replica;
             insert into admins (organization_id, email, role, deleted_at)
             select case n % 2 when 0 then 'a0000000-0000-4000-8000-000000000000'::uuid
                     else 'b0000000-0000-4000-8000-000000000000' end,
                 'person' || n || '@example.com', case n % 3 when 0 then 'admin' else 'member' end,
                 case n % 10 when 0 then now() end
             from generate_series(1, {people}) n;
             set session_replication_role = origin"
        ))
        .await;
    database
}

#[tokio::test]
async fn two_hundred_thousand_people_are_taken_over_while_the_app_goes_on() {
    let database = app_database_of(MANY).await;
    let done = std::sync::atomic::AtomicBool::new(false);
    let migrate = async {
        let outcome = database.migrate_shared(&Rules::default()).await;
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        outcome
    };
    // The app: it gives up on whatever it has to wait for longer than it is used to. Each transaction also stays open
    // for a moment after its write, as an app's do.
    let write = async {
        let mut app = PgConnection::connect(&database.url).await.unwrap();
        sqlx::query("set lock_timeout = '3s'").execute(&mut app).await.unwrap();
        let mut written = 0;
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            let mut tx = app.begin().await.unwrap();
            for text in [
                "insert into admins (organization_id, email, role)
                 values ('a0000000-0000-4000-8000-000000000000', 'during' || clock_timestamp() || '@example.com', 'member')",
                "update admins set first_name = 'X', organization_id = 'b0000000-0000-4000-8000-000000000000'
                 where id = (select id from admins where organization_id = 'a0000000-0000-4000-8000-000000000000'
                     and id >= gen_random_uuid() and deleted_at is null limit 1)",
                "update organizations set updated_at = now() where id = 'a0000000-0000-4000-8000-000000000000'",
                "select count(*) from project_admins",
            ] {
                sqlx::query(text).execute(&mut *tx).await.expect("the app is never kept waiting for long");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            tx.commit().await.unwrap();
            written += 1;
        }
        written
    };
    let (outcome, written): (_, u32) = tokio::join!(migrate, write);
    outcome.unwrap();
    assert!(written > 0, "the app wrote meanwhile");
    let wrong = "admins a full join (select * from organization_users where deleted_at is null) m
        on m.admin_id = a.id and m.organization_id = a.organization_id
        where a.deleted_at is null and (m.id is null or a.id is null or m.role <> a.role)";
    assert_eq!(database.pool.count(wrong).await, 0, "everybody is where the app says");
    assert!(database.pool.count("organization_users where deleted_at is null").await > MANY * 8 / 10);
}

#[tokio::test]
async fn whoever_queues_behind_usher_s_locks_is_soon_let_pass() {
    let database = app_database().await;
    let mut reader = PgConnection::connect(&database.url).await.unwrap();
    let mut long = reader.begin().await.unwrap();
    sqlx::query("select * from admins").execute(&mut *long).await.unwrap();
    let rules = Rules::default();
    let app = async {
        let mut app = PgConnection::connect(&database.url).await.unwrap();
        // Longer than usher queues, much shorter than the long transaction takes.
        sqlx::query("set lock_timeout = '5s'").execute(&mut app).await.unwrap();
        let mut has_queued = 0;
        while has_queued < 3 {
            let is_queued: bool = sqlx::query_scalar(
                "select exists (select from pg_stat_activity where datname = current_database()
                     and application_name like 'usher%' and wait_event_type = 'Lock')",
            )
            .fetch_one(&mut app)
            .await
            .unwrap();
            if is_queued {
                sqlx::query("update admins set first_name = 'X' where email = 'bob@example.com'")
                    .execute(&mut app)
                    .await
                    .expect("the app is let pass");
                has_queued += 1;
            }
        }
        long.commit().await.unwrap();
    };
    let (outcome, ()) = tokio::join!(database.migrate_shared(&rules), app);
    outcome.unwrap();
    assert_eq!(memberships(&database).await.len(), 3);
}

#[tokio::test]
async fn usher_can_be_taken_out_again_and_the_app_s_schema_is_as_it_was() {
    for schema in [APP, APP_ON_CLERK, include_str!("../schemas/issue.sql")] {
        let database = TestDatabase::empty_postgres().await;
        let pool = &database.pool;
        pool.execute(schema).await;
        let before = pool.text(SCHEMA).await;
        database.migrate_shared(&Rules::default()).await.unwrap();
        let said = stdout(&usher(&database, &["migrate", "--remove", "--dry-run"]));
        for words in [
            "Would drop the table organization_users, which usher made, with ",
            "Would drop the trigger usher_mirror_organization on admins",
            "Would drop the schema usher with its",
            "Would drop the schema apalis with 0 jobs",
            "Nothing was changed",
        ] {
            assert!(said.contains(words), "{words} in:\n{said}");
        }
        let sql = stdout(&usher(&database, &["migrate", "--remove", "--sql"]));
        assert!(sql.contains("drop schema usher cascade;"), "{sql}");
        assert_ne!(pool.text(SCHEMA).await, before, "so far only looked at");
        let said = stdout(&usher(&database, &["migrate", "--remove"]));
        assert!(said.contains("usher is no longer in the database"), "{said}");
        assert_eq!(pool.text(SCHEMA).await, before);

        let again = usher(&database, &["migrate", "--remove"]);
        assert!(!again.status.success());
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(said.contains("usher is not in it"), "{said}");
        database.migrate_shared(&Rules::default()).await.unwrap();
    }
}

#[tokio::test]
async fn beside_an_app_s_tables_usher_leaves_nothing_behind() {
    let database = TestDatabase::empty_postgres().await;
    database.pool.execute(include_str!("../schemas/prisma.sql")).await;
    let before = database.pool.text(SCHEMA).await;
    database.migrate(&Rules::default()).await.unwrap();
    let store = Store::open(&database.url, Clock::System).await.unwrap();
    let planned = store.plan_removal().await.unwrap();
    assert_eq!(store.remove().await.unwrap(), planned);
    store.close().await;
    assert_eq!(database.pool.text(SCHEMA).await, before);
}

#[tokio::test]
async fn what_came_since_is_told_of_when_usher_is_taken_out() {
    let database = app_database().await;
    database.migrate_shared(&Rules::default()).await.unwrap();
    // Another program's jobs, and what the app itself allows since.
    database
        .pool
        .execute(
            "insert into apalis.jobs (id, job, job_type) values ('x', 'x', 'mailer');
             alter table admins alter column role drop not null",
        )
        .await;
    let said = stdout(&usher(&database, &["migrate", "--remove"]));
    for words in ["which others use, too", "bring apalis's own indexes"] {
        assert!(said.contains(words), "{words} in:\n{said}");
    }
    assert_eq!(database.pool.count("apalis.jobs").await, 1);
    assert_eq!(database.pool.count("pg_trigger where tgname like 'usher%'").await, 0);
    let role = "pg_attribute where attrelid = 'admins'::regclass and attname = 'role' and attnotnull";
    assert_eq!(
        database.pool.count(role).await,
        0,
        "what the app has allowed stays allowed"
    );

    // While it runs, nothing is taken from under it.
    let database = TestDatabase::postgres().await;
    database
        .pool
        .execute("insert into apalis.workers (id, worker_type, storage_name) values ('w', 'usher:send-mail', 'x')")
        .await;
    let store = Store::open(&database.url, Clock::System).await.unwrap();
    let refused = store.remove().await.unwrap_err().to_string();
    store.close().await;
    assert!(refused.contains("usher is running on it"), "{refused}");
}

#[tokio::test]
async fn a_run_that_is_cut_off_anywhere_is_completed_by_the_next() {
    let database = app_database_of(30_000).await;
    let mut admin = PgConnection::connect(&database.url).await.unwrap();
    let mut cut_off = 0;
    for milliseconds in [1, 20, 100, 200, 300, 400, 600, 900, 1300, 1700] {
        let cut = async {
            let is_at_it = "select exists (select from pg_stat_activity
                 where datname = current_database() and application_name like 'usher%')";
            while !sqlx::query_scalar::<_, bool>(is_at_it)
                .fetch_one(&mut admin)
                .await
                .unwrap()
            {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            sqlx::query(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and application_name like 'usher%'",
            )
            .execute(&mut admin)
            .await
            .unwrap();
        };
        let rules = Rules::default();
        let mut migration = pin!(database.migrate_shared(&rules));
        let outcome = tokio::select! {
            outcome = &mut migration => outcome,
            () = cut => migration.await,
        };
        cut_off += u32::from(outcome.is_err());
    }
    assert!(cut_off > 0, "some were");
    database.migrate_shared(&Rules::default()).await.unwrap();
    let missing = "admins a where deleted_at is null and not exists (
        select from organization_users m where m.admin_id = a.id and m.organization_id = a.organization_id and m.role = a.role)";
    assert_eq!(database.pool.count(missing).await, 0);
    assert_eq!(
        database.pool.count("pg_index where not indisvalid").await,
        0,
        "nothing half-built is left"
    );
}

#[tokio::test]
async fn several_processes_may_migrate_at_once() {
    let database = app_database().await;
    let rules = Rules::default();
    let all = futures::future::join_all((0..4).map(|_| database.migrate_shared(&rules))).await;
    for outcome in all {
        outcome.unwrap();
    }
    assert_eq!(memberships(&database).await.len(), 3);
}

#[tokio::test]
async fn the_configured_ladder_gives_those_without_a_role_its_lowest() {
    let database = app_database().await;
    database
        .pool
        .execute("alter table admins alter column role drop not null; update admins set role = null")
        .await;
    let rules = Rules {
        roles: Roles::new("guest,host".parse().unwrap(), "viewer,maker".parse().unwrap()),
        ..Rules::default()
    };
    database.migrate_shared(&rules).await.unwrap();
    assert_eq!(memberships(&database).await, ["a 1 guest", "a 2 guest", "b 3 guest"]);
    assert_eq!(
        database.pool.text("select role from project_admins").await.as_deref(),
        Some("viewer")
    );
    assert_eq!(database.pool.count(&format!("admins where id = '{ADA}'")).await, 1);
}
