//! The contract: the document is the code's, and every example and every problem in it can be had.

use std::collections::BTreeSet;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request};
use chrono::TimeDelta;
use serde_json::{Value, json};
use usher::config::Settings;
use usher::invites::email::EmailAddress;
use usher::invites::token::LinkClaim;
use usher::invites::{Acceptance, InviteDetails, PersonRef};
use usher::problem::Code;
use usher::secret::Secret;
use usher::store::{DeliveryKind, Grant, NewAdmin, NewDelivery, NewInvite, Tx};
use usher_testkit::fake_clerk::FakeUser;
use uuid::Uuid;

use crate::support::app::{API_KEY, Answer, TestApp, request};
use crate::support::clerk::{into_request, signed};
use crate::support::contract::{DOCUMENT, Operation, errors, operations};
use crate::support::db::TestDatabase;

const LIMITED_KEY: &str = "a-key-that-may-use-nothing-that-is-here";
const NOBODYS: &str = "0192e4a0-0000-7000-8000-000000000000";

#[test]
fn the_checked_in_document_is_what_the_code_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let text = usher::openapi::text().unwrap();
    assert!(
        std::fs::read_to_string(path).unwrap() == text,
        "docs/openapi.json is out of date; write it with: cargo run -- openapi > docs/openapi.json"
    );
}

#[test]
fn every_code_belongs_to_one_status_and_is_documented() {
    let listed = &DOCUMENT["components"]["schemas"]["Code"];
    let names: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(listed["enum"], json!(names));
    assert_eq!(
        names.iter().collect::<BTreeSet<_>>().len(),
        names.len(),
        "a code stands there twice"
    );
    let told: BTreeSet<&str> = operations().iter().flat_map(Operation::codes).collect();
    let unused: Vec<&str> = names.into_iter().filter(|name| !told.contains(name)).collect();
    assert_eq!(
        unused,
        ["method_not_allowed"],
        "which is not an operation's, but of every path"
    );
}

/// axum tells no list of its routes. They are registered by `routes!`, which takes the description along.
#[test]
fn no_public_route_is_registered_without_a_description() {
    for folder in ["api", "webhooks"] {
        let folder = format!("{}/src/{folder}", env!("CARGO_MANIFEST_DIR"));
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            // The unit tests of a file.
            if path.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains(".route("), "{} must use routes!", path.display());
        }
    }
}

/// The world as the examples have it, with the very ids.
struct Stage {
    app: TestApp,
    ada: FakeUser,
    eve: FakeUser,
}

/// How far the world of the examples has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Chapter {
    Nothing,
    Organization,
    Project,
    Invited,
    SignedIn,
}

/// The example in the path of an operation.
fn example_id(operation: &str) -> &'static str {
    let operation = operations()
        .into_iter()
        .find(|one| one.id() == operation)
        .expect("an operation");
    operation.description["parameters"][0]["example"]
        .as_str()
        .expect("an example")
}

async fn id_of(tx: &mut Tx, person: &FakeUser) -> Uuid {
    let person = PersonRef::Clerk(person.id.clone());
    tx.live_people(std::slice::from_ref(&person)).await.unwrap()[&person]
}

impl Stage {
    async fn at(chapter: Chapter, database: TestDatabase, change: impl FnOnce(&mut Settings)) -> Self {
        let app = TestApp::start_with(database, |settings| {
            let keys = format!("{API_KEY},limited:{LIMITED_KEY}@{NOBODYS}");
            settings.usher_api_keys = Some(Secret::from(keys));
            settings.redirect_urls = Some("https://app.example.com".to_owned());
            change(settings);
        })
        .await;
        let person = |id: &str, first: &str, last: &str, email: &str| FakeUser {
            first_name: Some(first.to_owned()),
            last_name: Some(last.to_owned()),
            created_at: app.now() - TimeDelta::days(100),
            updated_at: app.now() - TimeDelta::days(100),
            ..FakeUser::new(id, email, app.now())
        };
        let ada = person(example_id("listUserInvites"), "Ada", "Lovelace", "ada@example.com");
        let eve = person("user_2eve", "Eve", "Moneypenny", "eve@example.com");
        let grace = person("user_2grace", "Grace", "Hopper", "grace@example.com");
        let stage = Self { app, ada, eve };
        stage.set(chapter, &grace).await;
        stage
    }

