//! The board: what operators see, and what they change from there. Who may do it: `board_access.rs`.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use url::form_urlencoded;

use crate::support::board::{ADA, BOB, Browser, audit, with_keys};
use crate::support::process::{UsherProcess, eventually};
use crate::support::smtp::SmtpServer;
use crate::support::{TestApp, TestDatabase, on_both_databases, stories};

async fn start_with_keys(database: TestDatabase) -> TestApp {
    TestApp::start_with(database, with_keys).await
}

/// An event that can't be read, and its job, which is dead.
pub async fn dead_event(app: &TestApp, svix_id: &str) {
    let broken = json!({ "id": "user_ada", "email_addresses": "none", "password_digest": "hunter2" });
    app.clerk().deliver(svix_id, "user.created", broken).await.expect(202);
    app.run_jobs().await;
}

pub async fn state_of(app: &TestApp, svix_id: &str) -> String {
    let event = app.app.store.read().await.unwrap().event(svix_id).await.unwrap();
    event.expect("an event").state.to_string()
}

stories! {
    #[tokio::test] TestApp, start_with_keys, TestApp::finish;

    async fn an_operator_finds_the_dead_job_reads_why_and_retries_all_that_match(app) {
        dead_event(app, "msg_1").await;
        dead_event(app, "msg_2").await;
        let ada = Browser::signed_in(app, ADA).await;
        ada.get("/board").await.shows("2 jobs are dead").shows("2 events have failed").shows("ada (operate)");
        let dead = ada.get("/board/jobs?queue=process-clerk-event&state=dead&about=msg_1").await;
        dead.shows("Retry all that match");
        let (_, rest) = dead.body.split_once("href=\"/board/jobs/01").expect("a job");
        let job = format!("/board/jobs/01{}", rest.split_once('"').unwrap().0);
        ada.get(&job).await.shows("Failed attempts").shows("/board/inbox/msg_1");

        let question = ada.get("/board/jobs/change?queue=process-clerk-event&state=dead&action=retry").await;
        question.shows("Retry 2 jobs: 2 process-clerk-event?");
        // What comes now is not part of what was counted.
        app.clock.advance(TimeDelta::seconds(1));
        dead_event(app, "msg_3").await;
        let done = ada.post("/board/jobs/change", &question.form()).await;
        assert_eq!(done.status, 200);
        done.shows("2 jobs queued again");
        assert_eq!([state_of(app, "msg_1").await, state_of(app, "msg_3").await], ["waiting", "failed"]);
        assert_eq!(audit(app).await, ["ada: retry jobs queue=process-clerk-event state=dead, 2"]);
        ada.get("/board/audit").await.shows("retry jobs").shows("board");
        app.run_jobs().await;
        // Too late, or wrong: the page says so.
        let done = ada.get("/board/jobs/change?state=done&action=retry").await;
        done.shows("Retry is for jobs that are dead or scheduled");
        let wrong = ada.get("/board/jobs/change?state=asleep&action=sing").await;
        wrong.shows("state must be one of").shows("action must be one of");
        ada.get("/board/jobs/change?state=scheduled&action=retry").await.shows("No job that can be queued again");
        assert_eq!(ada.get("/board/jobs/01").await.status, 404);
    }

    async fn no_form_adds_to_another_change_s_entry_in_the_audit(app) {
        for svix_id in ["msg_1", "msg_2", "msg_3"] {
            dead_event(app, svix_id).await;
            app.clock.advance(TimeDelta::seconds(1));
        }
        let ada = Browser::signed_in(app, ADA).await;
        let retry = async |about: &str, entry: Option<String>| {
            let question = ada.get(&format!("/board/jobs/change?state=dead&about={about}&action=retry")).await;
            let mut form = question.form();
            form.extend(entry.map(|entry| ("entry".to_owned(), entry)));
            ada.post("/board/jobs/change", &form).await.shows("1 job queued again");
        };
        retry("msg_1", None).await;
        let first = app.app.store.read().await.unwrap().audit(None, 1).await.unwrap().remove(0).id.to_string();
        retry("msg_2", Some(first.clone())).await;
        app.pool.execute("update usher_audit set who = 'bob'").await;
        retry("msg_3", Some(first)).await;
        let mut entries = audit(app).await;
        entries.sort();
        assert_eq!(entries, [
            "ada: retry jobs state=dead about=msg_3, 1",
            "bob: retry jobs state=dead about=msg_1, 1",
            "bob: retry jobs state=dead about=msg_2, 1",
        ]);
        app.run_jobs().await;
    }

    async fn an_age_does_not_move_on_between_the_question_and_the_change(app) {
        dead_event(app, "msg_1").await;
        app.clock.advance(TimeDelta::minutes(50));
        dead_event(app, "msg_2").await;
        app.clock.advance(TimeDelta::minutes(15));
        let ada = Browser::signed_in(app, ADA).await;
        let question = ada.get("/board/jobs/change?state=dead&older=1h&action=retry").await;
        question.shows("Retry 1 job");
        let asked_at = app.now();
        app.clock.advance(TimeDelta::hours(1));
        let form = question.form();
        ada.post("/board/jobs/change", &form).await.shows("1 job queued again");
        assert_eq!(state_of(app, "msg_2").await, "failed");
        let (_, older) = form.iter().find(|(name, _)| name == "older").expect("an age");
        let older = chrono::DateTime::parse_from_rfc3339(older).expect("a time: each answer of a long change has the same");
        assert_eq!(older.to_utc().timestamp(), (asked_at - TimeDelta::hours(1)).timestamp());
        app.run_jobs().await;
    }

    async fn events_are_replayed_and_discarded_in_a_range_of_time(app) {
        dead_event(app, "msg_1").await;
        app.clock.advance(TimeDelta::hours(2));
        dead_event(app, "msg_2").await;
        let ada = Browser::signed_in(app, ADA).await;
        ada.get("/board/inbox?state=failed&before=1h").await.shows("msg_1").hides("msg_2");
        ada.get("/board/inbox?since=1h&type=user.created").await.shows("msg_2").hides("msg_1");
        app.clock.advance(TimeDelta::seconds(1));
        let question = ada.get("/board/inbox/change?state=failed&since=1h&action=replay").await;
        app.clock.advance(TimeDelta::seconds(1));
        dead_event(app, "msg_3").await;
        ada.post("/board/inbox/change", &question.form()).await.shows("1 event queued again");
        let states = [state_of(app, "msg_1").await, state_of(app, "msg_2").await, state_of(app, "msg_3").await];
        assert_eq!(states, ["failed", "waiting", "failed"]);
        app.run_jobs().await;
        app.clock.advance(TimeDelta::seconds(1));
        let question = ada.get("/board/inbox/change?id=msg_1&action=discard").await;
        ada.post("/board/inbox/change", &question.form()).await.shows("1 event discarded");
        ada.post("/board/inbox/change", &question.form()).await.shows("Event msg_1 is not there, or has not failed");
        ada.get("/board/inbox/msg_1").await.shows("discarded by hand");
        assert_eq!(audit(app).await.first().unwrap(), "ada: discard events msg_1, 1");
        ada.get("/board/jobs?about=msg_1").await.shows("No job is like that");
    }

    async fn many_failed_events_are_listed_page_by_page(app) {
        for number in 100..160 {
            let row = format!(
                "insert into usher_events (svix_id, event_type, received_at, processed_at)
                 values ('msg_{number}', 'user.created',
                     '2026-01-01T00:00:{:02}+00:00', '2026-01-01T00:01:00+00:00')", number - 100
            );
            app.pool.execute(&row).await;
        }
        let bob = Browser::signed_in(app, BOB).await;
        let first = bob.get("/board/inbox").await;
        first.shows("msg_159").shows("msg_110").hides("msg_109").shows("Older events");
        let (before, _) = first.body.split_once("\" rel=\"next\"").unwrap();
        let next = before.rsplit_once("href=\"").unwrap().1.replace("&amp;", "&");
        bob.get(&next).await.shows("msg_109").shows("msg_100").hides("msg_110").hides("Older events");
    }

    async fn a_payload_is_for_those_who_operate_and_without_secrets(app) {
        dead_event(app, "msg_1").await;
        let (ada, bob) = (Browser::signed_in(app, ADA).await, Browser::signed_in(app, BOB).await);
        ada.get("/board/inbox/msg_1").await.hides("user_ada");
        ada.get("/board/inbox/msg_1?payload=show").await.shows("user_ada").shows("(cut out)").hides("hunter2");
        bob.get("/board/inbox/msg_1?payload=show").await.hides("user_ada").shows("The role `operate` is needed");
        bob.get("/board/jobs?state=dead").await.hides("Retry all");
        assert_eq!(bob.get("/board/jobs/change?action=retry").await.status, 403);
    }

    async fn hostile_words_stay_words_in_every_cell(app) {
        let hostile = "<script>alert(1)</script>\"'";
        let sql = hostile.replace('\'', "''");
        app.pool.execute(&format!(
            "insert into usher_events (svix_id, event_type, received_at, error)
             values ('{sql}', '{sql}', '2026-01-01T00:00:00+00:00', '{sql}')"
        )).await;
        app.pool.execute(&format!(
            "insert into usher_job_failures (job_id, attempt, failed_at, error, about)
             values ('{sql}', 1, '2026-01-01T00:00:00+00:00', '{sql}', '{sql}')"
        )).await;
        let ada = Browser::signed_in(app, ADA).await;
        let encoded: String = form_urlencoded::byte_serialize(hostile.as_bytes()).collect();
        for path in [
            "/board/inbox".to_owned(),
            format!("/board/inbox/{encoded}"),
            format!("/board/jobs?error={encoded}&queue={encoded}&older={encoded}"),
            format!("/board/jobs/{encoded}"),
            format!("/board/inbox?type={encoded}"),
            format!("/board/inbox/change?id={encoded}&action=replay"),
        ] {
            ada.get(&path).await.hides("<script>alert").hides("alert(1)</script>");
        }
    }

    async fn a_schedule_is_run_now_and_says_how_it_ended(app) {
        app.run_schedules().await;
        let ada = Browser::signed_in(app, ADA).await;
        let page = ada.get("/board/schedules").await;
        page.shows("expire-invites").hides("never");
        let mut fields = page.form();
        app.clock.advance(TimeDelta::seconds(1));
        let [token, schedule] = &mut fields[..] else { panic!("two fields: {fields:?}") };
        assert_eq!(token.0, "token");
        let name = schedule.1.clone();
        assert_eq!(ada.post("/board/schedules", &fields).await.status, 303);
        assert_eq!(audit(app).await, [format!("ada: run schedule {name}, 1")]);
        app.run_jobs().await;
        let known = app.app.store.read().await.unwrap().schedules().await.unwrap();
        assert_eq!((known[&name].last_at, &known[&name].last_error), (Some(app.now()), &None));
        fields[1].1 = "sing".to_owned();
        ada.post("/board/schedules", &fields).await.shows("There is no schedule like that").shows("expire-invites");
    }
}

