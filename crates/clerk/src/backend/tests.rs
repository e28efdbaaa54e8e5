use serde_json::{Value, json};

use super::super::test_server::{Answer, TestServer, skip};
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
    let start = Instant::now();
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
async fn a_user_is_remembered_for_half_a_minute() {
    let server = TestServer::start(user("user_ada")).await;
    let client = client(&server);
    for _ in 0..3 {
        assert!(client.user("user_ada").await.unwrap().is_some());
    }
    assert_eq!(server.hits(), 1);
    skip(USER_LIFETIME).await;
    assert!(client.user("user_ada").await.unwrap().is_some());
    assert_eq!(server.hits(), 2);
}

#[tokio::test]
async fn absence_is_remembered_for_five_seconds_and_failure_not_at_all() {
    let server = TestServer::start(status(404)).await;
    let client = client(&server);
    for _ in 0..3 {
        assert_eq!(client.user("user_ada").await, Ok(None));
    }
    assert_eq!(server.hits(), 1);

    server.now_answers(status(500));
    skip(ABSENCE_LIFETIME).await;
    assert!(unavailable(&client.user("user_ada").await));
    server.now_answers(user("user_ada"));
    assert!(client.user("user_ada").await.unwrap().is_some());
    assert_eq!(server.hits(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_cache_stays_small() {
    let cache = Cache::default();
    let ada = User::from_json(json_user("user_ada").to_string().as_bytes()).unwrap();
    for index in 0..CACHE_ENTRIES {
        cache.put(&format!("user_{index}"), Some(ada.clone()));
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    cache.put("user_999", Some(ada.clone()));
    assert!(cache.get("user_0").is_some(), "no room was needed");
    cache.put("user_new", Some(ada.clone()));
    assert_eq!(cache.lock().len(), CACHE_ENTRIES);
    assert!(cache.get("user_0").is_none(), "the oldest made room");
    assert!(cache.get("user_1").is_some() && cache.get("user_new").is_some());

    tokio::time::advance(USER_LIFETIME).await;
    assert!(cache.get("user_new").is_none(), "it has expired to the millisecond");
    cache.put("user_later", Some(ada.clone()));
    assert_eq!(cache.lock().len(), 1, "what has expired goes first");

    for index in 1..CACHE_ENTRIES {
        cache.put(&format!("user_{index}"), None);
    }
    tokio::time::advance(ABSENCE_LIFETIME).await;
    cache.put("user_last", Some(ada));
    assert_eq!(cache.lock().len(), 2, "what has expired makes room enough");
    assert!(cache.get("user_later").is_some());
}

#[tokio::test]
async fn five_failures_in_a_row_open_the_breaker_and_a_probe_closes_it() {
    let server = TestServer::start(status(503)).await;
    let client = client(&server);
    for expected in [1, 2, 3, 4, 5, 5, 5] {
        assert!(unavailable(&client.user("user_ada").await));
        assert_eq!(server.hits(), expected);
    }

    skip(BREAKER_PAUSE).await;
    for _ in 0..3 {
        assert!(unavailable(&client.user("user_ada").await));
        assert_eq!(server.hits(), 6, "one probe, which failed");
    }

    server.now_answers(user("user_ada"));
    skip(BREAKER_PAUSE).await;
    assert!(client.user("user_ada").await.unwrap().is_some());
    server.now_answers(status(404));
    assert_eq!(client.user("user_eve").await, Ok(None));
    assert_eq!(server.hits(), 8);
}

#[tokio::test]
async fn any_answer_ends_a_row_of_failures() {
    let server = TestServer::start(status(500)).await;
    let client = client(&server);
    for answer in [status(404), status(401), status(400)] {
        server.now_answers(status(500));
        for _ in 0..4 {
            assert!(unavailable(&client.user("user_ada").await));
        }
        server.now_answers(answer);
        assert!(!unavailable(&client.user("user_ada").await));
        skip(ABSENCE_LIFETIME).await;
    }
    assert_eq!(server.hits(), 15);
}

#[tokio::test(start_paused = true)]
async fn only_one_probes_and_a_probe_given_up_is_replaced() {
    let breaker = Breaker::default();
    let (early, late) = (breaker.admit().unwrap(), breaker.admit().unwrap());
    for _ in 0..BREAKER_FAILURES {
        breaker.admit().unwrap().settle(false);
    }
    assert!(breaker.admit().is_none());
    early.settle(true);
    assert!(breaker.admit().is_none(), "a late answer changes nothing");

    tokio::time::advance(BREAKER_PAUSE).await;
    let probe = breaker.admit().unwrap();
    assert!(breaker.admit().is_none());
    late.settle(true);
    assert!(breaker.admit().is_none(), "only the probe's answer counts");
    drop(probe);
    let probe = breaker.admit().unwrap();
    assert!(breaker.admit().is_none());
    probe.settle(false);
    assert!(breaker.admit().is_none());

    tokio::time::advance(BREAKER_PAUSE).await;
    breaker.admit().unwrap().settle(true);
    for _ in 0..BREAKER_FAILURES - 1 {
        breaker.admit().unwrap().settle(false);
    }
    assert!(breaker.admit().is_some(), "counting began anew");
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
    assert!(debug.contains("cache: Cache { .. }"), "{debug}");
}
