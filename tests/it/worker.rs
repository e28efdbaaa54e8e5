//! The worker's own runtime, and the cure for each of apalis's traps.

use std::io::Write;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use usher::app::App;
use usher::clock::Clock;
use usher::config::Config;
use usher::flows;
use usher::invites::InviteRequest;
use usher::invites::email::EmailAddress;
use usher::jobs::{Context, Job, JobError};
use usher::store::{NewEvent, Queue, Store, StoreError};
use usher::worker::{Concurrency, Failure, Workers, run_attempt};
use usher_mail::MAX_CONNECTIONS;
use usher_testkit::fake_clerk::{FakeUser, event};

use crate::support::app::settings;
use crate::support::db::{TestDatabase, TestPool};
use crate::support::process::eventually;
use crate::support::smtp::{Behaviour, Phase, SmtpServer};
use crate::support::{jobs, stories};

/// usher by the machine's clock, with real workers.
struct Running {
    app: App,
    smtp: SmtpServer,
    database: TestDatabase,
    workers: Workers,
}

impl Running {
    async fn start(database: TestDatabase) -> Self {
        let smtp = SmtpServer::start().await;
        let app = app(&database, &smtp).await;
        let workers = Workers::start(&app, Concurrency::default());
        Self {
            app,
            smtp,
            database,
            workers,
        }
    }

    async fn stop(self) {
        self.workers.stop().await;
    }

    /// Beside those of the schedules, which come whenever they are due.
    async fn jobs_are(&self, condition: &str, count: i64) -> bool {
        let table = self.database.pool.jobs();
        let rest = format!("{table} where job_type <> 'usher:periodic' and {condition}");
        self.database.pool.count(&rest).await == count
    }
}

async fn app(database: &TestDatabase, smtp: &SmtpServer) -> App {
    let config = settings(&database.url, &smtp.url())
        .resolve_in(database.folder.path())
        .expect("a configuration");
    App::new(config, Clock::System).await.expect("an app")
}

/// Stores events as the intake does.
async fn receive(store: &Store, from: usize, to: usize) {
    try_receive(store, from, to, Clock::System.now()).await.unwrap();
}

async fn try_receive(store: &Store, from: usize, to: usize, now: DateTime<Utc>) -> Result<usize, StoreError> {
    let events: Vec<NewEvent> = (from..to)
        .map(|n| {
            let user = FakeUser::new(format!("user_{n}"), format!("person{n}@example.com"), now);
            NewEvent {
                svix_id: format!("msg_{n}"),
                event_type: "user.created".to_owned(),
                payload: event("user.created", user.to_json(), now).to_string(),
            }
        })
        .collect();
    Ok(store.receive_events(&events).await?.len())
}

/// Puts a job straight into the queue, as a program with its own ideas would.
async fn enqueue_raw(pool: &TestPool, id: &str, queue: Queue, payload: &str, rest: &str) {
    let queue = queue.stored();
    let text = pool.pick(
        format!(
            "insert into apalis.jobs (id, job_type, job, max_attempts, run_at, priority, status, attempts, lock_by)
             values ('{id}', '{queue}', convert_to('{payload}', 'UTF8'), 60, now(), 0, {rest})"
        ),
        format!(
            "insert into Jobs (id, job_type, job, max_attempts, run_at, priority, metadata, status, attempts, lock_by)
             values ('{id}', '{queue}', cast('{payload}' as blob), 60, unixepoch(), 0, '{{}}', {rest})"
        ),
    );
    pool.execute(&text).await;
}

/// A worker that was killed an hour ago.
async fn silent_worker(pool: &TestPool, name: &str, queue: Queue) {
    let queue = queue.stored();
    let (table, seen) = pool.pick(
        ("apalis.workers", "now() - interval '1 hour'"),
        ("Workers", "unixepoch() - 3600"),
    );
    pool.execute(&format!(
        "insert into {table} (id, worker_type, storage_name, layers, last_seen) values ('{name}', '{queue}', 'x', '', {seen})"
    ))
    .await;
}

const ULID: &str = "01JDABCDEFGHJKMNPQRSTVWXY";

