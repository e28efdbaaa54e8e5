//! Servers that usher can't connect to: each start says what is wrong in a sentence, and ends where waiting can't help.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use url::Url;
use uuid::Uuid;

use crate::support::TestDatabase;
use crate::support::process::{UsherProcess, command, eventually, told};
use crate::support::tls::{Authority, Certificate};

/// Every command that needs the database ends with this, and never tells the password.
async fn refused(url: &str, words: &[&str]) {
    for arguments in [&["serve"][..], &["migrate"], &["migrate", "--dry-run"], &["check"]] {
        let ended = tokio::time::timeout(Duration::from_secs(60), command(url, arguments)).await;
        let (is_well, said) = ended.unwrap_or_else(|_| panic!("{arguments:?} waits: {words:?}"));
        assert!(!is_well, "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?} has no “{word}”: {said}");
        }
        assert!(!said.contains("hunter"), "{arguments:?}: {said}");
    }
}

fn with(url: &str, change: impl FnOnce(&mut Url)) -> String {
    let mut url = Url::parse(url).unwrap();
    change(&mut url);
    url.into()
}

/// The address with more parameters.
fn and(url: &str, parameters: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{parameters}")
}

/// A new role that needs a password; scripts/with-postgres asks its kind for one.
async fn role_with_password(database: &TestDatabase) -> String {
    let role = format!("role_{}", Uuid::from_bytes(rand::random()).simple());
    let make =
        "do $$ begin create role with_password; exception when duplicate_object or unique_violation then null; end $$";
    database.pool.execute(make).await;
    let text = format!("create role {role} superuser login password 'p@ss/w#rd' in role with_password");
    database.pool.execute(&text).await;
    role
}

#[tokio::test]
async fn a_wrong_password_an_unknown_role_and_an_unknown_database() {
    let database = TestDatabase::empty_postgres().await;
    let role = role_with_password(&database).await;
    let as_role = |password: &str| {
        with(&database.url, |url| {
            url.set_username(&role).unwrap();
            url.set_password(Some(password)).unwrap();
        })
    };
    refused(
        &as_role("hunter2"),
        &[&format!("no role {role} with the password"), "percent-encoded"],
    )
    .await;
    refused(&as_role(""), &[&format!("no role {role} with the password")]).await;
    let unknown = with(&database.url, |url| url.set_username("stranger").unwrap());
    refused(&unknown, &["role \"stranger\" does not exist", "pg_hba.conf"]).await;
    let none = with(&database.url, |url| url.set_path("nowhere"));
    refused(&none, &["the server has no database nowhere", "create database"]).await;
    let raw = as_role("x").replacen(":x@", ":p@ss/hunter#rd@", 1);
    refused(
        &raw,
        &["USHER_DATABASE_URL can't be understood", "%40 %3A %2F %3F %23 %25"],
    )
    .await;
    let (is_well, said) = command(&as_role("p@ss/w#rd"), &["migrate"]).await;
    assert!(is_well, "{said}");
}

#[tokio::test]
async fn certificates_and_encryption() {
    let database = TestDatabase::empty_postgres().await;
    let parameter = |text: &str| and(&database.url, text);
    refused(
        &parameter("sslmode=require"),
        &["no encrypted connection can be had", "sslmode"],
    )
    .await;
    refused(
        &parameter("sslmode=verify-full&sslrootcert=/none/ca.pem"),
        &["USHER_DATABASE_URL names the file /none/ca.pem in sslrootcert, which can't be read"],
    )
    .await;
    refused(
        &parameter("sslcert=/none/a.pem&sslkey=/none/b.pem"),
        &["/none/a.pem in sslcert"],
    )
    .await;

    // A server with a certificate that is not trusted.
    let authority = Authority::new();
    let acceptor = authority.vouches(Certificate {
        name: "localhost",
        is_expired: false,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut asked = [0; 8];
            let _ = socket.read_exact(&mut asked).await;
            let _ = socket.write_all(b"S").await;
            let _ = acceptor.accept(socket).await;
        }
    });
    let url = format!("postgres://usher@localhost:{port}/app");
    for parameters in ["sslmode=verify-full", "sslrootcert=system", "sslmode=verify-ca"] {
        refused(
            &format!("{url}?{parameters}"),
            &["no encrypted connection can be had", "UnknownIssuer"],
        )
        .await;
    }
}

#[tokio::test]
async fn a_server_that_can_only_be_read() {
    let database = TestDatabase::empty_postgres().await;
    let name = database.pool.text("select current_database()::text").await.unwrap();
    let set = format!("alter database {name} set default_transaction_read_only = on");
    database.pool.execute(&set).await;
    refused(&database.url, &["can only be read", "use the primary's address"]).await;
}

