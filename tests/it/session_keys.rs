//! Clerk's keys and its issuer, when they are not what they should be: what is refused, and what the log says of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::routing::get;
use chrono::TimeDelta;
use serde_json::json;
use usher::clock::Clock;

use crate::support::app::{ISSUER, ORIGIN, SIGNER, TestApp, request};
use crate::support::process::{UsherProcess, eventually};
use crate::support::smtp::SmtpServer;
use crate::support::{TestDatabase, on_both_databases};

/// A server with Clerk's key set, which can be made to fail.
async fn key_server() -> (String, Arc<AtomicBool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let is_well = Arc::new(AtomicBool::new(true));
    let keys = {
        let is_well = is_well.clone();
        async move || {
            if is_well.load(Ordering::SeqCst) {
                (StatusCode::OK, SIGNER.jwks_json().unwrap())
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, String::new())
            }
        }
    };
    let routes = Router::new().route("/.well-known/jwks.json", get(keys));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (url, is_well)
}

async fn security_25_keys_that_clerk_may_have_withdrawn_serve_for_a_day_at_most(database: TestDatabase) {
    let (url, is_well) = key_server().await;
    let app = TestApp::start_with(database, |settings| {
        settings.clerk_jwt_key = None;
        // As it is copied from a browser.
        settings.clerk_issuer = Some(format!("{url}/.well-known/jwks.json"));
    })
    .await;
    let look = async || {
        let token = app.session_token(json!({ "sub": "user_ada", "iss": url }));
        app.send(request(Method::GET, "/v1/me/invites", Some(&token), None))
            .await
    };
    look().await.expect(200);
    is_well.store(false, Ordering::SeqCst);
    app.clock.advance(TimeDelta::hours(24) - TimeDelta::seconds(1));
    look().await.expect(200);
    app.clock.advance(TimeDelta::seconds(1));
    assert_eq!(look().await.problem(503), "keys_unavailable");
    app.clock.advance(TimeDelta::days(100));
    assert_eq!(look().await.problem(503), "keys_unavailable");
    is_well.store(true, Ordering::SeqCst);
    app.clock.advance(TimeDelta::minutes(1));
    look().await.expect(200);
    app.finish().await;
}

on_both_databases!(security_25_keys_that_clerk_may_have_withdrawn_serve_for_a_day_at_most);

/// How many lines of the log have all of these words.
fn lines_with(usher: &UsherProcess, words: &[&str]) -> usize {
    let log = usher.log();
    log.iter()
        .filter(|line| words.iter().all(|word| line.contains(word)))
        .count()
}

#[tokio::test]
async fn a_right_signature_with_another_issuer_is_told_with_both_and_so_is_a_page_that_may_not_read() {
    let database = TestDatabase::sqlite().await;
    let smtp = SmtpServer::start().await;
    let changes = [
        ("CLERK_ISSUER", "https://another.clerk.example"),
        ("CLERK_AUTHORIZED_PARTIES", "https://app.example.com/"),
    ];
    let usher = UsherProcess::start_with(&database, &smtp.url(), &changes).await;
    let now = Clock::System.now().timestamp();
    let token = SIGNER
        .sign_session(&json!({
            "iss": ISSUER, "azp": ORIGIN, "sub": "user_ada", "sid": "sess_1", "iat": now, "nbf": now - 5, "exp": now + 60,
        }))
        .unwrap();
    let http = reqwest::Client::new();
    for _ in 0..5 {
        let request = http.get(format!("{}/v1/me/invites", usher.address)).bearer_auth(&token);
        let answer = request
            .header("origin", "https://other.example.com")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 401);
    }
    let issuer = ["CLERK_ISSUER is https://another.clerk.example", ISSUER, "WARN"];
    let page = [
        "https://other.example.com",
        "CLERK_AUTHORIZED_PARTIES names https://app.example.com",
        "WARN",
    ];
    eventually("it is said", async || {
        lines_with(&usher, &issuer) == 1 && lines_with(&usher, &page) == 1
    })
    .await;
    assert!(!usher.log().iter().any(|line| line.contains(&token)));
    assert!(usher.terminate().await);
}
