//! `usher serve` as a process: started, watched, signalled, stopped.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
pub use rustix::process::Signal;
use rustix::process::{Pid, Resource, Rlimit, kill_process, prlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How long starting and stopping may take: usher itself gives running jobs 20 s, and requests 10 s.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The secret that webhooks are signed with.
pub const SIGNING_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// What the app calls the API with.
pub const API_KEY: &str = "test-api-key-of-more-than-32-characters";
/// The key that links are derived from.
pub const TOKEN_KEY: &str = "test-token-key-of-more-than-32-characters";
/// What stands before the token in a mail's link.
pub const LINK: &str = "https://app.example.com/invite#";

/// Production's settings, but on free ports and with nothing to wait for at the end.
pub fn environment(database_url: &str, smtp_url: &str) -> Vec<(String, String)> {
    [
        ("USHER_ENV", "production"),
        ("USHER_DATABASE_URL", database_url),
        ("USHER_LISTEN", "127.0.0.1:0"),
        ("USHER_ADMIN_LISTEN", "127.0.0.1:0"),
        ("USHER_DRAIN_TIME", "off"),
        ("CLERK_WEBHOOK_SIGNING_SECRET", SIGNING_SECRET),
        ("USHER_API_KEYS", API_KEY),
        ("USHER_TOKEN_KEY", TOKEN_KEY),
        ("SMTP_URL", smtp_url),
        ("MAIL_FROM", "Acme <no-reply@acme.example>"),
        ("INVITE_URL", &format!("{LINK}{{token}}")),
        ("LOG_FORMAT", "json"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The `usher` that was built beside the program that asks.
///
/// # Errors
/// When there is none.
pub fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("usher");
    ensure!(
        path.is_file(),
        "{} is missing; build it with: cargo build --bin usher",
        path.display()
    );
    Ok(path)
}

/// A command that a shell runs after `prelude`, such as `ulimit -n 1024`, with nothing of our environment.
pub fn shell(prelude: &str, program: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("{prelude}; exec \"$0\" \"$@\"")])
        .args(program)
        .env_clear();
    command
}

/// The signal that a too long file is answered with would end a process; a full disk sends none.
pub const IGNORE_FILE_SIZE_SIGNAL: &str = "trap '' XFSZ";

/// A running process. Dropped, it is killed.
pub struct Process {
    pid: Pid,
    started: Instant,
    seen: watch::Receiver<Seen>,
    log: Arc<Mutex<Vec<String>>>,
    following: Option<JoinHandle<()>>,
}

/// What is known of it.
#[derive(Default)]
struct Seen {
    public: Option<String>,
    private: Option<String>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it and does not wait. What it writes to standard error is its log.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("{} can't be started", command.get_program().display()))?;
        let stderr = child.stderr.take().context("no log")?;
        let pid = Pid::from_child(&child);
        let (sender, seen) = watch::channel(Seen::default());
        let log = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&log);
        // A thread: a pipe that is not read from stops the process, and a runtime may be busy with other things.
        let following = thread::spawn(move || follow(child, stderr, &sender, &kept));
        Ok(Self {
            pid,
            started,
            seen,
            log,
            following: Some(following),
        })
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Where webhooks and the app go, `http://…`, once it said so.
    pub fn public(&self) -> Option<String> {
        self.seen.borrow().public.clone()
    }

    /// Where its health is asked for, `http://…`, once it said so.
    pub fn private(&self) -> Option<String> {
        self.seen.borrow().private.clone()
    }

    /// Its log so far.
    pub fn log(&self) -> Vec<String> {
        lock(&self.log).clone()
    }

    /// Waits for what it logs next, and takes it out of the log; none when it has ended.
    pub async fn next_lines(&self) -> Option<Vec<String>> {
        let mut seen = self.seen.clone();
        loop {
            let is_over = seen.borrow_and_update().ended.is_some();
            let lines = std::mem::take(&mut *lock(&self.log));
            if !lines.is_empty() {
                return Some(lines);
            }
            if is_over || seen.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Waits until it has said where it listens.
    ///
    /// # Errors
    /// When it ends before, or takes too long.
    pub async fn listening(&self) -> anyhow::Result<()> {
        let mut seen = self.seen.clone();
        let known = seen.wait_for(|seen| seen.private.is_some() || seen.ended.is_some());
        let known = timeout(TIMEOUT, known).await;
        let listens = known.is_ok_and(|seen| seen.is_ok_and(|seen| seen.ended.is_none()));
        ensure!(listens, "usher did not start: {}", self.log().join("\n"));
        Ok(())
    }

    /// Waits until it says that it can work, and asks every `interval`.
    ///
    /// # Errors
    /// When it ends before, or takes longer than `within`.
    pub async fn ready(&self, interval: Duration, within: Duration) -> anyhow::Result<()> {
        let since = Instant::now();
        while !self.is_ready().await {
            let status = self.ended_with();
            if status.is_some() || since.elapsed() > within {
                bail!("usher is not ready ({status:?}): {}", self.log().join("\n"));
            }
            sleep(interval).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> bool {
        let ask = async {
            let mut stream = TcpStream::connect(socket_address(&self.private()?)?).await.ok()?;
            let request = b"GET /readyz HTTP/1.1\r\nHost: usher\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            answer.starts_with(b"HTTP/1.1 200 ").then_some(())
        };
        let answer = timeout(Duration::from_secs(10), ask).await;
        answer.is_ok_and(|ready| ready.is_some())
    }

    /// Sends a signal. It may have ended meanwhile.
    pub fn signal(&self, signal: Signal) {
        if self.ended_with().is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Its exit status, if it has ended.
    pub fn ended_with(&self) -> Option<ExitStatus> {
        self.seen.borrow().ended
    }

    /// Waits for its end; none if it does not come within this time.
    pub async fn wait(&self, within: Duration) -> Option<ExitStatus> {
        let mut seen = self.seen.clone();
        let ended = timeout(within, seen.wait_for(|seen| seen.ended.is_some()));
        ended.await.ok()?.ok()?.ended
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait(TIMEOUT).await;
    }

    /// Asks it to end, as an orchestrator does, and insists on a clean end.
    ///
    /// # Errors
    /// When it ends otherwise, or not at all.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM);
        let status = self.wait(TIMEOUT).await;
        ensure!(
            status.is_some_and(|status| status.success()),
            "usher ended with {status:?}: {}",
            self.log().join("\n")
        );
        Ok(())
    }

    /// From now on no file may be longer than so many bytes: what a full disk looks like to SQLite.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        let _ = prlimit(Some(self.pid), Resource::Fsize, limit);
    }

    /// Resident memory in MiB.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(&self) -> anyhow::Result<f64> {
        self.memory_of("VmRSS:")
    }

    /// The most memory that it has used so far, in MiB.
    ///
    /// # Errors
    /// When it has ended.
    pub fn peak_memory(&self) -> anyhow::Result<f64> {
        self.memory_of("VmHWM:")
    }

    fn memory_of(&self, field: &str) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = value.and_then(|value| value.trim().strip_suffix(" kB"));
        Ok(kib.with_context(|| format!("no {field}"))?.parse::<f64>()? / 1024.0)
    }

    /// Processor time that it has used so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(&self.pid.to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(following) = self.following.take() {
            let _ = following.join();
        }
    }
}

