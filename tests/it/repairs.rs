//! A job and what it is about never disagree, whoever repairs what.

use serde_json::json;
use usher::store::{JobFilter, JobState, JobView, Queue};

use crate::support::{TestApp, stories};

/// An event that can't be read, and its job, which is dead.
async fn dead_event(app: &TestApp, svix_id: &str) {
    let broken = json!({ "id": "user_ada", "email_addresses": "none" });
    app.clerk().deliver(svix_id, "user.created", broken).await.expect(202);
    app.run_jobs().await;
}

/// The jobs about events, oldest first.
async fn event_jobs(app: &TestApp) -> Vec<JobView> {
    let filter = JobFilter {
        queue: Some(Queue::ProcessClerkEvent),
        states: JobState::ALL.to_vec(),
        ..JobFilter::default()
    };
    let mut tx = app.app.store.read().await.unwrap();
    let mut jobs = tx.jobs(&filter, 99).await.unwrap();
    jobs.reverse();
    jobs
}

/// Where an event stands, with its error or outcome.
async fn event(app: &TestApp, svix_id: &str) -> (String, String) {
    let mut tx = app.app.store.read().await.unwrap();
    let event = tx.event(svix_id).await.unwrap().expect("an event");
    (
        event.state.to_string(),
        event.outcome.or(event.error).unwrap_or_default(),
    )
}

async fn failed(app: &TestApp) -> u64 {
    app.app.store.read().await.unwrap().count_failed_events().await.unwrap()
}

macro_rules! in_one {
    ($app:expr, |$tx:ident| $change:expr) => {{
        let mut $tx = $app.app.store.begin().await.unwrap();
        let changed = $change.await.unwrap();
        $tx.commit().await.unwrap();
        changed
    }};
}

stories! {
    async fn an_event_that_is_replayed_leaves_no_dead_job_behind(app) {
        dead_event(app, "msg_1").await;
        app.clock.advance(chrono::TimeDelta::seconds(1));
        dead_event(app, "msg_2").await;
        let [one, other] = &event_jobs(app).await[..] else { panic!("two jobs") };
        assert_eq!((one.state, other.state, failed(app).await), (JobState::Dead, JobState::Dead, 2));
        assert!(!in_one!(app, |tx| tx.replay_events(&["msg_1"])).is_empty());
        let after = event_jobs(app).await;
        assert_eq!(after.len(), 2, "the same job again");
        assert_eq!((&after[0].id, after[0].state, after[0].attempts), (&one.id, JobState::Waiting, 0));
        assert_eq!(after[1].state, JobState::Dead, "another event's is let alone");
        assert_eq!((event(app, "msg_1").await.0.as_str(), failed(app).await), ("waiting", 1));
        app.run_jobs().await;
        assert_eq!((event(app, "msg_1").await.0.as_str(), failed(app).await), ("failed", 2), "it can't be read still");
    }

    async fn a_dead_job_that_is_retried_lets_its_event_wait_again(app) {
        dead_event(app, "msg_1").await;
        let job = event_jobs(app).await.remove(0);
        assert_eq!(in_one!(app, |tx| tx.retry_jobs(std::slice::from_ref(&job.id))), [job.id]);
        assert_eq!(event(app, "msg_1").await, ("waiting".to_owned(), String::new()));
        app.run_jobs().await;
        assert_eq!(event(app, "msg_1").await.0, "failed");
    }

    async fn a_job_that_is_cancelled_lets_its_event_fail_and_say_why(app) {
        app.clerk().deliver("msg_1", "user.created", app.clerk().user("ada@example.com").to_json()).await.expect(202);
        let job = event_jobs(app).await.remove(0);
        assert_eq!(in_one!(app, |tx| tx.cancel_jobs(std::slice::from_ref(&job.id))).len(), 1);
        assert_eq!(event(app, "msg_1").await, ("failed".to_owned(), "cancelled by hand".to_owned()));
        // And it can be replayed.
        assert!(!in_one!(app, |tx| tx.replay_events(&["msg_1"])).is_empty());
        app.run_jobs().await;
        assert_eq!(event(app, "msg_1").await.0, "processed");
        // Whose job is done is not touched by what is done to the job.
        let done: Vec<String> = event_jobs(app).await.into_iter().map(|job| job.id).collect();
        assert_eq!(in_one!(app, |tx| tx.purge_jobs(&done)), 2);
        assert_eq!((event(app, "msg_1").await.0.as_str(), failed(app).await), ("processed", 0));
    }

    async fn an_event_stays_failed_when_its_dead_job_is_purged(app) {
        dead_event(app, "msg_1").await;
        let job = event_jobs(app).await.remove(0);
        // Dead without a word to its event, as after a crash between the two.
        app.pool.execute("update usher_events set error = null").await;
        assert_eq!(in_one!(app, |tx| tx.purge_jobs(std::slice::from_ref(&job.id))), 1);
        assert_eq!(event(app, "msg_1").await, ("failed".to_owned(), "its job was deleted".to_owned()));
        assert_eq!(failed(app).await, 1, "the alert goes on");
        assert!(!in_one!(app, |tx| tx.replay_events(&["msg_1"])).is_empty());
        assert_eq!(event_jobs(app).await.len(), 1, "a new job");
        app.run_jobs().await;
        assert_eq!(event(app, "msg_1").await.0, "failed");
    }

    async fn an_event_that_is_discarded_takes_its_dead_job_along(app) {
        dead_event(app, "msg_1").await;
        app.clerk().deliver("msg_2", "user.created", app.clerk().user("ada@example.com").to_json()).await.expect(202);
        let discarded = in_one!(app, |tx| tx.discard_events(&["msg_1", "msg_2", "msg_3"]));
        assert_eq!(discarded, ["msg_1"], "what waits is not let go");
        assert_eq!(event(app, "msg_1").await, ("processed".to_owned(), "discarded by hand".to_owned()));
        assert_eq!(failed(app).await, 0);
        let jobs = event_jobs(app).await;
        let job = jobs.iter().find(|job| job.payload.contains("msg_1")).unwrap();
        assert_eq!(job.state, JobState::Done);
        assert!(in_one!(app, |tx| tx.replay_events(&["msg_1"])).is_empty(), "for good");
        app.run_jobs().await;
        assert_eq!(event(app, "msg_2").await.0, "processed");
    }
}
