//! Who is let in, who is asked, and who is neither.

use chrono::TimeDelta;
use serde_json::json;
use usher_testkit::fake_clerk;

use crate::support::stories;

stories! {
    async fn a_new_person_is_let_into_organization_and_project(app) {
        let acme = app.organization("Acme").await;
        let apollo = app.project(acme, "Apollo").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        let to_acme = app.invite(json!({
            "organization_id": acme, "email": "Ada@Example.com", "role": "admin", "invited_by": owner.id,
        })).await;
        let to_apollo = app.invite(json!({
            "project_id": apollo, "email": "ada@example.com", "role": "editor", "invited_by": owner.id,
        })).await;

        app.clerk().user_created("ada@EXAMPLE.com").await;
        app.run_jobs().await;

        assert_eq!(app.members(acme).await, ["ada@EXAMPLE.com admin", "owner@example.com owner"]);
        assert_eq!(app.project_members(apollo).await, ["ada@EXAMPLE.com editor"]);
        for id in [to_acme, to_apollo] {
            let invite = app.show(&id).await;
            assert_eq!(invite["status"], "accepted");
            assert!(invite["accepted_at"].is_string());
            assert_eq!(invite["flagged"], false);
        }
        let notices = app.mails().into_iter().filter(|mail| mail.to == ["owner@example.com"]).count();
        assert_eq!(notices, 3, "the owner's own invite, and a notice for each of the two accepted");
    }

    async fn whoever_comes_into_a_project_comes_into_its_organization_on_the_lowest_rung(app) {
        let acme = app.organization("Acme").await;
        let apollo = app.project(acme, "Apollo").await;
        app.invite(json!({ "project_id": apollo, "email": "ada@example.com", "role": "admin" })).await;
        app.person("ada@example.com", None).await;
        assert_eq!(app.members(acme).await, ["ada@example.com member"]);
        assert_eq!(app.project_members(apollo).await, ["ada@example.com admin"]);
    }

    async fn a_project_that_moved_leads_into_the_organization_it_belongs_to_today(app) {
        let acme = app.organization("Acme").await;
        let zeta = app.organization("Zeta").await;
        let apollo = app.project(acme, "Apollo").await;
        app.invite(json!({ "project_id": apollo, "email": "ada@example.com", "role": "client" })).await;
        app.put(&format!("/v1/projects/{apollo}"), json!({ "name": "Apollo", "organization_id": zeta })).await.expect(200);
        app.person("ada@example.com", None).await;
        assert_eq!(app.members(acme).await, [""; 0]);
        assert_eq!(app.members(zeta).await, ["ada@example.com member"]);
    }

    async fn somebody_who_was_there_before_is_asked(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.earlier_person("bob@example.com").await;
        assert_eq!(app.members(acme).await, [""; 0]);
        let shown = app.show(&invite).await;
        assert_eq!((&shown["status"], &shown["flagged"]), (&json!("pending"), &json!(true)));
    }

    async fn acceptance_auto_lets_in_and_ask_asks_whoever_it_is(app) {
        let acme = app.organization("Acme").await;
        let zeta = app.organization("Zeta").await;
        for (organization, acceptance) in [(acme, "auto"), (zeta, "ask")] {
            app.invite(json!({
                "organization_id": organization, "email": "bob@example.com", "role": "member", "acceptance": acceptance,
            })).await;
        }
        app.clerk().tells_of(&app.clerk().old_user("bob@example.com")).await;
        app.clerk().tells_of(&app.clerk().user("cy@example.com")).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, ["bob@example.com member"]);
        assert_eq!(app.members(zeta).await, [""; 0]);
    }

    async fn security_1_an_unverified_address_matches_nothing_until_it_is_verified(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "ada@example.com", "member").await;
        let mut ada = app.clerk().user("ada@example.com");
        ada.emails[0].1 = false;
        app.clerk().tell("user.created", ada.to_json()).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, [""; 0]);
        let shown = app.show(&invite).await;
        assert_eq!((&shown["status"], &shown["flagged"]), (&json!("pending"), &json!(false)));
        assert_eq!(app.signed_in(&ada).accept(&invite).await.problem(404), "not_found");

        ada.emails[0].1 = true;
        ada.updated_at += TimeDelta::minutes(1);
        app.clerk().tells_of(&ada).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, ["ada@example.com member"]);
    }

    async fn any_verified_address_matches_not_only_the_primary_one(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "ada@work.example", "member").await;
        let mut ada = app.clerk().user("ada@home.example");
        ada.emails.push(("ada@work.example".to_owned(), true));
        app.clerk().tells_of(&ada).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, ["ada@home.example member"]);
    }

    async fn security_11_letters_that_only_look_alike_are_other_people(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "mike@example.com", "member").await;
        app.invite_to_organization(acme, "kate@example.com", "member").await;
        for (id, email) in [("user_m", "m\u{131}ke@example.com"), ("user_k", "\u{212a}ate@example.com")] {
            app.clerk().tells_of(&fake_clerk::FakeUser::new(id, email, app.now())).await;
        }
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, [""; 0]);
    }

    async fn people_without_an_address_are_no_error(app) {
        let mut ada = app.clerk().user("ada@example.com");
        ada.emails.clear();
        app.clerk().tells_of(&ada).await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_events where outcome = 'matched'").await, 1);
    }

    async fn security_16_the_banned_and_the_deleted_are_let_in_nowhere_whatever_is_replayed(app) {
        let acme = app.organization("Acme").await;
        let mut eve = app.clerk().user("eve@example.com");
        eve.banned = true;
        app.invite_to_organization(acme, "eve@example.com", "member").await;
        app.clerk().tells_of(&eve).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, [""; 0]);
        assert_eq!(app.signed_in(&eve).banner_ids().await, [""; 0]);

        let ada = app.person("ada@example.com", Some((acme, "admin"))).await;
        assert_eq!(app.members(acme).await, ["ada@example.com admin"]);
        app.clerk().user_deleted(&ada).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, [""; 0]);

        app.invite_to_organization(acme, "ada@example.com", "member").await;
        let mut later = ada.clone();
        later.updated_at += TimeDelta::days(1);
        app.clerk().tell("user.created", ada.to_json()).await;
        app.clerk().tells_of(&later).await;
        app.clerk().session_created_with_user("sess_late", &later).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, [""; 0]);
        assert_eq!(app.signed_in(&ada).banner_ids().await, [""; 0]);
    }

    async fn a_deletion_that_comes_before_the_creation_wins(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "ada@example.com", "member").await;
        let ada = app.clerk().user("ada@example.com");
        app.clerk().user_deleted(&ada).await;
        app.run_jobs().await;
        app.clerk().tell("user.created", ada.to_json()).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, [""; 0]);
        assert_eq!(app.pool.count("usher_events where outcome = 'user deleted'").await, 1);
        assert_eq!(app.pool.count("admins").await, 0, "no row in the app's table for somebody never seen");
    }

    async fn an_older_description_never_overwrites_a_newer_one(app) {
        let acme = app.organization("Acme").await;
        let old = app.clerk().user("ada@old.example");
        let mut new = app.clerk().user("ada@new.example");
        new.id.clone_from(&old.id);
        new.updated_at += TimeDelta::minutes(5);
        app.clerk().tells_of(&new).await;
        app.run_jobs().await;
        app.clerk().tell("user.created", old.to_json()).await;
        app.invite_to_organization(acme, "ada@old.example", "member").await;
        app.run_jobs().await;
        app.clerk().session_created("sess_1", &old).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, [""; 0], "the old address is theirs no more");
        app.invite_to_organization(acme, "ada@new.example", "member").await;
        app.clerk().session_created("sess_2", &old).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, ["ada@new.example member"]);
    }

    async fn an_address_that_was_taken_away_matches_no_more(app) {
        let acme = app.organization("Acme").await;
        let mut ada = app.person("ada@example.com", None).await;
        ada.emails = vec![("ada@elsewhere.example".to_owned(), true)];
        ada.updated_at += TimeDelta::minutes(1);
        app.clerk().tells_of(&ada).await;
        app.run_jobs().await;
        app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.clerk().session_created("sess_1", &ada).await;
        app.run_jobs().await;
        assert_eq!(app.signed_in(&ada).banner_ids().await, [""; 0]);
    }

    async fn expired_revoked_and_declined_invites_let_nobody_in(app) {
        let acme = app.organization("Acme").await;
        app.invite(json!({ "organization_id": acme, "email": "ada@example.com", "role": "member", "expires_in": "1h" })).await;
        app.run_jobs().await;
        app.clock.advance(TimeDelta::hours(1));
        app.person("ada@example.com", None).await;
        assert_eq!(app.members(acme).await, [""; 0]);
    }

    async fn an_accept_never_lowers_a_role_and_revives_a_removed_membership(app) {
        let acme = app.organization("Acme").await;
        let ada = app.person("ada@example.com", Some((acme, "admin"))).await;
        let apollo = app.project(acme, "Apollo").await;
        // Into a project, and so into the organization as a member at least: she stays admin.
        let cy = app.person("cy@example.com", Some((acme, "admin"))).await;
        app.pool.execute("update organization_users set role = 'member'").await;
        app.invite(json!({ "project_id": apollo, "email": "ada@example.com", "role": "client", "acceptance": "auto" })).await;
        app.pool.execute("update organization_users set role = 'admin'").await;
        app.clerk().session_created("sess_1", &ada).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, ["ada@example.com admin", "cy@example.com admin"]);
        assert_eq!(app.project_members(apollo).await, ["ada@example.com client"]);

        app.pool.execute("update organization_users set deleted_at = updated_at").await;
        app.invite(json!({ "organization_id": acme, "email": "cy@example.com", "role": "member", "acceptance": "auto" })).await;
        app.clerk().session_created("sess_2", &cy).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, ["cy@example.com member"], "revived with the invited role");
    }

    async fn a_role_that_usher_does_not_know_is_left_alone(app) {
        let acme = app.organization("Acme").await;
        let ada = app.person("ada@example.com", Some((acme, "member"))).await;
        app.pool.execute("update organization_users set role = 'emperor'").await;
        app.invite(json!({ "organization_id": acme, "email": "ada@example.com", "role": "owner", "acceptance": "auto" })).await;
        app.clerk().session_created("sess_1", &ada).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, ["ada@example.com emperor"]);
    }

    async fn every_event_twice_and_in_any_order_comes_out_the_same(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "ada@example.com", "member").await;
        let ada = app.clerk().user("ada@example.com");
        let now = app.now();
        let session = |status| fake_clerk::session("sess_1", &ada.id, status, Some(&ada), now);
        for round in 0..2 {
            for (n, (event_type, data)) in [
                ("session.ended", session("ended")),
                ("session.created", session("active")),
                ("user.updated", ada.to_json()),
                ("user.created", ada.to_json()),
            ].into_iter().enumerate() {
                app.clerk().deliver(&format!("msg_{round}_{n}"), event_type, data).await.expect(202);
            }
            app.run_jobs().await;
        }
        assert_eq!(app.members(acme).await, ["ada@example.com member"]);
        assert_eq!(app.show(&invite).await["status"], "accepted");
        assert_eq!(app.pool.count("organization_users").await, 1);
        assert_eq!(app.pool.count("usher_people").await, 1);
    }

    async fn a_thousand_events_about_many_people_and_the_same_ones_share_transactions(app) {
        let acme = app.organization("Acme").await;
        for n in 0..40 {
            app.invite_to_organization(acme, &format!("person{n}@example.com"), "member").await;
        }
        for n in 0..120 {
            let user = app.clerk().user(&format!("person{}@example.com", n % 40));
            app.clerk().tell("user.updated", user.to_json()).await;
        }
        app.run_jobs().await;
        assert_eq!(app.members(acme).await.len(), 40);
        assert_eq!(app.pool.count("usher_events where processed_at is not null").await, 120);
    }

    async fn a_sign_in_of_somebody_unknown_waits_for_their_creation(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "ada@example.com", "member").await;
        let ada = app.clerk().user("ada@example.com");
        app.clerk().session_created("sess_1", &ada).await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_events where processed_at is null").await, 1);
        app.clerk().tell("user.created", ada.to_json()).await;
        app.run_jobs().await;
        assert_eq!(app.members(acme).await, ["ada@example.com member"]);
        app.clock.advance(TimeDelta::seconds(15));
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_events where processed_at is null").await, 0);
    }

    async fn a_sign_in_of_somebody_who_never_appears_is_let_go_after_minutes(app) {
        app.clerk().session_created("sess_1", &app.clerk().user("ghost@example.com")).await;
        for _ in 0..8 {
            app.run_jobs().await;
            app.clock.advance(TimeDelta::minutes(3));
        }
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_events where outcome = 'user unknown'").await, 1);
    }
}