/// The jobs of a paused queue wait, and its state is seen wherever it may be looked for.
async fn paused(database: TestDatabase) {
    let smtp = SmtpServer::start().await;
    let usher = UsherProcess::start(&database, &smtp.url()).await;
    let acme = usher.organization("Acme").await;
    usher
        .well(&[
            "queues",
            "pause",
            "send-mail",
            "--reason",
            "the relay is being replaced",
        ])
        .await;
    let (is_well, again) = usher
        .usher(&["queues", "pause", "send-mail", "--reason", "again"])
        .await;
    assert!(!is_well && again.contains("send-mail is paused already"), "{again}");
    let list = usher.well(&["queues", "list"]).await;
    assert!(list.contains("the relay is being replaced"), "{list}");
    let (status, ready) = usher.ask("/readyz").await;
    assert!(
        status == 200 && ready.contains("the relay is being replaced"),
        "{status} {ready}"
    );
    // All processes follow within two seconds.
    tokio::time::sleep(Duration::from_secs(4)).await;
    usher.invite(acme, "ada@example.com").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(smtp.mails().is_empty(), "its jobs wait");
    let (_, metrics) = usher.ask("/metrics").await;
    assert!(
        metrics.contains("usher_queue_paused{queue=\"send-mail\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("usher_workers_alive{queue=\"send-mail\"} 1"),
        "{metrics}"
    );
    usher.well(&["queues", "resume", "send-mail"]).await;
    eventually("the mail is sent", async || smtp.mails().len() == 1).await;
    let audit = usher.well(&["audit"]).await;
    assert!(
        audit.contains("pause queue") && audit.contains("command line"),
        "{audit}"
    );
    usher.well(&["schedules", "run", "expire-invites"]).await;
    let schedules = usher.well(&["schedules", "list"]).await;
    assert!(schedules.contains("expire-invites"), "{schedules}");
    usher.terminate().await;
}

on_both_databases!(multi_thread a_paused_queue_waits_and_says_so: paused);
