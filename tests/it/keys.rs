//! Several API keys: by name and hash, and limited to organizations.

use axum::http::Method;
use serde_json::{Value, json};
use usher::api_key::ApiKey;
use usher::secret::Secret;
use uuid::Uuid;

use crate::support::app::{API_KEY, Answer, TestApp, request};
use crate::support::{TestDatabase, stories};

const ACME: Uuid = Uuid::from_u128(0xACE);
const OTHER: Uuid = Uuid::from_u128(0x07E);
const LIMITED: &str = "a-key-that-may-use-acme-and-nothing-else";
const HASHED: &str = "a-key-that-the-configuration-only-knows-the-hash-of";

/// usher with a key for everything, one for Acme, and one that it has only the hash of.
async fn start(database: TestDatabase) -> TestApp {
    TestApp::start_with(database, |settings| {
        let hashed = ApiKey::new("hashed", HASHED).entry();
        let keys = format!("{API_KEY},acme:{LIMITED}@{ACME},{hashed}");
        settings.usher_api_keys = Some(Secret::from(keys));
    })
    .await
}

async fn limited(app: &TestApp, method: Method, path: &str, body: Option<Value>) -> Answer {
    app.send(request(method, path, Some(LIMITED), body)).await
}

async fn get(app: &TestApp, path: &str) -> Answer {
    limited(app, Method::GET, path, None).await
}

async fn put(app: &TestApp, path: &str, body: Value) -> Answer {
    limited(app, Method::PUT, path, Some(body)).await
}

/// The answers of two paths, which must tell nothing of which is foreign and which unknown.
#[track_caller]
fn assert_alike(foreign: &Answer, unknown: &Answer, status: u16) {
    foreign.problem(status);
    assert_eq!((foreign.status, &foreign.body), (unknown.status, &unknown.body));
}