#[tokio::test]
async fn what_other_programs_write_into_the_address_does_no_harm() {
    for parameters in [
        "schema=public&pgbouncer=true&connection_limit=1",
        "connect_timeout=10&target_session_attrs=read-write",
        "channel_binding=require",
    ] {
        let database = TestDatabase::empty_postgres().await;
        let (is_well, said) = command(&and(&database.url, parameters), &["migrate"]).await;
        assert!(is_well, "{parameters}: {said}");
        assert_eq!(
            said.contains("channel binding"),
            parameters.contains("channel"),
            "{said}"
        );
        assert!(!said.contains("unrecognized"), "{said}");
    }
    let database = TestDatabase::empty_postgres().await;
    refused(
        &and(&database.url, "sslmod=require"),
        &["has the parameter sslmod, which usher does not know"],
    )
    .await;
    let several = database.url.replacen("127.0.0.1", "127.0.0.1,127.0.0.2", 1);
    refused(&several, &["names several hosts"]).await;
}

/// The process of the server that holds a lock, until it is dropped.
async fn lock(database: &TestDatabase, table: &str, mode: &str) -> (PgConnection, i32) {
    let mut other = PgConnection::connect(&and(&database.url, "application_name=psql"))
        .await
        .unwrap();
    let text = format!("begin; lock table {table} in {mode} mode");
    sqlx::raw_sql(sqlx::AssertSqlSafe(text))
        .execute(&mut other)
        .await
        .unwrap();
    let pid = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut other)
        .await
        .unwrap();
    (other, pid)
}

#[tokio::test]
async fn a_lock_that_is_not_had_names_the_table_and_who_holds_it() {
    let database = TestDatabase::postgres().await;
    let (other, pid) = lock(&database, "usher.usher_settings", "access exclusive").await;
    let (is_well, said) = command(&database.url, &["migrate"]).await;
    let sentence = format!("usher_settings is locked by the server's process {pid} (psql); end its transaction");
    assert!(!is_well && said.contains(&sentence), "no “{sentence}”: {said}");

    // A start waits for it.
    let serve = command(&database.url, &["serve"]);
    let still = tokio::time::timeout(Duration::from_secs(3), serve).await;
    assert!(still.is_err(), "{still:?}");
    other.close().await.unwrap();
    let (is_well, said) = command(&database.url, &["migrate"]).await;
    assert!(is_well, "{said}");
}

#[tokio::test]
async fn a_table_of_the_app_that_is_locked_is_named_while_it_is_waited_for() {
    let database = TestDatabase::empty_postgres().await;
    database
        .pool
        .execute("create table organizations (id uuid primary key); create table admins (id uuid primary key)")
        .await;
    let (other, pid) = lock(&database, "public.admins", "share").await;
    let migrating = tokio::spawn({
        let url = database.url.clone();
        async move { command(&url, &["migrate", "--usher-tables", "shared"]).await }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    other.close().await.unwrap();
    let (is_well, said) = migrating.await.unwrap();
    let sentence = format!("the table admins is locked by the server's process {pid} (psql); waiting");
    assert!(is_well && said.contains(&sentence), "no “{sentence}”: {said}");
}

#[tokio::test]
async fn the_least_number_of_connections_is_enough_for_everything_at_once() {
    let database = TestDatabase::postgres().await;
    let smtp = crate::support::smtp::SmtpServer::start().await;
    let settings = [("USHER_DATABASE_CONNECTIONS", "8")];
    let usher = UsherProcess::start_with(&database, &smtp.url(), &settings).await;
    let acme = usher.organization("Acme").await;
    let invites = (0..40).map(|n| {
        let client = usher.client();
        async move { client.invite(acme, &format!("person{n}@example.com")).await }
    });
    let events = (0..40).map(|n| {
        let client = usher.client();
        async move { client.deliver(&format!("msg_{n}"), &told(n)).await }
    });
    let batch: Vec<_> = (50..80)
        .map(|n| serde_json::json!({ "organization_id": acme, "email": format!("person{n}@example.com"), "role": "member" }))
        .collect();
    let batch = usher.call(
        reqwest::Method::POST,
        "/v1/invites/batch",
        serde_json::json!({ "invites": batch }),
    );
    let (_, delivered, _) = tokio::join!(
        futures::future::join_all(invites),
        futures::future::join_all(events),
        batch
    );
    assert_eq!(delivered.iter().filter(|&&it| it).count(), 40);
    eventually("every event has its effect and every mail is sent", async || {
        database.pool.count("usher_events where processed_at is not null").await == 40
            && database.pool.count("usher_deliveries where status = 'queued'").await == 0
    })
    .await;
    let opened = "pg_stat_activity where datname = current_database() and application_name = 'usher'";
    let opened = database.pool.count(opened).await;
    assert!((4..=8).contains(&opened), "{opened} connections");
    let (is_well, said) = command(&database.url, &["config", "--usher-database-connections", "7"]).await;
    assert!(
        !is_well && said.contains("USHER_DATABASE_CONNECTIONS must be a number from 8 to 1000"),
        "{said}"
    );
    assert!(usher.terminate().await);
}
