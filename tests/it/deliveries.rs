//! Events on their way to the app, sent by real processes: endpoints that misbehave, kills, and the commands.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use usher::worker::{Concurrency, Workers};

use crate::support::app::request;
use crate::support::process::{UsherProcess, command, eventually, told_of};
use crate::support::receiver::{Behave, Heard, Receiver};
use crate::support::smtp::SmtpServer;
use crate::support::{TestDatabase, on_both_databases};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const DELIVERED: &str = "usher_event_deliveries where status = 'delivered'";

/// A process whose events of these types go to a receiver.
async fn telling(database: &TestDatabase, smtp: &SmtpServer, receiver: &Receiver, types: &str) -> UsherProcess {
    telling_as("all", database, smtp, receiver, types).await
}

async fn telling_as(
    role: &str,
    database: &TestDatabase,
    smtp: &SmtpServer,
    receiver: &Receiver,
    types: &str,
) -> UsherProcess {
    let endpoints = format!("app:{types}={}", receiver.url);
    let settings = [("USHER_EVENTS", endpoints.as_str()), ("USHER_EVENTS_SECRET", SECRET)];
    UsherProcess::start_role(role, database, &smtp.url(), &settings).await
}

/// Run by the real workers.
async fn endpoints_that_hang_or_dribble_hold_nothing_else_up(database: TestDatabase) {
    let (hanging, slow, other) = (
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
    );
    hanging.always(Some(Behave::Hang));
    // Each answer takes four seconds.
    slow.always(Some(Behave::Dribble(Duration::from_millis(100))));
    let smtp = SmtpServer::start().await;
    let mut settings = crate::support::app::settings(&database.url, &smtp.url());
    let endpoints = format!(
        "hanging={},slow={},other:invite.sent={}",
        hanging.url, slow.url, other.url
    );
    settings.usher_events = Some(endpoints.into());
    settings.usher_events_secret = Some(SECRET.to_owned().into());
    let config = settings.resolve_in(database.folder.path()).unwrap();
    let app = usher::app::App::new(config, usher::clock::Clock::System).await.unwrap();
    let workers = Workers::start(&app, Concurrency::default());
    let mut tx = app.store.begin().await.unwrap();
    let acme = tx.new_id();
    tx.put_organization(&acme.into(), "Acme").await.unwrap();
    tx.commit().await.unwrap();
    let router = usher::service::public_router(&app).unwrap();
    for i in 0..200 {
        let body = json!({ "organization_id": acme, "email": format!("p{i}@example.com"), "role": "member" });
        let request = request(
            axum::http::Method::POST,
            "/v1/invites",
            Some(crate::support::app::API_KEY),
            Some(body),
        );
        let answer = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap();
        assert_eq!(answer.status(), 201);
    }
    let told = tokio::time::timeout(Duration::from_secs(12), other.heard_at_least(200));
    told.await.expect("the other endpoint hears while these hang");
    assert_eq!(smtp.mails().len(), 200);
    assert!(hanging.count() > 0 && slow.count() > 0);
    workers.stop().await;
    app.store.close().await;
}
on_both_databases!(multi_thread endpoints_that_hang_or_dribble_hold_nothing_else_up);

/// `kill -9` between the commit and the number, between the number and the first try, and in the middle of a try.
async fn a_kill_anywhere_on_the_way_loses_no_event(database: TestDatabase) {
    let (receiver, smtp) = (Receiver::start().await, SmtpServer::start().await);
    let start = async |role| telling_as(role, &database, &smtp, &receiver, "invite.created").await;
    let queue = async |arguments: &[&str]| assert!(command(&database.url, arguments).await.0);

    let usher = start("api").await;
    let acme = usher.organization("Acme").await;
    usher.invite(acme, "ada@example.com").await;
    usher.kill().await;
    assert_eq!(
        database.pool.count("usher_outgoing_events where number is null").await,
        1
    );

    queue(&["queues", "pause", "deliver-event-1", "--reason", "a story"]).await;
    let usher = start("all").await;
    eventually("its delivery is queued", async || {
        database
            .pool
            .count("usher_event_deliveries where status = 'queued'")
            .await
            == 1
    })
    .await;
    usher.kill().await;
    assert_eq!(receiver.count(), 0);

    queue(&["queues", "resume", "deliver-event-1"]).await;
    receiver.next([Behave::Hang]);
    let usher = start("all").await;
    receiver.heard_at_least(1).await;
    usher.kill().await;

    let usher = start("all").await;
    eventually("it is noted", async || database.pool.count(DELIVERED).await == 1).await;
    assert!(usher.terminate().await);
    let heard = receiver.heard();
    assert_eq!(heard.len(), 2, "only what was under way comes again");
    let same = |heard: &Heard| (heard.body.clone(), heard.header("webhook-id").to_owned());
    assert_eq!(same(&heard[0]), same(&heard[1]));
}
on_both_databases!(multi_thread a_kill_anywhere_on_the_way_loses_no_event);

