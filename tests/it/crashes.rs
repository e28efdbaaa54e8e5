//! Real processes, killed for real.

use tokio::task::JoinSet;
use usher::clock::Clock;

use crate::support::process::{UsherProcess, eventually, person, signed, told};
use crate::support::smtp::{Behaviour, Phase, SmtpServer};
use crate::support::{TestDatabase, on_both_databases};

const PEOPLE: usize = 200;

/// Killed while it takes events in, works on jobs and talks to the mail server; started again, it has lost nothing that
/// it had acknowledged, and done nothing twice that shows.
async fn a_process_that_is_killed_mid_work_loses_nothing(database: TestDatabase) {
    let smtp = SmtpServer::start().await;
    smtp.next(1, Phase::EndOfData, Behaviour::Stall);
    let usher = UsherProcess::start(&database, &smtp.url()).await;
    let acme = usher.organization("Acme").await;
    for n in 0..PEOPLE {
        usher.invite(acme, &person(n)).await;
    }
    smtp.wait_for_stalls(1).await;

    let mut deliveries = JoinSet::new();
    for n in 0..PEOPLE {
        let clerk = usher.client();
        deliveries.spawn(async move { (n, clerk.deliver(&format!("msg_{n}"), &told(n)).await) });
    }
    let mut acknowledged = Vec::new();
    while acknowledged.len() < PEOPLE / 2 {
        let (n, taken) = deliveries.join_next().await.expect("more to come").expect("no panic");
        if taken {
            acknowledged.push(n);
        }
    }
    deliveries.abort_all();
    while deliveries.join_next().await.is_some() {}
    usher.kill().await;

    let usher = UsherProcess::start(&database, &smtp.url()).await;
    eventually("every acknowledged event has its effect", async || {
        database.pool.count("usher_events where processed_at is null").await == 0
    })
    .await;
    for n in &acknowledged {
        let member = format!(
            "organization_users m join admins a on a.id = m.admin_id where a.external_id = 'user_{n}' and m.deleted_at is null"
        );
        assert_eq!(database.pool.count(&member).await, 1, "person {n}");
    }
    // Svix repeats what it got no answer for.
    for n in 0..PEOPLE {
        assert!(usher.deliver(&format!("msg_{n}"), &told(n)).await);
    }
    eventually("everybody is in", async || {
        database.pool.count("organization_users").await == PEOPLE as i64
    })
    .await;
    eventually("every mail is sent or no longer wanted", async || {
        database.pool.count("usher_deliveries where status = 'queued'").await == 0
    })
    .await;
    assert_eq!(
        database.pool.count("invites where status = 'accepted'").await,
        PEOPLE as i64
    );
    assert_eq!(database.pool.count("usher_people").await, PEOPLE as i64);
    let jobs = database.pool.jobs();
    eventually("no job is stuck", async || {
        database
            .pool
            .count(&format!(
                "{jobs} where status <> 'Done' and job_type <> 'usher:periodic'"
            ))
            .await
            == 0
    })
    .await;
    assert!(usher.terminate().await, "a SIGTERM ends it well");
}

on_both_databases!(a_process_that_is_killed_mid_work_loses_nothing);

/// Killed after the mail server has a mail and before that is noted: one more copy, recognisable as the same mail.
async fn a_kill_between_the_servers_yes_and_our_note_sends_one_more_copy(database: TestDatabase) {
    let smtp = SmtpServer::start().await;
    smtp.next(1, Phase::EndOfData, Behaviour::TakeAndStall);
    let usher = UsherProcess::start(&database, &smtp.url()).await;
    let acme = usher.organization("Acme").await;
    usher.invite(acme, "ada@example.com").await;
    smtp.wait_for_stalls(1).await;
    usher.kill().await;
    assert_eq!(smtp.mails().len(), 1);

    let usher = UsherProcess::start(&database, &smtp.url()).await;
    eventually("it is noted as sent", async || {
        database.pool.count("usher_deliveries where status = 'sent'").await == 1
    })
    .await;
    assert!(usher.terminate().await);
    let mails = smtp.mails();
    assert_eq!(mails.len(), 2);
    for header in ["Message-ID", "Date", "Subject", "To"] {
        assert_eq!(mails[0].header(header), mails[1].header(header), "{header}");
    }
}

on_both_databases!(a_kill_between_the_servers_yes_and_our_note_sends_one_more_copy);

