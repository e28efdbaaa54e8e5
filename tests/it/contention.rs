//! Who waits for a lock waits alone and briefly.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{join_all, poll_immediate};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use usher::clock::Clock;
use usher::store::{Conflict as _, PoolName, Store, StoreError, Tx};
use usher_testkit::fake_clerk::event;
use uuid::Uuid;

use crate::support::process::{Client, UsherProcess, eventually, person, told};
use crate::support::smtp::SmtpServer;
use crate::support::{TestApp, TestDatabase};

/// A transaction of the app that it forgets to end.
async fn locking(database: &TestDatabase, text: &str) -> Transaction<'static, Postgres> {
    let mut tx = database.pool.pg().begin().await.unwrap();
    sqlx::query(AssertSqlSafe(text.to_owned()))
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

/// A dozen clients that invite into `organization` again and again until told to end; what they were answered.
fn insist(app: &Client, organization: Uuid, ends: &Arc<AtomicBool>) -> JoinSet<Vec<u16>> {
    let mut clients = JoinSet::new();
    for client in 0..12 {
        let (app, ends) = (app.clone(), Arc::clone(ends));
        clients.spawn(async move {
            let mut answers = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let email = format!("client{client}@example.com");
                answers.push(app.try_invite(organization, &email).await.0);
            }
            answers
        });
    }
    clients
}

/// Everybody is written to once.
fn assert_no_mail_twice(smtp: &SmtpServer) {
    let mut ids: Vec<_> = smtp.mails().iter().map(|mail| mail.header("Message-ID")).collect();
    ids.sort();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all, "a mail went out twice");
}

async fn everything_is_done(database: &TestDatabase) {
    eventually(
        "every event has its effect, and every mail is sent or no longer wanted",
        async || {
            database.pool.count("usher_events where processed_at is null").await == 0
                && database.pool.count("usher_deliveries where status = 'queued'").await == 0
        },
    )
    .await;
}

#[tokio::test]
async fn whoever_needs_a_locked_organization_waits_alone() {
    /// So many that they would hold up the others if they came back among them.
    const LOCKED: usize = 30;
    let database = TestDatabase::postgres().await;
    let (usher, smtp) = UsherProcess::with_smtp(&database).await;
    let (locked, other) = (usher.organization("Locked").await, usher.organization("Other").await);
    for n in 0..LOCKED {
        usher.invite(locked, &person(n)).await;
    }
    for n in LOCKED..60 {
        usher.invite(other, &person(n)).await;
    }
    let lock = locking(
        &database,
        &format!("select id from organizations where id = '{locked}' for update"),
    )
    .await;
    let ends = Arc::new(AtomicBool::new(false));
    let mut clients = insist(&usher, locked, &ends);

    let events = join_all((0..60).map(async |n| usher.deliver(&format!("msg_{n}"), &told(n)).await)).await;
    assert!(events.iter().all(|taken| *taken), "events are taken in");
    for n in 100..120 {
        usher.invite(other, &person(n)).await;
        let banner = usher.answer(Method::GET, "/v1/users/user_5/invites", Value::Null).await;
        assert_eq!(banner.0, 200, "{}", banner.1);
        let (status, said) = usher.ask("/readyz").await;
        assert_eq!(status, 200, "{said}");
    }
    eventually("those who are invited elsewhere are in", async || {
        let into = format!("organization_users where organization_id = '{other}'");
        database.pool.count(&into).await == 60 - LOCKED as i64
    })
    .await;
    eventually(
        "those whose organization is locked wait with a later time",
        async || {
            let later =
                "apalis.jobs where job_type = 'usher:process-clerk-event' and status = 'Pending' and run_at > now()";
            database.pool.count(later).await == LOCKED as i64
        },
    )
    .await;

    ends.store(true, Ordering::Relaxed);
    while let Some(answers) = clients.join_next().await {
        let answers = answers.unwrap();
        assert!(answers.iter().all(|status| *status == 503), "{answers:?}");
    }
    lock.rollback().await.unwrap();
    let log = all_came_in(&usher, &database, &smtp, 60).await;
    let told = log.iter().filter(|line| line.contains("lock timeout")).count();
    assert_eq!(told, 1, "once a minute: {log:#?}");
    assert!(usher.terminate().await);
}

