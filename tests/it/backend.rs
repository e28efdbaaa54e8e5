//! The banner of people whom no webhook has told of: Clerk's Backend API is asked, and may be slow or down.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::{Value, json};
use usher::clock::Clock;
use usher::secret::Secret;
use usher_testkit::fake_clerk::{FakeUser, event, session};

use crate::support::db::TestDatabase;
use crate::support::process::{UsherProcess, eventually, person, told};
use crate::support::smtp::SmtpServer;
use crate::support::{TestApp, on_both_databases};

const SECRET_KEY: &str = "sk_test_of_the_backend_api";

/// What Clerk's Backend API does when it is asked.
#[derive(Clone)]
enum Mood {
    Knows(Vec<FakeUser>),
    Fails,
    Hangs,
}

/// Clerk's Backend API on a real socket.
#[derive(Clone)]
struct Clerk {
    url: String,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<Mutex<usize>>,
}

impl Clerk {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clerk = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            mood: Arc::new(Mutex::new(Mood::Knows(Vec::new()))),
            asked: Arc::default(),
        };
        let routes = Router::new()
            .route("/v1/users/{id}", get(Self::user))
            .with_state(clerk.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        clerk
    }

    async fn user(State(clerk): State<Self>, Path(id): Path<String>) -> Response {
        *clerk.asked.lock().unwrap() += 1;
        let mood = clerk.mood.lock().unwrap().clone();
        match mood {
            Mood::Knows(users) => match users.iter().find(|user| user.id == id) {
                Some(user) => axum::Json(user.to_json()).into_response(),
                None => StatusCode::NOT_FOUND.into_response(),
            },
            Mood::Fails => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Mood::Hangs => std::future::pending().await,
        }
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

macro_rules! stories_with_clerk {
    ($($(#[$meta:meta])* async fn $name:ident($app:ident, $clerk:ident) $body:block)+) => {
        $(mod $name {
            use super::*;

            async fn story($app: &TestApp, $clerk: &Clerk) $body

            async fn on(database: TestDatabase) {
                let clerk = Clerk::start().await;
                let url = clerk.url.clone();
                let app = TestApp::start_with(database, |settings| {
                    settings.clerk_secret_key = Some(Secret::from(SECRET_KEY.to_owned()));
                    settings.clerk_api_url = Some(url);
                })
                .await;
                story(&app, &clerk).await;
                app.finish().await;
            }

            #[tokio::test]
            async fn on_sqlite() {
                on(TestDatabase::sqlite().await).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                on(TestDatabase::postgres().await).await;
            }
        })+
    };
}

fn ids(banner: &Value) -> Vec<&str> {
    banner["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["id"].as_str().unwrap())
        .collect()
}

stories_with_clerk! {
    async fn somebody_whom_no_webhook_told_of_sees_and_accepts_their_invite(app, clerk) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.run_jobs().await;
        let bob = app.clerk().old_user("bob@example.com");
        clerk.is(Mood::Knows(vec![bob.clone()]));
        let before = app.pool.dump("usher_people").await;
        let banner = app.signed_in(&bob).banner().await;
        assert_eq!((ids(&banner), &banner["synced"]), (vec![invite.as_str()], &json!(true)));
        assert_eq!(app.pool.dump("usher_people").await, before, "looking changes nothing");
        assert_eq!(app.get(&format!("/v1/users/{}/invites", bob.id)).await.expect(200)["synced"], true);
        assert_eq!(clerk.asked(), 1, "a page that is loaded again asks once");
        app.signed_in(&bob).accept(&invite).await.expect(200);
        assert_eq!(app.members(acme).await, ["bob@example.com member"]);
        app.run_jobs().await;
    }

    async fn an_address_that_clerk_does_not_call_verified_shows_nothing(app, clerk) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.run_jobs().await;
        let mut bob = app.clerk().old_user("bob@example.com");
        bob.emails[0].1 = false;
        clerk.is(Mood::Knows(vec![bob.clone()]));
        assert_eq!(app.signed_in(&bob).banner().await, json!({ "items": [], "synced": true }));
        assert_eq!(app.signed_in(&bob).accept(&invite).await.problem(404), "not_found");
        assert_eq!(app.signed_in(&app.clerk().old_user("nobody@example.com")).banner().await, json!({ "items": [], "synced": false }));
    }

    async fn what_was_heard_of_a_person_a_day_ago_is_asked_again(app, clerk) {
        let acme = app.organization("Acme").await;
        let mut bob = app.person("bob@old.example", None).await;
        let invite = app.invite_to_organization(acme, "bob@new.example", "member").await;
        app.run_jobs().await;
        bob.emails = vec![("bob@new.example".to_owned(), true)];
        bob.updated_at += TimeDelta::minutes(1);
        clerk.is(Mood::Knows(vec![bob.clone()]));
        assert_eq!(app.signed_in(&bob).banner().await, json!({ "items": [], "synced": true }));
        assert_eq!(clerk.asked(), 0, "what is known is fresh");
        app.clock.advance(TimeDelta::hours(24));
        assert_eq!(ids(&app.signed_in(&bob).banner().await), [invite.as_str()]);
    }

    async fn while_clerk_is_down_the_banner_shows_what_is_known_and_says_so(app, clerk) {
        let acme = app.organization("Acme").await;
        let bob = app.clerk().old_user("bob@example.com");
        app.clerk().tells_of(&bob).await;
        let invite = app.invite(json!({
            "organization_id": acme, "email": "bob@example.com", "role": "member", "expires_in": "30d",
        })).await;
        app.run_jobs().await;
        app.clock.advance(TimeDelta::hours(25));
        clerk.is(Mood::Fails);
        let cy = app.clerk().old_user("cy@example.com");
        for n in 0..8 {
            let banner = app.signed_in(&bob).banner().await;
            assert_eq!((ids(&banner), &banner["synced"]), (vec![invite.as_str()], &json!(false)), "{n}");
            assert_eq!(app.signed_in(&cy).banner().await, json!({ "items": [], "synced": false }));
        }
        assert_eq!(clerk.asked(), 16, "a failure is not remembered");
        app.signed_in(&bob).accept(&invite).await.expect(200);
        app.run_jobs().await;
    }

    async fn a_clerk_that_does_not_answer_is_not_waited_for(app, clerk) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "bob@example.com", "member").await;
        app.run_jobs().await;
        clerk.is(Mood::Hangs);
        let bob = app.clerk().old_user("bob@example.com");
        let me = app.signed_in(&bob);
        let answer = tokio::time::timeout(Duration::from_secs(60), me.call(Method::GET, "/v1/me/invites"));
        assert_eq!(answer.await.expect("an answer in time").expect(200), json!({ "items": [], "synced": false }));
    }
}

