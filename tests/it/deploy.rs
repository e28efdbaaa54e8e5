//! A new version takes the place of the old one while both are in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser as _;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use usher::app::App;
use usher::cli::serve::Serve;
use usher::clock::Clock;
use usher::config::Settings;

use crate::support::TestDatabase;
use crate::support::app::API_KEY;
use crate::support::process::{UsherProcess, eventually, signed, told_of};
use crate::support::smtp::SmtpServer;

/// What the next version's migration does to tables that are in use: it adds, as a migration must that an older version
/// shall survive.
const NEXT_MIGRATION: (i64, &str) = (
    9000,
    "alter table invites add column next_version text not null default 'of the next version';
     alter table usher_events add column next_version text;
     alter table usher_deliveries add column next_version text;
     alter table organization_users add column next_version text;
     create table usher_next_version (id uuid primary key)",
);

/// The next version, as a process: this usher with one migration more. Started by the stories below.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a program that the story of a deploy starts"]
async fn the_next_version() {
    #[derive(clap::Parser)]
    struct Environment {
        #[command(flatten)]
        settings: Settings,
        /// Whoever runs all that is ignored must not have their own database changed.
        #[arg(long, env = "USHER_TEST_NEXT_VERSION")]
        is_wanted: bool,
    }
    let Environment { settings, is_wanted } = Environment::parse_from(["usher"]);
    if !is_wanted {
        return;
    }
    let _exporter = usher::telemetry::init(settings.telemetry().unwrap().format, None, None).unwrap();
    let mut app = App::new(settings.resolve().unwrap(), Clock::System).await.unwrap();
    let (version, text) = NEXT_MIGRATION;
    app.store = app.store.with_migration(version, text);
    Serve::default().run_app(app).await.unwrap();
}

/// As short as the balancer's patience allows: it looks four times meanwhile.
const DRAIN: &str = "2s";

async fn start(version: Version, database: &TestDatabase, smtp: &SmtpServer) -> UsherProcess {
    let this = std::env::current_exe().unwrap();
    let next = [
        this.to_str().unwrap(),
        "--exact",
        "deploy::the_next_version",
        "--ignored",
        "--nocapture",
    ];
    let old = [env!("CARGO_BIN_EXE_usher"), "serve"];
    let program: &[&str] = match version {
        Version::Old => &old,
        Version::Next => &next,
    };
    let settings = [
        ("USHER_DRAIN_TIME", DRAIN),
        ("USHER_RATE_LIMIT", "off"),
        ("USHER_TEST_NEXT_VERSION", "true"),
    ];
    UsherProcess::start_program(database, &smtp.url(), &settings, program).await
}

#[derive(Clone, Copy)]
enum Version {
    Old,
    Next,
}

/// Stands before the processes as a load balancer does: asks each whether it is ready, leads requests to those that said
/// so, keeps connections open, and never tries again.
struct Balancer {
    backends: Mutex<Vec<Arc<Backend>>>,
    turn: AtomicUsize,
    http: reqwest::Client,
    failures: Mutex<Vec<String>>,
}

struct Backend {
    address: String,
    admin_address: String,
    is_ready: watch::Sender<bool>,
    answered: AtomicUsize,
}

impl Balancer {
    fn start() -> Arc<Self> {
        let balancer = Arc::new(Self {
            backends: Mutex::default(),
            turn: AtomicUsize::new(0),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            failures: Mutex::default(),
        });
        let looking = Arc::downgrade(&balancer);
        tokio::spawn(async move {
            let mut looks = tokio::time::interval(Duration::from_millis(500));
            while let Some(balancer) = looking.upgrade() {
                let backends = balancer.backends.lock().unwrap().clone();
                for backend in backends {
                    let asked = balancer.http.get(format!("{}/readyz", backend.admin_address)).send();
                    let is_ready = asked.await.is_ok_and(|answer| answer.status() == 200);
                    backend.is_ready.send_replace(is_ready);
                }
                drop(balancer);
                looks.tick().await;
            }
        });
        balancer
    }