/// All got in without an attempt spent, a mail sent twice or an error in the log, which is returned.
async fn all_came_in(usher: &UsherProcess, database: &TestDatabase, smtp: &SmtpServer, people: i64) -> Vec<String> {
    everything_is_done(database).await;
    assert_eq!(database.pool.count("organization_users").await, people);
    assert_eq!(
        database.pool.count("usher_job_failures").await,
        0,
        "an attempt was spent"
    );
    assert_no_mail_twice(smtp);
    let log = usher.log();
    assert!(!log.iter().any(|line| line.contains(r#""level":"ERROR""#)), "{log:#?}");
    log
}

#[tokio::test]
async fn a_locked_table_keeps_no_event_out_and_no_worker_down() {
    let database = TestDatabase::postgres().await;
    let (usher, smtp) = UsherProcess::with_smtp(&database).await;
    let acme = usher.organization("Acme").await;
    for n in 0..40 {
        usher.invite(acme, &person(n)).await;
    }
    let lock = locking(&database, "lock table invites in access exclusive mode").await;
    let ends = Arc::new(AtomicBool::new(false));
    let mut clients = insist(&usher, acme, &ends);
    for n in 0..40 {
        assert!(usher.deliver(&format!("msg_{n}"), &told(n)).await);
        assert_eq!(usher.ask("/readyz").await.0, 200);
        assert_eq!(usher.status_of_a_new_organization().await, 201);
    }
    let mut put_back = HashSet::new();
    eventually("each event that needs the table was put back for later", async || {
        let later = "select id from apalis.jobs where job_type = 'usher:process-clerk-event' \
                     and status = 'Pending' and run_at > now()";
        let rows: Vec<(String,)> = database.pool.rows(later).await;
        put_back.extend(rows);
        put_back.len() == 40
    })
    .await;
    ends.store(true, Ordering::Relaxed);
    while let Some(answers) = clients.join_next().await {
        assert!(answers.unwrap().iter().all(|status| *status == 503));
    }
    lock.rollback().await.unwrap();
    all_came_in(&usher, &database, &smtp, 40).await;
    assert!(usher.terminate().await);
}

#[tokio::test]
async fn a_request_that_meets_a_lock_is_told_to_come_again() {
    let app = TestApp::start(TestDatabase::postgres().await).await;
    let acme = app.organization("Acme").await;
    let body = json!({ "organization_id": acme, "email": "ada@example.com", "role": "member" });
    let mut lock = app.pool.pg().begin().await.unwrap();
    sqlx::query("select id from organizations for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    let answer = app.post("/v1/invites", body.clone()).await;
    assert_eq!(answer.problem(503), "store_busy");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(app.pool.count("invites").await, 0);
    lock.rollback().await.unwrap();
    app.post("/v1/invites", body).await.expect(201);
    app.run_jobs().await;
    app.finish().await;
}

/// Moves names in two orders at once: the first time both have taken one row before they ask for the other.
async fn rename_both(tx: &mut Tx, ids: &[Uuid; 2], meeting: &Barrier, met: &AtomicBool) -> Result<(), StoreError> {
    tx.put_organization(&ids[0].into(), "Mine").await?;
    if !met.swap(true, Ordering::Relaxed) {
        meeting.wait().await;
    }
    tx.put_organization(&ids[1].into(), "Mine, too").await?;
    Ok(())
}

/// By every pool, with a database whose own default is the strictest.
#[tokio::test]
async fn two_transactions_that_meet_are_both_done() {
    use futures::FutureExt as _;
    let database = TestDatabase::postgres().await;
    let name = database.pool.text("select current_database()::text").await.unwrap();
    let strict = format!("alter database {name} set default_transaction_isolation = 'serializable'");
    database.pool.execute(&strict).await;
    let store = Store::open(&database.url, Clock::System).await.unwrap();
    let watch = "create table seen (isolation text);
        create function see() returns trigger language plpgsql as $$ begin
            insert into seen values (current_setting('transaction_isolation')); return null;
        end $$;
        create trigger watch after insert or update on organizations for each row execute function see()";
    database.pool.execute(watch).await;
    for pool in [PoolName::Requests, PoolName::Jobs] {
        let store = store.with_pool(pool);
        let ids = [Clock::System.new_id(), Clock::System.new_id()];
        store
            .transaction(ids, |tx, ids| {
                async move {
                    tx.put_organization(&ids[0].into(), "One").await?;
                    tx.put_organization(&ids[1].into(), "Two").await.map(drop)
                }
                .boxed()
            })
            .await
            .unwrap();
        let meeting = Barrier::new(2);
        let rename = async |ids: [Uuid; 2]| {
            let met = AtomicBool::new(false);
            store
                .transaction((ids, &meeting, &met), |tx, (ids, meeting, met)| {
                    rename_both(tx, ids, meeting, met).boxed()
                })
                .await
        };
        let (one, other) = tokio::join!(rename(ids), rename([ids[1], ids[0]]));
        one.unwrap();
        other.unwrap();
    }
    assert_eq!(database.pool.count("seen").await, 12);
    assert_eq!(database.pool.count("seen where isolation = 'read committed'").await, 12);
    store.close().await;
}

/// The doors against each other: a batch, resends, sign-outs, deletions and the app's own SQL, all about the same people.
#[tokio::test]
async fn doors_that_meet_over_the_same_invites_are_all_served() {
    const PEOPLE: usize = 30;
    let database = TestDatabase::postgres().await;
    let smtp = SmtpServer::start().await;
    let usher = UsherProcess::start_with(
        &database,
        &smtp.url(),
        &[
            ("MAIL_CAP_ORGANIZATION", "100000"),
            ("MAIL_CAP_INVITER", "100000"),
            ("INVITE_AUTO_ACCEPT", "never"),
        ],
    )
    .await;
    let acme = usher.organization("Acme").await;
    let mut ids = Vec::new();
    for n in 0..PEOPLE {
        let invite = usher.invite(acme, &person(n)).await;
        ids.push(invite["id"].as_str().unwrap().to_owned());
        assert!(usher.deliver(&format!("msg_{n}"), &told(n)).await);
    }
    let order = |seed: usize| (0..PEOPLE).map(move |n| (n * 7 + seed * 11) % PEOPLE);
    let batches = async {
        for seed in 0..12 {
            let invites: Vec<Value> = order(seed)
                .map(|n| json!({ "organization_id": acme, "email": person(n), "role": "member" }))
                .collect();
            usher
                .call(Method::POST, "/v1/invites/batch", json!({ "invites": invites }))
                .await;
        }
    };
    let resends = async {
        for seed in 0..4 {
            let calls = order(seed).map(|n| {
                let path = format!("/v1/invites/{}/resend", ids[n]);
                let app = &usher;
                async move { app.answer(Method::POST, &path, Value::Null).await }
            });
            for (status, said) in join_all(calls).await {
                assert!(status < 500, "{status} {said}");
            }
        }
    };
    let events = async {
        for seed in 0..4 {
            for n in order(seed) {
                let now = Clock::System.now();
                for (kind, status) in [("created", "active"), ("ended", "ended")] {
                    let session = json!({
                        "id": format!("sess_{seed}_{n}"), "user_id": format!("user_{n}"), "status": status,
                        "created_at": now.timestamp_millis(),
                    });
                    let told = event(&format!("session.{kind}"), session, now);
                    assert!(usher.deliver(&format!("{kind}_{seed}_{n}"), &told).await);
                }
                if seed == 3 && n % 5 == 0 {
                    let gone = json!({ "id": format!("user_{n}"), "deleted": true });
                    assert!(
                        usher
                            .deliver(&format!("del_{n}"), &event("user.deleted", gone, now))
                            .await
                    );
                }
            }
        }
    };
    let sql = async {
        for seed in 0..3 {
            for n in order(seed) {
                // The app's own transaction: where it meets another one, it is the app's to do it again.
                let called = sqlx::query("select usher.invite($1, 'member', organization_id => $2)")
                    .bind(person(n))
                    .bind(acme)
                    .execute(database.pool.pg())
                    .await;
                let met = called
                    .err()
                    .map(StoreError::from)
                    .is_some_and(|error| error.is_conflict());
                assert!(!met, "the order of locks is the same for all");
            }
        }
    };
    tokio::join!(batches, resends, events, sql);
    eventually("nothing is left that is due", async || {
        let due = "apalis.jobs where status in ('Pending', 'Queued', 'Running') and run_at <= now()";
        database.pool.count(due).await == 0
    })
    .await;
    let failed = database
        .pool
        .text("select string_agg(distinct error, '; ') from usher_job_failures where error like '%database%'");
    assert_eq!(failed.await, None);
    let log = usher.log();
    assert!(!log.iter().any(|line| line.contains("given up")), "{log:#?}");
    assert!(usher.terminate().await);
}

/// The app holds its transaction open after it has invited by SQL: nobody else waits for the day's counts.
#[tokio::test]
async fn an_invite_by_sql_that_is_not_committed_keeps_nobody_from_inviting() {
    let app = TestApp::start(TestDatabase::postgres().await).await;
    let acme = app.organization("Acme").await;
    let mut open = app.pool.pg().begin().await.unwrap();
    sqlx::query("select usher.invite('ada@example.com', 'member', organization_id => $1)")
        .bind(acme)
        .execute(&mut *open)
        .await
        .unwrap();
    app.invite_to_organization(acme, "ben@example.com", "member").await;
    open.commit().await.unwrap();
    // By two clocks: the story's is an hour ahead of the database's, and may be in the next day already.
    let counted = app
        .pool
        .text("select sum(mails)::text from usher_mail_counts where scope = 'organization'")
        .await;
    assert_eq!(counted.as_deref(), Some("2"));
    assert_eq!(app.pool.count("usher_mail_asks").await, 0);
    app.run_jobs().await;
    app.finish().await;
}

/// A connection whose `begin` was given up on is cleaned in silence, and so is any other.
#[tokio::test]
async fn a_transaction_that_was_given_up_leaves_no_warning() {
    let database = TestDatabase::postgres().await;
    let log = Log::default();
    let _here = tracing::subscriber::set_default(
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_writer(log.clone())
            .finish(),
    );
    let store = Store::open(&database.url, Clock::System).await.unwrap();
    let mut given_up = 0;
    for _ in 0..20 {
        drop(store.begin().await.unwrap());
        // Asked once: the server is told to begin, and nobody waits for its answer, unless it is there at once.
        given_up += usize::from(poll_immediate(store.begin()).await.is_none());
        store.ping().await.unwrap();
    }
    store.close().await;
    assert!(given_up > 0);
    let said = log.text();
    assert!(said.is_empty(), "{said}");
}

#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A way to Postgres that, once armed, loses the first connection on which an acknowledgement is sent, without a word.
struct LossyWay {
    url: String,
    armed: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
}

impl LossyWay {
    async fn to(url: &str) -> Self {
        let target = url.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (armed, lost) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let way = Self {
            url: url.replacen(&target, &address, 1),
            armed: Arc::clone(&armed),
            lost: Arc::clone(&lost),
        };
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&target).await.unwrap();
                tokio::spawn(relay(client, server, Arc::clone(&armed), Arc::clone(&lost)));
            }
        });
        way
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, armed: Arc<AtomicBool>, lost: Arc<AtomicBool>) {
    let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(1..) = read else { return };
                let sent = &up[..read.unwrap()];
                let is_acknowledgement = sent.windows(21).any(|bytes| bytes == b"last_result = j.result".split_at(21).0);
                if is_acknowledgement && armed.swap(false, Ordering::SeqCst) {
                    lost.store(true, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                }
                if server.write_all(sent).await.is_err() { return }
            }
            read = server.read(&mut down) => {
                let Ok(1..) = read else { return };
                if client.write_all(&down[..read.unwrap()]).await.is_err() { return }
            }
        }
    }
}