    /// By the store: the document's invite has an id, and the API gives its own.
    async fn set(&self, chapter: Chapter, grace: &FakeUser) {
        let app = &self.app;
        let id = |operation: &str| example_id(operation).parse::<Uuid>().unwrap();
        let (acme, apollo) = (id("putOrganization"), id("putProject"));
        let mut tx = app.app.store.begin().await.unwrap();
        if chapter >= Chapter::Organization {
            tx.put_organization(&acme.into(), "Acme").await.unwrap();
        }
        if chapter >= Chapter::Project {
            tx.put_project(&apollo.into(), acme, "Apollo", None).await.unwrap();
        }
        tx.commit().await.unwrap();
        if chapter >= Chapter::Project {
            app.clerk().tells_of(grace).await;
            app.run_jobs().await;
            let mut tx = app.app.store.begin().await.unwrap();
            let admin_id = id_of(&mut tx, grace).await;
            tx.add_to_admins(&[NewAdmin {
                person_id: admin_id,
                organization_id: acme,
                role: "member".to_owned(),
            }])
            .await
            .unwrap();
            let roles = &app.app.config.roles;
            let grant = |place_id| Grant {
                target_id: place_id,
                admin_id,
                role: "admin".to_owned(),
            };
            tx.grant_in_organizations(&[grant(acme)], &roles.organization)
                .await
                .unwrap();
            tx.grant_in_projects(&[grant(apollo)], &roles.project).await.unwrap();
            tx.commit().await.unwrap();
        }
        if chapter >= Chapter::Invited {
            let mut tx = app.app.store.begin().await.unwrap();
            let invite = NewInvite {
                id: id("getInvite"),
                organization_id: acme,
                project_id: None,
                email: EmailAddress::parse("ada@example.com").unwrap(),
                role: "member".to_owned(),
                acceptance: Acceptance::Default,
                invited_by: Some(id_of(&mut tx, grace).await),
                details: InviteDetails::default(),
                expires_at: app.now() + TimeDelta::days(7),
            };
            tx.save_invites(&[invite]).await.unwrap();
            let mail = NewDelivery {
                invite_id: id("getInvite"),
                kind: DeliveryKind::Invite,
                to_email: "ada@example.com".to_owned(),
            };
            tx.queue_deliveries(&[mail]).await.unwrap();
            tx.commit().await.unwrap();
            app.run_jobs().await;
        }
        if chapter >= Chapter::SignedIn {
            for person in [&self.ada, &self.eve] {
                app.clerk()
                    .session_created_with_user(&format!("sess_{}", person.id), person)
                    .await;
            }
            app.run_jobs().await;
        }
    }

    /// A call of an operation as its examples say, with a genuine token in the place of the document's.
    fn call(&self, operation: &Operation) -> Call {
        let mut path = operation.path.to_owned();
        for parameter in operation.description["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] == "path" {
                let name = parameter["name"].as_str().unwrap();
                path = path.replace(
                    &format!("{{{name}}}"),
                    parameter["example"].as_str().expect("an example"),
                );
            }
        }
        let bearer = if operation.is_called_with("api_key") {
            Some(API_KEY.to_owned())
        } else if operation.is_called_with("session") {
            Some(self.app.session_token(json!({ "sub": self.ada.id })))
        } else {
            None
        };
        let content = &operation.description["requestBody"]["content"]["application/json"];
        let bodies: Vec<Value> = match content["examples"].as_object() {
            Some(examples) => examples.values().map(|example| example["value"].clone()).collect(),
            None => content.get("example").cloned().into_iter().collect(),
        };
        let schema = content.get("schema");
        for body in &bodies {
            assert_eq!(errors(schema.expect("a schema"), body), [""; 0], "{}", operation.id());
        }
        let genuine = self.app.app.token_key.token(LinkClaim {
            invite_id: example_id("getInvite").parse().unwrap(),
            version: 1,
        });
        let genuinely = |text: String| text.replace(example_id("previewInviteLink"), &genuine);
        Call {
            operation: *operation,
            method: operation.method.to_ascii_uppercase().parse().unwrap(),
            path: genuinely(path),
            bearer,
            bodies: bodies.iter().map(|body| genuinely(body.to_string())).collect(),
        }
    }
}

