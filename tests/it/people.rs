//! People are not members until they become one, and who a Clerk account is, the app decides.

use chrono::TimeDelta;
use serde_json::json;

use crate::support::stories;

stories! {
    async fn a_person_gets_a_row_in_admins_when_they_become_a_member(app) {
        let acme = app.organization("Acme").await;
        let bob = app.earlier_person("bob@example.com").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        assert_eq!(app.signed_in(&bob).banner_ids().await, std::slice::from_ref(&invite));
        assert_eq!(app.signed_in(&bob).dismiss(&invite).await.expect(200)["status"], "pending");
        app.clerk().tell("user.updated", bob.to_json()).await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("admins").await, 0);

        app.signed_in(&bob).accept(&invite).await.expect(200);
        assert_eq!(app.pool.count("admins where email = 'bob@example.com'").await, 1);
        assert_eq!(app.members(acme).await, ["bob@example.com member"]);
        // A new name reaches the row that there is now, and no second one is made.
        let mut renamed = bob.clone();
        renamed.first_name = Some("Robert".to_owned());
        renamed.updated_at += TimeDelta::seconds(1);
        app.clerk().tell("user.updated", renamed.to_json()).await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("admins").await, 1);
        assert_eq!(app.pool.count("admins where first_name = 'Robert'").await, 1);
    }

    async fn a_person_without_a_membership_invites_no_one(app) {
        let acme = app.organization("Acme").await;
        let bob = app.earlier_person("bob@example.com").await;
        let invite = json!({
            "organization_id": acme, "email": "eve@example.com", "role": "member", "invited_by": bob.id,
        });
        assert_eq!(app.post("/v1/invites", invite).await.problem(403), "role_above_inviter");
        assert_eq!(app.pool.count("admins").await, 0);
    }

    async fn security_28_a_link_that_the_app_has_cut_stays_cut(app) {
        let (acme, globex) = (app.organization("Acme").await, app.organization("Globex").await);
        let first = app.person("first@example.com", Some((acme, "owner"))).await;
        let second = app.earlier_person("second@example.com").await;
        let theirs = |id: &str| format!("admins where external_id = '{id}'");
        for linked in [format!("'{}'", second.id), "null".to_owned()] {
            app.pool.execute(&format!("update admins set external_id = {linked}")).await;
            // Clerk tells of the first one again, who has another name now.
            let mut again = first.clone();
            again.first_name = Some("Frieda".to_owned());
            app.clock.advance(TimeDelta::minutes(1));
            again.updated_at = app.now();
            app.clerk().tell("user.updated", again.to_json()).await;
            app.run_jobs().await;
            assert_eq!(app.pool.count(&theirs(&first.id)).await, 0, "what was {linked} stays so");
            assert_eq!(app.pool.count("admins where first_name = 'Frieda'").await, 0);
            assert_eq!(app.pool.count("admins").await, 1);

            let for_first = app.invite_to_organization(globex, "first@example.com", "owner").await;
            assert_eq!(app.signed_in(&first).banner_ids().await, [""; 0]);
            assert_eq!(app.signed_in(&first).accept(&for_first).await.problem(404), "not_found");
            app.post(&format!("/v1/invites/{for_first}/revoke"), json!({})).await.expect(200);
        }
        assert_eq!(app.members(globex).await, [""; 0]);
        app.run_jobs().await;
    }

    async fn security_28_an_account_sees_what_is_for_its_own_addresses_only(app) {
        let (acme, globex) = (app.organization("Acme").await, app.organization("Globex").await);
        let first = app.person("first@example.com", Some((acme, "member"))).await;
        let second = app.earlier_person("second@example.com").await;
        app.pool.execute(&format!("update admins set external_id = '{}'", second.id)).await;
        let invite = app.invite_to_organization(globex, "second@example.com", "member").await;
        assert_eq!(app.signed_in(&first).accept(&invite).await.problem(404), "not_found");
        assert_eq!(app.signed_in(&second).banner_ids().await, std::slice::from_ref(&invite));
        app.signed_in(&second).accept(&invite).await.expect(200);
        // The row is the second account's now, with what it was a member of.
        assert_eq!(app.pool.count("admins").await, 1);
        assert_eq!(app.pool.count("organization_users").await, 2);
        // Deleting the first account in Clerk does not touch it.
        app.clerk().user_deleted(&first).await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("organization_users where deleted_at is null").await, 2);
    }

    async fn who_accepted_is_known_when_the_app_has_deleted_the_row(app) {
        let acme = app.organization("Acme").await;
        let bob = app.earlier_person("bob@example.com").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.signed_in(&bob).accept(&invite).await.expect(200);
        app.run_jobs().await;
        app.pool.execute("delete from organization_users; delete from admins").await;
        let accepted = format!("invites where accepted_by_clerk_id = '{}'", bob.id);
        assert_eq!(app.pool.count(&accepted).await, 1);
        // A row that is gone was not cut: they may become a member again.
        let again = app.invite_to_organization(acme, "bob@example.com", "admin").await;
        app.signed_in(&bob).accept(&again).await.expect(200);
        assert_eq!(app.members(acme).await, ["bob@example.com admin"]);
        app.run_jobs().await;
    }

    async fn security_28_an_unverified_address_names_no_one_and_gets_no_mail(app) {
        let acme = app.organization("Acme").await;
        let mut ada = app.clerk().old_user("ceo@victim.example");
        ada.emails[0].1 = false;
        app.clerk().tell("user.created", ada.to_json()).await;
        app.run_jobs().await;
        app.put(&format!("/v1/organizations/{acme}/members/{}", ada.id), json!({ "role": "owner" })).await.expect(201);
        let members = app.get(&format!("/v1/organizations/{acme}/members")).await.expect(200);
        assert_eq!(members["items"][0]["email"], json!(null));
        app.invite(json!({
            "organization_id": acme, "email": "bob@example.com", "role": "member", "invited_by": ada.id, "acceptance": "auto",
        })).await;
        app.person("bob@example.com", None).await;
        assert_eq!(app.members(acme).await.len(), 2);
        let to = app.mails().iter().map(|mail| mail.to.join(" ")).collect::<Vec<_>>().join(" ");
        assert!(!to.contains("victim"), "{to}");

        // Once another address is verified, that one is shown.
        ada.emails.push(("ada@example.com".to_owned(), true));
        app.clock.advance(TimeDelta::minutes(1));
        ada.updated_at = app.now();
        app.clerk().tell("user.updated", ada.to_json()).await;
        app.run_jobs().await;
        assert!(app.members(acme).await.contains(&"ada@example.com owner".to_owned()));
    }
}
