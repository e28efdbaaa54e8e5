//! `usher check`: a line for each thing that must be right, and an exit code for the deploy.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use chrono::TimeDelta;
use tokio::process::Command;
use usher::clock::Clock;

use crate::support::app::SIGNER;
use crate::support::process::environment;
use crate::support::smtp::{Behaviour, Phase, SmtpServer};
use crate::support::{TestDatabase, stories};

const SECRET_KEY: &str = "sk_test_of_the_backend_api";

/// Clerk, as far as a check asks it: its key set and its Backend API, on a real socket and by its own clock.
#[derive(Clone)]
struct Clerk {
    url: String,
    state: Arc<Mutex<Answers>>,
}

#[derive(Clone)]
struct Answers {
    keys: (StatusCode, String),
    clock_is_ahead: TimeDelta,
}

impl Clerk {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clerk = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            state: Arc::new(Mutex::new(Answers {
                keys: (StatusCode::OK, SIGNER.jwks_json().unwrap()),
                clock_is_ahead: TimeDelta::zero(),
            })),
        };
        let routes = Router::new()
            .route("/.well-known/jwks.json", get(Self::keys))
            .route("/v1/users/{id}", get(Self::user))
            .fallback(async |State(clerk): State<Self>| clerk.answer(StatusCode::NOT_FOUND, String::new()))
            .with_state(clerk.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        clerk
    }

    fn answer(&self, status: StatusCode, body: String) -> Response {
        let time = Clock::System.now() + self.state.lock().unwrap().clock_is_ahead;
        let date = time.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        (status, [(header::DATE, date)], body).into_response()
    }

    async fn keys(State(clerk): State<Self>) -> Response {
        let (status, body) = clerk.state.lock().unwrap().keys.clone();
        clerk.answer(status, body)
    }

    async fn user(State(clerk): State<Self>, headers: HeaderMap) -> Response {
        let is_right = headers[header::AUTHORIZATION] == format!("Bearer {SECRET_KEY}");
        let status = if is_right {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::UNAUTHORIZED
        };
        clerk.answer(status, String::new())
    }

    fn has_keys(&self, status: StatusCode, body: &str) {
        self.state.lock().unwrap().keys = (status, body.to_owned());
    }

    fn is_ahead(&self, seconds: i64) {
        self.state.lock().unwrap().clock_is_ahead = TimeDelta::seconds(seconds);
    }
}

/// A deploy that is about to start usher.
struct Deploy {
    database: TestDatabase,
    smtp: SmtpServer,
    clerk: Clerk,
}

/// What a check said, line by line.
struct Said {
    code: Option<i32>,
    /// `(mark, what, words)`.
    lines: Vec<(String, String, String)>,
    all: String,
}

impl Said {
    /// The one line about something, as `mark words`.
    #[track_caller]
    fn of(&self, what: &str) -> String {
        let lines: Vec<_> = self.lines.iter().filter(|(_, about, _)| about == what).collect();
        let [(mark, _, words)] = lines[..] else {
            panic!("not one line about {what}:\n{}", self.all)
        };
        format!("{mark} {words}")
    }

    /// What is marked so.
    fn marked(&self, mark: &str) -> Vec<&str> {
        let marked = self.lines.iter().filter(|(its, _, _)| its == mark);
        marked.map(|(_, what, _)| what.as_str()).collect()
    }

    /// It must have ended with 1 because of this one thing.
    #[track_caller]
    fn failed_for(&self, what: &str, words: &str) {
        assert_eq!(self.code, Some(1), "{}", self.all);
        assert_eq!(self.marked("FAIL"), [what], "{}", self.all);
        assert!(self.of(what).contains(words), "no “{words}” in:\n{}", self.all);
    }

    #[track_caller]
    fn is_well(&self) {
        assert_eq!(self.code, Some(0), "{}", self.all);
        assert_eq!(self.marked("FAIL"), [""; 0], "{}", self.all);
    }
}

impl Deploy {
    async fn to(database: TestDatabase) -> Self {
        Self {
            database,
            smtp: SmtpServer::start_with_login("usher", "right").await,
            clerk: Clerk::start().await,
        }
    }

