//! Backups, and `usher move`: what was in one database goes on in another.

use serde_json::json;
use usher::store::{Rules, Store};

use crate::support::process::{UsherProcess, command, told};
use crate::support::smtp::SmtpServer;
use crate::support::{TestApp, TestDatabase};

#[tokio::test]
async fn a_file_goes_on_in_postgres_and_mailed_links_still_work() {
    let target = TestDatabase::empty_postgres().await;
    let app = TestApp::start(TestDatabase::sqlite().await).await;
    let acme = app.organization("Acme").await;
    app.put("/v1/organizations/org_2abc", json!({ "name": "Zeta" }))
        .await
        .expect(201);
    let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
    let invite = app
        .invite(json!({
            "organization_id": acme, "email": "ada@example.com", "role": "member", "invited_by": owner.id, "message": "é \u{1f600}",
        }))
        .await;
    app.invite(json!({ "organization_id": "org_2abc", "email": "bob@example.com", "role": "admin" }))
        .await;
    app.run_jobs().await;
    let token = app.token_in_mail_to("ada@example.com");
    let queued = app
        .invite(json!({ "organization_id": "org_2abc", "email": "cy@example.com", "role": "member" }))
        .await;
    app.pool.execute("update Workers set last_seen = 0").await;

    let file = Store::open(app.app.config.database_url.expose(), app.clock.clone())
        .await
        .unwrap();
    let postgres = Store::open(&target.url, app.clock.clone()).await.unwrap();
    let counts = file.move_to(&postgres, &Rules::default(), &|_, _| {}).await.unwrap();
    let rows = |table: &str| counts.iter().find(|(name, _)| name == table).map(|(_, rows)| *rows);
    assert_eq!((rows("invites"), rows("organizations")), (Some(4), Some(2)));
    assert_eq!(rows("jobs"), Some(app.pool.count("Jobs").await));

    let tables: Vec<(String,)> = app
        .pool
        .rows("select lower(name) from sqlite_master where type = 'table' and name not like 'sqlite%'")
        .await;
    let stays = [
        "_apalis_migrations",
        "workers",
        "usher_migrations",
        "usher_settings",
        "usher_move",
        "usher_catalog",
    ];
    for (table,) in tables {
        assert!(
            rows(&table).is_some() || stays.contains(&table.as_str()),
            "{table} is left behind"
        );
    }

    // The file takes no writes any more, and no usher starts on it.
    assert!(app.pool.try_execute("delete from invites").await.is_err());
    assert_eq!(
        app.post(
            "/v1/invites",
            json!({ "organization_id": acme, "email": "x@example.com", "role": "member" })
        )
        .await
        .status,
        500
    );
    let refused = file.migrate(&Rules::default()).await.unwrap_err().to_string();
    assert!(refused.contains("was moved to Postgres"), "{refused}");
    let again = file
        .move_to(&postgres, &Rules::default(), &|_, _| {})
        .await
        .unwrap_err()
        .to_string();
    assert!(again.contains("moved already"), "{again}");

    for store in [file, postgres] {
        store.close().await;
    }
    let moved = TestApp::start(target).await;
    assert_eq!(moved.show(&invite).await["message"], "é \u{1f600}");
    assert_eq!(moved.show(&queued).await["organization"]["id"], "org_2abc");
    moved.run_jobs().await;
    assert_eq!(moved.mails().len(), 1, "what waited in the queue goes out");
    let ada = moved.earlier_person("ada@example.com").await;
    moved.signed_in(&ada).accept_link(&token).await.expect(200);
    assert_eq!(
        moved.members(acme).await,
        ["ada@example.com member", "owner@example.com owner"]
    );
    let feed = moved.get("/v1/events?limit=200").await.expect(200);
    assert!(feed["items"].as_array().unwrap().len() > 5, "{feed}");
    moved.run_jobs().await;
    moved.finish().await;
}

/// 20,000 people, so that a move takes a moment.
async fn file_with_people(database: &TestDatabase) {
    database.migrate(&Rules::default()).await.expect("a schema");
    database
        .pool
        .execute(
            "with recursive n (i) as (select 1 union all select i + 1 from n where i < 20000)
             insert into usher_people (clerk_user_id, id) select 'user_' || i, randomblob(16) from n",
        )
        .await;
}

