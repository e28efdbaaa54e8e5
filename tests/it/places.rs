//! Organizations and projects that are moved, deleted and listed while others use them.

use std::collections::HashSet;

use axum::http::Method;
use futures::future::join_all;
use serde_json::{Value, json};
use usher::secret::Secret;
use usher::store::{Address, Grant, NewAdmin, Profile};
use uuid::Uuid;

use crate::support::app::{API_KEY, Answer, TestApp, request};
use crate::support::contract::DOCUMENT;
use crate::support::{TestDatabase, stories};

const ACME: Uuid = Uuid::from_u128(0xACE);
const OTHER: Uuid = Uuid::from_u128(0x07E);
const LIMITED: &str = "a-key-that-may-use-acme-and-nothing-else";

/// usher with a key for everything and one for Acme alone, and both organizations.
async fn start(database: TestDatabase) -> TestApp {
    let app = TestApp::start_with(database, |settings| {
        settings.usher_api_keys = Some(Secret::from(format!("{API_KEY},acme:{LIMITED}@{ACME}")));
    })
    .await;
    for (id, name) in [(ACME, "Acme"), (OTHER, "Other")] {
        app.put(&format!("/v1/organizations/{id}"), json!({ "name": name }))
            .await
            .expect(201);
    }
    app
}

async fn put(app: &TestApp, key: &str, project: Uuid, organization: Uuid) -> Answer {
    let body = json!({ "name": "Apollo", "organization_id": organization });
    app.send(request(
        Method::PUT,
        &format!("/v1/projects/{project}"),
        Some(key),
        Some(body),
    ))
    .await
}

async fn is_in(app: &TestApp, project: Uuid, organization: Uuid) -> bool {
    let (project, organization) = (app.pool.literal(project), app.pool.literal(organization));
    let place = format!("projects where id = {project} and organization_id = {organization}");
    app.pool.count(&place).await == 1
}

/// The organizations that somebody is in, by the address that they were invited with.
async fn is_member(app: &TestApp, organization: Uuid, email: &str) -> bool {
    app.members(organization)
        .await
        .iter()
        .any(|member| member.starts_with(email))
}