/// A request that is about to be sent.
struct Call {
    operation: Operation,
    method: Method,
    path: String,
    bearer: Option<String>,
    bodies: Vec<String>,
}

impl Call {
    fn request(&self, app: &TestApp, body: Option<&str>) -> Request<Body> {
        if self.operation.is_called_with("svix_signature") {
            let svix_id = format!("msg_{}", app.clock.new_id().simple());
            return into_request(signed(app, &svix_id, body.unwrap_or_default()));
        }
        let mut request = request(self.method.clone(), &self.path, self.bearer.as_deref(), None);
        if let Some(body) = body {
            *request.body_mut() = Body::from(body.to_owned());
            request
                .headers_mut()
                .insert("content-type", "application/json".parse().unwrap());
        }
        request
    }

    fn good(&self, app: &TestApp) -> Request<Body> {
        self.request(app, self.bodies.first().map(String::as_str))
    }
}

/// An example and the answer have the same fields, and say the same but for what differs each time.
#[track_caller]
fn assert_alike(example: &Value, answer: &Value, at: &str) {
    const DIFFERS: &[&str] = &["id", "admin_id", "message_id", "since", "next_cursor", "timestamp"];
    match (example, answer) {
        (Value::Object(example), Value::Object(answer)) => {
            let keys = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(keys(example), keys(answer), "the fields of {at}");
            for (name, value) in example {
                if !DIFFERS.contains(&name.as_str()) && !name.ends_with("_at") {
                    assert_alike(value, &answer[name], &format!("{at}.{name}"));
                }
            }
        }
        (Value::Array(example), Value::Array(answer)) => {
            assert_eq!(example.len(), answer.len(), "the items of {at}");
            for (n, (example, answer)) in example.iter().zip(answer).enumerate() {
                assert_alike(example, answer, &format!("{at}[{n}]"));
            }
        }
        _ => assert_eq!(example, answer, "{at}"),
    }
}

/// The world in which an operation's example is answered with a status.
fn chapter_of(operation: &str, status: &str) -> Chapter {
    match (operation, status) {
        ("putOrganization", "201") => Chapter::Nothing,
        ("putProject", "201") => Chapter::Organization,
        ("putProject" | "createInvite" | "createInvites" | "receiveClerkEvent", _) => Chapter::Project,
        ("listMyInvites" | "listUserInvites", _) => Chapter::SignedIn,
        (_, _) if operation.ends_with("Member") || operation.ends_with("Memberships") => Chapter::SignedIn,
        (_, _) if operation.ends_with("InviteByLink") => Chapter::SignedIn,
        ("acceptInvite" | "declineInvite" | "dismissInvite", _) => Chapter::SignedIn,
        _ => Chapter::Invited,
    }
}

async fn every_example_is_answered_as_it_says(database: impl AsyncFn() -> TestDatabase) {
    let mut examples = 0;
    for operation in operations() {
        let answers = operation.description["responses"].as_object().unwrap();
        for (status, documented) in answers.iter().filter(|(status, _)| status.starts_with('2')) {
            let what = format!("{} {status}", operation.id());
            let stage = Stage::at(chapter_of(operation.id(), status), database().await, |_| {}).await;
            let app = &stage.app;
            let call = stage.call(&operation);
            let bodies: Vec<Option<&str>> = match call.bodies.as_slice() {
                [] => vec![None],
                bodies => bodies.iter().map(|body| Some(body.as_str())).collect(),
            };
            for (n, body) in bodies.into_iter().enumerate() {
                let mut request = call.request(app, body);
                match what.as_str() {
                    "createInvite 200" => drop(app.send(call.request(app, body)).await),
                    "putOrganizationMember 200"
                    | "putProjectMember 200"
                    | "listMyMemberships 200"
                    | "listUserMemberships 200" => make_ada_a_member(app, "admin").await,

                    "listEvents 200" => *request.uri_mut() = "/v1/events?type=invite.sent".parse().unwrap(),
                    "resendInvite 202" => app.clock.advance(TimeDelta::minutes(5)),
                    "receiveClerkEvent 200" => {
                        let other = body.unwrap().replace("user.created", "organization.created");
                        request = call.request(app, Some(&other));
                    }
                    _ => {}
                }
                let answer = app.send(request).await;
                assert_eq!(
                    answer.status.as_str(),
                    status,
                    "{what}: {}",
                    String::from_utf8_lossy(&answer.body)
                );
                let content = &documented["content"]["application/json"];
                if let Some(example) = content.get("example") {
                    assert_eq!(errors(&content["schema"], example), [""; 0], "the example of {what}");
                    // The answer's example is the first request's.
                    if n == 0 {
                        assert_alike(example, &answer.json(), &what);
                    }
                    examples += 1;
                }
            }
            app.run_jobs().await;
            stage.app.finish().await;
        }
    }
    assert!(examples > 20, "{examples}");
}

