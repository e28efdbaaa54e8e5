//! What commands print: help, completions, the version, lists. For people at a terminal, and for pipes.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use clap::CommandFactory as _;
use unicode_width::UnicodeWidthStr as _;
use usher::cli::Cli;

use crate::support::{TestDatabase, stories};

const USHER: &str = env!("CARGO_BIN_EXE_usher");

/// A command with nothing of this process's environment but the path.
fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(said).unwrap()
}

#[track_caller]
fn well(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The words of each command and subcommand.
fn all_commands() -> Vec<Vec<String>> {
    fn below(command: &clap::Command, words: &[String], all: &mut Vec<Vec<String>>) {
        all.push(words.to_vec());
        for subcommand in command.get_subcommands() {
            let words = [words, &[subcommand.get_name().to_owned()]].concat();
            below(subcommand, &words, all);
        }
    }
    let mut all = Vec::new();
    below(&Cli::command(), &[], &mut all);
    all
}

#[test]
fn the_help_of_each_command_fits_a_screen() {
    let all = all_commands();
    assert!(all.len() > 50, "{}", all.len());
    for words in all {
        let words: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let help = well(&mut command(USHER, &words));
        assert!(
            help.lines().count() <= 45,
            "{words:?} has {} lines",
            help.lines().count()
        );
        assert!(help.contains("Usage: usher"), "{help}");
        assert!(
            !help.contains("--usher-listen") && !help.contains("[env:"),
            "settings are under usher help settings:\n{help}"
        );
    }
    let help = well(&mut command(USHER, &["--help"]));
    assert!(help.contains("usher help settings"), "{help}");
}

#[test]
fn shells_complete_all_commands_and_man_has_a_page_for_each() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = well(&mut command(USHER, &["completions", shell]));
        for word in ["queues", "pause", "usher-listen"] {
            assert!(script.contains(word), "{shell} has no {word}");
        }
    }
    let mut bash = command("bash", &["-n"]);
    let script = well(&mut command(USHER, &["completions", "bash"]));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("usher.bash");
    std::fs::write(&file, script).unwrap();
    well(bash.arg(&file));

    let page = well(&mut command(USHER, &["man"]));
    assert!(
        page.contains(".TH usher 1") && page.contains("usher\\-queues(1)"),
        "{page}"
    );
    well(command(USHER, &["man", "--folder"]).arg(folder.path()));
    for page in ["usher.1", "usher-queues-pause.1", "usher-ops-key.1"] {
        assert!(folder.path().join(page).is_file(), "{page}");
    }
    let missing = folder.path().join("missing");
    let output = command(USHER, &["man", "--folder"]).arg(&missing).output().unwrap();
    assert!(
        !output.status.success() && text(&output).contains("can't be written to"),
        "{}",
        text(&output)
    );
}

#[test]
fn the_version_names_the_commit_and_its_day_where_there_is_one() {
    let version = well(&mut command(USHER, &["--version"]));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let number = env!("CARGO_PKG_VERSION");
    if root.join(".git").exists() {
        let mut git = command("git", &["log", "-1", "--format=%h %cs"]);
        let commit = well(git.current_dir(root));
        assert_eq!(version, format!("usher {number} ({})\n", commit.trim()));
    }

    // As in a container's build, or from an archive: the same script where there is no git.
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    let rustc = Command::new("rustc")
        .args(["--edition", "2024", "-o"])
        .args([&script, &root.join("build.rs")])
        .env("CARGO_PKG_VERSION", "1.2.3")
        .output()
        .unwrap();
    assert!(rustc.status.success(), "{}", text(&rustc));
    let script = script.to_str().unwrap();
    let version = |build: &str| {
        let said = well(
            command(script, &[])
                .env("USHER_BUILD", build)
                .current_dir(folder.path()),
        );
        let version = said
            .lines()
            .find_map(|line| line.strip_prefix("cargo:rustc-env=USHER_VERSION="));
        version.expect("a version").to_owned()
    };
    assert_eq!(version(""), "1.2.3");
    assert_eq!(version("abc1234 2026-11-27"), "1.2.3 (abc1234 2026-11-27)");
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    for arguments in ["openapi", "completions bash", "help settings", "--help", "man"] {
        let pipe = format!("set -o pipefail; {USHER} {arguments} | head -n 1");
        let output = command("bash", &["-c", &pipe]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments}");
        assert!(output.status.success(), "{arguments}: {:?}", output.status);
    }
    let full = format!("{USHER} openapi >/dev/full");
    let output = command("bash", &["-c", &full]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("could not write to standard output"),
        "{}",
        text(&output)
    );
}

#[test]
fn colours_are_for_terminals_that_show_them() {
    let folder = tempfile::tempdir().unwrap();
    // A variable that usher does not know is warned of in the log.
    let run = |program: &str, arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = command(program, arguments);
        command
            .env("USHER_LISTN", "x")
            .env("TERM", "xterm")
            .envs(environment.iter().copied());
        text(&command.current_dir(folder.path()).output().unwrap())
    };
    let config = format!("{USHER} config");
    let terminal = ["-qec", &config, "/dev/null"];
    let shown = run("script", &terminal, &[]);
    assert!(shown.contains("USHER_LISTN") && shown.contains("\u{1b}["), "{shown}");
    for (program, arguments, environment) in [
        (USHER, &["config"][..], &[][..]),
        ("script", &terminal, &[("NO_COLOR", "1")]),
        ("script", &terminal, &[("TERM", "dumb")]),
    ] {
        let shown = run(program, arguments, environment);
        assert!(shown.contains("USHER_LISTN"), "{shown}");
        assert!(!shown.contains('\u{1b}'), "{environment:?}: {shown:?}");
    }
}

