//! usher as a process of its own, to be killed.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use usher::clock::Clock;
use usher_testkit::fake_clerk::{FakeUser, Webhook, event};
use usher_testkit::process::{self, IGNORE_FILE_SIZE_SIGNAL, Process, Signal};
use uuid::Uuid;

use super::app::{API_KEY, ISSUER, SIGNER, SIGNING_SECRET};
use super::db::TestDatabase;
use super::smtp::SmtpServer;

/// A running `usher serve`; killed when dropped.
pub struct UsherProcess {
    process: Process,
    client: Client,
    environment: Vec<(String, String)>,
    folder: PathBuf,
}

/// Clerk, the app and ops, as they call a process.
#[derive(Clone)]
pub struct Client {
    /// Empty without the API.
    pub address: String,
    /// The private listener's.
    pub admin_address: String,
    http: reqwest::Client,
}

impl Deref for UsherProcess {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl UsherProcess {
    /// Starts it and waits until it says where it serves.
    pub async fn start(database: &TestDatabase, smtp_url: &str) -> Self {
        Self::start_with(database, smtp_url, &[]).await
    }

    /// Starts it with a mail server of its own.
    pub async fn with_smtp(database: &TestDatabase) -> (Self, SmtpServer) {
        let smtp = SmtpServer::start().await;
        (Self::start(database, &smtp.url()).await, smtp)
    }

    /// Starts it with more settings than it needs.
    pub async fn start_with(database: &TestDatabase, smtp_url: &str, more: &[(&str, &str)]) -> Self {
        Self::start_role("all", database, smtp_url, more).await
    }

    /// Starts it for `api`, `worker` or `all`.
    pub async fn start_role(role: &str, database: &TestDatabase, smtp_url: &str, more: &[(&str, &str)]) -> Self {
        let serve = [env!("CARGO_BIN_EXE_usher"), "serve", "--role", role];
        Self::start_program(database, smtp_url, more, &serve).await
    }

    /// Starts a program that serves as usher does, or usher with other arguments.
    pub async fn start_program(
        database: &TestDatabase,
        smtp_url: &str,
        more: &[(&str, &str)],
        program: &[&str],
    ) -> Self {
        let mut environment = environment(&database.url, smtp_url);
        environment.extend(
            more.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let folder = database.folder.path().to_owned();
        let mut command = process::shell(IGNORE_FILE_SIZE_SIGNAL, program);
        let process = Process::start(command.envs(environment.clone()).current_dir(&folder)).expect("usher starts");
        process.listening().await.expect("it says where it serves");
        let client = Client {
            address: process.public().unwrap_or_default(),
            admin_address: process.private().unwrap_or_default(),
            http: reqwest::Client::new(),
        };
        Self {
            process,
            client,
            environment,
            folder,
        }
    }

    /// For tasks of their own.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Runs another command beside it, with the same settings; whether it ended well, and what it said.
    pub async fn usher(&self, arguments: &[&str]) -> (bool, String) {
        ended(arguments, self.environment.clone(), &self.folder).await
    }

    /// Begins a command that goes on until it is dropped.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(arguments)
            .env_clear()
            .envs(self.environment.clone())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("usher runs")
    }

    /// What a command says that must end well.
    #[track_caller]
    pub fn well(&self, arguments: &[&str]) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let (well, said) = self.usher(arguments).await;
            assert!(well, "{caller}: usher {}: {said}", arguments.join(" "));
            said
        }
    }

    /// What a command prints as JSON.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let said = self.well(arguments).await;
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.process.log()
    }

    /// From now on no file may be longer than so many bytes: what a full disk looks like to SQLite.
    pub fn limit_files(&self, bytes: Option<u64>) {
        self.process.limit_files(bytes);
    }

    /// SIGKILL: nothing of it gets to say good-bye.
    pub async fn kill(self) {
        self.process.kill().await;
    }

    /// SIGTERM.
    pub fn ask_to_end(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits for its end, which was asked for; whether it ended well.
    pub async fn wait(self) -> bool {
        let status = self.process.wait(process::TIMEOUT).await;
        status.is_some_and(|status| status.success())
    }

    /// SIGTERM, and waits for its end; whether it ended well.
    pub async fn terminate(self) -> bool {
        let stopped = self.process.stop().await;
        stopped.inspect_err(|error| eprintln!("{error:#}")).is_ok()
    }
}

