//! The app hears: signed events, and the feed.

use std::time::Duration;

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};
use usher::config::Settings;
use usher::events;
use usher::secret::Secret;
use usher_testkit::fake_clerk::FakeUser;

use crate::support::app::request;
use crate::support::receiver::{Behave, Receiver};
use crate::support::{TestApp, TestDatabase, on_both_databases, stories};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// An app whose events go to these endpoints.
async fn telling(database: TestDatabase, endpoints: &str) -> TestApp {
    let app = TestApp::start_with(database, |settings| tell(settings, endpoints)).await;
    events::register(&app.app).await.unwrap();
    app
}

fn tell(settings: &mut Settings, endpoints: &str) {
    settings.usher_events = Some(Secret::from(endpoints.to_owned()));
    settings.usher_events_secret = Some(Secret::from(format!("{SECRET},{OLD_SECRET}")));
}

async fn feed(app: &TestApp, query: &str) -> Value {
    app.get(&format!("/v1/events{query}")).await.expect(200)
}

fn types(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().expect("items");
    items
        .iter()
        .map(|item| item["type"].as_str().expect("a type"))
        .collect()
}

async fn what_happens_is_sent_signed_and_listed(database: TestDatabase) {
    let receiver = Receiver::start().await;
    let app = telling(database, &format!("app={}", receiver.url)).await;
    let acme = app.organization("Acme").await;
    let apollo = app.project(acme, "Apollo").await;
    let invite = app
        .invite(json!({ "project_id": apollo, "email": "ada@example.com", "role": "editor", "acceptance": "auto" }))
        .await;
    app.run_jobs().await;
    let ada = app.clerk().user_created("ada@example.com").await;
    app.run_jobs().await;

    let page = feed(&app, "").await;
    assert_eq!(
        types(&page),
        [
            "invite.created",
            "invite.sent",
            "invite.accepted",
            "membership.created",
            "membership.created"
        ]
    );
    let items = page["items"].as_array().unwrap();
    assert_eq!(items[2]["data"], app.show(&invite).await);
    assert_eq!(items[2]["changes"], json!({ "status": "accepted" }));
    let member = &items[4];
    assert_eq!(member["data"]["clerk_user_id"], ada.id);
    assert_eq!(member["data"]["organization"]["name"], "Acme");
    assert_eq!(member["data"]["project"]["id"], apollo.to_string());
    assert_eq!(member["changes"], json!({ "role": "editor" }));

    let heard = receiver.heard();
    assert_eq!(heard.len(), 5);
    for heard in &heard {
        assert!(heard.is_signed_with(SECRET) && heard.is_signed_with(OLD_SECRET));
        assert!(!heard.is_signed_with("whsec_c29tZXRoaW5nIGVsc2UsIG5vdCBvdXJz"));
        assert_eq!(heard.header("webhook-id"), heard.json()["id"]);
        assert_eq!(heard.header("content-type"), "application/json");
        assert!(items.contains(&heard.json()), "sent and listed alike");
        let token = app.token_in_mail_to("ada@example.com");
        assert!(!heard.body.contains(&token));
    }
    assert!(receiver.connections() < 5, "connections are kept");
    app.finish().await;
}
on_both_databases!(what_happens_is_sent_signed_and_listed);

