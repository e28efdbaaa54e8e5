use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::super::test_log::log;
use super::super::test_server::{Answer, TestServer};
use super::*;

const SECRET: &str = "sk_test_very_secret";

fn json_user(id: &str) -> Value {
    json!({
        "id": id, "object": "user", "username": null, "first_name": "Ada", "last_name": "Lovelace",
        "image_url": "https://img.clerk.com/ada", "primary_email_address_id": "idn_1",
        "email_addresses": [{
            "id": "idn_1", "object": "email_address", "email_address": "ada@example.com",
            "verification": {"status": "verified", "strategy": "email_code", "attempts": null, "expire_at": null},
            "linked_to": [],
        }],
        "banned": false, "locked": false, "created_at": 1_790_000_000_000_i64,
        "updated_at": 1_790_000_000_000_i64,
    })
}

fn user(id: &str) -> Answer {
    Answer::Body(200, json_user(id).to_string())
}

fn status(status: u16) -> Answer {
    Answer::Body(status, r#"{"errors":[{"code":"x"}]}"#.into())
}

fn client(server: &TestServer) -> BackendClient {
    BackendClient::new(&server.url, SECRET).unwrap()
}

fn unavailable<T: std::fmt::Debug>(result: &Result<T, BackendError>) -> bool {
    matches!(result, Err(BackendError::Unavailable(_)))
}

#[tokio::test]
async fn a_user_is_asked_for_with_the_secret_key() {
    let server = TestServer::start(user("user_ada")).await;
    let found = client(&server).user("user_ada").await.unwrap().unwrap();
    assert_eq!(found.primary_email(), Some("ada@example.com"));
    let request = server.requests().remove(0);
    assert!(request.starts_with("GET /v1/users/user_ada HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nauthorization: Bearer sk_test_very_secret\r\n"));
    assert!(request.contains("\r\nuser-agent: usher/"));
}

#[tokio::test]
async fn the_address_may_have_a_path() {
    let server = TestServer::start(user("user_ada")).await;
    for base in ["proxy", "proxy/"] {
        let url = server.url.join(base).unwrap();
        let client = BackendClient::new(&url, SECRET).unwrap();
        client.user("user_ada").await.unwrap();
        assert!(
            server
                .requests()
                .pop()
                .unwrap()
                .starts_with("GET /proxy/v1/users/user_ada ")
        );
    }
}

#[tokio::test]
async fn answers_are_told_apart() {
    let unexpected = |reason: &str| Err(BackendError::Unexpected(reason.to_owned()));
    let down = |reason: &str| Err(BackendError::Unavailable(reason.to_owned()));
    for (answer, expected) in [
        (status(404), Ok(None)),
        (status(401), Err(BackendError::Refused)),
        (status(403), Err(BackendError::Refused)),
        (status(429), down("status 429")),
        (status(500), down("status 500")),
        (status(503), down("status 503")),
        (status(400), unexpected("status 400")),
        (status(204), unexpected("status 204")),
        (Answer::Redirect("/v1/users/user_eve"), unexpected("status 302")),
        (user("user_eve"), unexpected("another user")),
        (
            Answer::Body(200, "<html>ada@example.com".into()),
            unexpected("not JSON at line 1, column 1"),
        ),
        (
            Answer::Body(200, json!({"data": json_user("user_ada")}).to_string()),
            unexpected("user.email_addresses is missing"),
        ),
    ] {
        let server = TestServer::start(answer).await;
        assert_eq!(client(&server).user("user_ada").await, expected);
        assert_eq!(server.hits(), 1);
    }
}

#[tokio::test]
async fn an_unreachable_clerk_is_unavailable() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}", port.local_addr().unwrap())).unwrap();
    drop(port);
    let client = BackendClient::new(&url, SECRET).unwrap();
    assert_eq!(
        client.user("user_ada").await,
        Err(BackendError::Unavailable("could not connect".into()))
    );
}

#[tokio::test]
async fn a_silent_clerk_is_given_two_seconds() {
    let server = TestServer::start(Answer::Silence).await;
    let client = client(&server);
    let start = tokio::time::Instant::now();
    // The paused clock jumps to the time limit once nothing else can happen.
    tokio::time::pause();
    assert_eq!(
        tokio::time::timeout(TIME_LIMIT * 2, client.user("user_ada")).await,
        Ok(Err(BackendError::Unavailable("timed out".into())))
    );
    let taken = start.elapsed();
    assert!(taken >= TIME_LIMIT && taken < TIME_LIMIT * 2, "{taken:?}");
}

#[tokio::test]
async fn what_is_no_id_is_never_sent() {
    let server = TestServer::start(user("user_ada")).await;
    let client = client(&server);
    let longest = "u".repeat(64);
    for id in [
        "",
        "../organizations",
        "user_ada/ban",
        "user_ada?x=1",
        "user ada",
        "user-ada",
        "user_adä",
        "user_ada\r\n",
        ".",
        &format!("{longest}u"),
    ] {
        assert_eq!(client.user(id).await, Err(BackendError::InvalidId), "{id:?}");
    }
    assert_eq!(server.hits(), 0);
    assert!(client.user(&longest).await.is_err());
    assert_eq!(server.hits(), 1);
}

