//! Who may invite, looked up whenever it counts; what became of the target; and how many mails an address gets.

use axum::http::Method;
use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::{Value, json};
use usher::invites::reminders::PLAN_AFTER;
use usher_testkit::fake_clerk::FakeUser;
use uuid::Uuid;

use crate::support::app::{Answer, request};
use crate::support::{TestApp, TestDatabase, on_both_databases, stories};

/// Clerk tells of somebody, as they are with these changes.
async fn told(app: &TestApp, user: &FakeUser, changes: Value) {
    app.clock.advance(TimeDelta::seconds(1));
    let now = FakeUser {
        updated_at: app.now(),
        ..user.clone()
    };
    let mut user = now.to_json();
    for (name, value) in changes.as_object().unwrap() {
        user[name] = value.clone();
    }
    app.clerk().tell("user.updated", user).await;
    app.run_jobs().await;
}

async fn preview(app: &TestApp, token: &str) -> Answer {
    let path = format!("/v1/invite-links/{token}");
    app.send(request(Method::GET, &path, None, None)).await
}

async fn resend(app: &TestApp, invite: &str) -> Answer {
    app.post(&format!("/v1/invites/{invite}/resend"), json!({})).await
}

async fn mails_to(app: &TestApp, email: &str) -> usize {
    app.mails().iter().filter(|mail| mail.to == [email]).count()
}

async fn refusals(app: &TestApp, reason: &str) -> i64 {
    app.pool
        .count(&format!(
            "usher_invite_history where event = 'refused' and reason = '{reason}'"
        ))
        .await
}

/// Somebody who has been in Clerk for long, and whom usher knows.
async fn known(app: &TestApp, email: &str) -> FakeUser {
    let user = app.clerk().old_user(email);
    app.clerk().tells_of(&user).await;
    app.run_jobs().await;
    user
}

/// Ways to lose what an inviter needs, and back.
const WAYS: &[(&str, Option<&str>)] = &[
    ("banned", Some("unbanned")),
    ("locked", Some("unlocked")),
    ("soft-deleted", Some("back")),
    ("removed", Some("in again")),
    ("deleted", None),
];

async fn go(app: &TestApp, user: &FakeUser, way: &str) {
    let admin = format!("external_id = '{}'", user.id);
    let membership = format!("admin_id in (select id from admins where {admin})");
    match way {
        "banned" => told(app, user, json!({ "banned": true })).await,
        "locked" => told(app, user, json!({ "locked": true })).await,
        "unbanned" | "unlocked" => told(app, user, json!({})).await,
        "soft-deleted" => {
            app.pool
                .execute(&format!("update admins set deleted_at = updated_at where {admin}"))
                .await
        }
        "back" => {
            app.pool
                .execute(&format!("update admins set deleted_at = null where {admin}"))
                .await
        }
        "removed" => {
            let text = format!("update organization_users set deleted_at = updated_at where {membership}");
            app.pool.execute(&text).await;
        }
        "in again" => {
            let text = format!("update organization_users set deleted_at = null where {membership}");
            app.pool.execute(&text).await;
        }
        "deleted" => {
            app.clerk().user_deleted(user).await;
            app.run_jobs().await;
        }
        _ => panic!("{way}"),
    }
}

