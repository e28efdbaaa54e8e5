//! The banner: what a signed-in person sees, and what becomes of their answer.

use axum::http::Method;
use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::json;

use crate::support::app::request;
use crate::support::stories;

stories! {
    async fn a_person_sees_their_invite_and_accepts_it(app) {
        let acme = app.organization("Acme").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        let invite = app.invite(json!({
            "organization_id": acme, "email": "bob@example.com", "role": "admin", "invited_by": owner.id,
            "message": "Come in.",
        })).await;
        let bob = app.clerk().old_user("bob@example.com");
        app.clerk().session_created_with_user("sess_1", &bob).await;
        app.run_jobs().await;

        let banner = app.signed_in(&bob).banner().await;
        assert_eq!(banner["synced"], true);
        let item = &banner["items"][0];
        assert_eq!(item["organization"]["name"], "Acme");
        assert_eq!(item["role"], "admin");
        assert_eq!(item["message"], "Come in.");
        assert_eq!(item["invited_by"]["email"], "owner@example.com");
        assert_eq!(item["flagged"], true);

        let accepted = app.signed_in(&bob).accept(&invite).await.expect(200);
        assert_eq!(accepted["status"], "accepted");
        assert_eq!(app.members(acme).await, ["bob@example.com admin", "owner@example.com owner"]);
        assert_eq!(app.signed_in(&bob).banner_ids().await, [""; 0]);
        app.run_jobs().await;
        let notice = app.mails().into_iter().rfind(|mail| mail.to == ["owner@example.com"]).expect("a notice");
        assert!(notice.text().contains("bob@example.com"), "{}", notice.text());
        let again = app.signed_in(&bob).accept(&invite).await.expect(200);
        assert_eq!(again, app.show(&invite).await, "who has accepted gets the invite again");
        assert_eq!(app.signed_in(&bob).decline(&invite).await.problem(409), "invite_accepted");
        app.run_jobs().await;
    }

    async fn security_3_a_hundred_accepts_at_once_make_one_membership_and_one_notice(app) {
        let acme = app.organization("Acme").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        let invite = app.invite(json!({
            "organization_id": acme, "email": "bob@example.com", "role": "member", "invited_by": owner.id,
        })).await;
        let bob = app.earlier_person("bob@example.com").await;
        let answers = join_all((0..100).map(async |_| app.signed_in(&bob).accept(&invite).await.status.as_u16())).await;
        assert_eq!(answers, [200; 100]);
        assert_eq!(app.members(acme).await.len(), 2);
        assert_eq!(app.pool.count("usher_deliveries where kind = 'accepted_notice'").await, 1);
        app.run_jobs().await;
    }

    async fn a_declined_invite_is_final(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        let bob = app.earlier_person("bob@example.com").await;
        let declined = app.signed_in(&bob).decline(&invite).await.expect(200);
        assert_eq!(declined["status"], "declined");
        assert!(declined["declined_at"].is_string());
        assert_eq!(app.signed_in(&bob).accept(&invite).await.problem(409), "invite_declined");
        assert_eq!(app.signed_in(&bob).decline(&invite).await.problem(409), "invite_declined");
        assert_eq!(app.signed_in(&bob).dismiss(&invite).await.problem(409), "invite_declined");
        assert_eq!(app.members(acme).await, [""; 0]);
        let again = app.invite_to_organization(acme, "bob@example.com", "member").await;
        assert_ne!(invite, again, "inviting again after a final state makes a new row");
        app.run_jobs().await;
    }

    async fn a_dismissed_banner_comes_back_with_the_next_sign_in(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        let mut bob = app.clerk().old_user("bob@example.com");
        app.clerk().session_created_with_user("sess_1", &bob).await;
        app.run_jobs().await;
        let me = app.signed_in(&bob);
        assert_eq!(me.banner_ids().await, [invite.as_str()]);
        let dismissed = me.dismiss(&invite).await.expect(200);
        assert_eq!((&dismissed["status"], &dismissed["flagged"]), (&json!("pending"), &json!(false)));
        assert_eq!(me.banner_ids().await, [""; 0]);

        bob.updated_at += TimeDelta::minutes(1);
        app.clerk().tells_of(&bob).await;
        app.run_jobs().await;
        assert_eq!(me.banner_ids().await, [""; 0], "a change of the profile is no sign-in");

        app.clerk().session_created("sess_2", &bob).await;
        app.run_jobs().await;
        assert_eq!(me.banner_ids().await, [invite.as_str()]);
        assert_eq!(app.show(&invite).await["flagged"], true);
        me.accept(&invite).await.expect(200);
        app.run_jobs().await;
    }

    async fn the_flag_comes_down_when_the_last_session_is_over(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        let bob = app.clerk().old_user("bob@example.com");
        for (n, over) in ["session.ended", "session.removed", "session.revoked"].into_iter().enumerate() {
            let (first, second) = (format!("sess_{n}_1"), format!("sess_{n}_2"));
            app.clerk().session_created_with_user(&first, &bob).await;
            app.clerk().session_created_with_user(&second, &bob).await;
            app.run_jobs().await;
            assert_eq!(app.show(&invite).await["flagged"], true);
            app.clerk().session_over(over, &first, &bob).await;
            app.run_jobs().await;
            assert_eq!(app.show(&invite).await["flagged"], true, "another session is active");
            app.clerk().session_over(over, &second, &bob).await;
            app.run_jobs().await;
            assert_eq!(app.show(&invite).await["flagged"], false, "{over}");
        }
    }

    async fn a_session_that_ended_before_its_beginning_was_told_raises_no_flag(app) {
        let acme = app.organization("Acme").await;
        let bob = app.earlier_person("bob@example.com").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.clerk().session_over("session.ended", "sess_1", &bob).await;
        app.run_jobs().await;
        app.clerk().session_created("sess_1", &bob).await;
        app.run_jobs().await;
        assert_eq!(app.show(&invite).await["flagged"], false);
        assert_eq!(app.pool.count("usher_events where outcome = 'session already over'").await, 1);
    }

    async fn the_banner_answers_before_any_webhook_has_come(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        let bob = app.clerk().old_user("bob@example.com");
        let banner = app.signed_in(&bob).banner().await;
        assert_eq!(banner, json!({ "items": [], "synced": false }));
        assert_eq!(app.signed_in(&bob).accept(&invite).await.problem(409), "not_synced");
        app.run_jobs().await;
    }

    async fn security_15_anothers_invite_looks_like_an_unknown_one(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        let eve = app.person("eve@example.com", None).await;
        let me = app.signed_in(&eve);
        assert_eq!(me.banner_ids().await, [""; 0]);
        for action in ["accept", "decline", "dismiss"] {
            let path = |id: &str| format!("/v1/me/invites/{id}/{action}");
            let theirs = me.call(Method::POST, &path(&invite)).await;
            let unknown = me.call(Method::POST, &path("0192e4a0-0000-7000-8000-000000000000")).await;
            assert_eq!(theirs.problem(404), "not_found");
            assert_eq!(theirs.body, unknown.body);
        }
        assert_eq!(app.show(&invite).await["status"], "pending");
    }

    async fn security_15_a_cookie_may_change_things_only_from_the_apps_own_pages(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        let bob = app.earlier_person("bob@example.com").await;
        let token = app.session_token(json!({ "sub": bob.id }));
        let send = async |method: Method, path: String, origin: Option<&str>| {
            let mut request = request(method, &path, None, None);
            let headers = request.headers_mut();
            headers.insert("cookie", format!("theme=dark; __session={token}").parse().unwrap());
            if let Some(origin) = origin {
                headers.insert("origin", origin.parse().unwrap());
            }
            app.send(request).await
        };
        let accept = format!("/v1/me/invites/{invite}/accept");
        send(Method::GET, "/v1/me/invites".to_owned(), None).await.expect(200);
        for origin in [None, Some("https://evil.example"), Some("https://app.example.com.evil.example"), Some("null")] {
            assert_eq!(send(Method::POST, accept.clone(), origin).await.problem(403), "foreign_origin", "{origin:?}");
        }
        assert_eq!(app.show(&invite).await["status"], "pending");
        send(Method::POST, accept, Some("https://app.example.com")).await.expect(200);
        app.run_jobs().await;
    }

    async fn each_session_cookie_is_tried_until_one_is_good(app) {
        let bob = app.person("bob@example.com", None).await;
        let good = app.session_token(json!({ "sub": bob.id }));
        let foreign = app.session_token(json!({ "sub": bob.id, "iss": "https://clerk.other.example" }));
        let expired = app.session_token(json!({ "sub": bob.id, "exp": app.now().timestamp() - 60 }));
        let forged = format!("{}.forged", good.rsplit_once('.').unwrap().0);
        let send = async |method: Method, path: &str, cookies: &[&[u8]]| {
            let mut request = request(method, path, None, None);
            for cookies in cookies {
                request.headers_mut().append("cookie", axum::http::HeaderValue::from_bytes(cookies).unwrap());
            }
            app.send(request).await
        };
        let look = async |cookies: &str| send(Method::GET, "/v1/me/invites", &[cookies.as_bytes()]).await;
        for cookies in [
            format!("__session={good}"),
            format!("__session_Ab1-_x9Z={good}"),
            format!("__session={foreign}; __session_Ab1={good}"),
            format!("__session_Ab1={good}; __session={foreign}"),
            format!("__session={foreign}; __session={good}"),
            format!("__session={forged}; __session_x={expired}; __session_y={good}"),
            format!("__session=; __session_x=junk; __session_y=a.b.c; theme=dark;__session_z={good}"),
            format!("{}__session_z={good}", "__session=junk; ".repeat(50)),
            format!("__session=\"{good}\""),
        ] {
            look(&cookies).await.expect(200);
        }
        for cookies in [
            format!("__session={foreign}; __session_x={expired}; __session_y={forged}"),
            format!("__sessions={good}; session={good}; __client={good}; x__session={good}"),
            // A bound, so that one request is not a hundred checks of signatures.
            format!("{}__session_z={good}", format!("__session={forged}; ").repeat(50)),
        ] {
            assert_eq!(look(&cookies).await.problem(401), "unauthorized", "{cookies}");
        }
        // In headers of their own, and beside bytes that are no text.
        let (first, second) = (format!("__session={foreign}"), format!("__session={good}"));
        send(Method::GET, "/v1/me/invites", &[first.as_bytes(), second.as_bytes()]).await.expect(200);
        let beside = [b"theme=\xff; ".as_slice(), second.as_bytes()].concat();
        send(Method::GET, "/v1/me/invites", &[&beside]).await.expect(200);
        // Whichever it is, it travels by itself.
        let path = "/v1/me/invites/0192e4a0-0000-7000-8000-000000000000/accept";
        let suffixed = format!("__session_x={good}");
        assert_eq!(send(Method::POST, path, &[suffixed.as_bytes()]).await.problem(403), "foreign_origin");
    }

    async fn security_13_tokens_that_clerk_did_not_make_for_this_app_are_refused(app) {
        let bob = app.person("bob@example.com", None).await;
        let now = app.now().timestamp();
        let token = |claims| app.session_token(claims);
        let good = token(json!({ "sub": bob.id }));
        let list = async |token: &str| app.send(request(Method::GET, "/v1/me/invites", Some(token), None)).await;
        list(&good).await.expect(200);
        list(&token(json!({ "sub": bob.id, "azp": null }))).await.expect(200);
        let unsigned = {
            let claims = good.split('.').nth(1).unwrap();
            format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
        };
        for (what, token) in [
            ("expired", token(json!({ "sub": bob.id, "exp": now - 6 }))),
            ("not yet valid", token(json!({ "sub": bob.id, "nbf": now + 6 }))),
            ("exp as a string", token(json!({ "sub": bob.id, "exp": (now + 60).to_string() }))),
            ("no exp", token(json!({ "sub": bob.id, "exp": null }))),
            ("no sub", token(json!({ "sub": null }))),
            ("another issuer", token(json!({ "sub": bob.id, "iss": "https://clerk.evil.example" }))),
            ("another party", token(json!({ "sub": bob.id, "azp": "https://evil.example" }))),
            ("pending", token(json!({ "sub": bob.id, "sts": "pending" }))),
            ("alg none", unsigned),
            ("an API key", crate::support::app::API_KEY.to_owned()),
            ("nothing", String::new()),
        ] {
            assert_eq!(list(&token).await.problem(401), "unauthorized", "{what}");
        }
    }

    async fn whoever_impersonates_may_look_but_not_answer(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        let bob = app.earlier_person("bob@example.com").await;
        let token = app.session_token(json!({ "sub": bob.id, "act": { "sub": "user_support" } }));
        let call = async |method, path: &str| app.send(request(method, path, Some(&token), None)).await;
        assert_eq!(call(Method::GET, "/v1/me/invites").await.expect(200)["items"].as_array().unwrap().len(), 1);
        for action in ["accept", "decline", "dismiss"] {
            let answer = call(Method::POST, &format!("/v1/me/invites/{invite}/{action}")).await;
            assert_eq!(answer.problem(403), "impersonated");
        }
    }

    async fn security_14_looking_changes_nothing(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        let bob = app.earlier_person("bob@example.com").await;
        let before = app.pool.dump("invites").await;
        let token = app.session_token(json!({ "sub": bob.id }));
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            for path in [
                "/v1/me/invites".to_owned(),
                format!("/v1/me/invites/{invite}/accept"),
                format!("/v1/me/invites/{invite}/decline"),
                format!("/v1/invites/{invite}"),
            ] {
                app.send(request(method.clone(), &path, Some(&token), None)).await;
                app.call(method.clone(), &path, None).await;
            }
        }
        assert_eq!(app.pool.dump("invites").await, before);
        assert_eq!(app.members(acme).await, [""; 0]);
    }

    async fn an_expired_invite_is_gone_from_the_banner_by_time_alone(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite(json!({
            "organization_id": acme, "email": "bob@example.com", "role": "member", "expires_in": "2h",
        })).await;
        let bob = app.earlier_person("bob@example.com").await;
        app.clock.advance(TimeDelta::hours(2) - TimeDelta::microseconds(1));
        assert_eq!(app.signed_in(&bob).banner_ids().await, [invite.as_str()]);
        app.clock.advance(TimeDelta::microseconds(1));
        assert_eq!(app.signed_in(&bob).banner_ids().await, [""; 0]);
        assert_eq!(app.signed_in(&bob).accept(&invite).await.problem(409), "invite_expired");
        assert_eq!(app.show(&invite).await["status"], "expired");
        assert_eq!(app.show(&invite).await["flagged"], false);
    }
}