stories! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)] Running, Running::start, Running::stop;

    async fn everything_that_is_enqueued_is_done_once(running) {
        for round in 0..10 {
            receive(&running.app.store, round * 50, round * 50 + 50).await;
        }
        eventually("all are processed", async || running.jobs_are("status = 'Done'", 500).await).await;
        assert!(running.jobs_are("attempts = 1", 500).await, "none was run twice");
        assert_eq!(running.database.pool.count("usher_people").await, 500);
        assert!(running.workers.alive().all());
    }

    async fn trap_1_a_job_that_another_process_enqueues_is_noticed(running) {
        let other = Store::open(&running.database.url, Clock::System).await.unwrap();
        for n in 0..5 {
            receive(&other, n, n + 1).await;
            eventually("it is processed", async || running.jobs_are("status = 'Done'", n as i64 + 1).await).await;
        }
    }

    async fn trap_2_and_4_the_jobs_of_a_worker_that_was_killed_are_taken_up(running) {
        receive(&running.app.store, 0, 1).await;
        eventually("it is processed", async || running.jobs_are("status = 'Done'", 1).await).await;
        silent_worker(&running.database.pool, "gone", Queue::ProcessClerkEvent).await;
        running.database.pool.execute("update usher_events set processed_at = null").await;
        for (n, status) in ["Running", "Queued"].into_iter().enumerate() {
            let rest = format!("'{status}', 0, 'gone'");
            enqueue_raw(&running.database.pool, &format!("{ULID}{n}"), Queue::ProcessClerkEvent, r#"{"svix_id":"msg_0"}"#, &rest).await;
        }
        eventually("both are done", async || running.jobs_are("status = 'Done'", 3).await).await;
        assert_eq!(running.database.pool.count("usher_events where processed_at is null").await, 0);
    }

    async fn trap_6_a_failed_job_waits_durably_before_its_next_attempt(running) {
        running.smtp.at(Phase::Rcpt, Behaviour::Reply("451 4.3.0 try later"));
        invite(running, "ada@example.com").await;
        eventually("it has failed once", async || running.jobs_are("status = 'Failed' and attempts = 1", 1).await).await;
        let later = running.database.pool.pick("run_at > now() + interval '3 seconds'", "run_at > unixepoch() + 3");
        assert!(running.jobs_are(&format!("status = 'Failed' and {later}"), 1).await);
        let delivery = "usher_deliveries where status = 'queued' and attempts = 1 and last_error like '%451%'";
        assert_eq!(running.database.pool.count(delivery).await, 1);
    }

    async fn a_mail_that_is_refused_for_good_has_failed_and_its_job_is_done(running) {
        running.smtp.at(Phase::Rcpt, Behaviour::Reply("550 5.1.1 <ada@example.com> unknown here"));
        invite(running, "ada@example.com").await;
        eventually("it is done", async || running.jobs_are("status = 'Done'", 1).await).await;
        let error = running.database.pool.text("select last_error from usher_deliveries where status = 'failed'").await.unwrap();
        assert!(error.contains("550") && !error.contains("ada@example.com"), "{error}");
        let result = running.database.pool.dump(running.database.pool.jobs()).await;
        assert!(!result.contains("ada@example.com"), "no address in the queue's tables");
    }

    async fn trap_8_an_orphan_without_attempts_left_is_dead(running) {
        receive(&running.app.store, 0, 1).await;
        eventually("it is processed", async || running.jobs_are("status = 'Done'", 1).await).await;
        running.database.pool.execute("update usher_events set processed_at = null").await;
        silent_worker(&running.database.pool, "gone", Queue::ProcessClerkEvent).await;
        let payload = r#"{"svix_id":"msg_0"}"#;
        enqueue_raw(&running.database.pool, &format!("{ULID}0"), Queue::ProcessClerkEvent, payload, "'Running', 60, 'gone'").await;
        eventually("it is dead", async || running.jobs_are("status = 'Killed'", 1).await).await;
        let error = running.database.pool.text("select error from usher_events").await.unwrap();
        assert!(error.starts_with("no attempts are left: the last ones never ended"), "{error}");
    }

    async fn trap_8_jobs_that_are_lost_again_wait_longer_each_time_and_apart_from_each_other(running) {
        silent_worker(&running.database.pool, "gone", Queue::ProcessClerkEvent).await;
        let due_in = running.database.pool.pick("extract(epoch from run_at - now())", "(run_at - unixepoch())");
        for (n, attempts) in [3, 3, 3, 3, 7, 58].into_iter().enumerate() {
            let rest = format!("'Queued', {attempts}, 'gone'");
            enqueue_raw(&running.database.pool, &format!("{ULID}{n}"), Queue::ProcessClerkEvent, r#"{"svix_id":"msg_0"}"#, &rest).await;
        }
        eventually("they are taken up", async || running.jobs_are("status = 'Pending' and lock_by is null", 6).await).await;
        assert!(running.jobs_are(&format!("attempts = 4 and {due_in} between 3 and 31"), 4).await);
        assert!(running.jobs_are(&format!("attempts = 8 and {due_in} between 100 and 481"), 1).await);
        assert!(running.jobs_are(&format!("attempts = 59 and {due_in} between 1700 and 5401"), 1).await);
        let table = running.database.pool.jobs();
        let times = running.database.pool.count(&format!("(select distinct run_at from {table} where attempts = 4) as times")).await;
        assert!(times > 1, "not all at once again");
    }

    async fn a_payload_that_no_version_can_read_does_not_end_the_worker(running) {
        for (n, payload) in ["not json", "{}", "[1]", r#"{"svix_id":7}"#].into_iter().enumerate() {
            enqueue_raw(&running.database.pool, &format!("{ULID}{n}"), Queue::ProcessClerkEvent, payload, "'Pending', 0, null").await;
        }
        receive(&running.app.store, 0, 20).await;
        eventually("the good ones are done", async || running.jobs_are("status = 'Done'", 20).await).await;
        eventually("the others are dead", async || running.jobs_are("status = 'Killed'", 4).await).await;
        assert!(running.workers.alive().all());
    }

    async fn a_mail_that_nobody_wants_any_more_when_its_turn_comes_is_not_sent(running) {
        running.smtp.next(MAX_CONNECTIONS, Phase::MailFrom, Behaviour::Stall);
        for n in 0..MAX_CONNECTIONS {
            invite(running, &format!("slow{n}@example.com")).await;
        }
        running.smtp.wait_for_stalls(MAX_CONNECTIONS).await;
        invite(running, "ada@example.com").await;
        let held = i64::try_from(MAX_CONNECTIONS + 1).unwrap();
        eventually("it waits for its turn", async || running.jobs_are("status = 'Queued'", held).await).await;
        let ada = EmailAddress::parse("ada@example.com").unwrap();
        let mut tx = running.app.store.begin().await.unwrap();
        let open = tx.pending_invites_at(&[ada.key()]).await.unwrap();
        assert!(tx.revoke_invite(open[0].invite.id).await.unwrap());
        tx.commit().await.unwrap();
        eventually("it is given up", async || {
            running.database.pool.count("usher_deliveries where status = 'suppressed'").await == 1
        }).await;
        assert!(running.smtp.mails().iter().all(|mail| !mail.to.iter().any(|to| to.contains("ada"))));
    }

    async fn a_slow_mail_holds_nothing_else_up(running) {
        running.smtp.next(1, Phase::EndOfData, Behaviour::Stall);
        invite(running, "ada@example.com").await;
        running.smtp.wait_for_stalls(1).await;
        receive(&running.app.store, 0, 5).await;
        eventually("the others are done", async || {
            running.database.pool.count("usher_events where processed_at is not null").await == 5
        }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_begin_the_mails_that_wait_for_their_turn() {
    for database in [TestDatabase::sqlite().await, TestDatabase::postgres().await] {
        let running = Running::start(database).await;
        running.smtp.next(MAX_CONNECTIONS, Phase::MailFrom, Behaviour::Stall);
        for n in 0..2 * MAX_CONNECTIONS {
            invite(&running, &format!("person{n}@example.com")).await;
        }
        running.smtp.wait_for_stalls(MAX_CONNECTIONS).await;
        let held = i64::try_from(2 * MAX_CONNECTIONS).unwrap();
        eventually("the others wait", async || {
            running.jobs_are("status = 'Queued'", held).await
        })
        .await;
        running.workers.stop().await;
        let untried = "usher_deliveries where status = 'queued' and attempts = 0";
        assert_eq!(running.database.pool.count(untried).await, held / 2);
        let table = running.database.pool.jobs();
        let untouched = format!("{table} where job_type = 'usher:send-mail' and status = 'Pending' and attempts = 0");
        assert_eq!(
            running.database.pool.count(&untouched).await,
            held / 2,
            "as if never fetched"
        );
        assert!(running.smtp.mails().is_empty());
    }
}

async fn invite(running: &Running, email: &str) {
    let config: &Config = &running.app.config;
    let mut tx = running.app.store.begin().await.unwrap();
    let organization = tx.new_id();
    tx.put_organization(&organization.into(), "Acme").await.unwrap();
    let body = json!({ "organization_id": organization, "email": email, "role": "member" });
    let request = InviteRequest::parse(body, &config.roles, &config.redirects);
    let answers = flows::invite(&mut tx, &[request], &config.into(), None).await.unwrap();
    assert!(answers[0].is_ok());
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_share_one_postgres_and_run_nothing_twice() {
    let first = Running::start(TestDatabase::postgres().await).await;
    let others = join_all((0..2).map(async |_| {
        let app = app(&first.database, &first.smtp).await;
        Workers::start(&app, Concurrency { events: 20, mails: 2 })
    }))
    .await;
    for round in 0..20 {
        receive(&first.app.store, round * 25, round * 25 + 25).await;
    }
    eventually("all are processed", async || {
        first.jobs_are("status = 'Done'", 500).await
    })
    .await;
    assert!(first.jobs_are("attempts = 1", 500).await);
    assert_eq!(first.database.pool.count("usher_people").await, 500);
    for workers in others {
        workers.stop().await;
    }
    first.workers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_16_workers_come_back_after_the_database_threw_them_out() {
    let running = Running::start(TestDatabase::postgres().await).await;
    let mut stored = 0;
    for round in 0..8 {
        let now = Clock::System.now();
        if let Ok(count) = try_receive(&running.app.store, round * 100, round * 100 + 100, now).await {
            stored += count;
        }
        // Let it reach fetches, groups and acknowledgements alike.
        tokio::time::sleep(Duration::from_millis(20 + 15 * round as u64)).await;
        running
            .database
            .pool
            .execute(
                "do $$ begin perform pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and application_name = 'usher'; end $$",
            )
            .await;
    }
    assert!(stored > 0);
    eventually("every stored event is processed", async || {
        running
            .database
            .pool
            .count("usher_events where processed_at is null")
            .await
            == 0
    })
    .await;
    eventually("no job is stranded", async || {
        running.jobs_are("status <> 'Done'", 0).await
    })
    .await;
    eventually("every queue has its worker again", async || {
        running.workers.alive().all()
    })
    .await;
    running.workers.stop().await;
}

/// A stop leaves nothing locked and fails nothing: what ran has been acknowledged, what had not begun is back in the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_finishes_what_runs_and_gives_back_what_does_not() {
    for database in [TestDatabase::sqlite().await, TestDatabase::postgres().await] {
        let running = Running::start(database).await;
        for round in 0..10 {
            receive(&running.app.store, round * 100, round * 100 + 100).await;
        }
        let (pool, table) = (running.database.pool.clone(), running.database.pool.jobs());
        running.workers.stop().await;
        let unfinished = "status in ('Running', 'Queued', 'Failed', 'Killed')";
        assert_eq!(pool.count(&format!("{table} where {unfinished}")).await, 0);
        let done = pool
            .count(&format!(
                "{table} where status = 'Done' and job_type <> 'usher:periodic'"
            ))
            .await;
        assert_eq!(pool.count("usher_events where processed_at is not null").await, done);
    }
}

#[tokio::test]
async fn events_that_nobody_waits_for_any_more_leave_no_transaction_open_on_sqlite() {
    let database = TestDatabase::sqlite().await;
    let store = Store::open(&database.url, Clock::System).await.unwrap();
    let pool = database.pool.sqlite();
    // More than one text has room for.
    let events = (1, 40);
    for _ in 0..10 {
        let other = pool.begin_with("begin immediate").await.unwrap();
        let given_up = receive(&store, events.0, events.1);
        assert!(tokio::time::timeout(Duration::from_millis(50), given_up).await.is_err());
        other.rollback().await.unwrap();
        store.heartbeat(&[], &[]).await.unwrap();
    }
    receive(&store, events.0, events.1).await;
    assert_eq!(database.pool.count("usher_events").await, 39);
    assert_eq!(database.pool.count("Jobs").await, 39);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_nobody_waits_for_any_more_is_not_left_open() {
    let database = TestDatabase::postgres().await;
    let store = Store::open(&database.url, Clock::System).await.unwrap();
    drop(store.begin().await.unwrap());
    for polls in (1..=8).cycle().take(40) {
        let mut begin = Box::pin(store.begin());
        for _ in 0..polls {
            if futures::poll!(&mut begin).is_ready() {
                break;
            }
            // So that the next poll finds one more answer; timers are too coarse for that.
            std::thread::sleep(Duration::from_micros(200));
        }
        drop(begin);
        eventually("no connection is in a transaction", async || {
            let left_open = "pg_stat_activity where datname = current_database() and application_name = 'usher'
                             and state like 'idle in transaction%'";
            database.pool.count(left_open).await == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_while_another_session_holds_the_workers_rows() {
    let running = Running::start(TestDatabase::postgres().await).await;
    receive(&running.app.store, 0, 1).await;
    eventually("it is processed", async || running.jobs_are("status = 'Done'", 1).await).await;
    let mut lock = running.database.pool.pg().begin().await.unwrap();
    sqlx::query("select 1 from apalis.workers for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(60), running.workers.stop())
        .await
        .expect("a stop that ends");
}

/// Gives up only once it could be noted.
#[derive(Deserialize)]
struct Hopeless;

static NOTED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

impl Job for Hopeless {
    const QUEUE: Queue = Queue::ProcessClerkEvent;
    const TIME_LIMIT: Duration = Duration::from_secs(1);

    async fn run(&self, _: &Context) -> Result<(), JobError> {
        Err(JobError::give_up("hopeless"))
    }

    async fn gave_up(&self, _: &Context, _: &str) -> Result<(), JobError> {
        match NOTED.swap(true, std::sync::atomic::Ordering::SeqCst) {
            false => Err(JobError::retry("the database is away")),
            true => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_death_that_could_not_be_noted_is_noted_later() {
    let app = crate::support::TestApp::start(TestDatabase::sqlite().await).await;
    app.clerk().user_created("ada@example.com").await;
    let id = jobs::all(&app.pool).await[0].id.clone();
    let first = run_attempt::<Hopeless>(&app.context, Hopeless::QUEUE, b"null", &id, 60).await;
    assert!(matches!(first, Err(Failure::Later(_))), "{first:?}");
    let again = run_attempt::<Hopeless>(&app.context, Hopeless::QUEUE, b"null", &id, 61).await;
    assert!(matches!(again, Err(Failure::Dead(_))), "{again:?}");
    assert!(
        app.pool.count("Jobs where max_attempts > 1000").await == 1,
        "apalis's own limit must not strand it"
    );
    app.clock.advance(TimeDelta::hours(2));
    app.run_jobs().await;
}

#[derive(Deserialize)]
struct Panicking;

impl Job for Panicking {
    const QUEUE: Queue = Queue::ProcessClerkEvent;
    const TIME_LIMIT: Duration = Duration::from_secs(1);

    async fn run(&self, _: &Context) -> Result<(), JobError> {
        panic!("as planned")
    }

    async fn gave_up(&self, _: &Context, _: &str) -> Result<(), JobError> {
        Ok(())
    }
}

/// Lines of a log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn told(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// As usher does when it starts to log; whoever heard of panics before still does.
fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            usher::telemetry::log_panic(panic);
            before(panic);
        }));
    });
}

#[derive(Deserialize)]
struct Endless;

impl Job for Endless {
    const QUEUE: Queue = Queue::ProcessClerkEvent;
    const TIME_LIMIT: Duration = Duration::from_millis(20);

    async fn run(&self, _: &Context) -> Result<(), JobError> {
        std::future::pending().await
    }

    async fn gave_up(&self, _: &Context, _: &str) -> Result<(), JobError> {
        Ok(())
    }
}

stories! {
    async fn trap_5_a_panic_and_a_job_without_end_become_retries_with_a_wait(app) {
        app.clerk().user_created("ada@example.com").await;
        let id = jobs::all(&app.pool).await[0].id.clone();
        let deferred = async || {
            let soon = app.now() + TimeDelta::seconds(5);
            let soon = app.pool.pick(format!("'{}'", soon.to_rfc3339()), soon.timestamp().to_string());
            app.pool.count(&format!("{} where run_at > {soon}", app.pool.jobs())).await == 1
        };
        let panicked = run_attempt::<Panicking>(&app.context, Panicking::QUEUE, b"null", &id, 1).await;
        assert_eq!(panicked, Err(Failure::Later("it panicked".to_owned())));
        assert!(deferred().await);
        let endless = run_attempt::<Endless>(&app.context, Endless::QUEUE, b"null", &id, 1).await;
        assert!(matches!(endless, Err(Failure::Later(why)) if why.contains("longer")));
        let last = run_attempt::<Endless>(&app.context, Endless::QUEUE, b"null", &id, 60).await;
        assert!(matches!(last, Err(Failure::Dead(_))), "the last attempt");
        app.clock.advance(TimeDelta::hours(2));
        app.run_jobs().await;
    }

    async fn a_panic_is_one_line_of_the_log_with_its_job(app) {
        app.clerk().user_created("ada@example.com").await;
        let id = jobs::all(&app.pool).await[0].id.clone();
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().json().with_current_span(false).with_writer(move || writer.clone());
        {
            let _kept = tracing::subscriber::set_default(log.finish());
            log_panics();
            run_attempt::<Panicking>(&app.context, Panicking::QUEUE, b"null", &id, 3).await.unwrap_err();
            let address = "ada@example.com".to_owned();
            std::panic::catch_unwind(|| panic!("over {address}")).unwrap_err();
        }
        let told = lines.told();
        let [panicked, retried, outside] = &told[..] else { panic!("{told:#?}") };
        assert_eq!(panicked["level"], "ERROR");
        let message = panicked["fields"]["message"].as_str().unwrap();
        assert!(message.starts_with("panicked at tests/it/worker.rs:") && message.ends_with(": as planned"), "{message}");
        for line in [panicked, retried] {
            let job = &line["spans"][0];
            assert_eq!((&job["name"], &job["job.attempt"]), (&json!("job"), &json!(3)), "{line}");
            assert_eq!((&job["job.queue"], &job["job.id"]), (&json!("process-clerk-event"), &json!(id)), "{line}");
        }
        assert!(retried["fields"]["message"].as_str().unwrap().contains("it panicked"), "{retried}");
        let message = outside["fields"]["message"].as_str().unwrap();
        assert!(message.ends_with("(formatted)"), "values may be anybody's: {message}");
        app.clock.advance(TimeDelta::hours(2));
        app.run_jobs().await;
    }

    async fn an_outage_of_the_mail_server_costs_no_mail_and_no_attempts_in_a_burst(app) {
        let acme = app.organization("Acme").await;
        app.smtp.at(Phase::Greeting, Behaviour::Drop);
        let invite = app.invite(json!({
            "organization_id": acme, "email": "ada@example.com", "role": "member", "expires_in": "30d",
        })).await;
        for _ in 0..40 {
            app.run_jobs().await;
            app.clock.advance(TimeDelta::minutes(73));
        }
        let shown = app.show(&invite).await;
        assert_eq!(shown["delivery"]["status"], "queued");
        assert!(shown["delivery"]["last_error"].is_string());
        app.smtp.at(Phase::Greeting, Behaviour::Accept);
        app.run_jobs().await;
        assert_eq!(app.show(&invite).await["delivery"]["status"], "sent", "two days later");
    }

    async fn a_job_that_runs_twice_changes_nothing_the_second_time(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.person("ada@example.com", None).await;
        let tables = ["invites", "usher_events", "usher_deliveries", "organization_users", "admins", "usher_people"];
        let dump = async || join_all(tables.map(|table| app.pool.dump(table))).await;
        let (before, mails) = (dump().await, app.mails().len());
        for job in jobs::all(&app.pool).await {
            jobs::attempt_at(&app.context, &job, 2).await.unwrap();
        }
        assert_eq!(dump().await, before);
        assert_eq!(app.mails().len(), mails);
    }
}

#[tokio::test]
async fn trap_10_sqlite_has_neither_of_the_two_indexes_that_mislead_its_planner() {
    let database = TestDatabase::sqlite().await;
    let misleading = "sqlite_master where type = 'index' and lower(name) in ('lidx', 'idx_jobs_status_run_at')";
    assert_eq!(database.pool.count(misleading).await, 0);
}

#[tokio::test]
async fn trap_11_sqlite_is_durable_and_both_migrations_run_again() {
    let database = TestDatabase::sqlite().await;
    let store = Store::open(&database.url, Clock::System).await.unwrap();
    store.migrate(&usher::store::Rules::default()).await.unwrap();
    // A trigger reads the settings of the connection that usher writes by.
    let watch = "create table seen (settings text);
        create trigger watch after insert on organizations begin
            insert into seen select s.synchronous || ' ' || j.journal_mode || ' ' || f.foreign_keys
            from pragma_synchronous s, pragma_journal_mode j, pragma_foreign_keys f;
        end";
    database.pool.execute(watch).await;
    let mut tx = store.begin().await.unwrap();
    tx.put_organization(&Clock::System.new_id().into(), "Acme")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let seen = database.pool.text("select settings from seen").await;
    assert_eq!(seen.as_deref(), Some("2 wal 1"), "2 is full");
}

#[tokio::test]
async fn names_of_workers_are_never_used_again() {
    let names: Vec<String> = (0..3).map(|_| usher::config::process_name()).collect();
    assert!(names[0] != names[1] && names[1] != names[2], "{names:?}");
}