async fn an_endpoint_that_fails_hears_again_by_schedule(database: TestDatabase) {
    let receiver = Receiver::start().await;
    let app = telling(database, &format!("app:invite.created={}", receiver.url)).await;
    receiver.next([
        Behave::Answer(500, ""),
        Behave::Reset,
        Behave::Answer(302, "Location: /elsewhere\r\n"),
        Behave::Answer(429, "Retry-After: 7200\r\n"),
    ]);
    let acme = app.organization("Acme").await;
    app.invite_to_organization(acme, "ada@example.com", "member").await;
    app.run_jobs().await;
    assert_eq!(receiver.heard().len(), 1);
    let told = |status: &str| format!("usher_event_deliveries where status = '{status}'");
    let error = app.pool.text("select last_error from usher_event_deliveries").await;
    assert_eq!(error.as_deref(), Some("it answered 500: sorry"));
    // A fifth more than the schedule at most, then half an hour; the last answer asks for two hours.
    let waits = [TimeDelta::seconds(7), TimeDelta::minutes(6), TimeDelta::minutes(36)];
    for (tries, wait) in (1..).zip(waits) {
        assert_eq!(receiver.heard().len(), tries);
        app.clock.advance(wait);
        app.run_jobs().await;
    }
    assert_eq!(receiver.heard().len(), 4);
    app.clock.advance(TimeDelta::minutes(119));
    app.run_jobs().await;
    assert_eq!(receiver.heard().len(), 4, "Retry-After is honoured");
    app.clock.advance(TimeDelta::minutes(30));
    app.run_jobs().await;
    assert_eq!(receiver.heard().len(), 5);
    assert_eq!(app.pool.count(&told("delivered")).await, 1);
    let heard = receiver.heard();
    assert!(heard.iter().all(|one| one.body == heard[0].body));
    assert!(
        heard
            .iter()
            .all(|one| one.header("webhook-id") == heard[0].header("webhook-id"))
    );
    assert_ne!(
        heard[0].header("webhook-timestamp"),
        heard[4].header("webhook-timestamp")
    );
    app.finish().await;
}
on_both_databases!(an_endpoint_that_fails_hears_again_by_schedule);

async fn after_three_days_an_event_is_dead(database: TestDatabase) {
    let receiver = Receiver::start().await;
    let app = telling(database, &format!("app:invite.created={}", receiver.url)).await;
    receiver.always(Some(Behave::Answer(503, "")));
    let acme = app.organization("Acme").await;
    app.invite_to_organization(acme, "ada@example.com", "member").await;
    for _ in 0..60 {
        app.run_jobs().await;
        app.clock.advance(TimeDelta::hours(2));
    }
    let tries = receiver.heard().len();
    assert!((9..14).contains(&tries), "{tries}");
    assert_eq!(app.pool.count("usher_event_deliveries where status = 'dead'").await, 1);
    app.finish().await;
}
on_both_databases!(after_three_days_an_event_is_dead);

async fn an_endpoint_that_is_gone_is_disabled_until_somebody_enables_it(database: TestDatabase) {
    let (gone, other) = (Receiver::start().await, Receiver::start().await);
    let endpoints = format!("gone:invite.created={}, other:invite.created={}", gone.url, other.url);
    let app = telling(database, &endpoints).await;
    let acme = app.organization("Acme").await;
    gone.next([Behave::Answer(410, "")]);
    for name in ["ada", "bob"] {
        app.invite_to_organization(acme, &format!("{name}@example.com"), "member")
            .await;
        app.run_jobs().await;
    }
    assert_eq!((gone.heard().len(), other.heard().len()), (1, 2));
    let mut tx = app.app.store.begin().await.unwrap();
    assert!(tx.enable_endpoint("gone").await.unwrap());
    assert!(!tx.enable_endpoint("gone").await.unwrap());
    tx.commit().await.unwrap();
    app.invite_to_organization(acme, "eve@example.com", "member").await;
    app.run_jobs().await;
    assert_eq!((gone.heard().len(), other.heard().len()), (2, 3));
    app.finish().await;
}
on_both_databases!(an_endpoint_that_is_gone_is_disabled_until_somebody_enables_it);