/// A job that its process dies of, each time: it is started again three times, then later and later, and in the end it is
/// dead and says why.
#[tokio::test]
async fn a_job_that_takes_its_process_down_is_started_less_and_less_often_and_ends() {
    let database = TestDatabase::sqlite().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::EndOfData, Behaviour::Stall);
    let mut usher = UsherProcess::start(&database, &smtp.url()).await;
    let acme = usher.organization("Acme").await;
    usher.invite(acme, "ada@example.com").await;
    for starts in 1..=4 {
        smtp.wait_for_stalls(starts).await;
        usher.kill().await;
        // As if its successor came after those 20 s that a worker may be silent for.
        database.pool.execute("update Workers set last_seen = 0").await;
        usher = UsherProcess::start(&database, &smtp.url()).await;
    }
    let mail = "Jobs where job_type like '%send-mail' and status = 'Pending'";
    eventually("deferred", async || {
        database
            .pool
            .count(&format!("{mail} and attempts = 4 and run_at > unixepoch() + 3"))
            .await
            == 1
    })
    .await;
    database
        .pool
        .execute("update Jobs set attempts = 600, run_at = unixepoch() where job_type like '%send-mail'")
        .await;
    let said = "usher_deliveries where status = 'failed' and last_error like 'no attempts are left: the last ones never ended%'";
    eventually("it is dead and says why", async || database.pool.count(said).await == 1).await;
    assert!(usher.terminate().await);
}

/// Refusals cost a line each, and no line shows an address, a token, a secret or what a body said.
#[tokio::test]
async fn bad_input_leaves_at_most_one_line_each_in_the_log_and_nothing_private() {
    let database = TestDatabase::sqlite().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt, Behaviour::Reply("550 5.1.1 <person1@example.com> unknown"));
    let usher = UsherProcess::start(&database, &smtp.url()).await;
    let before = usher.log().len();
    let body = told(1).to_string();
    let mut forged = signed("msg_1", &body);
    forged[3].1 = "v1,".to_owned();
    assert_eq!(usher.send_raw(&forged, body.clone()).await, 401);
    assert_eq!(usher.send_raw(&[], body.clone()).await, 401);
    assert_eq!(usher.send_raw(&signed("msg_2", "{"), "{".to_owned()).await, 400);
    let code = r#"{"type":"email.created","data":{"otp_code":"424242","to":"person1@example.com"}}"#;
    assert_eq!(usher.send_raw(&signed("msg_3", code), code.to_owned()).await, 200);
    let broken = r#"{"type":"user.created","data":{"id":"user_x","email_addresses":["person1@example.com"]}}"#;
    assert_eq!(usher.send_raw(&signed("msg_4", broken), broken.to_owned()).await, 202);
    let acme = usher.organization("Acme").await;
    usher.invite(acme, &person(1)).await;
    let jobs = database.pool.jobs();
    eventually("the event's job is dead and the mail refused", async || {
        database.pool.count(&format!("{jobs} where status = 'Killed'")).await == 1
            && database.pool.count("usher_deliveries where status = 'failed'").await == 1
    })
    .await;
    let log = usher.log()[before..].join("\n");
    assert!(
        log.lines().count() <= 5,
        "two refusals, a dead job and a refused mail:\n{log}"
    );
    for private in [
        "person1",
        "424242",
        "whsec",
        "C2FVsBQ",
        "user_x",
        "test-api-key",
        "/invite#",
    ] {
        assert!(!log.contains(private), "{private} in:\n{log}");
    }
    assert!(usher.terminate().await);
}

/// Two processes that start on a file that is not there yet: one makes the schema, the other finds it made.
#[tokio::test]
async fn processes_that_start_at_once_on_a_new_sqlite_file_share_it() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let url = format!("sqlite://{}", folder.path().join(format!("{round}.db")).display());
        let start = async || {
            let store = usher::store::Store::open(&url, Clock::System).await.unwrap();
            store.migrate(&usher::store::Rules::default()).await.unwrap();
        };
        tokio::join!(start(), start(), start());
    }
}

