//! What becomes of a mail: retried, refused for good, held back, called to mind.

use std::sync::{Arc, LazyLock};

use axum::http::{Method, StatusCode};
use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use usher::invites::reminders::{PLAN_AFTER, Reminders};
use usher::jobs::poll_circuit_breaker;
use usher::ops::Scrape;
use usher::worker::{Concurrency, Workers};
use uuid::Uuid;

use crate::support::app::request;
use crate::support::process::{UsherProcess, eventually, person};
use crate::support::smtp::{Behaviour, Phase, SmtpServer};
use crate::support::{TestApp, TestDatabase, jobs, on_both_databases, stories};

/// What is counted is counted once for all tests of a process.
static SCRAPE: LazyLock<Arc<Scrape>> = LazyLock::new(|| Arc::new(Scrape::start().unwrap()));

const NO_LOGIN: Behaviour = Behaviour::Reply("535 5.7.8 bad credentials");

async fn delivery(app: &TestApp, invite: &str) -> Value {
    app.show(invite).await["delivery"].clone()
}

async fn resend(app: &TestApp, invite: &str) {
    app.clock.advance(TimeDelta::minutes(5));
    app.post(&format!("/v1/invites/{invite}/resend"), json!({}))
        .await
        .expect(202);
    app.run_jobs().await;
}

/// Lets time pass as the scheduler and the circuit breaker see it: in steps, with all that comes due.
async fn pass(app: &TestApp, time: TimeDelta, step: TimeDelta) {
    let end = app.now() + time;
    while app.now() < end {
        app.clock.advance(step);
        poll_circuit_breaker(&app.context).await.unwrap();
        app.run_schedules().await;
    }
}

async fn mails_to(app: &TestApp, email: &str) -> usize {
    app.mails().iter().filter(|mail| mail.to == [email]).count()
}

async fn reminders(app: &TestApp) -> i64 {
    app.pool
        .count("usher_deliveries where kind = 'reminder' and status = 'sent'")
        .await
}

/// A mail server that refuses the sender, seen by one mail.
async fn with_open_circuit(app: &TestApp, organization: Uuid) -> String {
    app.smtp
        .at(Phase::MailFrom, Behaviour::Reply("550 5.7.1 sender not allowed"));
    let invite = app
        .invite_to_organization(organization, "ada@example.com", "member")
        .await;
    app.run_jobs().await;
    assert_eq!(app.pool.count("usher_mail_circuit").await, 1);
    invite
}