async fn what_waits_for_an_endpoint_that_is_no_longer_configured_is_cancelled(database: TestDatabase) {
    let receiver = Receiver::start().await;
    receiver.always(Some(Behave::Answer(500, "")));
    let app = telling(database, &format!("old={0},app={0}", receiver.url)).await;
    let acme = app.organization("Acme").await;
    app.invite_to_organization(acme, "ada@example.com", "member").await;
    app.run_jobs().await;
    let mut tx = app.app.store.begin().await.unwrap();
    let cancelled = tx.register_endpoints(&["app", "new"]).await.unwrap();
    assert_eq!(cancelled, [("old".to_owned(), 2)]);
    let endpoints = tx.endpoints().await.unwrap();
    tx.commit().await.unwrap();
    let slots: Vec<_> = endpoints.iter().map(|row| (row.name.as_str(), row.slot)).collect();
    assert_eq!(slots, [("app", 2), ("new", 1)]);
    receiver.always(None);
    app.clock.advance(TimeDelta::seconds(10));
    app.run_jobs().await;
    assert_eq!(
        receiver.heard().len(),
        6,
        "two events, two tries, and one endpoint's second"
    );
    assert_eq!(
        app.pool
            .count("usher_event_deliveries where status = 'cancelled'")
            .await,
        2
    );
    app.finish().await;
}
on_both_databases!(what_waits_for_an_endpoint_that_is_no_longer_configured_is_cancelled);