stories! {
    #[tokio::test] TestApp, start, TestApp::finish;

    async fn a_project_that_is_moved_away_is_not_pulled_back(app) {
        let project = app.project(ACME, "Apollo").await;
        for round in 0..40 {
            let pull = async || {
                for _ in 0..4 {
                    let answer = put(app, LIMITED, project, ACME).await;
                    assert!(answer.status == 200 || answer.problem(404) == "not_found", "round {round}");
                }
            };
            let move_away = async { put(app, API_KEY, project, OTHER).await.expect(200) };
            tokio::join!(join_all((0..4).map(|_| pull())), move_away);
            assert!(is_in(app, project, OTHER).await, "it is back in round {round}");
            put(app, API_KEY, project, ACME).await.expect(200);
        }
    }

    async fn a_project_s_invites_are_listed_where_it_is(app) {
        let project = Uuid::from_u128(0xA90);
        put(app, API_KEY, project, ACME).await.expect(201);
        let body = |email: &str| json!({ "project_id": project, "email": email, "role": "client" });
        let open = app.invite(body("ada@example.com")).await;
        let revoked = app.invite(body("bob@example.com")).await;
        app.post(&format!("/v1/invites/{revoked}/revoke"), json!({})).await.expect(200);
        put(app, API_KEY, project, OTHER).await.expect(200);
        let listed = async |key: &str, query: &str| {
            let list = app.send(request(Method::GET, &format!("/v1/invites{query}"), Some(key), None)).await.expect(200);
            let ids = list["items"].as_array().unwrap().iter().map(|invite| invite["id"].as_str().unwrap().to_owned());
            ids.collect::<std::collections::BTreeSet<String>>()
        };
        assert!(listed(LIMITED, "").await.is_empty());
        assert!(listed(API_KEY, &format!("?organization_id={ACME}")).await.is_empty());
        assert_eq!(listed(API_KEY, &format!("?organization_id={OTHER}")).await, [revoked, open].into());
        app.run_jobs().await;
    }

    async fn whoever_accepts_while_a_project_moves_is_where_the_project_is(app) {
        let project = app.project(ACME, "Apollo").await;
        for round in 0..15 {
            let email = format!("ada{round}@example.com");
            let ada = app.clerk().old_user(&email);
            app.clerk().tells_of(&ada).await;
            let invite = app.invite(json!({ "project_id": project, "email": email, "role": "editor" })).await;
            app.run_jobs().await;
            let (from, to) = if round % 2 == 0 { (ACME, OTHER) } else { (OTHER, ACME) };
            let ada = app.signed_in(&ada);
            let (accepted, _) = tokio::join!(ada.accept(&invite), put(app, API_KEY, project, to));
            let home = accepted.expect(200)["organization"]["id"].clone();
            let is_in = (is_member(app, from, &email).await, is_member(app, to, &email).await);
            assert_eq!(is_in, (home == json!(from), home == json!(to)), "round {round}: {home}");
        }
    }

    async fn what_was_deleted_is_not_brought_back_by_a_put(app) {
        let acme = format!("/v1/organizations/{ACME}");
        let (apollo, zeus) = (app.project(ACME, "Apollo").await, app.project(OTHER, "Zeus").await);
        let delete = async |table: &str, id: Uuid| {
            let id = app.pool.literal(id);
            app.pool.execute(&format!("update {table} set deleted_at = updated_at where id = {id}")).await;
        };
        delete("projects", apollo).await;
        for key in [API_KEY, LIMITED] {
            assert_eq!(put(app, key, apollo, ACME).await.problem(409), "project_deleted");
        }
        delete("organizations", ACME).await;
        for key in [API_KEY, LIMITED] {
            let renamed = app.send(request(Method::PUT, &acme, Some(key), Some(json!({ "name": "Acme" })))).await;
            assert_eq!(renamed.problem(409), "organization_deleted");
            assert_eq!(put(app, key, app.clock.new_id(), ACME).await.problem(409), "organization_deleted", "a new project");
        }
        assert_eq!(put(app, API_KEY, zeus, ACME).await.problem(409), "organization_deleted", "moved into it");
        assert_eq!(put(app, LIMITED, zeus, ACME).await.problem(404), "not_found", "a foreign one");
        let pluto = app.project(OTHER, "Pluto").await;
        delete("organizations", OTHER).await;
        let third = app.organization("Third").await;
        assert_eq!(put(app, API_KEY, pluto, third).await.problem(409), "project_deleted", "out of what is deleted");
        // To the limited key, Other and a project in it are as what is not there.
        for (id, unknown) in [(OTHER, app.clock.new_id())] {
            let foreign = put(app, LIMITED, app.clock.new_id(), id).await;
            let unknown = put(app, LIMITED, app.clock.new_id(), unknown).await;
            assert_eq!((foreign.problem(422), &foreign.body), (unknown.problem(422), &unknown.body));
        }
        assert_eq!(app.pool.count("organizations where deleted_at is not null").await, 2);
        assert_eq!(app.pool.count("projects where deleted_at is not null").await, 1);
        assert!(is_in(app, zeus, OTHER).await && is_in(app, pluto, OTHER).await);
    }

    async fn members_come_in_pages_that_hold_everybody_once(app) {
        let project = app.project(ACME, "Apollo").await;
        members(app, 230, ACME, project).await;
        for place in [format!("/v1/organizations/{ACME}/members"), format!("/v1/projects/{project}/members")] {
            let first = app.get(&place).await.expect(200);
            assert_eq!(first["items"].as_array().unwrap().len(), 100, "unless the caller says otherwise");
            for (limit, pages) in [(1, 230), (30, 8), (115, 2), (229, 2), (230, 1), (500, 1)] {
                let (mut seen, mut count, mut cursor) = (HashSet::new(), 0, String::new());
                loop {
                    let page = app.get(&format!("{place}?limit={limit}{cursor}")).await.expect(200);
                    let items = page["items"].as_array().unwrap();
                    assert!(items.len() <= limit);
                    for item in items {
                        assert!(seen.insert(item["admin_id"].as_str().unwrap().to_owned()), "twice");
                    }
                    count += 1;
                    match page["next_cursor"].as_str() {
                        Some(next) => cursor = format!("&cursor={next}"),
                        None => break,
                    }
                }
                assert_eq!((seen.len(), count), (230, pages), "by {limit}");
            }
            // Whoever is removed while somebody turns the pages is missing, and nobody else.
            let next = first["next_cursor"].as_str().unwrap().to_owned();
            let second = app.get(&format!("{place}?limit=130&cursor={next}")).await.expect(200);
            let last = first["items"][99]["admin_id"].as_str().unwrap().parse::<Uuid>().unwrap();
            let last = app.pool.literal(last);
            for table in ["organization_users", "project_admins"] {
                app.pool.execute(&format!("update {table} set deleted_at = updated_at where admin_id = {last}")).await;
            }
            assert_eq!(app.get(&format!("{place}?limit=130&cursor={next}")).await.expect(200), second);
            for table in ["organization_users", "project_admins"] {
                app.pool.execute(&format!("update {table} set deleted_at = null")).await;
            }
            for wrong in ["limit=0", "limit=501", "limit=x", "cursor=", "cursor=x", "cursor=AAAA", "colour=red"] {
                let field = wrong.split('=').next().unwrap();
                assert_eq!(app.get(&format!("{place}?{wrong}")).await.wrong_fields(), [field], "{wrong}");
            }
        }
    }
}

