//! Databases that usher can't work with: a sentence that says what to do, an exit code, and nothing changed.

use std::process::{Command, Output};

use uuid::Uuid;

use crate::support::TestDatabase;

fn usher(arguments: &[&str], tables: &str, database: &TestDatabase, url: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(arguments)
        .current_dir(database.folder.path())
        .env_clear()
        .env("USHER_ENV", "development")
        .env("USHER_TABLES", tables)
        .env("USHER_DATABASE_URL", url)
        .output()
        .unwrap()
}

/// What `usher migrate` complains of; it must fail, and so must a dry run, with the same words.
fn complaint(database: &TestDatabase, url: &str) -> String {
    complaint_about("shared", database, url)
}

fn complaint_about(tables: &str, database: &TestDatabase, url: &str) -> String {
    let run = |arguments: &[&str]| {
        let ran = usher(arguments, tables, database, url);
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        assert!(ran.stdout.is_empty(), "{ran:?}");
        String::from_utf8(ran.stderr).unwrap()
    };
    let complaint = run(&["migrate"]);
    let foreseen = run(&["migrate", "--dry-run"]);
    assert_eq!(
        foreseen.lines().next(),
        complaint.lines().next(),
        "a dry run foresees it"
    );
    complaint
}

/// What the database has of tables, columns, functions, schemas and extensions.
async fn catalog(database: &TestDatabase) -> Option<String> {
    database
        .pool
        .text(
            "select string_agg(line, ' ' order by line) from (
                 select format('%s %s', c.relname, a.attname) from pg_attribute a join pg_class c on c.oid = a.attrelid
                 where c.oid > 16000 and c.relnamespace <> 'pg_toast'::regnamespace
                 union all select proname from pg_proc where oid > 16000
                 union all select extname from pg_extension union all select nspname from pg_namespace) as things (line)",
        )
        .await
}

#[track_caller]
fn assert_says(complaint: &str, words: &[&str]) {
    for words in words {
        assert!(complaint.contains(words), "“{words}” in: {complaint}");
    }
}

#[tokio::test]
async fn tables_that_are_not_as_an_app_of_clerk_s_has_them() {
    for (script, words) in [
        (
            "create table organizations (id bigserial primary key, name text)",
            "organizations.id is of the type int8, but usher needs uuid",
        ),
        ("create table admins (name text)", "admins has no column id"),
        (
            "create view admins as select gen_random_uuid() as id",
            "admins is a view",
        ),
        (
            "create table invites (id uuid primary key, letter text)",
            "a table invites that is not usher's",
        ),
        (
            "create table admins (id uuid primary key, password text not null)",
            "admins.password must not be null and has no default",
        ),
        (
            "create table project_admins (project_id uuid, admin_id uuid);
             insert into project_admins select u, u from (select gen_random_uuid() as u) x, generate_series(1, 2)",
            "project_admins has 1 pairs of (project_id, admin_id) more than once",
        ),
        (
            "create table organizations (id uuid primary key); create table admins (id uuid primary key);
             create table organization_members (
                 organization_id uuid references organizations (id), admin_id uuid references admins (id));
             insert into organizations values (gen_random_uuid()); insert into admins values (gen_random_uuid());
             insert into organization_members select o.id, a.id from organizations o, admins a",
            "the table organization_members refers to organizations and admins and has rows",
        ),
        (
            "create table users (id uuid primary key)",
            "people are in the table users",
        ),
        (
            "create table organization_users (organization_id uuid, admin_id uuid,
                 role text not null check (role in ('viewer', 'owner')))",
            "organization_users.role may not be member, admin (constraint organization_users_role_check)",
        ),
        (
            "create type level as enum ('low'); create table project_admins (
                 project_id uuid, admin_id uuid, role level check (role = 'low'))",
            "project_admins.role is of the type level",
        ),
    ] {
        let database = TestDatabase::empty_postgres().await;
        database.pool.execute(script).await;
        let before = catalog(&database).await;
        assert_says(
            &complaint(&database, &database.url),
            &[words, "this database can't be used", "with USHER_TABLES=own"],
        );
        assert_eq!(catalog(&database).await, before, "{script}");
    }
}

#[tokio::test]
async fn tables_in_another_schema() {
    let database = TestDatabase::empty_postgres().await;
    database
        .pool
        .execute("create schema app; create table app.admins (id uuid primary key)")
        .await;
    let before = catalog(&database).await;
    assert_says(
        &complaint(&database, &database.url),
        &["admins is in the schema app", "set USHER_APP_SCHEMA=app"],
    );
    assert_eq!(catalog(&database).await, before);
}

#[tokio::test]
async fn a_role_without_rights() {
    let database = TestDatabase::empty_postgres().await;
    database
        .pool
        .execute("revoke create on schema public from public")
        .await;
    let role = format!("poor_{}", Uuid::from_bytes(rand::random()).simple());
    database.pool.execute(&format!("create role {role} login")).await;
    let before = catalog(&database).await;
    let url = database.url_of_role(&role);
    let name = database.pool.text("select current_database()::text").await.unwrap();
    let allow_schemas = format!("grant create on database {name} to {role}");
    assert_says(&complaint(&database, &url), &["the schema usher", &allow_schemas]);
    database.pool.execute(&allow_schemas).await;
    let allow_tables = format!("grant create on schema public to {role}");
    assert_says(&complaint(&database, &url), &[&allow_tables]);
    database
        .pool
        .execute(&format!("{allow_tables}; create table admins (id uuid primary key)"))
        .await;
    assert_says(&complaint(&database, &url), &["admins belongs to the role usher"]);
    database.pool.execute("drop table admins").await;
    assert_eq!(catalog(&database).await, before);
    database
        .pool
        .execute(&format!(
            "set role {role}; create table organizations (id uuid primary key); create table admins (id uuid primary key);
             reset role"
        ))
        .await;
    let ran = usher(&["migrate"], "shared", &database, &url);
    assert!(ran.status.success(), "all that was asked for is enough: {ran:?}");
}

