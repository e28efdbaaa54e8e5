//! Members that the app sets, changes and removes; people who leave; organizations and projects that end.

use axum::http::Method;
use futures::future::join_all;
use serde_json::{Value, json};
use usher::secret::Secret;
use uuid::Uuid;

use crate::support::app::{API_KEY, Answer, request};
use crate::support::process::command;
use crate::support::{TestApp, TestDatabase, stories};

const ACME: Uuid = Uuid::from_u128(0xACE);
const OTHER: Uuid = Uuid::from_u128(0x07E);
const APOLLO: Uuid = Uuid::from_u128(0xA90);
const LIMITED: &str = "a-key-that-may-use-acme-and-nothing-else";

async fn start(database: TestDatabase) -> TestApp {
    let app = TestApp::start_with(database, |settings| {
        settings.usher_api_keys = Some(Secret::from(format!("{API_KEY},acme:{LIMITED}@{ACME}")));
    })
    .await;
    for id in [ACME, OTHER] {
        app.put(&format!("/v1/organizations/{id}"), json!({ "name": "Acme" }))
            .await
            .expect(201);
    }
    let project = json!({ "name": "Apollo", "organization_id": ACME });
    app.put(&format!("/v1/projects/{APOLLO}"), project).await.expect(201);
    app
}

fn organization(user: &str) -> String {
    format!("/v1/organizations/{ACME}/members/{user}")
}

fn project(user: &str) -> String {
    format!("/v1/projects/{APOLLO}/members/{user}")
}

async fn put(app: &TestApp, path: &str, role: &str) -> Answer {
    app.put(path, json!({ "role": role })).await
}

async fn delete(app: &TestApp, path: &str) -> Answer {
    app.call(Method::DELETE, path, None).await
}

/// `organization role` and `organization/project role` of somebody, by the answer of their memberships.
fn roles_in(memberships: &Value) -> Vec<String> {
    let items = memberships["items"].as_array().expect("memberships");
    items
        .iter()
        .map(|item| {
            let project = if item["project"].is_object() { "/Apollo" } else { "" };
            format!(
                "{}{project} {}",
                item["organization"]["name"].as_str().unwrap(),
                item["role"].as_str().unwrap()
            )
        })
        .collect()
}

async fn roles(app: &TestApp, user: &str) -> Vec<String> {
    roles_in(&app.get(&format!("/v1/users/{user}/memberships")).await.expect(200))
}