/// Keeps the log and looks for the addresses in it, until the process has ended.
fn follow(mut child: Child, stderr: ChildStderr, seen: &watch::Sender<Seen>, log: &Mutex<Vec<String>>) {
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let (public, private) = (address_after(&line, "serving on "), address_after(&line, "health on "));
        lock(log).push(line);
        seen.send_modify(|seen| {
            seen.public = seen.public.take().or(public);
            seen.private = seen.private.take().or(private);
        });
    }
    let status = child.wait().ok();
    seen.send_modify(|seen| seen.ended = status);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `http://127.0.0.1:8080` in a line of the log, in either format.
fn address_after(line: &str, words: &str) -> Option<String> {
    let (_, rest) = line.split_once(words)?;
    let host = rest.strip_prefix("http://")?;
    let end = host.find(|c: char| !matches!(c, '0'..='9' | 'a'..='f' | '.' | ':' | '[' | ']'));
    let host = host[..end.unwrap_or(host.len())].trim_end_matches('.');
    Some(format!("http://{host}"))
}

/// The address in `http://127.0.0.1:8080`.
pub fn socket_address(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("http://")?.parse().ok()
}

/// Processor time of a process, or of `self`.
///
/// # Errors
/// When there is no such process.
pub fn cpu_of(process: &str) -> anyhow::Result<Duration> {
    /// What Linux counts processor time in, whatever the kernel's own clock does.
    const TICKS_PER_SECOND: u32 = 100;
    let stat = std::fs::read_to_string(Path::new("/proc").join(process).join("stat"))?;
    // The name, in brackets, may hold spaces; user and system time are the 14th and 15th field of all.
    let (_, fields) = stat.rsplit_once(") ").context("no stat")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs(ticks) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_either_format_of_the_log() {
        let json = r#"{"fields":{"message":"health on http://127.0.0.1:40001/readyz"}}"#;
        let found = address_after(json, "health on ");
        assert_eq!(found.as_deref(), Some("http://127.0.0.1:40001"));
        let text = "10:00:00  INFO usher: serving on http://[::1]:8080 role=all";
        let found = address_after(text, "serving on ").unwrap();
        assert_eq!(socket_address(&found), Some("[::1]:8080".parse().unwrap()));
        assert_eq!(address_after(text, "health on "), None);
    }

    #[tokio::test]
    async fn a_process_is_followed_to_its_end() {
        let script =
            "echo serving on http://127.0.0.1:1 >&2; echo health on http://127.0.0.1:2/readyz >&2; exec sleep 60";
        let mut command = shell(":", &["/bin/sh", "-c", script]);
        let process = Process::start(command.env("PATH", "/usr/bin:/bin")).unwrap();
        process.listening().await.unwrap();
        assert_eq!(process.public().as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(process.private().as_deref(), Some("http://127.0.0.1:2"));
        assert!(process.memory().unwrap() > 0.0);
        assert!(process.stop().await.is_err(), "to end by a signal is no clean end");
        assert_eq!(process.next_lines().await.map(|lines| lines.len()), Some(2));
        assert_eq!(process.next_lines().await, None);
    }
}