/// One inviter of an organization and one of a project, each with what they invited to before.
async fn lost_and_found(app: &TestApp, n: usize, way: &str, back: Option<&str>) {
    let acme = app.organization("Acme").await;
    let apollo = app.project(acme, "Apollo").await;
    let owner = app
        .person(&format!("owner{n}@example.com"), Some((acme, "owner")))
        .await;
    let editor_email = format!("editor{n}@example.com");
    app.invite(json!({ "project_id": apollo, "email": editor_email, "role": "editor" }))
        .await;
    app.run_jobs().await;
    let editor = app.person(&editor_email, None).await;

    for (target, id, inviter, role) in [
        ("organization_id", acme, &owner, "member"),
        ("project_id", apollo, &editor, "client"),
    ] {
        let what = format!("{target}, {way}");
        let body = |who: &str, acceptance: &str| {
            json!({
                target: id, "email": format!("{who}{n}-{target}@example.com"), "role": role, "invited_by": inviter.id,
                "acceptance": acceptance,
            })
        };
        let address = |who: &str| format!("{who}{n}-{target}@example.com");
        let by_match = app.invite(body("match", "auto")).await;
        let by_banner = app.invite(body("banner", "ask")).await;
        let by_link = app.invite(body("link", "ask")).await;
        app.run_jobs().await;
        let token = app.token_in_mail_to(&address("link"));
        let link = known(app, &address("link")).await;
        app.clock.advance(PLAN_AFTER + TimeDelta::seconds(1));
        app.run_schedules().await;

        go(app, inviter, way).await;
        let new = app.post("/v1/invites", body("new", "auto")).await;
        match way {
            "banned" | "locked" => assert_eq!(new.problem(403), "inviter_blocked", "{what}"),
            "removed" => assert_eq!(new.problem(403), "role_above_inviter", "{what}"),
            _ => assert_eq!(new.wrong_fields(), ["invited_by"], "{what}"),
        }
        let batch = app
            .post("/v1/invites/batch", json!({ "invites": [body("new", "auto")] }))
            .await
            .expect(200);
        assert_eq!(batch["results"][0]["problem"]["code"], new.json()["code"], "{what}");

        let matched = app.person(&address("match"), None).await;
        let banner = known(app, &address("banner")).await;
        assert_eq!(app.signed_in(&banner).banner_ids().await, [""; 0], "{what}");
        assert_eq!(
            app.signed_in(&banner).accept(&by_banner).await.problem(403),
            "inviter_lost_rights",
            "{what}"
        );
        assert_eq!(
            app.signed_in(&banner).accept(&by_banner).await.problem(403),
            "inviter_lost_rights",
            "{what}"
        );
        assert_eq!(
            app.signed_in(&link).accept_link(&token).await.problem(403),
            "inviter_lost_rights",
            "{what}"
        );
        assert_eq!(
            resend(app, &by_link).await.problem(403),
            "inviter_lost_rights",
            "{what}"
        );
        app.clock.advance(TimeDelta::days(3));
        app.run_schedules().await;
        for who in ["match", "banner", "link"] {
            assert_eq!(
                mails_to(app, &address(who)).await,
                1,
                "no reminder in their name, {what}"
            );
        }
        for id in [&by_match, &by_banner, &by_link] {
            assert_eq!(app.show(id).await["status"], "pending", "{what}");
            let noted = format!(
                "usher_invite_history h join invites i on i.id = h.invite_id
                where h.event = 'refused' and i.email = '{}'",
                app.show(id).await["email"].as_str().unwrap()
            );
            assert_eq!(app.pool.count(&noted).await, 1, "noted once, {what}");
        }
        for who in ["match", "banner", "link"] {
            let is_in = format!(
                "organization_users m join admins a on a.id = m.admin_id where a.email = '{}'",
                address(who)
            );
            assert_eq!(app.pool.count(&is_in).await, 0, "{what}");
        }

        let Some(back) = back else { continue };
        go(app, inviter, back).await;
        app.clerk()
            .session_created(&format!("sess_{n}_{target}"), &matched)
            .await;
        app.run_jobs().await;
        assert_eq!(app.show(&by_match).await["status"], "accepted", "{what}");
        assert_eq!(
            app.signed_in(&banner).banner_ids().await,
            [by_banner.as_str()],
            "{what}"
        );
        app.signed_in(&banner).accept(&by_banner).await.expect(200);
        app.signed_in(&link).accept_link(&token).await.expect(200);
        app.post("/v1/invites", body("new", "auto")).await.expect(201);
        app.run_jobs().await;
    }
    app.run_jobs().await;
}