#[tokio::test]
async fn a_database_of_another_encoding() {
    let database = TestDatabase::empty_postgres().await;
    let name = format!("usher_test_latin_{}", Uuid::from_bytes(rand::random()).simple());
    database
        .pool
        .execute(&format!(
            "create database {name} template template0 encoding 'LATIN1' locale 'C'"
        ))
        .await;
    let own = database.pool.text("select current_database()::text").await.unwrap();
    assert_says(
        &complaint(&database, &database.url.replacen(&own, &name, 1)),
        &["its encoding is LATIN1"],
    );
}

#[tokio::test]
async fn schemas_that_are_newer_half_applied_or_somebody_else_s() {
    for database in [TestDatabase::postgres().await, TestDatabase::sqlite().await] {
        for (statement, undo, words) in [
            (
                "insert into usher_migrations (version, description, success, checksum, execution_time)
                 select 9000, 'the future', success, checksum, 0 from usher_migrations where version = 1",
                "delete from usher_migrations where version = 9000",
                "newer than this usher",
            ),
            (
                "update usher_migrations set success = false where version = 1",
                "update usher_migrations set success = true where version = 1",
                "migration 1 was applied by halves",
            ),
            (
                // What an usher before the first release left: another migration 1, and more of them.
                "insert into usher_migrations (version, description, success, checksum, execution_time)
                 select 16, 'more', success, checksum, 0 from usher_migrations where version = 1",
                "select 1",
                "newer than this usher",
            ),
            (
                "update usher_migrations set checksum = substr(checksum, 2) where version = 1",
                "select 1",
                "by a version before the first release",
            ),
        ] {
            database.pool.execute(statement).await;
            let before = database.pool.dump("usher_migrations").await;
            assert_says(&complaint_about("own", &database, &database.url), &[words]);
            assert_eq!(database.pool.dump("usher_migrations").await, before);
            database.pool.execute(undo).await;
        }
    }
}

#[tokio::test]
async fn files_that_are_not_usher_s() {
    let database = TestDatabase::sqlite().await;
    let path = |name: &str| database.folder.path().join(name);
    let url = |name: &str| format!("sqlite://{}", path(name).display());

    std::fs::write(path("letter.txt"), "Dear Ada,\n".repeat(1000)).unwrap();
    assert_says(&complaint(&database, &url("letter.txt")), &["file is not a database"]);
    assert_eq!(
        std::fs::read_to_string(path("letter.txt")).unwrap(),
        "Dear Ada,\n".repeat(1000)
    );

    let other = sqlx::SqlitePool::connect(&format!("{}?mode=rwc", url("other.db")))
        .await
        .unwrap();
    sqlx::raw_sql("create table admins (id integer primary key)")
        .execute(&other)
        .await
        .unwrap();
    assert_says(
        &complaint(&database, &url("other.db")),
        &["a table admins that is not usher's"],
    );
    let tables: i64 = sqlx::query_scalar("select count(*) from sqlite_master")
        .fetch_one(&other)
        .await
        .unwrap();
    assert_eq!(tables, 1);

    let said = usher(&["migrate", "--dry-run"], "shared", &database, &url("new.db"));
    assert!(
        said.status.success() && !path("new.db").exists(),
        "a dry run makes no file"
    );
}

#[tokio::test]
async fn a_server_that_is_no_postgres() {
    let database = TestDatabase::sqlite().await;
    // What a MySQL server says to whoever connects, and a web server to what it does not understand.
    for greeting in [&b"J\0\0\0\x0a8.0.36\0"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://usher@{}/app", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut connections = Vec::new();
            while let Ok((mut connection, _)) = listener.accept() {
                let _ = std::io::Write::write_all(&mut connection, greeting);
                connections.push(connection);
            }
        });
        assert_says(&complaint(&database, &url), &["is no Postgres server", "host and port"]);
        let ran = usher(&["serve"], "shared", &database, &url);
        assert_eq!(ran.status.code(), Some(1), "nor is it waited for: {ran:?}");
    }
}

#[tokio::test]
async fn tables_of_the_other_kind_and_a_schema_that_is_somebody_else_s() {
    let database = TestDatabase::postgres().await;
    let before = catalog(&database).await;
    assert_says(
        &complaint(&database, &database.url),
        &["set up with USHER_TABLES=own", "can't be changed"],
    );
    assert_eq!(catalog(&database).await, before);

    let database = TestDatabase::empty_postgres().await;
    database
        .pool
        .execute("create table organizations (id uuid primary key); create table admins (id uuid primary key)")
        .await;
    database.migrate_shared(&usher::store::Rules::default()).await.unwrap();
    let before = catalog(&database).await;
    assert_says(
        &complaint_about("own", &database, &database.url),
        &["set up with USHER_TABLES=shared"],
    );
    assert_eq!(catalog(&database).await, before);

    let database = TestDatabase::empty_postgres().await;
    database
        .pool
        .execute("create schema usher; create table usher.seats (id integer)")
        .await;
    let before = catalog(&database).await;
    assert_says(
        &complaint_about("own", &database, &database.url),
        &["schema usher holds something that is not usher's"],
    );
    assert_eq!(catalog(&database).await, before);
}
