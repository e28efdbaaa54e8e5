//! `GET /`: what somebody sees who opens usher's address. It is a page, and no part of the API's contract.

use crate::support::TestDatabase;
use crate::support::app::TestApp;

async fn page(app: &TestApp) -> String {
    let answer = app.open("/").await;
    let policy = answer.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{policy}");
    String::from_utf8(answer.body.to_vec()).unwrap()
}

#[tokio::test]
async fn in_production_it_says_what_this_is_and_no_more() {
    let app = TestApp::start_with(TestDatabase::sqlite().await, |settings| {
        settings.usher_env = Some("production".to_owned());
    })
    .await;
    let page = page(&app).await;
    assert!(
        page.contains("usher adds invited people to the organizations"),
        "{page}"
    );
    assert!(!page.contains("<a ") && !page.contains("board"), "{page}");
    app.finish().await;
}

#[tokio::test]
async fn in_development_it_leads_to_all_there_is_to_open() {
    let app = TestApp::start_with(TestDatabase::sqlite().await, |settings| {
        settings.usher_env = Some("development".to_owned());
        settings.usher_admin_listen = Some("127.0.0.1:9191".to_owned());
    })
    .await;
    let page = page(&app).await;
    for link in ["docs", "i", "ui/usher.js", "http://127.0.0.1:9191/board"] {
        assert!(page.contains(&format!("<a href=\"{link}\">")), "no {link} in {page}");
    }
    for path in ["/docs", "/i", "/ui/usher.js"] {
        app.open(path).await;
    }
    app.finish().await;
}