#[tokio::test]
async fn every_example_is_answered_as_it_says_on_sqlite() {
    every_example_is_answered_as_it_says(TestDatabase::sqlite).await;
}

#[tokio::test]
async fn every_example_is_answered_as_it_says_on_postgres() {
    every_example_is_answered_as_it_says(TestDatabase::postgres).await;
}

async fn make_ada_a_member(app: &TestApp, role: &str) {
    let member = |target: &str, kind: &str| format!("/v1/{kind}/{}/members/user_2ada", example_id(target));
    app.put(&member("putOrganization", "organizations"), json!({ "role": role }))
        .await;
    app.put(&member("putProject", "projects"), json!({ "role": "editor" }))
        .await;
}

/// A request that gets a code where nothing in the world has to change for it.
fn faulty(stage: &Stage, call: &Call, code: &str) -> Option<Request<Body>> {
    let app = &stage.app;
    let mut request = call.good(app);
    let token = |claims: Value| Some(app.session_token(claims));
    let bearer = |bearer: Option<String>| {
        Call {
            bearer,
            operation: call.operation,
            method: call.method.clone(),
            path: call.path.clone(),
            bodies: call.bodies.clone(),
        }
        .good(app)
    };
    let body = |body: Value| Some(call.request(app, Some(&body.to_string())));
    let at = |uri: String| {
        let mut request = call.good(app);
        *request.uri_mut() = uri.parse().unwrap();
        Some(request)
    };
    let id = call.operation.description["parameters"][0]["example"]
        .as_str()
        .unwrap_or("?");
    match code {
        "unauthorized" => return Some(bearer(None)),
        "bad_signature" => drop(request.headers_mut().remove("svix-signature")),
        "not_json" => return Some(call.request(app, Some("{"))),
        "no_type" => return body(json!({})),
        "unreadable_body" => {
            let broken = futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("broken off"))]);
            *request.body_mut() = Body::from_stream(broken);
        }
        "request_timeout" => {
            let late = futures::stream::iter([Err::<Bytes, _>(usher::server::BodyTimedOut)]);
            *request.body_mut() = Body::from_stream(late);
        }
        "unsupported_media_type" => drop(
            request
                .headers_mut()
                .insert("content-type", "text/plain".parse().unwrap()),
        ),
        "too_large" => return body(json!({ "type": "x".repeat(17 << 20) })),
        "invalid_request" if call.bodies.is_empty() => return at(format!("{}?colour=red", call.path)),
        "invalid_request" => return body(json!({ "colour": "red" })),
        "invalid_idempotency_key" => drop(request.headers_mut().insert("idempotency-key", "".parse().unwrap())),
        "idempotency_key_reused" => {
            request = body(json!({}))?;
            request.headers_mut().insert("idempotency-key", "used".parse().unwrap());
        }
        "invalid_id" => return at(call.path.replace(id, "a%20b")),
        "cursor_expired" => return at(format!("{}?after=evt_0199d3a87c0070008000000000000005", call.path)),
        "not_found" if call.path.contains("/invite-links/") => return at("/v1/invite-links/x".to_owned()),
        "not_found" if call.operation.method == "put" => return Some(bearer(Some(LIMITED_KEY.to_owned()))),
        "not_found" if matches!(call.operation.id(), "acceptInviteByLink" | "previewInviteLinkByBody") => {
            return body(json!({ "token": "x" }));
        }
        "not_found" => return at(call.path.replace(id, NOBODYS)),
        "foreign_origin" => {
            let token = token(json!({ "sub": stage.ada.id }))?;
            request = bearer(None);
            request
                .headers_mut()
                .insert("cookie", format!("__session={token}").parse().unwrap());
        }
        "impersonated" => {
            return Some(bearer(token(
                json!({ "sub": stage.ada.id, "act": { "sub": "user_2eve" } }),
            )));
        }
        "not_synced" => return Some(bearer(token(json!({ "sub": "user_2unknown" })))),
        "other_address" => return Some(bearer(token(json!({ "sub": stage.eve.id })))),
        "role_above_inviter" => {
            let mut above: Value = serde_json::from_str(&call.bodies[0]).unwrap();
            above["role"] = json!("owner");
            return body(above);
        }
        "already_member" => {
            let organization_id = example_id("putOrganization");
            return body(json!({ "organization_id": organization_id, "email": "grace@example.com", "role": "member" }));
        }
        _ => {}
    }
    Some(request)
}

