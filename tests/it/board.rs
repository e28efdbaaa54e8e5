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
        let time = "'2026-01-01T00:00:00+00:00'";
        let acme = app.organization(hostile).await;
        let invite = app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.run_jobs().await;
        dead_event(app, "msg_1").await;
        let audit_id = app.pool.literal(app.clock.new_id());
        let (json, bytes) = app.pool.pick(
            (format!("jsonb_build_object('Err', '{sql}')"), format!("convert_to('{sql}', 'UTF8')")),
            (format!("json_object('Err', '{sql}')"), format!("cast('{sql}' as blob)")),
        );
        for text in [
            format!("insert into usher_events (svix_id, event_type, received_at, error)
                     values ('{sql}', '{sql}', {time}, '{sql}')"),
            format!("insert into usher_job_failures (job_id, attempt, failed_at, error, about)
                     values ('{sql}', 1, {time}, '{sql}', '{sql}')"),
            format!("update {} set last_result = {json}, job = {bytes} where status <> 'Done'", app.pool.jobs()),
            format!("update usher_job_failures set error = '{sql}' where about = 'msg_1'"),
            format!("update usher_deliveries set last_error = '{sql}', reply = '{sql}', to_email = '{sql}'"),
            format!("insert into usher_paused_queues (queue, reason, paused_by, since)
                     values ('send-mail', '{sql}', '{sql}', {time})"),
            format!("insert into usher_mail_circuit (id, reason, since, probe_at) values (1, '{sql}', {time}, {time})"),
            format!("insert into usher_event_endpoints (name, slot, disabled_at, disabled_reason)
                     values ('{sql}', 1, {time}, '{sql}')"),
            format!("insert into usher_schedules (name, due_at, last_at, last_error)
                     values ('retention', {time}, {time}, '{sql}')
                     on conflict (name) do update set last_error = '{sql}'"),
            format!("insert into usher_audit (id, at, who, door, action, subject, refused)
                     values ({audit_id}, {time}, '{sql}', 'board', '{sql}', '{sql}', '{sql}')"),
        ] {
            app.pool.execute(&text).await;
        }
        let ada = Browser::signed_in(app, ADA).await;
        let encoded: String = form_urlencoded::byte_serialize(hostile.as_bytes()).collect();
        let dead = ada.get("/board/jobs?state=dead").await;
        let (_, rest) = dead.body.split_once("href=\"/board/jobs/01").expect("a job");
        let job = format!("/board/jobs/01{}", rest.split_once('"').unwrap().0);
        for (path, times) in [
            ("/board".to_owned(), 4),
            ("/board/jobs".to_owned(), 1),
            (job, 2),
            ("/board/inbox".to_owned(), 3),
            (format!("/board/inbox/{encoded}"), 4),
            (format!("/board/invites/{invite}"), 2),
            ("/board/queues".to_owned(), 2),
            ("/board/schedules".to_owned(), 1),
            ("/board/audit".to_owned(), 4),
            (format!("/board/jobs?error={encoded}&queue={encoded}&older={encoded}"), 1),
            (format!("/board/jobs/{encoded}"), 1),
            (format!("/board/invites/{encoded}"), 1),
            (format!("/board/inbox?type={encoded}"), 1),
            (format!("/board/inbox/change?id={encoded}&action=replay"), 1),
        ] {
            let page = ada.get(&path).await;
            page.hides("<script>alert").hides("alert(1)</script>");
            let shown = page.body.matches("&lt;script&gt;alert(1)&lt;/script&gt;").count();
            assert!(shown >= times, "{path} shows it {shown} times, not {times}:\n{}", page.body);
        }
        app.pool.execute(&format!("update {} set status = 'Done' where status <> 'Done'", app.pool.jobs())).await;
    }

    async fn an_invite_says_what_it_waits_for_and_leads_to_its_jobs_and_back(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "ada@example.com", "member").await;
        let (ada, bob) = (Browser::signed_in(app, ADA).await, Browser::signed_in(app, BOB).await);
        let address = format!("/board/invites/{invite}");
        let page = ada.get(&address).await;
        page.shows("a person who has verified this address in Clerk").shows("ada@example.com").shows("Acme");
        page.shows(&format!("/board/jobs?about={invite}"));
        bob.get(&address).await.shows("a***@example.com").hides("ada@example.com");
        let jobs = ada.get(&format!("/board/jobs?about={invite}")).await;
        let (_, rest) = jobs.body.split_once("href=\"/board/jobs/01").expect("its mail's job");
        let job = format!("/board/jobs/01{}", rest.split_once('"').unwrap().0);
        ada.get(&job).await.shows(&format!("href=\"{address}\""));
        app.run_jobs().await;
        app.clerk().deliver("msg_1", "user.created", app.clerk().user("ada@example.com").to_json()).await.expect(202);
        app.run_jobs().await;
        let page = ada.get(&address).await;
        page.shows("accepted").shows("href=\"/board/inbox/msg_1\"").shows(": sent,").hides("Waits for");
        assert_eq!(ada.get("/board/invites/01").await.status, 404);
        assert_eq!(ada.get(&format!("/board/invites/{}", app.clock.new_id())).await.status, 404);
    }

    async fn no_page_weighs_more_than_100_kb_whatever_its_rows_say(app) {
        let (long, time) = ("w&lt; ".repeat(1_000), "'2026-01-01T00:00:00+00:00'");
        let jobs = app.pool.jobs();
        for number in 100..160 {
            dead_event(app, &format!("msg_{number}")).await;
            let id = app.pool.literal(app.clock.new_id());
            app.pool.execute(&format!(
                "insert into usher_audit (id, at, who, door, action, subject, refused)
                 values ({id}, {time}, 'ada', 'board', 'retry jobs', '{long}', '{long}')"
            )).await;
            app.pool.execute(&format!(
                "insert into usher_job_failures (job_id, attempt, failed_at, error, about)
                 values ('01', {number}, {time}, '{long}', 'msg_100')"
            )).await;
        }
        let result = app.pool.pick(
            format!("jsonb_build_object('Err', '{long}')"),
            format!("json_object('Err', '{long}')"),
        );
        let payload = json!({ "data": "x".repeat(250_000) });
        for text in [
            format!("update usher_events set error = '{long}', payload = '{payload}'"),
            format!("update {jobs} set last_result = {result}"),
        ] {
            app.pool.execute(&text).await;
        }
        let ada = Browser::signed_in(app, ADA).await;
        let mut files = 0;
        for file in ["board.css", "board.js", "icon.svg"] {
            files += ada.get(&format!("/board/{file}")).await.body.len();
        }
        for path in ["", "/jobs", "/inbox", "/inbox/msg_100", "/inbox/msg_100?payload=show", "/queues", "/schedules", "/audit"] {
            let page = ada.get(&format!("/board{path}")).await;
            let weight = page.body.len() + files;
            assert!(page.status == 200 && weight <= 100_000, "{path}: {weight} bytes");
        }
    }

    async fn however_many_look_at_the_overview_the_database_is_asked_once_a_second(app) {
        let ada = Browser::signed_in(app, ADA).await;
        ada.get("/board").await.shows("All is well");
        app.pool.execute(
            "insert into usher_events (svix_id, event_type, received_at, error)
             values ('msg_1', 'user.created', '2026-01-01T00:00:00+00:00', 'unreadable')"
        ).await;
        let asked = tokio::time::Instant::now();
        let looks = futures::future::join_all((0..50).map(|_| ada.get("/board"))).await;
        if asked.elapsed() < Duration::from_millis(700) {
            looks.iter().for_each(|page| { page.shows("All is well"); });
        }
        eventually("the overview is read again", async || ada.get("/board").await.body.contains("1 event has failed")).await;
    }

    async fn however_many_refresh_a_list_it_is_read_once_a_second_and_for_each_role(app) {
        let event = |number| format!(
            "insert into usher_events (svix_id, event_type, received_at, error)
             values ('msg_{number}', 'user.created', '2026-01-01T00:00:00+00:00', 'unreadable')"
        );
        app.pool.execute(&event(1)).await;
        let ada = Browser::signed_in(app, ADA).await;
        let refreshing = Browser { headers: vec![("x-usher-refresh", "1")], ..Browser::signed_in_at(&ada, ADA).await };
        let asked = tokio::time::Instant::now();
        refreshing.get("/board/inbox").await.shows("msg_1").shows("Replay all failed");
        app.pool.execute(&event(2)).await;
        let looks = futures::future::join_all((0..50).map(|_| refreshing.get("/board/inbox"))).await;
        if asked.elapsed() < Duration::from_millis(900) {
            looks.iter().for_each(|page| { page.hides("msg_2"); });
        }
        ada.get("/board/inbox").await.shows("msg_2");
        refreshing.get("/board/inbox?state=failed").await.shows("msg_2");
        let bob = Browser { headers: vec![("x-usher-refresh", "1")], ..Browser::signed_in_at(&ada, BOB).await };
        bob.get("/board/inbox").await.shows("msg_2").hides("Replay all failed");
        eventually("the list is read again", async || refreshing.get("/board/inbox").await.body.contains("msg_2")).await;
    }

    async fn the_audit_is_kept_as_long_as_its_own_setting_says(app) {
        let ada = Browser::signed_in(app, ADA).await;
        let stranger = Browser::new(&app.app);
        stranger.sign_in("guessed-ops-key-of-more-than-32-characters").await;
        app.clock.advance(TimeDelta::days(2));
        stranger.sign_in("guessed-ops-key-of-more-than-32-characters").await;
        assert_eq!(audit(app).await.len(), 2);
        app.clock.advance(TimeDelta::days(364));
        app.run_schedules().await;
        app.run_jobs().await;
        assert_eq!(audit(app).await.len(), 1, "the default is 365 days");
        assert_eq!(ada.get("/board/audit").await.status, 303, "no session is that long");
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
