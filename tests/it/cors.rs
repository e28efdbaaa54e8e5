//! The app's pages call from the browser, and no others.

use axum::http::Method;

use crate::support::app::{API_KEY, Answer, ORIGIN, TestApp, request};
use crate::support::stories;

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
        assert_eq!(preflight.headers["access-control-allow-methods"], "GET,POST");
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