    /// `usher serve`, which can't: its exit code and what it said.
    async fn start(&self) -> (Option<i32>, String) {
        let serve = Command::new(env!("CARGO_BIN_EXE_usher"))
            .arg("serve")
            .env_clear()
            .envs(environment(&self.database.url, &self.smtp.url()))
            .current_dir(self.database.folder.path())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(60), serve).await;
        let output = output.expect("it ends").unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    /// `usher check` in a complete production environment with these changes.
    async fn check(&self, changes: &[(&str, Option<&str>)]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command
            .arg("check")
            .env_clear()
            .envs(environment(&self.database.url, &self.smtp.url()))
            .env_remove("CLERK_JWT_KEY")
            .env("CLERK_ISSUER", &self.clerk.url)
            .env("CLERK_API_URL", &self.clerk.url)
            .env("CLERK_SECRET_KEY", SECRET_KEY)
            .current_dir(self.database.folder.path())
            .stdin(Stdio::null());
        for (variable, value) in changes {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        let output = command.output().await.unwrap();
        let all = String::from_utf8([output.stdout.clone(), output.stderr].concat()).unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let parts = |line: &str| {
            let (mark, rest) = line.split_at_checked(6)?;
            let (what, words) = rest.split_at_checked(15)?;
            Some((mark.trim().to_owned(), what.trim().to_owned(), words.to_owned()))
        };
        Said {
            code: output.status.code(),
            lines: lines
                .lines()
                .map(|line| parts(line).unwrap_or_else(|| panic!("no line of a report: “{line}” in:\n{all}")))
                .collect(),
            all,
        }
    }
}

stories! {
    #[tokio::test] Deploy, Deploy::to, async |_| ();

    async fn all_is_well_in_one_line_each(deploy) {
        let said = deploy.check(&[]).await;
        said.is_well();
        let lines = said.lines.iter().map(|(_, what, _)| what.as_str());
        let lines: Vec<&str> = lines.filter(|what| *what != "not set").collect();
        assert_eq!(lines, [
            "configuration", "templates", "database", "schema", "catalog", "database clock", "mail server", "sender", "session keys",
            "accept page", "Clerk's API", "clock",
        ]);
        assert_eq!(said.of("session keys"), "ok 1 at CLERK_ISSUER");
        assert_eq!(said.of("Clerk's API"), "ok takes the secret key");
        assert!(said.of("clock").starts_with("ok ") && said.of("clock").ends_with(" s from Clerk's"), "{}", said.all);
        assert!(deploy.smtp.mails().is_empty() && !deploy.smtp.commands().iter().any(|said| said.starts_with("RCPT")));
        for secret in [SECRET_KEY, "right", "whsec"] {
            assert!(!said.all.contains(secret), "{secret} in:\n{}", said.all);
        }
    }

    async fn a_schema_that_no_start_would_take_fails_with_the_same_words(deploy) {
        for (change, words) in [
            ("insert into usher_migrations (version, description, success, checksum, execution_time) \
              select 9999, 'newer', true, checksum, 0 from usher_migrations where version = 1", "is newer than this usher"),
            ("update usher_migrations set success = false where version = 1", "applied by halves"),
            ("update usher_migrations set success = true, checksum = substr(checksum, 2) where version = 1",
             "by a version before the first release"),
        ] {
            deploy.database.pool.execute(change).await;
            let said = deploy.check(&[]).await;
            said.failed_for("schema", words);
            let (ended, log) = deploy.start().await;
            assert_eq!(ended, Some(1), "{log}");
            let sentence = said.of("schema").trim_start_matches("FAIL ").to_owned();
            assert!(log.contains(&sentence), "the check says {sentence}, and the start {log}");
        }
    }
}

/// On SQLite only: without the record of the one migration, Postgres's tables are taken for the app's.
#[tokio::test]
async fn an_older_schema_is_worth_a_word() {
    let deploy = Deploy::to(TestDatabase::sqlite().await).await;
    deploy
        .database
        .pool
        .execute("delete from usher_migrations where version = 1")
        .await;
    let said = deploy.check(&[]).await;
    said.is_well();
    assert!(
        said.of("schema").starts_with("warn older than this version"),
        "{}",
        said.all
    );
}

#[tokio::test]
async fn where_no_schema_is_yet_that_is_worth_a_word_and_none_is_made() {
    let deploy = Deploy::to(TestDatabase::empty_postgres().await).await;
    let said = deploy.check(&[]).await;
    said.is_well();
    assert!(said.of("schema").starts_with("warn there is none yet"), "{}", said.all);
    assert_eq!(
        deploy
            .database
            .pool
            .count("pg_class where relname = 'usher_migrations'")
            .await,
        0
    );

    let deploy = Deploy::to(TestDatabase::sqlite().await).await;
    let file = deploy.database.folder.path().join("new/other.db");
    let url = format!("sqlite://{}", file.display());
    let said = deploy.check(&[("USHER_DATABASE_URL", Some(&url))]).await;
    said.is_well();
    assert!(
        said.of("database").starts_with("warn there is no file yet"),
        "{}",
        said.all
    );
    assert!(!file.exists() && !file.parent().unwrap().exists());
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "").unwrap();
    let said = deploy.check(&[("USHER_DATABASE_URL", Some(&url))]).await;
    said.is_well();
    assert!(said.of("schema").starts_with("warn there is none yet"), "{}", said.all);
}

