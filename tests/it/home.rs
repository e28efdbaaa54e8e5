//! `GET /`: what somebody sees who opens usher's address. It is a page, and no part of the API's contract.

use std::path::PathBuf;

use serde_json::json;

use crate::support::TestDatabase;
use crate::support::app::TestApp;
use crate::support::board::{ADA, BOB, Browser, with_keys};
use crate::support::process::UsherProcess;

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
    assert!(!page.contains("mailbox"), "with a mail server there is none: {page}");
    for path in ["/docs", "/i", "/ui/usher.js"] {
        app.open(path).await;
    }
    app.finish().await;
}

/// usher in development, whose mails are files.
async fn start_with_mailbox() -> TestApp {
    TestApp::start_with(TestDatabase::sqlite().await, |settings| {
        settings.usher_env = Some("development".to_owned());
        settings.usher_admin_listen = Some("127.0.0.1:9191".to_owned());
        settings.smtp_url = None;
    })
    .await
}

fn outbox(app: &TestApp) -> PathBuf {
    usher::ui::home::mail_folder(&app.app.config).unwrap().to_owned()
}

#[tokio::test]
async fn the_mailbox_shows_each_mail_with_its_link_to_click() {
    let app = start_with_mailbox().await;
    let home = page(&app).await;
    assert!(
        home.contains("<a href=\"http://127.0.0.1:9191/board/mailbox\">mailbox</a>"),
        "{home}"
    );
    let browser = Browser::new(&app.app);
    browser.get("/board/mailbox").await.shows("No mail was written yet");
    let acme = app.organization("Acme <b>&</b> \"Söhne\"").await;
    let invite = json!({
        "organization_id": acme, "email": "ada@example.com", "role": "member", "message": "<script>alert(1)</script>",
    });
    app.invite(invite).await;
    app.run_jobs().await;
    let list = browser.get("/board/mailbox").await;
    assert_eq!(list.status, 200);
    list.shows("ada@example.com")
        .shows("Acme &lt;b&gt;&amp;&lt;/b&gt;")
        .hides("<b>");
    let (_, rest) = list.body.split_once("href=\"/board/mailbox/").unwrap();
    let path = format!("/board/mailbox/{}", rest.split_once('"').unwrap().0);
    let mail = browser.get(&path).await;
    let token = mail
        .body
        .split_once("/invite/")
        .or(mail.body.split_once("<a href=\"http"))
        .is_some();
    assert!(token, "{}", mail.body);
    mail.shows("&lt;script&gt;").hides("<script>alert");
    mail.shows("sandbox=\"allow-popups allow-popups-to-escape-sandbox\"");
    assert!(
        mail.policy.contains("default-src 'none'") && !mail.policy.contains("unsafe"),
        "{}",
        mail.policy
    );
    assert!(mail.policy.contains("frame-ancestors 'none'"), "{}", mail.policy);
    let html = browser.get(&format!("{path}/html")).await;
    html.shows("Acme &lt;b&gt;")
        .shows("<base target=\"_blank\">")
        .hides("<script>");
    assert!(
        html.policy
            .starts_with("sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'"),
        "{}",
        html.policy
    );
    assert!(!html.policy.contains("script"), "it runs nothing: {}", html.policy);
    app.finish().await;
}

#[tokio::test]
async fn the_mailbox_shows_the_newest_fifty_files_of_its_folder_and_nothing_else() {
    let app = start_with_mailbox().await;
    let folder = outbox(&app);
    std::fs::create_dir_all(&folder).unwrap();
    let secret = folder.parent().unwrap().join("secret.eml");
    std::fs::write(&secret, "Subject: secret\r\n\r\nsecret\r\n").unwrap();
    std::os::unix::fs::symlink(&secret, folder.join("link.eml")).unwrap();
    for n in 0..60 {
        let text = format!(
            "To: <ada@example.com>\r\nSubject: mail {n}\r\nContent-Type: text/plain\r\n\r\njavascript:alert({n}) https://a.example/{n}\r\n"
        );
        std::fs::write(folder.join(format!("20260101T0000{n:02}Z-1.eml")), text).unwrap();
    }
    std::fs::write(folder.join("<img src=x>.eml"), "Subject: odd\r\n\r\nodd\r\n").unwrap();
    let browser = Browser::new(&app.app);
    let list = browser.get("/board/mailbox").await;
    list.shows(">mail 59<")
        .shows(">mail 10<")
        .hides(">mail 9<")
        .hides("secret")
        .hides("odd");
    let mail = browser.get("/board/mailbox/20260101T000059Z-1.eml").await;
    mail.shows("<a href=\"https://a.example/59\">")
        .hides("href=\"javascript");
    for name in [
        "link.eml",
        "..%2Fsecret.eml",
        "%2e%2e%2fsecret.eml",
        "..%5Csecret.eml",
        "secret.eml",
        "none.eml",
        "%00.eml",
        "%3Cimg%20src=x%3E.eml",
        "..",
        "%252e%252e%252fsecret.eml",
    ] {
        for part in ["", "/html"] {
            let page = browser.get(&format!("/board/mailbox/{name}{part}")).await;
            assert_eq!(page.status, 404, "{name}");
            page.hides("secret\r").hides("Subject");
        }
    }
    app.finish().await;
}

/// In production, or with a mail server, there is none; and the board's door is its door.
#[tokio::test]
async fn only_a_developer_on_this_machine_has_a_mailbox() {
    let app = start_with_mailbox().await;
    let mut browser = Browser::new(&app.app);
    browser.host = "evil.example";
    assert_eq!(browser.get("/board/mailbox").await.status, 421);
    app.finish().await;

    for env in ["production", "development"] {
        let app = TestApp::start_with(TestDatabase::sqlite().await, |settings| {
            settings.usher_env = Some(env.to_owned());
        })
        .await;
        assert_eq!(Browser::new(&app.app).get("/board/mailbox").await.status, 404, "{env}");
        app.finish().await;
    }

    let app = TestApp::start_with(TestDatabase::sqlite().await, |settings| {
        with_keys(settings);
        settings.usher_env = Some("development".to_owned());
        settings.smtp_url = None;
    })
    .await;
    assert_eq!(
        Browser::new(&app.app).get("/board/mailbox").await.status,
        303,
        "sign in first"
    );
    let looks = Browser::signed_in(&app, BOB).await.get("/board/mailbox").await;
    assert_eq!(looks.status, 403);
    assert_eq!(
        Browser::signed_in(&app, ADA).await.get("/board/mailbox").await.status,
        200
    );
    app.finish().await;
}

#[tokio::test]
async fn serve_prints_where_the_mailbox_is() {
    let database = TestDatabase::sqlite().await;
    let settings = [("USHER_ENV", "development"), ("SMTP_URL", "")];
    let usher = UsherProcess::start_with(&database, "", &settings).await;
    let said = usher.log().join("\n");
    let link = format!("{}/board/mailbox", usher.admin_address);
    assert!(said.contains(&link), "no {link} in: {said}");
    assert!(usher.terminate().await);
}