/// As many sign-ins of people whom usher does not know as it has workers for events, and some: Clerk is asked about each.
async fn a_clerk_that_hangs_delays_neither_the_events_of_others_nor_the_banner(database: TestDatabase) {
    let clerk = Clerk::start().await;
    clerk.is(Mood::Hangs);
    let smtp = SmtpServer::start().await;
    let settings = [("CLERK_SECRET_KEY", SECRET_KEY), ("CLERK_API_URL", &clerk.url)];
    let usher = UsherProcess::start_with(&database, &smtp.url(), &settings).await;
    let acme = usher.organization("Acme").await;
    for n in 0..10 {
        usher.invite(acme, &person(n)).await;
    }
    let now = Clock::System.now();
    let strangers: Vec<(String, Value)> = (0..600)
        .map(|n| {
            let data = session(&format!("sess_{n}"), &format!("user_stranger_{n}"), "active", None, now);
            (format!("msg_stranger_{n}"), event("session.created", data, now))
        })
        .collect();
    for some in strangers.chunks(100) {
        let taken = join_all(some.iter().map(|(svix_id, event)| usher.deliver(svix_id, event))).await;
        assert!(taken.iter().all(|taken| *taken));
    }
    eventually("Clerk is asked", async || clerk.asked() > 0).await;

    let start = Instant::now();
    for n in 0..10 {
        assert!(usher.deliver(&format!("msg_{n}"), &told(n)).await);
    }
    let members = format!("/v1/organizations/{acme}/members");
    eventually("those whom Clerk told of are members", async || {
        let list = usher.call(Method::GET, &members, json!({})).await;
        list["items"].as_array().unwrap().len() == 10
    })
    .await;
    // All workers may wait for Clerk once, for two seconds; the rest is the machine's.
    let taken = start.elapsed();
    assert!(taken < Duration::from_secs(15), "{taken:?}");

    // Clerk still hangs, and the events of the strangers are tried again meanwhile.
    let banner = async |user: String| {
        let path = format!("/v1/users/{user}/invites");
        let start = Instant::now();
        let banner = usher.call(Method::GET, &path, json!({})).await;
        (banner, start.elapsed())
    };
    let start = Instant::now();
    let unknown = join_all((0..200).map(|n| banner(format!("user_reader_{n}"))));
    for (shown, taken) in unknown.await {
        assert_eq!(shown, json!({ "items": [], "synced": false }));
        assert!(taken < Duration::from_secs(10), "a reader waited {taken:?}");
    }
    let taken = start.elapsed();
    assert!(
        taken < Duration::from_secs(10),
        "readers waited for each other: {taken:?}"
    );
    for n in 0..10 {
        let (shown, taken) = banner(format!("user_{n}")).await;
        assert_eq!(shown, json!({ "items": [], "synced": true }));
        assert!(taken < Duration::from_secs(2), "who is known waited {taken:?}");
    }
    assert!(usher.terminate().await);
}

on_both_databases!(multi_thread a_clerk_that_hangs_delays_neither_the_events_of_others_nor_the_banner);
