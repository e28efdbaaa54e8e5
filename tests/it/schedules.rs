//! What is done again and again: once per tick, whoever is there to do it.

use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::json;
use usher::app::App;
use usher::clock::Clock;
use usher::jobs::SCHEDULES;
use usher::store::Queue;
use usher::worker::{Concurrency, Workers, tick};

use crate::support::app::settings;
use crate::support::process::eventually;
use crate::support::smtp::SmtpServer;
use crate::support::{TestApp, TestDatabase, jobs, on_both_databases, stories};

/// Another process on the story's database.
async fn other_process(app: &TestApp) -> App {
    let settings = settings(app.app.config.database_url.expose(), &app.smtp.url());
    let config = settings.resolve().unwrap();
    App::new(config, app.clock.clone()).await.unwrap()
}

async fn ticks(app: &TestApp) -> usize {
    let jobs = jobs::all(&app.pool).await;
    jobs.iter()
        .filter(|job| job.job_type == Queue::Periodic.as_str())
        .count()
}

stories! {
    async fn each_tick_comes_once_however_many_processes_look(app) {
        let processes = join_all((0..4).map(async |_| other_process(app).await)).await;
        for round in 1..=5 {
            let looks = processes.iter().cycle().take(40);
            for looked in join_all(looks.map(async |process| tick(process).await)).await {
                assert!(looked.unwrap() > app.now());
            }
            assert_eq!(ticks(app).await, round * SCHEDULES.len());
            // To the next day: every schedule is due again, and by many of its ticks.
            app.clock.advance(TimeDelta::days(1));
        }
        app.run_jobs().await;
        assert_eq!(ticks(app).await, 5 * SCHEDULES.len(), "ticks that nobody saw are made up for by one");
    }

    async fn a_tick_that_could_not_be_carried_out_is_left_to_the_next(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite(json!({
            "organization_id": acme, "email": "ada@example.com", "role": "member", "expires_in": "1h",
        })).await;
        app.run_jobs().await;
        tick(&app.app).await.unwrap();
        let stale = jobs::all(&app.pool).await;
        app.clock.advance(TimeDelta::hours(2));
        tick(&app.app).await.unwrap();
        for job in stale.iter().filter(|job| job.job_type == Queue::Periodic.as_str()) {
            jobs::attempt_at(&app.context, job, 7).await.unwrap();
        }
        let swept = "invites where status = 'expired'";
        assert_eq!(app.pool.count(swept).await, 0, "overtaken, it does nothing");
        app.run_jobs().await;
        assert_eq!(app.pool.count(swept).await, 1);
        assert_eq!(app.show(&invite).await["status"], "expired");
    }

    async fn the_sweep_notes_what_has_been_true_since_it_expired(app) {
        let acme = app.organization("Acme").await;
        let invite = async |email: &str, expires_in: &str| app.invite(json!({
            "organization_id": acme, "email": email, "role": "member", "expires_in": expires_in,
        })).await;
        let (ada, bob) = (invite("ada@example.com", "1h").await, invite("bob@example.com", "3h").await);
        app.run_jobs().await;
        app.clock.advance(TimeDelta::hours(2));
        let before = app.show(&ada).await;
        app.run_schedules().await;
        let mut after = app.show(&ada).await;
        assert_eq!(app.pool.count("invites where status = 'expired'").await, 1);
        after["updated_at"] = before["updated_at"].clone();
        assert_eq!(after, before, "no answer changes");
        assert_eq!(app.show(&bob).await["status"], "pending");
        app.post(&format!("/v1/invites/{ada}/resend"), json!({})).await.expect(202);
        app.run_jobs().await;
        app.run_schedules().await;
        assert_eq!(app.show(&ada).await["status"], "pending", "a renewed invite is left alone");
    }

    async fn a_sweep_takes_any_number_in_batches(app) {
        let acme = app.organization("Acme").await;
        for hundred in 0..3 {
            let invites: Vec<_> = (0..400).map(|n| json!({
                "organization_id": acme, "email": format!("person{hundred}-{n}@example.com"), "role": "member", "expires_in": "1h",
            })).collect();
            app.post("/v1/invites/batch", json!({ "invites": invites })).await.expect(200);
        }
        app.clock.advance(TimeDelta::hours(1));
        app.run_schedules().await;
        assert_eq!(app.pool.count("invites where status = 'expired'").await, 1200);
    }
}

/// The same with the worker's own runtime: three processes with workers, and a clock that jumps from tick to tick.
async fn several_processes_run_each_tick_once(database: TestDatabase) {
    let smtp = SmtpServer::start().await;
    let clock = Clock::manual(Clock::System.now());
    let workers = join_all((0..3).map(async |_| {
        let config = settings(&database.url, &smtp.url()).resolve().unwrap();
        let app = App::new(config, clock.clone()).await.unwrap();
        Workers::start(&app, Concurrency { events: 2, mails: 2 })
    }))
    .await;
    let table = database.pool.jobs();
    for round in 1..=3 {
        let done = format!("{table} where job_type = 'usher:periodic' and status = 'Done' and attempts = 1");
        let expected = round * i64::try_from(SCHEDULES.len()).unwrap();
        eventually("every tick is done", async || {
            database.pool.count(&done).await == expected
        })
        .await;
        clock.advance(TimeDelta::days(1));
    }
    for workers in workers {
        workers.stop().await;
    }
    let all = database
        .pool
        .count(&format!("{table} where job_type = 'usher:periodic'"))
        .await;
    assert!(all <= 4 * i64::try_from(SCHEDULES.len()).unwrap(), "{all}");
}

on_both_databases!(multi_thread several_processes_run_each_tick_once);