stories! {
    async fn the_feed_is_read_page_by_page_and_each_event_once(app) {
        let acme = app.organization("Acme").await;
        for name in ["ada", "bob", "eve"] {
            app.invite_to_organization(acme, &format!("{name}@example.com"), "member").await;
        }
        app.run_jobs().await;
        let all = feed(app, "").await;
        assert_eq!(all["items"].as_array().unwrap().len(), 6);
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let page = feed(app, &format!("?limit=4{after}")).await;
            let items = page["items"].as_array().unwrap().clone();
            after = format!("&after={}", page["next_cursor"].as_str().unwrap());
            if items.is_empty() {
                break;
            }
            found.extend(items);
        }
        assert_eq!(found, *all["items"].as_array().unwrap());
        assert_eq!(types(&feed(app, "?type=invite.sent").await).len(), 3);
        assert_eq!(app.get("/v1/events?after=evt_1").await.wrong_fields(), ["after"]);
        let unknown = format!("/v1/events?after={}", events::event_id(app.clock.new_id()));
        assert_eq!(app.get(&unknown).await.wrong_fields(), ["after"]);
        assert_eq!(app.get("/v1/events?type=x&limit=501&wait=61").await.wrong_fields(), ["type", "limit", "wait"]);
    }

    async fn a_cursor_that_retention_has_passed_is_expired(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.run_jobs().await;
        let cursor = feed(app, "?limit=1").await["next_cursor"].as_str().unwrap().to_owned();
        app.clock.advance(TimeDelta::days(31));
        app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.run_schedules().await;
        let answer = app.get(&format!("/v1/events?after={cursor}")).await;
        assert_eq!(answer.problem(410), "cursor_expired");
        assert_eq!(types(&feed(app, "?type=invite.created").await), ["invite.created"]);
        assert_eq!(app.pool.count("usher_event_feed where last_number = 5").await, 1, "numbers go on");
    }

    async fn a_poll_waits_for_the_next_event_and_ten_wait_at_most(app) {
        let acme = app.organization("Acme").await;
        let started = std::time::Instant::now();
        let poll = feed(app, "?wait=30");
        let invite = async {
            app.invite_to_organization(acme, "ada@example.com", "member").await;
            events::number(&app.app).await.unwrap();
        };
        let (page, ()) = tokio::join!(poll, invite);
        assert_eq!(types(&page), ["invite.created"]);
        assert!(started.elapsed() < Duration::from_secs(10));
        let after = page["next_cursor"].as_str().unwrap();
        assert_eq!(feed(app, &format!("?after={after}&wait=1&type=invite.expired")).await["next_cursor"], after);

        let query = format!("/v1/events?after={after}&type=invite.expired&wait=2");
        let polls = futures::future::join_all((0..11).map(|_| app.get(&query))).await;
        let refused: Vec<_> = polls.iter().filter(|answer| answer.status == 429).collect();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].problem(429), "rate_limited");
        app.run_jobs().await;
    }

    async fn of_what_is_rolled_back_nothing_is_heard(app) {
        let acme = app.organization("Acme").await;
        let ada = app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.run_jobs().await;
        let id = ada.parse().unwrap();
        let mut tx = app.app.store.begin().await.unwrap();
        assert!(tx.revoke_invite(id).await.unwrap());
        drop(tx);
        app.run_jobs().await;
        assert_eq!(types(&feed(app, "").await), ["invite.created", "invite.sent"]);
    }

    async fn who_is_deleted_in_clerk_is_told_of(app) {
        let acme = app.organization("Acme").await;
        let ada = app.person("ada@example.com", Some((acme, "admin"))).await;
        app.clerk().user_deleted(&ada).await;
        app.run_jobs().await;
        let page = feed(app, "?type=membership.removed").await;
        assert_eq!(types(&page), ["membership.removed"]);
        let event = &page["items"][0];
        assert_eq!(event["data"]["clerk_user_id"], ada.id);
        assert_eq!(event["data"].get("role"), None);
        assert_eq!(event["changes"], json!({ "role": "admin" }));
    }

    /// Nothing can keep Clerk from deleting the last owner.
    async fn an_organization_without_an_owner_is_told_of(app) {
        let acme = app.organization("Acme").await;
        let ada = app.person("ada@example.com", Some((acme, "owner"))).await;
        let bob = app.person("bob@example.com", Some((acme, "owner"))).await;
        let eve = app.person("eve@example.com", Some((acme, "member"))).await;
        for person in [&eve, &ada] {
            app.clerk().user_deleted(person).await;
            app.run_jobs().await;
            assert_eq!(types(&feed(app, "?type=organization.ownerless").await), [""; 0]);
        }
        app.clerk().user_deleted(&bob).await;
        app.clerk().user_deleted(&bob).await;
        app.run_jobs().await;
        let page = feed(app, "?type=organization.ownerless").await;
        assert_eq!(types(&page), ["organization.ownerless"]);
        assert_eq!(page["items"][0]["data"], json!({ "organization": { "id": acme, "name": "Acme" } }));
        assert_eq!(page["items"][0]["changes"], json!({ "role": "owner" }));
    }

    /// Nothing can keep Clerk from banning the last owner, either. Who is banned is no owner to rely on.
    async fn an_organization_with_only_a_banned_owner_is_told_of(app) {
        let acme = app.organization("Acme").await;
        let ada = app.person("ada@example.com", Some((acme, "owner"))).await;
        let bob = app.person("bob@example.com", Some((acme, "owner"))).await;
        let ban = async |user: &FakeUser| {
            app.clock.advance(TimeDelta::seconds(1));
            let banned = FakeUser { banned: true, updated_at: app.now(), ..user.clone() };
            app.clerk().tell("user.updated", banned.to_json()).await;
            app.run_jobs().await;
        };
        ban(&ada).await;
        assert_eq!(types(&feed(app, "?type=organization.ownerless").await), [""; 0]);
        let bobs = format!("/v1/organizations/{acme}/members/{}", bob.id);
        assert_eq!(app.call(Method::DELETE, &bobs, None).await.problem(409), "last_owner");
        ban(&bob).await;
        ban(&bob).await;
        app.clerk().user_deleted(&bob).await;
        app.run_jobs().await;
        let page = feed(app, "?type=organization.ownerless").await;
        assert_eq!(types(&page), ["organization.ownerless"]);
        assert_eq!(page["items"][0]["changes"], json!({ "role": "owner" }));
        let adas = format!("/v1/organizations/{acme}/members/{}", ada.id);
        assert_eq!(app.call(Method::DELETE, &adas, None).await.status, 204);
    }

    async fn the_ends_of_an_invite_are_told_of(app) {
        let acme = app.organization("Acme").await;
        let revoked = app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.run_jobs().await;
        app.post(&format!("/v1/invites/{revoked}/revoke"), json!({})).await.expect(200);
        app.clock.advance(TimeDelta::days(8));
        app.run_schedules().await;
        let page = feed(app, "").await;
        assert_eq!(types(&page)[4..], ["invite.revoked", "invite.expired"]);
        assert_eq!(page["items"][5]["data"]["status"], "expired");
    }
}

