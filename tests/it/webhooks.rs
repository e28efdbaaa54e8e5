//! What Clerk pushes, and what usher takes of it.

use axum::body::Body;
use axum::http::{Method, Request};
use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::json;
use usher_testkit::fake_clerk::{self, Webhook};

use crate::support::app::{SIGNING_SECRET, request};
use crate::support::clerk::{into_request, signed, signed_at};
use crate::support::{TestApp, TestDatabase, jobs, stories};

const OTHER_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn user_event(app: &TestApp, email: &str) -> Vec<u8> {
    let user = app.clerk().user(email);
    fake_clerk::event("user.created", user.to_json(), app.now())
        .to_string()
        .into_bytes()
}

async fn assert_nothing_is_stored(app: &TestApp) {
    assert_eq!(app.pool.count("usher_events").await, 0);
    assert!(jobs::all(&app.pool).await.is_empty());
}

stories! {
    async fn a_signed_event_is_stored_and_queued_before_it_is_answered(app) {
        let event = signed(app, "msg_1", user_event(app, "ada@example.com"));
        let answer = app.deliver(event).await;
        assert_eq!(answer.expect(202), json!({ "status": "queued" }));
        assert_eq!(app.pool.count("usher_events where svix_id = 'msg_1' and processed_at is null").await, 1);
        assert_eq!(jobs::unfinished(&app.pool).await, ["process-clerk-event Pending 0"]);
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_events where svix_id = 'msg_1' and processed_at is not null").await, 1);
    }

    async fn a_known_id_is_answered_and_does_nothing_whenever_it_comes_again(app) {
        let deliver = async || {
            app.deliver(signed(app, "msg_1", user_event(app, "ada@example.com"))).await.expect(202)
        };
        assert_eq!(deliver().await["status"], "queued");
        assert_eq!(deliver().await["status"], "duplicate");
        app.run_jobs().await;
        assert_eq!(deliver().await["status"], "duplicate");
        assert_eq!(jobs::all(&app.pool).await.len(), 1);
    }

    async fn a_hundred_at_once_are_each_answered_with_their_own_truth(app) {
        // Twenty of the hundred repeat an id, and some are bad; none spoils another.
        let send = async |n: usize| {
            let email = format!("person{n}@example.com");
            let good = signed(app, &format!("msg_{}", n % 80), user_event(app, &email));
            let webhook = if n % 10 == 9 { Webhook { signature: "v1,".to_owned(), ..good } } else { good };
            app.deliver(webhook).await
        };
        let answers = join_all((0..100).map(send)).await;
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
        assert_eq!(statuses.iter().filter(|&&status| status == 401).count(), 10);
        assert_eq!(statuses.iter().filter(|&&status| status == 202).count(), 90);
        let queued = answers.iter().filter(|answer| answer.json()["status"] == "queued").count();
        assert_eq!(queued, 72, "80 ids, 8 of them only ever with a bad signature");
        assert_eq!(app.pool.count("usher_events").await, 72);
        assert_eq!(jobs::all(&app.pool).await.len(), 72);
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_people").await, 72);
    }

    async fn security_10_what_clerk_did_not_sign_is_refused_and_leaves_nothing(app) {
        let body = user_event(app, "ada@example.com");
        let now = app.now().timestamp();
        let good = || signed(app, "msg_1", body.clone());
        let truncated = good().signature[..20].to_owned();
        for (what, webhook) in [
            ("wrong secret", signed_at(OTHER_SECRET, "msg_1", now, body.clone())),
            ("stale", signed_at(SIGNING_SECRET, "msg_1", now - 301, body.clone())),
            ("from the future", signed_at(SIGNING_SECRET, "msg_1", now + 301, body.clone())),
            ("empty v1,", Webhook { signature: "v1,".to_owned(), ..good() }),
            ("truncated", Webhook { signature: truncated, ..good() }),
            ("changed body", Webhook { body: user_event(app, "eve@example.com"), ..good() }),
            ("empty body", Webhook { body: Vec::new(), ..good() }),
            ("empty id", Webhook { svix_id: String::new(), ..good() }),
        ] {
            let answer = app.deliver(webhook).await;
            assert_eq!(answer.problem(401), "bad_signature", "{what}");
        }
        for missing in ["svix-id", "svix-timestamp", "svix-signature"] {
            let mut request = into_request(good());
            request.headers_mut().remove(missing);
            assert_eq!(app.send(request).await.problem(401), "bad_signature", "no {missing}");
        }
        let unsigned = request(Method::POST, "/webhooks/clerk", None, Some(json!({ "type": "user.created" })));
        assert_eq!(app.send(unsigned).await.problem(401), "bad_signature");
        assert_nothing_is_stored(app).await;
    }

    async fn the_headers_may_be_called_webhook_too(app) {
        let webhook = signed(app, "msg_1", user_event(app, "ada@example.com"));
        let request = Request::post("/webhooks/clerk")
            .header("webhook-id", &webhook.svix_id)
            .header("webhook-timestamp", &webhook.timestamp)
            .header("webhook-signature", &webhook.signature)
            .body(Body::from(webhook.body))
            .unwrap();
        app.send(request).await.expect(202);
        app.run_jobs().await;
    }

    async fn what_is_signed_but_unreadable_is_a_400_and_leaves_nothing(app) {
        for (body, code) in [
            ("", "not_json"),
            ("{", "not_json"),
            ("user.created", "not_json"),
            ("{}", "no_type"),
            ("[]", "no_type"),
            ("\"user.created\"", "no_type"),
            (r#"{"type": 7}"#, "no_type"),
            (r#"{"type": ""}"#, "no_type"),
        ] {
            let answer = app.deliver(signed(app, "msg_1", body)).await;
            assert_eq!(answer.problem(400), code, "{body}");
        }
        assert_nothing_is_stored(app).await;
    }

    async fn a_body_over_256_kib_is_a_413_announced_or_not(app) {
        let event = |size: usize| format!(r#"{{"type":"user.created","data":"{}"}}"#, "x".repeat(size));
        let answer = app.deliver(signed(app, "msg_1", event(256 * 1024))).await;
        assert_eq!(answer.problem(413), "too_large");
        let mut announced = into_request(signed(app, "msg_1", "{}"));
        announced.headers_mut().insert("content-length", "262145".parse().unwrap());
        assert_eq!(app.send(announced).await.problem(413), "too_large");
        assert_nothing_is_stored(app).await;
    }

    async fn types_that_usher_does_not_act_on_are_answered_200_and_not_stored(app) {
        for event_type in ["email.created", "session.pending", "organization.created", "user.exploded"] {
            let answer = app.clerk().deliver("msg_1", event_type, json!({ "code": "123456" })).await;
            assert_eq!(answer.expect(200), json!({ "status": "ignored" }), "{event_type}");
        }
        assert_nothing_is_stored(app).await;
    }

    async fn only_post_is_known_here(app) {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
            let answer = app.send(request(method.clone(), "/webhooks/clerk", None, None)).await;
            assert_eq!(answer.status, 405, "{method}");
            assert_eq!(answer.headers["allow"], "POST");
            if method != Method::HEAD {
                assert_eq!(answer.problem(405), "method_not_allowed");
            }
        }
        assert_nothing_is_stored(app).await;
    }

    async fn a_payload_that_cannot_be_read_stays_with_its_error_and_runs_again_after_a_fix(app) {
        let broken = json!({ "id": "user_ada", "email_addresses": "none" });
        app.clerk().deliver("msg_1", "user.created", broken).await.expect(202);
        app.run_jobs().await;
        let error = app.pool.text("select error from usher_events where svix_id = 'msg_1'").await.expect("an error");
        assert!(error.contains("data.email_addresses"), "{error}");
        assert_eq!(app.pool.count("usher_events where processed_at is null and payload is not null").await, 1);
        assert_eq!(jobs::all(&app.pool).await[0].status, "Killed");

        // The fix, in the place of a version that understands the payload.
        let fixed = fake_clerk::event("user.created", app.clerk().user("ada@example.com").to_json(), app.now());
        app.pool.execute(&format!("update usher_events set payload = '{fixed}' where svix_id = 'msg_1'")).await;
        let mut tx = app.app.store.begin().await.unwrap();
        assert!(!tx.replay_events(&["msg_1"]).await.unwrap().is_empty());
        tx.commit().await.unwrap();
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_events where processed_at is not null and error is null").await, 1);
        assert_eq!(app.pool.count("usher_people").await, 1);

        // What was processed may run again, too, and changes nothing a second time.
        let mut tx = app.app.store.begin().await.unwrap();
        assert_eq!(tx.replay_events(&["msg_1"]).await.unwrap(), ["msg_1"]);
        tx.commit().await.unwrap();
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_events where processed_at is not null and error is null").await, 1);
        assert_eq!(app.pool.count("usher_people").await, 1);
    }

    async fn one_unreadable_event_in_a_group_spoils_no_other(app) {
        for n in 0..10 {
            let email = format!("person{n}@example.com");
            let data = if n == 5 { json!({ "id": 7 }) } else { app.clerk().user(&email).to_json() };
            app.clerk().deliver(&format!("msg_{n}"), "user.created", data).await.expect(202);
        }
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_people").await, 9);
        assert_eq!(app.pool.count("usher_events where error is not null").await, 1);
    }

    async fn events_of_a_dashboard_test_are_never_judged_by_their_age(app) {
        let mut user = app.clerk().user("test@example.com");
        user.created_at -= TimeDelta::days(1500);
        user.updated_at = user.created_at;
        app.clerk().tell("user.created", user.to_json()).await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_events where outcome = 'matched'").await, 1);
    }

    async fn a_job_carries_ids_only(app) {
        app.clerk().user_created("ada@example.com").await;
        let organization = app.organization("Acme").await;
        app.invite_to_organization(organization, "bob@example.com", "member").await;
        for job in jobs::all(&app.pool).await {
            let payload = String::from_utf8(job.job.clone()).unwrap();
            let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&payload).unwrap();
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            // The cause is an id, too: of the event or the request that is behind it.
            assert!(matches!(names[..], ["svix_id"] | ["delivery_id", "cause"] | ["cause", "delivery_id"]), "{payload}");
            assert!(!payload.contains('@'), "{payload}");
        }
        app.run_jobs().await;
    }
}

#[tokio::test]
async fn during_a_rotation_both_secrets_are_good() {
    let app = TestApp::start_with(TestDatabase::sqlite().await, |settings| {
        settings.clerk_webhook_signing_secret = Some(format!("{OTHER_SECRET},{SIGNING_SECRET}").into());
    })
    .await;
    for (id, secret) in [("msg_1", OTHER_SECRET), ("msg_2", SIGNING_SECRET)] {
        let body = user_event(&app, "ada@example.com");
        let webhook = signed_at(secret, id, app.now().timestamp(), body);
        app.deliver(webhook).await.expect(202);
    }
    app.run_jobs().await;
    app.finish().await;
}

#[tokio::test]
async fn a_store_that_is_away_is_a_503_that_says_when_to_come_again() {
    let app = TestApp::start(TestDatabase::sqlite().await).await;
    app.app.store.close().await;
    let answer = app
        .deliver(signed(&app, "msg_1", user_event(&app, "ada@example.com")))
        .await;
    assert_eq!(answer.problem(503), "store_unavailable");
    assert_eq!(answer.headers["retry-after"], "5");
    let api = app
        .get("/v1/organizations/0192e4a0-0000-7000-8000-000000000000/members")
        .await;
    assert_eq!(api.problem(503), "store_unavailable");
}
