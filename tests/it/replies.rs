//! Mail servers as they are: each reply of docs/delivery.md, and servers that change their minds.

use chrono::TimeDelta;
use serde_json::{Value, json};
use usher::config::Settings;
use usher::jobs::poll_circuit_breaker;
use uuid::Uuid;

use crate::mail::{self, letter, mailer_to};
use crate::support::process::{UsherProcess, eventually};
use crate::support::smtp::{Behaviour, Phase, SmtpServer};
use crate::support::{TestApp, TestDatabase, on_both_databases};

/// A line of the table.
struct Line {
    phase: Phase,
    is_used: bool,
    reply: &'static str,
    outcome: &'static str,
}

fn phase(step: &str) -> Option<Phase> {
    Some(match step {
        "greeting" => Phase::Greeting,
        "EHLO" => Phase::Ehlo,
        "AUTH" => Phase::Auth,
        "MAIL" => Phase::MailFrom,
        "RCPT" => Phase::Rcpt,
        "DATA" => Phase::Data,
        "end" => Phase::EndOfData,
        // Encryption has stories of its own, in `tls.rs`.
        "STARTTLS" => return None,
        other => panic!("no step is called {other}"),
    })
}

fn on_the_wire(reply: &str) -> &'static str {
    let reply = reply.trim_matches('`').replace(" ↵ ", "\r\n");
    Box::leak(reply.into_boxed_str())
}

fn table() -> Vec<Line> {
    let docs = include_str!("../../docs/delivery.md");
    let head = "| provider | step | reply | outcome |\n|---|---|---|---|\n";
    let (_, table) = docs.split_once(head).unwrap();
    let lines = table.lines().take_while(|line| line.starts_with('|'));
    lines
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [_, step, reply, outcome] = cells[..] else {
                panic!("{line}")
            };
            Some(Line {
                phase: phase(step.trim_end_matches(", used"))?,
                is_used: step.ends_with(", used"),
                reply: on_the_wire(reply),
                outcome,
            })
        })
        .collect()
}

/// usher with a mail server that wants a login.
async fn with_login(database: TestDatabase) -> (TestApp, SmtpServer) {
    let server = SmtpServer::start_with_login("usher", "secret").await;
    let url = server.url();
    let app = TestApp::start_with(database, |settings: &mut Settings| {
        settings.smtp_url = Some(usher::secret::Secret::from(url));
        settings.mail_cap_organization = Some("off".to_owned());
        settings.invite_reminders = Some("off".to_owned());
    })
    .await;
    (app, server)
}

async fn invite(app: &TestApp, organization: Uuid, email: &str) -> String {
    let body = json!({ "organization_id": organization, "email": email, "role": "member", "expires_in": "30d" });
    app.invite(body).await
}

async fn delivery(app: &TestApp, invite: &str) -> Value {
    app.show(invite).await["delivery"].clone()
}

/// The server accepts mail again: the next probe finds out, and all that waited go out.
async fn cured(app: &TestApp) {
    app.clock.advance(TimeDelta::minutes(20));
    poll_circuit_breaker(&app.context).await.unwrap();
    app.clock.advance(TimeDelta::minutes(5));
    app.run_jobs().await;
}

async fn waits(app: &TestApp) -> bool {
    app.pool.count("usher_mail_circuit").await == 1
}