stories! {
    async fn an_invite_shows_how_its_mail_stands(app) {
        let acme = app.organization("Acme").await;
        app.smtp.next(1, Phase::Rcpt, Behaviour::Reply("451 4.7.1 greylisted"));
        let invite = app.invite_to_organization(acme, "ada@example.com", "member").await;
        let queued = delivery(app, &invite).await;
        assert_eq!((&queued["kind"], &queued["status"], &queued["attempts"]), (&json!("invite"), &json!("queued"), &json!(0)));
        app.run_jobs().await;
        let refused = delivery(app, &invite).await;
        assert_eq!((&refused["status"], &refused["attempts"]), (&json!("queued"), &json!(1)));
        assert!(refused["last_error"].as_str().unwrap().contains("greylisted"));
        app.clock.advance(TimeDelta::seconds(12));
        app.run_jobs().await;
        let sent = delivery(app, &invite).await;
        assert_eq!((&sent["status"], &sent["attempts"], &sent["last_error"]), (&json!("sent"), &json!(2), &Value::Null));
        assert!(sent["sent_at"].is_string());
        assert_eq!(app.mails()[0].header("Message-ID").unwrap().trim_matches(['<', '>']), sent["message_id"].as_str().unwrap());
    }

    async fn a_mail_has_its_message_id_in_the_domain_of_its_sender(app) {
        app.app.store.migrate(&app.app.config.rules()).await.unwrap();
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "grace@example.com", "member").await;
        app.run_jobs().await;
        let message_id = app.mails()[0].header("Message-ID").unwrap();
        assert!(message_id.trim_end_matches('>').ends_with("@acme.example"), "{message_id}");
        app.pool.execute("delete from usher_settings").await;
        app.invite_to_organization(acme, "alan@example.com", "member").await;
        app.run_jobs().await;
        let message_id = app.mails()[1].header("Message-ID").unwrap();
        assert!(message_id.trim_end_matches('>').ends_with("@localhost"), "{message_id}");
    }

    async fn trouble_that_passes_is_retried_for_two_days_with_growing_waits(app) {
        for (phase, behaviour) in [
            (Phase::Rcpt, Behaviour::Reply("451 4.3.0 later")),
            (Phase::Greeting, Behaviour::Drop),
            (Phase::EndOfData, Behaviour::Reply("452 4.3.1 no room")),
        ] {
            let acme = app.organization("Acme").await;
            app.app.mailer.close().await;
            app.smtp.at(phase, behaviour);
            let invite = app.invite(json!({
                "organization_id": acme, "email": "ada@example.com", "role": "member", "expires_in": "30d",
            })).await;
            let mut attempts = Vec::new();
            let start = app.now();
            while app.now() - start < TimeDelta::days(2) {
                app.run_jobs().await;
                attempts.push(delivery(app, &invite).await["attempts"].as_i64().unwrap());
                app.clock.advance(TimeDelta::minutes(10));
            }
            assert!(attempts.iter().all(|&attempt| attempt < 60));
            let in_the_last_day = attempts.last().unwrap() - attempts[attempts.len() / 2];
            assert!((18..=32).contains(&in_the_last_day), "about once an hour: {in_the_last_day}");
            app.smtp.at(phase, Behaviour::Accept);
            app.clock.advance(TimeDelta::minutes(72));
            app.run_jobs().await;
            assert_eq!(delivery(app, &invite).await["status"], "sent", "{phase:?}");
        }
    }

    async fn a_mail_that_nobody_ever_takes_is_given_up_and_says_why(app) {
        let acme = app.organization("Acme").await;
        app.smtp.at(Phase::Data, Behaviour::Reply("451 4.3.0 later"));
        let invite = app.invite(json!({
            "organization_id": acme, "email": "ada@example.com", "role": "member", "expires_in": "30d",
        })).await;
        for _ in 0..65 {
            app.run_jobs().await;
            app.clock.advance(TimeDelta::minutes(73));
        }
        let shown = delivery(app, &invite).await;
        assert_eq!((&shown["status"], &shown["attempts"]), (&json!("failed"), &json!(60)));
        assert!(shown["last_error"].as_str().unwrap().ends_with("451 4.3.0 later; no attempts are left"));
    }

    async fn a_refused_account_keeps_all_mails_and_tries_one_at_a_time(app) {
        let acme = app.organization("Acme").await;
        let first = with_open_circuit(app, acme).await;
        let tried = async || app.smtp.commands().iter().filter(|command| command.starts_with("MAIL")).count();
        let before = tried().await;
        for n in 0..30 {
            app.invite_to_organization(acme, &format!("person{n}@example.com"), "member").await;
        }
        app.run_jobs().await;
        assert_eq!(tried().await, before, "they wait");
        // Two days, looked at every ten minutes.
        for _ in 0..288 {
            app.clock.advance(TimeDelta::minutes(10));
            poll_circuit_breaker(&app.context).await.unwrap();
            poll_circuit_breaker(&app.context).await.unwrap();
        }
        let probes = tried().await - before;
        assert!((100..=288).contains(&probes), "one each quarter of an hour or so: {probes}");
        assert_eq!(app.pool.count("usher_deliveries where status = 'queued' and attempts = 0").await, 31);
        let shown = delivery(app, &first).await;
        assert!(shown["last_error"].as_str().unwrap().contains("sender not allowed"));
        let catalog = usher::ops::CatalogWatch::start(&app.app.store, app.app.config.rules());
        let readiness = usher::ops::router(app.app.store.clone(), None, Arc::clone(&SCRAPE), catalog)
            .oneshot(request(Method::GET, "/readyz", None, None)).await.unwrap();
        assert_eq!(readiness.status(), StatusCode::OK, "invites are still taken");
        let body = axum::body::to_bytes(readiness.into_body(), usize::MAX).await.unwrap();
        let checks = serde_json::from_slice::<Value>(&body).unwrap()["checks"].clone();
        assert_eq!(checks["mail"]["status"], "refused");
        assert!(checks["mail"]["reason"].as_str().unwrap().contains("sender not allowed"));

        app.smtp.at(Phase::MailFrom, Behaviour::Accept);
        app.clock.advance(TimeDelta::minutes(20));
        poll_circuit_breaker(&app.context).await.unwrap();
        assert_eq!(app.mails().len(), 1, "the one that tried");
        assert_eq!(app.pool.count("usher_mail_circuit").await, 0);
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_deliveries where status = 'sent' and attempts = 1").await, 31);
        assert_eq!(app.mails().len(), 31, "each once");
    }

    async fn a_mail_that_is_itself_to_blame_does_not_hold_up_the_others(app) {
        let acme = app.organization("Acme").await;
        let denied = Behaviour::Reply("554 5.7.1 relay access denied");
        app.smtp.at(Phase::Rcpt, denied);
        let poison = app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_mail_circuit").await, 0, "one such refusal may be the recipient's");
        for _ in 0..3 {
            app.clock.advance(TimeDelta::minutes(2));
            app.run_jobs().await;
        }
        assert_eq!(app.pool.count("usher_mail_circuit").await, 1, "three in a row are ours");
        app.clock.advance(TimeDelta::minutes(1));
        app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.clock.advance(TimeDelta::minutes(1));
        // The poison again, then a friendly answer for whoever else is tried.
        poll_circuit_breaker(&app.context).await.unwrap();
        app.smtp.at(Phase::Rcpt, Behaviour::Accept);
        app.clock.advance(TimeDelta::minutes(20));
        poll_circuit_breaker(&app.context).await.unwrap();
        assert_eq!(mails_to(app, "bob@example.com").await, 1);
        app.clock.advance(TimeDelta::hours(1));
        app.run_jobs().await;
        assert_eq!(delivery(app, &poison).await["status"], "sent");
    }

    async fn without_a_mail_to_try_the_login_is_tried(app) {
        let acme = app.organization("Acme").await;
        let invite = with_open_circuit(app, acme).await;
        app.post(&format!("/v1/invites/{invite}/revoke"), json!({})).await.expect(200);
        app.clock.advance(TimeDelta::minutes(1));
        poll_circuit_breaker(&app.context).await.unwrap();
        assert_eq!(app.pool.count("usher_mail_circuit").await, 0);
        assert_eq!(app.mails().len(), 0);
        app.run_jobs().await;
    }

    async fn an_address_that_bounced_is_left_alone_until_somebody_resends(app) {
        let (acme, zeta) = (app.organization("Acme").await, app.organization("Zeta").await);
        app.smtp.at(Phase::Rcpt, Behaviour::Reply("550 5.1.1 <ada@example.com> no such user"));
        let bounced = app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.run_jobs().await;
        let shown = delivery(app, &bounced).await;
        assert_eq!((&shown["status"], &shown["attempts"]), (&json!("failed"), &json!(1)));
        assert_eq!(jobs::all(&app.pool).await[0].status, "Done", "nobody has to look at it");
        let why = shown["last_error"].as_str().unwrap();
        assert!(why.contains("no such user") && !why.contains("ada@"), "{why}");
        app.smtp.at(Phase::Rcpt, Behaviour::Accept);

        let other = app.invite_to_organization(zeta, "ADA@example.com", "member").await;
        let well = app.invite_to_organization(zeta, "bob@example.com", "member").await;
        app.run_jobs().await;
        let shown = delivery(app, &other).await;
        assert_eq!((&shown["status"], &shown["attempts"]), (&json!("suppressed"), &json!(0)));
        assert!(shown["last_error"].as_str().unwrap().contains("resend"), "{shown}");
        assert_eq!(delivery(app, &well).await["status"], "sent");
        assert_eq!(mails_to(app, "ada@example.com").await, 0);

        resend(app, &other).await;
        assert_eq!(delivery(app, &other).await["status"], "sent");
        resend(app, &bounced).await;
        assert_eq!(delivery(app, &bounced).await["status"], "sent", "the address is well again for all");
    }

    async fn a_sender_that_is_refused_at_the_recipient_condemns_no_mail_and_no_address(app) {
        let acme = app.organization("Acme").await;
        let refusal = "550 5.1.0 <no-reply@acme.example>: Sender address rejected: User unknown";
        app.smtp.at(Phase::Rcpt, Behaviour::Reply(refusal));
        for n in 0..5 {
            app.invite_to_organization(acme, &format!("person{n}@example.com"), "member").await;
        }
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_mail_circuit").await, 1);
        assert_eq!(app.pool.count("usher_suppressions").await, 0);
        assert_eq!(app.pool.count("usher_deliveries where status = 'queued'").await, 5);
        app.smtp.at(Phase::Rcpt, Behaviour::Accept);
        pass(app, TimeDelta::hours(2), TimeDelta::minutes(5)).await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_deliveries where status = 'sent'").await, 5);
    }

    async fn content_or_policy_refused_does_not_condemn_the_address(app) {
        let acme = app.organization("Acme").await;
        for (phase, reply, status) in [
            (Phase::EndOfData, "554 5.7.1 spam", "queued"),
            (Phase::Rcpt, "550 5.7.1 not today", "queued"),
            (Phase::Rcpt, "552 5.2.2 full", "queued"),
            (Phase::EndOfData, "552 5.3.4 too big", "failed"),
        ] {
            app.smtp.next(1, phase, Behaviour::Reply(reply));
            let invite = app.invite_to_organization(acme, "ada@example.com", "member").await;
            app.run_jobs().await;
            assert_eq!(delivery(app, &invite).await["status"], status, "{reply}");
            assert_eq!(app.pool.count("usher_suppressions").await, 0, "{reply}");
            app.post(&format!("/v1/invites/{invite}/revoke"), json!({})).await.expect(200);
            app.clock.advance(TimeDelta::minutes(2));
            app.run_jobs().await;
        }
    }

    async fn reminders_come_at_a_third_and_two_thirds_and_then_no_more(app) {
        let acme = app.organization("Acme").await;
        app.invite(json!({
            "organization_id": acme, "email": "ada@example.com", "role": "member", "expires_in": "6d",
        })).await;
        app.run_jobs().await;
        let mut seen = Vec::new();
        for hour in 1..=160 {
            pass(app, TimeDelta::hours(1), TimeDelta::hours(1)).await;
            if reminders(app).await > i64::try_from(seen.len()).unwrap() {
                seen.push(hour);
            }
        }
        assert_eq!(seen, [48, 96]);
        assert_eq!(mails_to(app, "ada@example.com").await, 3);
        let first = app.mails()[1].clone();
        assert_ne!(first.header("Message-ID"), app.mails()[0].header("Message-ID"));
        assert!(first.text().contains("https://app.example.com/invite#"));
        assert_eq!(app.pool.count("invites where status = 'expired'").await, 1);
    }

    async fn many_schedulers_at_once_remind_once(app) {
        let acme = app.organization("Acme").await;
        for n in 0..20 {
            app.invite_to_organization(acme, &format!("person{n}@example.com"), "member").await;
        }
        app.clock.advance(PLAN_AFTER + TimeDelta::seconds(1));
        app.run_schedules().await;
        app.clock.advance(TimeDelta::days(3));
        let remind = async || {
            let mut tx = app.app.store.begin().await.unwrap();
            let config = &app.app.config;
            usher::flows::remind(&mut tx, &config.invite_reminders, &config.roles, config.mail_caps, 100).await.unwrap();
            tx.commit().await.unwrap();
        };
        join_all((0..8).map(async |_| remind().await)).await;
        assert_eq!(app.pool.count("usher_deliveries where kind = 'reminder'").await, 20);
        app.run_jobs().await;
        assert_eq!(reminders(app).await, 20);
    }

    async fn who_has_answered_is_not_reminded_even_if_the_reminder_is_queued(app) {
        let acme = app.organization("Acme").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        let invite = async |email: &str| app.invite(json!({
            "organization_id": acme, "email": email, "role": "member", "invited_by": owner.id, "acceptance": "ask",
        })).await;
        let (accepted, declined, revoked, again) =
            (invite("ada@example.com").await, invite("bob@example.com").await, invite("cy@example.com").await, invite("dee@example.com").await);
        app.clock.advance(PLAN_AFTER + TimeDelta::seconds(1));
        app.run_schedules().await;
        let (ada, bob) = (app.person("ada@example.com", None).await, app.person("bob@example.com", None).await);
        app.clock.advance(TimeDelta::days(3));
        usher::worker::tick(&app.app).await.unwrap();
        for job in jobs::all(&app.pool).await.iter().filter(|job| job.job_type == "periodic" && job.status == "Pending") {
            jobs::attempt_at(&app.context, job, 1).await.unwrap();
        }
        assert_eq!(app.pool.count("usher_deliveries where kind = 'reminder' and status = 'queued'").await, 4);
        app.signed_in(&ada).accept(&accepted).await.expect(200);
        app.signed_in(&bob).decline(&declined).await.expect(200);
        app.post(&format!("/v1/invites/{revoked}/revoke"), json!({})).await.expect(200);
        app.clock.advance(TimeDelta::seconds(1));
        app.post("/v1/invites", json!({ "organization_id": acme, "email": "dee@example.com", "role": "admin" })).await.expect(200);
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_deliveries where kind = 'reminder' and status = 'suppressed'").await, 4);
        assert_eq!(mails_to(app, "dee@example.com").await, 2, "the fresh invite takes the place of the reminder");
        assert_eq!(mails_to(app, "owner@example.com").await, 2, "their own invite, and one notice");
        assert_eq!(delivery(app, &accepted).await["status"], "sent", "the invite's own mail is what is shown");
        // The life that began when dee was asked again has reminders of its own.
        pass(app, TimeDelta::days(8), TimeDelta::hours(6)).await;
        assert_eq!(reminders(app).await, 2);
        assert_eq!(app.show(&again).await["status"], "expired");
    }

    async fn a_renewed_invite_is_reminded_of_in_its_new_life(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite(json!({
            "organization_id": acme, "email": "ada@example.com", "role": "member", "expires_in": "2h",
        })).await;
        app.run_jobs().await;
        pass(app, TimeDelta::hours(4), TimeDelta::minutes(30)).await;
        assert_eq!(reminders(app).await, 0, "too short a life");
        app.post(&format!("/v1/invites/{invite}/resend"), json!({})).await.expect(202);
        app.run_jobs().await;
        pass(app, TimeDelta::days(6), TimeDelta::hours(6)).await;
        assert_eq!(reminders(app).await, 2);
        app.post(&format!("/v1/invites/{invite}/revoke"), json!({})).await.expect(200);
    }

    async fn a_reminder_that_was_held_up_is_not_sent_right_before_the_end(app) {
        let acme = app.organization("Acme").await;
        app.invite(json!({
            "organization_id": acme, "email": "ada@example.com", "role": "member", "expires_in": "6h",
        })).await;
        app.run_schedules().await;
        app.smtp.at(Phase::MailFrom, Behaviour::Reply("451 4.3.0 later"));
        pass(app, TimeDelta::minutes(320), TimeDelta::minutes(20)).await;
        assert!(app.pool.count("usher_deliveries where kind = 'reminder'").await > 0);
        app.smtp.at(Phase::MailFrom, Behaviour::Accept);
        pass(app, TimeDelta::hours(2), TimeDelta::minutes(20)).await;
        assert_eq!(reminders(app).await, 0);
        assert_eq!(mails_to(app, "ada@example.com").await, 1);
    }
}