impl Client {
    /// Asks the private listener: the status and the body.
    pub async fn ask(&self, path: &str) -> (u16, String) {
        let answer = self.http.get(format!("{}{path}", self.admin_address)).send().await;
        let answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    /// Sends any body to the webhook with these headers; the status it was answered with.
    pub async fn send_raw(&self, headers: &[(&str, String)], body: String) -> u16 {
        let answer = self.post_webhook(headers, body).await;
        answer.expect("an answer").status().as_u16()
    }

    async fn post_webhook(&self, headers: &[(&str, String)], body: String) -> reqwest::Result<reqwest::Response> {
        let mut request = self.http.post(format!("{}/webhooks/clerk", self.address)).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.send().await
    }

    /// Delivers an event; whether usher said that it took it. A connection that breaks is no answer.
    pub async fn deliver(&self, svix_id: &str, event: &Value) -> bool {
        let body = event.to_string();
        let answer = self.post_webhook(&signed(svix_id, &body), body).await;
        answer.is_ok_and(|answer| answer.status() == 202)
    }

    /// Clerk tells that a person with this address signed up.
    pub async fn signed_up(&self, svix_id: &str, email: &str) {
        let told = told_of(&format!("user_{svix_id}"), email);
        assert!(self.deliver(svix_id, &told).await);
    }

    /// Calls the API as the app does: the status, and the body if it is JSON.
    pub async fn answer(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.address));
        let answer = request.bearer_auth(API_KEY).json(&body).send().await;
        let answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// Calls the API as the app does; it must succeed.
    pub async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.answer(method, path, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// Makes an organization.
    pub async fn organization(&self, name: &str) -> Uuid {
        let id = Clock::System.new_id();
        let path = format!("/v1/organizations/{id}");
        self.call(Method::PUT, &path, json!({ "name": name })).await;
        id
    }

    /// Asks for a new organization; the status that was answered.
    pub async fn status_of_a_new_organization(&self) -> u16 {
        let path = format!("/v1/organizations/{}", Clock::System.new_id());
        self.answer(Method::PUT, &path, json!({ "name": "Acme" })).await.0
    }

    /// Invites a member; the invite.
    pub async fn invite(&self, organization: Uuid, email: &str) -> Value {
        let (status, invite) = self.try_invite(organization, email).await;
        assert_eq!(status, 201, "{invite}");
        invite
    }

    /// Invites a member, if usher takes it: the status and the answer.
    pub async fn try_invite(&self, organization: Uuid, email: &str) -> (u16, Value) {
        let body = json!({ "organization_id": organization, "email": email, "role": "member" });
        self.answer(Method::POST, "/v1/invites", body).await
    }
}

/// The headers of a webhook that Clerk signed.
pub fn signed(svix_id: &str, body: &str) -> [(&'static str, String); 4] {
    let webhook = Webhook::sign(SIGNING_SECRET, svix_id, Clock::System.now().timestamp(), body).expect("a signature");
    webhook.headers().map(|(name, value)| (name, value.to_owned()))
}

/// The event that a person signed up.
pub fn told_of(user_id: &str, email: &str) -> Value {
    let now = Clock::System.now();
    event("user.created", FakeUser::new(user_id, email, now).to_json(), now)
}

/// The address of one of many.
pub fn person(n: usize) -> String {
    format!("person{n}@example.com")
}

/// The event that one of many signed up.
pub fn told(n: usize) -> Value {
    told_of(&format!("user_{n}"), &person(n))
}

/// The settings of a process under test.
pub fn environment(database_url: &str, smtp_url: &str) -> Vec<(String, String)> {
    let mut settings = process::environment(database_url, smtp_url);
    let key = SIGNER.public_pem().expect("a key");
    settings.push(("CLERK_JWT_KEY".to_owned(), key));
    settings.push(("CLERK_ISSUER".to_owned(), ISSUER.to_owned()));
    settings
}

/// Runs a command that only needs the database; whether it ended well, and what it said.
pub async fn command(database_url: &str, arguments: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a folder");
    ended(
        arguments,
        environment(database_url, "smtp://127.0.0.1:1"),
        folder.path(),
    )
    .await
}

async fn ended(arguments: &[&str], environment: Vec<(String, String)>, folder: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("usher runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("text"))
}

/// Asks again and again until it is so. Only for what other processes and the worker's own runtime do.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