async fn every_reply_of_the_table_comes_out_as_it_says(database: TestDatabase) {
    let (app, server) = with_login(database).await;
    let acme = app.organization("Acme").await;
    let table = app.pool.jobs();
    for (number, line) in self::table().into_iter().enumerate() {
        let what = format!("{:?}: {}", line.phase, line.reply);
        let address = |n: usize| format!("person{number}.{n}@example.com");
        // Nobody's success speaks for us any more, and nothing is left of the last line.
        app.clock.advance(TimeDelta::minutes(2));
        app.app.mailer.close().await;
        if line.is_used {
            // A mailer of its own: what one learns of the server is not forgotten with the line.
            let (mailer, connections) = (mailer_to(server.url()), server.connections());
            mailer.send(&address(0), &mail::delivery(0), &letter()).await.unwrap();
            server.next(1, line.phase, Behaviour::Reply(line.reply));
            let sent = mailer.send(&address(1), &mail::delivery(1), &letter()).await;
            assert_eq!(line.outcome, "retry on a fresh connection", "{what}");
            assert!(
                sent.is_ok() && server.connections() == connections + 2,
                "{what}: {sent:?}"
            );
            continue;
        }
        if line.outcome == "sent" {
            server.next(1, line.phase, Behaviour::Say(line.reply));
        } else {
            server.at(line.phase, Behaviour::Reply(line.reply));
        }
        let first = invite(&app, acme, &address(0)).await;
        app.run_jobs().await;
        let shown = delivery(&app, &first).await;
        let (status, attempts) = (shown["status"].as_str().unwrap(), shown["attempts"].as_i64().unwrap());
        let suppressed = app.pool.count("usher_suppressions").await;
        match line.outcome {
            "sent" => assert_eq!((status, attempts), ("sent", 1), "{what}"),
            "retry later" => {
                assert_eq!((status, attempts, waits(&app).await), ("queued", 1, false), "{what}");
            }
            "wait for all mail" => {
                assert_eq!((status, attempts, waits(&app).await), ("queued", 0, true), "{what}");
            }
            "wait for all mail, if repeated" => {
                assert_eq!((status, attempts, waits(&app).await), ("queued", 1, false), "{what}");
                for n in 1..3 {
                    invite(&app, acme, &address(n)).await;
                    app.run_jobs().await;
                }
                assert!(waits(&app).await, "{what}");
            }
            "fail this mail" => assert_eq!((status, suppressed), ("failed", 0), "{what}"),
            "fail and suppress" => {
                assert_eq!((status, suppressed), ("failed", 1), "{what}");
                app.pool.execute("delete from usher_suppressions").await;
            }
            other => panic!("no outcome is called {other}"),
        }
        if line.outcome != "fail and suppress" {
            assert_eq!(suppressed, 0, "{what}");
        }
        server.at(line.phase, Behaviour::Accept);
        cured(&app).await;
        assert!(!waits(&app).await, "{what}");
        let prefix = format!("person{number}.");
        let left = app.pool.count("usher_deliveries where status = 'queued'").await;
        assert_eq!(left, 0, "each has come to an end: {what}");
        let mut arrived: Vec<String> = server.mails().iter().flat_map(|mail| mail.to.clone()).collect();
        arrived.retain(|to| to.starts_with(&prefix));
        let all = arrived.len();
        arrived.sort();
        arrived.dedup();
        assert_eq!(arrived.len(), all, "nobody got two: {what}");
        assert_eq!(arrived.is_empty(), line.outcome.starts_with("fail"), "{what}");
    }
    assert_eq!(
        app.pool.count(&format!("{table} where status = 'Killed'")).await,
        0,
        "a refusal is no dead job"
    );
    app.finish().await;
}

on_both_databases!(every_reply_of_the_table_comes_out_as_it_says);

/// Refuses all for an hour, then is cured: nothing is failed, nobody condemned, and everything arrives once.
async fn a_server_that_changes_its_mind(database: TestDatabase) {
    let (app, server) = with_login(database).await;
    let acme = app.organization("Acme").await;
    for (round, (phase, reply)) in [
        (Phase::EndOfData, "550 The from address does not match a verified Sender Identity. Mail cannot be sent until this error is resolved."),
        (Phase::EndOfData, "554 5.2.252 SendAsDenied; STOREDRV.Submission.Exception:SendAsDeniedException"),
        (Phase::EndOfData, "554 Message rejected: Sending paused for this account."),
        (Phase::EndOfData, "550 5.7.0 Requested action not taken: too many emails per second"),
        (Phase::EndOfData, "454 Throttling failure: Daily message quota exceeded."),
        (Phase::Rcpt, "550 5.4.5 Daily user sending limit exceeded."),
        (Phase::Rcpt, "504 5.5.2 <3f2a9c1b>: Helo command rejected: need fully-qualified hostname"),
        (Phase::Rcpt, "554 5.7.1 <ada@example.com>: Relay access denied"),
        (Phase::Data, "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"),
        (Phase::MailFrom, "550 5.7.0 Daily limit reached"),
        (Phase::Auth, "535 5.7.8 Too many connections per account"),
        (Phase::Greeting, "554 5.3.2 closed for today"),
    ]
    .into_iter()
    .enumerate()
    {
        app.clock.advance(TimeDelta::minutes(2));
        app.app.mailer.close().await;
        server.at(phase, Behaviour::Reply(reply));
        for n in 0..12 {
            invite(&app, acme, &format!("round{round}.{n}@example.com")).await;
        }
        app.run_jobs().await;
        assert!(waits(&app).await, "{reply}");
        for _ in 0..6 {
            app.clock.advance(TimeDelta::minutes(10));
            poll_circuit_breaker(&app.context).await.unwrap();
            app.run_jobs().await;
        }
        let spent = app.pool.count("usher_deliveries where status = 'queued' and attempts > 1").await;
        assert_eq!(spent, 0, "to wait spends no attempts: {reply}");
        let queued = app.pool.count("usher_deliveries where status = 'queued'").await;
        assert_eq!(queued, 12, "{reply}");

        server.at(phase, Behaviour::Accept);
        cured(&app).await;
        let sent = i64::try_from(12 * (round + 1)).unwrap();
        assert_eq!(app.pool.count("usher_deliveries where status = 'sent'").await, sent, "{reply}");
        assert_eq!(i64::try_from(server.mails().len()).unwrap(), sent, "each once: {reply}");
        assert_eq!(app.pool.count("usher_suppressions").await, 0, "{reply}");
    }
    app.finish().await;
}