/// A disk that is full is answered with 503; once there is room again, everything works as before, without a restart.
#[tokio::test]
async fn a_full_disk_is_told_and_gone_once_there_is_room() {
    let database = TestDatabase::sqlite().await;
    let (usher, _smtp) = UsherProcess::with_smtp(&database).await;
    assert!(usher.deliver("msg_1", &told(1)).await);
    assert_eq!(usher.ask("/readyz").await.0, 200);
    usher.limit_files(Some(0));
    let (status, body) = usher.ask("/readyz").await;
    assert_eq!(status, 503, "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["checks"]["database"], "failing");
    let why = body["problems"][0].as_str().unwrap();
    assert!(why.starts_with("database: the database failed: "), "{why}");
    for n in 2..20 {
        assert!(!usher.deliver(&format!("msg_{n}"), &told(n)).await);
        assert_eq!(usher.status_of_a_new_organization().await, 503);
    }
    let (status, said) = usher.ask("/readyz").await;
    assert!(status == 503 && said.contains(r#""database":"failing""#), "{said}");
    usher.limit_files(None);
    eventually("it is ready again", async || usher.ask("/readyz").await.0 == 200).await;
    for n in 2..20 {
        eventually("there is room again", async || {
            usher.deliver(&format!("msg_{n}"), &told(n)).await
        })
        .await;
    }
    assert_eq!(usher.status_of_a_new_organization().await, 201);
    eventually("every event has its effect", async || {
        database.pool.count("usher_events where processed_at is not null").await == 19
    })
    .await;
    assert!(usher.terminate().await);
}

/// A file that can only be read is no place to take events in: the start says so at once instead of waiting.
#[tokio::test]
async fn a_read_only_file_stops_the_start_with_a_sentence() {
    let database = TestDatabase::sqlite().await;
    for command in ["serve", "migrate"] {
        let ended = tokio::process::Command::new(env!("CARGO_BIN_EXE_usher"))
            .arg(command)
            .env_clear()
            .env("USHER_ENV", "development")
            .env("USHER_DATABASE_URL", format!("{}?mode=ro", database.url))
            .env("USHER_LISTEN", "127.0.0.1:0")
            .env("USHER_ADMIN_LISTEN", "127.0.0.1:0")
            .current_dir(database.folder.path())
            .kill_on_drop(true)
            .output();
        let ended = tokio::time::timeout(std::time::Duration::from_secs(60), ended).await;
        let ended = ended.expect("it does not wait").expect("it runs");
        assert_eq!(ended.status.code(), Some(1));
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains("can be written to"), "{said}");
    }
}

/// A server that only reads, as a standby does that has not taken over yet, is as good as none; and once it writes again,
/// so does usher.
#[tokio::test]
async fn a_database_that_can_only_be_read_counts_as_away() {
    let database = TestDatabase::postgres().await;
    let (usher, _smtp) = UsherProcess::with_smtp(&database).await;
    let name = database.pool.text("select current_database()::text").await.unwrap();
    let read_only = async |value: &str| {
        let text = format!("alter database {name} set default_transaction_read_only = {value}");
        database.pool.execute(&text).await;
    };
    assert!(usher.deliver("msg_1", &told(1)).await);
    read_only("on").await;
    database
        .pool
        .execute(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name = 'usher'",
        )
        .await;
    eventually("it says so", async || {
        let (status, said) = usher.ask("/readyz").await;
        status == 503 && said.contains("can only be read")
    })
    .await;
    assert!(!usher.deliver("msg_2", &told(2)).await);
    assert_eq!(usher.status_of_a_new_organization().await, 503);
    // From now on new sessions may write; those that are open may not.
    read_only("off").await;
    eventually("it is ready again", async || usher.ask("/readyz").await.0 == 200).await;
    eventually("it takes events again", async || usher.deliver("msg_2", &told(2)).await).await;
    eventually("every event has its effect", async || {
        database.pool.count("usher_events where processed_at is not null").await == 2
    })
    .await;
    assert!(usher.terminate().await);
}

/// Whoever asks for health does not wait longer than a few seconds, whatever the database waits for.
#[tokio::test]
async fn health_is_told_soon_while_the_database_keeps_everybody_waiting() {
    let database = TestDatabase::postgres().await;
    let (usher, _smtp) = UsherProcess::with_smtp(&database).await;
    let mut other = database.pool.pg().begin().await.unwrap();
    sqlx::query("lock table usher_migrations, usher_mail_circuit in access exclusive mode")
        .execute(&mut *other)
        .await
        .unwrap();
    let told = tokio::time::timeout(std::time::Duration::from_secs(9), usher.ask("/readyz")).await;
    let (status, said) = told.expect("an answer in time");
    assert!(status == 503 && said.contains("migrations: "), "{said}");
    other.rollback().await.unwrap();
    assert_eq!(usher.ask("/readyz").await.0, 200);
    assert!(usher.terminate().await);
}
