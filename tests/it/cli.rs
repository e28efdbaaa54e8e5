//! The command itself: the real binary, in a folder of its own, on free ports.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// For whatever a process is asked to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine on which usher has never run.
pub struct Machine(TempDir);

impl Machine {
    pub fn fresh() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, path: &str) -> std::path::PathBuf {
        self.0.path().join(path)
    }

    /// `usher …`, with nothing of this process's environment.
    fn usher(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env_clear()
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.usher(arguments).output().unwrap())
    }

    pub fn serve(&self) -> Serving {
        Serving::start(
            self.usher(&["serve"])
                .env("USHER_LISTEN", "127.0.0.1:0")
                .env("USHER_ADMIN_LISTEN", "127.0.0.1:0"),
        )
    }

    fn dev_secrets(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("var/dev-secrets.json")).unwrap()).unwrap()
    }
}

/// A command that has ended.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    said: String,
    complained: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            said: String::from_utf8(output.stdout).unwrap(),
            complained: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.said
    }

    #[track_caller]
    fn badly(self) -> String {
        assert_eq!(self.code, Some(1), "{self:#?}");
        self.complained
    }
}

/// A process that serves until it goes out of scope.
pub struct Serving {
    child: Child,
    lines: mpsc::Receiver<String>,
    pub url: String,
}

impl Serving {
    fn start(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut serving = Self {
            child,
            lines: mpsc::channel().1,
            url: String::new(),
        };
        let (sender, lines) = mpsc::channel();
        follow(sender.clone(), serving.child.stdout.take().unwrap());
        follow(sender, serving.child.stderr.take().unwrap());
        serving.lines = lines;
        let line = serving.line_with("on http://");
        let (_, address) = line.split_once("http://").unwrap();
        let address = address
            .split(|c: char| c != '.' && c != ':' && !c.is_ascii_digit())
            .next()
            .unwrap();
        serving.url = format!("http://{}", address.trim_end_matches('.'));
        serving
    }