    /// Knows of one more from now on; returns once it is ready.
    async fn add(&self, process: &UsherProcess) -> Arc<Backend> {
        let backend = Arc::new(Backend {
            address: process.address.clone(),
            admin_address: process.admin_address.clone(),
            is_ready: watch::Sender::new(false),
            answered: AtomicUsize::new(0),
        });
        self.backends.lock().unwrap().push(Arc::clone(&backend));
        let mut ready = backend.is_ready.subscribe();
        ready.wait_for(|ready| *ready).await.unwrap();
        backend
    }

    /// Sends a request to whoever's turn it is. Only this answer is a good one.
    async fn send(
        &self,
        good: u16,
        method: Method,
        path: &str,
        fill: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Value {
        let ready: Vec<Arc<Backend>> = self.backends.lock().unwrap().clone();
        let ready: Vec<Arc<Backend>> = ready.into_iter().filter(|backend| *backend.is_ready.borrow()).collect();
        if ready.is_empty() {
            self.failures
                .lock()
                .unwrap()
                .push(format!("{method} {path}: nobody is ready"));
            return Value::Null;
        }
        let backend = &ready[self.turn.fetch_add(1, Ordering::Relaxed) % ready.len()];
        let request = fill(self.http.request(method.clone(), format!("{}{path}", backend.address)));
        let answer = async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.text().await?))
        };
        match answer.await {
            Ok((status, body)) if status == good => {
                backend.answered.fetch_add(1, Ordering::Relaxed);
                serde_json::from_str(&body).unwrap()
            }
            outcome => {
                self.failures
                    .lock()
                    .unwrap()
                    .push(format!("{method} {path}: {outcome:?}"));
                Value::Null
            }
        }
    }
}

impl Backend {
    /// Waits until it has answered so many more.
    async fn answers(&self, more: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        eventually("it answers", async || self.answered.load(Ordering::Relaxed) >= goal).await;
    }
}

/// One after the other is invited; every second one signs up. Returns how many were invited, and how many signed up.
async fn use_it(balancer: Arc<Balancer>, acme: Value, client: usize, stop: watch::Receiver<bool>) -> (i64, i64) {
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let mut invited = 0;
    while !*stop.borrow() {
        pace.tick().await;
        let email = format!("person{client}-{invited}@example.com");
        let body = json!({ "organization_id": acme, "email": email, "role": "member" });
        let invite = balancer
            .send(201, Method::POST, "/v1/invites", |request| {
                request.bearer_auth(API_KEY).json(&body)
            })
            .await;
        if invited % 2 == 1 {
            let body = told_of(&format!("user_{client}_{invited}"), &email).to_string();
            let headers = signed(&format!("msg_{client}_{invited}"), &body);
            balancer
                .send(202, Method::POST, "/webhooks/clerk", |request| {
                    let header = |request: RequestBuilder, (name, value)| request.header(name, value);
                    headers.into_iter().fold(request, header).body(body)
                })
                .await;
        }
        let path = format!("/v1/invites/{}", invite["id"].as_str().unwrap_or("none"));
        balancer
            .send(200, Method::GET, &path, |request| request.bearer_auth(API_KEY))
            .await;
        invited += 1;
    }
    (invited, invited / 2)
}