async fn soft_delete(app: &TestApp, table: &str, id: Uuid) {
    let id = app.pool.literal(id);
    app.pool
        .execute(&format!("update {table} set deleted_at = updated_at where id = {id}"))
        .await;
}

stories! {
    async fn security_17_the_banned_locked_deleted_and_removed_invite_nobody(app) {
        for (n, (way, back)) in WAYS.iter().enumerate() {
            lost_and_found(app, n, way, *back).await;
        }
    }

    async fn a_ban_that_comes_with_a_sign_up_is_seen(app) {
        let acme = app.organization("Acme").await;
        for way in ["user.updated", "user.deleted"] {
            let owner = app.person(&format!("{way}@example.com"), Some((acme, "owner"))).await;
            let email = format!("ada-{way}@example.com");
            let invite = app.invite(json!({
                "organization_id": acme, "email": email, "role": "owner", "invited_by": owner.id, "acceptance": "auto",
            })).await;
            app.run_jobs().await;
            app.clock.advance(TimeDelta::seconds(1));
            let banned = FakeUser { banned: true, updated_at: app.now(), ..owner.clone() };
            app.clerk().tell(way, banned.to_json()).await;
            app.clerk().user_created(&email).await;
            app.run_jobs().await;
            assert_eq!(app.show(&invite).await["status"], "pending", "{way}");
        }
    }

    async fn a_mail_of_somebody_banned_meanwhile_does_not_go_out(app) {
        let acme = app.organization("Acme").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        let invite = app.invite(json!({ "organization_id": acme, "email": "ada@example.com", "role": "member", "invited_by": owner.id })).await;
        app.pool.execute("update usher_people set banned = true").await;
        app.run_jobs().await;
        assert_eq!(mails_to(app, "ada@example.com").await, 0);
        let delivery = app.show(&invite).await["delivery"].clone();
        assert_eq!(delivery["status"], "suppressed");
        assert!(delivery["last_error"].as_str().unwrap().contains("banned"), "{delivery}");
        // Nothing went out, so it can be sent as soon as that is lifted.
        app.pool.execute("update usher_people set banned = false").await;
        resend(app, &invite).await.expect(202);
        app.run_jobs().await;
        assert_eq!(mails_to(app, "ada@example.com").await, 1);
    }

    async fn another_account_of_a_person_s_does_not_speak_for_the_one_they_have(app) {
        let acme = app.organization("Acme").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        // The app has given them another account; the first one is banned.
        app.pool.execute("update admins set external_id = 'user_second'").await;
        app.pool.execute(&format!("update usher_people set banned = true where clerk_user_id = '{}'", owner.id)).await;
        let invite = json!({ "organization_id": acme, "email": "ada@example.com", "role": "member", "invited_by": "user_second" });
        app.invite(invite).await;
        // Without any, what usher knows of them counts.
        app.pool.execute("update admins set external_id = null").await;
        let id = app.pool.pick("select id::text from admins", "select lower(hex(id)) from admins");
        let id = app.pool.text(id).await.unwrap();
        let id: Uuid = id.parse().unwrap();
        let invite = json!({ "organization_id": acme, "email": "bob@example.com", "role": "member", "invited_by": id });
        assert_eq!(app.post("/v1/invites", invite).await.problem(403), "inviter_blocked");
        app.run_jobs().await;
    }

    async fn security_18_a_role_that_is_no_longer_known_is_given_to_nobody(app) {
        let acme = app.organization("Acme").await;
        let apollo = app.project(acme, "Apollo").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        for (n, (target, id, inviter)) in [
            ("organization_id", acme, Value::Null), ("project_id", apollo, Value::Null),
            ("organization_id", acme, json!(owner.id)), ("project_id", apollo, json!(owner.id)),
        ].into_iter().enumerate() {
            let role = if target == "project_id" { "client" } else { "admin" };
            let address = |who: &str| format!("{who}{n}@example.com");
            let invite = async |who: &str, acceptance: &str| app.invite(json!({
                target: id, "email": address(who), "role": role, "invited_by": inviter, "acceptance": acceptance,
            })).await;
            let (by_match, by_banner, by_link) =
                (invite("match", "auto").await, invite("banner", "ask").await, invite("link", "ask").await);
            app.run_jobs().await;
            let token = app.token_in_mail_to(&address("link"));
            // As after a start with other roles.
            app.pool.execute("update invites set role = 'emperor' where status = 'pending'").await;
            app.person(&address("match"), None).await;
            let (banner, link) = (known(app, &address("banner")).await, known(app, &address("link")).await);
            assert_eq!(app.signed_in(&banner).banner_ids().await, [""; 0]);
            assert_eq!(app.signed_in(&banner).accept(&by_banner).await.problem(409), "unknown_role");
            assert_eq!(app.signed_in(&link).accept_link(&token).await.problem(409), "unknown_role");
            assert_eq!(resend(app, &by_link).await.problem(409), "unknown_role");
            assert_eq!(refusals(app, "unknown_role").await, 3 * (i64::try_from(n).unwrap() + 1), "said on each invite, once");
            for invite in [by_match, by_banner, by_link] {
                assert_eq!(app.show(&invite).await["status"], "pending");
            }
            assert_eq!(app.members(acme).await, ["owner@example.com owner"]);
            assert_eq!(app.project_members(apollo).await, [""; 0]);
            app.pool.execute("update invites set status = 'revoked' where status = 'pending'").await;
        }
        app.run_jobs().await;
    }

    async fn a_membership_with_a_role_that_is_no_longer_known_gives_no_right_and_is_left_alone(app) {
        let acme = app.organization("Acme").await;
        let apollo = app.project(acme, "Apollo").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        app.pool.execute("update organization_users set role = 'emperor'").await;
        for (target, id, role) in [("organization_id", acme, "member"), ("project_id", apollo, "support")] {
            let body = json!({ target: id, "email": "ada@example.com", "role": role, "invited_by": owner.id });
            assert_eq!(app.post("/v1/invites", body).await.problem(403), "role_above_inviter");
        }
        app.invite(json!({ "organization_id": acme, "email": "owner@example.com", "role": "owner", "acceptance": "auto" })).await;
        app.clerk().session_created("sess_1", &owner).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, ["owner@example.com emperor"]);
    }

    async fn security_19_the_lower_roles_invite_nobody_and_who_lost_theirs_let_nobody_in(app) {
        let acme = app.organization("Acme").await;
        let apollo = app.project(acme, "Apollo").await;
        let mut inviters = Vec::new();
        for role in ["support", "client", "editor", "admin"] {
            let email = format!("{role}@example.com");
            app.invite(json!({ "project_id": apollo, "email": email, "role": role })).await;
            app.run_jobs().await;
            inviters.push((role, app.person(&email, None).await));
        }
        let mut invites = Vec::new();
        for (role, inviter) in &inviters {
            let body = json!({
                "project_id": apollo, "email": format!("by-{role}@example.com"), "role": "support", "invited_by": inviter.id,
                "acceptance": "auto",
            });
            let answer = app.post("/v1/invites", body).await;
            if matches!(*role, "editor" | "admin") {
                invites.push(answer.expect(201)["id"].as_str().unwrap().to_owned());
            } else {
                assert_eq!(answer.problem(403), "role_above_inviter", "{role}");
            }
            let body = json!({ "organization_id": acme, "email": "x@example.com", "role": "member", "invited_by": inviter.id });
            assert_eq!(app.post("/v1/invites", body).await.problem(403), "role_above_inviter", "{role}");
        }
        app.run_jobs().await;
        app.pool.execute("update project_admins set role = 'client' where role = 'editor'").await;
        app.person("by-editor@example.com", None).await;
        app.person("by-admin@example.com", None).await;
        assert_eq!(app.show(&invites[0]).await["status"], "pending");
        assert_eq!(app.show(&invites[1]).await["status"], "accepted");
        assert_eq!(refusals(app, "inviter_lost_rights").await, 1);
        app.run_jobs().await;
    }

    async fn what_was_deleted_is_gone_for_links_mails_reminders_and_the_banner(app) {
        for deleted in ["organizations", "projects", "projects' organizations"] {
            let acme = app.organization("Acme").await;
            let apollo = app.project(acme, "Apollo").await;
            let (target, role) = if deleted == "organizations" { ("organization_id", "member") } else { ("project_id", "client") };
            let id = if deleted == "organizations" { acme } else { apollo };
            let address = |who: &str| format!("{who}-{}@example.com", acme.simple());
            let invite = async |who: &str| app.invite(json!({
                target: id, "email": address(who), "role": role, "acceptance": "ask",
            })).await;
            let (open, declined) = (invite("open").await, invite("declined").await);
            app.run_jobs().await;
            let (token, old) = (app.token_in_mail_to(&address("open")), app.token_in_mail_to(&address("declined")));
            let (ada, bob) = (known(app, &address("open")).await, known(app, &address("declined")).await);
            app.signed_in(&bob).decline(&declined).await.expect(200);
            let late = invite("late").await;
            app.clock.advance(PLAN_AFTER + TimeDelta::seconds(1));
            app.post("/v1/invites/batch", json!({ "invites": [] })).await.expect(200);
            usher::worker::tick(&app.app).await.unwrap();

            match deleted {
                "organizations" | "projects' organizations" => soft_delete(app, "organizations", acme).await,
                _ => soft_delete(app, "projects", apollo).await,
            }
            app.run_jobs().await;
            assert_eq!(mails_to(app, &address("late")).await, 0, "queued before, {deleted}");
            let delivery = app.show(&late).await["delivery"].clone();
            assert_eq!(delivery["status"], "suppressed", "{deleted}");
            assert!(delivery["last_error"].as_str().unwrap().contains("deleted"), "{delivery}");

            let eve = known(app, "eve@example.com").await;
            let forged = preview(app, "forged").await;
            for gone in [
                preview(app, &token).await, preview(app, &old).await,
                app.signed_in(&ada).accept_link(&token).await, app.signed_in(&eve).accept_link(&token).await,
                app.signed_in(&bob).accept_link(&old).await, app.signed_in(&ada).accept(&open).await,
                app.signed_in(&ada).decline(&open).await, app.signed_in(&ada).dismiss(&open).await,
            ] {
                assert_eq!(gone.problem(404), "not_found", "{deleted}");
                assert_eq!(gone.body, forged.body, "{deleted}");
            }
            assert_eq!(app.signed_in(&ada).banner_ids().await, [""; 0], "{deleted}");
            app.clerk().session_created(&format!("sess_{}", acme.simple()), &ada).await;
            app.run_jobs().await;
            app.clock.advance(TimeDelta::minutes(6));
            assert_eq!(resend(app, &open).await.problem(409), "target_deleted", "{deleted}");
            let sent = app.mails().len();
            app.clock.advance(TimeDelta::days(3));
            app.run_schedules().await;
            assert_eq!(app.mails().len(), sent, "no reminder, {deleted}");
            assert_eq!(app.show(&open).await["status"], "pending", "the app may look, {deleted}");
            app.post(&format!("/v1/invites/{open}/revoke"), json!({})).await.expect(200);
        }
    }

    async fn the_same_invite_within_a_minute_is_one_invite_with_one_mail(app) {
        let acme = app.organization("Acme").await;
        let body = json!({ "organization_id": acme, "email": "ada@example.com", "role": "member", "message": "Hi" });
        let first = app.post("/v1/invites", body.clone()).await.expect(201);
        app.clock.advance(TimeDelta::milliseconds(300));
        let second = app.post("/v1/invites", body.clone()).await.expect(200);
        assert_eq!(first, second, "nothing has changed");
        app.run_jobs().await;
        let token = app.token_in_mail_to("ada@example.com");
        app.clock.advance(TimeDelta::seconds(59));
        let batch = app.post("/v1/invites/batch", json!({ "invites": [body.clone(), body.clone()] })).await.expect(200);
        assert_eq!(batch["results"][1]["invite"]["delivery"]["status"], "sent");
        assert_eq!(batch["results"][1]["invite"]["delivery"]["held"], Value::Null);
        app.run_jobs().await;
        assert_eq!(app.mails().len(), 1);
        let history = "usher_invite_history where event in ('created', 'refreshed')";
        assert_eq!(app.pool.count(history).await, 1);
        assert_eq!(preview(app, &token).await.expect(200)["status"], "pending");
        let ada = app.person("ada@example.com", None).await;
        let accepted = app.signed_in(&ada).accept_link(&token).await.expect(200);
        assert_eq!(accepted["status"], "accepted", "they were matched");
        app.run_jobs().await;
    }

    async fn many_at_once_who_invite_one_address_send_it_one_mail(app) {
        let acme = app.organization("Acme").await;
        let roles = ["member", "admin", "owner"];
        let ask = async |n: usize| {
            let body = json!({ "organization_id": acme, "email": "ada@example.com", "role": roles[n % 3] });
            app.post("/v1/invites", body).await
        };
        let answers = join_all((0..30).map(ask)).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
        assert!(answers.iter().all(|answer| answer.status.is_success()));
        app.run_jobs().await;
        assert_eq!(app.mails().len(), 1);
        assert_eq!(app.pool.count("usher_deliveries").await, 1);
        assert_eq!(app.pool.count("invites where token_version = 1").await, 1);
        join_all((0..30).map(ask)).await;
        app.run_jobs().await;
        assert_eq!(app.mails().len(), 1);
        let token = app.token_in_mail_to("ada@example.com");
        preview(app, &token).await.expect(200);
    }

    async fn inviting_again_cools_down_is_capped_and_keeps_the_link_that_was_mailed(app) {
        let acme = app.organization("Acme").await;
        let again = async |role: &str| app.post("/v1/invites", json!({
            "organization_id": acme, "email": "ada@example.com", "role": role, "expires_in": "30d",
        })).await;
        again("member").await.expect(201);
        app.run_jobs().await;
        let first = app.token_in_mail_to("ada@example.com");
        app.clock.advance(TimeDelta::minutes(4));
        let held = again("admin").await.expect(200);
        assert_eq!((&held["role"], &held["delivery"]["held"], &held["delivery"]["status"]), (&json!("admin"), &json!("cool_down"), &json!("sent")));
        app.run_jobs().await;
        assert_eq!(app.mails().len(), 1);
        assert_eq!(preview(app, &first).await.expect(200)["role"], "admin", "the link works, and leads to what was asked last");
        app.clock.advance(TimeDelta::minutes(1));
        let sent = again("owner").await.expect(200);
        assert_eq!((&sent["delivery"]["held"], &sent["delivery"]["status"]), (&Value::Null, &json!("queued")));
        app.run_jobs().await;
        assert_eq!(app.mails().len(), 2);
        assert_eq!(preview(app, &first).await.problem(404), "not_found", "a new mail makes the old link void");
        for n in 0..8 {
            app.clock.advance(TimeDelta::minutes(5));
            again(["member", "admin"][n % 2]).await.expect(200);
            app.run_jobs().await;
        }
        app.clock.advance(TimeDelta::minutes(5));
        assert_eq!(again("owner").await.expect(200)["delivery"]["held"], "daily_cap");
        let last = app.token_in_mail_to("ada@example.com");
        preview(app, &last).await.expect(200);
        app.clock.advance(TimeDelta::hours(24));
        assert_eq!(again("member").await.expect(200)["delivery"]["held"], Value::Null);
        app.run_jobs().await;
    }

    async fn an_address_gets_so_many_mails_a_day_from_all_organizations_together(app) {
        // Far from midnight, whenever it is told.
        let since_midnight = TimeDelta::seconds(app.now().timestamp().rem_euclid(86_400));
        app.clock.advance(TimeDelta::hours(25) - since_midnight);
        let mut organizations = Vec::new();
        for n in 0..30 {
            organizations.push(app.organization(&format!("Organization {n}")).await);
        }
        let ask = async |acme: &Uuid| {
            let body = json!({ "organization_id": acme, "email": "ada@example.com", "role": "member", "expires_in": "30h" });
            app.post("/v1/invites", body).await.expect(201)
        };
        let invites = join_all(organizations.iter().map(ask)).await;
        let held: Vec<&Value> = invites.iter().filter(|invite| invite["delivery"]["held"] == "address_cap").collect();
        assert_eq!(held.len(), 10);
        assert_eq!(held[0]["delivery"]["status"], "suppressed");
        app.run_jobs().await;
        assert_eq!(mails_to(app, "ada@example.com").await, 20);
        app.invite_to_organization(organizations[0], "bob@example.com", "member").await;
        app.run_jobs().await;
        assert_eq!(mails_to(app, "bob@example.com").await, 1, "others have their own");

        let id = held[0]["id"].as_str().unwrap();
        let answer = resend(app, id).await;
        assert_eq!(answer.problem(429), "daily_mail_cap");
        // Reminders are mails, too: those of this day are beyond the cap.
        app.clock.advance(PLAN_AFTER + TimeDelta::seconds(1));
        app.run_schedules().await;
        app.clock.advance(TimeDelta::hours(12));
        app.run_schedules().await;
        assert_eq!(mails_to(app, "ada@example.com").await, 20);
        app.clock.advance(TimeDelta::hours(11));
        let sent = resend(app, id).await.expect(202);
        assert_eq!(sent["delivery"]["held"], Value::Null);
        app.run_jobs().await;
        app.run_schedules().await;
        assert_eq!(mails_to(app, "ada@example.com").await, 40, "of the 30 reminders and the resent mail, as many as there is room for");
        let ada = app.person("ada@example.com", None).await;
        assert_eq!(app.pool.count("invites where status = 'accepted'").await, 30, "without a mail as with one: {}", ada.id);
        app.run_jobs().await;
    }
}