async fn capped(database: TestDatabase) -> TestApp {
    TestApp::start_with(database, |settings| {
        settings.mail_cap_inviter = Some("3".to_owned());
        settings.mail_cap_organization = Some("8".to_owned());
        settings.invite_reminders = Some("off".to_owned());
    })
    .await
}

/// Neither those that an earlier process had planned nor those that it had queued.
async fn reminders_that_are_switched_off_do_not_come(database: TestDatabase) {
    let app = &capped(database).await;
    let acme = app.organization("Acme").await;
    for email in ["ada@example.com", "grace@example.com"] {
        app.invite_to_organization(acme, email, "member").await;
    }
    app.run_jobs().await;
    let (on, off) = (Reminders::default(), &app.app.config.invite_reminders);
    app.clock.advance(PLAN_AFTER + TimeDelta::seconds(1));
    let mut tx = app.app.store.begin().await.unwrap();
    assert_eq!(usher::flows::plan_reminders(&mut tx, &on, 10).await.unwrap(), 2);
    app.clock.advance(TimeDelta::days(3));
    let (roles, caps) = (&app.app.config.roles, app.app.config.mail_caps);
    let before = usher::flows::remind(&mut tx, &on, roles, caps, 1).await;
    assert_eq!(before.unwrap(), 1, "before");
    let after = usher::flows::remind(&mut tx, off, roles, caps, 10).await;
    assert_eq!(after.unwrap(), 1, "and after");
    tx.commit().await.unwrap();
    assert_eq!(app.pool.count("usher_deliveries where kind = 'reminder'").await, 1);
    app.run_jobs().await;
    assert_eq!(reminders(app).await, 0);
    let off = "usher_deliveries where status = 'suppressed' and last_error like '%switched off'";
    assert_eq!(app.pool.count(off).await, 1);
}

