//! What an attacker, an unlucky moment or an old database would try.

use chrono::TimeDelta;
use serde_json::json;
use usher::flows::accept_candidates;
use usher_testkit::fake_clerk::{self, FakeUser};

use crate::support::clerk::signed;
use crate::support::{TestApp, TestDatabase, stories};

const LONG_AGO: &str = "'2020-01-01T00:00:00+00:00'";

stories! {
    async fn a_deletion_reaches_people_whom_only_the_app_knew(app) {
        let acme = app.organization("Acme").await;
        let (ada, organization, membership) =
            (app.pool.literal(app.clock.new_id()), app.pool.literal(acme), app.pool.literal(app.clock.new_id()));
        app.pool.execute(&format!(
            "insert into admins (id, external_id, email, created_at, updated_at)
             values ({ada}, 'user_ada', 'ada@example.com', {LONG_AGO}, {LONG_AGO})"
        )).await;
        app.pool.execute(&format!(
            "insert into organization_users (id, organization_id, admin_id, role, created_at, updated_at)
             values ({membership}, {organization}, {ada}, 'owner', {LONG_AGO}, {LONG_AGO})"
        )).await;
        assert_eq!(app.members(acme).await, ["ada@example.com owner"]);
        app.clerk().tell("user.deleted", fake_clerk::deleted_user("user_ada")).await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("organization_users where deleted_at is null").await, 0);
        assert_eq!(app.pool.count("admins where deleted_at is null").await, 0);
    }

    async fn whoever_the_app_removed_is_not_let_in_by_an_invite(app) {
        let acme = app.organization("Acme").await;
        let globex = app.organization("Globex").await;
        let bob = app.earlier_person("bob@example.com").await;
        let earlier = app.invite_to_organization(globex, "bob@example.com", "member").await;
        app.signed_in(&bob).accept(&earlier).await.expect(200);
        app.pool.execute(&format!("update admins set deleted_at = {LONG_AGO}")).await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "owner").await;
        assert_eq!(app.signed_in(&bob).banner_ids().await, [""; 0]);
        assert_eq!(app.signed_in(&bob).accept(&invite).await.problem(404), "not_found");
        assert_eq!(app.members(acme).await, [""; 0]);
        app.run_jobs().await;
    }

    async fn an_address_that_moved_opens_no_door_for_its_former_owner(app) {
        let acme = app.organization("Acme").await;
        // The event that takes it away from them is late.
        let former = app.person("shared@example.com", None).await;
        let owner = FakeUser::new("user_new", "shared@example.com", app.now() + TimeDelta::seconds(5));
        app.clerk().tell("user.created", owner.to_json()).await;
        app.run_jobs().await;
        app.clock.advance(TimeDelta::minutes(1));
        let invite = app.invite(json!({
            "organization_id": acme, "email": "shared@example.com", "role": "owner", "acceptance": "ask",
        })).await;
        assert_eq!(app.signed_in(&former).accept(&invite).await.problem(404), "not_found");
        // Told again of the former owner, as they were: it changes nothing.
        app.clerk().tell("user.updated", former.to_json()).await;
        app.run_jobs().await;
        assert_eq!(app.signed_in(&former).accept(&invite).await.problem(404), "not_found");
        app.signed_in(&owner).accept(&invite).await.expect(200);
        app.run_jobs().await;
    }

    async fn nobody_can_make_an_event_about_themselves_unreadable(app) {
        let ada = app.person("ada@example.com", None).await;
        let mut banned = ada.clone();
        banned.banned = true;
        banned.updated_at += TimeDelta::seconds(1);
        let mut data = banned.to_json();
        data["unsafe_metadata"] = json!("DEEP");
        data["first_name"] = json!("A\u{0}da");
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let body = fake_clerk::event("user.updated", data, app.now()).to_string().replace("\"DEEP\"", &deep);
        app.deliver(signed(app, "msg_deep", body)).await.expect(202);
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_people where banned").await, 1);
        assert_eq!(app.pool.count("usher_people where first_name = 'Ada'").await, 1);
    }

    async fn one_id_for_an_organization_and_a_project_of_another_mixes_nothing(app) {
        let globex = app.organization("Globex").await;
        let acme = app.organization("Acme").await;
        let project = json!({ "name": "Project", "organization_id": globex });
        app.put(&format!("/v1/projects/{acme}"), project).await.expect(201);
        app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.invite(json!({ "project_id": acme, "email": "bob@example.com", "role": "admin" })).await;
        app.person("bob@example.com", None).await;
        assert_eq!(app.members(acme).await, ["bob@example.com member"]);
        assert_eq!(app.members(globex).await, ["bob@example.com member"]);
        assert_eq!(app.project_members(acme).await, ["bob@example.com admin"]);
    }

    async fn an_invite_that_was_asked_again_meanwhile_is_not_accepted_as_it_was(app) {
        let acme = app.organization("Acme").await;
        let bob = app.earlier_person("bob@example.com").await;
        app.invite_to_organization(acme, "bob@example.com", "owner").await;
        let mut tx = app.app.store.read().await.unwrap();
        let person = tx.people_by_clerk_id(&[&bob.id]).await.unwrap()[0].for_matching().unwrap();
        let before = tx.invite_candidates(&[person]).await.unwrap();
        drop(tx);
        let again = json!({ "organization_id": acme, "email": "bob@example.com", "role": "member", "acceptance": "ask" });
        app.post("/v1/invites", again).await.expect(200);
        let mut tx = app.app.store.begin().await.unwrap();
        let stale: Vec<_> = before.iter().collect();
        let admitted = accept_candidates(&mut tx, &stale, &app.app.config.roles).await.unwrap();
        assert!(admitted.people.is_empty() && admitted.refused.is_empty());
        tx.commit().await.unwrap();
        assert_eq!(app.members(acme).await, [""; 0]);
        app.run_jobs().await;
    }
}

/// Two processors of one person at once: the deletion waits for the accept, or the accept for the deletion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_meets_an_accept_leaves_no_membership() {
    let app = TestApp::start(TestDatabase::postgres().await).await;
    let acme = app.organization("Acme").await;
    let bob = app.clerk().old_user("bob@example.com");
    app.clerk().tells_of(&bob).await;
    app.invite_to_organization(acme, "bob@example.com", "owner").await;
    app.run_jobs().await;
    let mut accepting = app.app.store.begin().await.unwrap();
    let person = accepting.lock_people(&[&bob.id]).await.unwrap().remove(0);
    let waiting = accepting
        .invite_candidates(&[person.for_matching().unwrap()])
        .await
        .unwrap();
    app.clerk().user_deleted(&bob).await;
    let deleting = app.run_jobs();
    let accept = async {
        // Long enough for the deletion to have reached the person, were it not held up.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let waiting: Vec<_> = waiting.iter().collect();
        let admitted = accept_candidates(&mut accepting, &waiting, &app.app.config.roles)
            .await
            .unwrap();
        accepting.commit().await.unwrap();
        admitted.people.len()
    };
    let (_, admitted) = tokio::join!(deleting, accept);
    assert_eq!(admitted, 1);
    assert_eq!(app.pool.count("organization_users where deleted_at is null").await, 0);
    assert_eq!(app.members(acme).await, [""; 0]);
    app.finish().await;
}