/// apalis waits without a limit for the answer to an acknowledgement, and the worker lives on: what it holds for longer
/// than its queue allows is given back.
#[tokio::test]
async fn a_job_whose_acknowledgement_was_lost_is_given_back() {
    let mut database = TestDatabase::postgres().await;
    let smtp = SmtpServer::start().await;
    let way = LossyWay::to(&database.url).await;
    way.armed.store(true, Ordering::SeqCst);
    database.url.clone_from(&way.url);
    let usher = UsherProcess::start(&database, &smtp.url()).await;
    eventually("an acknowledgement is lost", async || way.lost.load(Ordering::SeqCst)).await;
    let held = "apalis.jobs where status = 'Queued' and lock_by is not null";
    eventually("its job is held", async || database.pool.count(held).await > 0).await;
    // A quarter of an hour passes.
    database
        .pool
        .execute("update apalis.jobs set lock_at = now() - interval '15 minutes' where status = 'Queued'")
        .await;
    eventually("it was given back, and run again", async || {
        database.pool.count("apalis.jobs where status <> 'Done'").await == 0
    })
    .await;
    assert!(usher.log().iter().any(|line| line.contains("never acknowledged")));
    assert!(usher.terminate().await);
}

/// Another program writes to the file for a while: that is waited for.
#[tokio::test]
async fn a_sqlite_file_that_another_program_writes_to_is_busy_not_lost() {
    let database = TestDatabase::sqlite().await;
    let (usher, _smtp) = UsherProcess::with_smtp(&database).await;
    assert!(usher.deliver("msg_1", &told(1)).await);
    let other = database.pool.sqlite().begin_with("begin immediate").await.unwrap();
    // Longer than anything that usher does may take, and than it waits for an answer.
    let (ready, asked, ()) = tokio::join!(
        usher.ask("/readyz"),
        usher.status_of_a_new_organization(),
        tokio::time::sleep(Duration::from_secs(12))
    );
    assert_eq!((ready.0, asked), (200, 503));
    assert_eq!(usher.ask("/readyz").await.0, 200);
    other.rollback().await.unwrap();
    eventually("events are taken again", async || {
        usher.deliver("msg_2", &told(2)).await
    })
    .await;
    everything_is_done(&database).await;
    assert_eq!(database.pool.count("usher_job_failures").await, 0);
    let log = usher.log();
    assert!(!log.iter().any(|line| line.contains(r#""level":"ERROR""#)), "{log:#?}");
    let told = log.iter().filter(|line| line.contains("lock timeout")).count();
    assert_eq!(told, 1, "once a minute: {log:#?}");
    assert!(usher.terminate().await);
}

#[tokio::test]
async fn a_batch_costs_as_many_calls_as_it_has_items() {
    let database = TestDatabase::sqlite().await;
    let app = TestApp::start_with(database, |settings| settings.usher_rate_limit = Some("10/h".to_owned())).await;
    let acme = app.organization("Acme").await;
    let batch = |items: usize| {
        let invites: Vec<Value> = (0..items)
            .map(|n| json!({ "organization_id": acme, "email": person(n), "role": "member" }))
            .collect();
        json!({ "invites": invites })
    };
    let answer = app.post("/v1/invites/batch", batch(4)).await;
    answer.expect(200);
    assert!(
        answer.headers["ratelimit"]
            .to_str()
            .unwrap()
            .starts_with("\"key\";r=5;"),
        "{:?}",
        answer.headers
    );
    let answer = app.post("/v1/invites/batch", batch(7)).await;
    assert_eq!(answer.problem(429), "rate_limited");
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(app.pool.count("invites").await, 4);
    let answer = app.post("/v1/invites/batch", batch(11)).await;
    assert_eq!(answer.wrong_fields(), ["invites"], "no wait would ever help");
    app.run_jobs().await;
    app.finish().await;
}