on_both_databases!(reminders_that_are_switched_off_do_not_come);

/// Caps hold for create, batch, inviting again and resending, also when many ask at once; and begin anew at midnight.
async fn daily_caps_hold(database: TestDatabase) {
    let app = &capped(database).await;
    // Far from midnight, whenever it is told.
    let since_midnight = TimeDelta::seconds(app.now().timestamp().rem_euclid(86_400));
    app.clock.advance(TimeDelta::hours(36) - since_midnight);
    let acme = app.organization("Acme").await;
    let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
    let item = |email: &str, by: bool| {
        let mut item = json!({ "organization_id": acme, "email": email, "role": "member" });
        if by {
            item["invited_by"] = json!(owner.id);
        }
        item
    };
    // One of the organization's eight is gone for the owner's own invite.
    let answers =
        join_all((0..6).map(async |n| app.post("/v1/invites", item(&format!("p{n}@example.com"), true)).await)).await;
    let created = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::CREATED)
        .count();
    assert_eq!(created, 3, "of six at once");
    let refused = answers
        .iter()
        .find(|answer| answer.status != StatusCode::CREATED)
        .unwrap();
    assert_eq!(refused.problem(429), "daily_mail_cap");
    let wait: i64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    let midnight = app.now() + TimeDelta::seconds(wait);
    assert_eq!(midnight.timestamp() % 86_400, 0);
    assert_eq!(app.pool.count("invites").await, 4, "a refused one leaves nothing");

    let batch = json!({ "invites": [
        item("q0@example.com", true), item("q1@example.com", false), item("bad", false), item("q2@example.com", false),
        item("Q1@example.com", false), item("q3@example.com", false), item("q4@example.com", false),
    ] });
    let answer = app.post("/v1/invites/batch", batch).await.expect(200);
    let results = answer["results"].as_array().unwrap();
    let statuses: Vec<u64> = results
        .iter()
        .map(|result| result["status"].as_u64().unwrap())
        .collect();
    assert_eq!(
        statuses,
        [429, 201, 422, 201, 200, 201, 201],
        "the organization's eight are used up; who is asked again at once gets no second mail"
    );
    assert_eq!(results[0]["problem"]["code"], "daily_mail_cap");
    app.run_jobs().await;

    assert_eq!(
        app.post("/v1/invites", item("q5@example.com", false))
            .await
            .problem(429),
        "daily_mail_cap"
    );
    let invite = results[1]["invite"]["id"].as_str().unwrap();
    let mut again = item("q1@example.com", false);
    again["role"] = json!("admin");
    let held = app.post("/v1/invites", again.clone()).await.expect(200);
    assert_eq!(
        (&held["delivery"]["held"], &held["role"]),
        (&json!("cool_down"), &json!("admin"))
    );
    app.clock.advance(TimeDelta::minutes(5));
    again["role"] = json!("owner");
    assert_eq!(app.post("/v1/invites", again).await.problem(429), "daily_mail_cap");
    assert_eq!(app.show(invite).await["role"], "admin", "a refused one changes nothing");
    let again = app.post(&format!("/v1/invites/{invite}/resend"), json!({})).await;
    assert_eq!(again.problem(429), "daily_mail_cap");
    // Another organization has room of its own.
    let zeta = app.organization("Zeta").await;
    app.invite_to_organization(zeta, "ada@example.com", "member").await;

    app.clock.advance(midnight - app.now());
    app.post(&format!("/v1/invites/{invite}/resend"), json!({}))
        .await
        .expect(202);
    app.post("/v1/invites", item("r@example.com", true)).await.expect(201);
    app.run_schedules().await;
}

