//! What the app calls.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::support::app::{API_KEY, request};
use crate::support::stories;

stories! {
    async fn an_invite_is_created_mailed_and_shown_with_its_delivery(app) {
        let acme = app.organization("Acme").await;
        let answer = app.post("/v1/invites", json!({
            "organization_id": acme, "email": "Ada@Example.com", "role": "member", "expires_in": "3d", "locale": "de",
        })).await;
        let invite = answer.expect(201);
        let id = invite["id"].as_str().unwrap();
        assert_eq!(answer.headers["location"], format!("/v1/invites/{id}"));
        assert_eq!(invite["kind"], "organization");
        assert_eq!(invite["organization"], json!({ "id": acme, "name": "Acme" }));
        assert_eq!(invite["email"], "Ada@Example.com");
        assert_eq!(invite["status"], "pending");
        let delivery = &invite["delivery"];
        assert_eq!((&delivery["kind"], &delivery["status"], &delivery["attempts"]), (&json!("invite"), &json!("queued"), &json!(0)));
        assert_eq!((&delivery["queued_at"], &delivery["sent_at"]), (&invite["created_at"], &Value::Null));
        assert_eq!(invite["project"], Value::Null);
        app.run_jobs().await;
        let shown = app.show(id).await;
        assert_eq!(shown["delivery"]["status"], "sent");
        assert_eq!(shown["delivery"]["attempts"], 1);
        let mail = &app.mails()[0];
        assert_eq!(mail.to, ["Ada@Example.com"]);
        assert!(mail.text().contains("Acme") && mail.html().contains("Acme"));
    }

    async fn inviting_again_makes_the_same_invite_fresh_and_the_old_link_void(app) {
        let acme = app.organization("Acme").await;
        let first = app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.run_jobs().await;
        let old = app.token_in_mail_to("ada@example.com");
        app.clock.advance(TimeDelta::days(1));
        let again = app.post("/v1/invites", json!({
            "organization_id": acme, "email": "ADA@example.com", "role": "admin",
        })).await.expect(200);
        assert_eq!(again["id"], first);
        assert_eq!(again["role"], "admin");
        app.run_jobs().await;
        let new = app.token_in_mail_to("ADA@example.com");
        let version = |token: &str| app.app.token_key.verify(token).expect("a genuine token").version;
        assert_eq!((version(&old), version(&new)), (1, 2));
        assert_eq!(app.pool.count("invites").await, 1);
        assert_eq!(app.pool.count("usher_deliveries where status = 'sent'").await, 2);
    }

    async fn an_expired_invite_is_made_fresh_by_inviting_again(app) {
        let acme = app.organization("Acme").await;
        let first = app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.run_jobs().await;
        app.clock.advance(TimeDelta::days(8));
        assert_eq!(app.show(&first).await["status"], "expired");
        let again = app.post("/v1/invites", json!({
            "organization_id": acme, "email": "ada@example.com", "role": "member",
        })).await.expect(200);
        assert_eq!((&again["id"], &again["status"]), (&json!(first), &json!("pending")));
        app.run_jobs().await;
    }

    async fn a_mail_is_not_sent_for_an_invite_that_was_answered_or_asked_again_meanwhile(app) {
        let acme = app.organization("Acme").await;
        for role in ["member", "admin"] {
            app.post("/v1/invites", json!({ "organization_id": acme, "email": "ada@example.com", "role": role })).await;
            app.clock.advance(TimeDelta::minutes(5));
        }
        app.run_jobs().await;
        assert_eq!(app.mails().len(), 1, "the older of the two is no longer wanted");
        assert!(app.mails()[0].text().contains("admin"));
        assert_eq!(app.pool.count("usher_deliveries where status = 'suppressed'").await, 1);
    }

    async fn every_wrong_field_is_named_at_once(app) {
        let acme = app.organization("Acme").await;
        let unknown = "0192e4a0-0000-7000-8000-000000000000";
        for (body, fields) in [
            (json!({}), vec!["organization_id", "email", "role"]),
            (json!({ "organization_id": "acme", "email": "ada", "role": "" }), vec!["organization_id", "email", "role"]),
            (json!({ "organization_id": 7, "email": 7, "role": 7 }), vec!["organization_id", "email", "role"]),
            (json!({ "organization_id": acme, "project_id": acme, "email": "a@b.example", "role": "member" }), vec!["project_id"]),
            (json!({ "organization_id": unknown, "email": "a@b.example", "role": "member" }), vec!["organization_id"]),
            (json!({ "project_id": unknown, "email": "a@b.example", "role": "editor" }), vec!["project_id"]),
            (json!({ "organization_id": acme, "email": "a@b.example", "role": "emperor" }), vec!["role"]),
            (json!({ "organization_id": acme, "email": "a@b.example", "role": "editor" }), vec!["role"]),
            (json!({ "organization_id": acme, "email": "a@b.example", "role": "member", "invited_by": "bob" }), vec!["invited_by"]),
            (json!({ "organization_id": acme, "email": "a@b.example", "role": "member", "invited_by": unknown }), vec!["invited_by"]),
            (json!({ "organization_id": acme, "email": "a@b.example", "role": "member", "invited_by": "user_nobody" }), vec!["invited_by"]),
            (
                json!({ "organization_id": acme, "email": "a@b.example", "role": "member", "expires_in": "31d",
                        "acceptance": "maybe", "locale": "d e", "message": "\u{0}", "colour": "red" }),
                vec!["expires_in", "acceptance", "locale", "message", "colour"],
            ),
            (json!({ "organization_id": acme, "email": "a@b.example", "role": "member", "expires_in": "+5d" }), vec!["expires_in"]),
        ] {
            assert_eq!(app.post("/v1/invites", body.clone()).await.wrong_fields(), fields, "{body}");
        }
        assert_eq!(app.pool.count("invites").await, 0);
        assert_eq!(app.put(&format!("/v1/organizations/{acme}"), json!({})).await.wrong_fields(), ["name"]);
        assert_eq!(
            app.put(&format!("/v1/projects/{acme}"), json!({ "organization_id": unknown, "name": "x" })).await.wrong_fields(),
            ["organization_id"]
        );
        let too_long = format!("/v1/organizations/{}", "a".repeat(300));
        assert_eq!(app.put(&too_long, json!({ "name": "x" })).await.problem(400), "invalid_id");
        assert_eq!(app.get("/v1/invites/7").await.problem(400), "invalid_id");
        assert_eq!(app.get(&format!("/v1/invites/{unknown}")).await.problem(404), "not_found");
        assert_eq!(app.get(&format!("/v1/organizations/{unknown}/members")).await.problem(404), "not_found");
        assert_eq!(app.get(&format!("/v1/projects/{unknown}/members")).await.problem(404), "not_found");
    }

    async fn bodies_that_are_no_json_objects_are_refused_by_name(app) {
        let send = async |content_type: &str, body: &'static str| {
            let mut request = request(Method::POST, "/v1/invites", Some(API_KEY), None);
            request.headers_mut().insert("content-type", content_type.parse().unwrap());
            *request.body_mut() = axum::body::Body::from(body);
            app.send(request).await
        };
        assert_eq!(send("text/plain", "{}").await.problem(415), "unsupported_media_type");
        assert_eq!(send("application/json", "{").await.problem(400), "not_json");
        assert_eq!(send("application/json; charset=utf-8", "[]").await.wrong_fields(), [""]);
    }

    async fn a_role_above_the_inviters_is_refused(app) {
        let acme = app.organization("Acme").await;
        let admin = app.person("admin@example.com", Some((acme, "admin"))).await;
        let member = app.person("member@example.com", Some((acme, "member"))).await;
        let stranger = app.person("stranger@example.com", None).await;
        let invite = async |inviter: &str, role: &str| {
            app.post("/v1/invites", json!({
                "organization_id": acme, "email": "new@example.com", "role": role, "invited_by": inviter,
            })).await
        };
        for (inviter, role) in [(&admin, "owner"), (&member, "member"), (&stranger, "member")] {
            assert_eq!(invite(&inviter.id, role).await.problem(403), "role_above_inviter", "{} {role}", inviter.id);
        }
        assert_eq!(app.pool.count("invites where email = 'new@example.com'").await, 0);
        let shown = invite(&admin.id, "admin").await.expect(201);
        assert_eq!(shown["invited_by"]["email"], "admin@example.com");
        app.run_jobs().await;
    }

    async fn members_and_oneself_are_not_invited(app) {
        let acme = app.organization("Acme").await;
        let apollo = app.project(acme, "Apollo").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        app.person("ada@example.com", Some((acme, "member"))).await;
        let invite = async |body: Value| app.post("/v1/invites", body).await;
        let to_acme = |email: &str, role: &str| json!({ "organization_id": acme, "email": email, "role": role });
        assert_eq!(invite(to_acme("Ada@example.com", "member")).await.problem(409), "already_member");
        assert_eq!(invite(json!({ "project_id": apollo, "email": "owner@example.com", "role": "admin" })).await.problem(409), "already_member");
        let own = json!({ "organization_id": acme, "email": "owner@example.com", "role": "owner", "invited_by": owner.id });
        assert_eq!(invite(own).await.wrong_fields(), ["email"]);
        invite(to_acme("ada@example.com", "admin")).await.expect(201);
        app.run_jobs().await;
    }

    async fn only_a_known_key_may_call(app) {
        let acme = app.organization("Acme").await;
        let path = format!("/v1/organizations/{acme}/members");
        for key in [None, Some(""), Some("wrong"), Some("test-api-key-of-more-than-32-character")] {
            let answer = app.send(request(Method::GET, &path, key, None)).await;
            assert_eq!(answer.problem(401), "unauthorized", "{key:?}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
        let session = app.session_token(json!({ "sub": "user_ada" }));
        assert_eq!(app.send(request(Method::GET, &path, Some(&session), None)).await.problem(401), "unauthorized");
    }

    async fn what_is_not_there_and_what_is_not_known_answer_as_problems(app) {
        assert_eq!(app.get("/v1/nothing").await.problem(404), "not_found");
        assert_eq!(app.call(Method::DELETE, "/v1/me/invites", None).await.problem(405), "method_not_allowed");
        let answer = app.get("/v1/nothing").await;
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer");
    }

    async fn organizations_and_projects_are_created_renamed_and_moved(app) {
        let acme = app.organization("Acme").await;
        let renamed = app.put(&format!("/v1/organizations/{acme}"), json!({ "name": "Acme & Sons" })).await.expect(200);
        assert_eq!(renamed["name"], "Acme & Sons");
        let apollo = app.project(acme, "Apollo").await;
        let zeta = app.organization("Zeta").await;
        let moved = app.put(&format!("/v1/projects/{apollo}"), json!({ "name": "Apollo 2", "organization_id": zeta })).await;
        assert_eq!(moved.expect(200)["organization_id"], json!(zeta));
    }

    async fn security_4_no_token_is_ever_stored_queued_or_answered(app) {
        let acme = app.organization("Acme").await;
        let created = app.post("/v1/invites", json!({
            "organization_id": acme, "email": "ada@example.com", "role": "member",
        })).await;
        app.run_jobs().await;
        let token = app.token_in_mail_to("ada@example.com");
        let id = created.expect(201)["id"].as_str().unwrap().to_owned();
        let jobs = app.pool.jobs();
        let mut places = vec![created.body, app.get(&format!("/v1/invites/{id}")).await.body];
        for table in ["invites", "usher_deliveries", "usher_events", jobs] {
            places.push(app.pool.dump(table).await.into());
        }
        for place in places {
            assert!(!String::from_utf8_lossy(&place).contains(&token));
        }
    }

    async fn security_7_links_come_from_the_configuration_whatever_host_a_request_names(app) {
        let acme = app.organization("Acme").await;
        let body = json!({ "organization_id": acme, "email": "ada@example.com", "role": "member" });
        let mut poisoned = request(Method::POST, "/v1/invites", Some(API_KEY), Some(body));
        for header in ["host", "x-forwarded-host"] {
            poisoned.headers_mut().insert(header, "evil.example".parse().unwrap());
        }
        app.send(poisoned).await.expect(201);
        app.run_jobs().await;
        let mail = &app.mails()[0];
        assert!(!String::from_utf8_lossy(&mail.raw).contains("evil.example"));
        assert!(mail.text().contains("https://app.example.com/invite#"));
    }
}