stories! {
    #[tokio::test] TestApp, start, TestApp::finish;

    async fn a_limited_key_follows_up_its_own_invites_only(app) {
        let put_organization = |id: Uuid| (format!("/v1/organizations/{id}"), json!({ "name": "Place" }));
        let mut ids = Vec::new();
        for organization in [ACME, OTHER] {
            let (path, body) = put_organization(organization);
            app.put(&path, body).await.expect(201);
            ids.push(app.invite_to_organization(organization, "ada@example.com", "member").await);
        }
        app.run_jobs().await;
        let list = get(app, "/v1/invites").await.expect(200);
        let listed: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
        assert_eq!(listed, [json!(ids[0])]);
        assert_eq!(get(app, &format!("/v1/invites?organization_id={OTHER}")).await.expect(200)["items"], json!([]));
        let unknown = Uuid::from_u128(7);
        for action in ["resend", "revoke"] {
            let call = async |id: String| {
                limited(app, Method::POST, &format!("/v1/invites/{id}/{action}"), Some(json!({}))).await
            };
            assert_alike(&call(ids[1].clone()).await, &call(unknown.to_string()).await, 404);
        }
        assert_eq!(app.show(&ids[1]).await["status"], "pending");
        limited(app, Method::POST, &format!("/v1/invites/{}/revoke", ids[0]), Some(json!({}))).await.expect(200);
        let item = |organization: Uuid| {
            json!({ "organization_id": organization, "email": "bob@example.com", "role": "member" })
        };
        let batch = json!({ "invites": [item(ACME), item(OTHER), item(unknown)] });
        let results = limited(app, Method::POST, "/v1/invites/batch", Some(batch)).await.expect(200);
        assert_eq!(results["results"][0]["status"], 201);
        assert_eq!(results["results"][1], results["results"][2], "foreign and unknown look alike");
        app.clerk().tells_of(&app.clerk().old_user("bob@example.com")).await;
        app.invite(item(OTHER)).await;
        app.run_jobs().await;
        let banner = get(app, "/v1/users/user_bobexamplecom/invites").await.expect(200);
        assert_eq!(banner["items"].as_array().unwrap().len(), 1, "only what is in its own organization");
    }

    async fn every_key_opens_by_itself_and_a_hash_is_no_key(app) {
        let path = format!("/v1/organizations/{ACME}");
        for (key, status) in [(API_KEY, 201), (LIMITED, 200), (HASHED, 200)] {
            app.send(request(Method::PUT, &path, Some(key), Some(json!({ "name": "Acme" })))).await.expect(status);
        }
        let entry = ApiKey::new("hashed", HASHED).entry();
        let hash = entry.rsplit(':').next().unwrap();
        for wrong in [hash, entry.as_str(), &format!("sha256:{hash}")] {
            let answer = app.send(request(Method::PUT, &path, Some(wrong), Some(json!({ "name": "Acme" })))).await;
            assert_eq!(answer.problem(401), "unauthorized");
        }
    }

    async fn a_limited_key_works_inside_its_organization(app) {
        put(app, &format!("/v1/organizations/{ACME}"), json!({ "name": "Acme" })).await.expect(201);
        let project = app.clock.new_id();
        put(app, &format!("/v1/projects/{project}"), json!({ "name": "Apollo", "organization_id": ACME })).await.expect(201);
        for (target, id, role) in [("organization_id", ACME, "member"), ("project_id", project, "editor")] {
            let body = json!({ target: id, "email": "ada@example.com", "role": role });
            let invite = limited(app, Method::POST, "/v1/invites", Some(body)).await.expect(201);
            let id = invite["id"].as_str().unwrap();
            assert_eq!(get(app, &format!("/v1/invites/{id}")).await.expect(200)["email"], "ada@example.com");
        }
        get(app, &format!("/v1/organizations/{ACME}/members")).await.expect(200);
        get(app, &format!("/v1/projects/{project}/members")).await.expect(200);
        app.run_jobs().await;
    }

    async fn to_a_limited_key_a_foreign_organization_is_as_one_that_is_not_there(app) {
        app.put(&format!("/v1/organizations/{ACME}"), json!({ "name": "Acme" })).await.expect(201);
        app.put(&format!("/v1/organizations/{OTHER}"), json!({ "name": "Other" })).await.expect(201);
        let project = app.project(OTHER, "Zeus").await;
        let in_organization = app.invite_to_organization(OTHER, "ada@example.com", "member").await;
        let in_project = app.invite(json!({ "project_id": project, "email": "ada@example.com", "role": "editor" })).await;
        app.run_jobs().await;
        let unknown = app.clock.new_id();

        for id in [&in_organization, &in_project] {
            let foreign = get(app, &format!("/v1/invites/{id}")).await;
            assert_alike(&foreign, &get(app, &format!("/v1/invites/{unknown}")).await, 404);
        }
        for (place, id) in [("organizations", OTHER), ("projects", project)] {
            let foreign = get(app, &format!("/v1/{place}/{id}/members")).await;
            assert_alike(&foreign, &get(app, &format!("/v1/{place}/{unknown}/members")).await, 404);
        }
        for (target, id, role) in [("organization_id", OTHER, "member"), ("project_id", project, "editor")] {
            let invite = async |id: Uuid| {
                let body = json!({ target: id, "email": "new@example.com", "role": role });
                limited(app, Method::POST, "/v1/invites", Some(body)).await
            };
            assert_alike(&invite(id).await, &invite(unknown).await, 422);
        }
        assert_eq!(app.pool.count("invites where email = 'new@example.com'").await, 0);
    }

    async fn a_limited_key_neither_makes_nor_takes_what_is_foreign(app) {
        app.put(&format!("/v1/organizations/{ACME}"), json!({ "name": "Acme" })).await.expect(201);
        app.put(&format!("/v1/organizations/{OTHER}"), json!({ "name": "Other" })).await.expect(201);
        let project = app.project(OTHER, "Zeus").await;
        for id in [OTHER, app.clock.new_id()] {
            let answer = put(app, &format!("/v1/organizations/{id}"), json!({ "name": "Mine" })).await;
            assert_eq!(answer.problem(404), "not_found");
        }
        let new = format!("/v1/projects/{}", app.clock.new_id());
        let foreign = put(app, &new, json!({ "name": "Mine", "organization_id": OTHER })).await;
        let unknown = put(app, &new, json!({ "name": "Mine", "organization_id": app.clock.new_id() })).await;
        assert_alike(&foreign, &unknown, 422);
        let take = json!({ "name": "Mine", "organization_id": ACME });
        for state in ["deleted_at = null", "deleted_at = updated_at"] {
            app.pool.execute(&format!("update projects set {state}")).await;
            let taken = put(app, &format!("/v1/projects/{project}"), take.clone()).await;
            assert_eq!(taken.problem(404), "not_found", "{state}");
        }
        assert_eq!(app.pool.count("projects where name = 'Zeus'").await, 1);
        assert_eq!(app.pool.count("organizations").await, 2);
    }

    async fn security_22_to_a_limited_key_other_tenants_people_are_as_nobody(app) {
        app.put(&format!("/v1/organizations/{ACME}"), json!({ "name": "Acme" })).await.expect(201);
        app.put(&format!("/v1/organizations/{OTHER}"), json!({ "name": "Other" })).await.expect(201);
        let zeus = app.project(OTHER, "Zeus").await;
        let ours = app.person("ours@example.com", Some((ACME, "owner"))).await;
        // Owner elsewhere, asked elsewhere, known and nowhere: all are nobody here.
        let owner = app.person("owner@other.example", Some((OTHER, "owner"))).await;
        let waiting = app.clerk().old_user("waiting@other.example");
        app.clerk().tells_of(&waiting).await;
        app.invite(json!({ "project_id": zeus, "email": "waiting@other.example", "role": "editor" })).await;
        let bystander = app.earlier_person("bystander@other.example").await;
        let mut people = Vec::new();
        for person in [&owner, &waiting, &bystander] {
            let mut tx = app.app.store.read().await.unwrap();
            let admin_id = tx.people_by_clerk_id(&[&person.id]).await.unwrap()[0].admin_id.unwrap();
            people.push((person.id.clone(), admin_id, person.emails[0].0.clone()));
        }
        let unknown = ("user_nobody".to_owned(), app.clock.new_id(), "nobody@other.example".to_owned());

        let invites = async |inviter: &str, email: &str| {
            let body = json!({ "organization_id": ACME, "email": email, "role": "member", "invited_by": inviter });
            limited(app, Method::POST, "/v1/invites", Some(body.clone())).await
        };
        for (clerk_id, admin_id, email) in &people {
            // Whoever they are, and whatever address is asked: their own one, too.
            for inviter in [clerk_id.clone(), admin_id.to_string()] {
                for address in [email.as_str(), "somebody@example.com"] {
                    let foreign = invites(&inviter, address).await;
                    assert_eq!(foreign.wrong_fields(), ["invited_by"], "{inviter} {address}");
                    assert_alike(&foreign, &invites(&unknown.0, &unknown.2).await, 422);
                    assert_alike(&foreign, &invites(&unknown.1.to_string(), &unknown.2).await, 422);
                }
            }
            let item = |inviter: &str| json!({ "organization_id": ACME, "email": email, "role": "member", "invited_by": inviter });
            let batch = json!({ "invites": [item(clerk_id), item(&unknown.0)] });
            let results = limited(app, Method::POST, "/v1/invites/batch", Some(batch)).await.expect(200);
            assert_eq!(results["results"][0], results["results"][1], "{clerk_id}");
            for query in ["invited_by", "email"] {
                let (theirs, nobodys) = if query == "email" { (email, &unknown.2) } else { (clerk_id, &unknown.0) };
                let foreign = get(app, &format!("/v1/invites?{query}={theirs}")).await;
                let nobody = get(app, &format!("/v1/invites?{query}={nobodys}")).await;
                assert_eq!((foreign.expect(200), foreign.body), (nobody.expect(200), nobody.body), "{query} {clerk_id}");
            }
            let foreign = get(app, &format!("/v1/users/{clerk_id}/invites")).await;
            let nobody = get(app, &format!("/v1/users/{}/invites", unknown.0)).await;
            assert_eq!((foreign.expect(200), foreign.body), (nobody.expect(200), nobody.body), "{clerk_id}");
        }
        // Inviting an address of theirs goes as with any other: nothing is said of where its owner is in.
        let mut first = limited(app, Method::POST, "/v1/invites", Some(json!({
            "organization_id": ACME, "email": people[0].2, "role": "member", "invited_by": ours.id,
        }))).await.expect(201);
        let mut second = limited(app, Method::POST, "/v1/invites", Some(json!({
            "organization_id": ACME, "email": unknown.2, "role": "member", "invited_by": ours.id,
        }))).await.expect(201);
        for invite in [&mut first, &mut second] {
            for differs in ["id", "email", "created_at", "updated_at", "expires_at", "delivery"] {
                invite.as_object_mut().unwrap().remove(differs);
            }
        }
        assert_eq!(first, second);
        app.run_jobs().await;
        // Now there is something here for them.
        let seen = get(app, &format!("/v1/users/{}/invites", people[0].0)).await.expect(200);
        assert_eq!((seen["items"].as_array().unwrap().len(), &seen["synced"]), (1, &json!(true)));
        let seen = get(app, &format!("/v1/users/{}/invites", ours.id)).await.expect(200);
        assert_eq!(seen, json!({ "items": [], "synced": true }), "a member");
        // Whose own address it is, is said to those who may invite only.
        let member = app.person("member@example.com", Some((ACME, "member"))).await;
        assert_eq!(invites(&member.id, "member@example.com").await.problem(403), "role_above_inviter");
        assert_eq!(invites(&ours.id, "ours@example.com").await.wrong_fields(), ["email"]);
        // The key for everything knows them.
        let body = json!({ "organization_id": ACME, "email": "new@example.com", "role": "member", "invited_by": people[0].0 });
        assert_eq!(app.post("/v1/invites", body).await.problem(403), "role_above_inviter");
    }

    async fn security_22_a_key_that_was_narrowed_is_told_of_no_earlier_answers_beyond_its_limit(app) {
        app.put(&format!("/v1/organizations/{ACME}"), json!({ "name": "Acme" })).await.expect(201);
        app.put(&format!("/v1/organizations/{OTHER}"), json!({ "name": "Other" })).await.expect(201);
        let wide = "a-key-that-may-use-acme-and-other-and-more";
        let settings = |organizations: String| {
            move |settings: &mut usher::config::Settings| {
                settings.usher_api_keys = Some(Secret::from(format!("{API_KEY},app:{wide}@{organizations}")));
            }
        };
        let both = settings(format!("{ACME}+{OTHER}"));
        let acme = settings(ACME.to_string());
        let call = |path: &str, key: &str, body: &Value| {
            let mut call = request(Method::POST, path, Some(wide), Some(body.clone()));
            call.headers_mut().insert("idempotency-key", key.parse().unwrap());
            call
        };
        let item = |organization: Uuid, email: &str| json!({ "organization_id": organization, "email": email, "role": "member" });
        let (ours, theirs) = (item(ACME, "ours@example.com"), item(OTHER, "theirs@example.com"));
        let batch = json!({ "invites": [item(ACME, "a@example.com"), item(OTHER, "b@example.com"), item(ACME, "not an address")] });
        let first = app.send_after_restart(both.clone(), call("/v1/invites", "ours", &ours)).await;
        app.send_after_restart(both.clone(), call("/v1/invites", "theirs", &theirs)).await.expect(201);
        let whole = app.send_after_restart(both.clone(), call("/v1/invites/batch", "batch", &batch)).await;
        whole.expect(200);
        let deliveries = app.pool.count("usher_deliveries").await;

        let again = app.send_after_restart(acme.clone(), call("/v1/invites", "ours", &ours)).await;
        assert_eq!((again.expect(201), &again.body), (first.expect(201), &first.body));
        let hidden = app.send_after_restart(acme.clone(), call("/v1/invites", "theirs", &theirs)).await;
        let unknown = item(app.clock.new_id(), "theirs@example.com");
        let unknown = app.send_after_restart(acme.clone(), call("/v1/invites", "unknown", &unknown)).await;
        assert_alike(&hidden, &unknown, 422);
        let parts = app.send_after_restart(acme.clone(), call("/v1/invites/batch", "batch", &batch)).await.expect(200);
        assert_eq!(parts["results"][0], whole.json()["results"][0]);
        assert_eq!(parts["results"][1], json!({ "status": 422, "problem": unknown.json() }));
        assert_eq!(parts["results"][2]["status"], 422);
        // With its old limit it gets the whole again, and nothing was done twice.
        let again = app.send_after_restart(both, call("/v1/invites/batch", "batch", &batch)).await;
        assert_eq!(again.body, whole.body);
        assert_eq!(app.pool.count("usher_deliveries").await, deliveries);
        app.run_jobs().await;
    }
}
