//! What is old is deleted, each kind at its own age.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;

use crate::support::app::API_KEY;
use crate::support::smtp::{Behaviour, Phase};
use crate::support::stories;

stories! {
    async fn what_is_old_is_let_go_each_kind_at_its_own_age(app) {
        let acme = app.organization("Acme").await;
        let body = json!({ "organization_id": acme, "email": "ada@example.com", "role": "member" });
        let mut request = crate::support::app::request(Method::POST, "/v1/invites", Some(API_KEY), Some(body));
        request.headers_mut().insert("idempotency-key", "once".parse().unwrap());
        app.send(request).await.expect(201);
        app.clerk().user_created("ada@example.com").await;
        app.run_jobs().await;
        app.smtp.at(Phase::Rcpt, Behaviour::Reply("451 4.7.1 come again"));
        let grace = app.invite_to_organization(acme, "grace@example.com", "member").await;
        app.run_jobs().await;
        app.pool.execute("update usher_deliveries set attempts = 59 where to_email = 'grace@example.com'").await;
        app.clock.advance(TimeDelta::seconds(15));
        app.run_jobs().await;
        // So that no reminder is sent.
        app.post(&format!("/v1/invites/{grace}/revoke"), json!({})).await.expect(200);
        let rows = async || {
            let table = app.pool.jobs();
            let of_mails = "job_type <> 'usher:periodic'";
            [
                app.pool.count("usher_events where payload is not null").await,
                app.pool.count("usher_events").await,
                app.pool.count(&format!("{table} where status = 'Done' and {of_mails}")).await,
                app.pool.count(&format!("{table} where status = 'Killed'")).await,
                app.pool.count("usher_job_failures").await,
                app.pool.count("usher_deliveries").await,
                app.pool.count("usher_idempotency_keys").await,
            ]
        };
        for (days, expected, what) in [
            (0, [1, 1, 2, 1, 2, 2, 1], "fresh"),
            (1, [1, 1, 2, 1, 2, 2, 1], "nothing is old after a day"),
            (2, [1, 1, 2, 1, 2, 2, 0], "the answer under its key"),
            (5, [0, 1, 0, 1, 2, 2, 0], "after a week: payloads, and jobs that are done"),
            (83, [0, 0, 0, 0, 0, 2, 0], "after three months: events and dead jobs"),
            (280, [0, 0, 0, 0, 0, 0, 0], "after a year: the records of mails"),
        ] {
            app.clock.advance(TimeDelta::days(days));
            app.run_schedules().await;
            assert_eq!(rows().await, expected, "{what}");
        }
        assert_eq!(app.members(acme).await, ["ada@example.com member"], "what is the app's is never let go");
    }

    async fn sessions_and_the_history_of_closed_invites_are_deleted_after_a_year(app) {
        let acme = app.organization("Acme").await;
        let bob = app.earlier_person("bob@example.com").await;
        app.clerk().session_over("session.ended", "sess_1", &bob).await;
        app.clerk().session_created("sess_2", &bob).await;
        app.run_jobs().await;
        let closed = app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.post(&format!("/v1/invites/{closed}/revoke"), json!({})).await.expect(200);
        app.invite_to_organization(acme, "grace@example.com", "member").await;
        app.run_jobs().await;
        let open = "update invites set expires_at = '9000-01-01T00:00:00+00:00' where email = 'grace@example.com'";
        app.pool.execute(open).await;
        let rows = async || {
            let history = "usher_invite_history h join invites i on i.id = h.invite_id where i.email";
            [
                app.pool.count("usher_sessions").await,
                app.pool.count(&format!("{history} = 'ada@example.com'")).await,
                app.pool.count(&format!("{history} = 'grace@example.com'")).await,
            ]
        };
        app.clock.advance(TimeDelta::days(364));
        app.run_schedules().await;
        assert_eq!(rows().await, [2, 2, 1], "nothing is a year old");
        app.clerk().session_created("sess_1", &bob).await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_events where outcome = 'session already over'").await, 1);
        app.clock.advance(TimeDelta::days(2));
        app.run_schedules().await;
        assert_eq!(rows().await, [0, 0, 1], "one that ended, and one whose end was never told");
        app.clerk().session_over("session.ended", "sess_2", &bob).await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_events where outcome = 'signed out'").await, 1, "its end may still come");
    }

    async fn workers_that_stopped_are_deleted_when_no_job_names_them(app) {
        let (table, now) = (app.pool.jobs(), app.now().timestamp());
        let (workers, at, payload, metadata) = app.pool.pick(
            ("apalis.workers", format!("to_timestamp({now})"), "'x'::bytea", "null"),
            ("Workers", now.to_string(), "x'78'", "'{}'"),
        );
        for (name, of) in [("gone", "usher:send-mail"), ("named", "usher:send-mail"), ("theirs", "their-queue")] {
            let row = format!("'{name}', '{of}', 'x', '', {at}");
            app.pool
                .execute(&format!("insert into {workers} (id, worker_type, storage_name, layers, last_seen) values ({row})"))
                .await;
        }
        // A job that is never old: ids sort by time.
        let row = format!("'7ZZZZZZZZZZZZZZZZZZZZZZZZZ', 'usher:send-mail', {payload}, 60, {at}, 0, 'Done', 1, 'named', {metadata}");
        app.pool
            .execute(&format!(
                "insert into {table} (id, job_type, job, max_attempts, run_at, priority, status, attempts, lock_by, metadata)
                 values ({row})"
            ))
            .await;
        for (days, expected) in [(89, ["gone", "named", "theirs"].as_slice()), (2, &["named", "theirs"])] {
            app.clock.advance(TimeDelta::days(days));
            app.run_schedules().await;
            let left: Vec<(String,)> = app.pool.rows(&format!("select id from {workers} order by id")).await;
            let left: Vec<&str> = left.iter().map(|(name,)| name.as_str()).collect();
            assert_eq!(left, expected);
        }
    }
}