/// Two processes are replaced one by one under load, and the new version brings a migration: no request is dropped or
/// answered with an error, no job runs twice, and every mail goes out once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_deploy_with_a_migration_drops_nothing_and_does_nothing_twice() {
    let database = TestDatabase::postgres().await;
    let smtp = SmtpServer::start().await;
    let balancer = Balancer::start();
    let mut old = Vec::new();
    for _ in 0..2 {
        let process = start(Version::Old, &database, &smtp).await;
        let backend = balancer.add(&process).await;
        old.push((process, backend));
    }
    let acme = Clock::System.new_id();
    balancer
        .send(201, Method::PUT, &format!("/v1/organizations/{acme}"), |request| {
            request.bearer_auth(API_KEY).json(&json!({ "name": "Acme" }))
        })
        .await;
    let stop = watch::Sender::new(false);
    let mut load = JoinSet::new();
    for client in 0..4 {
        load.spawn(use_it(Arc::clone(&balancer), json!(acme), client, stop.subscribe()));
    }
    for (_, backend) in &old {
        backend.answers(20).await;
    }

    let mut new = Vec::new();
    for (process, backend) in old {
        let successor = start(Version::Next, &database, &smtp).await;
        let ready = balancer.add(&successor).await;
        assert_eq!(
            database
                .pool
                .count("usher_migrations where version = 9000 and success")
                .await,
            1
        );
        assert_eq!(
            process.ask("/readyz").await.0,
            200,
            "the old one works on the new schema"
        );
        backend.answers(20).await;
        ready.answers(20).await;
        if new.is_empty() {
            let (well, said) = process.usher(&["serve"]).await;
            assert!(
                !well && said.contains("newer than this usher"),
                "the old one can't start any more: {said}"
            );
        }
        assert!(process.terminate().await);
        ready.answers(20).await;
        new.push((successor, ready));
    }
    stop.send_replace(true);
    let (invited, signed_up): (Vec<i64>, Vec<i64>) = load.join_all().await.into_iter().unzip();
    let (invited, signed_up): (i64, i64) = (invited.iter().sum(), signed_up.iter().sum());

    let failures = balancer.failures.lock().unwrap().clone();
    assert!(
        failures.is_empty(),
        "{} requests failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    eventually("all jobs are done", async || {
        database.pool.count("apalis.jobs where status <> 'Done'").await == 0
    })
    .await;
    assert_eq!(database.pool.count("invites").await, invited);
    assert_eq!(
        database.pool.count("invites where status = 'accepted'").await,
        signed_up
    );
    assert_eq!(
        database.pool.count("organization_users where deleted_at is null").await,
        signed_up
    );
    assert_eq!(
        database.pool.count("apalis.jobs where attempts <> 1").await,
        0,
        "no job ran twice"
    );
    assert_eq!(database.pool.count("usher_job_failures").await, 0);
    assert_each_tick_came_once(&database).await;
    let unsent =
        "usher_deliveries d join invites i on i.id = d.invite_id where d.status <> 'sent' and i.status = 'pending'";
    assert_eq!(database.pool.count(unsent).await, 0);
    let mails = smtp.mails();
    let ids: BTreeSet<_> = mails.iter().map(|mail| mail.header("Message-ID")).collect();
    assert_eq!(ids.len(), mails.len(), "no mail went out twice");
    let sent = database.pool.count("usher_deliveries where status = 'sent'").await;
    assert_eq!(i64::try_from(mails.len()).unwrap(), sent, "and none is missing");
    for (process, _) in new {
        assert!(process.terminate().await);
    }
}

async fn assert_each_tick_came_once(database: &TestDatabase) {
    let ticks: Vec<(String, i64)> = sqlx::query_as(
        "select convert_from(job, 'UTF8')::jsonb ->> 'schedule' || ' ' || (convert_from(job, 'UTF8')::jsonb ->> 'until'), count(*)
         from apalis.jobs where job_type = 'usher:periodic' group by 1",
    )
    .fetch_all(database.pool.pg())
    .await
    .unwrap();
    assert!(ticks.len() >= usher::jobs::SCHEDULES.len());
    let ticks: BTreeMap<_, _> = ticks.into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(ticks.is_empty(), "{ticks:?}");
}

/// Three processes of different roles that start at the same moment on a new database: every tick comes once, whoever
/// looks, and is worked off once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_mixed_roles_run_each_tick_once() {
    let database = TestDatabase::empty_postgres().await;
    let smtp = SmtpServer::start().await;
    let url = smtp.url();
    let start = async |role| {
        let program = [env!("CARGO_BIN_EXE_usher"), "serve", "--role", role];
        UsherProcess::start_program(&database, &url, &[], &program).await
    };
    let (all, worker, other, api) = tokio::join!(start("all"), start("worker"), start("worker"), start("api"));
    let schedules = i64::try_from(usher::jobs::SCHEDULES.len()).unwrap();
    eventually("every schedule's first tick is done", async || {
        database
            .pool
            .count("apalis.jobs where job_type = 'usher:periodic' and status = 'Done'")
            .await
            >= schedules
    })
    .await;
    for process in [all, worker, other, api] {
        assert_eq!(process.ask("/readyz").await.0, 200);
        assert!(process.terminate().await);
    }
    assert_eq!(database.pool.count("apalis.jobs where attempts <> 1").await, 0);
    assert_each_tick_came_once(&database).await;
}

