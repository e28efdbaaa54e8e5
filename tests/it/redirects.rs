//! Where people go after they accept: to an origin that the app allows, whatever an invite names.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::sql_interface::{refused, sql_invite};
use crate::support::app::{API_KEY, request};
use crate::support::process::UsherProcess;
use crate::support::{TestApp, TestDatabase, on_both_databases, stories};

const ALLOWED: &str = "https://app.example.com, http://localhost:3000, https://xn--mnchen-3ya.example";
const WELCOME: &str = "https://app.example.com/welcome?plan=pro#top";

async fn start(database: TestDatabase) -> TestApp {
    let app = TestApp::start_with(database, |settings| settings.redirect_urls = Some(ALLOWED.to_owned())).await;
    // As each start does: the SQL interface goes by the same setting.
    app.app.store.migrate(&app.app.config.rules()).await.unwrap();
    app
}

/// What SQL answers to the same invite, which is taken back.
async fn by_sql(app: &TestApp, body: &Value) -> Option<Value> {
    let mut tx = app.pool.pg().begin().await.unwrap();
    let answer = sql_invite(&mut tx, body).await;
    answer.map_err(refused).err()
}

async fn preview(app: &TestApp, email: &str) -> Value {
    let body = json!({ "token": app.token_in_mail_to(email) });
    let answer = app
        .send(request(Method::POST, "/v1/invite-links", None, Some(body)))
        .await;
    answer.expect(200)
}