/// The codes that a world is there for, and what makes it so. All others can be had in the world of the examples.
const WORLDS: &[(&[&str], &str)] = &[
    (&["invite_accepted"], "accepted"),
    (&["invite_declined"], "declined"),
    (&["invite_revoked"], "revoked"),
    (&["invite_expired", "link_expired"], "expired"),
    (&["inviter_lost_rights"], "lost rights"),
    (&["organization_deleted"], "organization deleted"),
    (&["project_deleted"], "project deleted"),
    (&["inviter_blocked"], "banned"),
    (&["unknown_role"], "other roles"),
    (&["last_owner"], "last owner"),
    (&["person_blocked"], "ada banned"),
    (&["target_deleted"], "deleted"),
    (&["rate_limited"], "limited"),
    (&["daily_mail_cap"], "capped"),
    (&["store_unavailable"], "no database"),
    (&["keys_unavailable"], "no keys"),
    // Somebody else's lock: see `contention::a_request_that_meets_a_lock_is_told_to_come_again`.
    (&["store_busy"], "-"),
    // An app's own tables: see `app_tables`.
    (&["app_must_create", "app_refused"], "-"),
    // A panic, which no request brings about: see `security::a_panic_in_a_handler_is_a_problem_without_its_cause`.
    (&["internal"], "-"),
];

async fn change(stage: &Stage, world: &str) {
    let app = &stage.app;
    let invite = example_id("getInvite");
    let ada = app.signed_in(&stage.ada);
    match world {
        // Ada would get the invite again, so it was somebody else, who had her address then.
        "accepted" => {
            ada.accept(invite).await.expect(200);
            app.pool
                .execute("update invites set accepted_by_clerk_id = 'user_2grace'")
                .await;
        }
        "declined" => drop(ada.decline(invite).await.expect(200)),
        "revoked" => drop(
            app.post(&format!("/v1/invites/{invite}/revoke"), json!({}))
                .await
                .expect(200),
        ),
        "expired" => app.clock.advance(TimeDelta::days(8)),
        "organization deleted" => {
            app.pool
                .execute("update organizations set deleted_at = updated_at")
                .await
        }
        "project deleted" => app.pool.execute("update projects set deleted_at = updated_at").await,
        "lost rights" => app.pool.execute("update organization_users set role = 'member'").await,
        "banned" => {
            let ban = "update usher_people set banned = true where clerk_user_id = 'user_2grace'";
            app.pool.execute(ban).await;
        }
        "last owner" => make_ada_a_member(app, "owner").await,
        "ada banned" => {
            let ban = "update usher_people set banned = true where clerk_user_id = 'user_2ada'";
            app.pool.execute(ban).await;
        }
        "other roles" => app.pool.execute("update invites set role = 'emperor'").await,
        "deleted" => {
            app.pool
                .execute("update organizations set deleted_at = updated_at")
                .await
        }
        // Late enough for sending again to be a matter of the cap alone.
        "capped" => {
            app.clock.advance(TimeDelta::minutes(5));
            let body = json!({
                "organization_id": example_id("putOrganization"), "email": "zoe@example.com", "role": "member",
            });
            app.post("/v1/invites", body).await.expect(201);
        }
        "no database" => app.app.store.close().await,
        "limited" => {
            for path in ["/v1/invites", "/v1/invite-links/x"] {
                app.get(path).await;
            }
            ada.banner().await;
        }
        _ => {}
    }
}