async fn a_limited_key_sees_its_organizations_only(database: TestDatabase) {
    const LIMITED: &str = "limited-0123456789abcdef0123456789abcdef";
    const ACME: &str = "11111111-1111-4111-8111-111111111111";
    let app = TestApp::start_with(database, |settings| {
        let keys = format!("{},acme:{LIMITED}@{ACME}", crate::support::app::API_KEY);
        settings.usher_api_keys = Some(Secret::from(keys));
    })
    .await;
    app.put(&format!("/v1/organizations/{ACME}"), json!({ "name": "Acme" }))
        .await
        .expect(201);
    let other = app.organization("Other").await;
    app.invite_to_organization(other, "ada@example.com", "member").await;
    app.invite_to_organization(ACME.parse().unwrap(), "bob@example.com", "member")
        .await;
    app.run_jobs().await;
    let call = |path: String| app.send(request(axum::http::Method::GET, &path, Some(LIMITED), None));
    let page = call("/v1/events".to_owned()).await.expect(200);
    assert_eq!(types(&page), ["invite.created", "invite.sent"]);
    assert!(
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|item| item["data"]["organization"]["id"] == ACME)
    );
    let foreign = feed(&app, "?limit=1").await["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(
        call(format!("/v1/events?after={foreign}")).await.wrong_fields(),
        ["after"]
    );
    app.finish().await;
}
on_both_databases!(a_limited_key_sees_its_organizations_only);

#[test]
fn each_type_of_events_is_documented_with_an_example_that_fits() {
    use crate::support::contract;
    let webhooks = contract::DOCUMENT["webhooks"].as_object().expect("webhooks");
    assert_eq!(webhooks.len(), usher::store::EventType::ALL.len());
    for (name, item) in webhooks {
        let content = &item["post"]["requestBody"]["content"]["application/json"];
        assert_eq!(content["example"]["type"], *name);
        assert_eq!(
            contract::errors(&content["schema"], &content["example"]),
            [""; 0],
            "{name}"
        );
    }
}

#[test]
fn a_wrong_endpoint_or_secret_stops_the_start_with_a_sentence() {
    let refused = |endpoints: &str, secret: Option<&str>| {
        let mut settings = crate::support::app::settings("sqlite://x.db", "smtp://127.0.0.1:1");
        settings.usher_events = Some(Secret::from(endpoints.to_owned()));
        settings.usher_events_secret = secret.map(|secret| Secret::from(secret.to_owned()));
        let folder = tempfile::tempdir().unwrap();
        let errors = settings
            .resolve_in(folder.path())
            .err()
            .map(|errors| errors.to_string());
        errors.unwrap_or_default()
    };
    for (endpoints, said) in [
        ("app", "entry 1 must be name=https://…"),
        ("app=somewhere", "entry 1 has an address that is no URL"),
        (
            "app=ftp://app.example.com",
            "entry 1 must have an http:// or https:// address",
        ),
        ("app=http://app.example.com/h", "entry 1 must have an https:// address"),
        (
            "app=https://a.example, app=https://b.example",
            "entry 2 has the name of an earlier entry",
        ),
        ("my app=https://a.example", "entry 1 has a name that is not"),
        ("app=http://127.0.0.1:8080/v1", "entry 1 leads to usher itself"),
        ("app=http://localhost:9090", "entry 1 leads to usher itself"),
        (
            "app:invite.sung=https://a.example",
            "entry 1 names a type of events that does not exist",
        ),
    ] {
        let error = refused(endpoints, Some(SECRET));
        assert!(
            error.starts_with(&format!("USHER_EVENTS {said}")),
            "{endpoints}: {error}"
        );
    }
    let nine: Vec<_> = (0..9).map(|i| format!("e{i}=https://a.example")).collect();
    assert_eq!(
        refused(&nine.join(","), Some(SECRET)),
        "USHER_EVENTS names more than 8 endpoints, and there are 8 at most: remove some, or let one of them pass events on"
    );
    assert!(refused("app=https://a.example", None).starts_with("USHER_EVENTS_SECRET is missing"));
    for secret in [
        "whsec_",
        "whsec_?",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_c2hvcnQ=",
    ] {
        let error = refused("app=https://a.example", Some(secret));
        assert!(
            error.starts_with("USHER_EVENTS_SECRET must be whsec_"),
            "{secret}: {error}"
        );
    }
    for near in [
        "http://127.0.0.1:3000/h",
        "http://localhost:3000",
        "http://app:3000/h",
        "http://10.1.2.3",
        "http://[fd00::1]/h",
        "https://app.example.com/h?key=1",
    ] {
        assert_eq!(
            refused(&format!("app:invite.*+membership.removed={near}"), Some(SECRET)),
            ""
        );
    }
}