stories! {
    #[tokio::test] TestApp, start, TestApp::finish;

    async fn an_invite_gives_back_where_it_leads(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite(json!({
            "organization_id": acme, "email": "bob@example.com", "role": "member", "redirect_url": WELCOME,
        })).await;
        let plain = app.invite_to_organization(acme, "cy@example.com", "member").await;
        app.run_jobs().await;
        assert_eq!(app.show(&invite).await["redirect_url"], WELCOME);
        assert!(app.show(&plain).await.get("redirect_url").is_none());
        let list = app.get("/v1/invites?email=bob@example.com").await.expect(200);
        assert_eq!(list["items"][0]["redirect_url"], WELCOME);
        assert_eq!(preview(app, "bob@example.com").await["redirect_url"], WELCOME);
        assert_eq!(preview(app, "cy@example.com").await["redirect_url"], Value::Null);

        let bob = app.earlier_person("bob@example.com").await;
        assert_eq!(app.signed_in(&bob).banner().await["items"][0]["redirect_url"], WELCOME);
        let accepted = app.signed_in(&bob).accept_link(&app.token_in_mail_to("bob@example.com")).await.expect(200);
        assert_eq!(accepted["redirect_url"], WELCOME);
        usher::events::number(&app.app).await.unwrap();
        let feed = app.get("/v1/events").await.expect(200);
        let events = feed["items"].as_array().unwrap();
        let accepted = events.iter().find(|event| event["type"] == "invite.accepted").unwrap();
        assert_eq!(accepted["data"]["redirect_url"], WELCOME);
        app.run_jobs().await;
    }

    async fn security_31_an_invite_leads_to_the_app_s_origins_only(app) {
        let acme = app.organization("Acme").await;
        let body = |n: usize, url: &str| json!({
            "organization_id": acme, "email": format!("person{n}@example.com"), "role": "member", "redirect_url": url,
        });
        let long = format!("https://app.example.com/{}", "x".repeat(5_000));
        let hostile = [
            "", "javascript:alert(1)", "data:text/html,x", "//evil.example", "/welcome", "app.example.com",
            "https:app.example.com", "https:/app.example.com", "https:///app.example.com", "https://",
            "https://app.example.com@evil.example", "https://user@app.example.com", "https://@app.example.com",
            "https://app.example.com:pass@evil.example", "https://app.example.com.evil.example",
            "https://evil.example/https://app.example.com", "https://evil.example#https://app.example.com",
            "https://evil.example\\@app.example.com", "https://app.example.com\\@evil.example",
            "https:\\\\app.example.com", "https://app.example.com\t.evil.example", "https://app.example.com/\n",
            "\nhttps://app.example.com", " https://app.example.com", "java\nscript:alert(1)", "http://app.example.com",
            "https://app.example.com:444", "https://app.example.com:0443", "https://app.example.com:",
            "https://app.example.com:80", "http://localhost", "https://localhost:3000", "http://localhost:3001",
            "https://app.example.com.", "https://%61pp.example.com", "https://m\u{fc}nchen.example/",
            "https://app.ex\u{430}mple.com", "https://app\u{3002}example.com", "https://app.example.com/\u{7f}",
            "ftp://app.example.com", "blob:https://app.example.com/1", "https://*.example.com", &long,
        ];
        for (n, url) in hostile.into_iter().enumerate() {
            let answer = app.post("/v1/invites", body(n, url)).await;
            assert_eq!(answer.wrong_fields(), ["redirect_url"], "{url}");
            if app.pool.pick(true, false) {
                let refused = by_sql(app, &body(n, url)).await;
                assert_eq!(refused.expect(url)["field"], "redirect_url", "{url}");
            }
        }
        let answer = app.post("/v1/invites", body(0, "https://evil.example/")).await;
        let detail = answer.json()["errors"][0]["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("REDIRECT_URLS") && detail.contains("https://app.example.com"), "{detail}");
        let allowed = [
            WELCOME, "https://app.example.com", "HTTPS://App.Example.COM/Welcome", "https://app.example.com:443/",
            "https://app.example.com#@evil.example", "https://app.example.com?@evil.example",
            "https://app.example.com/?next=https://evil.example", "https://app.example.com/%0d%0a",
            "http://localhost:3000/onboarding", "https://xn--mnchen-3ya.example/",
        ];
        for (n, url) in (100..).zip(allowed) {
            if app.pool.pick(true, false) {
                assert_eq!(by_sql(app, &body(n, url)).await, None, "{url}");
            }
            let created = app.post("/v1/invites", body(n, url)).await.expect(201);
            assert_eq!(created["redirect_url"], url);
        }
        let batch = app.post("/v1/invites/batch", json!({ "invites": [body(0, WELCOME), body(1, "https://evil.example")] }));
        let results = batch.await.expect(200)["results"].clone();
        assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!(201), &json!(422)));
        assert_eq!(results[0]["invite"]["redirect_url"], WELCOME);
        app.run_jobs().await;
    }

    async fn security_31_an_origin_that_is_no_longer_allowed_is_not_followed(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite(json!({
            "organization_id": acme, "email": "bob@example.com", "role": "member", "redirect_url": WELCOME,
        })).await;
        app.run_jobs().await;
        let bob = app.earlier_person("bob@example.com").await;
        let session = app.session_token(json!({ "sub": bob.id }));
        let link = json!({ "token": app.token_in_mail_to("bob@example.com") });
        let requests = || [
            request(Method::GET, &format!("/v1/invites/{invite}"), Some(API_KEY), None),
            request(Method::POST, "/v1/invite-links", None, Some(link.clone())),
            request(Method::GET, "/v1/me/invites", Some(&session), None),
            request(Method::POST, "/v1/me/invites/accept", Some(&session), Some(link.clone())),
        ];
        for request in requests() {
            let shorter = |settings: &mut usher::config::Settings| {
                settings.redirect_urls = Some("http://localhost:3000".to_owned());
            };
            let answer = app.send_after_restart(shorter, request).await.expect(200);
            let invite = answer.get("items").map_or(&answer, |items| &items[0]);
            assert!(invite["id"].is_string() && invite["redirect_url"].is_null(), "{answer}");
        }
        assert_eq!(app.show(&invite).await["redirect_url"], WELCOME, "it is there again when it is allowed again");
        app.run_jobs().await;
    }

    async fn inviting_again_changes_where_it_leads(app) {
        let acme = app.organization("Acme").await;
        let ask = |url: Option<&str>| json!({
            "organization_id": acme, "email": "bob@example.com", "role": "member", "redirect_url": url,
        });
        let first = app.post("/v1/invites", ask(Some(WELCOME))).await.expect(201);
        app.clock.advance(TimeDelta::seconds(5));
        let repeated = app.post("/v1/invites", ask(Some(WELCOME))).await.expect(200);
        assert_eq!(repeated["updated_at"], first["updated_at"], "the same request again changes nothing");
        if app.pool.pick(true, false) {
            let mut tx = app.pool.pg().begin().await.unwrap();
            sql_invite(&mut tx, &ask(Some("http://localhost:3000/"))).await.unwrap();
            let url: String = sqlx::query_scalar("select redirect_url from invites").fetch_one(&mut *tx).await.unwrap();
            assert_eq!(url, "http://localhost:3000/");
        }
        let other = app.post("/v1/invites", ask(Some("http://localhost:3000/"))).await.expect(200);
        assert_eq!(other["redirect_url"], "http://localhost:3000/");
        assert!(app.post("/v1/invites", ask(None)).await.expect(200).get("redirect_url").is_none());
        app.run_jobs().await;
    }
}