fn settings_of(world: &str) -> impl FnOnce(&mut Settings) {
    let (is_limited, is_capped, has_no_keys) = (world == "limited", world == "capped", world == "no keys");
    move |settings| {
        if is_capped {
            settings.mail_cap_organization = Some("1".to_owned());
        }
        if is_limited {
            let once = || Some("1/h".to_owned());
            settings.usher_rate_limit = once();
            settings.usher_rate_limit_person = once();
            settings.usher_rate_limit_address = once();
        }
        if has_no_keys {
            settings.clerk_jwt_key = None;
            settings.clerk_issuer = Some("http://127.0.0.1:1".to_owned());
        }
    }
}

async fn every_problem_can_be_had(database: impl AsyncFn() -> TestDatabase) {
    let of_worlds: Vec<&str> = WORLDS.iter().flat_map(|(codes, _)| *codes).copied().collect();
    let worlds = WORLDS.iter().filter(|(_, world)| *world != "-");
    for (codes, world) in [(&[][..], "as it is")].into_iter().chain(worlds.copied()) {
        let stage = Stage::at(Chapter::SignedIn, database().await, settings_of(world)).await;
        change(&stage, world).await;
        for operation in operations() {
            let told = operation.codes().into_iter();
            let wanted = told.filter(|code| {
                if codes.is_empty() {
                    !of_worlds.contains(code)
                } else {
                    codes.contains(code)
                }
            });
            for code in wanted {
                // Only beside an app's own tables: see `app_tables`.
                if code == "not_synced" && operation.id().ends_with("Member") {
                    continue;
                }
                let call = stage.call(&operation);
                if code == "idempotency_key_reused" {
                    // Of somebody else: inviting Ada again would void her link.
                    let body = call.bodies[0].replace("ada@", "zoe@");
                    let mut first = call.request(&stage.app, Some(&body));
                    first.headers_mut().insert("idempotency-key", "used".parse().unwrap());
                    stage.app.send(first).await;
                }
                let request = faulty(&stage, &call, code).expect("a request");
                let answer: Answer = stage.app.send(request).await;
                let got = answer.json()["code"].clone();
                assert_eq!(
                    got,
                    code,
                    "{} in the world “{world}”: {}",
                    operation.id(),
                    answer.status
                );
            }
        }
        if world != "no database" {
            stage.app.run_jobs().await;
            stage.app.finish().await;
        }
    }
}

#[tokio::test]
async fn every_problem_can_be_had_on_sqlite() {
    every_problem_can_be_had(TestDatabase::sqlite).await;
}

#[tokio::test]
async fn every_problem_can_be_had_on_postgres() {
    every_problem_can_be_had(TestDatabase::postgres).await;
}

#[tokio::test]
async fn the_page_needs_no_other_host_and_runs_no_script_but_its_own() {
    let app = TestApp::start(TestDatabase::sqlite().await).await;
    for path in ["/docs", "/docs/docs.js", "/docs/docs.css", "/openapi.json"] {
        let answer = app.open(path).await;
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let text = String::from_utf8_lossy(&answer.body);
        if path != "/openapi.json" {
            assert!(
                !text.contains("//") || !text.contains("http"),
                "{path} names another host"
            );
        }
    }
    let page = app.open("/docs").await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    assert!(
        !page.contains("<script>") && !page.contains(" on") && !page.contains("style="),
        "no inline code"
    );
    app.finish().await;
}

#[tokio::test]
async fn calls_can_be_sent_from_the_page_in_development_only() {
    for (environment, may) in [("development", true), ("production", false)] {
        let app = TestApp::start_with(TestDatabase::sqlite().await, |settings| {
            settings.usher_env = Some(environment.to_owned());
        })
        .await;
        let page = app.open("/docs").await;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        assert_eq!(page.contains("/docs/try.js"), may, "{environment}");
        if may {
            app.open("/docs/try.js").await;
        } else {
            let answer = app.send(request(Method::GET, "/docs/try.js", None, None)).await;
            assert_eq!(answer.problem(404), "not_found");
        }
        app.finish().await;
    }
}