    /// Waits for a line with these words.
    #[track_caller]
    fn line_with(&self, words: &str) -> String {
        let mut others = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => others.push(line),
                Err(error) => panic!("no line with “{words}” ({error}), but: {others:#?}"),
            }
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads until the process closes the pipe: a full pipe would stop it.
fn follow(sender: mpsc::Sender<String>, pipe: impl std::io::Read + Send + 'static) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
}

fn mails_in(outbox: &Path) -> Vec<String> {
    let mut paths: Vec<_> = fs::read_dir(outbox)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

#[test]
fn the_demo_comes_out_as_told_on_a_fresh_machine_and_again() {
    let machine = Machine::fresh();
    for _ in 0..2 {
        let story = machine.run(&["demo"]);
        assert_eq!(story.complained, "", "a clean story");
        let story = story.well();
        for line in [
            "→ user.created 202  queued: Grace Hopper signed up",
            "/members 200  Grace Hopper (owner)\n",
            "→ a mail: “Grace Hopper invites you to Analytical Engines”",
            "/members 200  Grace Hopper (owner), Ada Lovelace (member)\n",
            "→ a mail: “Ada Lovelace joined Analytical Engines”",
            "→ session.created 202  queued: Alan Turing signed in",
            "→ GET /v1/me/invites 200  sees “Grace Hopper invites you to Difference Engine as editor”",
            "/members 200  Alan Turing (editor)\n",
            "→ GET /v1/invites/… 200  still pending",
            "forger  → user.updated 401  bad_signature",
            "/members 200  Kay McNulty (admin) and 3 more",
            "ops     → GET /readyz 200  database ok, migrations ok, workers ok",
            "usher simulate user.created",
        ] {
            assert!(story.contains(line), "no “{line}” in:\n{story}");
        }
        assert!(!story.contains('\u{1b}'), "colours are for terminals:\n{story}");
        assert_eq!(
            mails_in(&machine.path("var/demo/outbox")).len(),
            7,
            "four invites, three notices"
        );
        assert!(machine.path("var/demo/usher.db").is_file());
    }
    assert!(
        !machine.path("var/usher.db").exists(),
        "the demo keeps to its own folder"
    );
}

#[test]
fn a_demo_that_stays_goes_on_serving_and_no_second_one_takes_its_folder() {
    let machine = Machine::fresh();
    let demo = Serving::start(&mut machine.usher(&["demo", "--stay"]));
    let command = demo.line_with("CLERK_WEBHOOK_SIGNING_SECRET=");
    let secret = command
        .trim()
        .trim_end_matches(" \\")
        .split_once('=')
        .unwrap()
        .1
        .to_owned();

    let link = demo.line_with("/i#");
    assert!(link.trim().starts_with(&format!("{}/i#", demo.url)), "{link}");

    let second = machine.run(&["demo"]).badly();
    assert!(second.contains("another usher demo is at work"), "{second}");

    let arguments = [
        "simulate",
        "user.created",
        "--email",
        "you@example.com",
        "--url",
        &demo.url,
    ];
    let sent = Ran::of(
        machine
            .usher(&arguments)
            .env("CLERK_WEBHOOK_SIGNING_SECRET", secret)
            .output()
            .unwrap(),
    );
    assert!(sent.well().contains("answered  202 Accepted"));
}

#[test]
fn a_first_event_is_taken_a_repeated_one_known_and_a_forged_one_refused() {
    let machine = Machine::fresh();
    let usher = machine.serve();
    let simulate = |more: &[&str]| {
        let first = [
            "simulate",
            "user.created",
            "--email",
            "ada@example.com",
            "--id",
            "msg_1",
            "--url",
            &usher.url,
        ];
        machine.run(&[&first[..], more].concat())
    };

    let sent = simulate(&[]).well();
    assert!(sent.starts_with("sent      user.created of user_"), "{sent}");
    assert!(sent.contains(r#"answered  202 Accepted {"status":"queued"}"#), "{sent}");
    let again = simulate(&[]).well();
    assert!(again.contains(r#"202 Accepted {"status":"duplicate"}"#), "{again}");
    let forged = simulate(&["--forge"]).well();
    assert!(forged.contains("answered  401 Unauthorized"), "{forged}");
    assert!(forged.contains(r#""code":"bad_signature""#), "{forged}");
}

#[tokio::test]
async fn in_development_a_mail_is_a_file_that_the_log_names() {
    let machine = Machine::fresh();
    let usher = machine.serve();
    let secrets = machine.dev_secrets();
    let key = secrets["api_key"].as_str().unwrap();
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .unwrap();
    let organization = "11111111-1111-4111-8111-111111111111";
    let call = async |request: reqwest::RequestBuilder, body: Value| {
        let answer = request.bearer_auth(key).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201);
    };
    let url = format!("{}/v1/organizations/{organization}", usher.url);
    call(http.put(url), serde_json::json!({ "name": "Acme" })).await;
    let invite = serde_json::json!({ "organization_id": organization, "email": "ada@example.com", "role": "member" });
    call(http.post(format!("{}/v1/invites", usher.url)), invite).await;
    let line = usher.line_with("mail sent: ");
    let (_, file) = line.split_once("mail sent: ").unwrap();
    let file = file.split_whitespace().next().unwrap();
    assert!(file.starts_with("var/outbox/") && file.ends_with(".eml"), "{line}");
    let mail = fs::read_to_string(machine.path(file)).unwrap();
    assert!(mail.contains("To: ada@example.com"), "{mail}");
}

#[test]
fn an_event_signed_with_another_secret_ends_the_command_with_1_and_says_why() {
    let machine = Machine::fresh();
    let usher = machine.serve();
    let elsewhere = Machine::fresh();
    let refused = elsewhere.run(&["simulate", "user.deleted", "--user", "user_1", "--url", &usher.url]);
    assert!(refused.said.contains("answered  401 Unauthorized"), "{refused:#?}");
    let why = refused.badly();
    assert!(why.contains("another CLERK_WEBHOOK_SIGNING_SECRET"), "{why}");
}

#[tokio::test]
async fn a_simulated_session_token_opens_the_banner() {
    let machine = Machine::fresh();
    let usher = machine.serve();
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .timeout(PATIENCE)
        .build()
        .unwrap();

    let token = machine.run(&["simulate", "token", "--email", "ada@example.com"]).well();
    let banner = http
        .get(format!("{}/v1/me/invites", usher.url))
        .bearer_auth(token.trim());
    let banner = banner.send().await.unwrap();
    assert_eq!(banner.status(), 200);
    let banner: Value = serde_json::from_str(&banner.text().await.unwrap()).unwrap();
    assert_eq!(banner, serde_json::json!({"items": [], "synced": false}));
}

#[test]
fn session_tokens_are_for_development_and_usher_s_own_key_only() {
    let machine = Machine::fresh();
    let token = ["simulate", "token", "--user", "user_1"];
    let clerks = [&token[..], &["--clerk-issuer", "https://clerk.example.com"]].concat();
    let why = machine.run(&clerks).badly();
    assert!(why.contains("CLERK_JWT_KEY or CLERK_ISSUER is set"), "{why}");

    let mut production = machine.usher(&token);
    production
        .env("USHER_ENV", "production")
        .env("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
        .env("USHER_API_KEYS", "k".repeat(32))
        .env("USHER_TOKEN_KEY", "t".repeat(32))
        .env("SMTP_URL", "smtp://localhost")
        .env("MAIL_FROM", "usher@example.com")
        .env("INVITE_URL", "https://app.example.com/invite#{token}");
    let why = Ran::of(production.output().unwrap()).badly();
    assert!(why.contains("in development only"), "{why}");
}

#[test]
fn without_a_running_usher_the_command_says_how_to_start_one() {
    let machine = Machine::fresh();
    // Bound and let go: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let why = machine
        .run(&[
            "simulate",
            "user.created",
            "--email",
            "ada@example.com",
            "--usher-listen",
            &free.to_string(),
        ])
        .badly();
    assert!(why.contains("is usher running? Start it with: usher serve"), "{why}");
}

#[test]
fn a_dry_run_sends_nothing_and_prints_a_command_that_would() {
    let machine = Machine::fresh();
    let curl = machine
        .run(&[
            "simulate",
            "session.created",
            "--email",
            "ada@example.com",
            "--with-user",
            "--dry-run",
        ])
        .well();
    assert!(
        curl.starts_with("curl -i 'http://127.0.0.1:8080/webhooks/clerk' \\\n"),
        "{curl}"
    );
    assert!(curl.contains("-H 'svix-signature: v1,"), "{curl}");
    assert!(curl.contains(r#""email_address":"ada@example.com""#), "{curl}");
    assert!(
        !curl.contains(machine.dev_secrets()["signing_secret"].as_str().unwrap()),
        "{curl}"
    );
}

#[test]
fn generated_secrets_are_for_their_owner_s_eyes_and_no_command_prints_them() {
    let machine = Machine::fresh();
    let first = machine.run(&["config"]).well();
    let file = machine.path("var/dev-secrets.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let generated = machine.dev_secrets();
    let given = [
        ("USHER_DATABASE_URL", "postgres://usher:pa55word@localhost/usher"),
        ("USHER_ENV", "development"),
        ("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
        ("CLERK_SECRET_KEY", "sk_test_0123456789abcdef"),
        (
            "USHER_API_KEYS",
            "key-one-0123456789abcdef0123456789,key-two-0123456789abcdef0123456789",
        ),
        ("USHER_TOKEN_KEY", "token-key-0123456789abcdef0123456789"),
        ("SMTP_URL", "smtp://usher:mailpa55@localhost:587"),
    ];
    let second = Ran::of(machine.usher(&["config"]).envs(given).output().unwrap()).well();
    let help = Ran::of(machine.usher(&["help", "settings"]).envs(given).output().unwrap()).well();

    let secrets = generated
        .as_object()
        .unwrap()
        .values()
        .map(|secret| secret.as_str().unwrap());
    let secrets = secrets.chain([
        "pa55word",
        "whsec_",
        "sk_test_",
        "key-one",
        "key-two",
        "token-key-0",
        "mailpa55",
        "PRIVATE KEY",
    ]);
    for secret in secrets {
        for shown in [&first, &second] {
            assert!(!shown.contains(secret), "“{secret}” in:\n{shown}");
        }
    }
    for secret in ["pa55word", "C2FVsBQ", "sk_test_0", "key-one", "token-key-0", "mailpa55"] {
        assert!(!help.contains(secret), "“{secret}” in:\n{help}");
    }
    assert!(second.contains("USHER_API_KEYS=key-1,key-2\n"), "names only:\n{second}");
}

#[test]
fn an_api_key_is_made_with_an_entry_that_knows_it_and_nothing_more() {
    let machine = Machine::fresh();
    let acme = "11111111-1111-4111-8111-111111111111";
    let said = machine
        .run(&["api-key", "--name", "crm", "--organization", acme])
        .well();
    let values: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let [key, entry] = values[..] else { panic!("{said}") };
    assert!(!entry.contains(key), "an entry is no key");
    let keys = usher::api_key::ApiKey::parse_list(entry).unwrap();
    let found = usher::api_key::find(&keys, key).expect("the key");
    assert_eq!(found.to_string(), format!("crm@{acme}"));
    let other = machine.run(&["api-key"]).well();
    assert!(!other.contains(key), "each is a fresh one");
    let why = machine.run(&["api-key", "--name", "c r m"]).badly();
    assert!(why.contains("--name can't be used"), "{why}");
}

#[test]
fn the_contract_is_printed_as_it_is_checked_in() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    assert!(Machine::fresh().run(&["openapi"]).well() == fs::read_to_string(path).unwrap());
}