/// The settings say from which role on people invite, and the address's cap can be lifted.
async fn who_invites_is_as_it_is_set(database: TestDatabase) {
    let app = TestApp::start_with(database, |settings| {
        settings.organization_invite_role = Some("owner".to_owned());
        settings.project_invite_role = Some("support".to_owned());
        settings.mail_cap_address = Some("off".to_owned());
    })
    .await;
    let acme = app.organization("Acme").await;
    let apollo = app.project(acme, "Apollo").await;
    app.invite(json!({ "project_id": apollo, "email": "support@example.com", "role": "support" }))
        .await;
    app.run_jobs().await;
    let support = app.person("support@example.com", None).await;
    let admin = app.person("admin@example.com", Some((acme, "admin"))).await;
    let by = |target: &str, id: Uuid, role: &str, inviter: &FakeUser| json!({ target: id, "email": format!("{role}@by.example"), "role": role, "invited_by": inviter.id });
    let ask = async |body: Value| app.post("/v1/invites", body).await;
    ask(by("project_id", apollo, "support", &support)).await.expect(201);
    assert_eq!(
        ask(by("project_id", apollo, "client", &support)).await.problem(403),
        "role_above_inviter"
    );
    assert_eq!(
        ask(by("organization_id", acme, "member", &admin)).await.problem(403),
        "role_above_inviter"
    );
    ask(by("project_id", apollo, "admin", &admin)).await.expect(201);
    for n in 0..25 {
        let other = app.organization(&format!("Organization {n}")).await;
        app.invite_to_organization(other, "ada@example.com", "member").await;
    }
    app.run_jobs().await;
    assert_eq!(mails_to(&app, "ada@example.com").await, 25);
    app.finish().await;
}

on_both_databases!(who_invites_is_as_it_is_set);
