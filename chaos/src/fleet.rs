//! The usher processes.

use std::io::Write as _;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use tokio::process::Command;
use tokio::time::Instant;
use usher_testkit::process::{self, IGNORE_FILE_SIZE_SIGNAL, Signal};

use crate::journal::{GoesOn, Journal};
use crate::told;

/// Who signs the session tokens.
pub const ISSUER: &str = "https://clerk.example.com";
/// What a process says of a worker that ended.
const WORKER_STOPPED: &str = "starting it again";
/// A process is disturbed by its own start.
const JUST_STARTED: Duration = Duration::from_millis(1);
/// How long a process may take to end when asked: its own 20 s for running jobs, and 10 s for requests.
const TIME_TO_END: Duration = Duration::from_secs(40);
/// Between two questions whether a process is ready.
const READY_INTERVAL: Duration = Duration::from_millis(50);

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
    /// The endpoint of `USHER_EVENTS`.
    pub events_url: String,
    /// `CLERK_JWT_KEY`.
    pub jwt_key: String,
}

/// One usher.
pub struct Process {
    /// For people.
    pub name: String,
    /// `all`, `api` or `worker`.
    pub role: &'static str,
    process: process::Process,
    /// Its end was asked for.
    is_doomed: AtomicBool,
    is_paused: AtomicBool,
    disturbed: Mutex<Instant>,
    /// How often in a row it has said that it is not ready.
    pub unready: AtomicUsize,
}

impl Deref for Process {
    type Target = process::Process;

    fn deref(&self) -> &process::Process {
        &self.process
    }
}

impl Process {
    /// Where webhooks and the app go, once it serves and while it is not about to end.
    pub fn public(&self) -> Option<String> {
        let is_open = !self.is_doomed.load(Ordering::Relaxed);
        self.process.public().filter(|_| is_open)
    }

    /// Whether it was killed, paused or asked to end since then, so that no answer is no wonder.
    pub fn was_disturbed_since(&self, then: Instant) -> bool {
        self.is_paused.load(Ordering::Relaxed)
            || self.is_doomed.load(Ordering::Relaxed)
            || *self.disturbed.lock().unwrap_or_else(PoisonError::into_inner) >= then
    }

    fn disturb(&self, signal: Signal) {
        *self.disturbed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.signal(signal);
    }

    /// Stops its time.
    pub fn pause(&self) {
        self.is_paused.store(true, Ordering::Relaxed);
        self.disturb(Signal::STOP);
    }

    /// Lets its time go on.
    pub fn go_on(&self) {
        self.disturb(Signal::CONT);
        self.is_paused.store(false, Ordering::Relaxed);
    }

    /// `kill -9`, and waits until it is dead.
    pub async fn kill(&self) {
        self.is_doomed.store(true, Ordering::Relaxed);
        self.disturb(Signal::KILL);
        self.process.kill().await;
    }

    /// SIGTERM; its exit status, or `None` if it does not end.
    pub async fn terminate(&self) -> Option<ExitStatus> {
        self.is_doomed.store(true, Ordering::Relaxed);
        self.disturb(Signal::TERM);
        self.wait(TIME_TO_END).await
    }

    /// Waits until it says that it can work.
    pub async fn ready(&self, within: Duration) -> anyhow::Result<()> {
        let ready = self.process.ready(READY_INTERVAL, within).await;
        ready.map_err(|error| error.context(self.name.clone()))
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
        let log = std::fs::File::create(self.settings.folder.join(format!("{name}.log")))?;
        let process = Arc::new(Process {
            name,
            role,
            process: process::Process::start(&mut self.command(role))?,
            is_doomed: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            disturbed: Mutex::new(Instant::now()),
            unready: AtomicUsize::new(0),
        });
        tokio::spawn(follow(Arc::clone(&process), log, Arc::clone(&self.journal)));
        self.running().push(Arc::clone(&process));
        Ok(process)
    }

    fn command(&self, role: &str) -> std::process::Command {
        let settings = &self.settings;
        // Of open files it is allowed as few as most systems allow at first.
        let prelude = format!("{IGNORE_FILE_SIZE_SIGNAL}; ulimit -S -n 1024");
        let program = settings.program.to_string_lossy();
        let mut command = process::shell(&prelude, &[&program, "serve", "--role", role]);
        command
            .envs(process::environment(&settings.database_url, &settings.smtp_url))
            .envs([
                ("USHER_DRAIN_TIME", "1s"),
                // In minutes it asks for more than an honest app in a day.
                ("MAIL_CAP_INVITER", "off"),
                ("MAIL_CAP_ORGANIZATION", "off"),
                ("USHER_RATE_LIMIT", "off"),
                ("USHER_RATE_LIMIT_PERSON", "off"),
                ("USHER_RATE_LIMIT_ADDRESS", "off"),
                ("CLERK_JWT_KEY", &settings.jwt_key),
                ("CLERK_ISSUER", ISSUER),
                ("USHER_EVENTS", &format!("app={}", settings.events_url)),
                ("USHER_EVENTS_SECRET", told::SECRET),
            ])
            // No `.env` above our folder shall add to these.
            .current_dir("/");
        command
    }

    /// Strikes one off the list.
    pub fn forget(&self, process: &Arc<Process>) {
        self.running().retain(|running| !Arc::ptr_eq(running, process));
    }
}

/// Keeps the log, until the process has ended, which must have been asked for.
async fn follow(process: Arc<Process>, mut log: std::fs::File, journal: Arc<Journal>) {
    while let Some(lines) = process.next_lines().await {
        for line in lines {
            if let Err(error) = writeln!(log, "{line}") {
                journal.say(format!("the log of {} can't be written: {error}", process.name));
            }
            if line.contains(WORKER_STOPPED) {
                journal.count("workers that stopped and were started again");
                let is_excused = process.was_disturbed_since(process.started() + JUST_STARTED)
                    || !journal.had_to_go_on(GoesOn::Workers, Instant::now());
                journal.insist(is_excused, || {
                    format!(
                        "{} started a worker again because of something else: {line}",
                        process.name
                    )
                });
            }
        }
    }
    if !process.is_doomed.swap(true, Ordering::Relaxed) {
        journal.violation(format!("{} ended by itself: {:?}", process.name, process.ended_with()));
    }
}

/// The `usher` program that belongs to this harness, built now if need be. Together with the harness: with other
/// packages come other features, and everything would be compiled once more.
pub async fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile = own.parent().and_then(Path::file_name).unwrap_or_default();
    let mut build = Command::new("cargo");
    build.args(["build", "--quiet", "--locked", "--package", "usher"]);
    build.args(["--package", "chaos", "--bins"]);
    if profile == "release" {
        build.arg("--release");
    }
    let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().await?;
    ensure!(built.success(), "usher could not be built");
    process::program()
}
