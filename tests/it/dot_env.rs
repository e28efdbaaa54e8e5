//! `.env` in the working folder, read by the real binary.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::process::environment;

/// A folder with a `.env`, in which usher is run.
struct Deploy(TempDir);

impl Deploy {
    fn with(text: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".env"), text).unwrap();
        Self(folder)
    }

    /// `.env` with all that production needs, and these lines.
    fn complete_with(more: &str) -> Self {
        let lines = environment("sqlite://usher.db", "smtp://u:hunter2@localhost:2525");
        let lines = lines.iter().map(|(name, value)| format!("{name}='{value}'\n"));
        Self::with(lines.collect::<String>() + more)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn usher(&self, arguments: &[&str]) -> Ended {
        self.usher_with(arguments, &[])
    }

    fn usher_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        Ended::of(
            Command::new(env!("CARGO_BIN_EXE_usher"))
                .args(arguments)
                .env_clear()
                .envs(environment.iter().copied())
                .current_dir(self.path()),
        )
    }
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    printed: String,
    logged: String,
}

impl Ended {
    fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code(),
            printed: String::from_utf8(output.stdout).unwrap(),
            logged: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn is_refused(&self, problem: &str) {
        assert!(self.code == Some(1) && self.logged.contains(problem), "{self:#?}");
    }

    #[track_caller]
    fn has(&self, line: &str) {
        assert_eq!(self.code, Some(0), "{self:#?}");
        assert!(
            self.printed.lines().any(|printed| printed == line),
            "no {line} in {self:#?}"
        );
    }
}

#[test]
fn a_line_that_cannot_be_read_stops_the_start_with_its_number_and_no_value() {
    for line in [
        "APP_NAME=My hunter2",
        "MAIL_FROM=Team <hunter2@example.com>",
        "APP_NAME='hunter2",
        "APP_NAME=\"hunter2\" x",
        "APP_NAME=Bob's-hunter2",
        "SMTP_URL=smtp://u:pa$hunter2@localhost",
        "APP_NAME: hunter2",
        "hunter2",
    ] {
        for command in [
            "serve",
            "check",
            "config",
            "migrate",
            "jobs list",
            "invites list",
            "simulate token --user user_1",
        ] {
            let deploy = Deploy::with(format!("# settings\n\n{line}\nUSHER_ENV=production\n"));
            let arguments: Vec<&str> = command.split(' ').collect();
            let ended = deploy.usher(&arguments);
            assert_eq!(ended.code, Some(1), "{line}: {ended:#?}");
            assert!(ended.logged.contains(".env, line 3: "), "{line}: {ended:#?}");
            assert!(!ended.logged.contains("hunter2"), "{line}: {ended:#?}");
            assert!(!deploy.path().join("var").exists(), "{line}: nothing was begun");
        }
    }
}

#[test]
fn what_was_read_is_said_by_name_and_counts_less_than_the_environment_and_a_flag() {
    let deploy = Deploy::complete_with(
        "APP_NAME='My App'\nMAIL_FROM=\"Team <team@example.com>\"\nexport INVITE_TTL=3d\r\nNODE_ENV=production\nSMTP_RATE=\n",
    );
    let ended = deploy.usher(&["config"]);
    ended.has("APP_NAME=My App");
    ended.has("MAIL_FROM=Team <team@example.com>");
    ended.has("INVITE_TTL=4320m");
    ended.has("SMTP_RATE=off");
    let said = &ended.logged;
    assert!(
        said.contains("settings from ") && said.contains("/.env (APP_NAME, "),
        "{said}"
    );
    assert!(
        said.contains("MAIL_FROM on line") && !said.contains("hunter2"),
        "{said}"
    );
    let ended = deploy.usher_with(&["config"], &[("APP_NAME", "Another"), ("INVITE_TTL", "")]);
    ended.has("APP_NAME=Another");
    ended.has("INVITE_TTL=4320m");
    let ended = deploy.usher_with(&["config", "--app-name", "A third"], &[("APP_NAME", "Another")]);
    ended.has("APP_NAME=A third");
}

#[test]
fn a_file_of_another_system_or_shell_is_read_and_one_that_is_none_is_told() {
    let pem = crate::support::app::SIGNER.public_pem().unwrap();
    let deploy = Deploy::complete_with(&format!("CLERK_JWT_KEY=\"{pem}\"\n"));
    let text = std::fs::read_to_string(deploy.path().join(".env")).unwrap();
    let windows = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    Deploy::with(windows).usher(&["config"]).has("USHER_ENV=production");

    let ended = Deploy::with(b"APP_NAME=x\nMAIL_FROM=\xff\n").usher(&["config"]);
    ended.is_refused(".env, line 2: is not UTF-8");

    let folder = Deploy(tempfile::tempdir().unwrap());
    std::fs::create_dir(folder.path().join(".env")).unwrap();
    let ended = folder.usher(&["config"]);
    ended.is_refused(".env is a folder");

    let nowhere = Deploy(tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink("/there/is/nothing", nowhere.path().join(".env")).unwrap();
    let ended = nowhere.usher(&["config"]);
    ended.is_refused(".env can't be read");
}

#[test]
fn a_file_that_may_not_be_read_is_told() {
    let deploy = Deploy::complete_with("");
    let path = deploy.path().join(".env");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    // For root nothing is forbidden.
    if std::fs::read(&path).is_ok() {
        return;
    }
    let ended = deploy.usher(&["config"]);
    ended.is_refused(".env can't be read");
}

#[test]
fn the_folders_above_and_the_commands_without_settings_have_nothing_to_do_with_it() {
    let deploy = Deploy::with("APP_NAME=My App\n");
    let below = deploy.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let ended = Ended::of(
        Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(["config", "--usher-env", "development"])
            .env_clear()
            .current_dir(&below),
    );
    ended.has("APP_NAME=usher");
    for arguments in [&["demo"][..], &["openapi"], &["api-key"], &["--help"], &["--version"]] {
        let ended = deploy.usher(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:#?}");
    }
}