on_both_databases!(a_server_that_changes_its_mind);

/// What is about neither is tried for two days, and then failed without condemning anybody.
async fn what_nobody_understands_is_tried_for_two_days(database: TestDatabase) {
    let app = without_reminders(database).await;
    let acme = app.organization("Acme").await;
    app.smtp.at(Phase::Rcpt, Behaviour::Reply("550 5.7.1 not today"));
    let mut refused = invite(&app, acme, "ada@example.com").await;
    let begin = app.now();
    while delivery(&app, &refused).await["status"] == "queued" {
        app.run_jobs().await;
        app.clock.advance(TimeDelta::minutes(20));
        assert!(app.now() - begin < TimeDelta::days(4));
    }
    assert!(app.now() - begin > TimeDelta::hours(40), "{}", app.now() - begin);
    assert_eq!(delivery(&app, &refused).await["status"], "failed");
    assert_eq!(
        (app.pool.count("usher_suppressions").await, waits(&app).await),
        (0, false)
    );
    app.smtp.at(Phase::Rcpt, Behaviour::Accept);
    refused = invite(&app, app.organization("Zeta").await, "ada@example.com").await;
    app.run_jobs().await;
    assert_eq!(delivery(&app, &refused).await["status"], "sent");
    app.finish().await;
}

async fn without_reminders(database: TestDatabase) -> TestApp {
    TestApp::start_with(database, |settings| settings.invite_reminders = Some("off".to_owned())).await
}

on_both_databases!(what_nobody_understands_is_tried_for_two_days);

/// One recipient whom the server refuses in words of our sender, while it takes all other mail: the others go on.
async fn one_odd_recipient_stops_nobody(database: TestDatabase) {
    let app = without_reminders(database).await;
    let acme = app.organization("Acme").await;
    for round in 0..5 {
        invite(&app, acme, &format!("before{round}@example.com")).await;
        app.run_jobs().await;
        app.smtp.next(
            1,
            Phase::Rcpt,
            Behaviour::Reply("550 5.7.1 Sender address rejected: not wanted here"),
        );
        invite(&app, acme, &format!("odd{round}@example.com")).await;
        app.run_jobs().await;
        assert!(!waits(&app).await, "the server took a mail a moment ago");
        app.clock.advance(TimeDelta::seconds(15));
        app.run_jobs().await;
    }
    assert_eq!(app.pool.count("usher_deliveries where status = 'sent'").await, 10);
    app.finish().await;
}

on_both_databases!(one_odd_recipient_stops_nobody);

/// A queued mail whose organization is not there any more: the try of the account passes it over and comes to an end.
#[tokio::test]
async fn a_mail_that_can_not_be_loaded_holds_up_no_other() {
    let app = without_reminders(TestDatabase::sqlite().await).await;
    let (gone, acme) = (app.organization("Gone").await, app.organization("Acme").await);
    invite(&app, gone, "ghost@example.com").await;
    app.clock.advance(TimeDelta::seconds(1));
    invite(&app, acme, "ada@example.com").await;
    app.smtp
        .at(Phase::MailFrom, Behaviour::Reply("550 5.7.1 sender not allowed"));
    app.run_jobs().await;
    assert!(waits(&app).await);
    // As a restored backup or another program may leave it.
    let folder = app
        .pool
        .text("select file from pragma_database_list where name = 'main'")
        .await
        .unwrap();
    let off = format!("sqlite://{folder}");
    let options: sqlx::sqlite::SqliteConnectOptions = off.parse().unwrap();
    let mut connection = sqlx::ConnectOptions::connect(&options.foreign_keys(false))
        .await
        .unwrap();
    sqlx::query("delete from organizations where name = 'Gone'")
        .execute(&mut connection)
        .await
        .unwrap();
    app.smtp.at(Phase::MailFrom, Behaviour::Accept);
    cured(&app).await;
    assert!(!waits(&app).await);
    let status = "usher_deliveries where to_email = 'ghost@example.com' and status = 'suppressed'";
    assert_eq!(app.pool.count(status).await, 1, "and says so");
    assert_eq!(app.mails().len(), 1);
    app.finish().await;
}