/// For development: what happens from now on, signed, also from a service that has no endpoint.
async fn events_are_forwarded_to_a_local_address(database: TestDatabase) {
    let (receiver, smtp) = (Receiver::start().await, SmtpServer::start().await);
    let usher = UsherProcess::start_with(&database, &smtp.url(), &[("USHER_EVENTS_SECRET", SECRET)]).await;
    let acme = usher.organization("Acme").await;
    usher.invite(acme, "earlier@example.com").await;
    eventually("what was before has its numbers", async || {
        database
            .pool
            .count("usher_outgoing_events where number is not null")
            .await
            == 2
    })
    .await;

    let mut listening = usher.begin(&["events", "listen", "--forward", &receiver.url]);
    let mut lines = BufReader::new(listening.stdout.take().unwrap()).lines();
    let said = lines.next_line().await.unwrap().unwrap();
    assert!(said.starts_with("Forwarding events to http://127.0.0.1:"), "{said}");
    receiver.next([Behave::Answer(500, "")]);
    usher.invite(acme, "ada@example.com").await;
    receiver.heard_at_least(2).await;
    let heard = receiver.heard();
    let types: Vec<_> = heard.iter().map(|heard| heard.json()["type"].clone()).collect();
    assert_eq!(types, ["invite.created", "invite.sent"]);
    for heard in &heard {
        assert!(heard.is_signed_with(SECRET));
        assert_eq!(heard.json()["data"]["email"], "ada@example.com");
    }
    let said = lines.next_line().await.unwrap().unwrap();
    assert!(
        said.contains("invite.created") && said.ends_with("it answered 500"),
        "{said}"
    );
    let said = lines.next_line().await.unwrap().unwrap();
    assert!(said.contains("invite.sent") && said.ends_with("taken"), "{said}");
    listening.kill().await.unwrap();
    assert_eq!(
        database.pool.count("usher_event_deliveries").await,
        0,
        "nothing is stored of it"
    );
    assert!(usher.terminate().await);
}
on_both_databases!(multi_thread events_are_forwarded_to_a_local_address);

/// A person becomes a member by HTTP, by a job, by a command and, on Postgres, by SQL.
async fn the_same_deed_is_told_of_in_equal_bytes_by_every_door(database: TestDatabase) {
    let (receiver, smtp) = (Receiver::start().await, SmtpServer::start().await);
    let usher = telling(&database, &smtp, &receiver, "membership.created").await;
    let acme = usher.organization("Acme").await.to_string();
    let ada = told_of("user_ada", "ada@example.com");
    assert!(usher.deliver("msg_1", &ada).await);
    eventually("she is known", async || {
        database.pool.count("usher_events where processed_at is not null").await == 1
    })
    .await;
    let members = format!("/v1/organizations/{acme}/members");
    let path = format!("{members}/user_ada");
    let by_sql = format!("select usher.put_member('user_ada', 'member', organization_id => '{acme}')");
    for (round, door) in (1..).zip(["http", "job", "command", "sql"]) {
        match door {
            "http" => drop(usher.call(Method::PUT, &path, json!({ "role": "member" })).await),
            "job" => {
                let body = json!({
                    "organization_id": acme, "email": "ada@example.com", "role": "member", "acceptance": "auto",
                });
                usher.call(Method::POST, "/v1/invites", body).await;
                assert!(usher.deliver("msg_2", &told_of("user_ada", "ada@example.com")).await);
            }
            "command" => {
                let set = [
                    "members",
                    "set",
                    "user_ada",
                    "--organization",
                    &acme,
                    "--role",
                    "member",
                ];
                usher.well(&set).await;
            }
            _ if database.url.starts_with("sqlite") => break,
            _ => database.pool.execute(&by_sql).await,
        }
        receiver.heard_at_least(round).await;
        let (status, _) = usher.answer(Method::DELETE, &path, Value::Null).await;
        assert_eq!(status, 204);
    }
    let told: Vec<String> = receiver.heard().iter().map(without_id_and_time).collect();
    assert!(told.len() >= 3);
    assert!(told.iter().all(|one| *one == told[0]), "{told:#?}");
    assert!(usher.terminate().await);
}
on_both_databases!(multi_thread the_same_deed_is_told_of_in_equal_bytes_by_every_door);

