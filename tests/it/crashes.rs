//! Real processes, killed for real.

use serde_json::json;
use tokio::task::JoinSet;
use usher::clerk::simulated::{SimulatedUser, event};
use usher::clock::Clock;

use crate::support::TestDatabase;
use crate::support::process::{UsherProcess, eventually};
use crate::support::smtp::{Behaviour, Phase, SmtpServer};

const PEOPLE: usize = 200;

fn told(n: usize) -> serde_json::Value {
    let now = Clock::System.now();
    let user = SimulatedUser::new(format!("user_{n}"), format!("person{n}@example.com"), now);
    event("user.created", user.to_json(), now)
}

/// Killed while it takes events in, works on jobs and talks to the mail server; started again, it has lost nothing that
/// it had acknowledged, and done nothing twice that shows.
async fn a_process_that_is_killed_mid_work_loses_nothing(database: TestDatabase) {
    let smtp = SmtpServer::start().await;
    smtp.next(1, Phase::EndOfData, Behaviour::Stall);
    let usher = UsherProcess::start(&database, &smtp.url()).await;
    let acme = Clock::System.new_id();
    usher
        .call(
            reqwest::Method::PUT,
            &format!("/v1/organizations/{acme}"),
            json!({ "name": "Acme" }),
        )
        .await;
    for n in 0..PEOPLE {
        let body = json!({ "organization_id": acme, "email": format!("person{n}@example.com"), "role": "member" });
        usher.call(reqwest::Method::POST, "/v1/invites", body).await;
    }
    smtp.wait_for_stalls(1).await;

    let usher = std::sync::Arc::new(usher);
    let mut deliveries = JoinSet::new();
    for n in 0..PEOPLE {
        let usher = std::sync::Arc::clone(&usher);
        deliveries.spawn(async move { (n, usher.deliver(&format!("msg_{n}"), &told(n)).await) });
    }
    let mut acknowledged = Vec::new();
    while acknowledged.len() < PEOPLE / 2 {
        let (n, taken) = deliveries.join_next().await.expect("more to come").expect("no panic");
        if taken {
            acknowledged.push(n);
        }
    }
    deliveries.abort_all();
    while deliveries.join_next().await.is_some() {}
    std::sync::Arc::into_inner(usher).expect("the last handle").kill().await;

    let usher = UsherProcess::start(&database, &smtp.url()).await;
    eventually("every acknowledged event has its effect", async || {
        database.pool.count("usher_events where processed_at is null").await == 0
    })
    .await;
    for n in &acknowledged {
        let member = format!(
            "organization_users m join admins a on a.id = m.admin_id where a.external_id = 'user_{n}' and m.deleted_at is null"
        );
        assert_eq!(database.pool.count(&member).await, 1, "person {n}");
    }
    // Svix repeats what it got no answer for.
    for n in 0..PEOPLE {
        assert!(usher.deliver(&format!("msg_{n}"), &told(n)).await);
    }
    eventually("everybody is in", async || {
        database.pool.count("organization_users").await == PEOPLE as i64
    })
    .await;
    eventually("every mail is sent or no longer wanted", async || {
        database.pool.count("usher_deliveries where status = 'queued'").await == 0
    })
    .await;
    assert_eq!(
        database.pool.count("invites where status = 'accepted'").await,
        PEOPLE as i64
    );
    assert_eq!(database.pool.count("admins").await, PEOPLE as i64);
    let jobs = crate::support::jobs::table(&database.pool);
    eventually("no job is stuck", async || {
        database.pool.count(&format!("{jobs} where status <> 'Done'")).await == 0
    })
    .await;
    assert!(usher.terminate().await, "a SIGTERM ends it well");
}

#[tokio::test]
async fn a_process_that_is_killed_mid_work_loses_nothing_on_sqlite() {
    a_process_that_is_killed_mid_work_loses_nothing(TestDatabase::sqlite().await).await;
}

#[tokio::test]
async fn a_process_that_is_killed_mid_work_loses_nothing_on_postgres() {
    a_process_that_is_killed_mid_work_loses_nothing(TestDatabase::postgres().await).await;
}