#[tokio::test]
async fn commands_that_look_at_the_database_ask_for_nothing_else_and_make_none() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str], url: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command.args(arguments).env_clear().current_dir(folder.path());
        command.envs(url.map(|url| ("USHER_DATABASE_URL", url)));
        let output = command.output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let database = TestDatabase::sqlite().await;
    for command in ["jobs", "webhooks", "invites"] {
        let (code, said) = run(&[command, "list"], Some(&database.url)).await;
        assert_eq!(code, Some(0), "{command}: {said}");
        for url in [None, Some("sqlite://elsewhere/usher.db")] {
            let (code, said) = run(&[command, "list"], url).await;
            assert_eq!(code, Some(1), "{command}: {said}");
            assert!(
                said.contains("is not there yet: usher serve makes it"),
                "{command}: {said}"
            );
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
}

#[tokio::test]
async fn what_is_optional_and_absent_is_a_warning_with_its_consequence() {
    let deploy = Deploy::to(TestDatabase::sqlite().await).await;
    let said = deploy
        .check(&[
            ("INVITE_URL", None),
            ("USHER_PUBLIC_URL", Some("https://invites.example.com")),
        ])
        .await;
    said.is_well();
    for (name, consequence) in [
        ("CLERK_PUBLISHABLE_KEY", "can't sign anybody up"),
        ("APP_URL", "leads nowhere"),
        ("CLERK_AUTHORIZED_PARTIES", "any origin"),
        ("USHER_EVENTS", "not told"),
        ("USHER_OPS_KEYS", "changes nothing"),
        ("MAIL_UNSUBSCRIBE", "List-Unsubscribe"),
    ] {
        let is_told = |(mark, what, words): &(String, String, String)| {
            mark == "warn" && what == "not set" && words.starts_with(name) && words.contains(consequence)
        };
        assert!(said.lines.iter().any(is_told), "no {name} in:\n{}", said.all);
    }
}

#[tokio::test]
async fn an_accept_page_outside_of_clerks_domain_fails() {
    let deploy = Deploy::to(TestDatabase::sqlite().await).await;
    // clerk.example.com$
    let key = ("CLERK_PUBLISHABLE_KEY", Some("pk_live_Y2xlcmsuZXhhbXBsZS5jb20k"));
    let pem = SIGNER.public_pem().unwrap();
    let keys = ("CLERK_JWT_KEY", Some(pem.as_str()));
    let issuer = ("CLERK_ISSUER", Some("https://clerk.example.com"));
    let check = async |url| {
        let page = ("USHER_PUBLIC_URL", Some(url));
        deploy.check(&[key, keys, issuer, ("INVITE_URL", None), page]).await
    };
    let said = check("https://invites.example.com").await;
    said.is_well();
    assert!(
        said.of("accept page").starts_with("ok within example.com"),
        "{}",
        said.all
    );
    let said = check("https://invites.example.org").await;
    said.failed_for("accept page", "https://invites.example.com");
}

#[tokio::test]
async fn a_key_of_one_s_own_is_read_and_nobody_asked() {
    let deploy = Deploy::to(TestDatabase::sqlite().await).await;
    let pem = SIGNER.public_pem().unwrap();
    let alone = [
        ("CLERK_JWT_KEY", Some(pem.as_str())),
        ("CLERK_SECRET_KEY", None),
        ("CLERK_API_URL", None),
    ];
    let said = deploy.check(&alone).await;
    said.is_well();
    assert_eq!(said.of("session keys"), "ok CLERK_JWT_KEY is a key");
    assert!(
        said.of("Clerk's API").starts_with("warn no CLERK_SECRET_KEY"),
        "{}",
        said.all
    );
    assert!(said.of("clock").starts_with("- Clerk was not asked"), "{}", said.all);
    let said = deploy.check(&[("CLERK_JWT_KEY", Some("no key"))]).await;
    said.failed_for("configuration", "CLERK_JWT_KEY");
    let is_about_settings = |what: &str| ["configuration", "not set"].contains(&what);
    assert!(
        said.lines.iter().all(|(_, what, _)| is_about_settings(what)),
        "{}",
        said.all
    );
}

#[tokio::test]
async fn keys_and_api_of_clerk_s_that_do_not_answer_as_they_should_fail_by_their_variable() {
    let deploy = Deploy::to(TestDatabase::sqlite().await).await;
    // Bound and let go: nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let nobody = format!("http://{}", nobody.unwrap());
    let said = deploy.check(&[("CLERK_ISSUER", Some(&nobody))]).await;
    said.failed_for("session keys", "CLERK_ISSUER: could not connect");
    let said = deploy.check(&[("CLERK_API_URL", Some(&nobody))]).await;
    said.failed_for("Clerk's API", "CLERK_API_URL: ");
    let said = deploy.check(&[("CLERK_SECRET_KEY", Some("sk_test_of_another"))]).await;
    said.failed_for("Clerk's API", "CLERK_SECRET_KEY is refused");
    for (status, body) in [
        (StatusCode::NOT_FOUND, ""),
        (StatusCode::OK, "<html>"),
        (StatusCode::OK, r#"{"keys": []}"#),
    ] {
        deploy.clerk.has_keys(status, body);
        let said = deploy.check(&[]).await;
        said.failed_for("session keys", &format!("no key set there, status {}", status.as_u16()));
    }
}

#[tokio::test]
async fn a_clock_that_is_off_is_worth_a_word_and_then_a_failure() {
    let deploy = Deploy::to(TestDatabase::sqlite().await).await;
    let pem = SIGNER.public_pem().unwrap();
    // The time comes from the key set, or else from the API.
    for changes in [&[][..], &[("CLERK_JWT_KEY", Some(pem.as_str()))]] {
        for (seconds, mark) in [(-15, "warn"), (15, "warn"), (-3600, "FAIL"), (3600, "FAIL")] {
            deploy.clerk.is_ahead(seconds);
            let said = deploy.check(changes).await;
            match mark {
                "FAIL" => said.failed_for("clock", "set this machine's clock"),
                _ => said.is_well(),
            }
            assert!(said.of("clock").starts_with(mark), "{seconds} s: {}", said.all);
        }
    }
}

#[tokio::test]
async fn a_mail_server_that_refuses_login_or_sender_fails_with_its_words() {
    let deploy = Deploy::to(TestDatabase::sqlite().await).await;
    deploy
        .smtp
        .next(1, Phase::MailFrom, Behaviour::Reply("550 5.7.1 sender not yours"));
    let said = deploy.check(&[]).await;
    said.failed_for("sender", "MAIL_FROM: ");
    assert!(said.of("sender").contains("sender not yours") && said.of("mail server").starts_with("ok "));
    let wrong = deploy.smtp.url().replace("right", "wrong");
    let said = deploy.check(&[("SMTP_URL", Some(&wrong))]).await;
    assert_eq!(said.code, Some(1));
    // Without a login nobody can be asked about the sender.
    assert_eq!(said.marked("FAIL"), ["mail server", "sender"], "{}", said.all);
    assert!(
        said.of("mail server").contains("AUTH: 535 5.7.8 bad credentials"),
        "{}",
        said.all
    );
    assert!(!said.all.contains("wrong"), "{}", said.all);
}

#[tokio::test]
async fn broken_templates_fail_with_file_and_line() {
    let deploy = Deploy::to(TestDatabase::sqlite().await).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("en/reminder");
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("body.txt.hbs"), "Hello\n{{{link}}}\n").unwrap();
    std::fs::write(path.join("body.html.hbs"), "<p>{{{link}}}</p>").unwrap();
    let said = deploy.check(&[("TEMPLATES_DIR", folder.path().to_str())]).await;
    said.failed_for("templates", "TEMPLATES_DIR: ");
    assert!(
        said.of("templates").contains("en/reminder/body.html.hbs, line 1: "),
        "{}",
        said.all
    );
    assert!(
        said.of("templates").ends_with("; all 2: usher templates check"),
        "{}",
        said.all
    );
    assert!(said.of("configuration").starts_with("ok "), "{}", said.all);
}

#[tokio::test]
async fn a_database_that_is_away_fails_and_the_rest_is_checked_all_the_same() {
    let deploy = Deploy::to(TestDatabase::sqlite().await).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let away = format!("postgres://usher:hunter2@{}/usher", nobody.unwrap());
    let said = deploy.check(&[("USHER_DATABASE_URL", Some(&away))]).await;
    said.failed_for("database", "USHER_DATABASE_URL: ");
    assert!(!said.all.contains("hunter2"), "{}", said.all);
    assert!(said.of("mail server").starts_with("ok ") && said.of("session keys").starts_with("ok "));
    let no_file = format!("sqlite://{}", deploy.database.folder.path().display());
    let said = deploy.check(&[("USHER_DATABASE_URL", Some(&no_file))]).await;
    assert_eq!(said.code, Some(1), "{}", said.all);
    assert!(said.all.contains("USHER_DATABASE_URL"), "{}", said.all);
}