#[tokio::test]
async fn a_move_that_is_killed_is_finished_by_the_next_one() {
    let target = TestDatabase::empty_postgres().await;
    let source = TestDatabase::sqlite().await;
    file_with_people(&source).await;
    for millis in [5, 40, 80, 120, 160, 200, 300, 400, 600, 800] {
        let mut moving = std::process::Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(["move", "--to", &target.url])
            .env_clear()
            .envs(crate::support::process::environment(&source.url, "smtp://127.0.0.1:1"))
            .current_dir(source.folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
        moving.kill().unwrap();
        moving.wait().unwrap();
        assert_eq!(source.pool.count("usher_people").await, 20_000);
    }
    let (_, said) = command(&source.url, &["move", "--to", &target.url]).await;
    assert!(
        said.contains("All rows are in Postgres") || said.contains("moved already"),
        "{said}"
    );
    assert_eq!(target.pool.count("usher_people").await, 20_000);
    let (is_well, said) = command(&source.url, &["migrate"]).await;
    assert!(!is_well && said.contains("was moved to Postgres"), "{said}");
}

#[tokio::test]
async fn a_move_that_cannot_be_made_leaves_the_file_as_it_was() {
    let source = TestDatabase::sqlite().await;
    let smtp = SmtpServer::start().await;
    let usher = UsherProcess::start(&source, &smtp.url()).await;
    let target = TestDatabase::empty_postgres().await;
    let (is_well, said) = command(&source.url, &["move", "--to", &target.url]).await;
    assert!(!is_well && said.contains("stop it first"), "{said}");
    assert!(usher.deliver("msg_1", &told(1)).await, "it goes on");
    assert!(usher.terminate().await);
    let full = TestDatabase::postgres().await;
    full.pool
        .execute("insert into organizations (id, name) values (gen_random_uuid(), 'x')")
        .await;
    for (to, problem) in [
        (full.url.as_str(), "organizations already"),
        (source.url.as_str(), "from a SQLite file to a Postgres database"),
        ("postgres://usher@127.0.0.1:1/app", "Connection refused"),
        ("mysql://x", "--to can't be used"),
    ] {
        let (is_well, said) = command(&source.url, &["move", "--to", to]).await;
        assert!(!is_well && said.contains(problem), "{to}: {said}");
        source.pool.execute("update usher_people set locale = 'en'").await;
    }
    let usher = UsherProcess::start(&source, &smtp.url()).await;
    assert!(usher.terminate().await);
}

/// A mailed link of before a backup; that app is gone.
async fn mailed_link(app: &TestApp) -> String {
    let acme = app.organization("Acme").await;
    app.invite_to_organization(acme, "ada@example.com", "admin").await;
    app.run_jobs().await;
    app.token_in_mail_to("ada@example.com")
}

async fn link_works_in(restored: TestDatabase, token: &str) {
    let app = TestApp::start(restored).await;
    let ada = app.earlier_person("ada@example.com").await;
    app.signed_in(&ada).accept_link(token).await.expect(200);
    app.run_jobs().await;
    app.finish().await;
}

async fn run(program: &str, arguments: &[&str]) {
    let ran = tokio::process::Command::new(program)
        .args(arguments)
        .output()
        .await
        .expect("it runs");
    assert!(
        ran.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[tokio::test]
async fn a_backup_of_postgres_is_restored_into_a_new_database() {
    let app = TestApp::start(TestDatabase::postgres().await).await;
    let restored = TestDatabase::empty_postgres().await;
    let token = mailed_link(&app).await;
    let file = restored.folder.path().join("usher.dump");
    let file = file.to_str().unwrap();
    // Postgres's tools do not know sqlx's parameters.
    let url = |url: &str| url.split('?').next().unwrap_or_default().to_owned();
    let from = url(app.app.config.database_url.expose());
    run("pg_dump", &["--format=custom", "--file", file, &from]).await;
    run(
        "pg_restore",
        &["--exit-on-error", "--dbname", &url(&restored.url), file],
    )
    .await;
    app.finish().await;
    link_works_in(restored, &token).await;
}

#[tokio::test]
async fn a_backup_of_sqlite_is_a_new_file() {
    let app = TestApp::start(TestDatabase::sqlite().await).await;
    let token = mailed_link(&app).await;
    let file = app.clock.new_id().to_string();
    let file = std::env::temp_dir().join(file);
    app.pool.execute(&format!("vacuum into '{}'", file.display())).await;
    app.finish().await;
    let restored = TestDatabase::sqlite_from(&file).await;
    std::fs::remove_file(file).unwrap();
    link_works_in(restored, &token).await;
}
