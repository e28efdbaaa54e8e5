//! Who may look at the board, and who may change something.

use std::net::IpAddr;

use chrono::TimeDelta;
use usher::app::App;
use usher::config::Settings;

use crate::board::{dead_event, state_of};
use crate::support::app::{API_KEY, settings};
use crate::support::board::{ADA, BOB, Browser, audit, with_keys};
use crate::support::process::UsherProcess;
use crate::support::smtp::SmtpServer;
use crate::support::{TestApp, TestDatabase, on_both_databases, stories};

const PROXY: &str = "10.0.0.5";
const ELSEWHERE: &str = "10.0.0.6";

async fn start_with_keys(database: TestDatabase) -> TestApp {
    TestApp::start_with(database, with_keys).await
}

/// Another usher on the same database, with other settings.
async fn other(app: &TestApp, change: impl FnOnce(&mut Settings)) -> App {
    let mut settings = settings(app.app.config.database_url.expose(), &app.smtp.url());
    change(&mut settings);
    let folder = tempfile::tempdir().unwrap();
    let config = settings.resolve_in(folder.path()).unwrap();
    App::new(config, app.clock.clone()).await.unwrap()
}

/// Behind a proxy that signs operators in.
async fn behind_proxy(app: &TestApp, header: &str) -> App {
    other(app, |settings| {
        with_keys(settings);
        settings.usher_ops_user_header = Some(header.to_owned());
        settings.usher_ops_user_proxies = Some(format!("{PROXY},10.1.0.0/24"));
        settings.usher_admin_listen = Some("0.0.0.0:9090".to_owned());
    })
    .await
}

/// A request with this header from an address.
fn named(app: &App, peer: &str, headers: &[(&'static str, &'static str)]) -> Browser {
    Browser {
        peer: Some(peer.parse::<IpAddr>().unwrap()),
        headers: headers.to_vec(),
        ..Browser::new(app)
    }
}

