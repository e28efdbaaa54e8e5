//! Following up: lists, batches, sending again, taking back, links, and requests that are repeated.

use axum::http::Method;
use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::app::{API_KEY, request};
use crate::support::{TestApp, stories};

async fn create_with_key(app: &TestApp, key: &str, body: Value) -> crate::support::app::Answer {
    let mut create = request(Method::POST, "/v1/invites", Some(API_KEY), Some(body));
    create.headers_mut().insert("idempotency-key", key.parse().unwrap());
    app.send(create).await
}

fn ids(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

stories! {
    async fn a_repeated_request_gets_its_answer_again_and_does_nothing_twice(app) {
        let acme = app.organization("Acme").await;
        let body = |role: &str| json!({ "organization_id": acme, "email": "ada@example.com", "role": role });
        let first = create_with_key(app, "k1", body("member")).await;
        let again = create_with_key(app, "k1", body("member")).await;
        assert_eq!((first.expect(201), &first.body), (again.expect(201), &again.body));
        assert_eq!(app.pool.count("usher_deliveries").await, 1);
        assert_eq!(create_with_key(app, "k1", body("admin")).await.problem(422), "idempotency_key_reused");
        create_with_key(app, "k2", body("admin")).await.expect(200);
        app.clock.advance(TimeDelta::hours(24));
        create_with_key(app, "k1", body("admin")).await.expect(200);
        for key in ["", "a b", "a\tb"] {
            assert_eq!(create_with_key(app, key, body("admin")).await.problem(400), "invalid_idempotency_key", "{key:?}");
        }
        // What was refused may be repeated after its reason is gone.
        assert_eq!(create_with_key(app, "k3", body("emperor")).await.wrong_fields(), ["role"]);
        create_with_key(app, "k3", body("owner")).await.expect(200);
        app.run_jobs().await;
    }

    async fn of_many_repetitions_at_once_one_is_carried_out(app) {
        let acme = app.organization("Acme").await;
        let body = json!({ "organization_id": acme, "email": "ada@example.com", "role": "member" });
        let answers = join_all((0..20).map(async |_| create_with_key(app, "k1", body.clone()).await)).await;
        assert!(answers.iter().all(|answer| answer.status == 201 && answer.body == answers[0].body));
        assert_eq!(app.pool.count("usher_deliveries").await, 1);
        app.run_jobs().await;
    }

    async fn a_batch_answers_each_item_and_one_bad_one_spoils_no_other(app) {
        let acme = app.organization("Acme").await;
        let admin = app.person("admin@example.com", Some((acme, "admin"))).await;
        let item = |email: &str, role: &str| {
            json!({ "organization_id": acme, "email": email, "role": role, "invited_by": admin.id })
        };
        let answer = app.post("/v1/invites/batch", json!({ "invites": [
            item("ada@example.com", "member"),
            item("not an address", "member"),
            item("bob@example.com", "owner"),
            item("admin@example.com", "member"),
            item("ADA@example.com", "admin"),
            7,
            json!({}),
        ]})).await.expect(200);
        let results = answer["results"].as_array().unwrap();
        let statuses: Vec<u64> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [201, 422, 403, 422, 200, 422, 422]);
        assert_eq!(results[1]["problem"]["errors"][0]["pointer"], "/email");
        assert_eq!(results[2]["problem"]["code"], "role_above_inviter");
        assert_eq!(results[0]["invite"]["id"], results[4]["invite"]["id"], "asked again within the batch");
        assert_eq!(app.show(results[0]["invite"]["id"].as_str().unwrap()).await["role"], "admin");
        assert_eq!(results[4]["invite"]["delivery"]["held"], "cool_down", "the first mail says what was asked last");

        let many: Vec<Value> = (0..500).map(|n| item(&format!("person{n}@example.com"), "member")).collect();
        let answer = app.post("/v1/invites/batch", json!({ "invites": many })).await.expect(200);
        assert!(answer["results"].as_array().unwrap().iter().all(|result| result["status"] == 201));
        let too_many: Vec<Value> = (0..501).map(|_| json!({})).collect();
        assert_eq!(app.post("/v1/invites/batch", json!({ "invites": too_many })).await.wrong_fields(), ["invites"]);
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_deliveries where status = 'sent'").await, 502);
    }

    async fn a_list_pages_through_everything_once_while_invites_are_added(app) {
        let acme = app.organization("Acme").await;
        let mut made = Vec::new();
        for n in 0..7 {
            made.push(app.invite_to_organization(acme, &format!("person{n}@example.com"), "member").await);
            app.clock.advance(TimeDelta::microseconds(1));
        }
        let mut seen = Vec::new();
        let mut path = "/v1/invites?limit=3".to_owned();
        loop {
            let page = app.get(&path).await.expect(200);
            seen.extend(ids(&page));
            app.clock.advance(TimeDelta::microseconds(1));
            app.invite_to_organization(acme, &format!("late{}@example.com", seen.len()), "member").await;
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("/v1/invites?limit=3&cursor={cursor}"),
                None => break,
            }
        }
        made.reverse();
        assert_eq!(seen, made, "newest first, each once, none that came later");
        app.run_jobs().await;
    }

    async fn a_list_is_filtered_by_place_person_address_and_state(app) {
        let acme = app.organization("Acme").await;
        let zeta = app.organization("Zeta").await;
        let apollo = app.project(acme, "Apollo").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        let ada = app.invite_to_organization(acme, "ada@example.com", "member").await;
        let bob = app.invite(json!({
            "project_id": apollo, "email": "bob@example.com", "role": "client", "invited_by": owner.id, "expires_in": "1h",
        })).await;
        let cy = app.invite_to_organization(zeta, "cy@example.com", "member").await;
        app.post(&format!("/v1/invites/{cy}/revoke"), json!({})).await.expect(200);
        app.clock.advance(TimeDelta::hours(2));
        let list = async |query: &str| ids(&app.get(&format!("/v1/invites?{query}")).await.expect(200));
        assert_eq!(list("status=pending").await, [ada.as_str()]);
        assert_eq!(list("status=expired").await, [bob.as_str()], "by time, without any sweep");
        assert_eq!(list("status=revoked").await, [cy.as_str()]);
        assert_eq!(list(&format!("project_id={apollo}")).await, [bob.as_str()]);
        assert_eq!(list(&format!("organization_id={zeta}")).await, [cy.as_str()]);
        assert_eq!(list(&format!("invited_by={}", owner.id)).await, [bob.as_str()]);
        assert_eq!(list("invited_by=user_nobody").await, [""; 0]);
        assert_eq!(list("email=ADA%40example.com&status=pending").await, [ada.as_str()]);
        for (query, field) in [
            ("status=lost", "status"), ("limit=0", "limit"), ("limit=201", "limit"), ("limit=x", "limit"),
            ("cursor=x", "cursor"), ("email=x", "email"), ("organization_id=a%2Fb", "organization_id"), ("colour=red", "colour"),
        ] {
            assert_eq!(app.get(&format!("/v1/invites?{query}")).await.wrong_fields(), [field], "{query}");
        }
        app.run_jobs().await;
    }

    async fn sending_again_keeps_the_link_cools_down_and_is_capped(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite(json!({
            "organization_id": acme, "email": "ada@example.com", "role": "member", "expires_in": "30d",
        })).await;
        app.run_jobs().await;
        let first = app.token_in_mail_to("ada@example.com");
        let resend = async || app.post(&format!("/v1/invites/{invite}/resend"), json!({})).await;
        app.clock.advance(TimeDelta::minutes(4));
        let early = resend().await;
        assert_eq!(early.problem(429), "resend_too_soon");
        assert_eq!(early.headers["retry-after"], "60");
        app.clock.advance(TimeDelta::minutes(1));
        resend().await.expect(202);
        app.run_jobs().await;
        assert_eq!(app.mails().len(), 2);
        assert_eq!(app.token_in_mail_to("ada@example.com"), first, "the link in the first mail still works");
        for _ in 0..8 {
            app.clock.advance(TimeDelta::minutes(5));
            resend().await.expect(202);
            app.run_jobs().await;
        }
        app.clock.advance(TimeDelta::minutes(5));
        assert_eq!(resend().await.problem(429), "resend_too_soon", "ten a day");
        app.clock.advance(TimeDelta::hours(24));
        resend().await.expect(202);
        app.run_jobs().await;
    }

    async fn sending_an_expired_invite_again_renews_it(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.run_jobs().await;
        app.clock.advance(TimeDelta::days(8));
        let renewed = app.post(&format!("/v1/invites/{invite}/resend"), json!({})).await.expect(202);
        assert_eq!(renewed["status"], "pending");
        app.run_jobs().await;
        app.person("ada@example.com", None).await;
        assert_eq!(app.members(acme).await, ["ada@example.com member"]);
        assert_eq!(app.post(&format!("/v1/invites/{invite}/resend"), json!({})).await.problem(409), "invite_accepted");
    }

    async fn a_revoked_invite_lets_nobody_in_and_its_mail_is_not_sent(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "ada@example.com", "member").await;
        let revoked = app.post(&format!("/v1/invites/{invite}/revoke"), json!({})).await.expect(200);
        assert_eq!(revoked["status"], "revoked");
        assert_eq!(app.post(&format!("/v1/invites/{invite}/revoke"), json!({})).await.problem(409), "invite_revoked");
        assert_eq!(app.post(&format!("/v1/invites/{invite}/resend"), json!({})).await.problem(409), "invite_revoked");
        let unknown = "/v1/invites/0192e4a0-0000-7000-8000-000000000000/revoke";
        assert_eq!(app.post(unknown, json!({})).await.problem(404), "not_found");
        app.run_jobs().await;
        assert!(app.mails().is_empty());
        app.person("ada@example.com", None).await;
        assert_eq!(app.members(acme).await, [""; 0]);
    }

    async fn a_link_lets_its_own_address_in(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.run_jobs().await;
        let token = app.token_in_mail_to("bob@example.com");
        let preview = app.send(request(Method::GET, &format!("/v1/invite-links/{token}"), None, None)).await.expect(200);
        assert_eq!(preview["organization"]["name"], "Acme");
        assert_eq!((&preview["email"], &preview["status"]), (&json!("b***@example.com"), &json!("pending")));
        let bob = app.earlier_person("bob@example.com").await;
        let accepted = app.signed_in(&bob).accept_link(&token).await.expect(200);
        assert_eq!(accepted["status"], "accepted");
        assert_eq!(app.members(acme).await, ["bob@example.com member"]);
        assert_eq!(app.signed_in(&bob).accept_link(&token).await.expect(200), accepted, "a second click shows it again");
    }

    async fn a_link_that_the_webhook_was_faster_than_answers_with_the_invite(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.run_jobs().await;
        let token = app.token_in_mail_to("bob@example.com");
        let bob = app.clerk().user("bob@example.com");
        let early = app.signed_in(&bob).accept_link(&token).await;
        assert_eq!(early.problem(409), "not_synced");
        assert_eq!(early.headers["retry-after"], "1");
        app.clerk().tells_of(&bob).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, ["bob@example.com member"], "a new user is let in by the webhook");
        assert_eq!(app.signed_in(&bob).accept_link(&token).await.expect(200)["status"], "accepted");
    }

    async fn a_page_previews_a_link_with_the_token_in_the_body(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.run_jobs().await;
        let token = app.token_in_mail_to("bob@example.com");
        let before = app.pool.dump("invites").await;
        let preview = async |token: &str| app.send(request(Method::POST, "/v1/invite-links", None, Some(json!({ "token": token })))).await;
        let mut seen = preview(&token).await.expect(200);
        assert_eq!((&seen["id"], &seen["address"]), (&json!(invite), &json!("bob@example.com")), "for the form of sign-up");
        seen["address"] = Value::Null;
        assert_eq!(seen, app.send(request(Method::GET, &format!("/v1/invite-links/{token}"), None, None)).await.expect(200));
        assert_eq!(preview("forged").await.problem(404), "not_found");
        assert_eq!(app.pool.dump("invites").await, before, "looking changes nothing");
        app.post(&format!("/v1/invites/{invite}/revoke"), json!({})).await.expect(200);
        let closed = preview(&token).await.expect(200);
        assert_eq!((&closed["email"], &closed["address"]), (&json!("b***@example.com"), &Value::Null), "it has no use for it");
    }

    async fn security_2_a_link_is_no_door_for_another_address(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.run_jobs().await;
        let token = app.token_in_mail_to("bob@example.com");
        let eve = app.person("eve@example.com", None).await;
        let refused = app.signed_in(&eve).accept_link(&token).await;
        assert_eq!(refused.problem(403), "other_address");
        assert!(refused.json()["detail"].as_str().unwrap().contains("b***@example.com"));
        assert_eq!(app.show(&invite).await["status"], "pending");
        assert_eq!(app.members(acme).await, [""; 0]);
    }

    async fn security_9_forged_void_and_unknown_links_look_alike(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.run_jobs().await;
        let void = app.token_in_mail_to("bob@example.com");
        app.clock.advance(TimeDelta::minutes(5));
        app.post("/v1/invites", json!({ "organization_id": acme, "email": "bob@example.com", "role": "admin" })).await.expect(200);
        app.run_jobs().await;
        let claim = usher::invites::token::LinkClaim { invite_id: app.clock.new_id(), version: 1 };
        let unknown = app.app.token_key.token(claim);
        let forged = usher::invites::token::TokenKey::new(b"a key of somebody else's, long enough").token(claim);
        let bob = app.earlier_person("bob@example.com").await;
        let mut answers = Vec::new();
        for token in [&void, &unknown, &forged, &"x".to_owned()] {
            answers.push(app.send(request(Method::GET, &format!("/v1/invite-links/{token}"), None, None)).await);
            answers.push(app.signed_in(&bob).accept_link(token).await);
        }
        for answer in &answers {
            assert_eq!(answer.problem(404), "not_found");
            assert_eq!(answer.body, answers[0].body);
        }
    }

    async fn an_expired_link_says_so(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.run_jobs().await;
        let token = app.token_in_mail_to("bob@example.com");
        let bob = app.earlier_person("bob@example.com").await;
        app.clock.advance(TimeDelta::days(7));
        assert_eq!(app.signed_in(&bob).accept_link(&token).await.problem(410), "link_expired");
        let preview = app.send(request(Method::GET, &format!("/v1/invite-links/{token}"), None, None)).await.expect(200);
        assert_eq!(preview["status"], "expired");
    }

    async fn security_5_the_inviters_right_is_checked_again_when_it_counts(app) {
        let acme = app.organization("Acme").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        let invite = async |email: &str, acceptance: &str| app.invite(json!({
            "organization_id": acme, "email": email, "role": "owner", "invited_by": owner.id, "acceptance": acceptance,
        })).await;
        let (by_match, by_hand) = (invite("ada@example.com", "auto").await, invite("bob@example.com", "ask").await);
        app.pool.execute("update organization_users set role = 'member'").await;
        app.person("ada@example.com", None).await;
        let bob = app.person("bob@example.com", None).await;
        assert_eq!(app.signed_in(&bob).accept(&by_hand).await.problem(403), "inviter_lost_rights");
        assert_eq!(app.members(acme).await, ["owner@example.com member"]);
        for id in [by_match, by_hand] {
            assert_eq!(app.show(&id).await["status"], "pending");
        }
    }

    async fn the_app_can_ask_for_a_persons_banner(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        let bob = app.earlier_person("bob@example.com").await;
        let banner = app.get(&format!("/v1/users/{}/invites", bob.id)).await.expect(200);
        assert_eq!((ids(&banner), &banner["synced"]), (vec![invite], &json!(true)));
        let unknown = app.get("/v1/users/user_nobody/invites").await.expect(200);
        assert_eq!(unknown, json!({ "items": [], "synced": false }));
    }
}
