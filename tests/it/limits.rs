//! How often one may call.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use axum::http::Method;
use chrono::TimeDelta;
use usher::secret::Secret;
use usher_testkit::fake_clerk::FakeUser;

use crate::support::app::{API_KEY, Answer, TestApp, request};
use crate::support::db::TestDatabase;

const OTHER_KEY: &str = "another-key-of-more-than-32-characters";

async fn start() -> TestApp {
    TestApp::start_with(TestDatabase::sqlite().await, |settings| {
        settings.usher_api_keys = Some(Secret::from(format!("{API_KEY},{OTHER_KEY}")));
        settings.usher_rate_limit = Some("3/m".to_owned());
        settings.usher_rate_limit_person = Some("2/m".to_owned());
        settings.usher_rate_limit_address = Some("2/m".to_owned());
    })
    .await
}

async fn get(app: &TestApp, path: &str, bearer: Option<&str>, address: &str) -> Answer {
    let mut request = request(Method::GET, path, bearer, None);
    let peer = SocketAddr::new(address.parse().unwrap(), 4711);
    request.extensions_mut().insert(ConnectInfo(peer));
    app.send(request).await
}

#[tokio::test]
async fn a_key_may_call_so_often_and_again_when_time_has_passed() {
    let app = start().await;
    let path = format!("/v1/invites/{}", app.clock.new_id());
    for left in [2, 1, 0] {
        let answer = app.get(&path).await;
        assert_eq!(answer.problem(404), "not_found");
        assert_eq!(answer.headers["ratelimit-policy"], "\"key\";q=3;w=60");
        let reset = 60 - 20 * left;
        assert_eq!(answer.headers["ratelimit"], format!("\"key\";r={left};t={reset}"));
    }
    let refused = app.get(&path).await;
    assert_eq!(refused.problem(429), "rate_limited");
    assert_eq!(refused.headers["retry-after"], "20");
    assert_eq!(refused.headers["ratelimit"], "\"key\";r=0;t=60");
    let other = get(&app, &path, Some(OTHER_KEY), "192.0.2.1").await;
    assert_eq!(other.problem(404), "not_found", "another key has its own calls");
    app.clock.advance(TimeDelta::seconds(20));
    assert_eq!(app.get(&path).await.problem(404), "not_found");
    assert_eq!(app.get(&path).await.problem(429), "rate_limited");
    app.finish().await;
}

#[tokio::test]
async fn each_person_has_their_own_calls() {
    let app = start().await;
    let (ada, bob) = (
        FakeUser::new("user_ada", "ada@example.com", app.now()),
        FakeUser::new("user_bob", "bob@example.com", app.now()),
    );
    for _ in 0..2 {
        app.signed_in(&ada).banner().await;
    }
    let refused = app.signed_in(&ada).call(Method::GET, "/v1/me/invites").await;
    assert_eq!(refused.problem(429), "rate_limited");
    assert_eq!(refused.headers["ratelimit-policy"], "\"person\";q=2;w=60");
    app.signed_in(&bob).banner().await;
    app.finish().await;
}

#[tokio::test]
async fn whoever_guesses_is_slowed_down_by_address_and_right_credentials_are_not() {
    let app = start().await;
    let path = format!("/v1/invites/{}", app.clock.new_id());
    for (path, wrong) in [(path.as_str(), Some("wrong")), ("/v1/me/invites", None)] {
        assert_eq!(get(&app, path, wrong, "192.0.2.1").await.problem(401), "unauthorized");
    }
    assert_eq!(
        get(&app, &path, Some("wrong"), "192.0.2.1").await.problem(429),
        "rate_limited"
    );
    assert_eq!(
        get(&app, "/v1/me/invites", None, "192.0.2.1").await.problem(429),
        "rate_limited"
    );
    assert_eq!(
        get(&app, &path, Some(API_KEY), "192.0.2.1").await.problem(404),
        "not_found"
    );
    assert_eq!(
        get(&app, &path, Some("wrong"), "192.0.2.2").await.problem(401),
        "unauthorized"
    );
    app.finish().await;
}

#[tokio::test]
async fn webhooks_are_not_limited() {
    let app = start().await;
    for i in 0..10 {
        app.clerk().user_created(&format!("ada-{i}@example.com")).await;
    }
    app.run_jobs().await;
    app.finish().await;
}

#[tokio::test]
async fn whoever_opens_links_is_limited_by_address_whatever_the_link() {
    let app = start().await;
    let acme = app.organization("Acme").await;
    app.invite_to_organization(acme, "ada@example.com", "member").await;
    app.run_jobs().await;
    let genuine = format!("/v1/invite-links/{}", app.token_in_mail_to("ada@example.com"));
    let first = get(&app, &genuine, None, "192.0.2.1").await;
    first.expect(200);
    assert_eq!(first.headers["ratelimit-policy"], "\"address\";q=2;w=60");
    assert_eq!(first.headers["ratelimit"], "\"address\";r=1;t=30");
    let forged = get(&app, "/v1/invite-links/forged", None, "192.0.2.1").await;
    assert_eq!(forged.problem(404), "not_found");
    for path in [genuine.as_str(), "/v1/invite-links/forged"] {
        let refused = get(&app, path, None, "192.0.2.1").await;
        assert_eq!(refused.problem(429), "rate_limited");
        assert_eq!(refused.headers["retry-after"], "30");
    }
    get(&app, &genuine, None, "192.0.2.2").await.expect(200);
    app.clock.advance(TimeDelta::seconds(30));
    get(&app, &genuine, None, "192.0.2.1").await.expect(200);
    app.finish().await;
}