/// A connection as a client keeps it.
struct Connection(BufReader<TcpStream>);

impl Connection {
    async fn open(process: &UsherProcess) -> std::io::Result<Self> {
        let address = process.address.strip_prefix("http://").unwrap();
        Ok(Self(BufReader::new(TcpStream::connect(address).await?)))
    }

    async fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    /// The head of the next answer; its body is passed over.
    async fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(
                self.0.read_line(&mut head).await.unwrap(),
                0,
                "an answer, not an end: {head:?}"
            );
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        head
    }

    /// Begins a request and returns its body, once it is waited for.
    async fn begin(&mut self) -> String {
        let body = json!({ "name": "Acme" }).to_string();
        let path = format!("/v1/organizations/{}", Clock::System.new_id());
        self.say(&format!(
            "PUT {path} HTTP/1.1\r\nHost: usher\r\nAuthorization: Bearer {API_KEY}\r\nExpect: 100-continue\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ))
        .await;
        let mut said = String::new();
        while !said.ends_with("\r\n\r\n") {
            self.0.read_line(&mut said).await.unwrap();
        }
        assert_eq!(said, "HTTP/1.1 100 Continue\r\n\r\n");
        body
    }

    async fn is_over(&mut self) -> bool {
        self.0.read(&mut [0]).await.unwrap() == 0
    }
}

const SMALL: &str = "GET /openapi.json HTTP/1.1\r\nHost: usher\r\n\r\n";

/// A process that is asked to end says so first, answers what still comes, and parts with each connection by its answer.
#[tokio::test]
async fn a_process_that_is_asked_to_end_answers_what_still_comes() {
    let database = TestDatabase::sqlite().await;
    let smtp = SmtpServer::start().await;
    let usher = UsherProcess::start_with(&database, &smtp.url(), &[("USHER_DRAIN_TIME", "5s")]).await;
    let (mut kept, mut begun) = (
        Connection::open(&usher).await.unwrap(),
        Connection::open(&usher).await.unwrap(),
    );
    kept.say(SMALL).await;
    assert!(!kept.head().await.contains("connection: close"));
    let body = begun.begin().await;

    usher.ask_to_end();
    eventually("it says so", async || {
        let (status, said) = usher.ask("/readyz").await;
        status == 503 && said.contains(r#""status":"stopping""#)
    })
    .await;
    assert_eq!(usher.ask("/livez").await.0, 200);
    begun.say(&body).await;
    let mut new = Connection::open(&usher).await.expect("it still listens");
    new.say(SMALL).await;
    kept.say(SMALL).await;
    for (connection, status) in [(&mut begun, "201"), (&mut new, "200"), (&mut kept, "200")] {
        let head = connection.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        assert!(connection.is_over().await);
    }
    assert!(usher.wait().await, "it ends well");
}

/// What has begun to arrive is answered even after the listener is closed.
#[tokio::test]
async fn a_request_that_has_begun_is_answered_after_the_listener_is_closed() {
    let database = TestDatabase::sqlite().await;
    let (usher, _smtp) = UsherProcess::with_smtp(&database).await;
    let mut begun = Connection::open(&usher).await.unwrap();
    let body = begun.begin().await;
    usher.ask_to_end();
    eventually("nobody listens any more", async || {
        Connection::open(&usher).await.is_err()
    })
    .await;
    begun.say(&body).await;
    let head = begun.head().await;
    assert!(
        head.starts_with("HTTP/1.1 201 ") && head.contains("connection: close"),
        "{head}"
    );
    assert!(begun.is_over().await);
    assert!(usher.wait().await, "it ends well");
}
