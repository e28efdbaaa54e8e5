//! The usher processes.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::journal::{GoesOn, Journal};

/// What webhooks are signed with.
pub const SIGNING_SECRET: &str = "whsec_dXNoZXItY2hhb3MtdXNoZXItY2hhb3MtMDAwMDAwMDA=";
/// What the app calls the API with.
pub const API_KEY: &str = "chaos-chaos-chaos-chaos-chaos-chaos";
/// What stands before the token in a mail's link.
pub const LINK: &str = "https://app.example.com/invite#";
/// Who signs the session tokens.
pub const ISSUER: &str = "https://clerk.example.com";
/// What a process says of a worker that ended.
const WORKER_STOPPED: &str = "starting it again";
/// A process is disturbed by its own start.
const JUST_STARTED: Duration = Duration::from_millis(1);
/// How long a process may take to end when asked: its own 20 s for running jobs, and 10 s for requests.
const TIME_TO_END: Duration = Duration::from_secs(40);

/// What a process is started with.
pub struct Settings {
    /// The program.
    pub program: PathBuf,
    /// Where logs go.
    pub folder: PathBuf,
    /// `USHER_DATABASE_URL`.
    pub database_url: String,
    /// `SMTP_URL`.
    pub smtp_url: String,
    /// `CLERK_JWT_KEY`.
    pub jwt_key: String,
}

/// One usher.
pub struct Process {
    /// For people.
    pub name: String,
    /// `all`, `api` or `worker`.
    pub role: &'static str,
    /// When it was started.
    pub started: Instant,
    pid: Pid,
    public: OnceLock<String>,
    private: OnceLock<String>,
    /// Its end was asked for.
    is_doomed: AtomicBool,
    is_paused: AtomicBool,
    disturbed: Mutex<Instant>,
    /// How often in a row it has said that it is not ready.
    pub unready: AtomicUsize,
    ended: watch::Sender<Option<ExitStatus>>,
}

impl Process {
    /// Where webhooks and the app go, once it serves and while it is not about to end.
    pub fn public(&self) -> Option<&str> {
        let is_open = !self.is_doomed.load(Ordering::Relaxed);
        self.public.get().filter(|_| is_open).map(String::as_str)
    }

    /// Where its health is asked for.
    pub fn private(&self) -> Option<&str> {
        self.private.get().map(String::as_str)
    }

    /// Whether it was killed, paused or asked to end since then, so that no answer is no wonder.
    pub fn was_disturbed_since(&self, then: Instant) -> bool {
        self.is_paused.load(Ordering::Relaxed)
            || self.is_doomed.load(Ordering::Relaxed)
            || *self.disturbed.lock().unwrap_or_else(PoisonError::into_inner) >= then
    }

    /// The most memory that it has used so far, in MiB.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = peak.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib / 1024)
    }

    fn signal(&self, signal: Signal) {
        *self.disturbed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        // It may have ended meanwhile.
        let _ = kill_process(self.pid, signal);
    }

    /// Stops its time.
    pub fn pause(&self) {
        self.is_paused.store(true, Ordering::Relaxed);
        self.signal(Signal::STOP);
    }

    /// Lets its time go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
        self.is_paused.store(false, Ordering::Relaxed);
    }

    /// From now on no file may be longer than so many bytes: what a full disk looks like to SQLite.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        let _ = prlimit(Some(self.pid), Resource::Fsize, limit);
    }

    /// `kill -9`, and waits until it is dead.
    pub async fn kill(&self) {
        self.is_doomed.store(true, Ordering::Relaxed);
        self.signal(Signal::KILL);
        let _ = self.ended.subscribe().wait_for(Option::is_some).await;
    }

    /// SIGTERM; its exit status, or `None` if it does not end.
    pub async fn terminate(&self) -> Option<ExitStatus> {
        self.is_doomed.store(true, Ordering::Relaxed);
        self.signal(Signal::TERM);
        let mut ended = self.ended.subscribe();
        let status = timeout(TIME_TO_END, ended.wait_for(Option::is_some)).await.ok()?.ok()?;
        *status
    }
}

/// All of them.
pub struct Fleet {
    settings: Settings,
    journal: Arc<Journal>,
    running: Mutex<Vec<Arc<Process>>>,
    count: AtomicUsize,
}

impl Fleet {
    /// None yet.
    pub fn new(settings: Settings, journal: Arc<Journal>) -> Self {
        Self {
            settings,
            journal,
            running: Mutex::default(),
            count: AtomicUsize::new(0),
        }
    }

    fn running(&self) -> MutexGuard<'_, Vec<Arc<Process>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that run.
    pub fn all(&self) -> Vec<Arc<Process>> {
        self.running().clone()
    }

    /// One that serves, as a load balancer that knows nothing of their health would choose.
    pub fn any_api(&self, rng: &mut StdRng) -> Option<Arc<Process>> {
        let serving: Vec<_> = self
            .all()
            .into_iter()
            .filter(|process| process.public().is_some())
            .collect();
        serving.choose(rng).cloned()
    }