/// Makes so many people members of both.
async fn members(app: &TestApp, count: usize, organization: Uuid, project: Uuid) {
    let mut tx = app.app.store.begin().await.unwrap();
    let profiles: Vec<Profile> = (0..count)
        .map(|n| {
            let email = usher::invites::email::EmailAddress::parse(&format!("p{n}@example.com")).unwrap();
            Profile {
                clerk_user_id: format!("user_{n}"),
                addresses: vec![Address {
                    email: email.as_str().to_owned(),
                    key: email.key().clone(),
                    verified: true,
                    primary: true,
                }],
                first_name: None,
                last_name: None,
                image_url: None,
                locale: None,
                banned: false,
                locked: false,
                created_at: app.now(),
                updated_at: app.now(),
            }
        })
        .collect();
    let people = tx.save_people(&profiles.iter().collect::<Vec<_>>()).await.unwrap();
    let member = |person: &usher::store::Person| NewAdmin {
        person_id: person.id,
        organization_id: organization,
        role: "member".to_owned(),
    };
    tx.add_to_admins(&people.iter().map(member).collect::<Vec<_>>())
        .await
        .unwrap();
    let roles = &app.app.config.roles;
    let grants = |place_id| -> Vec<Grant> {
        let grant = |admin_id| Grant {
            target_id: place_id,
            admin_id,
            role: "admin".to_owned(),
        };
        people.iter().map(|person| grant(person.admin_id.unwrap())).collect()
    };
    tx.grant_in_organizations(&grants(organization), &roles.organization)
        .await
        .unwrap();
    tx.grant_in_projects(&grants(project), &roles.project).await.unwrap();
    tx.commit().await.unwrap();
}

/// Holds a move of the project open while `call` is under way, and lets it happen once the call waits for it or has ended.
async fn while_it_moves(app: &TestApp, project: Uuid, to: Uuid, call: impl Future<Output = Answer>) -> Answer {
    let mut moving = app.pool.pg().begin().await.unwrap();
    sqlx::query("update projects set organization_id = $2 where id = $1")
        .bind(project)
        .bind(to)
        .execute(&mut *moving)
        .await
        .unwrap();
    let somebody_waits = async {
        let waiting = "pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        while app.pool.count(waiting).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::pin!(call);
    tokio::select! {
        answer = &mut call => {
            moving.commit().await.unwrap();
            return answer;
        }
        () = somebody_waits => moving.commit().await.unwrap(),
    }
    call.await
}

#[tokio::test]
async fn what_meets_a_move_of_the_app_waits_for_it_and_goes_by_where_the_project_is_then() {
    let app = start(TestDatabase::postgres().await).await;
    let project = app.project(ACME, "Apollo").await;
    let ada = app.clerk().old_user("ada@example.com");
    app.clerk().tells_of(&ada).await;
    let body = json!({ "project_id": project, "email": "ada@example.com", "role": "editor" });
    let invite = app.invite(body).await;
    app.run_jobs().await;

    let ada = app.signed_in(&ada);
    let accepted = while_it_moves(&app, project, OTHER, ada.accept(&invite))
        .await
        .expect(200);
    assert_eq!(accepted["organization"]["id"], json!(OTHER));
    assert!(!is_member(&app, ACME, "ada@").await && is_member(&app, OTHER, "ada@").await);

    put(&app, API_KEY, project, ACME).await.expect(200);
    let pulled = while_it_moves(&app, project, OTHER, put(&app, LIMITED, project, ACME)).await;
    assert_eq!(pulled.problem(404), "not_found");
    assert!(is_in(&app, project, OTHER).await);

    put(&app, API_KEY, project, ACME).await.expect(200);
    let body = json!({ "project_id": project, "email": "bob@example.com", "role": "editor" });
    let invites = app.send(request(Method::POST, "/v1/invites", Some(LIMITED), Some(body)));
    assert_eq!(
        while_it_moves(&app, project, OTHER, invites).await.wrong_fields(),
        ["project_id"]
    );
    assert_eq!(app.pool.count("invites where email = 'bob@example.com'").await, 0);
    app.run_jobs().await;
    app.finish().await;
}

/// The fullest batch that the document allows, each character of its messages this one.
fn fullest_batch(organization: Uuid, character: char) -> Value {
    let schema = |name: &str| &DOCUMENT["components"]["schemas"][name]["properties"];
    let most = |value: &Value| usize::try_from(value.as_u64().expect("a number")).unwrap();
    let items = most(&schema("BatchRequest")["invites"]["maxItems"]);
    let message = character
        .to_string()
        .repeat(most(&schema("CreateInvite")["message"]["maxLength"]));
    let invites: Vec<Value> = (0..items)
        .map(|n| {
            let email = format!("{}{n:03}@{}.example", "a".repeat(61), "b".repeat(63));
            json!({ "organization_id": organization, "email": email, "role": "member", "message": message,
                    "acceptance": "ask", "expires_in": "000000000000030d", "locale": "de-Latn-DE-1996" })
        })
        .collect();
    json!({ "invites": invites })
}

/// JSON with every character escaped that can be.
fn escaped(value: &Value) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let mut in_text = false;
    for character in value.to_string().chars() {
        in_text ^= character == '"';
        if in_text && character != '"' {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(text, "\\u{unit:04x}").unwrap();
            }
        } else {
            text.push(character);
        }
    }
    text
}