stories! {
    #[tokio::test] TestApp, start, TestApp::finish;

    async fn a_member_is_set_changed_and_removed_and_can_be_invited_again(app) {
        let ada = app.person("ada@example.com", None).await;
        let grace = app.person("grace@example.com", None).await;
        assert_eq!(put(app, &organization(&grace.id), "owner").await.expect(201)["role"], "owner");
        let added = put(app, &organization(&ada.id), "owner").await.expect(201);
        assert_eq!((&added["email"], &added["clerk_user_id"]), (&json!("ada@example.com"), &json!(ada.id)));
        assert_eq!(put(app, &organization(&ada.id), "owner").await.expect(200), added, "an equal request changes nothing");
        assert_eq!(put(app, &organization(&ada.id), "member").await.expect(200)["role"], "member", "also lower");
        assert_eq!(put(app, &project(&ada.id), "editor").await.expect(201)["role"], "editor");
        assert_eq!(roles(app, &ada.id).await, ["Acme member", "Acme/Apollo editor"]);
        let owners = app.get(&format!("/v1/organizations/{ACME}/members?role=owner")).await.expect(200);
        assert_eq!(owners["items"].as_array().unwrap().len(), 1);
        assert_eq!(delete(app, &organization(&ada.id)).await.status, 204);
        assert_eq!(delete(app, &organization(&ada.id)).await.status, 204, "whoever is no member stays none");
        assert!(roles(app, &ada.id).await.is_empty(), "leaving an organization leaves its projects");
        app.invite_to_organization(ACME, "ada@example.com", "admin").await;
        app.clerk().session_created("sess_1", &ada).await;
        app.run_jobs().await;
        assert_eq!(roles(app, &ada.id).await, ["Acme admin"]);
    }

    async fn a_member_may_be_set_before_clerk_has_told_of_them(app) {
        let early = put(app, &project("user_early"), "client").await.expect(201);
        assert_eq!((&early["email"], &early["name"]), (&Value::Null, &Value::Null));
        assert_eq!(roles(app, "user_early").await, ["Acme member", "Acme/Apollo client"], "and is in the organization");
        assert_eq!(app.get("/v1/users/user_early/invites").await.expect(200)["synced"], false);
        let mut user = app.clerk().user_created("early@example.com").await;
        user.id = "user_early".to_owned();
        app.clerk().tells_of(&user).await;
        app.run_jobs().await;
        assert_eq!(app.members(ACME).await, ["early@example.com member"]);
        assert_eq!(app.get(&format!("/v1/users/{}/invites", user.id)).await.expect(200)["synced"], true);
    }

    async fn the_last_owner_stays(app) {
        let [ada, grace] = ["ada@example.com", "grace@example.com"].map(|email| app.person(email, None));
        let (ada, grace) = (ada.await, grace.await);
        put(app, &organization(&ada.id), "owner").await.expect(201);
        put(app, &organization(&grace.id), "admin").await.expect(201);
        assert_eq!(put(app, &organization(&ada.id), "admin").await.problem(409), "last_owner");
        assert_eq!(delete(app, &organization(&ada.id)).await.problem(409), "last_owner");
        let leave = format!("/v1/me/memberships/organizations/{ACME}");
        assert_eq!(app.signed_in(&ada).call(Method::DELETE, &leave).await.problem(409), "last_owner");
        assert_eq!(app.signed_in(&grace).call(Method::DELETE, &leave).await.status, 204);
        assert_eq!(roles_in(&app.signed_in(&ada).call(Method::GET, "/v1/me/memberships").await.expect(200)), ["Acme owner"]);
        // Of two who leave at once, one stays.
        put(app, &organization(&grace.id), "owner").await.expect(201);
        let paths = [organization(&ada.id), organization(&grace.id)];
        let mut statuses: Vec<u16> =
            join_all(paths.iter().map(|path| delete(app, path))).await.iter().map(|answer| answer.status.as_u16()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [204, 409]);
        assert_eq!(app.members(ACME).await.len(), 1);
        for path in paths {
            assert_eq!(delete(app, &format!("{path}?force=true")).await.status, 204);
        }
        assert!(app.members(ACME).await.is_empty());
    }

    async fn the_banned_and_the_deleted_become_no_members(app) {
        let ada = app.person("ada@example.com", None).await;
        app.clerk().user_deleted(&ada).await;
        app.run_jobs().await;
        assert_eq!(put(app, &organization(&ada.id), "member").await.problem(409), "person_blocked");
        assert!(app.members(ACME).await.is_empty());
    }

    async fn a_new_member_s_open_invites_to_the_same_target_are_revoked(app) {
        let ada = app.person("ada@example.com", None).await;
        let invites = [
            app.invite_to_organization(ACME, "Ada@Example.com", "admin").await,
            app.invite_to_organization(OTHER, "ada@example.com", "admin").await,
            app.invite(json!({ "project_id": APOLLO, "email": "ada@example.com", "role": "client" })).await,
            app.invite_to_organization(ACME, "bob@example.com", "admin").await,
        ];
        put(app, &organization(&ada.id), "member").await.expect(201);
        for (invite, status) in invites.iter().zip(["revoked", "pending", "pending", "pending"]) {
            assert_eq!(app.show(invite).await["status"], status);
        }
        app.run_jobs().await;
    }

    async fn many_members_are_set_at_once_each_with_its_own_answer(app) {
        let item = |target: &str, id: Uuid, user: &str, role: &str| json!({ target: id, "clerk_user_id": user, "role": role });
        let members = [
            item("organization_id", ACME, "user_1", "owner"),
            item("organization_id", ACME, "user_1", "member"),
            item("organization_id", ACME, "user_2", "owner"),
            item("organization_id", ACME, "user_1", "member"),
            item("project_id", APOLLO, "user_3", "emperor"),
            item("project_id", APOLLO, "user_3", "admin"),
            item("organization_id", Uuid::nil(), "user_4", "member"),
            json!({ "organization_id": ACME, "project_id": APOLLO, "clerk_user_id": "nobody", "role": "x", "y": 1 }),
        ];
        let answer = app.post("/v1/members/batch", json!({ "members": members })).await.expect(200);
        let results = answer["results"].as_array().unwrap();
        let statuses: Vec<u64> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [201, 409, 201, 200, 422, 201, 404, 422]);
        let wrong = results[7]["problem"]["errors"].as_array().unwrap();
        let wrong: Vec<&str> = wrong.iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        assert_eq!(wrong, ["/project_id", "/clerk_user_id", "/role", "/y"]);
        assert_eq!(roles(app, "user_1").await, ["Acme member"]);
        assert_eq!(roles(app, "user_3").await, ["Acme member", "Acme/Apollo admin"]);
        let too_many = vec![item("organization_id", ACME, "user_1", "owner"); 501];
        assert_eq!(app.post("/v1/members/batch", json!({ "members": too_many })).await.wrong_fields(), ["members"]);
    }

    async fn a_limited_key_sets_members_of_its_own_organizations_only(app) {
        let send = async |method: Method, path: &str, body: Option<Value>| {
            app.send(request(method, path, Some(LIMITED), body)).await
        };
        let other = format!("/v1/organizations/{OTHER}/members/user_1");
        let role = || Some(json!({ "role": "member" }));
        assert_eq!(send(Method::PUT, &other, role()).await.problem(404), "not_found");
        assert_eq!(send(Method::DELETE, &other, None).await.problem(404), "not_found");
        assert_eq!(send(Method::DELETE, &format!("/v1/organizations/{OTHER}"), None).await.problem(404), "not_found");
        app.put(&other, json!({ "role": "member" })).await.expect(201);
        send(Method::PUT, &organization("user_1"), role()).await.expect(201);
        assert_eq!(roles(app, "user_1").await, ["Acme member", "Acme member"]);
        let seen = send(Method::GET, "/v1/users/user_1/memberships", None).await.expect(200);
        assert_eq!(roles_in(&seen), ["Acme member"]);
        let moved = json!({ "name": "Apollo", "organization_id": OTHER });
        app.put(&format!("/v1/projects/{APOLLO}"), moved).await.expect(200);
        assert_eq!(send(Method::DELETE, &format!("/v1/projects/{APOLLO}"), None).await.problem(404), "not_found");
        assert_eq!(send(Method::DELETE, &project("user_1"), None).await.problem(404), "not_found");
    }

    async fn what_is_deleted_ends_its_memberships_and_its_open_invites(app) {
        let ada = app.person("ada@example.com", None).await;
        put(app, &project(&ada.id), "client").await.expect(201);
        let invites = [
            app.invite_to_organization(ACME, "bob@example.com", "member").await,
            app.invite(json!({ "project_id": APOLLO, "email": "carl@example.com", "role": "client" })).await,
        ];
        app.run_jobs().await;
        assert_eq!(delete(app, &format!("/v1/projects/{APOLLO}")).await.status, 204);
        assert_eq!(roles(app, &ada.id).await, ["Acme member"]);
        assert_eq!((&app.show(&invites[0]).await["status"], &app.show(&invites[1]).await["status"]), (&json!("pending"), &json!("revoked")));
        assert_eq!(delete(app, &format!("/v1/organizations/{ACME}")).await.status, 204);
        assert_eq!(delete(app, &format!("/v1/organizations/{ACME}")).await.status, 204, "again");
        assert_eq!(delete(app, &format!("/v1/organizations/{}", Uuid::nil())).await.problem(404), "not_found");
        assert!(roles(app, &ada.id).await.is_empty());
        assert_eq!(app.show(&invites[0]).await["status"], "revoked");
        assert_eq!(put(app, &organization(&ada.id), "member").await.problem(404), "not_found");
    }

    async fn members_are_imported_from_a_file_and_again_after_an_interruption(app) {
        let usher = async |arguments: &[&str]| command(app.app.config.database_url.expose(), arguments).await;
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, lines: &[String]| {
            let path = folder.path().join(name);
            std::fs::write(&path, lines.join("\n")).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let mut csv = vec!["clerk_user_id,organization_id,project_id,role".to_owned()];
        csv.extend((0..600).map(|n| format!("user_{n},{ACME},,member")));
        csv.push(format!("user_1,,{APOLLO},editor"));
        csv.push(format!("user_1,{},,owner", Uuid::nil()));
        csv.push(format!("nobody,{ACME},,emperor"));
        let csv = file("members.csv", &csv);
        let (well, said) = usher(&["members", "import", "--dry-run", &csv]).await;
        assert!(!well && said.contains("601 added, 0 changed, 0 as they were, 2 refused"), "{said}");
        assert!(said.contains("line 603: the organization or project does not exist"), "{said}");
        assert!(said.contains("line 604: --clerk-user-id must be a Clerk user id, --role must be one of member"), "{said}");
        assert!(app.members(ACME).await.is_empty(), "a dry run");
        let (_, said) = usher(&["members", "import", &csv]).await;
        assert!(said.contains("601 added"), "{said}");
        let (_, said) = usher(&["members", "import", &csv]).await;
        assert!(said.contains("0 added, 0 changed, 601 as they were, 2 refused"), "{said}");
        assert_eq!(roles(app, "user_1").await, ["Acme member", "Acme/Apollo editor"]);
        let json = file("members.jsonl", &[
            json!({ "organization_id": ACME, "clerk_user_id": "user_1", "role": "owner" }).to_string(),
            String::new(),
            json!({ "organization_id": ACME, "clerk_user_id": "user_2", "role": "member", "colour": 1 }).to_string(),
        ]);
        let (well, said) = usher(&["members", "import", &json]).await;
        assert!(!well && said.contains("0 added, 1 changed, 0 as they were, 1 refused"), "{said}");
        assert!(said.contains("line 3: --colour is not a field of this request"), "{said}");
        let acme = format!("--organization={ACME}");
        let (well, said) = usher(&["members", "set", "user_7", &acme, "--role=admin"]).await;
        assert!(well && said.contains("has the role admin"), "{said}");
        let (well, said) = usher(&["members", "remove", "user_1", &acme]).await;
        assert!(!well && said.contains("--force"), "{said}");
        let (well, said) = usher(&["members", "list", &acme, "--role=admin"]).await;
        assert!(well && said.contains("user_7") && !said.contains("user_8"), "{said}");
        let (well, said) = usher(&["members", "import", &file("empty.csv", &["a,b".to_owned()])]).await;
        assert!(!well && said.contains("must name the columns"), "{said}");
    }

    async fn an_app_may_have_any_ids(app) {
        let [organization, project] = ["org_2aB|c=1", "42:~.x"];
        app.put(&format!("/v1/organizations/{organization}"), json!({ "name": "Any" })).await.expect(201);
        let body = json!({ "name": "Id", "organization_id": organization });
        let made = app.put(&format!("/v1/projects/{project}"), body).await.expect(201);
        assert_eq!((&made["id"], &made["organization_id"]), (&json!(project), &json!(organization)));
        let invite = app.invite(json!({ "project_id": project, "email": "ada@example.com", "role": "editor" })).await;
        let shown = app.show(&invite).await;
        assert_eq!((&shown["organization"]["id"], &shown["project"]["id"]), (&json!(organization), &json!(project)));
        app.run_jobs().await;
        let ada = app.person("ada@example.com", None).await;
        let member_of = app.get(&format!("/v1/users/{}/memberships", ada.id)).await.expect(200);
        assert_eq!(member_of["items"][0]["organization"]["id"], organization);
        assert_eq!(member_of["items"][1]["project"]["id"], project);
        let list = app.get(&format!("/v1/invites?organization_id={organization}")).await.expect(200);
        assert_eq!(list["items"][0]["id"], invite);
        put(app, &format!("/v1/organizations/{organization}/members/user_1"), "owner").await.expect(201);
        // Other case, other form: another id.
        for other in ["org_2ab|c=1", "ORG_2aB|c=1"] {
            assert_eq!(app.get(&format!("/v1/organizations/{other}/members")).await.problem(404), "not_found");
        }
        let upper = ACME.to_string().to_uppercase();
        app.get(&format!("/v1/organizations/{upper}/members")).await.expect(200);
        for wrong in ["a%2Fb", "%2E%2E", "a%00b", "a%20b", "o%CC%88", &"x".repeat(256)] {
            assert_eq!(put(app, &format!("/v1/organizations/{wrong}/members/user_1"), "owner").await.problem(400), "invalid_id");
            assert_eq!(app.put(&format!("/v1/organizations/{wrong}"), json!({ "name": "x" })).await.problem(400), "invalid_id");
        }
        for wrong in [json!("a/b"), json!(".."), json!(""), json!(7), json!("x".repeat(256))] {
            let body = json!({ "organization_id": wrong, "email": "ada@example.com", "role": "member" });
            assert_eq!(app.post("/v1/invites", body).await.wrong_fields(), ["organization_id"]);
        }
        let url = app.app.config.database_url.expose();
        let option = format!("--organization={organization}");
        let (well, said) = command(url, &["invite", "bob@example.com", &option, "--role=member"]).await;
        assert!(well, "{said}");
        let (well, said) = command(url, &["api-key", &option]).await;
        assert!(well && said.contains(&format!("@{organization}")), "{said}");
        app.run_jobs().await;
    }
}