on_both_databases!(daily_caps_hold);

/// The worker's own runtime leaves the queue alone while the circuit is open, and goes on when it closes.
async fn workers_wait_while_the_circuit_is_open(database: TestDatabase) {
    let app = TestApp::start(database).await;
    let workers = [
        Workers::start(&app.app, Concurrency { events: 2, mails: 4 }),
        Workers::start(&app.app, Concurrency { events: 2, mails: 4 }),
    ];
    app.smtp.at(Phase::MailFrom, NO_LOGIN);
    let acme = app.organization("Acme").await;
    let invites: Vec<Value> = (0..100)
        .map(|n| json!({ "organization_id": acme, "email": format!("person{n}@example.com"), "role": "member" }))
        .collect();
    app.post("/v1/invites/batch", json!({ "invites": invites }))
        .await
        .expect(200);
    eventually("the circuit opens", async || {
        app.pool.count("usher_mail_circuit").await == 1
    })
    .await;
    let jobs = app.pool.jobs();
    let mail = "job_type = 'usher:send-mail'";
    let untouched = format!("{jobs} where {mail} and status = 'Pending' and lock_by is null");
    eventually("what was not begun lies in the queue", async || {
        app.pool.count(&untouched).await >= 60
    })
    .await;
    assert!(
        workers.iter().all(|workers| workers.alive().all()),
        "waiting is no failure"
    );
    app.smtp.at(Phase::MailFrom, Behaviour::Accept);
    // The story's clock stands still until here, and with it the next try.
    app.clock.advance(TimeDelta::minutes(20));
    // The story's clock is ahead of the database's, which jobs are due by: those that stood back are made due by hand.
    let now = app.pool.pick("now()", "unixepoch()");
    let due = &format!(
        "update {} set run_at = {now} where status = 'Pending' and run_at > {now}",
        app.pool.jobs()
    );
    eventually("all are sent", async || {
        app.pool.execute(due).await;
        app.pool.count("usher_deliveries where status = 'sent'").await == 100
    })
    .await;
    assert_eq!(app.mails().len(), 100);
    eventually("the circuit closes", async || {
        app.pool.count("usher_mail_circuit").await == 0
    })
    .await;
    for workers in workers {
        workers.stop().await;
    }
}