stories! {
    #[tokio::test] TestApp, start_with_keys, TestApp::finish;

    async fn what_is_not_sent_by_the_board_s_own_page_changes_nothing_and_is_in_the_audit(app) {
        dead_event(app, "msg_1").await;
        let (ada, bob) = (Browser::signed_in(app, ADA).await, Browser::signed_in(app, BOB).await);
        let change = "/board/jobs/change";
        let form = ada.get("/board/jobs/change?state=dead&action=retry").await.form();
        let without: Vec<_> = form.iter().filter(|(name, _)| name != "token").cloned().collect();
        let token_of_bob = bob.get("/board").await.form().remove(0);
        let of_bob: Vec<_> = without.iter().cloned().chain([token_of_bob]).collect();
        let foreign = Browser { host: "evil.example", ..Browser::signed_in(app, ADA).await };
        let elsewhere = Some("http://evil.example");
        for (page, why) in [
            (ada.post(change, &without).await, "ada: /board/jobs/change, This form is not of your session"),
            (ada.post(change, &of_bob).await, "ada: /board/jobs/change, This form is not of your session"),
            (bob.post(change, &of_bob).await, "bob: /board/jobs/change, You may only look"),
            (foreign.post(change, &form).await, "ada: /board/jobs/change, This host name is not known here"),
            (
                ada.post_from(change, &form, elsewhere).await,
                "ada: /board/jobs/change, This form came from another site",
            ),
            (Browser::new(&app.app).post(change, &form).await, "not signed in: /board/jobs/change, You are not signed in"),
            (ada.sign_in(API_KEY).await, "not signed in: sign in, no key is like that"),
        ] {
            assert!([401, 403, 421].contains(&page.status), "{why}: {}", page.status);
            assert_eq!(page.policy.split(';').next(), Some("default-src 'none'"));
            assert!(audit(app).await.contains(&why.to_owned()), "{why}: {:?}", audit(app).await);
        }
        assert_eq!(state_of(app, "msg_1").await, "failed");
        ada.post_from(change, &form, Some("http://localhost:9090")).await.shows("1 job queued again");
        app.run_jobs().await;
    }

    async fn guessing_keys_takes_time_and_fills_no_audit(app) {
        let stranger = Browser::new(&app.app);
        for _ in 0..10 {
            assert_eq!(stranger.sign_in("guessed-ops-key-of-more-than-32-characters").await.status, 401);
        }
        assert_eq!(stranger.sign_in(ADA).await.status, 429);
        assert_eq!(audit(app).await.len(), 10);
        app.clock.advance(TimeDelta::minutes(1));
        assert_eq!(stranger.sign_in(ADA).await.status, 303);
    }

    async fn a_page_asks_to_sign_in_and_leads_back(app) {
        let stranger = Browser::new(&app.app);
        let page = stranger.get("/board/jobs?state=dead").await;
        assert_eq!(page.status, 303);
        assert_eq!(page.location.as_deref(), Some("/board/sign-in?next=%2Fboard%2Fjobs%3Fstate%3Ddead"));
        let fields = [("key", ADA), ("next", "//evil.example")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(stranger.post("/board/sign-in", &fields).await.location.as_deref(), Some("/board"));
        let ada = Browser::signed_in(app, ADA).await;
        app.clock.advance(TimeDelta::hours(12));
        assert_eq!(ada.get("/board").await.status, 303, "a session ends");
    }

    async fn without_keys_the_board_only_looks_and_only_on_this_machine(app) {
        let (here, elsewhere) = (other(app, |_| {}).await, other(app, |settings| {
            settings.usher_admin_listen = Some("0.0.0.0:9090".to_owned());
        }).await);
        let looking = Browser::new(&here);
        looking.get("/board").await.shows("All is well").shows("looks only");
        let refused = looking.post("/board/jobs/change", &[]).await;
        refused.shows("The board only looks");
        assert_eq!(refused.status, 403);
        let off = Browser::new(&elsewhere).get("/board").await;
        off.shows("usher ops-key").shows("USHER_OPS_KEYS");
        assert_eq!(off.status, 403);
        let named = other(app, |settings| settings.usher_ops_hosts = Some("ops.example.com".to_owned())).await;
        let by_name = |host| Browser { host, ..Browser::new(&named) };
        assert_eq!(by_name("ops.example.com").get("/board").await.status, 200);
        assert_eq!(by_name("evil.example").get("/board").await.status, 421);
        for app in [here, elsewhere, named] {
            app.store.close().await;
        }
    }

    async fn a_user_that_a_trusted_proxy_names_still_needs_a_form_of_the_board(app) {
        dead_event(app, "msg_1").await;
        let proxied = behind_proxy(app, "X-Forwarded-User:operate").await;
        let eve = named(&proxied, PROXY, &[("x-forwarded-user", "eve@example.com")]);
        eve.get("/board").await.shows("eve@example.com (operate)").hides("Sign out");
        let question = eve.get("/board/jobs/change?state=dead&action=retry").await;
        let form = question.form();
        let without: Vec<_> = form.iter().filter(|(name, _)| name != "token").cloned().collect();
        assert_eq!(eve.post("/board/jobs/change", &without).await.status, 403);
        assert_eq!(eve.post_from("/board/jobs/change", &form, Some("http://evil.example")).await.status, 403);
        let kim = named(&proxied, "10.1.0.9", &[("x-forwarded-user", "kim")]);
        assert_eq!(kim.post("/board/jobs/change", &form).await.status, 403, "another's form");
        assert_eq!(state_of(app, "msg_1").await, "failed");
        eve.post("/board/jobs/change", &form).await.shows("1 job queued again");
        let audit = audit(app).await;
        assert!(audit.contains(&"eve@example.com: retry jobs state=dead, 1".to_owned()), "{audit:?}");
        assert!(audit.contains(&"kim: /board/jobs/change, This form is not of your session".to_owned()), "{audit:?}");
        proxied.store.close().await;
        app.run_jobs().await;
    }

    async fn without_a_role_in_the_setting_the_proxy_s_users_only_look(app) {
        dead_event(app, "msg_1").await;
        let proxied = behind_proxy(app, "X-Forwarded-User").await;
        let eve = named(&proxied, PROXY, &[("x-forwarded-user", "eve")]);
        eve.get("/board").await.shows("eve (view)");
        eve.get("/board/inbox/msg_1?payload=show").await.hides("user_ada");
        assert_eq!(eve.get("/board/jobs/change?state=dead&action=retry").await.status, 403);
        proxied.store.close().await;
    }

    async fn a_name_from_anywhere_but_the_proxy_is_refused_even_beside_a_key(app) {
        let proxied = behind_proxy(app, "X-Forwarded-User:operate").await;
        let ada = Browser::signed_in(app, ADA).await;
        for (peer, headers) in [
            (ELSEWHERE, &[("x-forwarded-user", "eve")][..]),
            ("127.0.0.1", &[("x-forwarded-user", "eve")]),
            (ELSEWHERE, &[("x-forwarded-user", "")]),
            (ELSEWHERE, &[("x-forwarded-user", "eve"), ("x-forwarded-for", PROXY)]),
            (PROXY, &[("x-forwarded-user", "eve"), ("x-forwarded-user", "ada")]),
            (PROXY, &[("x-forwarded-user", "")]),
        ] {
            let spoofed = Browser { cookie: ada.cookie.clone(), ..named(&proxied, peer, headers) };
            let page = spoofed.get("/board").await;
            assert_eq!(page.status, 403, "{peer} {headers:?}");
            page.hides("Queues");
            assert_eq!(spoofed.post("/board/queues", &[]).await.status, 403, "{peer} {headers:?}");
        }
        // Not from a trusted address, and without the header: as if there were no proxy.
        assert_eq!(named(&proxied, ELSEWHERE, &[]).get("/board").await.status, 303);
        assert_eq!(named(&proxied, ELSEWHERE, &[("x-user", "eve")]).get("/board").await.status, 303);
        let with_key = Browser { cookie: ada.cookie.clone(), ..named(&proxied, ELSEWHERE, &[]) };
        with_key.get("/board").await.shows("ada (operate)");
        let audit = audit(app).await;
        let refused = "not signed in: /board/queues, This address may not name users".to_owned();
        assert!(audit.contains(&refused), "{audit:?}");
        proxied.store.close().await;
    }

    async fn without_keys_only_the_proxy_leads_to_the_board(app) {
        let proxied = other(app, |settings| {
            settings.usher_ops_user_header = Some("Remote-User".to_owned());
            settings.usher_ops_user_proxies = Some(PROXY.to_owned());
        }).await;
        let page = named(&proxied, "127.0.0.1", &[]).get("/board").await;
        assert_eq!(page.status, 403, "also on a loopback address");
        page.shows("Open the board at the address of the proxy");
        named(&proxied, PROXY, &[("remote-user", "eve")]).get("/board").await.shows("eve (view)");
        proxied.store.close().await;
    }

    async fn in_development_a_link_opens_the_board_and_ends_with_its_process(app) {
        dead_event(app, "msg_1").await;
        let in_development = |settings: &mut Settings| settings.usher_env = Some("development".to_owned());
        let here = other(app, in_development).await;
        let link = usher::ops::board_link(&here.config, "127.0.0.1:9090".parse().unwrap());
        let (page, key) = link.split_once("#key=").expect("a key in the fragment");
        assert_eq!(page, "http://127.0.0.1:9090/board/sign-in");
        let mut browser = Browser::new(&here);
        browser.get("/board").await.shows("looks only");
        browser.get("/board/sign-in").await.shows("Ops key");
        let signed_in = browser.sign_in(key).await;
        browser.cookie = signed_in.cookie.expect("a cookie").split(';').next().unwrap().to_owned();
        browser.get("/board").await.shows("development (operate)");
        let question = browser.get("/board/jobs/change?state=dead&action=retry").await;
        browser.post("/board/jobs/change", &question.form()).await.shows("1 job queued again");
        app.run_jobs().await;

        let restarted = other(app, in_development).await;
        let later = Browser { cookie: browser.cookie.clone(), ..Browser::new(&restarted) };
        later.get("/board").await.shows("looks only");
        assert_eq!(later.sign_in(key).await.status, 401);
        let elsewhere = other(app, |settings| {
            in_development(settings);
            settings.usher_admin_listen = Some("0.0.0.0:9090".to_owned());
        }).await;
        let production = other(app, |_| {}).await;
        let keyed = other(app, |settings| {
            in_development(settings);
            with_keys(settings);
        }).await;
        for other in [&elsewhere, &production, &keyed] {
            let link = usher::ops::board_link(&other.config, other.config.admin_listen);
            assert!(link.ends_with("/board"), "{link}");
        }
        for other in [here, restarted, elsewhere, production, keyed] {
            let shown: Vec<String> = other.config.shown().into_iter().map(|(_, value)| value).collect();
            assert!(!format!("{:?} {shown:?}", other.config).contains(key));
            other.store.close().await;
        }
    }
}

/// The link is printed in development only, and no log has its key.
async fn printed(database: TestDatabase) {
    let smtp = SmtpServer::start().await;
    let usher = UsherProcess::start_with(&database, &smtp.url(), &[("USHER_ENV", "development")]).await;
    let lines = usher.log();
    let with_key: Vec<&String> = lines.iter().filter(|line| line.contains("#key=")).collect();
    let [line] = with_key[..] else {
        panic!("one link: {lines:#?}")
    };
    let (place, key) = line.trim().split_once("/board/sign-in#key=").unwrap();
    assert!(
        place.starts_with("board        http://127.0.0.1:"),
        "not a line of the log: {line}"
    );
    let (status, page) = usher.ask("/board").await;
    assert!(status == 200 && !page.contains(key), "{page}");
    assert!(!usher.well(&["config"]).await.contains(key));
    usher.terminate().await;
    let usher = UsherProcess::start(&database, &smtp.url()).await;
    assert!(
        !usher.log().iter().any(|line| line.contains("key=")),
        "{:#?}",
        usher.log()
    );
    usher.terminate().await;
}

on_both_databases!(multi_thread a_link_to_the_board_is_printed_in_development_only: printed);
