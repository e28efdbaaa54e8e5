//! The app's pages call from the browser, and no others.

use axum::http::Method;

use crate::support::app::{API_KEY, Answer, ORIGIN, TestApp, request};
use crate::support::{TestDatabase, stories};

async fn call(app: &TestApp, method: Method, path: &str, bearer: Option<&str>, origin: &str) -> Answer {
    let is_preflight = method == Method::OPTIONS;
    let mut request = request(method, path, bearer, None);
    let headers = request.headers_mut();
    headers.insert("origin", origin.parse().unwrap());
    if is_preflight {
        headers.insert("access-control-request-method", "POST".parse().unwrap());
        headers.insert("access-control-request-headers", "authorization".parse().unwrap());
    }
    app.send(request).await
}

stories! {
    async fn the_apps_pages_may_call_with_the_persons_session(app) {
        let acme = app.organization("Acme").await;
        let id = app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.run_jobs().await;
        let before = app.pool.dump("invites").await;
        let path = format!("/v1/me/invites/{id}/accept");
        let preflight = call(app, Method::OPTIONS, &path, None, ORIGIN).await;
        preflight.expect(200);
        assert_eq!(preflight.headers["access-control-allow-origin"], ORIGIN);
        assert_eq!(preflight.headers["access-control-allow-credentials"], "true");
        assert_eq!(preflight.headers["access-control-allow-methods"], "GET,POST,DELETE");
        assert_eq!(preflight.headers["access-control-allow-headers"], "authorization,content-type");
        assert_eq!(app.pool.dump("invites").await, before, "a preflight changes nothing");
        let answer = call(app, Method::GET, "/v1/me/invites", None, ORIGIN).await;
        assert_eq!(answer.problem(401), "unauthorized");
        assert_eq!(answer.headers["access-control-allow-origin"], ORIGIN, "a page can read why it was refused");
        let wrong = call(app, Method::DELETE, "/v1/me/invites", None, ORIGIN).await;
        assert_eq!(wrong.problem(405), "method_not_allowed");
    }

    async fn other_pages_and_other_paths_are_told_nothing(app) {
        for origin in ["https://evil.example", "null", "https://app.example.com.evil.example", "http://app.example.com", "*"] {
            for method in [Method::OPTIONS, Method::GET] {
                let answer = call(app, method, "/v1/me/invites", None, origin).await;
                assert!(!answer.headers.contains_key("access-control-allow-origin"), "{origin}");
                assert!(answer.headers["vary"].to_str().unwrap().contains("origin"), "{origin}");
            }
        }
        let path = format!("/v1/invites/{}", app.clock.new_id());
        for (method, status) in [(Method::OPTIONS, 405), (Method::GET, 404)] {
            let answer = call(app, method, &path, Some(API_KEY), ORIGIN).await;
            answer.problem(status);
            assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control-")));
        }
    }
}

#[tokio::test]
async fn in_development_the_pages_of_the_link_and_ushers_own_may_call() {
    let app = TestApp::start_with(TestDatabase::sqlite().await, |settings| {
        settings.usher_env = Some("development".to_owned());
        settings.clerk_authorized_parties = None;
        settings.usher_public_url = Some("https://Invites.example.com/".to_owned());
        settings.invite_url = Some("http://localhost:3000/invite#{token}".to_owned());
    })
    .await;
    for (origin, may) in [
        ("http://localhost:3000", true),
        ("https://invites.example.com", true),
        ("http://localhost:3001", false),
    ] {
        let answer = call(&app, Method::OPTIONS, "/v1/me/invites", None, origin).await;
        assert_eq!(
            answer.headers.contains_key("access-control-allow-origin"),
            may,
            "{origin}"
        );
    }
    app.finish().await;
}

#[tokio::test]
async fn in_production_a_token_for_ushers_own_page_is_good_and_the_links_origin_is_not_trusted() {
    let app = TestApp::start_with(TestDatabase::sqlite().await, |settings| {
        settings.usher_public_url = Some("https://invites.example.com".to_owned());
        settings.invite_url = Some("https://links.example.com/invite#{token}".to_owned());
    })
    .await;
    let bob = app.person("bob@example.com", None).await;
    for (origin, status) in [
        (ORIGIN, 200),
        ("https://invites.example.com", 200),
        ("https://links.example.com", 401),
    ] {
        let token = app.session_token(serde_json::json!({ "sub": bob.id, "azp": origin }));
        let answer = call(&app, Method::GET, "/v1/me/invites", Some(&token), origin).await;
        assert_eq!(answer.status.as_u16(), status, "{origin}");
        let may = answer.headers.contains_key("access-control-allow-origin");
        assert_eq!(may, status == 200, "{origin}");
    }
    app.finish().await;
}

#[tokio::test]
async fn an_origin_with_a_slash_or_a_path_is_the_same_for_pages_cookies_and_tokens() {
    for written in [
        "https://app.example.com/",
        "HTTPS://App.Example.com:443",
        "https://app.example.com/dashboard",
    ] {
        let app = TestApp::start_with(TestDatabase::sqlite().await, |settings| {
            settings.clerk_authorized_parties = Some(written.to_owned());
        })
        .await;
        let bob = app.person("bob@example.com", None).await;
        let token = app.session_token(serde_json::json!({ "sub": bob.id }));
        let answer = call(&app, Method::GET, "/v1/me/invites", Some(&token), ORIGIN).await;
        answer.expect(200);
        assert_eq!(answer.headers["access-control-allow-origin"], ORIGIN, "{written}");
        let unknown = format!("/v1/me/invites/{}/accept", app.clock.new_id());
        let mut with_cookie = request(Method::POST, &unknown, None, None);
        with_cookie
            .headers_mut()
            .insert("cookie", format!("__session={token}").parse().unwrap());
        with_cookie.headers_mut().insert("origin", ORIGIN.parse().unwrap());
        assert_eq!(app.send(with_cookie).await.problem(404), "not_found", "{written}");
        app.finish().await;
    }
}