#[tokio::test]
async fn an_answer_is_remembered_and_a_failure_is_not() {
    let server = TestServer::start(status(500)).await;
    let client = client(&server);
    assert!(unavailable(&client.user("user_ada").await));
    server.now_answers(user("user_ada"));
    for _ in 0..3 {
        assert!(client.user("user_ada").await.unwrap().is_some());
    }
    assert_eq!(server.hits(), 2);
    server.now_answers(status(404));
    for _ in 0..3 {
        assert_eq!(client.user("user_eve").await, Ok(None));
    }
    assert_eq!(server.hits(), 3);
}

/// The cache has a clock of its own, which no test can move on.
#[tokio::test]
async fn a_user_and_an_absence_are_remembered_for_their_own_time() {
    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(100);
    for (answer, cache) in [
        (user("user_ada"), cache(SHORT, LONG)),
        (status(404), cache(LONG, SHORT)),
    ] {
        let server = TestServer::start(answer).await;
        let client = BackendClient {
            cache,
            ..client(&server)
        };
        let start = Instant::now();
        while server.hits() < 2 {
            client.user("user_ada").await.unwrap();
            assert!(start.elapsed() < 100 * SHORT, "it is remembered for ever");
        }
        assert!(start.elapsed() >= SHORT);
    }
}

#[test]
fn the_cache_stays_small() {
    let cache = cache(USER_LIFETIME, ABSENCE_LIFETIME);
    let add = |id: String| {
        cache.insert(id, None);
        cache.run_pending_tasks();
    };
    for index in 0..CACHE_ENTRIES {
        add(format!("user_{index}"));
    }
    add("user_999".to_owned());
    assert!(cache.contains_key("user_0"), "no room was needed");
    add("user_new".to_owned());
    assert_eq!(cache.entry_count(), CACHE_ENTRIES);
    assert!(!cache.contains_key("user_0"), "the oldest made room");
    assert!(cache.contains_key("user_1") && cache.contains_key("user_new"));
}

#[tokio::test]
async fn few_calls_wait_for_a_silent_clerk_and_the_others_fail_at_once() {
    let server = TestServer::start(Answer::Silence).await;
    let client = Arc::new(client(&server));
    let mut waiting = JoinSet::new();
    for n in 0..MAX_CALLS {
        let client = client.clone();
        waiting.spawn(async move { client.user(&format!("user_{n}")).await });
    }
    let start = Instant::now();
    while server.hits() < MAX_CALLS {
        tokio::task::yield_now().await;
        assert!(start.elapsed() < Duration::from_secs(10), "they are not all sent");
    }
    let at_once = tokio::time::timeout(Duration::ZERO, client.user("user_ada"));
    let too_many = BackendError::Unavailable("20 calls are waiting for it".into());
    assert_eq!(at_once.await, Ok(Err(too_many)));
    assert_eq!(server.hits(), MAX_CALLS);

    // Callers who hang up make room for others.
    waiting.shutdown().await;
    server.now_answers(user("user_ada"));
    assert!(client.user("user_ada").await.unwrap().is_some());
}

#[tokio::test]
async fn failures_are_logged_once_a_minute() {
    let (lines, _guard) = log();
    let server = TestServer::start(status(503)).await;
    let client = client(&server);
    for _ in 0..3 {
        assert!(unavailable(&client.user("user_ada").await));
    }
    let log = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("WARN").count(), 1, "{log}");
    assert!(
        log.contains("could not ask Clerk for a user: Clerk's API is unavailable: status 503"),
        "{log}"
    );
    assert!(!log.contains("user_ada") && !log.contains(SECRET), "{log}");
}

#[test]
fn a_client_that_would_leak_or_lack_its_key_is_not_made() {
    let url = |url: &str| Url::parse(url).unwrap();
    for bad in [
        "http://api.clerk.com",
        "https://api.clerk.com/?x",
        "https://api.clerk.com/#x",
        "file:///x",
    ] {
        assert!(matches!(
            BackendClient::new(&url(bad), SECRET),
            Err(BackendSetupError::ApiUrl)
        ));
    }
    for bad in ["", "  ", "sk\r\nx: y", "sk\0"] {
        let error = BackendClient::new(&url("https://api.clerk.com"), bad).unwrap_err();
        assert!(matches!(error, BackendSetupError::SecretKey));
    }
}

#[tokio::test]
async fn debug_output_holds_neither_key_nor_user() {
    let server = TestServer::start(user("user_ada")).await;
    let client = client(&server);
    client.user("user_ada").await.unwrap();
    let debug = format!("{client:?}");
    assert!(
        !debug.contains(SECRET) && !debug.contains("Lovelace") && !debug.contains("ada@"),
        "{debug}"
    );
    assert!(debug.contains(server.url.as_str()), "{debug}");
}