stories! {
    async fn the_fullest_batch_that_the_document_allows_is_taken_however_it_is_written(app) {
        let acme = app.organization("Acme").await;
        let send = async |body: String, key: &str| {
            let mut create = request(Method::POST, "/v1/invites/batch", Some(API_KEY), None);
            create.headers_mut().insert("content-type", "application/json".parse().unwrap());
            create.headers_mut().insert("idempotency-key", key.parse().unwrap());
            *create.body_mut() = axum::body::Body::from(body);
            app.send(create).await
        };
        let body = escaped(&fullest_batch(acme, '😀'));
        let first = send(body.clone(), "full").await.expect(200);
        let results = first["results"].as_array().unwrap();
        assert_eq!(results.len(), 500);
        assert!(results.iter().all(|result| result["status"] == 201));

        // An answer of that length is not kept. What was done is, and is shown as it stands by now.
        assert_eq!(app.pool.count("usher_idempotency_keys where answer is null and length(outcomes) < 50000").await, 1);
        let revoked = results[7]["invite"]["id"].as_str().unwrap();
        app.post(&format!("/v1/invites/{revoked}/revoke"), json!({})).await.expect(200);
        let again = send(body, "full").await.expect(200);
        for (n, (first, again)) in results.iter().zip(again["results"].as_array().unwrap()).enumerate() {
            assert_eq!((&first["status"], &first["invite"]["id"]), (&again["status"], &again["invite"]["id"]));
            assert_eq!(again["invite"]["status"], if n == 7 { "revoked" } else { "pending" });
        }
        assert_eq!(app.pool.count("usher_deliveries").await, 500, "nothing was done twice");
        app.pool.execute(&format!("update {} set status = 'Done'", app.pool.jobs())).await;
    }

    async fn a_body_of_many_values_is_refused_before_they_are_read(app) {
        let zeros = format!("{{\"invites\": [{}0]}}", "0,".repeat(2_000_000));
        let mut create = request(Method::POST, "/v1/invites/batch", Some(API_KEY), None);
        create.headers_mut().insert("content-type", "application/json".parse().unwrap());
        *create.body_mut() = axum::body::Body::from(zeros);
        assert_eq!(app.send(create).await.problem(413), "too_large");
    }

    async fn a_name_that_nobody_can_see_is_none(app) {
        let id = app.clock.new_id();
        for name in ["\u{3164}", "\u{2800}", "\u{115f}\u{1160}", "\u{ffa0}", "\u{34f}", "\u{180e}", "\u{fe0f}", "\u{ad}",
                     "\u{200d}\u{200c}", "\u{e0001}\u{e0041}", "\u{2060}", "\u{301}", "\u{3164} \u{2800}"] {
            for (path, body) in [
                (format!("/v1/organizations/{id}"), json!({ "name": name })),
                (format!("/v1/projects/{id}"), json!({ "name": name, "organization_id": id })),
            ] {
                assert_eq!(app.put(&path, body).await.wrong_fields(), ["name"], "{name:?}");
            }
        }
        app.put(&format!("/v1/organizations/{id}"), json!({ "name": "\u{3164}가" })).await.expect(201);
        // Whom Clerk calls so is invited by as somebody without a name.
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "eve@example.com", "owner").await;
        app.run_jobs().await;
        let mut eve = app.clerk().user("eve@example.com");
        eve.first_name = Some("\u{3164}\u{2800}".to_owned());
        eve.last_name = None;
        app.clerk().tell("user.created", eve.to_json()).await;
        app.run_jobs().await;
        let invite = app.invite(json!({
            "organization_id": acme, "email": "bob@example.com", "role": "member", "invited_by": eve.id,
        })).await;
        app.run_jobs().await;
        assert_eq!(app.show(&invite).await["invited_by"]["name"], Value::Null);
        assert_eq!(app.mails().pop().unwrap().header("Subject").as_deref(), Some("You are invited to Acme"));
    }
}