#[test]
fn what_is_not_known_is_answered_with_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("usher.db");
    let url = format!("sqlite://{}", file.display());
    let migrated = command(USHER, &["migrate"])
        .current_dir(folder.path())
        .env("USHER_ENV", "development")
        .env("USHER_DATABASE_URL", &url)
        .output()
        .unwrap();
    assert!(migrated.status.success(), "{}", text(&migrated));
    for (arguments, words) in [
        ("jobs list --state asleep", "waiting, scheduled, running, dead, done"),
        ("jobs list --queue mail", "process-clerk-event, send-mail"),
        ("jobs list --older-than soon", "90m, 36h or 7d"),
        ("webhooks list --state asleep", "waiting, failed, processed"),
        ("events list --state asleep", "queued, delivered, dead, cancelled"),
        ("events list --type sung", "invite.created"),
        ("invites list --status asleep", "pending, accepted, declined, revoked"),
        ("queues pause mail --reason x", "process-clerk-event, send-mail"),
        ("schedules run sing", "expire-invites"),
        ("serve --role cook", "api, worker, all"),
        ("ops-key --name a --role cook", "view, operate"),
        ("completions dash", "bash, elvish, fish"),
        ("job list", "'jobs'"),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let output = command(USHER, &arguments)
            .env("USHER_DATABASE_URL", &url)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(text(&output).contains(words), "{arguments:?}: {}", text(&output));
    }
}

/// The lists of all ops commands.
const LISTS: &[&str] = &[
    "jobs list",
    "webhooks list",
    "events list",
    "invites list",
    "queues list",
    "schedules list",
    "audit",
];

#[test]
fn no_ops_command_makes_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("usher.db").display());
    for list in LISTS.iter().chain(&[
        "queues resume send-mail",
        "schedules run retention",
        "jobs retry --all --yes",
    ]) {
        let arguments: Vec<&str> = list.split(' ').collect();
        let output = command(USHER, &arguments)
            .env("USHER_DATABASE_URL", &url)
            .output()
            .unwrap();
        assert!(
            !output.status.success() && text(&output).contains("is not there yet"),
            "{list}: {}",
            text(&output)
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{list}");
    }
}

#[tokio::test]
async fn no_ops_command_makes_a_schema_in_postgres() {
    let database = TestDatabase::empty_postgres().await;
    for list in LISTS {
        let arguments: Vec<&str> = list.split(' ').collect();
        let output = command(USHER, &arguments)
            .env("USHER_DATABASE_URL", &database.url)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{list}: {}", text(&output));
    }
    assert_eq!(
        database
            .pool
            .count("pg_namespace where nspname in ('usher', 'apalis')")
            .await,
        0
    );
}

stories! {
    async fn lists_need_the_database_s_address_only_and_fit_80_columns(app) {
        let long = "very-long-".repeat(20);
        let acme = app.organization(&"組織".repeat(30)).await;
        app.invite_to_organization(acme, &format!("{}@example.com", "a".repeat(60)), "member").await;
        app.run_jobs().await;
        app.pool.execute(&format!(
            "insert into usher_events (svix_id, event_type, received_at, error)
             values ('{long}', 'user.created', '2026-01-01T00:00:00+00:00', '{long} {long}')"
        )).await;
        let event = |number| format!("('msg_{number}', 'user.created', '2026-01-01T00:00:00+00:00')");
        let events: Vec<String> = (0..2_000).map(event).collect();
        let events = events.join(", ");
        app.pool.execute(&format!("insert into usher_events (svix_id, event_type, received_at) values {events}")).await;
        app.pool.execute(&format!(
            "insert into usher_paused_queues (queue, reason, paused_by, since)
             values ('send-mail', '{long}', 'ada', '2026-01-01T00:00:00+00:00')"
        )).await;
        let url = app.app.config.database_url.expose();
        for list in LISTS.iter().chain(&["jobs list --state done", "webhooks list --state failed"]) {
            let arguments: Vec<&str> = list.split(' ').collect();
            let said = well(command(USHER, &arguments).env("USHER_DATABASE_URL", url));
            let widest = said.lines().max_by_key(|line| line.width()).unwrap();
            assert!(widest.width() <= 80, "{list}: {widest}");
            assert!(!said.contains('\u{1b}'), "{list}");
        }
        let members = well(command(USHER, &["members", "list", "--organization", &acme.to_string()])
            .env("USHER_DATABASE_URL", url));
        assert!(members.lines().all(|line| line.width() <= 80), "{members}");
        let pipe = format!("set -o pipefail; {USHER} webhooks list --limit 2000 | head -n 1");
        let output = command("bash", &["-c", &pipe]).env("USHER_DATABASE_URL", url).output().unwrap();
        assert_eq!((output.status.success(), String::from_utf8_lossy(&output.stderr).as_ref()), (true, ""));
        app.pool.execute("delete from usher_events").await;
    }
}