/// The body as it was sent, but for the event's own id and time.
fn without_id_and_time(heard: &Heard) -> String {
    let event = heard.json();
    let own = [&event["id"], &event["timestamp"]].map(|value| value.as_str().unwrap().to_owned());
    own.iter()
        .fold(heard.body.clone(), |body, value| body.replacen(value, "", 1))
}

async fn the_command_line_shows_replays_tests_and_enables(database: TestDatabase) {
    let (receiver, smtp) = (Receiver::start().await, SmtpServer::start().await);
    let usher = telling(&database, &smtp, &receiver, "invite.created").await;
    let acme = usher.organization("Acme").await;
    usher.invite(acme, "ada@example.com").await;
    eventually("it is delivered", async || database.pool.count(DELIVERED).await == 1).await;

    let listed = usher
        .json(&["events", "list", "--type", "invite.created", "--json"])
        .await;
    assert_eq!(listed[0]["status"], "delivered");
    assert_eq!(listed[0]["endpoint"], "app");
    let id = receiver.heard()[0].header("webhook-id").to_owned();
    let table = usher.well(&["events", "list"]).await;
    assert!(table.contains(&id) && table.contains("invite.created"), "{table}");
    let shown = usher.json(&["events", "show", &id, "--json"]).await;
    assert_eq!(shown["event"], receiver.heard()[0].json());
    assert_eq!(shown["deliveries"][0]["attempts"], 1);

    let said = usher.well(&["events", "replay", &id, "--yes"]).await;
    assert!(said.contains("1 events are queued again"), "{said}");
    eventually("it comes again", async || receiver.heard().len() == 2).await;
    usher
        .well(&[
            "events",
            "replay",
            "--newer-than",
            "1h",
            "--type",
            "invite.created",
            "--yes",
        ])
        .await;
    eventually("and again", async || receiver.heard().len() == 3).await;
    eventually("it is delivered", async || database.pool.count(DELIVERED).await == 1).await;
    assert!(receiver.heard().iter().all(|heard| heard.header("webhook-id") == id));

    usher.well(&["events", "test", "app"]).await;
    let heard = receiver.heard();
    assert_eq!(heard[3].json()["type"], "test");
    assert!(heard[3].is_signed_with(SECRET));
    receiver.next([Behave::Answer(410, "")]);
    usher.invite(acme, "bob@example.com").await;
    let disabled = "usher_event_endpoints where disabled_at is not null";
    eventually("the endpoint is disabled", async || {
        database.pool.count(disabled).await == 1
    })
    .await;
    usher.well(&["events", "enable", "app"]).await;
    assert_eq!(database.pool.count(disabled).await, 0);
    let (well, said) = usher.usher(&["events", "enable", "app"]).await;
    assert!(!well && said.contains("no disabled endpoint is called app"), "{said}");
    let audit = usher.json(&["audit", "--json"]).await;
    let actions: Vec<_> = audit.as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["enable endpoint", "send events again", "send events again"]);
    let (well, said) = usher.usher(&["events", "replay"]).await;
    assert!(!well && said.contains("which events?"), "{said}");
    assert!(usher.terminate().await);
}

on_both_databases!(multi_thread the_command_line_shows_replays_tests_and_enables);