    /// Starts one and does not wait.
    pub fn start(&self, role: &'static str) -> anyhow::Result<Arc<Process>> {
        let name = format!("{role}-{}", self.count.fetch_add(1, Ordering::Relaxed));
        let log = self.settings.folder.join(format!("{name}.log"));
        let mut child = self.command(role).spawn().context("usher can't be started")?;
        let pid = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .context("no process")?;
        let process = Arc::new(Process {
            name,
            role,
            started: Instant::now(),
            pid,
            public: OnceLock::new(),
            private: OnceLock::new(),
            is_doomed: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            disturbed: Mutex::new(Instant::now()),
            unready: AtomicUsize::new(0),
            ended: watch::Sender::new(None),
        });
        let said = child.stderr.take().context("no log")?;
        tokio::spawn(listen(Arc::clone(&process), said, log, Arc::clone(&self.journal)));
        tokio::spawn(mourn(Arc::clone(&process), child, Arc::clone(&self.journal)));
        self.running().push(Arc::clone(&process));
        Ok(process)
    }

    fn command(&self, role: &str) -> Command {
        let settings = &self.settings;
        // The signal that a too long file is answered with would end it; a full disk sends none. Of open files it is
        // allowed as few as most systems allow at first.
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' XFSZ; ulimit -S -n 1024; exec \"$0\" \"$@\""])
            .arg(&settings.program)
            .args(["serve", "--role", role])
            .env_clear()
            .envs([
                ("USHER_ENV", "production"),
                ("USHER_DATABASE_URL", &settings.database_url),
                ("USHER_LISTEN", "127.0.0.1:0"),
                ("USHER_ADMIN_LISTEN", "127.0.0.1:0"),
                ("USHER_DRAIN_TIME", "1s"),
                // In minutes it asks for more than an honest app in a day.
                ("MAIL_CAP_INVITER", "off"),
                ("MAIL_CAP_ORGANIZATION", "off"),
                ("USHER_RATE_LIMIT", "off"),
                ("USHER_RATE_LIMIT_PERSON", "off"),
                ("USHER_RATE_LIMIT_ADDRESS", "off"),
                ("CLERK_WEBHOOK_SIGNING_SECRET", SIGNING_SECRET),
                ("CLERK_JWT_KEY", &settings.jwt_key),
                ("CLERK_ISSUER", ISSUER),
                ("USHER_API_KEYS", API_KEY),
                ("USHER_TOKEN_KEY", API_KEY),
                ("SMTP_URL", &settings.smtp_url),
                ("MAIL_FROM", "Chaos <no-reply@chaos.example>"),
                ("INVITE_URL", &format!("{LINK}{{token}}")),
                ("LOG_FORMAT", "json"),
            ])
            // No `.env` above our folder shall add to these.
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Waits until one says that it can work.
    pub async fn ready(&self, process: &Process, http: &reqwest::Client, patience: Duration) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            if let Some(address) = process.private() {
                let answer = http.get(format!("{address}/readyz")).send().await;
                if answer.is_ok_and(|answer| answer.status() == 200) {
                    return Ok(());
                }
            }
            ensure!(since.elapsed() < patience, "{} is not ready", process.name);
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Strikes one off the list.
    pub fn forget(&self, process: &Arc<Process>) {
        self.running().retain(|running| !Arc::ptr_eq(running, process));
    }
}

/// Keeps the log, and takes the addresses out of it.
async fn listen(
    process: Arc<Process>,
    said: tokio::process::ChildStderr,
    log: PathBuf,
    journal: Arc<Journal>,
) -> anyhow::Result<()> {
    let mut file = tokio::fs::File::create(&log).await?;
    let mut lines = BufReader::new(said).lines();
    while let Some(line) = lines.next_line().await? {
        file.write_all(format!("{line}\n").as_bytes()).await?;
        if line.contains(WORKER_STOPPED) {
            journal.count("workers that stopped and were started again");
            let is_excused = process.was_disturbed_since(process.started + JUST_STARTED)
                || !journal.had_to_go_on(GoesOn::Workers, Instant::now());
            journal.insist(is_excused, || {
                format!(
                    "{} started a worker again because of something else: {line}",
                    process.name
                )
            });
        }
        if process.private().is_none() {
            let fact: Value = serde_json::from_str(&line).unwrap_or_default();
            let message = fact["fields"]["message"].as_str().unwrap_or_default();
            if let Some(address) = message.strip_prefix("serving on ") {
                let _ = process.public.set(address.to_owned());
            } else if let Some(address) = message.strip_prefix("health on ") {
                let _ = process.private.set(address.trim_end_matches("/readyz").to_owned());
            }
        }
    }
    file.flush().await?;
    Ok(())
}

/// Waits for its end, which must have been asked for.
async fn mourn(process: Arc<Process>, mut child: Child, journal: Arc<Journal>) {
    let status = child.wait().await.ok();
    if !process.is_doomed.swap(true, Ordering::Relaxed) {
        journal.violation(format!("{} ended by itself: {status:?}", process.name));
    }
    process.ended.send_replace(status);
}

/// The `usher` program that belongs to this harness, built now if need be. Together with the harness: with other
/// packages come other features, and everything would be compiled once more.
pub async fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile = own.parent().and_then(Path::file_name).unwrap_or_default();
    let mut build = Command::new("cargo");
    build.args([
        "build",
        "--quiet",
        "--locked",
        "--package",
        "usher",
        "--package",
        "chaos",
        "--bins",
    ]);
    if profile == "release" {
        build.arg("--release");
    }
    let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().await?;
    ensure!(built.success(), "usher could not be built");
    Ok(own.with_file_name("usher"))
}
