//! usher as a process of its own, to be killed.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use usher::clock::Clock;
use usher::webhooks::sign;

use super::app::{API_KEY, ISSUER, SIGNER, SIGNING_SECRET, TOKEN_KEY};
use super::db::TestDatabase;

/// A running `usher serve`; killed when dropped.
pub struct UsherProcess {
    child: Child,
    pub address: String,
    /// The private listener's.
    pub admin_address: String,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
    http: reqwest::Client,
}

impl UsherProcess {
    /// Starts it and waits until it says where it serves.
    pub async fn start(database: &TestDatabase, smtp_url: &str) -> Self {
        Self::start_with(database, smtp_url, &[]).await
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

    /// Starts a program that serves as usher does, or usher with other arguments. Without the API its `address` is empty.
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
        // The signal that a too long file is answered with would end it; a full disk sends none.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .args(program)
            .env_clear()
            .envs(environment.clone())
            .current_dir(database.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("usher starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let (mut address, mut admin_address) = (String::new(), String::new());
        while admin_address.is_empty() {
            let line = lines
                .next_line()
                .await
                .expect("a log")
                .expect("it says where it serves");
            let fact: Value = serde_json::from_str(&line).unwrap_or_default();
            let message = fact["fields"]["message"].as_str().unwrap_or_default();
            if let Some(said) = message.strip_prefix("serving on ") {
                address = said.to_owned();
            } else if let Some(said) = message.strip_prefix("health on ") {
                admin_address = said.trim_end_matches("/readyz").to_owned();
            }
        }
        let log = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push(line);
            }
        });
        Self {
            child,
            admin_address,
            address,
            environment,
            folder: database.folder.path().to_owned(),
            log,
            http: reqwest::Client::new(),
        }
    }

    /// Runs another command beside it, with the same settings; whether it ended well, and what it said.
    pub async fn usher(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(arguments)
            .env_clear()
            .envs(self.environment.clone())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("usher runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).expect("text"))
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

    /// Asks the private listener: the status and the body.
    pub async fn ask(&self, path: &str) -> (u16, String) {
        let answer = self.http.get(format!("{}{path}", self.admin_address)).send().await;
        let answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Sends any body to the webhook with these headers; the status it was answered with.
    pub async fn send_raw(&self, headers: &[(&str, String)], body: String) -> u16 {
        let mut request = self.http.post(format!("{}/webhooks/clerk", self.address)).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.send().await.expect("an answer").status().as_u16()
    }

    /// From now on no file may be longer than so many bytes: what a full disk looks like to SQLite.
    pub async fn limit_files(&self, bytes: Option<u64>) {
        let pid = self.child.id().expect("a process").to_string();
        let limit = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--fsize={limit}:")])
            .status();
        assert!(set.await.expect("prlimit").success());
    }

    /// Asks for a new organization; the status that was answered.
    pub async fn status_of_a_new_organization(&self) -> u16 {
        let path = format!("{}/v1/organizations/{}", self.address, Clock::System.new_id());
        let request = self
            .http
            .put(path)
            .bearer_auth(API_KEY)
            .json(&serde_json::json!({ "name": "Acme" }));
        request.send().await.expect("an answer").status().as_u16()
    }

    /// SIGKILL: nothing of it gets to say good-bye.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it dies");
    }

    /// SIGTERM.
    pub async fn ask_to_end(&self) {
        let pid = self.child.id().expect("a process").to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill");
        assert!(told.success());
    }

    /// SIGTERM, and waits for its end; whether it ended well.
    pub async fn terminate(self) -> bool {
        self.ask_to_end().await;
        self.wait().await
    }

    /// Waits for its end, which was asked for; whether it ended well.
    pub async fn wait(mut self) -> bool {
        self.child.wait().await.expect("an end").success()
    }

    /// Delivers an event; whether usher said that it took it. A connection that breaks is no answer.
    pub async fn deliver(&self, svix_id: &str, event: &Value) -> bool {
        let body = event.to_string();
        let timestamp = Clock::System.now().timestamp();
        let signature = sign(SIGNING_SECRET, svix_id, timestamp, body.as_bytes()).expect("a signature");
        let answer = self
            .http
            .post(format!("{}/webhooks/clerk", self.address))
            .header("svix-id", svix_id)
            .header("svix-timestamp", timestamp)
            .header("svix-signature", signature)
            .body(body)
            .send()
            .await;
        answer.is_ok_and(|answer| answer.status() == 202)
    }

    /// Calls the API as the app does.
    pub async fn call(&self, method: reqwest::Method, path: &str, body: Value) -> Value {
        let request = self
            .http
            .request(method, format!("{}{path}", self.address))
            .bearer_auth(API_KEY)
            .json(&body);
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.expect("JSON")
    }
}

/// The settings of a process under test.
pub fn environment(database_url: &str, smtp_url: &str) -> Vec<(String, String)> {
    let key = SIGNER.public_pem().expect("a key");
    [
        ("USHER_ENV", "production"),
        ("USHER_DATABASE_URL", database_url),
        ("USHER_LISTEN", "127.0.0.1:0"),
        ("USHER_ADMIN_LISTEN", "127.0.0.1:0"),
        ("USHER_DRAIN_TIME", "off"),
        ("CLERK_WEBHOOK_SIGNING_SECRET", SIGNING_SECRET),
        ("CLERK_JWT_KEY", &key),
        ("CLERK_ISSUER", ISSUER),
        ("USHER_API_KEYS", API_KEY),
        ("USHER_TOKEN_KEY", TOKEN_KEY),
        ("SMTP_URL", smtp_url),
        ("MAIL_FROM", "Acme <no-reply@acme.example>"),
        ("INVITE_URL", "https://app.example.com/invite#{token}"),
        ("LOG_FORMAT", "json"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Asks again and again until it is so. Only for what other processes and the worker's own runtime do.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