/// What the SQL door does is told of like what the API does.
#[tokio::test]
async fn inviting_by_sql_is_told_of_as_inviting_by_http() {
    let app = TestApp::start(TestDatabase::postgres().await).await;
    let acme = app.organization("Acme").await;
    app.invite_to_organization(acme, "ada@example.com", "member").await;
    app.post(
        "/v1/invites",
        json!({ "organization_id": acme, "email": "ada@example.com", "role": "admin" }),
    )
    .await
    .expect(200);
    app.run_jobs().await;
    for role in ["member", "admin"] {
        app.pool
            .execute(&format!(
                "select * from usher.invite('ada2@example.com', '{role}', '{acme}')"
            ))
            .await;
    }
    app.clock.advance(TimeDelta::seconds(5));
    app.run_jobs().await;
    let page = feed(&app, "").await;
    let shape = |item: &Value| {
        let mut item = item.clone();
        for field in ["id", "timestamp"] {
            item[field] = Value::Null;
        }
        for field in ["id", "email", "created_at", "updated_at", "expires_at", "delivery"] {
            item["data"][field] = Value::Null;
        }
        item.to_string()
    };
    let items = page["items"].as_array().unwrap();
    let of = |address: &str| -> Vec<String> {
        let about = items.iter().filter(|item| item["data"]["email"] == address);
        about.map(shape).collect()
    };
    assert_eq!(of("ada@example.com").len(), 3, "created, refreshed, sent");
    assert_eq!(of("ada@example.com"), of("ada2@example.com"));
    app.finish().await;
}

/// A transaction of the app's that stays open delays its own events only, and nothing that came later appears before.
#[tokio::test]
async fn an_open_transaction_delays_its_own_events_only() {
    let app = TestApp::start(TestDatabase::postgres().await).await;
    let acme = app.organization("Acme").await;
    let mut open = app.pool.pg().begin().await.unwrap();
    sqlx::query("select * from usher.invite('slow@example.com', 'member', $1)")
        .bind(acme)
        .execute(&mut *open)
        .await
        .unwrap();
    app.clock.advance(TimeDelta::minutes(1));
    app.invite_to_organization(acme, "ada@example.com", "member").await;
    app.run_jobs().await;
    let first = feed(&app, "").await;
    assert_eq!(types(&first), ["invite.created", "invite.sent"]);
    open.commit().await.unwrap();
    app.run_jobs().await;
    let after = first["next_cursor"].as_str().unwrap();
    let rest = feed(&app, &format!("?after={after}")).await;
    assert_eq!(types(&rest), ["invite.created", "invite.sent"]);
    assert_eq!(rest["items"][0]["data"]["email"], "slow@example.com");
    let gaps: Vec<(i64,)> = app
        .pool
        .rows("select number from usher_outgoing_events order by number")
        .await;
    assert_eq!(gaps, [(1,), (2,), (3,), (4,)]);
    app.finish().await;
}