on_both_databases!(multi_thread workers_wait_while_the_circuit_is_open);

/// Two processes and forty mails: one line when it begins, one when it ends.
#[tokio::test]
async fn an_open_circuit_raises_one_alarm() {
    let database = TestDatabase::postgres().await;
    let smtp = SmtpServer::start_with_login("usher", "right").await;
    smtp.at(Phase::Auth, NO_LOGIN);
    let processes = [
        UsherProcess::start(&database, &smtp.url()).await,
        UsherProcess::start(&database, &smtp.url()).await,
    ];
    let acme = processes[0].organization("Acme").await;
    let invites: Vec<Value> = (0..40)
        .map(|n| json!({ "organization_id": acme, "email": person(n), "role": "member" }))
        .collect();
    let batch = json!({ "invites": invites });
    processes[0]
        .call(reqwest::Method::POST, "/v1/invites/batch", batch)
        .await;
    let alarms = || -> Vec<String> {
        let lines = processes.iter().flat_map(UsherProcess::log);
        lines.filter(|line| line.contains("\"ERROR\"")).collect()
    };
    eventually("the alarm is raised", async || !alarms().is_empty()).await;
    eventually("a mail has been tried since", async || {
        database.pool.count("usher_mail_circuit where probes > 0").await == 1
    })
    .await;
    assert_eq!(alarms().len(), 1, "{:?}", alarms());
    assert!(alarms()[0].contains("535 5.7.8"), "{:?}", alarms());
    smtp.at(Phase::Auth, Behaviour::Accept);
    eventually("all are sent", async || {
        database
            .pool
            .count("usher_deliveries where status = 'sent' and attempts = 1")
            .await
            == 40
    })
    .await;
    assert_eq!(alarms().len(), 2, "{:?}", alarms());
    assert_eq!(smtp.mails().len(), 40);
    for process in processes {
        assert!(process.terminate().await);
    }
}