/// Without the setting it is the origin of `APP_URL`, and without that none.
async fn the_app_s_own_origin_is_allowed_by_itself(database: TestDatabase) {
    let app = TestApp::start(database).await;
    let acme = app.organization("Acme").await;
    let body = |url: &str| {
        let (email, role) = ("bob@example.com", "member");
        let body = json!({ "organization_id": acme, "email": email, "role": role, "redirect_url": url });
        request(Method::POST, "/v1/invites", Some(API_KEY), Some(body))
    };
    let with_app_url = |settings: &mut usher::config::Settings| {
        settings.app_url = Some("https://app.example.com/home".to_owned());
    };
    let refused = app.send(body(WELCOME)).await;
    assert_eq!(refused.wrong_fields(), ["redirect_url"]);
    let detail = refused.json()["errors"][0]["detail"].to_string();
    assert!(detail.contains("REDIRECT_URLS or APP_URL"), "{detail}");
    app.send_after_restart(with_app_url, body(WELCOME)).await.expect(201);
    let other = app
        .send_after_restart(with_app_url, body("https://other.example.com/"))
        .await;
    assert_eq!(other.wrong_fields(), ["redirect_url"]);
    app.run_jobs().await;
    app.finish().await;
}

on_both_databases!(the_app_s_own_origin_is_allowed_by_itself);

#[tokio::test]
async fn the_command_line_invites_with_it_and_shows_it() {
    let database = TestDatabase::sqlite().await;
    let settings = [("REDIRECT_URLS", "https://app.example.com")];
    let usher = UsherProcess::start_with(&database, "smtp://127.0.0.1:1", &settings).await;
    let acme = usher.organization("Acme").await.to_string();
    let invite = |url| {
        [
            "invite",
            "bob@example.com",
            "--organization",
            &acme,
            "--role",
            "member",
            "--redirect-url",
            url,
        ]
        .map(str::to_owned)
    };
    let run = async |url| {
        let arguments = invite(url);
        usher.usher(&arguments.each_ref().map(String::as_str)).await
    };
    let (is_well, said) = run("https://evil.example").await;
    assert!(
        !is_well && said.contains("--redirect-url must lead to an origin of REDIRECT_URLS"),
        "{said}"
    );
    let (is_well, said) = run("https://app.example.com/welcome").await;
    assert!(is_well, "{said}");
    let id = said.split_whitespace().last().unwrap();
    let shown = usher.well(&["invites", "show", id]).await;
    assert!(shown.contains("leads to    https://app.example.com/welcome"), "{shown}");
    assert!(usher.terminate().await);
}