async fn with_one_mail(database: &TestDatabase, smtp: &SmtpServer) -> UsherProcess {
    let usher = UsherProcess::start(database, &smtp.url()).await;
    let acme = usher.organization("Acme").await;
    usher.invite(acme, "ada@example.com").await;
    smtp.wait_for_stalls(1).await;
    usher
}

/// A stop while the server thinks about the final dot: an answer within ten seconds is heard.
async fn a_stop_waits_for_the_last_answer(database: TestDatabase) {
    let smtp = SmtpServer::start().await;
    smtp.next(1, Phase::EndOfData, Behaviour::Wait(std::time::Duration::from_secs(4)));
    let usher = with_one_mail(&database, &smtp).await;
    assert!(usher.terminate().await);
    assert_eq!(
        database
            .pool
            .count("usher_deliveries where status = 'sent' and attempts = 1")
            .await,
        1
    );
    assert_eq!(smtp.mails().len(), 1);
}

on_both_databases!(a_stop_waits_for_the_last_answer);

/// And one that does not come is given up: the next process sends the copy, with the same `Message-ID`.
async fn a_stop_without_a_last_answer_sends_one_more_copy(database: TestDatabase) {
    let smtp = SmtpServer::start().await;
    smtp.next(1, Phase::EndOfData, Behaviour::TakeAndStall);
    let usher = with_one_mail(&database, &smtp).await;
    let begin = std::time::Instant::now();
    assert!(usher.terminate().await);
    let took = begin.elapsed().as_secs();
    assert!((10..20).contains(&took), "ten seconds for the answer: {took} s");
    assert_eq!(
        database
            .pool
            .count("usher_deliveries where status = 'queued' and attempts = 1")
            .await,
        1
    );
    let usher = UsherProcess::start(&database, &smtp.url()).await;
    eventually("it is sent", async || {
        database.pool.count("usher_deliveries where status = 'sent'").await == 1
    })
    .await;
    assert!(usher.terminate().await);
    let mails = smtp.mails();
    assert_eq!(mails.len(), 2);
    for header in ["Message-ID", "Date"] {
        assert_eq!(mails[0].header(header), mails[1].header(header), "{header}");
    }
}

on_both_databases!(a_stop_without_a_last_answer_sends_one_more_copy);

#[tokio::test]
async fn a_test_mail_shows_the_conversation_without_secrets() {
    let database = TestDatabase::sqlite().await;
    let smtp = SmtpServer::start_with_login("usher", "hunter2secret").await;
    let usher = UsherProcess::start(&database, &smtp.url()).await;
    let said = usher.well(&["check"]).await;
    assert!(said.contains("only a real mail shows: --send-to ADDRESS"), "{said}");
    assert_eq!(smtp.mails().len(), 0);

    let said = usher.well(&["check", "--send-to", "me@example.com"]).await;
    for line in [
        "< 220 localhost ESMTP",
        "> EHLO acme.example",
        "< 250-PIPELINING",
        "> AUTH PLAIN …",
        "< 235 2.7.0 welcome",
        "> MAIL FROM:<no-reply@acme.example>",
        "> RCPT TO:<me@example.com>",
        "> (the mail, ",
        "< 250 2.0.0 queued as 1",
        "> QUIT",
        "ok    test mail      250 2.0.0 queued as 1",
    ] {
        assert!(said.contains(line), "no “{line}” in:\n{said}");
    }
    assert_eq!(smtp.mails()[0].to, ["me@example.com"]);

    // A server that repeats what it was told.
    let refusal = "535 5.7.8 AHVzaGVyAGh1bnRlcjJzZWNyZXQ= hunter2secret is wrong";
    smtp.at(Phase::Auth, Behaviour::Reply(refusal));
    let (_, refused) = usher.usher(&["check", "--send-to", "me@example.com"]).await;
    smtp.at(Phase::Auth, Behaviour::Accept);
    smtp.at(
        Phase::EndOfData,
        Behaviour::Reply("550 5.7.1 Sender domain not verified"),
    );
    let (well, said) = usher.usher(&["check", "--send-to", "me@example.com"]).await;
    assert!(
        !well && said.contains("FAIL  test mail      the mail server refuses our sender"),
        "{said}"
    );
    assert!(said.contains("< 550 5.7.1 Sender domain not verified"), "{said}");
    for secret in ["hunter2secret", "AHVzaGVyAGh1bnRlcjJzZWNyZXQ="] {
        assert!(!said.contains(secret), "{said}");
        assert!(refused.contains("535 5.7.8") && !refused.contains(secret), "{refused}");
    }
    assert!(usher.terminate().await);
}
